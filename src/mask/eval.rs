//! A mask's value at a cell, on the CPU: the definition that everything else is held against.

use super::{Causal, Mask, MaskData, MaskInput};
use crate::error::Result;
use crate::shape::Shape;

/// A mask with its data, ready to be asked cell by cell.
///
/// ```
/// use wgpu_attention::{Evaluator, Mask, MaskData, Shape};
/// let shape = Shape::new(1, 1, 3, 8);
/// let data = MaskData::new();
/// let causal = Evaluator::new(&Mask::causal(), &data, &shape).unwrap();
/// assert!(causal.keep(0, 0, 2, 1) && !causal.keep(0, 0, 1, 2));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    mask: &'a Mask,
    data: &'a MaskData,
    shape: &'a Shape,
}

impl<'a> Evaluator<'a> {
    /// Binds the mask to its data.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] where data is missing or doesn't fit the shape.
    pub fn new(mask: &'a Mask, data: &'a MaskData, shape: &'a Shape) -> Result<Self> {
        shape.validate()?;
        data.check(&mask.inputs(), shape)?;
        Ok(Self { mask, data, shape })
    }

    /// Whether query `q_idx` of head `h` of sequence `b` attends to key `kv_idx`.
    ///
    /// # Panics
    /// Where an index is outside the shape.
    pub fn keep(&self, b: usize, h: usize, q_idx: usize, kv_idx: usize) -> bool {
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *self.shape;
        assert!(
            b < batch && h < num_heads && q_idx < seq_len_q && kv_idx < seq_len_kv,
            "cell ({b}, {h}, {q_idx}, {kv_idx}) lies outside [{batch}, {num_heads}, {seq_len_q}, {seq_len_kv}]"
        );
        self.node(self.mask, b, h, q_idx, kv_idx)
    }

    fn node(&self, mask: &Mask, b: usize, h: usize, q_idx: usize, kv_idx: usize) -> bool {
        let int = |input, index| self.data.int(input, index);
        let key = || b * self.shape.seq_len_kv + kv_idx;
        // Sequence lengths are below 2^29 (Shape::validate), so i64 holds every sum.
        let (q, kv) = (q_idx as i64, kv_idx as i64);
        let own = q + self.shape.seq_len_kv as i64 - self.shape.seq_len_q as i64;
        match mask {
            Mask::All => true,
            Mask::Causal(Causal::LowerRight) => kv <= own,
            Mask::Causal(Causal::UpperLeft) => kv <= q,
            Mask::Causal(Causal::Offset(offset)) => kv <= q + i64::from(*offset),
            Mask::Window(window) => {
                window.left.is_none_or(|left| kv >= own - i64::from(left))
                    && window.right.is_none_or(|right| kv <= own + i64::from(right))
            }
            Mask::KeyLengths => kv < i64::from(int(MaskInput::KeyLengths, b)),
            Mask::KeyPadding => int(MaskInput::KeyPadding, key()) != 0,
            Mask::TokenPadding => int(MaskInput::TokenIds, key()) != int(MaskInput::PadId, 0),
            Mask::Prefix => kv < i64::from(int(MaskInput::PrefixLengths, b)),
            Mask::Documents => {
                let query = b * self.shape.seq_len_q + q_idx;
                int(MaskInput::DocumentIdsQ, query) == int(MaskInput::DocumentIdsKv, key())
            }
            Mask::NotSelf => kv != own,
            Mask::SelfOnlyIfAlone(inner) => {
                let kept = |other: usize| self.node(inner, b, h, q_idx, other);
                let others = || (0..self.shape.seq_len_kv).filter(|&other| other as i64 != own);
                kept(kv_idx) && (kv != own || !others().any(kept))
            }
            Mask::Dense => self.data.dense_cell([b, h, q_idx, kv_idx]),
            Mask::And(left, right) => {
                self.node(left, b, h, q_idx, kv_idx) && self.node(right, b, h, q_idx, kv_idx)
            }
            Mask::Or(left, right) => {
                self.node(left, b, h, q_idx, kv_idx) || self.node(right, b, h, q_idx, kv_idx)
            }
            Mask::Not(inner) => !self.node(inner, b, h, q_idx, kv_idx),
        }
    }
}
