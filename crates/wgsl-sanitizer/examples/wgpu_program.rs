//! A program that uses wgpu as any other does, on a device under the sanitizer: a histogram whose bins aren't atomic, then
//! one whose bins are.
//!
//! `cargo run --features wgpu --example wgpu_program`

use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};

const HISTOGRAM: &str = "
@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read_write> bins: array<BIN, 4>;

@compute @workgroup_size(64)
fn histogram(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&values)) { count(values[id.x] % 4u); }
}

fn count(bin: u32) { ADD }";

fn main() {
    for (bin, add) in [("u32", "bins[bin] += 1u;"), ("atomic<u32>", "atomicAdd(&bins[bin], 1u);")] {
        let sanitizer = Sanitizer::new(DeviceOptions::default());
        let text = HISTOGRAM.replace("BIN", bin).replace("ADD", add);
        histogram(sanitizer.device(), sanitizer.queue(), &text);
        for dispatch in sanitizer.take() {
            println!("{} with `{add}`\n{}\n", dispatch.label, dispatch.report);
        }
    }
}

/// Nothing here knows of the sanitizer.
fn histogram(device: &wgpu::Device, queue: &wgpu::Queue, text: &str) {
    let buffer = |size| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (values, bins) = (buffer(400), buffer(16));
    let words: Vec<u8> = (0..100u32).flat_map(|at| (at * at).to_le_bytes()).collect();
    queue.write_buffer(&values, 0, &words);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("histogram"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: values.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: bins.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(2, 1, 1);
    drop(pass);
    queue.submit([encoder.finish()]);
}
