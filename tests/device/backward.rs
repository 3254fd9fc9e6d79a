//! The gradients against the f64 reference's, which finite differences check: every operand, under every mask.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu::util::DeviceExt as _;
use wgpu_attention::reference::{self, ReferenceGradients};
use wgpu_attention::{
    BackwardBuffers, BackwardKernel, BackwardOptions, BackwardPlan, Custom, CustomType, Dtype,
    Error, Evaluator, Gradients, Mask, OutputGradients, Outputs, Problem, Score, Shape, Strides,
};

use crate::fixture::{ATTENTION, Operands, ScoreData};
use crate::forward::MASKS;
use crate::tolerance::{assert_gradient_close, naive_gradients, naive_gradients_modified};

/// The backward kernels that serve `problem` here.
fn kernels(problem: &Problem) -> Vec<BackwardKernel> {
    let serves = |kernel: &BackwardKernel| {
        let options = BackwardOptions { kernel: Some(*kernel), ..BackwardOptions::default() };
        match BackwardPlan::with_options(ATTENTION.kernels(), problem, &options) {
            Ok(_) => true,
            Err(Error::KernelRefused { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let serving: Vec<_> = BackwardKernel::ALL.into_iter().filter(serves).collect();
    assert!(!serving.is_empty(), "some kernel serves every problem");
    serving
}

/// What a loss gives back: dout and dlse.
struct Upstream {
    dout: Vec<f32>,
    dlse: Vec<f32>,
}

impl Upstream {
    fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x646f_7574);
        let mut tensor = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
        Self { dout: tensor(shape.o_len().unwrap()), dlse: tensor(shape.lse_len().unwrap()) }
    }

    fn of_o(&self) -> OutputGradients<'_> {
        OutputGradients::new(&self.dout)
    }

    fn of_o_and_lse(&self) -> OutputGradients<'_> {
        self.of_o().dlse(&self.dlse)
    }
}

fn run(
    problem: &Problem,
    operands: &Operands,
    upstream: &OutputGradients<'_>,
    kernel: BackwardKernel,
) -> Gradients {
    let options = BackwardOptions { kernel: Some(kernel), ..BackwardOptions::default() };
    ATTENTION.gradients_blocking(problem, &operands.inputs(), upstream, &options).unwrap()
}

fn assert_all_close(what: &str, found: &Gradients, naive: &Gradients, truth: &ReferenceGradients) {
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
        ("dbias", &found.dbias, &naive.dbias, &truth.dbias),
        ("dsinks", &found.dsinks, &naive.dsinks, &truth.dsinks),
    ] {
        assert_gradient_close(&format!("{name} of {what}"), found, naive, truth);
    }
}

/// Compares every gradient of every kernel that serves, on random operands of dense tensors, with the f64 reference.
fn check(shape: Shape, mask: &str, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    check_problem(&problem, &mask, &Operands::random(&shape, seed), seed);
}

fn check_problem(problem: &Problem, mask: &Mask, operands: &Operands, seed: u64) {
    check_kernels(problem, mask, operands, seed, &kernels(problem));
}

fn check_kernels(
    problem: &Problem,
    mask: &Mask,
    operands: &Operands,
    seed: u64,
    kernels: &[BackwardKernel],
) {
    let shape = problem.shape();
    let upstream = Upstream::random(shape, seed);
    // Every other case has a loss that uses lse, too.
    let upstream = if seed.is_multiple_of(2) { upstream.of_o() } else { upstream.of_o_and_lse() };
    let inputs = operands.inputs();
    let truth = reference::gradients(problem, &inputs, &upstream).unwrap();
    let naive = naive_gradients(problem, mask, &inputs, &upstream);
    for &kernel in kernels {
        let found = run(problem, operands, &upstream, kernel);
        assert_all_close(&format!("{kernel}, {mask}, {shape:?}"), &found, &naive, &truth);
    }
}

/// Queries × keys: off every tile, more of the one, more of the other, one.
const LENGTHS: &[(usize, usize)] =
    &[(1, 1), (3, 15), (17, 3), (65, 33), (113, 127), (129, 129), (1, 203), (203, 1)];

#[test]
fn every_mask_on_awkward_sizes() {
    for (at, mask) in MASKS.iter().enumerate() {
        for (seed, &(seq_len_q, seq_len_kv)) in (100 * at as u64..).zip(LENGTHS) {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_kv(seq_len_kv).kv_heads(2);
            let mask: Mask = mask.parse().unwrap();
            let problem = Problem::new(shape).mask(mask.clone());
            // A mask's functions are the same text in every kernel, and kernels take long to compile: the best one
            // takes every mask, the others one mask in five, of each kind of class.
            let kernels = kernels(&problem);
            let kernels = if at % 5 == 1 { &kernels[..] } else { &kernels[..1] };
            check_kernels(&problem, &mask, &Operands::random(&shape, seed), seed, kernels);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let shape = Shape::new(2, 4, 70, 20).seq_kv(75).kv_heads(2);
    let problem = Problem::new(shape).mask("documents & causal".parse().unwrap());
    let operands = Operands::random(&shape, 3);
    let upstream = Upstream::random(&shape, 3);
    for kernel in kernels(&problem) {
        let [first, second] = [(); 2].map(|()| run(&problem, &operands, &upstream.of_o(), kernel));
        for (a, b) in [(&first.dq, &second.dq), (&first.dk, &second.dk), (&first.dv, &second.dv)] {
            assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()), "{kernel}");
        }
    }
}

#[test]
fn nothing_to_compute() {
    for shape in [
        Shape::new(0, 2, 5, 8),
        Shape::new(2, 2, 0, 8),
        Shape::new(2, 2, 5, 8).seq_kv(0),
        Shape::new(2, 2, 0, 8).seq_kv(0),
    ] {
        for mask in ["all", "causal & key_lengths", "documents", "self_only_if_alone(dense)"] {
            check(shape, mask, 1);
        }
    }
}

/// Every leaf once more where rows and columns are many, one size each, and the other sizes under one mask.
#[test]
fn every_head_dim() {
    for (seed, head_dim) in (0..).zip([1, 3, 4, 17, 64, 100]) {
        let shape = Shape::new(1, 2, 37, head_dim).seq_kv(41);
        check(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn values_of_another_width() {
    for (seed, (head_dim, head_dim_v)) in (0..).zip([(64, 1), (1, 64), (24, 60)]) {
        let shape = Shape::new(2, 2, 37, head_dim).seq_kv(41).dim_v(head_dim_v);
        check(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn multi_query_heads() {
    check(Shape::new(2, 6, 33, 20).kv_heads(1), "causal & key_lengths", 1);
    check(Shape::new(2, 6, 33, 20).kv_heads(3), "dense", 2);
}

#[test]
fn long_rows() {
    check(Shape::new(1, 1, 1023, 20), "causal", 1);
    check(Shape::new(1, 2, 217, 20).seq_kv(1023).kv_heads(1), "causal & key_lengths", 2);
    check(Shape::new(1, 1, 1023, 20).seq_kv(257), "documents", 3);
}

#[test]
fn scales() {
    let shape = Shape::new(1, 2, 33, 20);
    for scale in [0.0, 1.0, -0.3, 1e-20] {
        let problem = Problem::new(shape).mask(Mask::causal()).with_scale(scale);
        check_problem(&problem, &Mask::causal(), &Operands::random(&shape, 11), 11);
    }
}

/// Each modifier alone, then all.
const SCORES: [Score; 5] = [
    Score { softcap: Some(20.0), bias: false, alibi: false, sinks: false },
    Score { softcap: None, bias: true, alibi: false, sinks: false },
    Score { softcap: None, bias: false, alibi: true, sinks: false },
    Score { softcap: None, bias: false, alibi: false, sinks: true },
    Score { softcap: Some(50.0), bias: true, alibi: true, sinks: true },
];

#[test]
fn every_modifier_alone_and_together() {
    for (seed, score) in (0..).zip(SCORES) {
        for (seq_len_q, seq_len_kv) in [(37, 70), (70, 33)] {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_kv(seq_len_kv).kv_heads(2);
            check_score(shape, "causal & key_lengths", score, 0.2, seed);
            check_score(shape, "all", score, -0.2, seed + 1);
        }
    }
}

fn check_score(shape: Shape, mask: &str, score: Score, scale: f32, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score).with_scale(scale);
    let data = ScoreData::random(&shape, seed);
    let mut operands = Operands::random(&shape, seed);
    operands.mask = data.add_to(&shape, operands.mask);
    let (inputs, upstream) = (operands.inputs(), Upstream::random(&shape, seed));
    let upstream = upstream.of_o_and_lse();
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    let naive =
        naive_gradients_modified(&problem, &mask, &inputs, &upstream, &score, &data, Dtype::F32);
    // The best kernel takes each modifier alone, all take them together.
    let kernels = kernels(&problem);
    let together = score.softcap.is_some() && score.bias;
    for &kernel in if together { &kernels[..] } else { &kernels[..1] } {
        let found = run(&problem, &operands, &upstream, kernel);
        let what = format!("{kernel}, {mask}, {score:?}, {shape:?}");
        assert_all_close(&what, &found, &naive, &truth);
    }
}

/// A bias that is broadcast has the sum of what a full one has.
#[test]
fn a_broadcast_bias_has_the_sum() {
    let shape = Shape::new(2, 3, 37, 20).seq_kv(70);
    let score = Score { bias: true, softcap: Some(30.0), ..Score::default() };
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap()).score(score);
    let mut operands = Operands::random(&shape, 2);
    let data = operands.mask.clone();
    let upstream = Upstream::random(&shape, 2);
    for dims in [[1, 1, 37, 70], [2, 1, 1, 70], [1, 3, 1, 70], [1, 1, 1, 70], [2, 1, 37, 70]] {
        let cells: usize = dims.iter().product();
        let value = |at: usize| (at * 37 % 101) as f32 / 25.0 - 2.0;
        operands.mask = data.clone().bias(dims, (0..cells).map(value));
        let problem = problem.clone().data_shape(operands.mask.shape());
        let inputs = operands.inputs();
        let truth = reference::gradients(&problem, &inputs, &upstream.of_o()).unwrap();
        // The naive gradient of the full bias, summed.
        let place = |at: usize| {
            let index = [at / (3 * 37 * 70), at / (37 * 70) % 3, at / 70 % 37, at % 70];
            dims.iter().zip(index).fold(0, |place, (&dim, i)| place * dim + i % dim)
        };
        let full = ScoreData {
            bias: (0..2 * 3 * 37 * 70).map(|at| value(place(at))).collect(),
            ..ScoreData::default()
        };
        let mask = "causal & key_lengths".parse().unwrap();
        let upstream = upstream.of_o();
        let mut naive = naive_gradients_modified(
            &problem,
            &mask,
            &inputs,
            &upstream,
            &score,
            &full,
            Dtype::F32,
        );
        let mut sums = vec![0.0; cells];
        naive.dbias.iter().enumerate().for_each(|(at, x)| sums[place(at)] += x);
        naive.dbias = sums;
        for kernel in kernels(&problem) {
            let found = run(&problem, &operands, &upstream, kernel);
            assert_all_close(&format!("{kernel}, {dims:?}"), &found, &naive, &truth);
        }
    }
}

/// A function of one's own with its derivative, against the crate's own softcap and ALiBi; without it, an error.
#[test]
fn a_score_function_with_its_derivative() {
    let shape = Shape::new(2, 4, 37, 20).seq_kv(41).kv_heads(2);
    let score_mod = "
        fn capped(score: f32) -> f32 { return tanh(score / 20.0); }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            let own = i32(q_idx) + 41 - 37;
            return 20.0 * capped(score) - slopes(h) * f32(abs(own - i32(kv_idx)));
        }";
    let derivative = "
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad * (1.0 - capped(score) * capped(score));
        }";
    let custom =
        |text: String| Custom::new(text).unwrap().buffer("slopes", CustomType::F32, 4).unwrap();
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let known = Score { softcap: Some(20.0), alibi: true, ..Score::default() };
    let known = Problem::new(shape).mask(mask.clone()).score(known);
    let own = Problem::new(shape).mask(mask.clone());
    let mut operands = Operands::random(&shape, 1);
    let data = ScoreData::random(&shape, 1);
    operands.mask = data.add_to(&shape, operands.mask).custom_f32("slopes", data.slopes.clone());
    let upstream = Upstream::random(&shape, 1);
    let (inputs, upstream) = (operands.inputs(), upstream.of_o());
    let truth = reference::gradients(&known, &inputs, &upstream).unwrap();
    let score = Score { softcap: Some(20.0), alibi: true, ..Score::default() };
    let naive =
        naive_gradients_modified(&known, &mask, &inputs, &upstream, &score, &data, Dtype::F32);
    let full = own.clone().score_mod(custom(format!("{score_mod}{derivative}")));
    for kernel in kernels(&full) {
        let found = run(&full, &operands, &upstream, kernel);
        assert_all_close(&format!("{kernel}, score_mod"), &found, &naive, &truth);
    }
    let without = own.score_mod(custom(score_mod.to_owned()));
    let error = BackwardPlan::new(ATTENTION.kernels(), &without).unwrap_err().to_string();
    assert!(error.contains("score_mod: expected its derivative"), "{error}");
}

const HOSTILE: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];

/// Rows of q and dout that keep nothing, and keys and values that nobody keeps, are replaced: every bit of every gradient
/// stays.
#[test]
fn what_nobody_keeps_never_matters() {
    let shape = Shape::new(3, 4, 70, 20).seq_kv(75).kv_heads(2);
    for (seed, mask) in
        (0..).zip(["key_lengths & causal(offset=-20)", "documents & !prefix & window(3,0)"])
    {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, seed);
        let mut hostile = Operands::random(&shape, seed);
        let upstream = Upstream::random(&shape, seed);
        let mut dout = upstream.dout.clone();
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let keeps = |b, h, q_idx, kv_idx| evaluator.keep(b, h, q_idx, kv_idx);
        let mut replaced = 0;
        for b in 0..shape.batch {
            for h in 0..shape.num_heads {
                for q_idx in 0..shape.seq_len_q {
                    if (0..shape.seq_len_kv).all(|kv_idx| !keeps(b, h, q_idx, kv_idx)) {
                        let row = (b * shape.num_heads + h) * shape.seq_len_q + q_idx;
                        hostile.q[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                        dout[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                        replaced += 1;
                    }
                }
            }
        }
        let rows = replaced;
        for b in 0..shape.batch {
            for h_kv in 0..shape.num_kv_heads {
                for kv_idx in 0..shape.seq_len_kv {
                    let group = h_kv * shape.group_size()..(h_kv + 1) * shape.group_size();
                    let mut rows = group.flat_map(|h| (0..shape.seq_len_q).map(move |q| (h, q)));
                    if rows.all(|(h, q_idx)| !keeps(b, h, q_idx, kv_idx)) {
                        let row = (b * shape.num_kv_heads + h_kv) * shape.seq_len_kv + kv_idx;
                        hostile.k[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                        hostile.v[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                        replaced += 1;
                    }
                }
            }
        }
        assert!(rows > 0 && replaced > rows, "{mask} keeps everything, so it tests nothing");
        let problem = Problem::new(shape).mask(mask.clone());
        for kernel in kernels(&problem) {
            let expected = run(&problem, &clean, &upstream.of_o(), kernel);
            let found = run(&problem, &hostile, &OutputGradients::new(&dout), kernel);
            for (name, expected, found) in [
                ("dq", &expected.dq, &found.dq),
                ("dk", &expected.dk, &found.dk),
                ("dv", &expected.dv, &found.dv),
            ] {
                assert!(expected.iter().all(|x| x.is_finite()));
                assert_eq!(bits(expected), bits(found), "{kernel}, {mask}: {name}");
            }
        }
    }
}

/// Numbers that aren't finite in the middle: gradients of who masks them keep every bit, those of who keeps them show it.
#[test]
fn hostile_numbers_reach_who_keeps_them_and_no_other() {
    let shape = Shape::new(1, 2, 70, 20);
    let upstream = Upstream::random(&shape, 4);
    for mask in ["causal", "window(5,5)", "documents & not_self"] {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, 4);
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let problem = Problem::new(shape).mask(mask.clone());
        for (tensor, row, value) in [
            ("k", 17, f32::NAN),
            ("v", 37, f32::INFINITY),
            ("q", 41, f32::NAN),
            ("dout", 33, f32::NEG_INFINITY),
            ("dout", 69, f32::NAN),
        ] {
            let mut hostile = Operands::random(&shape, 4);
            let mut dout = upstream.dout.clone();
            // Head 0, one component.
            let place = match tensor {
                "q" => &mut hostile.q,
                "k" => &mut hostile.k,
                "v" => &mut hostile.v,
                _ => &mut dout,
            };
            place[row * 20 + 3] = value;
            // Whose weights or gradients a NaN touches: rows that keep the key, or the row itself; and what they keep.
            let kept = |q_idx, kv_idx| evaluator.keep(0, 0, q_idx, kv_idx);
            let any_kept = |q_idx| (0..70).any(|kv_idx| kept(q_idx, kv_idx));
            let row_is_hit = |q_idx: usize| match tensor {
                "q" | "dout" => q_idx == row && any_kept(q_idx),
                _ => kept(q_idx, row),
            };
            let key_is_hit =
                |kv_idx: usize| (0..70).any(|q_idx| kept(q_idx, kv_idx) && row_is_hit(q_idx));
            for kernel in kernels(&problem) {
                let expected = run(&problem, &clean, &upstream.of_o(), kernel);
                let found = run(&problem, &hostile, &OutputGradients::new(&dout), kernel);
                for at in 0..140 {
                    let what = format!("{kernel}, {mask}, {tensor}[{row}], row {at}");
                    for (name, hit, expected, found) in [
                        ("dq", at < 70 && row_is_hit(at), &expected.dq, &found.dq),
                        ("dk", at < 70 && key_is_hit(at), &expected.dk, &found.dk),
                        ("dv", at < 70 && key_is_hit(at), &expected.dv, &found.dv),
                    ] {
                        let (expected, found) =
                            (&expected[at * 20..][..20], &found[at * 20..][..20]);
                        if !hit {
                            assert_eq!(bits(expected), bits(found), "{name} of {what}");
                        } else if name != "dv" || tensor == "q" || tensor == "k" {
                            assert!(found.iter().all(|x| !x.is_finite()), "{name} of {what}");
                        } else if tensor == "dout" {
                            // A weight that is 0 in f32 turns an infinity into NaN, so which of the two isn't said.
                            let one =
                                found.iter().enumerate().all(|(d, x)| x.is_finite() != (d == 3));
                            assert!(one, "{name} of {what}: {found:?}");
                        }
                    }
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// 16-bit tensors and gradients, rows that are read four at a time and rows of odd lengths that share words.
#[test]
fn every_type() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for (seed, head_dim) in (0..).zip([20, 15]) {
            let shape = Shape::new(2, 4, 37, head_dim).seq_kv(41).kv_heads(2);
            let mask: Mask = "causal & key_lengths".parse().unwrap();
            let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
            let mut operands = Operands::random(&shape, seed);
            let mut upstream = Upstream::random(&shape, seed);
            for tensor in [&mut operands.q, &mut operands.k, &mut operands.v, &mut upstream.dout] {
                tensor.iter_mut().for_each(|x| *x = dtype.round(*x));
            }
            let (inputs, upstream) = (operands.inputs(), upstream.of_o_and_lse());
            let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
            let none = (Score::default(), ScoreData::default());
            let naive = naive_gradients_modified(
                &problem, &mask, &inputs, &upstream, &none.0, &none.1, dtype,
            );
            for kernel in kernels(&problem) {
                for stored in [Dtype::F32, dtype] {
                    let options = BackwardOptions {
                        kernel: Some(kernel),
                        dtypes: stored.into(),
                        ..BackwardOptions::default()
                    };
                    let found =
                        ATTENTION.gradients_blocking(&problem, &inputs, &upstream, &options);
                    let found = found.unwrap();
                    let what = format!("{kernel}, {dtype} to {stored}, {shape:?}");
                    assert_all_close(&what, &found, &naive, &truth);
                    let exact = found.dq.iter().all(|&x| stored.round(x) == x);
                    assert!(exact, "dq of {what} isn't of its type");
                }
            }
        }
    }
}

/// Tensors and gradients of any strides: what is dense gives the same numbers.
#[test]
fn arbitrary_strides() {
    let shape = Shape::new(2, 4, 9, 6).seq_kv(11).kv_heads(2);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 9);
    let upstream = Upstream::random(&shape, 9);
    // [seq, heads, batch, dim] with room behind each row
    let strides = |heads: usize| Strides { batch: 8, head: 16, seq: 16 * heads, dim: 1 };
    let spread = |values: &[f32], heads: usize, seq: usize| {
        let mut placed = vec![f32::NAN; (16 * heads) * (seq - 1) + 16 * (heads - 1) + 8 + 6];
        for (at, value) in values.iter().enumerate() {
            let (b, h) = (at / 6 / seq / heads, at / 6 / seq % heads);
            placed[b * 8 + h * 16 + at / 6 % seq * 16 * heads + at % 6] = *value;
        }
        placed
    };
    let placed = Operands {
        q: spread(&operands.q, 4, 9),
        k: spread(&operands.k, 2, 11),
        v: spread(&operands.v, 2, 11),
        mask: operands.mask.clone(),
    };
    let dout = spread(&upstream.dout, 4, 9);
    let spread_problem = (problem.clone())
        .q_strides(strides(4))
        .k_strides(strides(2))
        .v_strides(strides(2))
        .o_strides(strides(4));
    for kernel in kernels(&spread_problem) {
        let dense = run(&problem, &operands, &upstream.of_o(), kernel);
        let found = run(&spread_problem, &placed, &OutputGradients::new(&dout), kernel);
        for (name, found, dense, heads, seq) in [
            ("dq", &found.dq, &dense.dq, 4, 9),
            ("dk", &found.dk, &dense.dk, 2, 11),
            ("dv", &found.dv, &dense.dv, 2, 11),
        ] {
            let expected = spread(dense, heads, seq);
            for (at, (x, y)) in found.iter().zip(&expected).enumerate() {
                // Between the rows nothing is written.
                assert!(
                    x == y || (y.is_nan() && *x == 0.0),
                    "{kernel}: {name}[{at}]: {x}, not {y}"
                );
            }
        }
    }
}

/// One gradient alone has the same bits as all together.
#[test]
fn each_gradient_alone() {
    let shape = Shape::new(1, 2, 33, 20).seq_kv(41);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 5);
    let upstream = Upstream::random(&shape, 5);
    let device = ATTENTION.kernels().device();
    let filled = |contents: &[u8]| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        })
    };
    let floats = |values: &[f32]| filled(bytemuck::cast_slice(values));
    let output = |elements: usize| filled(&vec![0xff; elements * 4]);
    for kernel in kernels(&problem) {
        let expected = run(&problem, &operands, &upstream.of_o(), kernel);
        let options = BackwardOptions { kernel: Some(kernel), ..BackwardOptions::default() };
        let plan = BackwardPlan::with_options(ATTENTION.kernels(), &problem, &options).unwrap();
        let forward = Outputs { lse: true, ..Outputs::default() };
        let forward = ATTENTION.run_blocking(&problem, &operands.inputs(), &forward).unwrap();
        let inputs =
            [&operands.q, &operands.k, &operands.v, &forward.o, &forward.lse, &upstream.dout]
                .map(|values| floats(values));
        let [q, k, v, o, lse, dout] = inputs.each_ref().map(|buffer| buffer.slice(..));
        for (which, expected) in [&expected.dq, &expected.dk, &expected.dv].into_iter().enumerate()
        {
            let written = output(expected.len());
            let slice = |at: usize| (at == which).then(|| written.slice(..));
            let buffers = BackwardBuffers {
                dq: slice(0),
                dk: slice(1),
                dv: slice(2),
                ..BackwardBuffers::new(q, k, v, o, lse, dout)
            };
            let mut encoder = device.create_command_encoder(&Default::default());
            plan.encode(&mut encoder, &buffers).unwrap();
            plan.encode_reusing_mask(&mut encoder, &buffers).unwrap();
            ATTENTION.queue().submit([encoder.finish()]);
            let found = ATTENTION.read_blocking(&written, expected.len()).unwrap();
            assert_eq!(bits(&found), bits(expected), "{kernel}, gradient {which}");
        }
        assert!(plan.scratch_bytes() >= 2 * 33 * 16);
    }
}

#[test]
fn bad_input() {
    let shape = Shape::new(1, 2, 5, 8);
    let operands = Operands::random(&shape, 1);
    let refusal = |problem: &Problem, upstream: &OutputGradients<'_>, options: BackwardOptions| {
        let inputs = operands.inputs();
        ATTENTION.gradients_blocking(problem, &inputs, upstream, &options).unwrap_err().to_string()
    };
    let says = |text: String, parts: &[&str]| {
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    };
    let problem = Problem::new(shape);
    let none = BackwardOptions::default();
    says(refusal(&problem, &OutputGradients::new(&[0.0; 79]), none), &["dout", "80", "79"]);
    let upstream = OutputGradients::new(&[0.0; 80]);
    says(refusal(&problem, &upstream.dlse(&[0.0; 9]), none), &["dlse", "10 elements", "9"]);
    let repeated = Strides { batch: 0, head: 0, seq: 8, dim: 1 };
    let options = BackwardOptions { dk_strides: Some(repeated), ..none };
    says(refusal(&problem, &upstream, options), &["dk's strides", "place of its own"]);

    let buffer = |usage| {
        ATTENTION.kernels().device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 320,
            usage,
            mapped_at_creation: false,
        })
    };
    let a = buffer(wgpu::BufferUsages::STORAGE);
    let plan = BackwardPlan::new(ATTENTION.kernels(), &problem).unwrap();
    let encode = |change: &dyn Fn(&mut BackwardBuffers<'_>)| {
        let a = a.slice(..);
        let mut buffers = BackwardBuffers::new(a, a, a, a, a, a);
        change(&mut buffers);
        let device = ATTENTION.kernels().device();
        plan.encode(&mut device.create_command_encoder(&Default::default()), &buffers)
    };
    encode(&|_| ()).unwrap();
    let says = |result: Result<(), Error>, parts: &[&str]| {
        says(result.unwrap_err().to_string(), parts);
    };
    says(encode(&|x| x.dq = Some(x.q)), &["dq:", "another buffer", "q"]);
    says(encode(&|x| x.lse = x.q.buffer().slice(..16)), &["lse:", "40 bytes", "16 bytes"]);
    says(encode(&|x| x.dsinks = Some(x.q)), &["dsinks:", "no sinks"]);
    says(encode(&|x| x.dbias = Some(x.q)), &["dbias:", "no bias"]);
}
