//! The lengths of a batch's sequences and where their queries and keys lie, on the CPU: what shaders/sequences/ is on
//! the device.

use crate::auxiliary::{AuxData, AuxTensor};
use crate::tensor::sequences::{KeySequences, QuerySequences};
use crate::tensor::shape::Shape;

/// The sequences of a checked problem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    shape: &'a Shape,
    data: &'a AuxData,
}

impl<'a> Places<'a> {
    /// `data` has been checked for `shape`.
    pub(crate) const fn new(shape: &'a Shape, data: &'a AuxData) -> Self {
        Self { shape, data }
    }

    fn int(&self, input: AuxTensor, index: usize) -> usize {
        self.data.int(input, index) as usize
    }

    pub(crate) fn q_len(&self, b: usize) -> usize {
        match self.shape.sequences.q {
            QuerySequences::Uniform => self.shape.seq_len_q,
            QuerySequences::Packed { .. } => {
                self.int(AuxTensor::QStarts, b + 1) - self.int(AuxTensor::QStarts, b)
            }
            QuerySequences::LeftPadded => self.int(AuxTensor::QLengths, b),
        }
    }

    pub(crate) fn kv_len(&self, b: usize) -> usize {
        match self.shape.sequences.kv {
            KeySequences::Uniform => self.shape.seq_len_kv,
            KeySequences::Packed { .. } => {
                self.int(AuxTensor::KvStarts, b + 1) - self.int(AuxTensor::KvStarts, b)
            }
            KeySequences::Cached { left_padded: true } => {
                self.int(AuxTensor::KvLengths, b) - self.int(AuxTensor::KvFirst, b)
            }
            KeySequences::Cached { left_padded: false } | KeySequences::Paged { .. } => {
                self.int(AuxTensor::KvLengths, b)
            }
            KeySequences::Ring => self.int(AuxTensor::KvLengths, b).min(self.shape.seq_len_kv),
        }
    }

    /// The position among the keys at which query 0 stands.
    pub(crate) fn diagonal(&self, b: usize) -> i64 {
        // Lengths are below 2^29 (Shape::validate).
        self.kv_len(b) as i64 - self.q_len(b) as i64
    }

    /// Batch index and row of a query.
    pub(crate) fn q_place(&self, b: usize, q_idx: usize) -> [usize; 2] {
        match self.shape.sequences.q {
            QuerySequences::Uniform => [b, q_idx],
            QuerySequences::Packed { .. } => [0, self.int(AuxTensor::QStarts, b) + q_idx],
            QuerySequences::LeftPadded => [b, self.shape.seq_len_q - self.q_len(b) + q_idx],
        }
    }

    /// Batch index and row of a key.
    pub(crate) fn kv_place(&self, b: usize, kv_idx: usize) -> [usize; 2] {
        match self.shape.sequences.kv {
            KeySequences::Uniform | KeySequences::Cached { left_padded: false } => [b, kv_idx],
            KeySequences::Packed { .. } => [0, self.int(AuxTensor::KvStarts, b) + kv_idx],
            KeySequences::Cached { left_padded: true } => {
                [b, self.int(AuxTensor::KvFirst, b) + kv_idx]
            }
            KeySequences::Ring => {
                let position = self.int(AuxTensor::KvLengths, b) - self.kv_len(b) + kv_idx;
                [b, position % self.shape.seq_len_kv]
            }
            KeySequences::Paged { block_size, blocks_per_sequence, .. } => {
                let entry = b * blocks_per_sequence + kv_idx / block_size;
                [self.int(AuxTensor::BlockTables, entry), kv_idx % block_size]
            }
        }
    }

    /// Where a query's entry lies in lse, `[batch, num_heads, rows of queries]`.
    pub(crate) fn lse_index(&self, b: usize, h: usize, q_idx: usize) -> usize {
        let [batch, row] = self.q_place(b, q_idx);
        (batch * self.shape.num_heads + h) * self.shape.q_rows()[1] + row
    }
}
