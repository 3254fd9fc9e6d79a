//! Sequences of any lengths, and caches: where a sequence lies in a window is known to the device alone.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Dtype, KvCache, Layout, Mask,
    Problem, Session, Shape, reference,
};

use super::{assert_near, binding, run, windows};
use crate::fixture::{ATTENTION, Operands, kernels, serving};
use crate::sequences::Batch;
use crate::tolerance::{SCORES_ERROR, WEIGHTS_ERROR};

/// The same cache, appended to and attended over in one piece, and in windows that begin within the rows that share scales.
#[test]
fn caches_of_few_bits() {
    let mut rng = SmallRng::seed_from_u64(9);
    let mut random =
        |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-2.0..2.0)).collect() };
    for (dtype, row) in [(Dtype::I8, 24), (Dtype::I4, 20)] {
        let capacity = 2403;
        let shape = CacheShape::new(1, 2, capacity, 32).dtype(dtype);
        assert!(shape.bytes().unwrap() > 4 * row * capacity);
        let tokens = capacity - 3;
        let [k, v] = [0, 1].map(|_| upload(&ATTENTION, &random(2 * tokens * 32)));
        let kernels = ATTENTION.kernels();
        let mut cache = KvCache::new(kernels, &shape).unwrap();
        let append = AppendPlan::new(kernels, &shape, &NewTokens::new(tokens)).unwrap();
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
        append.encode(&mut encoder, &mut cache, &buffers).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);

        // Many queries, and few of them for the decode kernels.
        for queries in [37, 3] {
            let problem = shape.problem(4, queries, QuerySequences::Uniform).mask(Mask::causal());
            let q = random(4 * queries * 32);
            let [whole_q, whole_o] = [&q, &vec![0.0; q.len()]].map(|x| upload(&ATTENTION, x));
            let aux = AuxBuffers::new();
            let (q_slice, o_slice) = (whole_q.slice(..), whole_o.slice(..));
            let whole = cache.attention_buffers(&problem, q_slice, aux, o_slice).unwrap();
            let expected = attend(&ATTENTION, &problem, &whole, None);
            let small = binding(if dtype == Dtype::I8 { 60 << 10 } else { 40 << 10 });
            let words = |slice: wgpu::BufferSlice<'_>| {
                let words = slice.buffer().size() as usize / 4;
                upload(&small, &ATTENTION.read_blocking(slice.buffer(), words).unwrap())
            };
            let [k, v] = [words(whole.k), words(whole.v)];
            let [q, o] = [upload(&small, &q), upload(&small, &vec![f32::NAN; q.len()])];
            let length = upload(&small, &[f32::from_bits(tokens as u32)]);
            let aux = AuxBuffers::new().with(AuxTensor::KvLengths, length.slice(..));
            for kernel in serving(&problem, queries == 3) {
                let buffers = AttentionBuffers {
                    q: q.slice(..),
                    k: k.slice(..),
                    v: v.slice(..),
                    aux: aux.clone(),
                    o: o.slice(..),
                    lse: None,
                };
                assert!(windows(&small, &problem, &AuxData::new(), kernel) >= 2);
                let found = attend(&small, &problem, &buffers, Some(kernel));
                let expected: Vec<f64> = expected.iter().map(|&x| x.into()).collect();
                assert_near(&format!("{kernel}, {dtype}"), &found, &expected, WEIGHTS_ERROR);
            }
        }
    }
}

fn upload(attention: &Session, values: &[f32]) -> wgpu::Buffer {
    use wgpu::util::DeviceExt as _;
    attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

fn attend(
    attention: &Session,
    problem: &Problem,
    buffers: &AttentionBuffers<'_>,
    kernel: Option<ForwardKernel>,
) -> Vec<f32> {
    let options = PlanOptions::default().kernel(kernel);
    let plan = AttentionPlan::new(attention.kernels(), problem, &options).unwrap();
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, buffers).unwrap();
    attention.queue().submit([encoder.finish()]);
    attention.read_blocking(buffers.o.buffer(), problem.shape().o_len().unwrap()).unwrap()
}

/// Sequences that begin anywhere in a window: packed one behind the other. What lies between them is NaN.
#[test]
fn packed_sequences() {
    let keys = KeySequences::Packed { total: 174 };
    for (q, layout, bytes) in [
        (QuerySequences::Packed { total: 96 }, Layout::Bhsd, 11 << 10),
        (QuerySequences::LeftPadded, Layout::Bshd, 20 << 10),
    ] {
        check_batch(&Batch::new(q, keys, layout), bytes);
    }
}

/// Keys in an order that the device alone knows: in a ring that has gone round, and in blocks of a pool.
#[test]
fn rings_and_pools() {
    for (q, kv, layout, bytes) in [
        (QuerySequences::LeftPadded, KeySequences::Ring, Layout::Bhsd, 4 << 10),
        (
            QuerySequences::Packed { total: 96 },
            KeySequences::Paged { block_size: 16, blocks: 23, blocks_per_sequence: 6 },
            Layout::Bhsd,
            30 << 10,
        ),
    ] {
        check_batch(&Batch::new(q, kv, layout), bytes);
    }
}

fn check_batch(batch: &Batch, bytes: u64) {
    let (operands, attention) = (batch.operands(), binding(bytes));
    for mask in ["causal & window(19,inf) | global(2)", "!not_self | dilated(5,3)"] {
        let problem = batch.problem(mask);
        check_sequences(&attention, &problem, &operands, &kernels(&problem));
    }
}

/// The same with few queries, in splits of each window.
#[test]
fn steps_over_rings_and_pools() {
    let blocks: Vec<i32> = (0..26).map(|at| at * 7 % 29).collect();
    for kv in [
        KeySequences::Ring,
        KeySequences::Paged { block_size: 16, blocks: 29, blocks_per_sequence: 13 },
    ] {
        let sequences = Sequences { q: QuerySequences::Uniform, kv };
        let shape = Shape::new(2, 4, 3, 20).seq_len_kv(203).num_kv_heads(2).sequences(sequences);
        let mut operands = Operands::random(&shape, 11);
        let lengths = if kv == KeySequences::Ring { [350, 97] } else { [203, 97] };
        operands.mask = AuxData::new().kv_lengths(lengths).block_tables(blocks.clone());
        let problem =
            Problem::new(shape).mask("causal & window(120,0) | global(2)".parse().unwrap());
        let bytes = if kv == KeySequences::Ring { 8 << 10 } else { 30 << 10 };
        let attention = binding(bytes);
        check_sequences(&attention, &problem, &operands, &serving(&problem, true));
    }
}

/// The same in a cache, padded on their left: one begins in the first window, one in the last, one has no keys.
#[test]
fn sequences_in_a_cache() {
    let sequences =
        Sequences { q: QuerySequences::Uniform, kv: KeySequences::Cached { left_padded: true } };
    let (first, lengths) = ([13, 250, 9], [398, 301, 9]);
    for queries in [37, 3] {
        let shape = Shape::new(3, 4, queries, 20).seq_len_kv(403).num_kv_heads(2);
        let shape = shape.sequences(sequences);
        let mut operands = Operands::random(&shape, 10);
        operands.mask = AuxData::new().kv_first(first).kv_lengths(lengths);
        for (row, values) in operands.k.chunks_mut(20).enumerate() {
            let (b, at) = (row / 403 / 2, (row % 403) as i32);
            if at < first[b] || at >= lengths[b] {
                values.fill(f32::NAN);
                operands.v[row * 20..][..20].fill(f32::INFINITY);
            }
        }
        let attention = binding(20 << 10);
        for mask in ["causal", "window(9,inf) | global(2)"] {
            let problem = Problem::new(shape).mask(mask.parse().unwrap());
            check_sequences(&attention, &problem, &operands, &serving(&problem, queries == 3));
        }
    }
}

pub(super) fn check_sequences(
    attention: &Session,
    problem: &Problem,
    operands: &Operands,
    kernels: &[ForwardKernel],
) {
    let truth = reference::attention(problem, &operands.inputs()).unwrap();
    for &kernel in kernels {
        let output = run(attention, problem, operands, kernel);
        let what = format!("{kernel}, {}, {:?}", problem.get_mask(), problem.shape());
        assert_near(&format!("o of {what}"), &output.o, &truth.o, WEIGHTS_ERROR);
        assert_near(&format!("lse of {what}"), &output.lse, &truth.lse, SCORES_ERROR);
    }
}
