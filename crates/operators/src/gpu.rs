//! The device, small kernels on it, and what comes back from it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use bytemuck::Pod;
use wgpu::util::DeviceExt as _;
use wgpu_attention::{Kernels, Session};

/// Invocations per workgroup of every kernel here.
pub const WORKGROUP_SIZE: usize = 64;

/// The device that wgpu-attention opened, and the pipelines that were compiled on it.
#[derive(Debug)]
pub struct Gpu {
    attention: Session,
    pipelines: RefCell<HashMap<String, wgpu::ComputePipeline>>,
}

/// A kernel with its buffers, to be recorded any number of times.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Gpu {
    /// Opens the best device.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open() -> Result<Self> {
        let attention = Session::open_blocking(&Default::default())?;
        Ok(Self { attention, pipelines: RefCell::default() })
    }

    /// The session on the device, for one-shot calls.
    pub const fn session(&self) -> &Session {
        &self.attention
    }

    /// The kernels of attention, for its plans.
    pub const fn kernels(&self) -> &Kernels {
        self.attention.kernels()
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        self.attention.device()
    }

    /// Its queue.
    pub const fn queue(&self) -> &wgpu::Queue {
        self.attention.queue()
    }

    /// The device's name.
    pub fn name(&self) -> String {
        self.device().adapter_info().name
    }

    /// A buffer of `words` 32-bit words, all zero.
    pub fn zeros(&self, words: usize) -> wgpu::Buffer {
        self.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: words.max(1) as u64 * 4,
            usage: USAGES,
            mapped_at_creation: false,
        })
    }

    /// A buffer with these contents.
    pub fn upload<T: Pod>(&self, contents: &[T]) -> wgpu::Buffer {
        self.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(contents),
            usage: USAGES,
        })
    }

    /// New contents for a buffer, before whatever is submitted next.
    pub fn write<T: Pod>(&self, buffer: &wgpu::Buffer, contents: &[T]) {
        self.queue().write_buffer(buffer, 0, bytemuck::cast_slice(contents));
    }

    /// Waits for the device and reads f32 values.
    ///
    /// # Errors
    /// Where the device is lost.
    pub fn read(&self, buffer: &wgpu::Buffer, values: usize) -> Result<Vec<f32>> {
        Ok(self.attention.read_blocking(buffer, values)?)
    }

    /// An empty command encoder.
    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Submits what was recorded.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue().submit([encoder.finish()]);
    }

    /// The kernel of `text`, whose entry point is `main`, over its sizes (binding 0, uniform) and buffers (from binding 1).
    /// `constants` is WGSL that is put before the text.
    ///
    /// # Errors
    /// Where there are more workgroups than the device dispatches.
    pub fn dispatch(
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
        let most = self.device().limits().max_compute_workgroups_per_dimension as usize;
        ensure!(
            workgroups.iter().all(|&count| count <= most),
            "{workgroups:?} workgroups, where the device dispatches at most {most} in a direction: take fewer rows at a time"
        );
        let workgroups = workgroups.map(|count| count as u32);
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
        // SAFETY: every kernel of this crate and of examples/nn compares its indices with the sizes that it is given,
        // which the sizes of its buffers were compared with or made from, and clamps those that are data; every loop is
        // bounded by those sizes.
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
    /// Records it alone.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        Self::encode_all(std::slice::from_ref(self), encoder);
    }

    /// Records some in one pass, each after what the one before wrote.
    pub fn encode_all(dispatches: &[Self], encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in dispatches {
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, &dispatch.bindings, &[]);
            pass.dispatch_workgroups(dispatch.workgroups[0], dispatch.workgroups[1], 1);
        }
    }
}

/// A few words that come back from every step, by a copy that is recorded with it.
#[derive(Debug)]
pub struct Mailbox(wgpu::Buffer);

impl Mailbox {
    /// For so many 32-bit words.
    pub fn new(gpu: &Gpu, words: usize) -> Self {
        Self(gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("mailbox"),
            size: words.max(1) as u64 * 4,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        }))
    }

    /// Records the copy of the first words of `source`.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, source: &wgpu::Buffer) {
        encoder.copy_buffer_to_buffer(source, 0, &self.0, 0, self.0.size());
    }

    /// Waits for what was submitted, and gives the words.
    ///
    /// # Errors
    /// Where the device is lost.
    pub fn receive(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        let (sender, receiver) = mpsc::channel();
        self.0.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        receiver.recv().context("the device dropped a readback")??;
        let words = bytemuck::cast_slice(&self.0.get_mapped_range(..)?).to_vec();
        self.0.unmap();
        Ok(words)
    }
}

const USAGES: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);
