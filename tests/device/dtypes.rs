//! f16 and bf16 storage, together and mixed, against the f64 reference on the rounded operands.

use wgpu_attention::plan::{BackwardOptions, ScoreTensor};
use wgpu_attention::tensor::{Dtypes, Element, Elements};
use wgpu_attention::{
    AuxData, Dtype, Inputs, Layout, Mask, Problem, RunOptions, ScoreModifiers, Shape, Upstream,
    reference,
};

use crate::fixture::{ATTENTION, Operands, ScoreData, kernels, run};
pub(crate) use crate::operands::stored;
use crate::tolerance::{assert_close, naive_modified};

fn check(shape: Shape, dtypes: Dtypes, coarsest: Dtype, seed: u64) {
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtypes);
    let operands = stored(Operands::random(&shape, seed), dtypes);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs).unwrap();
    let none = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(&problem, &mask, &inputs, &none.0, &none.1, coarsest);
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        let what = format!("{kernel}, {dtypes:?}, {shape:?}");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
        let exact = output.o.iter().all(|&x| dtypes.o.round(x) == x);
        assert!(exact, "o of {what} isn't of its type");
    }
    let outputs = RunOptions::default().tensors(vec![ScoreTensor::Weights]);
    let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
    assert_close("weights", &output.tensors[0], &naive.weights, &truth.weights);
}

#[test]
fn one_type_for_all() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        // Rows that are read four at a time, and rows of odd lengths that share words.
        for (seed, (seq_len_q, seq_len_kv, head_dim)) in
            (0..).zip([(37, 41, 64), (37, 41, 15), (1, 3, 1), (70, 33, 129)])
        {
            let shape =
                Shape::new(2, 4, seq_len_q, head_dim).seq_len_kv(seq_len_kv).num_kv_heads(2);
            check(shape, dtype.into(), dtype, seed);
        }
    }
}

#[test]
fn mixed_types() {
    let (f32, f16, bf16) = (Dtype::F32, Dtype::F16, Dtype::Bf16);
    for (seed, dtypes) in (0..).zip([
        Dtypes::default().q(f32).k(f16).v(bf16).o(f32).bias(f32),
        Dtypes::default().q(bf16).k(f32).v(f32).o(f16).bias(f32),
    ]) {
        check(Shape::new(1, 2, 33, 20).seq_len_kv(47), dtypes, bf16, seed);
        check(Shape::new(1, 2, 33, 9).seq_len_kv(47).head_dim_v(5), dtypes, bf16, seed);
    }
}

#[test]
fn a_bias_of_16_bits() {
    let shape = Shape::new(2, 2, 17, 20).seq_len_kv(19);
    let score = ScoreModifiers::default().bias(true);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let mut operands = stored(Operands::random(&shape, 4), dtype.into());
        let bias = |round: bool| {
            let value = |at: usize| (at * 31 % 97) as f32 / 23.0;
            (0..2 * 2 * 17 * 19)
                .map(move |at| if round { dtype.round(value(at)) } else { value(at) })
        };
        let problem = Problem::new(shape).score(score);
        operands.mask = AuxData::new().bias([2, 2, 17, 19], bias(true));
        for kernel in kernels(&problem) {
            let expected = run(&problem, &operands, kernel);
            let half = Dtypes::default().bias(dtype);
            let unrounded = AuxData::new().bias([2, 2, 17, 19], bias(false));
            let mut given = Operands::random(&shape, 4);
            (given.q, given.k, given.v) =
                (operands.q.clone(), operands.k.clone(), operands.v.clone());
            given.mask = unrounded;
            assert_eq!(expected, run(&problem.clone().dtypes(half), &given, kernel), "{kernel}");
        }
    }
}

/// Values at the types' edges come out as IEEE 754 rounds them: v alone, weight 1.
#[test]
fn edges_of_the_types() {
    let edges = [
        0.0,
        -0.0,
        1.0,
        1.0005,
        -1.001,
        65504.0,
        65519.9,
        65520.0,
        -65536.0,
        1e30,
        3.4e38,
        6e-8,
        6.1e-5,
        1e-10,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.333_333,
        2049.0,
        2051.0,
    ];
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for head_dim_v in [20, 19] {
            let shape = Shape::new(1, 1, 1, 4).head_dim_v(head_dim_v);
            let dtypes = Dtypes::default().o(dtype);
            let problem = Problem::new(shape).dtypes(dtypes).layout(Layout::Bshd);
            let operands = Operands {
                q: vec![0.0; 4],
                k: vec![0.0; 4],
                v: edges[..head_dim_v].to_vec(),
                mask: AuxData::new(),
            };
            for kernel in kernels(&problem) {
                let o = run(&problem, &operands, kernel).o;
                for (&found, &edge) in o.iter().zip(&edges) {
                    let expected = dtype.round(edge);
                    // Devices may take numbers below the normal ones for 0.
                    let tiny = edge.abs() < 6.2e-5;
                    let right = found == expected || (found.is_nan() && expected.is_nan());
                    assert!(
                        right || tiny,
                        "{kernel}: {edge} as {dtype} is {found}, not {expected}"
                    );
                }
            }
        }
    }
}

/// Slices of 16 bits give the bits that the same numbers give as f32, and come back as they are stored.
#[test]
fn slices_of_every_type() {
    let shape = Shape::new(1, 2, 9, 20).seq_len_kv(13);
    let operands = Operands::random(&shape, 3);
    let upstream: Vec<f32> = operands.q.iter().map(|x| 0.5 - x).collect();
    let problem = Problem::new(shape).mask(Mask::causal());
    typed::<half::f16>(&problem, &operands, &upstream);
    typed::<half::bf16>(&problem, &operands, &upstream);
    // Types that aren't those of the device are converted.
    let inputs = operands.inputs();
    let rounded = stored(Operands::random(&shape, 3), Dtype::F16.into());
    let halves = rounded.q.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>();
    let mixed = Inputs::new(&halves, inputs.k, inputs.v);
    let plain = Inputs::new(&rounded.q, inputs.k, inputs.v);
    let of = |inputs| ATTENTION.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap();
    assert_eq!(of(mixed), of(plain));
}

fn typed<T: Element + std::fmt::Debug + PartialEq>(
    problem: &Problem,
    operands: &Operands,
    upstream: &[f32],
) where
    for<'a> Elements<'a>: From<&'a Vec<T>>,
{
    let problem = problem.clone().dtypes(T::DTYPE);
    let of = |values: &[f32]| values.iter().map(|&x| T::from_f32(x)).collect::<Vec<T>>();
    let (q, k, v, dout) = (of(&operands.q), of(&operands.k), of(&operands.v), of(upstream));
    let inputs = Inputs::new(&q, &k, &v);
    let outputs = RunOptions::default().lse(true);
    let found = ATTENTION.run_as_blocking::<T>(&problem, &inputs, &outputs).unwrap();
    let as_f32 = ATTENTION.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
    assert_eq!((found.o, found.lse), (of(&as_f32.o), as_f32.lse));

    let options = BackwardOptions::default().dtypes(T::DTYPE);
    let found =
        ATTENTION.gradients_as_blocking::<T>(&problem, &inputs, &Upstream::new(&dout), &options);
    let as_f32 = ATTENTION.gradients_blocking(
        &problem,
        &operands.inputs(),
        &Upstream::new(upstream),
        &options,
    );
    let (found, as_f32) = (found.unwrap(), as_f32.unwrap());
    for (found, as_f32) in [(found.dq, as_f32.dq), (found.dk, as_f32.dk), (found.dv, as_f32.dv)] {
        assert_eq!(found, of(&as_f32));
    }
}
