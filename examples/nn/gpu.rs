//! The device, and small kernels on it.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result};
use bytemuck::Pod;
use wgpu::util::DeviceExt as _;
use wgpu_attention::{Kernels, Session};

/// Invocations per workgroup of every kernel here.
pub(crate) const WORKGROUP_SIZE: usize = 64;

/// The device that the crate opened, and the pipelines that were compiled on it.
pub(crate) struct Gpu {
    attention: Session,
    pipelines: RefCell<HashMap<String, wgpu::ComputePipeline>>,
}

/// A kernel with its buffers, to be recorded any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Gpu {
    /// Opens the best device.
    pub(crate) fn open() -> Result<Self> {
        let attention = Session::open_blocking(&Default::default())?;
        Ok(Self { attention, pipelines: RefCell::default() })
    }

    pub(crate) const fn kernels(&self) -> &Kernels {
        self.attention.kernels()
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        self.attention.device()
    }

    pub(crate) const fn queue(&self) -> &wgpu::Queue {
        self.attention.queue()
    }

    /// The device's name.
    pub(crate) fn name(&self) -> String {
        self.device().adapter_info().name
    }

    /// A buffer of `words` 32-bit words, all zero.
    pub(crate) fn zeros(&self, words: usize) -> wgpu::Buffer {
        self.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: words.max(1) as u64 * 4,
            usage: USAGES,
            mapped_at_creation: false,
        })
    }

    /// A buffer with these contents.
    pub(crate) fn upload<T: Pod>(&self, contents: &[T]) -> wgpu::Buffer {
        self.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(contents),
            usage: USAGES,
        })
    }

    /// New contents for a buffer, before whatever is submitted next.
    pub(crate) fn write<T: Pod>(&self, buffer: &wgpu::Buffer, contents: &[T]) {
        self.queue().write_buffer(buffer, 0, bytemuck::cast_slice(contents));
    }

    /// Waits for the device and reads f32 values.
    pub(crate) fn read(&self, buffer: &wgpu::Buffer, values: usize) -> Result<Vec<f32>> {
        Ok(self.attention.read_blocking(buffer, values)?)
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue().submit([encoder.finish()]);
    }

    /// The kernel of `text`, whose entry point is `main`, over its sizes (binding 0, uniform) and buffers (from binding 1).
    /// `constants` is WGSL that is put before the text.
    pub(crate) fn dispatch(
        &self,
        (constants, text): (&str, &str),
        sizes: &[u32],
        buffers: &[&wgpu::Buffer],
        workgroups: [usize; 2],
    ) -> Result<Dispatch> {
        // Uniform blocks are read in units of 16 bytes.
        let mut sizes = sizes.to_vec();
        sizes.resize(sizes.len().next_multiple_of(4), 0);
        let sizes = self.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&sizes),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let pipeline = self.pipeline(constants, text);
        let buffers = [&[&sizes], buffers].concat();
        let entries: Vec<_> = (0..)
            .zip(&buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = self.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let [x, y] = workgroups.map(u32::try_from);
        let too_many = "more workgroups than 32 bits count";
        let workgroups = [x.context(too_many)?, y.context(too_many)?];
        Ok(Dispatch { pipeline, bindings, workgroups })
    }

    fn pipeline(&self, constants: &str, text: &str) -> wgpu::ComputePipeline {
        let text = format!("const WORKGROUP_SIZE: u32 = {WORKGROUP_SIZE}u;\n{constants}\n{text}");
        if let Some(pipeline) = self.pipelines.borrow().get(&text) {
            return pipeline.clone();
        }
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
        };
        // SAFETY: every kernel in this folder compares its indices with the sizes that it is given, which `Tape` makes
        // its buffers from, and clamps or refuses those that are data; every loop is bounded by those sizes.
        #[expect(unsafe_code)]
        let module = unsafe {
            let checks = wgpu::ShaderRuntimeChecks::unchecked();
            self.device().create_shader_module_trusted(descriptor, checks)
        };
        let pipeline = self.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        self.pipelines.borrow_mut().insert(text, pipeline.clone());
        pipeline
    }
}

impl Dispatch {
    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

const USAGES: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);
