//! The gradients against the f64 reference's, which finite differences check: every operand, under every mask.

mod custom;
mod dropout;
mod hostile;
mod matrix;
mod parts;
mod plan;
mod random;
mod scores;
mod sequences;
mod tensors;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::reference::{self, ReferenceGradients};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{
    BackwardPlan, Dtype, Error, Gradients, Mask, Problem, Session, Shape, Upstream,
};

use crate::fixture::{ATTENTION, Operands, masks_of_this_run, of_this_run};
use crate::matrix::{WITH_MATRICES, has_matrices};
use crate::tolerance::{assert_gradient_close, naive_gradients};

/// The session that a kernel is tested with: matrices have a device of their own.
pub(crate) fn session_of(kernel: BackwardKernel) -> &'static Session {
    match kernel {
        BackwardKernel::Matrix => &WITH_MATRICES,
        _ => &ATTENTION,
    }
}

/// The backward kernels that serve `problem` here.
pub(crate) fn kernels(problem: &Problem) -> Vec<BackwardKernel> {
    let serves = |kernel: &BackwardKernel| {
        let options = BackwardOptions::default().kernel(*kernel);
        match BackwardPlan::new(session_of(*kernel).kernels(), problem, &options) {
            Ok(_) => true,
            Err(Error::KernelRefused { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let is_for_cpus = |kernel: &BackwardKernel| *kernel == BackwardKernel::Broadcast;
    of_this_run(problem, BackwardKernel::ALL, is_for_cpus, serves)
}

/// Problems of the same operands, each with a kernel that serves it.
type Served = Vec<(Problem, BackwardKernel)>;

/// The kernels that serve a problem in f32.
fn in_f32(problem: &Problem) -> Served {
    kernels(problem).into_iter().map(|kernel| (problem.clone(), kernel)).collect()
}

/// The kernel of matrices for the same problem in f16, where the adapter has them. What it gives is compared with itself: the numbers
/// are rounded as they are stored.
fn by_matrices(problem: &Problem) -> Served {
    let f16 = || problem.clone().dtypes(Dtype::F16);
    has_matrices().then(|| (f16(), BackwardKernel::Matrix)).into_iter().collect()
}

/// What a loss gives back: dout and dlse.
pub(crate) struct RandomUpstream {
    pub(crate) dout: Vec<f32>,
    pub(crate) dlse: Vec<f32>,
}

impl RandomUpstream {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x646f_7574);
        let mut tensor = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
        Self { dout: tensor(shape.o_len().unwrap()), dlse: tensor(shape.lse_len().unwrap()) }
    }

    fn of_o(&self) -> Upstream<'_> {
        Upstream::new(&self.dout)
    }

    pub(crate) fn of_o_and_lse(&self) -> Upstream<'_> {
        self.of_o().dlse(&self.dlse)
    }
}

fn run(
    problem: &Problem,
    operands: &Operands,
    upstream: &Upstream<'_>,
    kernel: BackwardKernel,
) -> Gradients {
    let options = BackwardOptions::default().kernel(kernel);
    let session = session_of(kernel);
    session.gradients_blocking(problem, &operands.inputs(), upstream, &options).unwrap()
}

pub(crate) fn assert_all_close(
    what: &str,
    found: &Gradients,
    naive: &Gradients,
    truth: &ReferenceGradients,
) {
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
        ("dbias", &found.dbias, &naive.dbias, &truth.dbias),
        ("dsinks", &found.dsinks, &naive.dsinks, &truth.dsinks),
        ("dalibi_slopes", &found.dalibi_slopes, &naive.dalibi_slopes, &truth.dalibi_slopes),
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

pub(crate) fn check_problem(problem: &Problem, mask: &Mask, operands: &Operands, seed: u64) {
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
    let upstream = RandomUpstream::random(shape, seed);
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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Queries × keys: off every tile, more of the one, more of the other, one.
const LENGTHS: &[(usize, usize)] =
    &[(1, 1), (3, 15), (17, 3), (65, 33), (113, 127), (129, 129), (1, 203), (203, 1)];

#[test]
fn every_mask_on_awkward_sizes() {
    for (at, mask) in masks_of_this_run().iter().enumerate() {
        for (seed, &(seq_len_q, seq_len_kv)) in (100 * at as u64..).zip(LENGTHS) {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
            let mask: Mask = mask.parse().unwrap();
            let problem = Problem::new(shape).mask(mask.clone());
            // A mask's functions are the same text in every kernel, and kernels take long to compile: the first one
            // takes every mask, the others one mask in five, of each kind of class.
            let kernels = kernels(&problem);
            let kernels = if at % 5 == 1 { &kernels[..] } else { &kernels[..1] };
            check_kernels(&problem, &mask, &Operands::random(&shape, seed), seed, kernels);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let shape = Shape::new(2, 4, 70, 20).seq_len_kv(75).num_kv_heads(2);
    let problem = Problem::new(shape).mask("documents & causal".parse().unwrap());
    let operands = Operands::random(&shape, 3);
    let upstream = RandomUpstream::random(&shape, 3);
    for (problem, kernel) in [in_f32(&problem), by_matrices(&problem)].concat() {
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
        Shape::new(2, 2, 5, 8).seq_len_kv(0),
        Shape::new(2, 2, 0, 8).seq_len_kv(0),
    ] {
        for mask in ["all", "causal & key_lengths", "documents", "self_only_if_alone(dense)"] {
            check(shape, mask, 1);
        }
    }
}

/// Every leaf once more where rows and columns are many, one size each, and the other sizes under one mask.
#[test]
fn every_head_dim() {
    for (seed, head_dim) in (0..).zip([1, 3, 4, 17, 64, 100, 128, 256]) {
        let shape = Shape::new(1, 2, 37, head_dim).seq_len_kv(41);
        check(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn values_of_another_width() {
    for (seed, (head_dim, head_dim_v)) in (0..).zip([(64, 1), (1, 64), (24, 60)]) {
        let shape = Shape::new(2, 2, 37, head_dim).seq_len_kv(41).head_dim_v(head_dim_v);
        check(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn multi_query_heads() {
    check(Shape::new(2, 6, 33, 20).num_kv_heads(1), "causal & key_lengths", 1);
    check(Shape::new(2, 6, 33, 20).num_kv_heads(3), "dense", 2);
}

#[test]
fn long_rows() {
    check(Shape::new(1, 1, 1023, 20), "causal", 1);
    check(Shape::new(1, 2, 217, 20).seq_len_kv(1023).num_kv_heads(1), "causal & key_lengths", 2);
    check(Shape::new(1, 1, 1023, 20).seq_len_kv(257), "documents", 3);
}

#[test]
fn scales() {
    let shape = Shape::new(1, 2, 33, 20);
    for scale in [0.0, 1.0, -0.3, 1e-20] {
        let problem = Problem::new(shape).mask(Mask::causal()).scale(scale);
        check_problem(&problem, &Mask::causal(), &Operands::random(&shape, 11), 11);
    }
}

/// A user-defined mask is one like any other.
#[test]
fn a_function_as_a_mask() {
    let shape = Shape::new(2, 2, 70, 20);
    let text =
        "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return kv_idx <= q_idx; }";
    let own = Mask::Wgsl(WgslFunction::new(text).unwrap()) & Mask::KeyLengths;
    let [own, known] =
        [own, "causal & key_lengths".parse().unwrap()].map(|mask| Problem::new(shape).mask(mask));
    let operands = Operands::random(&shape, 1);
    let upstream = RandomUpstream::random(&shape, 1);
    for kernel in kernels(&own) {
        let [own, known] =
            [&own, &known].map(|problem| run(problem, &operands, &upstream.of_o(), kernel));
        for (a, b) in [(&own.dq, &known.dq), (&own.dk, &known.dk), (&own.dv, &known.dv)] {
            assert_eq!(bits(a), bits(b), "{kernel}");
        }
    }
}
