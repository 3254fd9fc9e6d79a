//! The same bits each time, with workgroup memory that holds whatever was left in it.

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::{Mask, Problem, RunOptions, Session, Shape, Upstream};

use crate::fixture::{ATTENTION, Operands, serving};

/// How often each call is repeated: SwiftShader takes a second for some.
fn runs() -> usize {
    if ATTENTION.device().adapter_info().name.contains("SwiftShader") { 10 } else { 100 }
}

/// A NaN, so that whatever is read before it is written shows in every sum.
const LEFT_OVER: u32 = 0x7fc0_dead;

/// Fills all of the workgroup memory that a device has with [`LEFT_OVER`], and tells how much of it a workgroup of the next
/// dispatch finds there. Drivers may clear it between dispatches.
struct LeftOvers {
    fill: wgpu::ComputePipeline,
    look: wgpu::ComputePipeline,
    found: wgpu::Buffer,
    groups: [wgpu::BindGroup; 2],
}

impl LeftOvers {
    fn new(attention: &Session) -> Self {
        let device = attention.device();
        let words = device.limits().max_compute_workgroup_storage_size.min(16 << 10) / 4;
        let text = format!(
            "var<workgroup> left: array<u32, {words}>;
            @group(0) @binding(0) var<storage, read_write> found: array<u32>;
            @compute @workgroup_size(64)
            fn fill(@builtin(local_invocation_index) own: u32, @builtin(workgroup_id) id: vec3<u32>) {{
                for (var i = own; i < {words}u; i += 64u) {{ left[i] = {LEFT_OVER}u; }}
                workgroupBarrier();
                // Reading it back keeps compilers from leaving the writes out.
                found[id.x] = left[(id.x * 97u + own) % {words}u];
            }}
            @compute @workgroup_size(1)
            fn look(@builtin(workgroup_id) id: vec3<u32>) {{
                var count = 0u;
                for (var i = 0u; i < {words}u; i += 1u) {{ count += u32(left[i] == {LEFT_OVER}u); }}
                found[id.x] = count;
            }}"
        );
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let [fill, look] = ["fill", "look"].map(|entry_point| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: Some(entry_point),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
        });
        let found = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4 * 64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let groups = [&fill, &look].map(|pipeline| {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: found.as_entire_binding(),
                }],
            })
        });
        Self { fill, look, found, groups }
    }

    /// In one submission, so that no other test's work comes between.
    fn submit(&self, which: &[usize]) {
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        for &at in which {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline([&self.fill, &self.look][at]);
            pass.set_bind_group(0, &self.groups[at], &[]);
            pass.dispatch_workgroups(64, 1, 1);
        }
        ATTENTION.queue().submit([encoder.finish()]);
    }

    fn fill(&self) {
        self.submit(&[0]);
    }

    /// The largest share of a workgroup's memory that still held what was filled in.
    fn share_found(&self, words: u32) -> f64 {
        self.submit(&[0, 1]);
        let counts = ATTENTION.read_blocking(&self.found, 64).unwrap();
        let most = counts.into_iter().map(f32::to_bits).max().unwrap_or(0);
        f64::from(most) / f64::from(words)
    }
}

fn problem(seq_len_q: usize, mask: &str) -> (Problem, Operands) {
    let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(75).num_kv_heads(2);
    let mask: Mask = mask.parse().unwrap();
    (Problem::new(shape).mask(mask), Operands::random(&shape, 8))
}

/// Runs a call [`runs`] times between fills; the first result is without one.
fn repeat<T: PartialEq>(what: &str, left_overs: &LeftOvers, call: impl Fn() -> T) {
    let first = call();
    for run in 1..runs() {
        left_overs.fill();
        assert!(call() == first, "{what}: run {run} gave other bits than the first");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn forward(problem: &Problem, operands: &Operands, kernel: ForwardKernel, splits: Option<usize>) {
    let left_overs = LeftOvers::new(&ATTENTION);
    let outputs = RunOptions::default().lse(true).kernel(kernel).num_splits(splits);
    repeat(&format!("{kernel}, {splits:?} splits"), &left_overs, || {
        let output = ATTENTION.run_blocking(problem, &operands.inputs(), &outputs).unwrap();
        assert!(output.o.iter().all(|x| x.is_finite()), "{kernel}: a NaN was left over");
        [bits(&output.o), bits(&output.lse)]
    });
}

/// What was left over is there to be read where the driver doesn't clear it: the tests below say something.
#[test]
fn what_is_left_in_workgroup_memory() {
    let words = ATTENTION.device().limits().max_compute_workgroup_storage_size.min(16 << 10) / 4;
    // A driver with several threads may look by one that filled nothing.
    let left_overs = LeftOvers::new(&ATTENTION);
    let share = (0..50).map(|_| left_overs.share_found(words)).fold(0.0, f64::max);
    println!("{:.0} % of a workgroup's memory held what the dispatch before left", share * 100.0);
    let name = ATTENTION.device().adapter_info().name;
    assert!(
        share > 0.9 || !name.contains("llvmpipe"),
        "lavapipe doesn't clear, yet {share} is left"
    );
}

// Documents need a tile map, made by a kernel whose workgroups share memory, too.
#[test]
fn forward_passes_give_the_same_bits() {
    let (problem, operands) = problem(70, "documents & causal");
    for kernel in serving(&problem, false) {
        forward(&problem, &operands, kernel, None);
    }
}

#[test]
fn decode_passes_in_parts_give_the_same_bits() {
    let (problem, operands) = problem(3, "causal");
    for kernel in serving(&problem, true) {
        forward(&problem, &operands, kernel, Some(3));
    }
}

#[test]
fn backward_passes_give_the_same_bits() {
    let (problem, operands) = problem(41, "causal");
    let problem = problem.score(wgpu_attention::ScoreModifiers::default().sinks(true));
    let data = operands.mask.clone().sinks([0.5, -1.0, 2.0, 0.0]);
    let operands = Operands { mask: data, ..operands };
    let left_overs = LeftOvers::new(&ATTENTION);
    let dout: Vec<f32> = (0..problem.shape().o_len().unwrap())
        .map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0)
        .collect();
    let mut served = 0;
    for kernel in BackwardKernel::ALL {
        let options = BackwardOptions::default().kernel(kernel);
        let call = || {
            let upstream = Upstream::new(&dout);
            ATTENTION.gradients_blocking(&problem, &operands.inputs(), &upstream, &options)
        };
        if call().is_err() {
            continue;
        }
        served += 1;
        repeat(&kernel.to_string(), &left_overs, || {
            let found = call().unwrap();
            let all = [&found.dq, &found.dk, &found.dv, &found.dsinks];
            assert!(all.iter().all(|x| x.iter().all(|x| x.is_finite())), "{kernel}: left over");
            all.map(|values| bits(values))
        });
    }
    assert!(served > 0, "some kernel serves");
}
