//! The text, and pieces of it.

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use crate::nn::gpt::CONTEXT;

/// *Alice's Adventures in Wonderland*; data/README.md says where it comes from.
const TEXT: &str = include_str!("../../data/alice.txt");

/// Pieces for training are this long at least.
pub(crate) const SHORTEST: usize = CONTEXT / 2;

/// A piece of text and the byte that follows it.
pub(crate) type Piece = (&'static [u8], u8);

/// What is trained on: nine tenths.
pub(crate) fn training() -> &'static [u8] {
    &TEXT.as_bytes()[..split()]
}

/// What is only evaluated: the last tenth.
pub(crate) fn validation() -> &'static [u8] {
    &TEXT.as_bytes()[split()..]
}

const fn split() -> usize {
    TEXT.len() / 10 * 9
}

/// A piece of `text` of a random length, from anywhere.
pub(crate) fn piece(text: &'static [u8], random: &mut Xoshiro256PlusPlus) -> Piece {
    let length = random.random_range(SHORTEST..=CONTEXT);
    let start = random.random_range(0..text.len() - length);
    (&text[start..start + length], text[start + length])
}
