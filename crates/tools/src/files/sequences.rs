//! What a tensor file says of its sequences, by the names of what it holds.

use super::TensorFile;
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{Error, Result};

/// The sizes of a batch that the tensors alone don't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) batch: usize,
    pub(super) seq_len_q: usize,
    pub(super) seq_len_kv: usize,
    pub(super) sequences: Sequences,
}

impl TensorFile {
    /// From the batch indices and rows of q, and of k.
    pub(super) fn batch(
        &self,
        [q_batch, q_rows]: [usize; 2],
        [k_batch, k_rows]: [usize; 2],
    ) -> Result<Batch> {
        let has = |name| self.dims(name).is_some();
        let (q, q_sizes) = if has("q_starts") {
            let (batch, longest) = self.starts("q_starts")?;
            one_batch_index("q", q_batch, "q_starts")?;
            (QuerySequences::Packed { total: q_rows }, [batch, longest])
        } else if has("q_lengths") {
            (QuerySequences::LeftPadded, [q_batch, q_rows])
        } else {
            (QuerySequences::Uniform, [q_batch, q_rows])
        };
        let (kv, kv_sizes) = if has("kv_starts") {
            let (batch, longest) = self.starts("kv_starts")?;
            one_batch_index("k", k_batch, "kv_starts")?;
            (KeySequences::Packed { total: k_rows }, [batch, longest])
        } else if has("block_tables") {
            let &[batch, blocks_per_sequence] = self.dims("block_tables").unwrap_or_default()
            else {
                let found = format!("{:?}", self.dims("block_tables").unwrap_or_default());
                return Err(Error::operand("block_tables", "[batch, blocks_per_sequence]", found));
            };
            let form =
                KeySequences::Paged { block_size: k_rows, blocks: k_batch, blocks_per_sequence };
            (form, [batch, blocks_per_sequence.saturating_mul(k_rows)])
        } else if has("kv_lengths") {
            (KeySequences::Cached { left_padded: has("kv_first") }, [k_batch, k_rows])
        } else {
            (KeySequences::Uniform, [k_batch, k_rows])
        };
        let sequences = Sequences { q, kv };
        if q_sizes[0] != kv_sizes[0] && !sequences.are_uniform() {
            return Err(Error::operand(
                "k",
                format!("as many sequences as q has, {}", q_sizes[0]),
                kv_sizes[0],
            ));
        }
        Ok(Batch { batch: q_sizes[0], seq_len_q: q_sizes[1], seq_len_kv: kv_sizes[1], sequences })
    }

    /// How many sequences starts tell of, and the longest of them.
    fn starts(&self, name: &str) -> Result<(usize, usize)> {
        let starts = self.read_i32(name)?.values;
        let Some(batch) = starts.len().checked_sub(1) else {
            return Err(Error::operand(name, "batch + 1 elements", 0));
        };
        let lengths = starts.windows(2).map(|pair| i64::from(pair[1]) - i64::from(pair[0]));
        // Those that fall are refused by the call that uses them.
        let longest = lengths.max().unwrap_or(0).max(0);
        Ok((batch, usize::try_from(longest).unwrap_or(0)))
    }
}

/// Packed tensors have one batch index.
fn one_batch_index(name: &str, found: usize, starts: &str) -> Result<()> {
    if found == 1 {
        return Ok(());
    }
    Err(Error::operand(name, format!("a batch of 1, as there is {starts}"), found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TensorWriter;
    use wgpu_attention::Layout;

    fn file(q: [usize; 4], k: [usize; 4], data: &[(&str, &[usize], &[i32])]) -> TensorFile {
        let zeros = |dims: [usize; 4]| vec![0.0; dims.iter().product()];
        let writer = TensorWriter::new().f32("q", &q, &zeros(q)).f32("k", &k, &zeros(k)).f32(
            "v",
            &k,
            &zeros(k),
        );
        let writer = (data.iter())
            .fold(writer, |writer, (name, dims, values)| writer.i32(*name, dims, values));
        TensorFile::from_bytes("test", writer.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn names_tell_how_sequences_lie() {
        let shape = |file: TensorFile| file.operands(Layout::Bhsd).unwrap().shape;
        let starts: (&[usize], &[i32]) = (&[4], &[0, 2, 2, 7]);
        let packed = shape(file(
            [1, 2, 7, 4],
            [1, 2, 9, 4],
            &[("q_starts", starts.0, starts.1), ("kv_starts", &[4], &[0, 3, 3, 9])],
        ));
        assert_eq!([packed.batch, packed.seq_len_q, packed.seq_len_kv], [3, 5, 6]);
        assert_eq!(packed.sequences.q, QuerySequences::Packed { total: 7 });
        assert_eq!(packed.sequences.kv, KeySequences::Packed { total: 9 });

        let paged = shape(file(
            [2, 2, 3, 4],
            [5, 1, 16, 4],
            &[
                ("q_lengths", &[2], &[1, 3]),
                ("kv_lengths", &[2], &[20, 3]),
                ("block_tables", &[2, 2], &[0, 4, 1, -1]),
            ],
        ));
        assert_eq!([paged.batch, paged.seq_len_kv, paged.num_kv_heads], [2, 32, 1]);
        assert_eq!(paged.sequences.q, QuerySequences::LeftPadded);
        let form = KeySequences::Paged { block_size: 16, blocks: 5, blocks_per_sequence: 2 };
        assert_eq!(paged.sequences.kv, form);

        let says = |file: TensorFile, part: &str| {
            let error = file.operands(Layout::Bhsd).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let keys = [3, 2, 9, 4];
        says(file([2, 2, 7, 4], keys, &[("q_starts", starts.0, starts.1)]), "a batch of 1");
        says(
            file([2, 2, 7, 4], [4, 2, 9, 4], &[("kv_lengths", &[4], &[1; 4])]),
            "as many sequences",
        );
    }
}
