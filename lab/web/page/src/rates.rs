//! How fast the device is, and which share of that attention reaches: timed by the wall, since browsers keep a device's own
//! clock to themselves.

use std::cell::Cell;

use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wgpu::util::DeviceExt as _;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Error, Mask, Problem, Result, Session, Shape,
};

use crate::gpu::{output, submit, upload};

/// A measurement takes at least this long in seconds, so that neither its start nor the browser's coarse clock counts.
const LEAST_SECONDS: f64 = 0.04;
/// Nothing makes a device faster than it is: the best of so many counts.
const TRIES: usize = 3;
/// What would take longer than this at a tenth of the device's rate is left out.
const MOST_SECONDS: f64 = 2.0;

const WORKGROUP_SIZE: u64 = 64;
/// Workgroups of multiply-adds: enough to fill the largest GPUs.
const WORKGROUPS: u32 = 4096;
/// 32 rounds of 3 vectors of 4 components, two operations each.
const OPERATIONS_PER_TURN: f64 = 32.0 * 3.0 * 4.0 * 2.0;
/// More than most caches hold.
const COPY_BYTES: u64 = 64 << 20;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn milliseconds() -> f64;
}

/// What the device reaches with kernels that do nothing else.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Rates {
    /// f32 operations per second; a multiply-add is two.
    operations: f64,
    /// Bytes per second, read and written ones, of a copy.
    bytes: f64,
}

/// A problem's time.
#[derive(Debug, Serialize)]
pub(crate) struct Timed {
    mask: String,
    /// `[batch, num_heads, seq_len_q, seq_len_kv, head_dim]`
    sizes: [usize; 5],
    kernel: String,
    seconds: f64,
    /// What the result needs: two per product of a kept cell.
    operations: f64,
    /// What has to be read or written once.
    bytes: f64,
    /// Of the rate that bounds it.
    share: f64,
    bound: &'static str,
}

/// Milliseconds of the wall's clock.
pub(crate) fn now() -> f64 {
    milliseconds()
}

/// Submits what `record` records and waits; in seconds.
async fn seconds(
    session: &Session,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>,
) -> Result<f64> {
    let start = now();
    submit(session, record)?;
    let done = Cell::new(None);
    let promise = js_sys::Promise::new(&mut |resolve, _| done.set(Some(resolve)));
    let resolve = done.take();
    session.queue().on_submitted_work_done(move || {
        if let Some(resolve) = resolve {
            // A promise that was resolved can't refuse it.
            let _ = resolve.call0(&JsValue::NULL);
        }
    });
    JsFuture::from(promise)
        .await
        .map_err(|error| Error::Device { during: "timing", message: format!("{error:?}") })?;
    Ok((now() - start) / 1e3)
}

/// The best time of one of what `record` records so many times as it is told.
async fn best(
    session: &Session,
    most: u32,
    mut record: impl FnMut(&mut wgpu::CommandEncoder, u32) -> Result<()>,
) -> Result<f64> {
    let mut times = 1;
    // Some drivers compile in the first run.
    seconds(session, |encoder| record(encoder, times)).await?;
    while times < most && seconds(session, |encoder| record(encoder, times)).await? < LEAST_SECONDS
    {
        times *= 2;
    }
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        best = best.min(seconds(session, |encoder| record(encoder, times)).await?);
    }
    // A clock that stood still would make a rate infinite.
    Ok(best.max(1e-6) / f64::from(times))
}

impl Rates {
    /// # Errors
    /// What the device reported.
    pub(crate) async fn measure(session: &Session) -> Result<Self> {
        let rates = Self { operations: operations(session).await?, bytes: bytes(session).await? };
        session.kernels().settle().await?;
        Ok(rates)
    }
}

async fn operations(session: &Session) -> Result<f64> {
    let device = session.device();
    let invocations = u64::from(WORKGROUPS) * WORKGROUP_SIZE;
    let sums = upload(session, &vec![0f32; invocations as usize]);
    let pass = |turns: u32| {
        // Towards a fixed point, so that no number overflows.
        let words = [turns, 0.5f32.to_bits(), 1.0f32.to_bits(), 0];
        let params = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("turns"),
            contents: bytemuck::cast_slice(&words),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let text = include_str!("../../../../crates/tools/shaders/measure/multiply_add.wgsl");
        Pass::new(device, "multiply_add", text, &[&params, &sums], [WORKGROUPS, 1])
    };
    // One turn of the loop, doubled until it takes long enough; a pass is cheap beside it.
    let mut turns = 16;
    let mut taken = seconds_of(session, &pass(turns)).await?;
    while taken < LEAST_SECONDS && turns < 1 << 20 {
        turns *= 2;
        taken = seconds_of(session, &pass(turns)).await?;
    }
    let pass = pass(turns);
    for _ in 0..TRIES {
        taken = taken.min(seconds_of(session, &pass).await?);
    }
    Ok(invocations as f64 * f64::from(turns) * OPERATIONS_PER_TURN / taken.max(1e-6))
}

async fn seconds_of(session: &Session, pass: &Pass) -> Result<f64> {
    seconds(session, |encoder| {
        pass.encode(encoder);
        Ok(())
    })
    .await
}

async fn bytes(session: &Session) -> Result<f64> {
    let device = session.device();
    let size = COPY_BYTES.min(device.limits().max_storage_buffer_binding_size) / 16 * 16;
    let buffers = [(); 2].map(|()| output(session, (size / 4) as usize));
    let workgroups = (size / 16).div_ceil(WORKGROUP_SIZE);
    let x = workgroups.min(u64::from(device.limits().max_compute_workgroups_per_dimension));
    let grid = [x as u32, workgroups.div_ceil(x) as u32];
    let text = include_str!("../../../../crates/tools/shaders/measure/copy.wgsl");
    let pass = Pass::new(device, "copy", text, &[&buffers[0], &buffers[1]], grid);
    let each = best(session, 64, |encoder, times| {
        (0..times).for_each(|_| pass.encode(encoder));
        Ok(())
    })
    .await?;
    Ok(2.0 * size as f64 / each)
}

struct Pass {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Pass {
    fn new(
        device: &wgpu::Device,
        name: &str,
        text: &str,
        buffers: &[&wgpu::Buffer],
        workgroups: [u32; 2],
    ) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: None,
            module: &module,
            entry_point: Some(name),
            compilation_options: Default::default(),
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

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

/// A problem that is timed, with the cells that its mask keeps in each head.
pub(crate) struct Work {
    mask: &'static str,
    shape: Shape,
    kept: f64,
}

/// What is timed, from small to large.
pub(crate) fn works() -> Vec<Work> {
    const WINDOW: usize = 128;
    let mut works = Vec::new();
    for len in [256, 512, 1024, 2048, 4096, 8192] {
        let square = Shape::new(1, 8, len, 64);
        let all = (len * len) as f64;
        let causal = (len * (len + 1)) as f64 / 2.0;
        let before = len.saturating_sub(WINDOW);
        let window = causal - (before * (before + 1)) as f64 / 2.0;
        works.push(Work { mask: "all", shape: square, kept: all });
        works.push(Work { mask: "causal", shape: square, kept: causal });
        works.push(Work { mask: "window(127,0)", shape: square, kept: window });
        let step = Shape::new(1, 32, 1, 64).seq_len_kv(4 * len);
        works.push(Work { mask: "causal", shape: step, kept: (4 * len) as f64 });
    }
    works
}

impl Work {
    fn operations(&self) -> f64 {
        4.0 * self.kept * (self.shape.num_heads * self.shape.head_dim) as f64
    }

    /// Each row of q, k, v and o once, of f32.
    fn bytes(&self) -> f64 {
        let Shape { num_heads, seq_len_q, seq_len_kv, head_dim, .. } = self.shape;
        (8 * num_heads * (seq_len_q + seq_len_kv) * head_dim) as f64
    }

    /// Times it, unless it would take too long here.
    ///
    /// # Errors
    /// What the device reported.
    pub(crate) async fn time(&self, session: &Session, rates: Rates) -> Result<Option<Timed>> {
        let (operations, bytes) = (self.operations(), self.bytes());
        let arithmetic = operations / rates.operations;
        let memory = bytes / rates.bytes;
        if arithmetic.max(memory) * 10.0 > MOST_SECONDS {
            return Ok(None);
        }
        let mask: Mask = self.mask.parse()?;
        let problem = Problem::new(self.shape).mask(mask);
        let plan = AttentionPlan::new(session.kernels(), &problem, &Default::default())?;
        let tensor = |len: usize| {
            let value = |at: usize| (at * 7919 % 2003) as f32 / 1001.5 - 1.0;
            upload(session, &(0..len).map(value).collect::<Vec<f32>>())
        };
        let [q, k, v] = [self.shape.q_len()?, self.shape.k_len()?, self.shape.v_len()?].map(tensor);
        let o = output(session, self.shape.o_len()?);
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: AuxBuffers::new(),
            o: o.slice(..),
            lse: None,
        };
        let seconds = best(session, 256, |encoder, times| {
            (0..times).try_for_each(|_| plan.encode(encoder, &buffers))
        })
        .await?;
        session.kernels().settle().await?;
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, head_dim, .. } = self.shape;
        Ok(Some(Timed {
            mask: self.mask.to_owned(),
            sizes: [batch, num_heads, seq_len_q, seq_len_kv, head_dim],
            kernel: plan.kernel().to_string(),
            seconds,
            operations,
            bytes,
            share: arithmetic.max(memory) / seconds,
            bound: if arithmetic > memory { "arithmetic" } else { "memory" },
        }))
    }
}
