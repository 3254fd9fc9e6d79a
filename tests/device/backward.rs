//! The gradients against the f64 reference's, which finite differences check: every operand, under every mask.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::reference::{self, ReferenceGradients};
use wgpu_attention::{
    BackwardKernel, BackwardOptions, BackwardPlan, Dtype, Error, Gradients, Mask, OutputGradients,
    Problem, Score, Shape,
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
    let shape = problem.shape();
    let upstream = Upstream::random(shape, seed);
    // Every other case has a loss that uses lse, too.
    let upstream = if seed.is_multiple_of(2) { upstream.of_o() } else { upstream.of_o_and_lse() };
    let inputs = operands.inputs();
    let truth = reference::gradients(problem, &inputs, &upstream).unwrap();
    let naive = naive_gradients(problem, mask, &inputs, &upstream);
    for kernel in kernels(problem) {
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
            check(shape, mask, seed);
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
    for kernel in kernels(&problem) {
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
