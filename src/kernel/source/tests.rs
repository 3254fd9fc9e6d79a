use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::kernel::catalog::{
    CATALOG, KernelText, SEQUENCES_MASK, appends, one_of_each, sequence_forms,
};
use crate::kernel::key::{BackwardKernel, ForwardKernel};
use crate::kernel::limits::Needs;
use crate::kernel::pipeline::Kernels;
use crate::kernel::tiles::{DeviceTraits, Splitting, backward_candidates, candidates, variants};
use crate::mask::Mask;
use crate::problem::{GradientStrides, Problem, Resolved};
use crate::score::ScoreText;
use crate::tensor::shape::Shape;

/// The kernels that append to caches, of every type and in every way, on a device without any feature.
#[test]
fn every_append_is_valid() {
    let (device, _queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let kernels = Kernels::new(&device, &Default::default());
    for key in appends() {
        let text = wgsl(&key).unwrap();
        kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

/// With every feature and limit that some kernel needs.
fn noop_device() -> wgpu::Device {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SUBGROUP
            | wgpu::Features::SUBGROUP_BARRIER
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SHADER_INT64
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
        required_limits: wgpu::Limits {
            max_compute_workgroup_storage_size: 32 << 10,
            ..wgpu::Limits::defaults()
        },
        // SAFETY: the noop backend runs nothing.
        #[expect(unsafe_code)]
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    wgpu::Device::noop(&descriptor).0
}

/// Without a GPU: wgpu's noop backend takes each text through naga's validation and every pipeline check.
#[test]
fn every_kernel_is_valid() {
    let kernels = Kernels::new(&noop_device(), &Default::default());
    for (KernelText { wgsl, .. }, key) in &*CATALOG {
        kernels.pipeline(key.clone()).unwrap_or_else(|error| panic!("{error}\n{wgsl}"));
    }
    assert_eq!(kernels.compiled(), CATALOG.len());
}

/// What plans compare with a device's limits is what the texts declare.
#[test]
fn every_kernel_needs_what_its_text_declares() {
    for (KernelText { wgsl, .. }, key) in &*CATALOG {
        let module = naga::front::wgsl::parse_str(wgsl).unwrap();
        let entry = &module.entry_points[0];
        let of = |space: fn(naga::AddressSpace) -> bool| {
            let variables = module.global_variables.iter().map(|(_, variable)| variable);
            variables.filter(move |variable| space(variable.space)).collect::<Vec<_>>()
        };
        let storage = of(|space| matches!(space, naga::AddressSpace::Storage { .. }));
        let shared = of(|space| space == naga::AddressSpace::WorkGroup).into_iter();
        let size = |variable: &naga::GlobalVariable| {
            module.types[variable.ty].inner.size(module.to_ctx()) as usize
        };
        let declared = Needs {
            storage_buffers: storage.len(),
            invocations: entry.workgroup_size.iter().product::<u32>() as usize,
            workgroup_bytes: shared.map(size).sum(),
        };
        assert_eq!(Needs::of(key), declared, "{key:?}");
        // The choice of kernels goes by what the largest of them needs.
        let chosen_by = match key {
            KernelKey::Forward { config, score, .. } => Needs::of_forward(config, score.bias),
            KernelKey::Backward { config, .. } => Needs::of_backward(config),
            _ => continue,
        };
        assert!(chosen_by.storage_buffers >= declared.storage_buffers, "{key:?}");
        assert!(chosen_by.invocations >= declared.invocations, "{key:?}");
        assert!(chosen_by.workgroup_bytes >= declared.workgroup_bytes, "{key:?}");
    }
}

/// Every way in which queries and keys may lie, in one kernel of each name, by bounds of the masks' data: with a map of the tiles, the
/// catalog has them.
#[test]
fn every_form_of_sequences_is_valid_by_bounds() {
    let kernels = Kernels::new(&noop_device(), &Default::default());
    let mask: Mask = SEQUENCES_MASK.parse().unwrap();
    for forms in sequence_forms() {
        let mask = Arc::new(MaskText::classed(&mask, forms, ClassedBy::Bounds));
        for key in one_of_each(&mask) {
            let text = wgsl(&key).unwrap();
            kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
}

/// What the tuner tries, under one mask: masks and tiles are composed apart.
#[test]
fn every_variant_is_valid() {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SUBGROUP,
        ..Default::default()
    };
    let (device, _queue) = wgpu::Device::noop(&descriptor);
    let kernels = Kernels::new(&device, &Default::default());
    let traits = DeviceTraits::with_everything(8);
    let mask = Arc::new(MaskText::new(&Mask::causal(), Default::default()));
    for head_dim in [16, 32, 64, 80, 96, 128, 192, 256] {
        let problem = Resolved::new(Problem::new(Shape::new(1, 1, 1, head_dim))).unwrap();
        let forms = candidates(&problem, &traits, Splitting::Suitable).into_iter();
        let tables = forms.filter_map(|(_, form)| form.ok());
        for config in tables.flat_map(|config| variants(config, &traits)) {
            let (score, mask) = (ScoreText::default(), Arc::clone(&mask));
            let key = KernelKey::Forward { config, score, mask };
            let text = wgsl(&key).unwrap();
            kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
    assert!(kernels.compiled() > 5);
}

/// A stranger who reads a kernel's text finds where each part comes from.
#[test]
fn every_part_is_under_the_name_of_its_file() {
    let mask: Mask = "causal & documents".parse().unwrap();
    for key in one_of_each(&Arc::new(MaskText::new(&mask, SequenceForms::default()))) {
        let text = wgsl(&key).unwrap();
        assert!(text.contains("// ---- shaders/common/problem.wgsl ----"));
        assert!(text.contains("// ---- shaders/mask/causal.wgsl ----"));
        assert!(!text.contains("TENSOR") && !text.contains("ROW_LENGTH"), "a placeholder is left");
    }
}

/// Whole kernels as they are compiled, so that a change of any part shows. `INSTA_UPDATE=always` writes them anew.
#[test]
fn whole_kernels_are_as_they_were() {
    // The package has no snapshots: they are for whoever changes kernels.
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel/source/snapshots").is_dir() {
        return;
    }
    let mask = MaskText::new(&"causal & key_lengths".parse().unwrap(), SequenceForms::default());
    let mask = Arc::new(mask);
    let score = ScoreText { softcap: true, bias: true, ..ScoreText::default() };
    let device = DeviceTraits {
        is_cpu: false,
        limits: wgpu::Limits {
            max_compute_workgroup_storage_size: 32 << 10,
            ..wgpu::Limits::defaults()
        },
        ..DeviceTraits::with_everything(8)
    };
    let problem_of = |seq_len_q, o| {
        let shape = Shape::new(1, 4, seq_len_q, 64).num_kv_heads(2).seq_len_kv(1024);
        let problem = Problem::new(shape).dtypes(Dtypes::all(Dtype::F16).o(o));
        Resolved::new(problem).unwrap()
    };
    let problem = |seq_len_q| problem_of(seq_len_q, Dtype::F32);
    let forward = |kernel: ForwardKernel, seq_len_q| {
        let all = candidates(&problem(seq_len_q), &device, Splitting::Suitable);
        let (_, config) = all.into_iter().find(|(other, _)| *other == kernel).unwrap();
        let (score, mask) = (score.clone(), Arc::clone(&mask));
        KernelKey::Forward { config: config.unwrap(), score, mask }
    };
    let backward = |wanted: BackwardKernel, o, pass| {
        let problem = problem_of(1024, o);
        let strides = GradientStrides {
            dout: problem.strides().o,
            dq: problem.strides().q,
            dk: problem.strides().k,
            dv: problem.strides().v,
        };
        let all = backward_candidates(&problem, &strides, Dtype::F32.into(), &device);
        let (_, config) = all.into_iter().find(|(kernel, _)| *kernel == wanted).unwrap();
        let score = ScoreText { softcap: true, ..ScoreText::default() };
        KernelKey::Backward { pass, config: config.unwrap(), score, mask: Arc::clone(&mask) }
    };
    let dq = BackwardPass::Dq { dq: true, normalizes: true, slopes: false };
    let dkdv = BackwardPass::DkDv { dk: true, dv: true };
    let kernels = [
        ("forward_tiled", forward(ForwardKernel::Tiled, 1024)),
        ("forward_matrix", forward(ForwardKernel::Matrix, 1024)),
        ("forward_decode", forward(ForwardKernel::Decode, 2)),
        ("forward_broadcast", forward(ForwardKernel::Broadcast, 1024)),
        ("backward_dq", backward(BackwardKernel::Tiled, Dtype::F32, dq)),
        ("backward_dkdv", backward(BackwardKernel::Tiled, Dtype::F32, dkdv)),
        ("backward_dq_matrix", backward(BackwardKernel::Matrix, Dtype::F16, dq)),
        ("backward_dkdv_matrix", backward(BackwardKernel::Matrix, Dtype::F16, dkdv)),
    ];
    for (name, key) in kernels {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, wgsl(&key).unwrap());
        });
    }
}
