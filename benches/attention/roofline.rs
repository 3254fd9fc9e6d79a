//! What the device reaches at most: kernels that load and do nothing else, of which several are tried, since which form is
//! fastest depends on the device; and the device's rate of multiply-adds.

use wgpu_attention::measure::{Clock, Peaks, Samples};

use crate::forward::output;

/// A form of loading.
#[derive(Clone, Copy)]
struct Form {
    /// Invocations in a workgroup.
    size: u32,
    /// Vectors that an invocation loads per round.
    unroll: u32,
    /// Whether a round asks for the next one's cache lines first, by a number of each (`shaders/cpu/prefetch/`).
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

/// Workgroups among which a buffer is shared out: enough for any device, each with thousands of loads.
const WORKGROUPS: u32 = 256;

/// Kernels over the buffers that another contender reads.
pub(crate) struct Roofline {
    loads: Vec<Kernel>,
    bytes: f64,
    /// Operations per second.
    operations: f64,
}

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    bind_groups: Vec<wgpu::BindGroup>,
}

/// The best rates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Bytes per second.
    pub(crate) load: f64,
    /// Operations per second, a multiplication and an addition counting two.
    pub(crate) fma: f64,
}

impl Rates {
    /// The least time for so many bytes and operations: the longer of the two.
    pub(crate) fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.load).max(operations / self.fma)
    }
}

impl Roofline {
    /// Loads are timed over `buffers`, whose sizes are multiples of 2 MiB.
    ///
    /// # Errors
    /// What the device reported.
    pub(crate) fn new(
        device: &wgpu::Device,
        clock: &Clock,
        buffers: &[&wgpu::Buffer],
    ) -> wgpu_attention::Result<Self> {
        let sums = output(device, (WORKGROUPS * 64 * 4) as usize);
        let has_words = device.features().contains(wgpu::Features::SHADER_INT64);
        let forms = FORMS.into_iter().filter(|form| has_words || !form.wide);
        let loads = forms.map(|form| {
            let pipeline = compile(device, &load_text(form));
            let bind_groups =
                buffers.iter().map(|buffer| bind(device, &pipeline, &[buffer, &sums])).collect();
            Kernel { pipeline, bind_groups }
        });
        Ok(Self {
            loads: loads.collect(),
            bytes: buffers.iter().map(|buffer| buffer.size() as f64).sum(),
            operations: Peaks::measure(clock)?.operations,
        })
    }

    /// Records each kernel that loads.
    pub(crate) fn contenders(
        &self,
    ) -> Vec<impl Fn(&mut wgpu::CommandEncoder) -> wgpu_attention::Result<()>> {
        (self.loads.iter())
            .map(|kernel| {
                move |encoder: &mut wgpu::CommandEncoder| {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    pass.set_pipeline(&kernel.pipeline);
                    for bind_group in &kernel.bind_groups {
                        pass.set_bind_group(0, bind_group, &[]);
                        pass.dispatch_workgroups(WORKGROUPS, 1, 1);
                    }
                    Ok(())
                }
            })
            .collect()
    }

    /// The best form's rate, from the times of [`Roofline::contenders`], and that of multiply-adds.
    pub(crate) fn rates(&self, samples: &[Samples]) -> Rates {
        let loads = samples.iter().map(|times| self.bytes / times.busy().as_secs_f64());
        Rates { load: loads.fold(0.0, f64::max), fma: self.operations }
    }
}

/// A workgroup reads one piece of the buffer, neighbouring invocations neighbouring vectors. One sum goes round the loop:
/// what more would, a driver for CPUs merged each time by the mask of lanes.
fn load_text(Form { size, unroll, ahead, wide }: Form) -> String {
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
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {{
    var own = vec4<f32>(0.0);
    let piece = arrayLength(&values) / {WORKGROUPS}u;
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
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: every loop ends, and indices stay below the buffers' lengths: pieces are multiples of the steps.
    #[expect(unsafe_code)]
    let module = unsafe {
        device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    };
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    })
}

fn bind(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    buffers: &[&wgpu::Buffer],
) -> wgpu::BindGroup {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}
