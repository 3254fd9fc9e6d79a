//! Appends: tokens between sentinels, and a cache in which nothing is written but the new tokens' rows; and nothing at all,
//! but what is wrong, where one word of lengths, starts or tables is no such thing.

use wgpu_attention::cache::{
    AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens, Pairing, Rotary,
};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{AuxBuffers, AuxTensor, Dtype, KvCache};

use super::{Guarded, HOSTILE, SENTINELS, UNWRITTEN, same_with_each_sentinel, submit};
use crate::cache::{row_at, row_bytes, stored_errors, stored_row};
use crate::fixture::ATTENTION;

const BATCH: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const CAPACITY: usize = 40;
/// Tokens of each sequence, at most, and how many there are if they are packed.
const SEQ_LEN: usize = 5;
const TOTAL: usize = 11;
/// What a ring counts up to.
const MOST_POSITIONS: u32 = 1 << 29;
/// How many tokens each sequence has had: the last one is full afterwards.
const LENGTHS: [u32; BATCH] = [33, 7, 35];

/// What the device is told, and the tokens.
struct Call {
    shape: CacheShape,
    sequences: QuerySequences,
    lengths: Vec<u32>,
    /// `[batch, blocks_per_sequence]`
    tables: Vec<Vec<u32>>,
    /// `q_starts` or `q_lengths`
    queries: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Call {
    /// With nothing wrong.
    fn new(shape: CacheShape, sequences: QuerySequences) -> Self {
        let blocks = shape.blocks_per_sequence();
        let table = |b: usize| (0..blocks).map(|i| (b * blocks + i) as u32).rev().collect();
        let queries = match sequences {
            QuerySequences::Packed { .. } => vec![1, 5, 5, 10],
            QuerySequences::LeftPadded => vec![4, 0, 5],
            _ => Vec::new(),
        };
        let rows = match sequences {
            QuerySequences::Packed { total } => total,
            _ => BATCH * SEQ_LEN,
        };
        let tensor = |heads: usize, dim: usize, step: usize| {
            let value = |at: usize| (at * step % 127) as f32 / 8.0 - 7.0;
            (0..rows * heads * dim).map(value).collect()
        };
        let [q, k, v] = [
            tensor(HEADS, shape.head_dim, 31),
            tensor(KV_HEADS, shape.head_dim, 37),
            tensor(KV_HEADS, shape.head_dim_v, 41),
        ];
        let tables = (0..BATCH).map(table).collect();
        Self { shape, sequences, lengths: LENGTHS.to_vec(), tables, queries, q, k, v }
    }

    /// Every word that the device goes by.
    fn words(&mut self) -> impl Iterator<Item = &mut u32> {
        self.lengths.iter_mut().chain(self.tables.iter_mut().flatten()).chain(&mut self.queries)
    }

    /// What is wrong with sequence `b`: 0, or what the device notes of it.
    fn fault(&self, b: usize) -> u32 {
        let most = match self.shape.form {
            CacheForm::Ring => MOST_POSITIONS,
            _ => CAPACITY as u32,
        };
        let (seq_len, before) = (SEQ_LEN as u32, self.lengths[b]);
        let tokens = match self.sequences {
            QuerySequences::Packed { total } => {
                let (start, end) = (self.queries[b], self.queries[b + 1]);
                if start > end || end > total as u32 || end - start > seq_len {
                    return 3;
                }
                end - start
            }
            QuerySequences::LeftPadded if self.queries[b] > seq_len => return 3,
            QuerySequences::LeftPadded => self.queries[b],
            _ => seq_len,
        };
        let lie_in_pool = |positions: std::ops::Range<u32>| match self.shape.form {
            CacheForm::Paged { block_size, blocks } => positions
                .into_iter()
                .all(|position| (self.tables[b][position as usize / block_size] as usize) < blocks),
            _ => true,
        };
        if before > most || !lie_in_pool(0..before) {
            3
        } else if tokens > most - before {
            1
        } else if !lie_in_pool(before..before + tokens) {
            2
        } else {
            0
        }
    }

    /// What the device notes of all of them.
    fn noted(&self) -> u32 {
        let faults = (0..BATCH).map(|b| (b, self.fault(b)));
        faults
            .filter(|(_, fault)| *fault > 0)
            .map(|(b, fault)| 3 * b as u32 + fault)
            .max()
            .unwrap_or(0)
    }

    /// How many tokens sequence `b` gets, and the row of its first, in `[batch or 1, heads, rows]`.
    fn tokens(&self, b: usize) -> (usize, [usize; 2]) {
        if self.noted() > 0 {
            return (0, [0, 0]);
        }
        match self.sequences {
            QuerySequences::Packed { .. } => {
                let [start, end] = [b, b + 1].map(|at| self.queries[at] as usize);
                (end - start, [0, start])
            }
            QuerySequences::LeftPadded => {
                let count = self.queries[b] as usize;
                (count, [b, SEQ_LEN - count])
            }
            _ => (SEQ_LEN, [b, 0]),
        }
    }

    /// Runs it; what the cache holds then, its lengths and fault, and the queries turned.
    fn run(&self, sentinel: u32) -> [Vec<u32>; 4] {
        let queue = ATTENTION.queue();
        let mut cache = KvCache::new(ATTENTION.kernels(), &self.shape).unwrap();
        for slice in [cache.k(), cache.v()] {
            let fill = vec![UNWRITTEN; slice.buffer().size() as usize / 4];
            queue.write_buffer(slice.buffer(), 0, bytemuck::cast_slice(&fill));
        }
        queue.write_buffer(cache.lengths().buffer(), 0, bytemuck::cast_slice(&self.lengths));
        if let Some(tables) = cache.tables() {
            queue.write_buffer(tables, 0, bytemuck::cast_slice(&self.tables.concat()));
        }
        let rotary = Rotary::new(8, 10_000.0, Pairing::Half);
        let tokens =
            NewTokens::new(SEQ_LEN).sequences(self.sequences).rotary(rotary).query_heads(HEADS);
        let plan = AppendPlan::new(ATTENTION.kernels(), &self.shape, &tokens).unwrap();
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| Guarded::floats(values, sentinel));
        let turned = Guarded::written(self.q.len(), sentinel);
        let queries = Guarded::new(&self.queries, sentinel);
        let sequences = match self.sequences {
            QuerySequences::Packed { .. } => {
                AuxBuffers::new().with(AuxTensor::QStarts, queries.slice())
            }
            QuerySequences::LeftPadded => {
                AuxBuffers::new().with(AuxTensor::QLengths, queries.slice())
            }
            _ => AuxBuffers::new(),
        };
        let buffers = AppendBuffers::new(k.slice(), v.slice())
            .q(q.slice())
            .rotated_q(turned.slice())
            .sequences(sequences);
        submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
        for (name, guarded) in [("q", &q), ("k", &k), ("v", &v), ("queries", &queries)] {
            guarded.read(name);
        }
        let words = |slice: wgpu::BufferSlice<'_>| -> Vec<u32> {
            let count = slice.buffer().size() as usize / 4;
            let values = ATTENTION.read_blocking(slice.buffer(), count).unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        [words(cache.k()), words(cache.v()), words(cache.lengths()), turned.read("rotated_q")]
    }

    /// Every row of the cache is a new token's or as it was; so are the queries and the lengths.
    fn check(&self, [k, v, lengths, turned]: &[Vec<u32>; 4]) {
        let Self { shape, sequences, lengths: before, tables, queries, .. } = self;
        let what = format!("{shape:?}, {sequences:?}, {before:?}, {tables:?}, {queries:?}");
        assert_eq!(lengths[BATCH], self.noted(), "{what}: the fault");
        let mut rows_turned = Vec::new();
        for (b, &length) in lengths[..BATCH].iter().enumerate() {
            let (count, [batch, row]) = self.tokens(b);
            assert_eq!(length, self.lengths[b] + count as u32, "{what}: length of {b}");
            rows_turned.extend((row..row + count).map(|row| (batch, row)));
        }

        let rows = self.q.len() / HEADS / self.shape.head_dim;
        let per_batch = match self.sequences {
            QuerySequences::Packed { .. } => rows,
            _ => SEQ_LEN,
        };
        for (at, word) in turned.iter().enumerate() {
            let row = at / self.shape.head_dim;
            let own = (row / per_batch / HEADS, row % per_batch);
            let is_written = *word != UNWRITTEN;
            assert_eq!(is_written, rows_turned.contains(&own), "{what}: rotated_q[{at}]");
        }
        // Keys are turned on the way: their components are compared where tokens are appended as they are (`cache::`).
        self.check_rows(&what, k, self.shape.head_dim, None);
        self.check_rows(&what, v, self.shape.head_dim_v, Some(&self.v));
    }

    fn check_rows(&self, what: &str, stored: &[u32], dim: usize, new: Option<&[f32]>) {
        let dtype = self.shape.dtype;
        let mut bytes: Vec<u8> = bytemuck::cast_slice(stored).to_vec();
        let fill = UNWRITTEN.to_le_bytes();
        for b in 0..BATCH {
            let (count, [batch, first]) = self.tokens(b);
            for token in 0..count {
                let position = self.lengths[b] as usize + token;
                for h in 0..KV_HEADS {
                    let at = row_at(&self.shape, dim, &self.tables, b, h, position);
                    let own = row_bytes(at, dim, dtype).into_iter().flatten();
                    let unwritten = own.clone().all(|at| bytes[at] == fill[at % 4]);
                    assert!(!unwritten, "{what}: {b}, {h}, {position} isn't written");
                    for at in own {
                        bytes[at] = fill[at % 4];
                    }
                    let Some(new) = new else { continue };
                    let rows = match self.sequences {
                        QuerySequences::Packed { total } => total,
                        _ => SEQ_LEN,
                    };
                    let row = (batch * KV_HEADS + h) * rows + first + token;
                    let expected = &new[row * dim..][..dim];
                    let allowed = stored_errors(expected, dtype);
                    let found = stored_row(stored, at, dim, dtype);
                    let close = found
                        .iter()
                        .zip(expected)
                        .zip(allowed)
                        .all(|((x, &y), allowed)| (x - dtype.round(y)).abs() <= allowed);
                    assert!(close, "{what}: {b}, {h}, {position}: {found:?} for {expected:?}");
                }
            }
        }
        let strange = bytes.iter().enumerate().position(|(at, &byte)| byte != fill[at % 4]);
        assert_eq!(strange, None, "{what}: a byte of no new token's row is written");
    }
}

#[test]
fn one_hostile_word_of_lengths_starts_and_tables() {
    let shape = |dim| CacheShape::new(BATCH, KV_HEADS, CAPACITY, dim).head_dim_v(dim + 3);
    let shapes = [
        shape(20),
        shape(20).paged(16, 12),
        shape(20).ring().dtype(Dtype::I8),
        // Rows of an odd number of halves share words.
        shape(10).dtype(Dtype::F16),
        shape(12).paged(32, 9).dtype(Dtype::I4),
    ];
    let sequences = [
        QuerySequences::LeftPadded,
        QuerySequences::Uniform,
        QuerySequences::Packed { total: TOTAL },
    ];
    for (at, &shape) in shapes.iter().enumerate() {
        // Each form with two of the ways in which tokens may lie.
        for sequences in [sequences[at % 3], sequences[(at + 1) % 3]] {
            let call = || Call::new(shape, sequences);
            assert_eq!(call().noted(), 0);
            call().check(&call().run(SENTINELS[1]));
            for number in 0..call().words().count() {
                for turn in 0..2 {
                    let mut call = call();
                    // `number` is below the count of words.
                    if let Some(word) = call.words().nth(number) {
                        *word = HOSTILE[(number + 5 * turn) % HOSTILE.len()];
                    }
                    let run = |sentinel| {
                        let found = call.run(sentinel);
                        call.check(&found);
                        found
                    };
                    same_with_each_sentinel("append", run);
                }
            }
        }
    }
}
