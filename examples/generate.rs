//! A decoder that generates token by token: prompts of different lengths in one parallel pass, then one token of each
//! sequence at a time over a KV cache. Each step's logits equal those of one pass over everything, which is what makes
//! "train in parallel, predict step by step" the same model.
//!
//! The model is small and was trained for minutes (examples/train_gpt), so what it says means little. What is shown is that
//! both ways agree, and that the loop makes nothing anew on the device.

mod common;

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::max_difference;
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionPlan, AuxBuffers, AuxTensor, Inputs, KvCache, Layout, Mask, Problem, RunOptions,
    Session, Shape,
};
use wgpu_attention_tools::files::TensorFile;

const LAYERS: usize = 4;
const HEADS: usize = 4;
const HEAD_DIM: usize = 32;
const DIM: usize = HEADS * HEAD_DIM;
/// Tokens are the codes of ASCII.
const VOCABULARY: usize = 128;
/// The most tokens of a sequence.
const CAPACITY: usize = 128;
const STEPS: usize = 96;
const PROMPTS: [&str; 3] = ["Alice was beginning to", "The Queen said", "`Oh, "];
/// Of logits around 10; f32 sums in another order.
const ALLOWED: f32 = 1e-4;

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt.safetensors"))?;
    let prompts = PROMPTS.map(|prompt| prompt.bytes().map(usize::from).collect());
    let generated = generate(&attention, &model, prompts.to_vec())?;

    let mut largest = 0f32;
    for sequence in &generated.sequences {
        let whole = model.all_at_once(&attention, &sequence.tokens)?;
        // The logits behind token t choose token t + 1.
        let from = (sequence.tokens.len() - sequence.logits.len()) * VOCABULARY;
        for (row, logits) in whole[from - VOCABULARY..].chunks(VOCABULARY).zip(&sequence.logits) {
            largest = largest.max(max_difference(row, logits));
            ensure!(most_likely(row) == most_likely(logits), "both ways choose the same token");
        }
    }
    for sequence in &generated.sequences {
        let text: String = sequence.tokens.iter().map(|&token| char::from(token as u8)).collect();
        println!("{text:?}\n");
    }
    println!("{STEPS} tokens of {} sequences, {LAYERS} layers", PROMPTS.len());
    println!("prefill: {:.1?}, then {:.1?} per step", generated.prefill, generated.per_step);
    println!("each step against one pass over everything: logits differ by {largest:.1e} at most");
    println!("made after the first step: {}", generated.made_in_loop);
    ensure!(largest < ALLOWED, "every step equals the full recomputation");
    ensure!(generated.made_in_loop.is_nothing(), "the loop makes nothing anew");
    Ok(())
}

/// What was generated.
struct Generated {
    sequences: Vec<Sequence>,
    prefill: Duration,
    per_step: Duration,
    made_in_loop: Made,
}

/// What has been made on the device.
#[derive(Debug, Clone, Copy)]
struct Made {
    pipelines: usize,
    bind_groups: usize,
    /// The driver's allocations while steps were recorded, where it says: whatever recording made is alive then, and counted.
    by_recording: Option<usize>,
    /// Those that are alive between two steps.
    alive: Option<usize>,
}

impl Made {
    fn so_far(attention: &Session, stage: &Stage) -> Self {
        let kernels = attention.kernels();
        let alive = allocations(attention);
        Self {
            pipelines: kernels.compiled(),
            bind_groups: kernels.bind_groups(),
            by_recording: alive.map(|_| stage.allocated.get()),
            alive,
        }
    }

    fn since(self, before: Self) -> Self {
        let more = |now: Option<usize>, before: Option<usize>| Some(now?.saturating_sub(before?));
        Self {
            pipelines: self.pipelines - before.pipelines,
            bind_groups: self.bind_groups - before.bind_groups,
            by_recording: more(self.by_recording, before.by_recording),
            alive: more(self.alive, before.alive),
        }
    }

    fn is_nothing(&self) -> bool {
        let allocations = self.by_recording.unwrap_or(0) + self.alive.unwrap_or(0);
        self.pipelines + self.bind_groups + allocations == 0
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pipelines, {} bind groups", self.pipelines, self.bind_groups)?;
        match (self.by_recording, self.alive) {
            (Some(by_recording), Some(alive)) => write!(
                f,
                ", {by_recording} allocations of the driver in recording, {alive} more alive at the end"
            ),
            _ => write!(f, "; the driver's allocations aren't told on this backend"),
        }
    }
}

/// How many of the driver's allocations are alive.
fn allocations(attention: &Session) -> Option<usize> {
    attention.device().generate_allocator_report().map(|report| report.allocations.len())
}

/// A sequence, and the logits that each of its generated tokens was chosen by.
struct Sequence {
    tokens: Vec<usize>,
    logits: Vec<Vec<f32>>,
}

fn generate(attention: &Session, model: &Model, prompts: Vec<Vec<usize>>) -> Result<Generated> {
    let batch = prompts.len();
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let total: usize = lengths.iter().sum();
    let longest = *lengths.iter().max().unwrap_or(&0);
    let shape = CacheShape::new(batch, HEADS, CAPACITY, HEAD_DIM);
    let mut caches = (0..LAYERS)
        .map(|_| KvCache::new(attention.kernels(), &shape))
        .collect::<Result<Vec<_>, _>>()?;

    // The prompts lie one behind the other, and nothing is padded.
    let packed = QuerySequences::Packed { total };
    let prefill = Stage::new(attention, &shape, longest, packed, total)?;
    let starts: Vec<i32> = std::iter::once(0)
        .chain(lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        }))
        .collect();
    attention.queue().write_buffer(&prefill.starts, 0, bytemuck::cast_slice(&starts));
    let step = Stage::new(attention, &shape, 1, QuerySequences::Uniform, batch)?;

    let clock = Instant::now();
    let mut sequences: Vec<Sequence> =
        (prompts.into_iter()).map(|tokens| Sequence { tokens, logits: Vec::new() }).collect();
    let rows: Vec<usize> = sequences.iter().flat_map(|sequence| sequence.tokens.clone()).collect();
    let logits = model.forward(attention, &prefill, &mut caches, &rows, Some(&lengths))?;
    for (sequence, end) in sequences.iter_mut().zip(&starts[1..]) {
        sequence.take(&logits[(*end as usize - 1) * VOCABULARY..][..VOCABULARY]);
    }
    let prefill_time = clock.elapsed();

    let progress = ProgressBar::new(STEPS as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} tokens of each sequence")?);
    let mut before = Made::so_far(attention, &step);
    let clock = Instant::now();
    for number in 1..STEPS {
        let rows: Vec<usize> =
            sequences.iter().filter_map(|sequence| sequence.tokens.last().copied()).collect();
        let logits = model.forward(attention, &step, &mut caches, &rows, None)?;
        for (sequence, logits) in sequences.iter_mut().zip(logits.chunks(VOCABULARY)) {
            sequence.take(logits);
        }
        if number == 1 {
            before = Made::so_far(attention, &step);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(Generated {
        sequences,
        prefill: prefill_time,
        per_step: clock.elapsed() / (STEPS as u32 - 1),
        made_in_loop: Made::so_far(attention, &step).since(before),
    })
}

impl Sequence {
    /// Goes on with the most likely token.
    fn take(&mut self, logits: &[f32]) {
        self.tokens.push(most_likely(logits));
        self.logits.push(logits.to_vec());
    }
}

fn most_likely(logits: &[f32]) -> usize {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, better)
}

/// Plans and buffers for passes of so many tokens, which all layers share.
struct Stage {
    append: AppendPlan,
    attention: AttentionPlan,
    problem: Problem,
    q: wgpu::Buffer,
    rotated_q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    starts: wgpu::Buffer,
    rows: usize,
    /// The driver's allocations while passes were recorded.
    allocated: Cell<usize>,
}

impl Stage {
    fn new(
        attention: &Session,
        shape: &CacheShape,
        seq_len: usize,
        sequences: QuerySequences,
        rows: usize,
    ) -> Result<Self> {
        let kernels = attention.kernels();
        // A token's heads stand side by side, as the projections leave them.
        let tokens = NewTokens::new(seq_len)
            .sequences(sequences)
            .layout(Layout::Bshd)
            .rotary(rotary())
            .query_heads(HEADS);
        let problem =
            shape.problem(HEADS, seq_len, sequences).layout(Layout::Bshd).mask(Mask::causal());
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
            append: AppendPlan::new(kernels, shape, &tokens)?,
            attention: AttentionPlan::new(kernels, &problem, &Default::default())?,
            problem,
            q: buffer(rows * DIM),
            rotated_q: buffer(rows * DIM),
            k: buffer(rows * DIM),
            v: buffer(rows * DIM),
            o: buffer(rows * DIM),
            starts: buffer(shape.batch + 1),
            rows,
            allocated: Cell::new(0),
        })
    }

    /// Appends the tokens of one layer and attends to all that its cache holds.
    fn attend(
        &self,
        attention: &Session,
        cache: &mut KvCache,
        [q, k, v]: [&[f32]; 3],
        lengths: Option<&[usize]>,
    ) -> Result<Vec<f32>> {
        for (buffer, values) in [(&self.q, q), (&self.k, k), (&self.v, v)] {
            attention.queue().write_buffer(buffer, 0, bytemuck::cast_slice(values));
        }
        let data = AuxBuffers::new().with(AuxTensor::QStarts, self.starts.slice(..));
        let before = allocations(attention);
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        let mut buffers = AppendBuffers::new(self.k.slice(..), self.v.slice(..))
            .q(self.q.slice(..))
            .rotated_q(self.rotated_q.slice(..))
            .sequences(data.clone());
        buffers.lengths = lengths;
        self.append.encode(&mut encoder, cache, &buffers)?;
        let (q, o) = (self.rotated_q.slice(..), self.o.slice(..));
        let buffers = cache.attention_buffers(&self.problem, q, data, o)?;
        self.attention.encode(&mut encoder, &buffers)?;
        let commands = encoder.finish();
        if let (Some(before), Some(after)) = (before, allocations(attention)) {
            self.allocated.set(self.allocated.get() + after.saturating_sub(before));
        }
        attention.queue().submit([commands]);
        Ok(attention.read_blocking(&self.o, self.rows * DIM)?)
    }
}

fn rotary() -> Rotary {
    Rotary::new(HEAD_DIM, 1000.0, Pairing::Half)
}

/// The small GPT that examples/train_gpt trained on Alice's Adventures in Wonderland; its linear layers run on the CPU.
struct Model {
    /// `[VOCABULARY, DIM]`
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    head_norm: Vec<f32>,
    /// `[DIM, VOCABULARY]`
    head: Vec<f32>,
}

/// Weights `[in, out]`, and the gains of the norms.
struct Layer {
    attention_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    forward_norm: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

impl Model {
    fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let read = |name: String| Ok::<_, wgpu_attention::Error>(file.read_f32(&name)?.values);
        let layers = (0..LAYERS).map(|layer| {
            let part = |name: &str| read(format!("layer{layer}.{name}"));
            Ok(Layer {
                attention_norm: part("attention.norm")?,
                q: part("attention.q")?,
                k: part("attention.k")?,
                v: part("attention.v")?,
                o: part("attention.o")?,
                forward_norm: part("feed_forward.norm")?,
                wide: part("feed_forward.in")?,
                narrow: part("feed_forward.out")?,
            })
        });
        Ok(Self {
            embedding: read("embed".to_owned())?,
            layers: layers.collect::<Result<_>>()?,
            head_norm: read("head.norm".to_owned())?,
            head: read("head".to_owned())?,
        })
    }

    /// Logits of every row, with attention given by layer, q, k and v.
    fn run(
        &self,
        tokens: &[usize],
        mut attend: impl FnMut(usize, [&[f32]; 3]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let mut x: Vec<f32> = (tokens.iter())
            .flat_map(|&token| self.embedding[token * DIM..][..DIM].to_vec())
            .collect();
        for (number, layer) in self.layers.iter().enumerate() {
            let normed = norm(&x, &layer.attention_norm);
            let [q, k, v] = [&layer.q, &layer.k, &layer.v].map(|w| linear(&normed, w, DIM));
            add(&mut x, &linear(&attend(number, [&q, &k, &v])?, &layer.o, DIM));
            let mut wide = linear(&norm(&x, &layer.forward_norm), &layer.wide, DIM);
            wide.iter_mut().for_each(|x| *x = gelu(*x));
            add(&mut x, &linear(&wide, &layer.narrow, 4 * DIM));
        }
        Ok(linear(&norm(&x, &self.head_norm), &self.head, DIM))
    }

    /// The next tokens of every sequence, over the caches.
    fn forward(
        &self,
        attention: &Session,
        stage: &Stage,
        caches: &mut [KvCache],
        tokens: &[usize],
        lengths: Option<&[usize]>,
    ) -> Result<Vec<f32>> {
        self.run(tokens, |layer, qkv| stage.attend(attention, &mut caches[layer], qkv, lengths))
    }

    /// One sequence in one pass, without a cache; positions turned on the CPU, in f64.
    fn all_at_once(&self, attention: &Session, tokens: &[usize]) -> Result<Vec<f32>> {
        let shape = Shape::new(1, HEADS, tokens.len(), HEAD_DIM);
        let problem = Problem::new(shape).layout(Layout::Bshd).mask(Mask::causal());
        let turned = |values: &[f32], heads: usize| -> Vec<f32> {
            let rows = values.chunks(HEAD_DIM).enumerate();
            rows.flat_map(|(row, values)| rotary().turn(values, row / heads))
                .map(|x| x as f32)
                .collect()
        };
        self.run(tokens, |_, [q, k, v]| {
            let (q, k) = (turned(q, HEADS), turned(k, HEADS));
            let inputs = Inputs::new(&q, &k, v);
            Ok(attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o)
        })
    }
}

/// `x w` for rows of `from` and weights `[from, out]`.
fn linear(x: &[f32], weights: &[f32], from: usize) -> Vec<f32> {
    let out = weights.len() / from;
    let mut products = vec![0.0; x.len() / from * out];
    for (row, sums) in x.chunks(from).zip(products.chunks_mut(out)) {
        for (x, weights) in row.iter().zip(weights.chunks(out)) {
            sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += x * w);
        }
    }
    products
}

/// Each row divided by the root of its mean square, times the gain.
fn norm(x: &[f32], gain: &[f32]) -> Vec<f32> {
    x.chunks(DIM)
        .flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / DIM as f32;
            row.iter().zip(gain).map(move |(x, gain)| x / (mean + 1e-5).sqrt() * gain)
        })
        .collect()
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
