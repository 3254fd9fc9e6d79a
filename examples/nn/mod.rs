//! Just enough of a neural network library for the examples that train: a tape of operations on the device, each with
//! its backward pass; AdamW; parameters and their file; and the two models.
//!
//! Attention, forward and backward, is the crate's. What models of crates/models need as well comes from
//! crates/operators. Everything else is one small kernel per operation in this folder.

// Each example compiles this module for itself and uses only a part of it.
#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod gpt;
pub(crate) mod gradients;
pub(crate) mod layers;
pub(crate) mod parameters;
pub(crate) mod progress;
pub(crate) mod seq2seq;
pub(crate) mod tape;
