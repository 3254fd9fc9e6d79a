//! Ring attention (Liu et al. 2023, arXiv 2310.01889): a sequence that is shared out over several devices.
//!
//! Each rank has a piece of the sequence: its queries stay, its keys and values go round. What a rank finds over each piece
//! of keys is a partial result (o, lse), and [`MergePlan`] puts them together as if one device had seen all keys. While a
//! device is at one piece, the next is on its way.
//!
//! How pieces travel is a [`Transport`]: here, channels between threads that have a device each.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result, ensure};
use common::{max_difference, normal};
use wgpu::util::DeviceExt as _;
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionPlan, Causal, DeviceChoice, Inputs, Mask, MaskBuffers,
    MergePlan, Outputs, Problem, Shape,
};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Which no number of ranks divides.
const TOKENS: usize = 331;

/// The keys and values of one rank's piece, `[KV_HEADS, tokens, HEAD_DIM]`.
struct Piece {
    owner: usize,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Ranks in a ring.
trait Transport {
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// Sends a piece to the next rank, without waiting for it to be taken.
    fn send(&self, piece: Piece) -> Result<()>;
    /// Waits for the piece of the rank before.
    fn receive(&self) -> Result<Piece>;
}

/// Threads of one process.
struct Threads {
    rank: usize,
    size: usize,
    next: Sender<Piece>,
    previous: Receiver<Piece>,
}

impl Threads {
    fn ring(size: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
        (receivers.into_iter().enumerate())
            .map(|(rank, previous)| {
                let next = senders[(rank + 1) % size].clone();
                Self { rank, size, next, previous }
            })
            .collect()
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, piece: Piece) -> Result<()> {
        self.next.send(piece).ok().context("the next rank is gone")
    }

    fn receive(&self) -> Result<Piece> {
        self.previous.recv().context("the rank before is gone")
    }
}

fn main() -> Result<()> {
    let whole = Shape::new(1, HEADS, TOKENS, HEAD_DIM).kv_heads(KV_HEADS);
    let q = normal(1, whole.q_len()?);
    let k = normal(2, whole.k_len()?);
    let v = normal(3, whole.v_len()?);
    let problem = Problem::new(whole).mask(Mask::causal());
    let attention = Attention::open_blocking(&DeviceChoice::Best)?;
    let outputs = Outputs { lse: true, ..Outputs::default() };
    let expected = attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &outputs)?;

    for size in [2, 3] {
        let results: Vec<Result<(Vec<f32>, Vec<f32>)>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (Threads::ring(size).into_iter())
                .map(|transport| {
                    let (q, k, v) = (&q, &k, &v);
                    scope.spawn(move || {
                        let tokens = tokens_of(transport.rank(), size);
                        let cut = |tensor: &[f32]| cut(tensor, &tokens);
                        let own = Piece { owner: transport.rank(), k: cut(k), v: cut(v) };
                        rank(&transport, &cut(q), own)
                    })
                })
                .collect();
            let join = |rank: std::thread::ScopedJoinHandle<'_, _>| {
                rank.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a rank panicked")))
            };
            ranks.into_iter().map(join).collect()
        });
        let (mut largest, mut largest_lse): (f32, f32) = (0.0, 0.0);
        for (rank, result) in results.into_iter().enumerate() {
            let (o, lse) = result?;
            let tokens = tokens_of(rank, size);
            largest = largest.max(max_difference(&o, &cut(&expected.o, &tokens)));
            let rows = |head: &[f32]| head[tokens.clone()].to_vec();
            let expected_lse: Vec<f32> = expected.lse.chunks(TOKENS).flat_map(rows).collect();
            largest_lse = largest_lse.max(max_difference(&lse, &expected_lse));
        }
        ensure!(largest < 1e-5 && largest_lse < 1e-5, "differs by {largest} and {largest_lse}");
        let sent = (size - 1) * (whole.k_len()? + whole.v_len()?) * 4;
        println!(
            "{TOKENS} tokens on {size} devices, {} kB sent: largest difference from one device {largest:.1e} in o, \
             {largest_lse:.1e} in lse",
            sent / 1000
        );
    }
    Ok(())
}

/// A rank's tokens.
fn tokens_of(rank: usize, size: usize) -> std::ops::Range<usize> {
    TOKENS * rank / size..TOKENS * (rank + 1) / size
}

/// The rows of some tokens, of every head.
fn cut(tensor: &[f32], tokens: &std::ops::Range<usize>) -> Vec<f32> {
    let rows = |head: &[f32]| head[tokens.start * HEAD_DIM..tokens.end * HEAD_DIM].to_vec();
    tensor.chunks(TOKENS * HEAD_DIM).flat_map(rows).collect()
}

/// o and lse of one rank's queries over all keys.
fn rank(transport: &impl Transport, q: &[f32], own: Piece) -> Result<(Vec<f32>, Vec<f32>)> {
    let attention = Attention::open_blocking(&DeviceChoice::Best)?;
    let (rank, size) = (transport.rank(), transport.size());
    let queries = tokens_of(rank, size);
    let shape = Shape::new(1, HEADS, queries.len(), HEAD_DIM).kv_heads(KV_HEADS);
    let merge = MergePlan::new(attention.kernels(), &Problem::new(shape), size)?;
    let upload = |contents: &[f32]| {
        attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(contents),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        })
    };
    let q = upload(q);
    let mut piece = own;
    for part in 0..size {
        let keys = tokens_of(piece.owner, size);
        // A query sees the keys up to its own position, wherever either of them is.
        let offset = queries.start as i32 - keys.start as i32;
        let problem =
            Problem::new(shape.seq_kv(keys.len())).mask(Mask::Causal(Causal::Offset(offset)));
        let plan = AttentionPlan::new(attention.kernels(), &problem)?;
        let [k, v] = [upload(&piece.k), upload(&piece.v)];
        let slices = merge.part(part)?;
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        plan.encode(
            &mut encoder,
            &AttentionBuffers {
                q: q.slice(..),
                k: k.slice(..),
                v: v.slice(..),
                mask: MaskBuffers::new(),
                o: slices.o,
                lse: Some(slices.lse),
            },
        )?;
        attention.queue().submit([encoder.finish()]);
        // The device is at it; meanwhile the piece goes on, and the next one comes.
        if part + 1 < size {
            transport.send(piece)?;
            piece = transport.receive()?;
        }
    }
    let [o, lse] = [shape.o_len()?, shape.lse_len()?].map(|len| upload(&vec![0.0; len]));
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    merge.encode(&mut encoder, o.slice(..), Some(lse.slice(..)))?;
    attention.queue().submit([encoder.finish()]);
    Ok((
        attention.read_blocking(&o, shape.o_len()?)?,
        attention.read_blocking(&lse, shape.lse_len()?)?,
    ))
}
