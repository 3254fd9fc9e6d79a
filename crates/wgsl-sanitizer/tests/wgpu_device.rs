//! The wgpu device, with programs that use it as they would any other.

use std::sync::{Arc, Mutex};

use wgsl_sanitizer::FindingKind;
use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};

const TEXT: &str = "
override factor: u32 = 2;
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
var<workgroup> tile: array<u32, 8>;
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>) {
    tile[i] = data[group.x * 8u + i];
    workgroupBarrier();
    data[group.x * 8u + i] = tile[7u - i] * factor;
}";

struct Program {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    buffer: wgpu::Buffer,
}

fn program(device: &wgpu::Device, text: &str, entry: Option<&str>) -> Program {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: true,
    });
    let words: Vec<u8> = (0..16u32).flat_map(u32::to_le_bytes).collect();
    buffer.get_mapped_range_mut(..).unwrap().copy_from_slice(&words);
    buffer.unmap();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("turn"),
        layout: None,
        module: &module,
        entry_point: entry,
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("factor", 3.0)],
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    Program { pipeline, group, buffer }
}

fn submit(sanitizer: &Sanitizer, program: &Program) -> Vec<u32> {
    let device = sanitizer.device();
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&program.pipeline);
    pass.set_bind_group(0, &program.group, &[]);
    pass.dispatch_workgroups(2, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&program.buffer, 0, &staging, 0, 64);
    sanitizer.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |_| ());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let view = staging.get_mapped_range(..).unwrap();
    view.chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

#[test]
fn a_program_runs_and_its_dispatches_are_reported() {
    let sanitizer = Sanitizer::new(DeviceOptions { subgroup_size: 4, ..Default::default() });
    let words = submit(&sanitizer, &program(sanitizer.device(), TEXT, Some("main")));
    let expected: Vec<u32> = (0..16).map(|at| 3 * (at / 8 * 8 + 7 - at % 8)).collect();
    assert_eq!(words, expected);
    let [dispatch] = &sanitizer.take()[..] else { panic!("one dispatch") };
    assert_eq!((dispatch.label.as_str(), dispatch.workgroups), ("turn", [2, 1, 1]));
    assert!(dispatch.report.findings.is_empty(), "{}", dispatch.report);
    assert!(sanitizer.take().is_empty());
}

#[test]
fn a_rewritten_kernel_is_found_and_is_an_error_where_asked_for() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let sanitizer = Sanitizer::new(DeviceOptions {
        subgroup_size: 4,
        faults_are_errors: true,
        on_dispatch: Some(Arc::new(move |dispatch| {
            let kinds = dispatch.report.findings.iter().map(|found| found.kind);
            ears.lock().unwrap().extend(kinds);
        })),
        rewrite: Some(Arc::new(|text| text.replace("workgroupBarrier();", ""))),
        ..Default::default()
    });
    let program = program(sanitizer.device(), TEXT, Some("main"));
    let scope = sanitizer.device().push_error_scope(wgpu::ErrorFilter::Validation);
    submit(&sanitizer, &program);
    let error = pollster::block_on(scope.pop()).unwrap().to_string();
    assert!(error.starts_with("turn: race at `tile["), "{error}");
    assert!(heard.lock().unwrap().contains(&FindingKind::Race));
}

#[test]
fn fences_around_a_program_s_buffers_are_kept() {
    let sanitizer = Sanitizer::new(DeviceOptions::default());
    let program = program(sanitizer.device(), TEXT, None);
    Sanitizer::buffer(&program.buffer).unwrap().poison(60..64);
    Sanitizer::buffer(&program.buffer).unwrap().protect(0..4);
    let words = submit(&sanitizer, &program);
    assert_eq!(words[0], 0);
    let [dispatch] = &sanitizer.take()[..] else { panic!("one dispatch") };
    let kinds: Vec<_> = dispatch.report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(kinds, [FindingKind::Uninitialized, FindingKind::ForbiddenWrite]);
}

#[test]
fn what_is_wrong_with_a_program_is_an_error_of_its_device() {
    let sanitizer = Sanitizer::new(DeviceOptions::default());
    let device = sanitizer.device();
    let errors = |work: &dyn Fn()| {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        work();
        pollster::block_on(scope.pop()).map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(errors(&|| drop(program(device, "fn main( {", Some("main")))).contains("isn't WGSL"));
    let missing = errors(&|| drop(program(device, TEXT, Some("other"))));
    assert_eq!(missing, "there is no compute entry point `other`; there are: main");
    let beyond = errors(&|| {
        let program = program(device, TEXT, None);
        sanitizer.queue().write_buffer(&program.buffer, 60, &[0; 8]);
    });
    assert_eq!(beyond, "bytes 60..68 of a buffer of 64");
}
