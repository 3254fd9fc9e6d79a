//! Attention inside an application that lives on wgpu already: its device, its buffers, its command encoder.
//!
//! The application renders two frames in one submit. In each, a pass of its own writes q, k and v, attention follows,
//! and another pass of its own works on with the result. The crate validates and compiles once ([`AttentionPlan`]); after
//! that it only records commands. It doesn't submit, poll, or write buffers on the application's behalf, so both frames
//! can share the plan and the buffers although their data, and the lengths that their masks read, differ.

mod common;

use anyhow::{Context, Result};
use common::{max_difference, normal};
use wgpu::util::DeviceExt as _;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Inputs, Kernels, Mask,
    Problem, Shape, reference,
};

const FRAMES: usize = 2;
const SHAPE: Shape = Shape::new(2, 4, 40, 16);
const LENGTHS: [[i32; 2]; FRAMES] = [[40, 25], [7, 33]];
/// Elements of q, of k, of v and of o alike.
const LEN: usize = SHAPE.batch * SHAPE.num_heads * SHAPE.seq_len_q * SHAPE.head_dim;

/// The application's passes. `project` makes q, k and v of the frame's embeddings `x`; `finish` adds the residual.
const PASSES: &str = "
struct Frame { x_at: u32, q_at: u32, k_at: u32, v_at: u32, o_at: u32, len: u32 }
@group(0) @binding(0) var<uniform> frame: Frame;
@group(0) @binding(1) var<storage, read_write> embeddings: array<f32>;
@group(0) @binding(2) var<storage, read_write> projected: array<f32>;
@group(0) @binding(3) var<storage, read_write> results: array<f32>;

@compute @workgroup_size(64)
fn project(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= frame.len) { return; }
    let x = embeddings[frame.x_at + id.x];
    projected[frame.q_at + id.x] = 1.5 * x;
    projected[frame.k_at + id.x] = x - 0.25;
    projected[frame.v_at + id.x] = x * x;
}

@compute @workgroup_size(64)
fn finish(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= frame.len) { return; }
    embeddings[frame.x_at + id.x] += results[frame.o_at + id.x];
}
";

fn main() -> Result<()> {
    let app = pollster::block_on(App::start())?;
    let x = normal(1, FRAMES * LEN);
    let after = app.render_frames(&x)?;

    for (frame, (x, after)) in x.chunks(LEN).zip(after.chunks(LEN)).enumerate() {
        let error = max_difference(after, &expected(x, LENGTHS[frame])?);
        println!("frame {frame}: lengths {:?}, largest error {error:.1e}", LENGTHS[frame]);
        assert!(error < 1e-5);
    }
    println!("Both frames went in one submit: {FRAMES} x (project, attention, finish).");
    Ok(())
}

/// What the application had before it heard of attention.
struct App {
    device: wgpu::Device,
    queue: wgpu::Queue,
    project: wgpu::ComputePipeline,
    finish: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

impl App {
    async fn start() -> Result<Self> {
        let instance =
            wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
        let descriptor = wgpu::DeviceDescriptor {
            // Attention computes everything without any feature, and faster with these.
            required_features: wgpu_attention::required_features(&adapter),
            required_limits: wgpu_attention::required_limits(&adapter),
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await?;
        println!("the application's device: {}", adapter.get_info().name);

        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("the application's passes"),
            source: wgpu::ShaderSource::Wgsl(PASSES.into()),
        });
        let storage = wgpu::BufferBindingType::Storage { read_only: false };
        let types = [wgpu::BufferBindingType::Uniform, storage, storage, storage];
        let entries: Vec<_> = (0..)
            .zip(types)
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let [project, finish] = ["project", "finish"].map(|entry_point| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry_point),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry_point),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        });
        Ok(Self { device, queue, project, finish, layout })
    }

    /// Renders all frames in one submit and returns the embeddings afterwards.
    fn render_frames(&self, x: &[f32]) -> Result<Vec<f32>> {
        // Once: validation, the choice of a kernel, compilation.
        let kernels = Kernels::new(&self.device, &Default::default());
        let problem = Problem::new(SHAPE).mask(Mask::causal() & Mask::KeyLengths);
        let plan = AttentionPlan::new(&kernels, &problem, &Default::default())?;
        println!("the plan: {}", plan.explain());

        // q, k and v lie in one buffer, at offsets that the device can bind; o in the middle of another.
        let alignment = u64::from(self.device.limits().min_storage_buffer_offset_alignment);
        let bytes = LEN as u64 * 4;
        let stride = bytes.next_multiple_of(alignment);
        let [q_at, k_at, v_at] = [0, stride, 2 * stride];
        let o_at = alignment;
        let projected = self.buffer("q, k, v", 3 * stride, wgpu::BufferUsages::empty());
        let results = self.buffer("results", o_at + bytes, wgpu::BufferUsages::empty());
        let embeddings = self.filled("embeddings", bytemuck::cast_slice(x));
        let lengths = self.filled("lengths", bytemuck::cast_slice(&LENGTHS));

        let mut encoder = self.device.create_command_encoder(&Default::default());
        for frame in 0..FRAMES as u64 {
            let places = [frame * bytes, q_at, k_at, v_at, o_at, bytes].map(|at| (at / 4) as u32);
            let bindings = self.bind(&places, &[&embeddings, &projected, &results]);
            self.pass(&mut encoder, &self.project, &bindings);
            plan.encode(
                &mut encoder,
                &AttentionBuffers {
                    q: projected.slice(q_at..q_at + bytes),
                    k: projected.slice(k_at..k_at + bytes),
                    v: projected.slice(v_at..v_at + bytes),
                    aux: AuxBuffers::new()
                        .with(AuxTensor::KeyLengths, lengths.slice(8 * frame..8 * (frame + 1))),
                    o: results.slice(o_at..),
                    lse: None,
                },
            )?;
            self.pass(&mut encoder, &self.finish, &bindings);
        }
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: embeddings.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(&embeddings, 0, &staging, 0, embeddings.size());
        self.queue.submit([encoder.finish()]);

        staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("staging is mappable"));
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let view = staging.get_mapped_range(..).context("mapping the results")?;
        Ok(bytemuck::cast_slice(&view).to_vec())
    }

    fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: usage | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    }

    fn filled(&self, label: &str, contents: &[u8]) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        })
    }

    fn bind(&self, places: &[u32], buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        let frame = self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("frame"),
            contents: bytemuck::cast_slice(places),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let entries: Vec<_> = (0..)
            .zip([&frame].iter().chain(buffers))
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        })
    }

    fn pass(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        pipeline: &wgpu::ComputePipeline,
        bindings: &wgpu::BindGroup,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bindings, &[]);
        pass.dispatch_workgroups((LEN as u32).div_ceil(64), 1, 1);
    }
}

/// A frame's embeddings after rendering, on the CPU.
fn expected(x: &[f32], lengths: [i32; 2]) -> Result<Vec<f32>> {
    let of = |f: fn(&f32) -> f32| x.iter().map(f).collect::<Vec<f32>>();
    let (q, k, v) = (of(|x| 1.5 * x), of(|x| x - 0.25), of(|x| x * x));
    let problem = Problem::new(SHAPE).mask(Mask::causal() & Mask::KeyLengths);
    let data = AuxData::new().key_lengths(lengths);
    let o = reference::attention(&problem, &Inputs::new(&q, &k, &v).aux(&data))?.o;
    Ok(x.iter().zip(o).map(|(x, o)| (f64::from(*x) + o) as f32).collect())
}
