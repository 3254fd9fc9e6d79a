//! A small problem for each kernel, compared with the f64 reference, on any device.

use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::mask::{Evaluator, ParseMaskError, TileGrid};
use wgpu_attention::plan::{BackwardOptions, MaskFormat, PlanOptions, ScoreTensor, TileOptions};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Dtype, Error, KvCache, Layout, Mask, Problem,
    RunOptions, ScoreModifiers, Session, Shape, Upstream, reference,
};

use crate::operands::{Operands, ScoreData, stored};
use crate::tolerance::{
    close, gradient_close, naive, naive_gradients, naive_gradients_modified, naive_modified,
};

/// What became of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Computed, and right.
    Right,
    /// The device has no such kernel, with its reason.
    Refused(String),
    /// The device found something, or the result is off, in words.
    Wrong(String),
}

impl From<Result<(), Failure>> for Outcome {
    fn from(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Right,
            Err(Failure::Refused(reason)) => Self::Refused(reason),
            Err(Failure::Wrong(words)) => Self::Wrong(words),
        }
    }
}

enum Failure {
    Refused(String),
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::KernelRefused { reason, .. } => Self::Refused(reason),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl From<ParseMaskError> for Failure {
    fn from(error: ParseMaskError) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::Wrong(words)
    }
}

/// A problem for a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The kernel's name.
    pub name: &'static str,
    /// The kernel's entry point.
    pub entry_point: &'static str,
    run: fn(&Session) -> Result<(), Failure>,
}

impl Case {
    /// Computes it.
    pub fn run(&self, attention: &Session) -> Outcome {
        (self.run)(attention).into()
    }
}

macro_rules! case {
    ($name:literal, $entry_point:literal, $run:expr) => {
        Case { name: $name, entry_point: $entry_point, run: $run }
    };
}

/// A problem for each kernel: sizes off every tile, several heads and batches, rows without a key.
pub const CASES: &[Case] = &[
    case!("forward broadcast", "forward", |attention| {
        forward(attention, ForwardKernel::Broadcast, Dtype::F32)
    }),
    case!("forward tiled", "forward", |attention| {
        forward(attention, ForwardKernel::Tiled, Dtype::F32)
    }),
    case!("forward tiled, bf16", "forward", |attention| {
        forward(attention, ForwardKernel::Tiled, Dtype::Bf16)
    }),
    case!("forward matrix", "forward", |attention| {
        forward(attention, ForwardKernel::Matrix, Dtype::F16)
    }),
    case!("forward decode_lanes", "forward", |attention| {
        forward(attention, ForwardKernel::DecodeLanes, Dtype::F16)
    }),
    case!("forward decode", "forward", |attention| {
        forward(attention, ForwardKernel::Decode, Dtype::F32)
    }),
    case!("merge", "merge", |attention| splits(attention)),
    case!("modifiers", "forward", |attention| modifiers(attention)),
    case!("backward broadcast, dq", "backward_dq", |attention| {
        backward(attention, BackwardKernel::Broadcast)
    }),
    case!("backward broadcast, dk and dv", "backward_dkdv", |attention| {
        backward(attention, BackwardKernel::Broadcast)
    }),
    case!("backward tiled, dq", "backward_dq", |attention| {
        backward(attention, BackwardKernel::Tiled)
    }),
    case!("backward tiled, dk and dv", "backward_dkdv", |attention| {
        backward(attention, BackwardKernel::Tiled)
    }),
    case!("backward bias", "backward_bias", |attention| backward_modifiers(attention)),
    case!("backward sinks", "backward_sinks", |attention| backward_modifiers(attention)),
    case!("append", "append", |attention| append(attention)),
    case!("inspect", "inspect", |attention| inspect(attention)),
    case!("masks", "materialize", |attention| masks(attention)),
];

fn forward(attention: &Session, kernel: ForwardKernel, dtype: Dtype) -> Result<(), Failure> {
    let shape = match kernel.is_decode() {
        true => Shape::new(3, 4, 3, 20).seq_len_kv(83).num_kv_heads(2),
        false => Shape::new(2, 4, 41, 20).seq_len_kv(75).num_kv_heads(2),
    };
    let masks = ["causal & key_lengths", "self_only_if_alone(causal & documents)"];
    for (seed, mask) in (3..).zip(masks) {
        let mask: Mask = mask.parse()?;
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
        let operands = stored(Operands::random(&shape, seed), dtype.into());
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        check(attention, &problem, &mask, &operands, &outputs, dtype)?;
    }
    Ok(())
}

fn check(
    attention: &Session,
    problem: &Problem,
    mask: &Mask,
    operands: &Operands,
    outputs: &RunOptions,
    dtype: Dtype,
) -> Result<(), Failure> {
    let inputs = operands.inputs();
    let output = attention.run_blocking(problem, &inputs, outputs)?;
    let truth = reference::attention(problem, &inputs)?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(problem, mask, &inputs, &score, &data, dtype);
    close(&format!("o under {mask}"), &output.o, &naive.o, &truth.o)?;
    close(&format!("lse under {mask}"), &output.lse, &naive.lse, &truth.lse)?;
    Ok(())
}

fn splits(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(3, 4, 3, 20).seq_len_kv(203).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, 11);
    for splits in [3, 128] {
        let outputs = RunOptions::default().lse(true).num_splits(splits);
        check(attention, &problem, &mask, &operands, &outputs, Dtype::F32)?;
    }
    Ok(())
}

fn all_modifiers() -> ScoreModifiers {
    ScoreModifiers::default().softcap(50.0).bias(true).alibi(true).sinks(true)
}

fn modifiers(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(47).num_kv_heads(2);
    let mask: Mask = "causal".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).score(all_modifiers());
    let mut operands = Operands::random(&shape, 12);
    let data = ScoreData::random(&shape, 12);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs)?;
    let naive = naive_modified(&problem, &mask, &inputs, &all_modifiers(), &data, Dtype::F32);
    let outputs = RunOptions::default().lse(true);
    let output = attention.run_blocking(&problem, &inputs, &outputs)?;
    close("o with modifiers", &output.o, &naive.o, &truth.o)?;
    close("lse with modifiers", &output.lse, &naive.lse, &truth.lse)?;
    Ok(())
}

fn backward(attention: &Session, kernel: BackwardKernel) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 41, 20).seq_len_kv(35).num_kv_heads(2);
    let longer_keys = Shape::new(1, 2, 19, 64).seq_len_kv(21).head_dim_v(16);
    let cases = [
        (shape, "causal & key_lengths"),
        (shape, "self_only_if_alone(causal & documents)"),
        (longer_keys, "causal"),
    ];
    for (seed, (shape, mask)) in (6..).zip(cases) {
        let mask: Mask = mask.parse()?;
        let problem = Problem::new(shape).mask(mask.clone());
        let operands = Operands::random(&shape, seed);
        let inputs = operands.inputs();
        let dout: Vec<f32> = operands.q[..shape.o_len()?].iter().map(|x| x / 8.0).collect();
        let upstream = Upstream::new(&dout);
        let options = BackwardOptions::default().kernel(kernel);
        let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options)?;
        let truth = reference::gradients(&problem, &inputs, &upstream)?;
        let naive = naive_gradients(&problem, &mask, &inputs, &upstream);
        for (name, found, naive, truth) in [
            ("dq", &found.dq, &naive.dq, &truth.dq),
            ("dk", &found.dk, &naive.dk, &truth.dk),
            ("dv", &found.dv, &naive.dv, &truth.dv),
        ] {
            gradient_close(&format!("{name} under {mask}"), found, naive, truth)?;
        }
    }
    Ok(())
}

fn backward_modifiers(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(35).num_kv_heads(2);
    let mask: Mask = "causal".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).score(all_modifiers());
    let mut operands = Operands::random(&shape, 8);
    let data = ScoreData::random(&shape, 8);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let dout: Vec<f32> = operands.q.iter().map(|x| x / 8.0).collect();
    let upstream = Upstream::new(&dout);
    let options = BackwardOptions::default();
    let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options)?;
    let truth = reference::gradients(&problem, &inputs, &upstream)?;
    let naive = naive_gradients_modified(
        &problem,
        &mask,
        &inputs,
        &upstream,
        &all_modifiers(),
        &data,
        Dtype::F32,
    );
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
        ("dbias", &found.dbias, &naive.dbias, &truth.dbias),
        ("dsinks", &found.dsinks, &naive.dsinks, &truth.dsinks),
    ] {
        gradient_close(&format!("{name} with modifiers"), found, naive, truth)?;
    }
    Ok(())
}

/// Tokens in two calls, then attention over what was kept, in pages, too, and with rotated keys.
fn append(attention: &Session) -> Result<(), Failure> {
    const HEADS: usize = 4;
    let contiguous = CacheShape::new(2, 2, 40, 20);
    append_and_attend(attention, &contiguous, HEADS, None)?;
    append_and_attend(attention, &contiguous.layout(Layout::Bshd).dtype(Dtype::F16), HEADS, None)?;
    append_and_attend(attention, &contiguous.ring(), HEADS, None)?;
    let rotary = Rotary::new(20, 1e4, Pairing::Half);
    append_and_attend(attention, &contiguous.dtype(Dtype::I8), HEADS, Some(&rotary))
}

fn append_and_attend(
    attention: &Session,
    shape: &CacheShape,
    heads: usize,
    rotary: Option<&Rotary>,
) -> Result<(), Failure> {
    let (device, queue) = (attention.device(), attention.queue());
    let upload = |values: &[f32]| {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let size = (values.len() * 4) as u64;
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = device.create_buffer(&descriptor);
        queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        buffer
    };
    let (kernels, dim) = (attention.kernels(), shape.head_dim);
    let mut cache = KvCache::new(kernels, shape)?;
    let total = 20;
    let full = Shape::new(shape.batch, heads, total, dim).num_kv_heads(shape.num_kv_heads);
    let operands = Operands::random(&full, 21);
    let cut = |values: &[f32], from: usize, to: usize| -> Vec<f32> {
        values.chunks(total * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
    };
    for (from, to) in [(0, 17), (17, 20)] {
        let new = NewTokens::new(to - from);
        let new = match rotary {
            Some(rotary) => new.rotary(rotary.clone()).query_heads(heads),
            None => new,
        };
        let plan = AppendPlan::new(kernels, shape, &new)?;
        let [k, v, q] =
            [&operands.k, &operands.v, &operands.q].map(|values| upload(&cut(values, from, to)));
        let rotated = upload(&cut(&operands.q, from, to));
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
        let buffers = match rotary {
            Some(_) => buffers.q(q.slice(..)).rotated_q(rotated.slice(..)),
            None => buffers,
        };
        let problem = shape.problem(heads, to - from, QuerySequences::Uniform).mask(Mask::causal());
        let attend = AttentionPlan::new(kernels, &problem, &PlanOptions::default())?;
        let elements = shape.batch * heads * (to - from) * dim;
        let o = upload(&vec![0.0; elements]);
        let mut encoder = device.create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &mut cache, &buffers)?;
        let buffers = AttentionBuffers {
            q: if rotary.is_some() { rotated.slice(..) } else { q.slice(..) },
            k: cache.k(),
            v: cache.v(),
            aux: cache.aux_buffers(AuxBuffers::new()),
            o: o.slice(..),
            lse: None,
        };
        attend.encode(&mut encoder, &buffers)?;
        queue.submit([encoder.finish()]);
        let found = attention.read_blocking(&o, elements)?;
        // Of rotated keys and those of 8 bits there is no reference here: that they run is what is looked at.
        if rotary.is_none() {
            let whole = Problem::new(full).mask(Mask::causal());
            let mut kept = stored(Operands::random(&full, 21), shape.dtype.into());
            kept.q.clone_from(&operands.q);
            let truth = reference::attention(&whole, &kept.inputs())?;
            for (head, rows) in truth.o.chunks(total * dim).enumerate() {
                let own = &found[head * (to - from) * dim..][..(to - from) * dim];
                for (x, y) in own.iter().zip(&rows[from * dim..to * dim]) {
                    if (f64::from(*x) - y).abs() > 1e-3 {
                        return Err(format!("o over a cache, {shape:?}: {x} instead of {y}").into());
                    }
                }
            }
        }
    }
    Ok(())
}

fn inspect(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(47).num_kv_heads(2);
    let mask: Mask = "causal & documents".parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, 31);
    let inputs = operands.inputs();
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL);
    let output = attention.run_blocking(&problem, &inputs, &outputs)?;
    let truth = reference::attention(&problem, &inputs)?;
    let naive = naive(&problem, &mask, &inputs);
    let [scores, masked_scores, weights] = &output.tensors[..] else {
        return Err(Failure::Wrong("three tensors were asked for".into()));
    };
    close("scores", scores, &naive.scores, &truth.scores)?;
    close("masked scores", masked_scores, &naive.masked_scores, &truth.masked_scores)?;
    close("weights", weights, &naive.weights, &truth.weights)?;
    Ok(())
}

/// Every mask as a tensor and in tiles, against the reference's.
fn masks(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 2, 19, 8).seq_len_kv(23);
    let data = Operands::random(&shape, 41).mask;
    for mask in crate::operands::MASKS {
        let mask: Mask = mask.parse()?;
        let problem = Problem::new(shape).mask(mask.clone());
        let tensor = attention.materialize_blocking(&problem, &data, MaskFormat::Keep)?;
        let evaluator = Evaluator::new(&mask, &data, &shape)?;
        let [batch, heads, queries, keys] = tensor.dims;
        for (at, value) in tensor.values.iter().enumerate() {
            let (q_idx, kv_idx) = (at / keys % queries, at % keys);
            let (b, h) = (at / keys / queries / heads % batch, at / keys / queries % heads);
            if (*value != 0.0) != evaluator.keep(b, h, q_idx, kv_idx) {
                return Err(format!("{mask} at ({b}, {h}, {q_idx}, {kv_idx}): {value}").into());
            }
        }
        let grid = TileGrid { block_q: 5, block_kv: 7 };
        attention.tile_classes_blocking(&problem, &data, &TileOptions::default().grid(grid))?;
    }
    Ok(())
}
