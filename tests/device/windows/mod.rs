//! Keys of one head that are more than the device binds in one piece: dispatches for windows of them, of which each goes on
//! from what the ones before have left.

mod caches;
mod gradients;
mod sequences;

use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::{Dtypes, KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionPlan, AuxData, Dtype, Error, Layout, Mask, Output, Problem, RunOptions,
    ScoreModifiers, Session, Shape, reference,
};

use crate::bad_input::assert_says;
use crate::fixture::{Operands, SCORES, ScoreData, kernels, limited, limited_with, serving};
use crate::operands::stored;
use crate::tolerance::{LONG_SUM, SCORES_ERROR, WEIGHTS_ERROR, assert_close, naive_modified};

/// A device that binds so many bytes.
fn binding(bytes: u64) -> Session {
    limited(|limits| limits.max_storage_buffer_binding_size = bytes)
}

/// In how many windows the plan of a kernel has the keys.
fn windows(attention: &Session, problem: &Problem, data: &AuxData, kernel: ForwardKernel) -> usize {
    let problem = problem.clone().aux_shape(data.shape());
    let options = PlanOptions::default().kernel(kernel);
    let plan = AttentionPlan::new(attention.kernels(), &problem, &options).unwrap();
    let words = plan.explain();
    let count = words.split_once("the keys in ").and_then(|(_, rest)| {
        let (before, _) = rest.split_once(" windows")?;
        before.rsplit(' ').next()?.parse().ok()
    });
    count.unwrap_or_else(|| panic!("{words}"))
}

/// As a kernel computes it, in at least two windows.
fn run(
    attention: &Session,
    problem: &Problem,
    operands: &Operands,
    kernel: ForwardKernel,
) -> Output {
    assert!(windows(attention, problem, &operands.mask, kernel) >= 2, "{kernel}");
    let options = RunOptions::default().lse(true).kernel(kernel);
    attention.run_blocking(problem, &operands.inputs(), &options).unwrap()
}

/// Compares every kernel that serves with the f64 reference, `[batch, heads, seq, dim]`.
fn check(
    attention: &Session,
    problem: &Problem,
    operands: &Operands,
    data: &ScoreData,
    kernels: &[ForwardKernel],
) {
    let (mask, inputs) = (problem.get_mask(), operands.inputs());
    let truth = reference::attention(problem, &inputs).unwrap();
    let coarsest = problem.get_dtypes().o;
    let naive = naive_modified(problem, mask, &inputs, problem.get_score(), data, coarsest);
    for &kernel in kernels {
        let output = run(attention, problem, operands, kernel);
        let what = format!("{kernel}, {mask}, {:?}", problem.shape());
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

/// 203 keys of 80 bytes each, where 8 KiB are bound; rows that keep nothing, in some windows or in all.
#[test]
fn masks() {
    let attention = binding(8 << 10);
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(203).num_kv_heads(2);
    for (seed, mask) in (0..).zip([
        "causal & key_lengths",
        "window(20,3)",
        "documents & prefix | not_self",
        "self_only_if_alone(causal & documents)",
        "per_head(all, key_padding, !causal, buckets)",
    ]) {
        let problem = Problem::new(shape).mask(mask.parse().unwrap());
        let operands = Operands::random(&shape, seed);
        check(&attention, &problem, &operands, &ScoreData::default(), &kernels(&problem));
    }
}

/// A window has rows of all heads side by side.
#[test]
fn heads_side_by_side() {
    let attention = binding(8 << 10);
    let shape = Shape::new(2, 2, 37, 20).seq_len_kv(203);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
    let operands = Operands::random(&shape, 1);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let swapped = Operands {
        q: swapped(&operands.q, [2, 2, 37, 20]),
        k: swapped(&operands.k, [2, 2, 203, 20]),
        v: swapped(&operands.v, [2, 2, 203, 20]),
        mask: operands.mask,
    };
    let problem = problem.layout(Layout::Bshd);
    for kernel in kernels(&problem) {
        let output = run(&attention, &problem, &swapped, kernel);
        let o = self::swapped(&output.o, [2, 37, 2, 20]);
        assert_near(&format!("o, {kernel}"), &o, &truth.o, WEIGHTS_ERROR);
        assert_near(&format!("lse, {kernel}"), &output.lse, &truth.lse, SCORES_ERROR);
    }
}

/// `[a, c, b, d]` of `[a, b, c, d]`.
fn swapped(values: &[f32], [a, b, c, d]: [usize; 4]) -> Vec<f32> {
    let rows =
        (0..a).flat_map(|i| (0..c).flat_map(move |k| (0..b).map(move |j| (i * b + j) * c + k)));
    rows.flat_map(|row| &values[row * d..][..d]).copied().collect()
}

fn assert_near(what: &str, found: &[f32], truth: &[f64], allowed: f64) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (at, (&x, &y)) in found.iter().zip(truth).enumerate() {
        let same = f64::from(x) == y || (x.is_nan() && y.is_nan());
        assert!(same || (f64::from(x) - y).abs() <= allowed, "{what}[{at}]: {x} instead of {y}");
    }
}

/// A block of the bias's rows is bound whole: 68 bytes for each key, which has 80.
#[test]
fn modifiers_and_dropout() {
    let attention = binding(15 << 10);
    let shape = Shape::new(1, 2, 17, 20).seq_len_kv(203);
    let score = SCORES[4];
    let data = ScoreData::random(&shape, 3);
    let mut operands = Operands::random(&shape, 3);
    operands.mask = data.add_to(&shape, operands.mask);
    let problem = Problem::new(shape).mask(Mask::causal()).score(score).dropout(0.3);
    check(&attention, &problem, &operands, &data, &kernels(&problem));
}

/// 10,001 keys in windows of some 4,500, of which each is summed in segments; sums of values of one sign.
#[test]
fn long_rows_in_segments() {
    let attention = binding(150 << 10);
    let shape = Shape::new(1, 1, 5, 8).seq_len_kv(10_001);
    let mut operands = Operands::random(&shape, 4);
    operands.v.iter_mut().for_each(|x| *x = x.abs());
    let problem = Problem::new(shape).mask("causal(offset=5000) & !window(30,3)".parse().unwrap());
    check(&attention, &problem, &operands, &ScoreData::default(), &kernels(&problem));
    // Equal terms, which a running sum would round the same way.
    operands.q.fill(0.0);
    operands.v.fill(0.7);
    for kernel in kernels(&problem) {
        let output = run(&attention, &problem, &operands, kernel);
        assert_near(&kernel.to_string(), &output.o, &[0.7; 40], LONG_SUM);
    }
}

/// What nobody keeps never matters, and what a row keeps reaches it and no other, in whichever window it is.
#[test]
fn hostile_keys() {
    let attention = binding(8 << 10);
    let shape = Shape::new(1, 2, 37, 20).seq_len_kv(203);
    let mask: Mask = "causal".parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let clean = Operands::random(&shape, 5);
    let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
    for (at, value) in
        [(0, f32::NAN), (90, f32::INFINITY), (170, f32::NEG_INFINITY), (202, f32::NAN)]
    {
        let mut hostile = Operands::random(&shape, 5);
        for h in 0..2 {
            hostile.v[(h * 203 + at) * 20 + 7] = value;
        }
        for kernel in kernels(&problem) {
            let [found, expected] =
                [&hostile, &clean].map(|operands| run(&attention, &problem, operands, kernel));
            for (index, (x, y)) in found.o.iter().zip(&expected.o).enumerate() {
                let reached = index % 20 == 7 && evaluator.keep(0, 0, index / 20 % 37, at);
                let right = match reached {
                    true => x.to_bits() == value.to_bits() || (x.is_nan() && value.is_nan()),
                    false => x.to_bits() == y.to_bits(),
                };
                assert!(right, "{kernel}, {value} at key {at}: o[{index}] is {x}, not {y}");
            }
        }
    }
}

#[test]
fn keys_and_values_of_16_bits() {
    let attention = binding(5 << 10);
    let shape = Shape::new(1, 2, 37, 20).seq_len_kv(203);
    let dtypes = Dtypes::default().k(Dtype::F16).v(Dtype::Bf16);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let problem = Problem::new(shape).mask(mask).dtypes(dtypes);
    let operands = stored(Operands::random(&shape, 2), dtypes);
    check(&attention, &problem, &operands, &ScoreData::default(), &kernels(&problem));
}

/// In 16 bits every window rounds o once more: each time by at most half of the last bit of the largest value.
#[test]
fn outputs_of_16_bits() {
    let attention = binding(8 << 10);
    for (dtype, half_bit) in [(Dtype::F16, 1.0 / 4096.0), (Dtype::Bf16, 1.0 / 512.0)] {
        for dim_v in [20, 13] {
            let shape = Shape::new(1, 2, 37, 20).seq_len_kv(203).head_dim_v(dim_v);
            let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
            let problem = problem.dtypes(Dtypes::default().o(dtype));
            let operands = Operands::random(&shape, 6);
            let truth = reference::attention(&problem, &operands.inputs()).unwrap();
            for kernel in kernels(&problem) {
                let count = windows(&attention, &problem, &operands.mask, kernel);
                let output = run(&attention, &problem, &operands, kernel);
                let allowed = count as f64 * half_bit * 8.0 + WEIGHTS_ERROR;
                assert_near(&format!("o of {kernel}, {dtype}"), &output.o, &truth.o, allowed);
                assert!(output.o.iter().all(|&x| dtype.round(x) == x), "{kernel}");
            }
        }
    }
}

/// Dispatches for slices of o, each over all windows.
#[test]
fn slices_of_long_rows() {
    let attention = limited_with(KernelOptions::default().registers(96), |limits| {
        limits.max_storage_buffer_binding_size = 150 << 10;
    });
    let shape = Shape::new(1, 1, 5, 8).seq_len_kv(203).head_dim_v(520);
    let problem = Problem::new(shape).mask(Mask::causal());
    let options = PlanOptions::default().kernel(ForwardKernel::Tiled);
    let text = attention.kernels().wgsl(&problem, &options).unwrap();
    assert!(text.contains("const SLICED: bool = true;"));
    let operands = Operands::random(&shape, 7);
    check(&attention, &problem, &operands, &ScoreData::default(), &[ForwardKernel::Tiled]);
}

#[test]
fn few_queries_in_splits_of_windows() {
    let attention = binding(20 << 10);
    let shape = Shape::new(3, 8, 3, 20).seq_len_kv(403).num_kv_heads(2).head_dim_v(8);
    let score = ScoreModifiers::default().sinks(true).alibi(true);
    let data = ScoreData::random(&shape, 8);
    for (seed, mask) in (0..).zip(["causal & key_lengths", "documents", "window(9,0)"]) {
        let mut operands = Operands::random(&shape, seed);
        operands.mask = data.add_to(&shape, operands.mask);
        let problem = Problem::new(shape).mask(mask.parse().unwrap()).score(score);
        let kernels = serving(&problem, true);
        check(&attention, &problem, &operands, &data, &kernels);
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        for (kernel, splits) in kernels.into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 9)]) {
            let options = RunOptions::default().lse(true).kernel(kernel).num_splits(splits);
            let output = attention.run_blocking(&problem, &operands.inputs(), &options).unwrap();
            let what = format!("{kernel}, {mask}, {splits} splits");
            assert_near(&format!("o of {what}"), &output.o, &truth.o, WEIGHTS_ERROR);
            assert_near(&format!("lse of {what}"), &output.lse, &truth.lse, SCORES_ERROR);
        }
    }
}

/// A sequence gets the same bits alone and beside others; where its windows follow from the others, that is refused.
#[test]
fn the_same_bits_in_every_batch() {
    let attention = binding(20 << 10);
    let shape = Shape::new(3, 8, 3, 20).seq_len_kv(403).num_kv_heads(2).head_dim_v(8);
    let problem = |shape| Problem::new(shape).mask(Mask::window(9, 0));
    let operands = Operands::random(&shape, 4);
    let [q, k, v] = [&operands.q, &operands.k, &operands.v].map(|x| x[x.len() / 3 * 2..].to_vec());
    let alone = Operands { q, k, v, mask: AuxData::new() };
    let options = RunOptions::default().lse(true).batch_invariant(true);
    for kernel in [kernels(&problem(shape)), serving(&problem(shape), true)].concat() {
        assert!(windows(&attention, &problem(shape), &AuxData::new(), kernel) >= 2);
        let [all, one] = [(shape, &operands), (shape.batch(1), &alone)].map(|(shape, operands)| {
            let options = options.clone().kernel(kernel);
            attention.run_blocking(&problem(shape), &operands.inputs(), &options).unwrap()
        });
        assert_eq!(all.o[all.o.len() / 3 * 2..], one.o, "{kernel}");
        assert_eq!(all.lse[all.lse.len() / 3 * 2..], one.lse, "{kernel}");
    }
    let kv = KeySequences::Packed { total: 403 };
    let packed = problem(shape.sequences(Sequences { q: QuerySequences::Uniform, kv }));
    let options = PlanOptions::default().batch_invariant(true);
    let error = AttentionPlan::new(attention.kernels(), &packed, &options).unwrap_err();
    assert_says(&error, &["batch_invariant:", "binds in one piece", "windows"]);
}

/// What windows of the keys don't help is refused by its name, with what to do.
#[test]
fn what_windows_dont_help() {
    let attention = binding(8 << 10);
    let shape = Shape::new(1, 1, 64, 20).seq_len_kv(203);
    let score = ScoreModifiers::default().bias(true);
    let problem = Problem::new(shape).score(score);
    let data = AuxData::new().bias([1, 1, 64, 203], vec![0.0; 64 * 203]);
    let problem = problem.aux_shape(data.shape());
    let error =
        AttentionPlan::new(attention.kernels(), &problem, &PlanOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    assert_says(&error, &["bias (", "max_storage_buffer_binding_size is 8192", "or use a device"]);
}
