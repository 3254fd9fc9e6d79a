//! What a plan does with the caller's buffers.

use wgpu::util::DeviceExt as _;
use wgpu_attention::plan::{BackwardBuffers, BackwardOptions, GradientBuffers};
use wgpu_attention::tensor::Strides;
use wgpu_attention::{
    AttentionPlan, AuxBuffers, BackwardPlan, Error, Kernels, Mask, Problem, RunOptions, Shape,
    Upstream,
};

use super::{RandomUpstream, bits, kernels, run};
use crate::fixture::{ATTENTION, Operands};

/// One gradient alone has the same bits as all together.
#[test]
fn each_gradient_alone() {
    let shape = Shape::new(1, 2, 33, 20).seq_len_kv(41);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 5);
    let upstream = RandomUpstream::random(&shape, 5);
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
        let options = BackwardOptions::default().kernel(kernel);
        let plan = BackwardPlan::new(ATTENTION.kernels(), &problem, &options).unwrap();
        let forward = RunOptions::default().lse(true);
        let forward = ATTENTION.run_blocking(&problem, &operands.inputs(), &forward).unwrap();
        let inputs =
            [&operands.q, &operands.k, &operands.v, &forward.o, &forward.lse, &upstream.dout]
                .map(|values| floats(values));
        let [q, k, v, o, lse, dout] = inputs.each_ref().map(|buffer| buffer.slice(..));
        for (which, expected) in [&expected.dq, &expected.dk, &expected.dv].into_iter().enumerate()
        {
            let written = output(expected.len());
            let slice = |at: usize| (at == which).then(|| written.slice(..));
            let gradients = GradientBuffers::default().dq(slice(0)).dk(slice(1)).dv(slice(2));
            let mask = AuxBuffers::new();
            let buffers =
                BackwardBuffers { q, k, v, o, lse, dout, dlse: None, aux: mask, gradients };
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
    let refusal = |problem: &Problem, upstream: &Upstream<'_>, options: BackwardOptions| {
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
    says(refusal(&problem, &Upstream::new(&[0.0; 79]), none), &["dout", "80", "79"]);
    let upstream = Upstream::new(&[0.0; 80]);
    says(refusal(&problem, &upstream.dlse(&[0.0; 9]), none), &["dlse", "10 elements", "9"]);
    let repeated = Strides { batch: 0, head: 0, seq: 8, dim: 1 };
    let options = none.dk_strides(repeated);
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
    let plan = BackwardPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    let encode = |change: &dyn Fn(&mut BackwardBuffers<'_>)| {
        let a = a.slice(..);
        let mut buffers = all_the_same(a, a, Default::default());
        change(&mut buffers);
        let device = ATTENTION.kernels().device();
        plan.encode(&mut device.create_command_encoder(&Default::default()), &buffers)
    };
    encode(&|_| ()).unwrap();
    let says = |result: Result<(), Error>, parts: &[&str]| {
        says(result.unwrap_err().to_string(), parts);
    };
    says(encode(&|x| x.gradients.dq = Some(x.q)), &["dq:", "another buffer", "q"]);
    says(encode(&|x| x.lse = x.q.buffer().slice(..16)), &["lse:", "40 bytes", "16 bytes"]);
    says(encode(&|x| x.gradients.dsinks = Some(x.q)), &["dsinks:", "no sinks"]);
    says(
        encode(&|x| x.gradients.dalibi_slopes = Some(x.q)),
        &["dalibi_slopes:", "no alibi_slopes"],
    );
    says(encode(&|x| x.gradients.dbias = Some(x.q)), &["dbias:", "no bias"]);
}

/// One slice as every input, but for dout.
fn all_the_same<'a>(
    a: wgpu::BufferSlice<'a>,
    dout: wgpu::BufferSlice<'a>,
    gradients: GradientBuffers<'a>,
) -> BackwardBuffers<'a> {
    let mask = AuxBuffers::new();
    BackwardBuffers { q: a, k: a, v: a, o: a, lse: a, dout, dlse: None, aux: mask, gradients }
}

/// A loop over the same buffers makes its bind groups once; other buffers get their own.
#[test]
fn bind_groups_are_made_once() {
    // Nothing is submitted, so that drivers compile nothing; kernels of its own count for this test alone.
    let kernels = Kernels::new(ATTENTION.device(), &Default::default());
    let problem = Problem::new(Shape::new(1, 2, 33, 20)).mask(Mask::causal());
    let plan = BackwardPlan::new(&kernels, &problem, &Default::default()).unwrap();
    let forward = AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap();
    assert_eq!(forward.kept_bytes(), 2 * 33 * (20 + 1) * 4);
    let buffer = || {
        ATTENTION.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 2 * 33 * 20 * 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let (a, written, other) = (buffer(), [(); 3].map(|()| buffer()), buffer());
    let [dq, dk, dv] = written.each_ref().map(|buffer| buffer.slice(..));
    let gradients = GradientBuffers::default().dq(dq).dk(dk).dv(dv);
    let [a, other] = [&a, &other].map(|buffer| buffer.slice(..));
    let own = all_the_same(a, a, gradients);
    let others = all_the_same(a, other, gradients);
    let counts = |buffers| {
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, buffers).unwrap();
        (kernels.compiled(), kernels.bind_groups())
    };
    let (compiled, bind_groups) = counts(&own);
    assert_eq!(bind_groups, 3, "terms, rows, columns");
    assert_eq!(counts(&own), (compiled, bind_groups));
    assert_eq!(counts(&others), (compiled, 2 * bind_groups));
    assert_eq!(counts(&own), (compiled, 2 * bind_groups));
    plan.forget_buffers();
    assert_eq!(counts(&own), (compiled, 3 * bind_groups));
    assert_eq!(counts(&own), (compiled, 3 * bind_groups));
}
