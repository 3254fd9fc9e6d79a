//! Rows of more than 256 components, which the kernels for GPUs serve: lengths off their sizes, and the slices in which devices
//! with few registers sum them up.

use std::sync::LazyLock;

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions};
use wgpu_attention::plan::{BackwardOptions, PlanOptions};
use wgpu_attention::{
    Dtype, Inputs, Layout, Mask, Problem, RunOptions, ScoreModifiers, Session, Shape, Upstream,
    reference,
};

use crate::backward::{RandomUpstream, assert_all_close};
use crate::fixture::{ATTENTION, Operands, ScoreData, limited_with};
use crate::operands::stored;
use crate::tolerance::{assert_close, naive_gradients_modified, naive_modified};

/// Tiles as on Adreno 6xx, which has few registers.
static FEW_REGISTERS: LazyLock<Session> =
    LazyLock::new(|| limited_with(KernelOptions::default().registers(96), |_| {}));

/// Tiles as on Intel's GPUs, which have the fewest: others for short rows, too.
static FEWEST_REGISTERS: LazyLock<Session> =
    LazyLock::new(|| limited_with(KernelOptions::default().registers(64), |_| {}));

const MASK: &str = "causal & key_lengths";

/// How often a kernel is dispatched for all components of its rows.
fn is_sliced(text: &str) -> bool {
    text.contains("const SLICED: bool = true;")
}

/// o and lse against the f64 reference.
pub(crate) fn forward(
    session: &Session,
    kernel: ForwardKernel,
    shape: Shape,
    dtype: Dtype,
    seed: u64,
) {
    let mask: Mask = MASK.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
    let operands = stored(Operands::random(&shape, seed), dtype.into());
    let inputs = operands.inputs();
    let splits = kernel.is_decode().then_some(3);
    let options = RunOptions::default().lse(true).kernel(kernel).num_splits(splits);
    let found = session.run_blocking(&problem, &inputs, &options).unwrap();
    let truth = reference::attention(&problem, &inputs).unwrap();
    let none = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(&problem, &mask, &inputs, &none.0, &none.1, dtype);
    let what = format!("{kernel}, {dtype}, {shape:?}");
    assert_close(&format!("o of {what}"), &found.o, &naive.o, &truth.o);
    assert_close(&format!("lse of {what}"), &found.lse, &naive.lse, &truth.lse);
}

#[test]
fn forward_of_every_length() {
    let shape = Shape::new(1, 2, 37, 576).seq_len_kv(41);
    for (seed, (dims, dtype)) in
        (0..).zip([((576, 512), Dtype::F16), ((257, 320), Dtype::F32), ((512, 576), Dtype::F32)])
    {
        let shape = shape.head_dim(dims.0).head_dim_v(dims.1);
        forward(&ATTENTION, ForwardKernel::Tiled, shape, dtype, seed);
    }
    // o in slices, in one whose keys are summed up in segments, too.
    for (seed, shape) in (0..).zip([
        shape.head_dim(20).head_dim_v(576),
        Shape::new(1, 1, 5, 8).seq_len_kv(4200).head_dim_v(520),
    ]) {
        let problem = Problem::new(shape);
        let options = PlanOptions::default().kernel(ForwardKernel::Tiled);
        assert!(is_sliced(&FEW_REGISTERS.kernels().wgsl(&problem, &options).unwrap()));
        forward(&FEW_REGISTERS, ForwardKernel::Tiled, shape, Dtype::F32, seed);
    }
}

#[test]
fn decode_of_every_length() {
    let shape = Shape::new(2, 8, 2, 576).seq_len_kv(127).num_kv_heads(2);
    for (seed, (session, dims, dtype)) in (0..).zip([
        (&*ATTENTION, (576, 512), Dtype::F16),
        (&ATTENTION, (257, 320), Dtype::F32),
        (&ATTENTION, (512, 576), Dtype::F32),
        (&FEW_REGISTERS, (576, 512), Dtype::F32),
        // Of f32, workgroups of 256 invocations from here on.
        (&FEW_REGISTERS, (200, 250), Dtype::F32),
    ]) {
        let shape = shape.head_dim(dims.0).head_dim_v(dims.1);
        forward(session, ForwardKernel::Decode, shape, dtype, seed);
    }
}

/// Every gradient against the f64 reference.
fn gradients(session: &Session, shape: Shape, score: ScoreModifiers, seed: u64) {
    let mask: Mask = MASK.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score);
    let data = ScoreData::random(&shape, seed);
    let mut operands = Operands::random(&shape, seed);
    operands.mask = data.add_to(&shape, operands.mask);
    let (inputs, upstream) = (operands.inputs(), RandomUpstream::random(&shape, seed));
    let upstream = upstream.of_o_and_lse();
    let options = BackwardOptions::default().kernel(BackwardKernel::Tiled);
    let found = session.gradients_blocking(&problem, &inputs, &upstream, &options).unwrap();
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    let naive =
        naive_gradients_modified(&problem, &mask, &inputs, &upstream, &score, &data, Dtype::F32);
    assert_all_close(&format!("{score:?}, {shape:?}"), &found, &naive, &truth);
}

#[test]
fn gradients_of_every_length() {
    let plain = ScoreModifiers::default();
    let shape = Shape::new(1, 2, 37, 576).seq_len_kv(41).num_kv_heads(1);
    let mla = shape.head_dim_v(512);
    gradients(&ATTENTION, mla, plain, 1);
    // Two slices of dq, three of dk and dv.
    gradients(&FEW_REGISTERS, mla, plain, 2);
    // A bias takes the binding of one of dk and dv, so that each has slices of its own.
    let scored = plain.bias(true).softcap(30.0);
    gradients(&FEW_REGISTERS, shape.head_dim(257).head_dim_v(300), scored, 3);
    // Sums in segments, of keys and of queries.
    let long = Shape::new(1, 1, 3, 400).seq_len_kv(4200).head_dim_v(8);
    gradients(&FEW_REGISTERS, long, plain, 4);
    gradients(&FEW_REGISTERS, long.seq_len_q(4200).seq_len_kv(3), plain, 5);
}

#[test]
fn fewest_registers() {
    let shape = Shape::new(1, 2, 67, 64).seq_len_kv(71).num_kv_heads(1);
    let plain = ScoreModifiers::default();
    forward(&FEWEST_REGISTERS, ForwardKernel::Tiled, shape.head_dim_v(50), Dtype::F32, 1);
    forward(
        &FEWEST_REGISTERS,
        ForwardKernel::Tiled,
        shape.head_dim(20).head_dim_v(300),
        Dtype::F32,
        2,
    );
    gradients(&FEWEST_REGISTERS, shape.head_dim_v(50), plain, 3);
    gradients(&FEWEST_REGISTERS, shape.head_dim(130).head_dim_v(100), plain, 4);
}

/// A NaN in the second slice of a row that is kept: it reaches its own component of the rows that keep it, and no other bit.
#[test]
fn a_nan_in_one_slice_stays_there() {
    let shape = Shape::new(1, 1, 37, 20).head_dim_v(576);
    let problem = Problem::new(shape).mask(Mask::causal());
    let clean = Operands::random(&shape, 7);
    let (key, component) = (11, 500);
    let run = |operands: &Operands| {
        let options = RunOptions::default().kernel(ForwardKernel::Tiled);
        FEW_REGISTERS.run_blocking(&problem, &operands.inputs(), &options).unwrap().o
    };
    let expected = run(&clean);
    let mut hostile = Operands::random(&shape, 7);
    hostile.v[key * 576 + component] = f32::NAN;
    for (at, (x, y)) in run(&hostile).into_iter().zip(expected).enumerate() {
        let shows = at / 576 >= key && at % 576 == component;
        assert!(if shows { x.is_nan() } else { x.to_bits() == y.to_bits() }, "o[{at}]: {x}, {y}");
    }

    let dout = vec![0.25; shape.o_len().unwrap()];
    let mut hostile_dout = dout.clone();
    hostile_dout[key * 576 + component] = f32::NAN;
    let [expected, found] = [&dout, &hostile_dout].map(|dout| {
        let options = BackwardOptions::default().kernel(BackwardKernel::Tiled);
        let upstream = Upstream::new(dout);
        FEW_REGISTERS.gradients_blocking(&problem, &clean.inputs(), &upstream, &options).unwrap()
    });
    for (at, (x, y)) in found.dv.iter().zip(&expected.dv).enumerate() {
        // Query `key` keeps the keys up to its own.
        let shows = at / 576 <= key && at % 576 == component;
        assert!(if shows { x.is_nan() } else { x.to_bits() == y.to_bits() }, "dv[{at}]: {x}, {y}");
    }
}

/// Of values that are all alike each output is the value, whichever slice it is in.
#[test]
fn values_that_are_all_alike() {
    for (queries, kernel) in [(33, ForwardKernel::Tiled), (2, ForwardKernel::Decode)] {
        let shape = Shape::new(1, 2, queries, 300).head_dim_v(576).seq_len_kv(70);
        let mut operands = Operands::random(&shape, 8);
        operands.v.fill(3.0);
        let options = RunOptions::default().kernel(kernel);
        for session in [&*ATTENTION, &FEW_REGISTERS] {
            let problem = Problem::new(shape);
            let o = session.run_blocking(&problem, &operands.inputs(), &options).unwrap().o;
            assert!(o.iter().all(|x| (x - 3.0).abs() < 2e-6), "{kernel}");
        }
    }
}

/// MLA: values are the first components of the keys, whose tensor is bound as both.
#[test]
fn values_within_keys() {
    for (queries, kernel) in [(21, ForwardKernel::Tiled), (2, ForwardKernel::Decode)] {
        let shape = Shape::new(2, 4, queries, 576).num_kv_heads(1).head_dim_v(512).seq_len_kv(33);
        let problem = Problem::new(shape).mask(Mask::causal());
        let Operands { q, k, mask, .. } = Operands::random(&shape, 9);
        let v: Vec<f32> = k.chunks(576).flat_map(|key| key[..512].to_vec()).collect();
        let options = RunOptions::default().lse(true).kernel(kernel);
        let run = |problem: &Problem, v: &[f32]| {
            let inputs = Inputs::new(&q, &k, v).aux(&mask);
            ATTENTION.run_blocking(problem, &inputs, &options).unwrap()
        };
        let apart = run(&problem, &v);
        let within = problem.clone().v_strides(Layout::Bhsd.strides(shape.k_dims()));
        assert_eq!(run(&within, &k[..k.len() - 64]), apart, "{kernel}");
    }
}

/// The kernels that don't serve such rows say so, and the choice falls to those that do.
#[test]
fn kernels_for_shorter_rows_say_so() {
    for (queries, chosen) in [(1, ForwardKernel::Decode), (40, ForwardKernel::Tiled)] {
        let problem = Problem::new(Shape::new(1, 2, queries, 257).seq_len_kv(40));
        let plan =
            wgpu_attention::AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default())
                .unwrap();
        assert_eq!(plan.kernel(), chosen);
        let explained = plan.explain();
        for kernel in ["broadcast", "decode_lanes"] {
            assert!(explained.contains(kernel), "{explained}");
        }
        if ATTENTION.device().adapter_info().device_type == wgpu::DeviceType::Cpu {
            assert!(explained.contains("up to head_dim 256, here it is 257"), "{explained}");
        }
    }
}
