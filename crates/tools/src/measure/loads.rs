//! How fast the device loads some buffers, by kernels that do nothing else.

use wgpu_attention::{Result, wgpu};

use super::clock::Samples;
use super::device::scoped;

/// A form of loading. Which one is fastest depends on the device.
#[derive(Clone, Copy)]
struct Form {
    /// Invocations in a workgroup.
    size: u32,
    /// Vectors that an invocation loads per round.
    unroll: u32,
    /// Whether a round prefetches the next one's cache lines, by a number of each (`shaders/cpu/prefetch/`).
    ahead: bool,
    /// Whether vectors come in words of 64 bits, which the device has to have.
    wide: bool,
}

const FORMS: [Form; 6] = [
    Form { size: 8, unroll: 4, ahead: false, wide: false },
    Form { size: 8, unroll: 8, ahead: false, wide: false },
    Form { size: 64, unroll: 4, ahead: false, wide: false },
    Form { size: 8, unroll: 32, ahead: true, wide: false },
    Form { size: 8, unroll: 8, ahead: false, wide: true },
    Form { size: 8, unroll: 32, ahead: true, wide: true },
];

/// The most workgroups among which a buffer is shared out: enough for any device, each with thousands of loads.
const MOST_WORKGROUPS: u64 = 256;

/// Bytes of a vector.
const VECTOR: u64 = 16;

/// Kernels that load buffers and do nothing else: what is read from them can't be read faster, by kernels that run in turns
/// with these and find the same caches.
#[derive(Debug)]
pub struct Loads {
    kernels: Vec<Kernel>,
}

/// One form over all of the buffers.
#[derive(Debug)]
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    /// Of each buffer, and how many workgroups share it.
    buffers: Vec<(wgpu::BindGroup, u32)>,
    /// Bytes that are loaded.
    bytes: f64,
}

impl Loads {
    /// Over the first bytes of each buffer, as many as are given and the device binds.
    ///
    /// # Errors
    /// What the device reported.
    pub fn new(device: &wgpu::Device, buffers: &[(&wgpu::Buffer, u64)]) -> Result<Self> {
        let has_words = device.features().contains(wgpu::Features::SHADER_INT64);
        let forms = FORMS.into_iter().filter(|form| has_words || !form.wide);
        let kernels = scoped(device, "preparing loads", || {
            forms.filter_map(|form| Kernel::new(device, form, buffers)).collect()
        })?;
        Ok(Self { kernels })
    }

    /// Something that records each kernel, for [`super::in_turns`]. None where there are too few bytes to measure with.
    pub fn contenders(&self) -> Vec<impl Fn(&mut wgpu::CommandEncoder) -> Result<()>> {
        let record = |kernel| {
            move |encoder: &mut wgpu::CommandEncoder| {
                Kernel::encode(kernel, encoder);
                Ok(())
            }
        };
        self.kernels.iter().map(record).collect()
    }

    /// The best kernel's bytes per second, from the times of [`Loads::contenders`]: `None` without any.
    pub fn rate(&self, samples: &[Samples]) -> Option<f64> {
        let rates = self.kernels.iter().zip(samples).map(|(kernel, times)| {
            // A clock that stood still would make the rate infinite.
            kernel.bytes / times.least_busy().as_secs_f64().max(1e-9)
        });
        rates.reduce(f64::max)
    }
}

impl Kernel {
    fn new(device: &wgpu::Device, form: Form, buffers: &[(&wgpu::Buffer, u64)]) -> Option<Self> {
        let step = u64::from(form.size * form.unroll);
        let most = device.limits().max_storage_buffer_binding_size;
        // The vectors of each, and their workgroups.
        let parts: Vec<_> = (buffers.iter())
            .map(|&(buffer, bytes)| (buffer, bytes.min(buffer.size()).min(most) / VECTOR))
            .filter(|&(_, vectors)| vectors >= step)
            .map(|(buffer, vectors)| (buffer, vectors, (vectors / step).min(MOST_WORKGROUPS)))
            .collect();
        let largest = parts.iter().map(|&(.., workgroups)| workgroups).max()?;
        let sums = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("sums"),
            size: largest * u64::from(form.size) * VECTOR,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let pipeline = compile(device, &text(form));
        let layout = pipeline.get_bind_group_layout(0);
        let bind = |buffer: &wgpu::Buffer, vectors: u64| {
            let values = wgpu::BufferBinding {
                buffer,
                offset: 0,
                size: std::num::NonZeroU64::new(vectors * VECTOR),
            };
            let resources = [wgpu::BindingResource::Buffer(values), sums.as_entire_binding()];
            let entries: Vec<_> = (0..)
                .zip(resources)
                .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
                .collect();
            let label = Some("loads");
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label,
                layout: &layout,
                entries: &entries,
            })
        };
        let loaded = |&(_, vectors, workgroups): &(_, u64, u64)| {
            let piece = vectors / (step * workgroups) * step;
            (workgroups * piece * VECTOR) as f64
        };
        let bytes = parts.iter().map(loaded).sum();
        let buffers = (parts.iter())
            .map(|&(buffer, vectors, workgroups)| (bind(buffer, vectors), workgroups as u32))
            .collect();
        Some(Self { pipeline, buffers, bytes })
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        for (bind_group, workgroups) in &self.buffers {
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(*workgroups, 1, 1);
        }
    }
}

/// A workgroup reads one piece of the buffer, neighbouring invocations neighbouring vectors. One sum goes round the loop:
/// what more would, a driver for CPUs merged each time by the mask of lanes.
fn text(Form { size, unroll, ahead, wide }: Form) -> String {
    // Vectors of a round, of which a cache line of 64 bytes has four.
    let step = size * unroll;
    let fetch = match ahead {
        true => format!(
            "
        let next = min(at + {step}u, piece - {step}u) + workgroup.x * piece;
        var unlikely = false;
        for (var line = 0u; line < {lines}u; line += 16u) {{
            for (var n = 0u; n < 16u; n += 1u) {{
                unlikely |= bitcast<u32>(value(next + (line + n) * 4u).x) == 0x7f61b1e6u;
            }}
        }}
        own.x += select(0.0, 1.0, unlikely);",
            lines = step / 4
        ),
        false => String::new(),
    };
    let (vector, numbers) = match wide {
        true => (
            "vec2<u64>",
            "bitcast<vec4<f32>>(vec4<u32>(u32(x.x), u32(x.x >> 32u), u32(x.y), u32(x.y >> 32u)))",
        ),
        false => ("vec4<f32>", "x"),
    };
    format!(
        "@group(0) @binding(0) var<storage, read> values: array<{vector}>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;

fn value(at: u32) -> vec4<f32> {{
    let x = values[at];
    return {numbers};
}}

@compute @workgroup_size({size})
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {{
    var own = vec4<f32>(0.0);
    let piece = arrayLength(&values) / ({step}u * workgroups.x) * {step}u;
    let first = workgroup.x * piece + invocation;
    for (var at = 0u; at < piece; at += {step}u) {{{fetch}
        var turn = vec4<f32>(0.0);
        for (var i = 0u; i < {unroll}u; i += 1u) {{
            turn += value(first + at + i * {size}u);
        }}
        own += turn;
    }}
    sums[workgroup.x * {size}u + invocation] = own;
}}"
    )
}

fn compile(device: &wgpu::Device, text: &str) -> wgpu::ComputePipeline {
    let label = Some("loads");
    let descriptor =
        wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: every loop ends, and indices stay below the buffers' lengths: as many pieces as workgroups fit the buffer, each
    // a multiple of the step.
    #[expect(unsafe_code)]
    let module = unsafe {
        device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    };
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    })
}
