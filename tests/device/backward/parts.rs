//! Gradients of rows whose keys are split, from the o and lse of all of them.

use wgpu::util::DeviceExt as _;
use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::{BackwardBuffers, BackwardOptions, GradientBuffers};
use wgpu_attention::{
    AuxBuffers, AuxTensor, BackwardPlan, Dtype, Gradients, Mask, Problem, RunOptions,
    ScoreModifiers, Shape, reference,
};

use super::{RandomUpstream, assert_all_close, kernels};
use crate::fixture::{ATTENTION, Operands, ScoreData};
use crate::tolerance::naive_gradients_modified;

const SINKS: ScoreModifiers = ScoreModifiers::new().sinks(true);
const DIM: usize = 20;

fn upload(values: &[f32]) -> wgpu::Buffer {
    ATTENTION.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

/// The rows' gradients, each part of the keys from `bounds[i]` to `bounds[i + 1]` by a plan of its own: the sum of the parts'
/// dq, their dk and dv side by side, and the last part's dsinks.
fn of_parts(
    shape: Shape,
    operands: &Operands,
    sinks: &[f32],
    upstream: &RandomUpstream,
    bounds: &[usize],
    options: &BackwardOptions,
    problem: impl Fn(Shape, Mask) -> Problem,
) -> Gradients {
    let whole = RunOptions::default().lse(true);
    let whole = (ATTENTION)
        .run_blocking(&problem(shape, Mask::causal()), &operands.inputs(), &whole)
        .unwrap();
    let [q, o, lse] = [&operands.q, &whole.o, &whole.lse].map(|x| upload(x));
    let [dout, dlse, sinks] = [&upstream.dout[..], &upstream.dlse, sinks].map(upload);
    let mut result = Gradients::default();
    result.dq = vec![0.0; operands.q.len()];
    result.dk = vec![0.0; operands.k.len()];
    result.dv = vec![0.0; operands.v.len()];
    for keys in bounds.windows(2) {
        let places: Vec<usize> = (0..shape.batch * shape.num_kv_heads)
            .flat_map(|head| head * shape.seq_len_kv + keys[0]..head * shape.seq_len_kv + keys[1])
            .flat_map(|row| row * DIM..(row + 1) * DIM)
            .collect();
        let cut = |values: &[f32]| upload(&places.iter().map(|&at| values[at]).collect::<Vec<_>>());
        let [k, v] = [cut(&operands.k), cut(&operands.v)];
        let offset = shape.seq_len_kv as i32 - shape.seq_len_q as i32 - keys[0] as i32;
        let mask = Mask::causal_offset(offset);
        let own = shape.seq_len_kv(keys[1] - keys[0]);
        let plan = BackwardPlan::new(ATTENTION.kernels(), &problem(own, mask), options);
        let plan = plan.unwrap();
        let written = [operands.q.len(), places.len(), places.len(), shape.num_heads]
            .map(|len| upload(&vec![f32::NAN; len]));
        let [dq, dk, dv, dsinks] = written.each_ref().map(|buffer| Some(buffer.slice(..)));
        let [q, k, v, o, lse, dout] = [&q, &k, &v, &o, &lse, &dout].map(|x| x.slice(..));
        let buffers = BackwardBuffers {
            q,
            k,
            v,
            o,
            lse,
            dout,
            dlse: Some(dlse.slice(..)),
            aux: AuxBuffers::new().with(AuxTensor::Sinks, sinks.slice(..)),
            gradients: GradientBuffers::default().dq(dq).dk(dk).dv(dv).dsinks(dsinks),
        };
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &buffers).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let [dq, dk, dv, dsinks] = written
            .map(|buffer| ATTENTION.read_blocking(&buffer, buffer.size() as usize / 4).unwrap());
        result.dq.iter_mut().zip(dq).for_each(|(sum, x)| *sum += x);
        for (&at, (dk, dv)) in places.iter().zip(dk.into_iter().zip(dv)) {
            (result.dk[at], result.dv[at]) = (dk, dv);
        }
        result.dsinks = dsinks;
    }
    result
}

/// Exact with the option; without it each part's weights would be made to add up to 1.
#[test]
fn gradients_of_split_rows() {
    let shape = Shape::new(2, 4, 40, DIM).seq_len_kv(113).num_kv_heads(2);
    // Scores within a few units, so that lse, an f32, leaves the weights as exact as a naive computation has them.
    let problem = |shape, mask| Problem::new(shape).mask(mask).score(SINKS).scale(0.01);
    let sinks = vec![0.5, -1.0, 2.0, 3.0];
    let mut operands = Operands::random(&shape, 1);
    operands.mask = operands.mask.sinks(sinks.iter().copied());
    let upstream = RandomUpstream::random(&shape, 1);
    let (whole, inputs) = (problem(shape, Mask::causal()), operands.inputs());
    let truth = reference::gradients(&whole, &inputs, &upstream.of_o_and_lse()).unwrap();
    let data = ScoreData { sinks: sinks.clone(), ..ScoreData::default() };
    let naive = naive_gradients_modified(
        &whole,
        &Mask::causal(),
        &inputs,
        &upstream.of_o_and_lse(),
        &SINKS,
        &data,
        Dtype::F32,
    );
    for kernel in kernels(&whole) {
        // The last part has keys that no row keeps, and that only some do.
        let bounds = [0, 1, 40, 100, 113];
        let parts = |kernel: BackwardKernel, partial_keys| {
            let options = BackwardOptions::default().kernel(kernel).partial_keys(partial_keys);
            of_parts(shape, &operands, &sinks, &upstream, &bounds, &options, problem)
        };
        assert_all_close(&format!("{kernel}, parts"), &parts(kernel, true), &naive, &truth);
        let taken_for_whole = parts(kernel, false);
        let off = |at: usize| (f64::from(taken_for_whole.dv[at]) - truth.dv[at]).abs();
        assert!((0..truth.dv.len()).any(|at| off(at) > 0.1), "{kernel}: the option does nothing");
    }
}
