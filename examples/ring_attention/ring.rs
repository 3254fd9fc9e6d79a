//! What a rank of the ring does, and the sequence that the ranks share; how pieces travel is a [`Transport`].

use std::ops::Range;

use anyhow::{Result, ensure};
use wgpu::util::DeviceExt as _;
use wgpu_attention::plan::MergePlan;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Inputs, Mask, Problem, RunOptions, Session, Shape,
};

use crate::common::{max_difference, normal};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Which no number of ranks divides.
const TOKENS: usize = 331;

/// Ranks in a ring.
pub(crate) trait Transport {
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// Hands a piece on to the next rank, and takes that of the rank before.
    fn pass(&self, piece: Vec<f32>) -> Result<Vec<f32>>;
}

/// The operands of all ranks together.
pub(crate) struct Sequence {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// o and lse of some queries.
pub(crate) struct Rows {
    pub(crate) o: Vec<f32>,
    pub(crate) lse: Vec<f32>,
}

impl Sequence {
    pub(crate) fn new() -> Result<Self> {
        let shape = Shape::new(1, HEADS, TOKENS, HEAD_DIM).num_kv_heads(KV_HEADS);
        let (q, k) = (normal(1, shape.q_len()?), normal(2, shape.k_len()?));
        Ok(Self { q, k, v: normal(3, shape.v_len()?), shape })
    }

    /// All rows, by one device that sees all keys.
    pub(crate) fn on_one_device(&self) -> Result<Rows> {
        let attention = Session::open_blocking(&Default::default())?;
        let problem = Problem::new(self.shape).mask(Mask::causal());
        let inputs = Inputs::new(&self.q, &self.k, &self.v);
        let outputs = RunOptions::default().lse(true);
        let result = attention.run_blocking(&problem, &inputs, &outputs)?;
        Ok(Rows { o: result.o, lse: result.lse })
    }

    /// The rows of this rank's queries, with keys and values that go round.
    pub(crate) fn of_rank(&self, transport: &impl Transport) -> Result<Rows> {
        let attention = Session::open_blocking(&Default::default())?;
        let (rank, size) = (transport.rank(), transport.size());
        let queries = tokens_of(rank, size);
        let shape = Shape::new(1, HEADS, queries.len(), HEAD_DIM).num_kv_heads(KV_HEADS);
        let merge = MergePlan::new(attention.kernels(), &Problem::new(shape), size)?;
        let upload = |contents: &[f32]| {
            attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(contents),
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            })
        };
        let q = upload(&cut(&self.q, &queries, HEAD_DIM));
        // [2, KV_HEADS, tokens, HEAD_DIM]: the keys, then the values.
        let mut piece = [&self.k, &self.v].map(|tensor| cut(tensor, &queries, HEAD_DIM)).concat();
        for part in 0..size {
            let keys = tokens_of((rank + size - part) % size, size);
            let len = KV_HEADS * keys.len() * HEAD_DIM;
            ensure!(piece.len() == 2 * len, "a piece of {} elements, not {}", piece.len(), 2 * len);
            // A query sees the keys up to its own position, wherever either of them is.
            let offset = queries.start as i32 - keys.start as i32;
            let problem =
                Problem::new(shape.seq_len_kv(keys.len())).mask(Mask::causal_offset(offset));
            let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default())?;
            let [k, v] = [&piece[..len], &piece[len..]].map(upload);
            let slices = merge.part(part)?;
            let mut encoder = attention.device().create_command_encoder(&Default::default());
            plan.encode(
                &mut encoder,
                &AttentionBuffers {
                    q: q.slice(..),
                    k: k.slice(..),
                    v: v.slice(..),
                    aux: AuxBuffers::new(),
                    o: slices.o,
                    lse: Some(slices.lse),
                },
            )?;
            attention.queue().submit([encoder.finish()]);
            // The device is at it; meanwhile the piece goes on, and the next one comes.
            if part + 1 < size {
                piece = transport.pass(piece)?;
            }
        }
        let [o, lse] = [shape.o_len()?, shape.lse_len()?].map(|len| upload(&vec![0.0; len]));
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        merge.encode(&mut encoder, o.slice(..), Some(lse.slice(..)))?;
        attention.queue().submit([encoder.finish()]);
        Ok(Rows {
            o: attention.read_blocking(&o, shape.o_len()?)?,
            lse: attention.read_blocking(&lse, shape.lse_len()?)?,
        })
    }

    /// Compares each rank's rows with those of one device.
    pub(crate) fn check(&self, ranks: &[Rows], expected: &Rows) -> Result<()> {
        let size = ranks.len();
        let (mut largest, mut largest_lse): (f32, f32) = (0.0, 0.0);
        for (rank, found) in ranks.iter().enumerate() {
            let tokens = tokens_of(rank, size);
            let o = cut(&expected.o, &tokens, HEAD_DIM);
            largest = largest.max(max_difference(&found.o, &o));
            let lse = cut(&expected.lse, &tokens, 1);
            largest_lse = largest_lse.max(max_difference(&found.lse, &lse));
        }
        ensure!(largest < 1e-5 && largest_lse < 1e-5, "differs by {largest} and {largest_lse}");
        let sent = (size - 1) * (self.k.len() + self.v.len()) * size_of::<f32>();
        println!(
            "{TOKENS} tokens on {size} devices, {} kB sent: largest difference from one device {largest:.1e} in o, \
             {largest_lse:.1e} in lse",
            sent / 1000
        );
        Ok(())
    }
}

/// A rank's tokens.
fn tokens_of(rank: usize, size: usize) -> Range<usize> {
    TOKENS * rank / size..TOKENS * (rank + 1) / size
}

/// Some tokens' rows, of every head.
fn cut(tensor: &[f32], tokens: &Range<usize>, row: usize) -> Vec<f32> {
    let rows = |head: &[f32]| head[tokens.start * row..tokens.end * row].to_vec();
    tensor.chunks(TOKENS * row).flat_map(rows).collect()
}
