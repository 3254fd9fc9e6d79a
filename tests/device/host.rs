//! The host layer: plans that are reused, pipelines that are shared, devices that the caller opened, readback in pieces.

use wgpu::util::DeviceExt as _;
use wgpu_attention::device::AdapterChoice;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, DeviceOptions, Error, Kernels, Mask,
    Problem, RunOptions, Session, Shape,
};

use crate::fixture::{ATTENTION, Operands, kernels, limited, run};

fn device() -> &'static wgpu::Device {
    ATTENTION.kernels().device()
}

fn filled(contents: &[u8]) -> wgpu::Buffer {
    device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

fn floats(values: &[f32]) -> wgpu::Buffer {
    filled(bytemuck::cast_slice(values))
}

fn output(elements: usize) -> wgpu::Buffer {
    filled(&vec![0xff; elements * 4])
}

#[test]
fn two_encodes_in_one_submit_keep_their_own_data() {
    let shape = Shape::new(2, 2, 33, 20);
    // `documents` needs a tile map, so the mask's tables are made anew in between.
    let problem = Problem::new(shape).mask("documents & key_lengths".parse().unwrap());
    let plan = AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    let mut encoder = device().create_command_encoder(&Default::default());
    let mut expected = Vec::new();
    let mut outputs = Vec::new();
    for seed in [1, 2] {
        let mut operands = Operands::random(&shape, seed);
        let lengths = [9 * seed as i32, 33];
        let ids: Vec<i32> = (0..66).map(|i| i / (4 * seed as i32)).collect();
        operands.mask =
            wgpu_attention::AuxData::new().key_lengths(lengths).document_ids(ids.clone());
        expected.push(run(&problem, &operands, plan.kernel()).o);
        let (lengths, ids) =
            (filled(bytemuck::cast_slice(&lengths)), filled(bytemuck::cast_slice(&ids)));
        let (q, k, v) = (floats(&operands.q), floats(&operands.k), floats(&operands.v));
        let o = output(shape.o_len().unwrap());
        let mask = AuxBuffers::new()
            .with(AuxTensor::KeyLengths, lengths.slice(..))
            .with(AuxTensor::DocumentIdsQ, ids.slice(..))
            .with(AuxTensor::DocumentIdsKv, ids.slice(..));
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: mask,
            o: o.slice(..),
            lse: None,
        };
        plan.encode(&mut encoder, &buffers).unwrap();
        // Once more with what the first left: the same again.
        let again = output(shape.o_len().unwrap());
        let reused = AttentionBuffers { o: again.slice(..), aux: AuxBuffers::new(), ..buffers };
        plan.encode_reusing_mask(&mut encoder, &reused).unwrap();
        outputs.push(o);
        outputs.push(again);
    }
    ATTENTION.queue().submit([encoder.finish()]);
    for (at, o) in outputs.iter().enumerate() {
        let found = ATTENTION.read_blocking(o, shape.o_len().unwrap()).unwrap();
        assert_eq!(found, expected[at / 2], "output {at}");
    }
}

#[test]
fn offsets_into_one_buffer() {
    let shape = Shape::new(1, 2, 17, 20);
    let operands = Operands::random(&shape, 3);
    let problem = Problem::new(shape).mask(Mask::causal());
    // 256 bytes is a multiple of every device's alignment.
    let at = |tensor: usize| tensor * 768;
    let mut packed = vec![f32::NAN; 3 * 768];
    for (tensor, values) in [&operands.q, &operands.k, &operands.v].into_iter().enumerate() {
        packed[at(tensor)..][..680].copy_from_slice(values);
    }
    let packed = floats(&packed);
    let slice = |tensor: usize| packed.slice(at(tensor) as u64 * 4..(at(tensor) as u64 + 680) * 4);
    let results = output(768 + 34);
    for kernel in kernels(&problem) {
        let plan = AttentionPlan::new(
            ATTENTION.kernels(),
            &problem,
            &PlanOptions::default().kernel(kernel),
        )
        .unwrap();
        let mut encoder = device().create_command_encoder(&Default::default());
        let buffers = AttentionBuffers {
            q: slice(0),
            k: slice(1),
            v: slice(2),
            aux: AuxBuffers::new(),
            o: results.slice(..680 * 4),
            lse: Some(results.slice(768 * 4..)),
        };
        plan.encode(&mut encoder, &buffers).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let found = ATTENTION.read_blocking(&results, 768 + 34).unwrap();
        let expected = run(&problem, &operands, kernel);
        assert_eq!(found[..680], expected.o, "{kernel}");
        assert_eq!(found[768..], expected.lse, "{kernel}");
        assert!(found[680..768].iter().all(|x| x.to_bits() == u32::MAX), "{kernel}: between");
    }
}

#[test]
fn masks_that_differ_in_data_alone_share_a_pipeline() {
    let kernels = Kernels::new(device(), &Default::default());
    // The number of queries decides on the kernel and its tiles.
    let plan = |mask: &str, seq_len_kv: usize| {
        let shape = Shape::new(1, 1, 20, 20).seq_len_kv(seq_len_kv);
        let problem = Problem::new(shape).mask(mask.parse().unwrap());
        AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap();
    };
    plan("window(3,0) & causal", 20);
    assert_eq!(kernels.compiled(), 1);
    plan("window(100,7) & causal(offset=-2)", 20);
    plan("window(inf,inf) & causal(upper_left)", 500);
    assert_eq!(kernels.compiled(), 1);
    plan("window(3,0) | causal", 10);
    assert_eq!(kernels.compiled(), 2);
}

#[test]
fn twenty_masks_compile_as_many_pipelines_as_they_have_structures() {
    let kernels = Kernels::new(device(), &Default::default());
    let structures = [
        |n: u32| Mask::window(n, 0),
        |n: u32| Mask::chunk(n + 1) & Mask::causal(),
        |n: u32| Mask::dilated(n, n + 1) | Mask::global(n),
        |n: u32| Mask::PerHead(vec![Mask::causal(), Mask::window(n, n)]),
    ];
    for n in 0..5 {
        for structure in structures {
            let shape = Shape::new(1, 2, 20, 20).seq_len_kv(20 + 7 * n as usize);
            let problem = Problem::new(shape).mask(structure(n));
            AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap();
        }
    }
    assert_eq!(kernels.compiled(), structures.len());
}

#[test]
fn one_pipeline_for_two_threads() {
    let kernels = Kernels::new(device(), &Default::default());
    let problem = Problem::new(Shape::new(1, 1, 9, 20)).mask("not_self & prefix".parse().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap());
        }
    });
    assert_eq!(kernels.compiled(), 1);
}

#[test]
fn readback_in_pieces() {
    // More than one piece of 64 MiB, and not a whole number of them.
    let elements = (64 << 20) / 4 + 1001;
    let values: Vec<f32> = (0..elements).map(|i| (i % 8191) as f32).collect();
    let read = ATTENTION.read_blocking(&floats(&values), elements).unwrap();
    assert!(read == values, "the pieces don't join");
}

#[test]
fn a_plan_explains_itself() {
    let problem = Problem::new(Shape::new(1, 1, 19, 201)).mask(Mask::causal());
    let plan = AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    let text = plan.explain();
    for part in
        ["kernel `tiled`", "tiles of 32 queries x 64 keys", "mask `causal`", "not `broadcast`"]
    {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(text, ATTENTION.kernels().explain(&problem, &Default::default()).unwrap());
    // What was refused for a feature says what to enable.
    let bare = limited(|_| ()).kernels().clone();
    let features = bare.device().features();
    let text = bare.explain(&problem, &Default::default()).unwrap();
    assert!(!features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX));
    assert!(text.contains("not `matrix`: it needs cooperative matrices"), "{text}");
    assert!(text.contains("enable DeviceOptions::matrices"), "{text}");
}

#[test]
fn a_destroyed_device_is_an_error() {
    let info = device().adapter_info();
    let own = Session::open_blocking(
        &DeviceOptions::default().adapter(AdapterChoice::Name(info.name.clone())),
    )
    .unwrap();
    let shape = Shape::new(1, 1, 9, 20);
    let operands = Operands::random(&shape, 1);
    let call =
        || own.run_blocking(&Problem::new(shape), &operands.inputs(), &RunOptions::default());
    call().unwrap();
    own.kernels().device().destroy();
    let error = call().unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error:?}");
}

/// What is told as scratch is what the driver holds, which rounds each buffer up.
#[test]
fn scratch_is_what_a_plan_allocates() {
    let own = limited(|_| {});
    let held = || {
        // What buffers were filled from is freed behind a submission.
        own.queue().submit([]);
        own.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let report = own.device().generate_allocator_report()?;
        Some(report.allocations.iter().map(|allocation| allocation.size).sum::<u64>())
    };
    for (shape, mask, splits) in [
        (Shape::new(1, 2, 512, 16), "causal", None),
        (Shape::new(2, 2, 700, 16), "documents & key_lengths", None),
        (Shape::new(1, 8, 1, 64).num_kv_heads(2).seq_len_kv(4096), "causal", Some(8)),
    ] {
        let problem = Problem::new(shape).mask(mask.parse().unwrap());
        let mut options = PlanOptions::default();
        options.num_splits = splits;
        options.kernel = splits.map(|_| ForwardKernel::Decode);
        // Pipelines are compiled by the first.
        drop(AttentionPlan::new(own.kernels(), &problem, &options).unwrap());
        let Some(before) = held() else { return };
        let plan = AttentionPlan::new(own.kernels(), &problem, &options).unwrap();
        let more = held().unwrap() - before;
        let told = plan.scratch_bytes();
        assert!(told <= more && more <= told + 12 * 1024, "{mask}: {more} bytes, {told} told");
    }
}
