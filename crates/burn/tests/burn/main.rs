//! Attention for burn, on the device that the environment names: against f64, and against burn's own operators.

mod cache;
mod case;
mod errors;
mod forward;
mod gradients;
mod module;
mod naive;
mod support;
