//! Sparse attention over blocks: each block of queries picks the few blocks of keys that it attends to (Native Sparse
//! Attention, DSA, MoBA), on the device, and attention reads no others.
//!
//! It hides one block of keys that the last queries look for among many, shows that it is among those that they pick, and
//! that attention finds it at the cost of the picked blocks. `--tokens N` says how long the sequence is, `--time` compares
//! its time with that of attention to all keys.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use common::normal;
use wgpu_attention::auxiliary::AuxShape;
use wgpu_attention::mask::BlockIndexOptions;
use wgpu_attention::plan::{BlockIndexBuffers, BlockIndexPlan};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, Inputs, Mask, Problem, Session, Shape,
    Uploaded, wgpu,
};

const BLOCK: usize = 64;
const HEAD_DIM: usize = 64;

#[derive(Debug, Parser)]
struct Arguments {
    /// Tokens of the sequence, in whole blocks of 64.
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// Blocks that a block of queries attends to.
    #[arg(long, default_value_t = 8)]
    k: usize,
    /// Compare its time with that of as many scores of queries that attend to all keys.
    #[arg(long)]
    time: bool,
}

fn main() -> Result<()> {
    let Arguments { tokens, k, time } = Arguments::parse();
    ensure!(tokens % BLOCK == 0 && tokens >= 2 * BLOCK, "--tokens: expected a multiple of {BLOCK}");
    let attention = Session::open_blocking(&Default::default())?;
    finds_what_it_looks_for(&attention, tokens, k)?;
    if time {
        takes_its_share_of_the_time(&attention, tokens, k)?;
    }
    Ok(())
}

/// What picks blocks and attends to them, over one set of buffers.
struct Sparse {
    index: BlockIndexPlan,
    plan: AttentionPlan,
    lists: wgpu::Buffer,
}

impl Sparse {
    fn new(attention: &Session, problem: &Problem, options: &BlockIndexOptions) -> Result<Self> {
        let index = BlockIndexPlan::new(attention.kernels(), problem, options)?;
        let aux = AuxShape::new().with(AuxTensor::BlockIndices, index.dims());
        let problem = problem.clone().aux_shape(aux);
        let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default())?;
        let lists = attention.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("block_indices"),
            size: index.dims().iter().product::<usize>() as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Ok(Self { index, plan, lists })
    }

    /// The data of the attention.
    fn aux(&self) -> AuxBuffers<'_> {
        AuxBuffers::new().with(AuxTensor::BlockIndices, self.lists.slice(..))
    }

    /// Picks and attends: the host sees no list.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, uploaded: &Uploaded) -> Result<()> {
        let AttentionBuffers { q, k, .. } = uploaded.buffers();
        let block_indices = self.lists.slice(..);
        let buffers = BlockIndexBuffers { q, k, aux: AuxBuffers::new(), block_indices };
        self.index.encode(encoder, &buffers)?;
        self.plan.encode(encoder, &AttentionBuffers { aux: self.aux(), ..uploaded.buffers() })?;
        Ok(())
    }
}

fn finds_what_it_looks_for(attention: &Session, tokens: usize, k: usize) -> Result<()> {
    let problem = Problem::new(Shape::new(1, 1, tokens, HEAD_DIM))
        .mask(Mask::causal() & Mask::block_sparse(BLOCK as u32));
    // The keys of one block are what the queries of the last block look for; its values are 1.
    let (blocks, needle) = (tokens / BLOCK, tokens / BLOCK / 3);
    let [mut q, mut keys] = [1, 2].map(|seed| normal(seed, tokens * HEAD_DIM));
    let mut v = vec![0.0; tokens * HEAD_DIM];
    let rows = |block: usize| block * BLOCK * HEAD_DIM..(block + 1) * BLOCK * HEAD_DIM;
    q[rows(blocks - 1)].iter_mut().for_each(|x| *x += 1.0);
    keys[rows(needle)].iter_mut().for_each(|x| *x += 1.0);
    v[rows(needle)].fill(1.0);

    let options = BlockIndexOptions::new(BLOCK, k).causal(true).keep_first(true).keep_own(true);
    let inputs = Inputs::new(&q, &keys, &v);
    let lists = attention.block_indices_blocking(&problem, &inputs, &options)?;
    let list = lists.blocks.chunks(k).next_back().context("there is a block of queries")?;
    println!(
        "{tokens} tokens, of which the last {BLOCK} look for what block {needle} of {blocks} holds."
    );
    println!("They pick the blocks {list:?}.");
    ensure!(list.contains(&(needle as i32)), "the block isn't among them");

    let sparse = Sparse::new(attention, &problem, &options)?;
    let uploaded = attention.upload(&Problem::new(*problem.shape()), &inputs)?;
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    sparse.encode(&mut encoder, &uploaded)?;
    attention.queue().submit([encoder.finish()]);
    let o: Vec<f32> = attention.read_o_blocking(&uploaded)?;
    let found = o[rows(blocks - 1)].iter().sum::<f32>() / (BLOCK * HEAD_DIM) as f32;
    println!("Of their attention, {:.1}% is on it.", 100.0 * found);
    ensure!(found > 0.9, "attention misses the block");
    Ok(())
}

fn takes_its_share_of_the_time(attention: &Session, tokens: usize, k: usize) -> Result<()> {
    let data = |tokens: usize| [1, 2, 3].map(|seed| normal(seed, tokens * HEAD_DIM));
    let problem =
        Problem::new(Shape::new(1, 1, tokens, HEAD_DIM)).mask(Mask::block_sparse(BLOCK as u32));
    let [q, keys, v] = data(tokens);
    let uploaded =
        attention.upload(&Problem::new(*problem.shape()), &Inputs::new(&q, &keys, &v))?;
    let sparse = Sparse::new(attention, &problem, &BlockIndexOptions::new(BLOCK, k))?;
    let picked = timed(attention, |encoder| {
        let AttentionBuffers { q, k, .. } = uploaded.buffers();
        let block_indices = sparse.lists.slice(..);
        let buffers = BlockIndexBuffers { q, k, aux: AuxBuffers::new(), block_indices };
        Ok(sparse.index.encode(encoder, &buffers)?)
    })?;
    let attended = timed(attention, |encoder| {
        let buffers = AttentionBuffers { aux: sparse.aux(), ..uploaded.buffers() };
        Ok(sparse.plan.encode(encoder, &buffers)?)
    })?;

    // The same number of scores, by fewer queries that attend to all keys.
    let queries = k * BLOCK;
    let dense = Problem::new(Shape::new(1, 1, queries, HEAD_DIM).seq_len_kv(tokens));
    let fewer = attention.upload(&dense, &Inputs::new(&q[..queries * HEAD_DIM], &keys, &v))?;
    let plan = AttentionPlan::new(attention.kernels(), &dense, &Default::default())?;
    let all = timed(attention, |encoder| Ok(plan.encode(encoder, &fewer.buffers())?))?;
    let ratio = attended.as_secs_f64() / all.as_secs_f64();
    println!(
        "Picking takes {picked:.1?}, attention to {queries} keys of {tokens} {attended:.1?}: {ratio:.2} times"
    );
    println!("the {all:.1?} that as many scores take where queries attend to all keys.");
    Ok(())
}

/// The least time of three.
fn timed(
    attention: &Session,
    encode: impl Fn(&mut wgpu::CommandEncoder) -> Result<()>,
) -> Result<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..4 {
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        encode(&mut encoder)?;
        let start = Instant::now();
        attention.queue().submit([encoder.finish()]);
        attention.device().poll(wgpu::PollType::wait_indefinitely())?;
        least = least.min(start.elapsed());
    }
    Ok(least)
}
