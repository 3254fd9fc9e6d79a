//! Continuous batching (Orca; vLLM's paged attention, arXiv 2309.06180): requests join a running batch when there is
//! room and leave it when they are done, and no step waits for the longest.
//!
//! A step takes up to BUDGET tokens: one of each request that generates, and chunks of the prompts of those that have just
//! joined. All lie packed in one tensor, and one append and one attention serve them. Keys and values lie in blocks of a
//! pool; the system prompt that all requests start with has its blocks once.
//!
//! Queries, keys and values are random numbers of each request and position: there is no model, so every output can be
//! compared with that of the request alone.

mod common;

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::{max_difference, normal};
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionPlan, AuxBuffers, AuxTensor, Inputs, KvCache, Layout, Mask, Problem, RunOptions,
    Session, Shape,
};

const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
/// Requests that run at a time.
const SLOTS: usize = 6;
const REQUESTS: usize = 20;
/// The most tokens of a request.
const CAPACITY: usize = 256;
const BLOCK: usize = 16;
const BLOCKS: usize = 56;
/// The tokens of the prompt that all requests start with: whole blocks.
const SYSTEM: usize = 48;
/// Tokens of a step, and the most of one request.
const BUDGET: usize = 64;
const CHUNK: usize = 32;
/// Of outputs around 1; f32 sums in another order.
const ALLOWED: f32 = 1e-4;

/// A request: so many tokens of its own prompt behind the system's, then so many that are generated.
#[derive(Clone, Copy)]
struct Request {
    number: usize,
    prompt: usize,
    generated: usize,
}

impl Request {
    /// Requests of very different lengths.
    fn all() -> VecDeque<Self> {
        let hash = |number: usize| (number as u32 + 1).wrapping_mul(0x9e37_79b9) as usize >> 8;
        (0..REQUESTS)
            .map(|number| Self {
                number,
                prompt: 1 + hash(number) % 90,
                generated: 4 + hash(number + 100) % 60,
            })
            .collect()
    }

    const fn tokens(self) -> usize {
        SYSTEM + self.prompt + self.generated
    }

    /// `[heads, HEAD_DIM]` of a token, the same for all requests within the system's prompt.
    fn row(self, tensor: u64, heads: usize, position: usize) -> Vec<f32> {
        let owner = if position < SYSTEM { REQUESTS } else { self.number };
        let seed = (owner * CAPACITY + position) as u64 * 4 + tensor;
        normal(seed, heads * HEAD_DIM)
    }
}

/// A request that runs.
struct Running {
    request: Request,
    /// Its blocks, those of the system's prompt first.
    blocks: Vec<u32>,
    length: usize,
    /// o of its own tokens, `[tokens − SYSTEM, HEADS, HEAD_DIM]`.
    o: Vec<f32>,
}

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let mut engine = Engine::new(&attention)?;
    engine.fill_system_prompt()?;

    let mut waiting = Request::all();
    let total: usize = waiting.iter().map(|request| request.prompt + request.generated).sum();
    let padded = padded_tokens(&waiting);
    let progress = ProgressBar::new(total as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} tokens")?);
    let clock = Instant::now();
    let (mut steps, mut most_blocks, mut largest) = (0, 0, 0f32);
    let (mut joined_late, mut done) = (0, 0);
    while done < REQUESTS {
        while let Some(request) = waiting.front().copied()
            && engine.join(request)?
        {
            waiting.pop_front();
            joined_late += usize::from(steps > 0);
        }
        progress.inc(engine.step()? as u64);
        steps += 1;
        most_blocks = most_blocks.max(engine.used_blocks());
        for finished in engine.leave()? {
            largest = largest.max(difference_alone(&attention, &finished)?);
            done += 1;
        }
    }
    let time = clock.elapsed();
    progress.finish_and_clear();

    println!("{REQUESTS} requests in {SLOTS} places: {joined_late} joined while others ran");
    println!(
        "{total} tokens in {steps} steps, {:.1} per step, {time:.1?}",
        total as f64 / steps as f64
    );
    println!("padded to the longest of each {SLOTS}, there would be {padded} tokens");
    println!(
        "at most {most_blocks} of {BLOCKS} blocks of {BLOCK} in use; room for every request's longest would be {}",
        SLOTS * CAPACITY / BLOCK
    );
    println!("each request against itself alone: outputs differ by {largest:.1e} at most");
    ensure!(largest < ALLOWED, "a batch gives what each request gives alone");
    ensure!(joined_late > 0 && total < padded, "requests share steps");
    engine.check()?;
    Ok(())
}

/// What a batch that waits for its longest would compute.
fn padded_tokens(requests: &VecDeque<Request>) -> usize {
    let own = |request: &Request| [request.prompt, request.generated];
    let all: Vec<_> = requests.iter().map(own).collect();
    (all.chunks(SLOTS))
        .map(|batch| {
            let most = |part: usize| batch.iter().map(|own| own[part]).max().unwrap_or(0);
            batch.len() * (most(0) + most(1))
        })
        .sum()
}

struct Engine<'a> {
    attention: &'a Session,
    cache: KvCache,
    append: AppendPlan,
    plan: AttentionPlan,
    problem: Problem,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    starts: wgpu::Buffer,
    slots: [Option<Running>; SLOTS],
    free: Vec<u32>,
    system: Vec<u32>,
}

impl<'a> Engine<'a> {
    fn new(attention: &'a Session) -> Result<Self> {
        let shape = CacheShape::new(SLOTS, KV_HEADS, CAPACITY, HEAD_DIM).paged(BLOCK, BLOCKS);
        let kernels = attention.kernels();
        // Room for a step's most tokens; a step may have fewer.
        let packed = QuerySequences::Packed { total: BUDGET };
        let tokens = NewTokens::new(CHUNK).sequences(packed).layout(Layout::Bshd);
        let problem = shape.problem(HEADS, CHUNK, packed).layout(Layout::Bshd).mask(Mask::causal());
        let buffer = |elements: usize| {
            attention.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: elements as u64 * 4,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        Ok(Self {
            attention,
            cache: KvCache::new(kernels, &shape)?,
            append: AppendPlan::new(kernels, &shape, &tokens)?,
            plan: AttentionPlan::new(kernels, &problem, &Default::default())?,
            problem,
            q: buffer(BUDGET * HEADS * HEAD_DIM),
            k: buffer(BUDGET * KV_HEADS * HEAD_DIM),
            v: buffer(BUDGET * KV_HEADS * HEAD_DIM),
            o: buffer(BUDGET * HEADS * HEAD_DIM),
            starts: buffer(SLOTS + 1),
            slots: Default::default(),
            system: (0..(SYSTEM / BLOCK) as u32).collect(),
            free: ((SYSTEM / BLOCK) as u32..BLOCKS as u32).rev().collect(),
        })
    }

    /// Keys and values of the prompt that all share, once.
    fn fill_system_prompt(&mut self) -> Result<()> {
        let system = self.system.clone();
        self.cache.set_table(self.attention.queue(), 0, &system)?;
        let request = Request { number: REQUESTS, prompt: 0, generated: 0 };
        for first in (0..SYSTEM).step_by(CHUNK) {
            let size = CHUNK.min(SYSTEM - first);
            self.compute(&[(0, request, first, size)])?;
        }
        Ok(())
    }

    /// Gives a request a place and all the blocks that it will need, if there are any.
    fn join(&mut self, request: Request) -> Result<bool> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Ok(false);
        };
        let needed = request.tokens().div_ceil(BLOCK) - self.system.len();
        if needed > self.free.len() {
            return Ok(false);
        }
        let own = self.free.split_off(self.free.len() - needed);
        let blocks = [self.system.clone(), own].concat();
        self.cache.set_table(self.attention.queue(), slot, &blocks)?;
        // The shared blocks are filled already.
        let mut encoder = self.attention.device().create_command_encoder(&Default::default());
        self.cache.set_length(&mut encoder, slot, SYSTEM)?;
        self.attention.queue().submit([encoder.finish()]);
        self.slots[slot] = Some(Running { request, blocks, length: SYSTEM, o: Vec::new() });
        Ok(true)
    }

    /// One token of each request that generates, then as much of the prompts as fits. Returns the number of tokens.
    fn step(&mut self) -> Result<usize> {
        let mut left = BUDGET;
        let mut parts = Vec::new();
        let prompt_left =
            |running: &Running| (SYSTEM + running.request.prompt).saturating_sub(running.length);
        for prompts in [false, true] {
            for (slot, running) in self.slots.iter().enumerate() {
                let Some(running) = running else { continue };
                let ahead = prompt_left(running);
                if (ahead > 0) == prompts {
                    let size = ahead.clamp(1, CHUNK).min(left);
                    left -= size;
                    parts.push((slot, running.request, running.length, size));
                }
            }
        }
        parts.sort_by_key(|&(slot, ..)| slot);
        let o = self.compute(&parts)?;
        let mut rows = o.chunks(HEADS * HEAD_DIM);
        for &(slot, _, _, size) in &parts {
            let running = self.slots[slot].as_mut().context("a place that is taken")?;
            running.length += size;
            rows.by_ref().take(size).for_each(|row| running.o.extend(row));
        }
        Ok(BUDGET - left)
    }

    /// o of the tokens `first..first + size` of each request, packed.
    fn compute(&mut self, parts: &[(usize, Request, usize, usize)]) -> Result<Vec<f32>> {
        let mut lengths = [0; SLOTS];
        parts.iter().for_each(|&(slot, _, _, size)| lengths[slot] = size);
        let mut starts = vec![0i32];
        lengths.iter().for_each(|&length| starts.push(starts[starts.len() - 1] + length as i32));
        let rows = |tensor: u64, heads: usize| -> Vec<f32> {
            let tokens = parts.iter().flat_map(|&(_, request, first, size)| {
                (first..first + size).map(move |position| request.row(tensor, heads, position))
            });
            tokens.flatten().collect()
        };
        let queue = self.attention.queue();
        queue.write_buffer(&self.starts, 0, bytemuck::cast_slice(&starts));
        queue.write_buffer(&self.q, 0, bytemuck::cast_slice(&rows(0, HEADS)));
        queue.write_buffer(&self.k, 0, bytemuck::cast_slice(&rows(1, KV_HEADS)));
        queue.write_buffer(&self.v, 0, bytemuck::cast_slice(&rows(2, KV_HEADS)));
        let data = AuxBuffers::new().with(AuxTensor::QStarts, self.starts.slice(..));
        let mut encoder = self.attention.device().create_command_encoder(&Default::default());
        let buffers = AppendBuffers::new(self.k.slice(..), self.v.slice(..))
            .sequences(data.clone())
            .lengths(&lengths);
        self.append.encode(&mut encoder, &mut self.cache, &buffers)?;
        let (q, o) = (self.q.slice(..), self.o.slice(..));
        let buffers = self.cache.attention_buffers(&self.problem, q, data, o)?;
        self.plan.encode(&mut encoder, &buffers)?;
        queue.submit([encoder.finish()]);
        let tokens: usize = lengths.iter().sum();
        Ok(self.attention.read_blocking(&self.o, tokens * HEADS * HEAD_DIM)?)
    }

    /// Takes out the requests that are done, and their blocks back.
    fn leave(&mut self) -> Result<Vec<Running>> {
        let mut finished = Vec::new();
        for slot in 0..SLOTS {
            if let Some(running) =
                self.slots[slot].take_if(|running| running.length == running.request.tokens())
            {
                self.free.extend(&running.blocks[self.system.len()..]);
                self.cache.set_table(self.attention.queue(), slot, &[])?;
                let mut encoder =
                    self.attention.device().create_command_encoder(&Default::default());
                self.cache.set_length(&mut encoder, slot, 0)?;
                self.attention.queue().submit([encoder.finish()]);
                finished.push(running);
            }
        }
        Ok(finished)
    }

    const fn used_blocks(&self) -> usize {
        BLOCKS - self.free.len()
    }

    /// Whether the device found fault with any length or table.
    fn check(&self) -> Result<()> {
        let word = self.attention.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 8,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.attention.device().create_command_encoder(&Default::default());
        self.cache.encode_check(&mut encoder, word.slice(..4))?;
        self.plan.encode_sequences_check(&mut encoder, word.slice(4..))?;
        self.attention.queue().submit([encoder.finish()]);
        let words = self.attention.read_blocking(&word, 2)?;
        self.cache.check(words[0].to_bits())?;
        Ok(self.plan.check_sequences(words[1].to_bits())?)
    }
}

/// How far a request's outputs are from those of one pass over it alone.
fn difference_alone(attention: &Session, running: &Running) -> Result<f32> {
    let request = running.request;
    let tensor = |tensor: u64, heads: usize| -> Vec<f32> {
        (0..request.tokens()).flat_map(|position| request.row(tensor, heads, position)).collect()
    };
    let (q, k, v) = (tensor(0, HEADS), tensor(1, KV_HEADS), tensor(2, KV_HEADS));
    let shape = Shape::new(1, HEADS, request.tokens(), HEAD_DIM).num_kv_heads(KV_HEADS);
    let problem = Problem::new(shape).layout(Layout::Bshd).mask(Mask::causal());
    let whole =
        attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &RunOptions::default())?;
    Ok(max_difference(&running.o, &whole.o[SYSTEM * HEADS * HEAD_DIM..]))
}
