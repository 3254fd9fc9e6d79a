//! The device's own rates.

use wgpu::util::DeviceExt as _;

use wgpu_attention::{Result, wgpu};

use super::clock::Clock;
use super::device::scoped;

/// Invocations of a workgroup, in both kernels.
const WORKGROUP_SIZE: u64 = 64;
/// Workgroups of multiply-adds: enough to fill the largest GPUs several times over.
const WORKGROUPS: u32 = 4096;
/// 32 rounds of 3 vectors of 4 components, two operations each.
const OPERATIONS_PER_TURN: f64 = 32.0 * 3.0 * 4.0 * 2.0;
/// A measurement takes at least this long, so that starting it doesn't count.
const LEAST_SECONDS: f64 = 0.02;
const MOST_TURNS: u32 = 1 << 16;
/// The best of so many counts: nothing makes a device faster than it is.
const TRIES: usize = 7;
/// What is copied: more than most caches hold, less than any device's binding.
const COPY_BYTES: u64 = 128 << 20;

/// What the device reaches with kernels that do nothing else, per second that it works ([`super::Time::busy`]): of a CPU
/// adapter, per core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// f32 operations per second; a multiply-add is two.
    pub operations: f64,
    /// Bytes per second, read and written ones, of a copy.
    pub bytes: f64,
}

impl Peaks {
    /// Measures both, in well under a second on most devices.
    ///
    /// # Errors
    /// What the device reported.
    pub fn measure(clock: &Clock) -> Result<Self> {
        Ok(Self { operations: operations(clock)?, bytes: bytes(clock)? })
    }

    /// The time in seconds below which no kernel does so many operations on so many bytes: the roofline. To be compared
    /// with [`super::Samples::busy`].
    ///
    /// ```
    /// let peaks = wgpu_attention_tools::measure::Peaks { operations: 1e12, bytes: 1e11 };
    /// assert_eq!(peaks.least_time(4e12, 1e11), 4.0);
    /// assert_eq!(peaks.least_time(1e12, 5e11), 5.0);
    /// ```
    pub fn least_time(&self, operations: f64, bytes: f64) -> f64 {
        (operations / self.operations).max(bytes / self.bytes)
    }

    /// Whether so many bytes take longer than so many operations, at the rate of copies: then [`super::Loads`] tells how fast
    /// they can be read.
    pub fn is_bound_by_memory(&self, operations: f64, bytes: f64) -> bool {
        bytes / self.bytes > operations / self.operations
    }
}

fn operations(clock: &Clock) -> Result<f64> {
    let device = clock.device();
    let invocations = u64::from(WORKGROUPS) * WORKGROUP_SIZE;
    let (pass, params) = scoped(device, "preparing multiply-adds", || {
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("turns"),
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let sums = storage(device, invocations * 4);
        let text = include_str!("../../shaders/measure/multiply_add.wgsl");
        (Pass::new(device, "multiply_add", text, &[&params, &sums], [WORKGROUPS, 1]), params)
    })?;
    let seconds = |turns: u32| {
        // Towards a fixed point, so that no number overflows.
        let words = [turns, 0.5f32.to_bits(), 1.0f32.to_bits(), 0];
        let staged = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("turns"),
            contents: bytemuck::cast_slice(&words),
            usage: wgpu::BufferUsages::COPY_SRC,
        });
        // The copy goes ahead of what is timed.
        clock.time(|encoder| {
            encoder.copy_buffer_to_buffer(&staged, 0, &params, 0, 16);
            Ok(())
        })?;
        Ok(clock.time(|encoder| pass.encode(encoder))?.busy.as_secs_f64())
    };
    let mut turns = 1;
    seconds(turns)?;
    while seconds(turns)? < LEAST_SECONDS && turns < MOST_TURNS {
        turns *= 2;
    }
    let best = best(|| seconds(turns))?;
    Ok(invocations as f64 * f64::from(turns) * OPERATIONS_PER_TURN / best)
}

fn bytes(clock: &Clock) -> Result<f64> {
    let device = clock.device();
    let size = COPY_BYTES.min(device.limits().max_storage_buffer_binding_size) / 16 * 16;
    let pass = scoped(device, "preparing a copy", || {
        let buffers = [(); 2].map(|()| storage(device, size));
        let workgroups = (size / 16).div_ceil(WORKGROUP_SIZE);
        let x = workgroups.min(u64::from(device.limits().max_compute_workgroups_per_dimension));
        let grid = [x as u32, workgroups.div_ceil(x) as u32];
        let text = include_str!("../../shaders/measure/copy.wgsl");
        Pass::new(device, "copy", text, &[&buffers[0], &buffers[1]], grid)
    })?;
    let best = best(|| Ok(clock.time(|encoder| pass.encode(encoder))?.busy.as_secs_f64()))?;
    Ok(2.0 * size as f64 / best)
}

/// The shortest of several times, after one that isn't counted.
fn best(mut seconds: impl FnMut() -> Result<f64>) -> Result<f64> {
    seconds()?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        best = best.min(seconds()?);
    }
    // A clock that stood still would make the rate infinite.
    Ok(best.max(1e-9))
}

fn storage(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    })
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
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        // SAFETY: an invocation writes its own element, of which there are as many as invocations or the text looks;
        // the loop is bounded.
        #[expect(unsafe_code)]
        let module = unsafe {
            device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
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

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
        Ok(())
    }
}
