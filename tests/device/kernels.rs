//! Each kernel by itself, forced: right, or refused with a reason. `cargo xtask portability` makes its table of this.

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::{BackwardOptions, PlanOptions};
use wgpu_attention::{
    Dtype, Error, Mask, Problem, RunOptions, ScoreModifiers, Session, Shape, Upstream, reference,
};

use crate::dtypes::stored;
use crate::fixture::{ATTENTION, Operands, ScoreData, limited};
use crate::matrix::WITH_MATRICES;
use crate::tolerance::{
    assert_close, assert_gradient_close, naive_gradients_modified, naive_modified,
};

/// One whose tiles are classed by closed forms, one with a tile map and a table of rows.
const MASKS: [&str; 2] = ["causal & key_lengths", "self_only_if_alone(causal & documents)"];

/// Rows that end within the largest room.
const LONG_ROWS: Shape = Shape::new(1, 2, 65, 200).seq_len_kv(41);

/// The line that the command looks for.
fn refused(reason: &str) {
    println!("refused: {reason}");
}

fn forward(attention: &Session, kernel: ForwardKernel, dtypes: &[Dtype]) {
    let shape = match kernel.is_decode() {
        true => Shape::new(4, 8, 9, 20).seq_len_kv(203).num_kv_heads(4),
        false => Shape::new(2, 4, 113, 20).seq_len_kv(127).num_kv_heads(2),
    };
    // `tiled` has smaller blocks for few queries, and long rows in more columns.
    let few = Shape::new(2, 4, 31, 20).seq_len_kv(127).num_kv_heads(2);
    let more = (kernel == ForwardKernel::Tiled).then_some([few, LONG_ROWS]).into_iter().flatten();
    let cases =
        dtypes.iter().map(|&dtype| (shape, dtype)).chain(more.map(|shape| (shape, dtypes[0])));
    for (mask, (shape, dtype)) in
        MASKS.iter().flat_map(|mask| cases.clone().map(move |case| (mask, case)))
    {
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
        match attention.kernels().wgsl(&problem, &PlanOptions::default().kernel(kernel)) {
            Ok(_) => {}
            Err(Error::KernelRefused { reason, .. }) => return refused(&reason),
            Err(error) => panic!("{error}"),
        }
        let operands = stored(Operands::random(&shape, 5), dtype.into());
        let inputs = operands.inputs();
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        let output = attention.run_blocking(&problem, &inputs, &outputs).unwrap();
        let truth = reference::attention(&problem, &inputs).unwrap();
        let (score, data) = (ScoreModifiers::default(), ScoreData::default());
        let naive = naive_modified(&problem, &mask, &inputs, &score, &data, dtype);
        let what = format!("{kernel}, {mask}, {dtype}");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

#[test]
fn forward_broadcast() {
    forward(&ATTENTION, ForwardKernel::Broadcast, &DTYPES);
}

#[test]
fn forward_tiled() {
    forward(&ATTENTION, ForwardKernel::Tiled, &DTYPES);
}

#[test]
fn forward_matrix() {
    forward(&WITH_MATRICES, ForwardKernel::Matrix, &[Dtype::F16]);
}

#[test]
fn forward_decode_lanes() {
    forward(&ATTENTION, ForwardKernel::DecodeLanes, &DTYPES);
}

#[test]
fn forward_decode() {
    forward(&ATTENTION, ForwardKernel::Decode, &DTYPES);
}

fn backward(attention: &Session, kernel: BackwardKernel, dtype: Dtype) {
    let shape = Shape::new(2, 4, 65, 20).seq_len_kv(33).num_kv_heads(2);
    // Rows that long need more registers than matrices leave.
    let is_long = kernel != BackwardKernel::Matrix;
    let long = is_long.then_some((LONG_ROWS, MASKS[0]));
    for (shape, mask) in MASKS.map(|mask| (shape, mask)).into_iter().chain(long) {
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
        let operands = stored(Operands::random(&shape, 6), dtype.into());
        let inputs = operands.inputs();
        let dout: Vec<f32> = operands.q.iter().map(|x| dtype.round(x / 8.0)).collect();
        let upstream = Upstream::new(&dout);
        let options = BackwardOptions::default().kernel(kernel);
        let found = match attention.gradients_blocking(&problem, &inputs, &upstream, &options) {
            Ok(found) => found,
            Err(Error::KernelRefused { reason, .. }) => return refused(&reason),
            Err(error) => panic!("{error}"),
        };
        let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
        let none = (ScoreModifiers::default(), ScoreData::default());
        let naive =
            naive_gradients_modified(&problem, &mask, &inputs, &upstream, &none.0, &none.1, dtype);
        for (name, found, naive, truth) in [
            ("dq", &found.dq, &naive.dq, &truth.dq),
            ("dk", &found.dk, &naive.dk, &truth.dk),
            ("dv", &found.dv, &naive.dv, &truth.dv),
        ] {
            assert_gradient_close(&format!("{name} of {kernel}, {mask}"), found, naive, truth);
        }
    }
}

#[test]
fn backward_broadcast() {
    backward(&ATTENTION, BackwardKernel::Broadcast, Dtype::F32);
}

#[test]
fn backward_tiled() {
    backward(&ATTENTION, BackwardKernel::Tiled, Dtype::F32);
}

#[test]
fn backward_matrix() {
    backward(&WITH_MATRICES, BackwardKernel::Matrix, Dtype::F16);
}

/// A CPU's kernels read rows in words of 64 bits where the device has them enabled, which changes nothing but the time; all
/// other devices have the same kernels both times.
#[test]
fn words_of_64_bits_give_the_same_bits() {
    let without = limited(|_| {});
    let mask: Mask = MASKS[0].parse().unwrap();
    let device = ATTENTION.device();
    let is_wide = device.adapter_info().device_type == wgpu::DeviceType::Cpu
        && device.features().contains(wgpu::Features::SHADER_INT64);
    for dtype in DTYPES {
        let few = Problem::new(Shape::new(2, 4, 3, 20).seq_len_kv(67).num_kv_heads(2));
        let many = Problem::new(Shape::new(2, 4, 35, 20).seq_len_kv(67).num_kv_heads(2));
        for (problem, is_decode) in [(few, true), (many, false)] {
            let problem = problem.mask(mask.clone()).dtypes(dtype);
            let operands = stored(Operands::random(problem.shape(), 7), dtype.into());
            let inputs = operands.inputs();
            for kernel in ForwardKernel::ALL {
                let texts = [&ATTENTION, &without].map(|attention| {
                    attention.kernels().wgsl(&problem, &PlanOptions::default().kernel(kernel))
                });
                let [Ok(with_words), Ok(text)] = texts else { continue };
                let lanes = [ForwardKernel::Broadcast, ForwardKernel::DecodeLanes];
                let has_words = is_wide && lanes.contains(&kernel);
                assert_eq!(with_words.contains("u64"), has_words, "{kernel}");
                assert!(!text.contains("u64"), "{kernel}");
                assert_eq!(with_words != text, has_words, "{kernel}");
                if !has_words {
                    continue;
                }
                let outputs = RunOptions::default().lse(true).kernel(kernel);
                let [with, without] = [&ATTENTION, &without]
                    .map(|attention| attention.run_blocking(&problem, &inputs, &outputs).unwrap());
                assert_eq!(with, without, "{kernel}, {dtype}");
            }
            if is_decode {
                continue;
            }
            let dout: Vec<f32> = operands.q.iter().map(|x| x / 8.0).collect();
            let [with, without] = [&ATTENTION, &without].map(|attention| {
                let (upstream, options) = (Upstream::new(&dout), BackwardOptions::default());
                attention.gradients_blocking(&problem, &inputs, &upstream, &options).unwrap()
            });
            assert_eq!(with, without, "{dtype}");
        }
    }
}
