//! The baseline: attention in three passes over a seq_len × seq_len tensor per head. Its matrix products are tiled
//! and its kernels are compiled with the same options as the crate's, so that what is compared is the algorithm.

use wgpu::util::DeviceExt as _;

use crate::HEAD_DIM;

/// What the three texts share.
const PRELUDE: &str = "
const HEAD_DIM: u32 = 64u;
struct Params { seq_len: u32, causal: u32, scale: f32 }
";

/// The three passes over given buffers.
pub(crate) struct Naive {
    passes: Vec<Pass>,
}

struct Pass {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Naive {
    /// q, k, v and o are `[heads, seq_len, HEAD_DIM]`; seq_len is a multiple of 64.
    pub(crate) fn new(
        device: &wgpu::Device,
        [q, k, v, o]: [&wgpu::Buffer; 4],
        [heads, seq_len]: [usize; 2],
        causal: bool,
    ) -> Self {
        assert!(seq_len.is_multiple_of(64), "whole tiles only");
        let [heads, length] = [heads, seq_len].map(|size| size as u32);
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        let params = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("naive params"),
            contents: bytemuck::cast_slice(&[length, u32::from(causal), scale.to_bits(), 0]),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let s = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("naive scores"),
            size: u64::from(heads * length * length) * 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let tiles = length / 64;
        let pass = |name, text, buffers: &[&wgpu::Buffer], workgroups| {
            let buffers = [&[&params], buffers].concat();
            Pass::new(device, name, text, &buffers, workgroups)
        };
        let passes = vec![
            pass("scores", include_str!("naive/scores.wgsl"), &[q, k, &s], [tiles, tiles, heads]),
            pass("softmax", include_str!("naive/softmax.wgsl"), &[&s], [length, heads, 1]),
            pass("values", include_str!("naive/values.wgsl"), &[&s, v, o], [tiles, heads, 1]),
        ];
        Self { passes }
    }

    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        for Pass { pipeline, bindings, workgroups: [x, y, z] } in &self.passes {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bindings, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

impl Pass {
    fn new(
        device: &wgpu::Device,
        name: &str,
        text: &str,
        buffers: &[&wgpu::Buffer],
        workgroups: [u32; 3],
    ) -> Self {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(format!("{PRELUDE}{text}").into()),
        };
        // SAFETY: with whole tiles, which `Naive::new` asserts, every index lies within its buffer, and every loop is
        // bounded by the sequence's length.
        #[expect(unsafe_code)]
        let module = unsafe {
            device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: None,
            module: &module,
            entry_point: Some(name),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, bindings, workgroups }
    }
}
