//! The device, and the comparison of a whole problem.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::plan::{MaskFormat, PlanOptions, ScoreTensor};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{AuxData, Mask, Output, Problem, RunOptions, Session, Shape, reference};

use crate::open;
use crate::operands::MASKS;
pub(crate) use crate::operands::{Operands, SCORES, ScoreData, mask_data};
use crate::tolerance::{assert_close, naive};

/// The best device, opened once.
pub(crate) static ATTENTION: LazyLock<Session> = LazyLock::new(open::best);

/// Whether the device's `fma` rounds once; a driver for CPUs may make a product and a sum of it.
pub(crate) fn fuses() -> bool {
    static FUSES: LazyLock<bool> = LazyLock::new(|| {
        // x x = 1 + 2^-11 + 2^-24, of which a product in f32 loses the last term.
        let text = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            let x = 1.0 + f32(q_idx + 1u) / 4096.0;
            return fma(x, x, -1.0 - f32(q_idx + 1u) / 2048.0) != 0.0;
        }";
        let mask = Mask::Wgsl(WgslFunction::new(text).unwrap());
        let problem = Problem::new(Shape::new(1, 1, 1, 8)).mask(mask);
        let format = MaskFormat::Keep;
        ATTENTION.materialize_blocking(&problem, &AuxData::new(), format).unwrap().values == [1.0]
    });
    *FUSES
}

/// A device of its own with other limits than the adapter's.
pub(crate) fn limited(change: impl FnOnce(&mut wgpu::Limits)) -> Session {
    limited_with(KernelOptions::default(), change)
}

/// The same, with options.
pub(crate) fn limited_with(
    options: KernelOptions,
    change: impl FnOnce(&mut wgpu::Limits),
) -> Session {
    open::limited(options, change)
}

/// The forward kernels that serve `problem` here, but for decode kernels: their sums run in another order than the naive
/// computation's, so they need sizes at which its largest error isn't luck (see the tests of decode).
pub(crate) fn kernels(problem: &Problem) -> Vec<ForwardKernel> {
    serving(problem, false)
}

/// The kernels that serve `problem` here, decode kernels or the others.
pub(crate) fn serving(problem: &Problem, decode: bool) -> Vec<ForwardKernel> {
    of_this_run(
        problem,
        ForwardKernel::ALL.into_iter().filter(|kernel| kernel.is_decode() == decode),
        |kernel| matches!(kernel, ForwardKernel::Broadcast | ForwardKernel::DecodeLanes),
        |kernel| ATTENTION.kernels().wgsl(problem, &PlanOptions::default().kernel(*kernel)).is_ok(),
    )
}

/// Whether the variable `WGPU_ATTENTION_BRIEF_TESTS` is set, as `cargo xtask test` does without `--thorough`.
pub(crate) fn is_brief() -> bool {
    static BRIEF: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("WGPU_ATTENTION_BRIEF_TESTS").is_some());
    *BRIEF
}

/// By how many options this run goes on from one that it takes: `brief` in a brief run, else 1.
pub(crate) fn step_of_this_run(brief: usize) -> usize {
    if is_brief() { brief } else { 1 }
}

/// The masks that this run compiles attention kernels with: each by itself, unless it is brief. Then four neighbours of the list share
/// a kernel, each in a head of its own: all that a kernel has of a mask is called there as it is alone. For four heads, or
/// multiples.
pub(crate) fn masks_of_this_run() -> Vec<String> {
    let in_heads = |masks: &[&str]| match masks {
        [one] => (*one).to_owned(),
        several => format!("per_head({})", several.join(", ")),
    };
    match is_brief() {
        true => MASKS.chunks(4).map(in_heads).collect(),
        false => MASKS.iter().map(|mask| (*mask).to_owned()).collect(),
    }
}

/// The kernels of `all` that serve and that this run tests: all that serve, unless it is brief. Then those for CPU adapters are
/// tested beside the others in one case of four, since most of the time is that of compiling. The text of the GPUs' kernel
/// chooses which, so that problems of several lengths, for which the same kernels are compiled, have them or not as one;
/// `kernels` tests each kernel in any case.
pub(crate) fn of_this_run<K>(
    problem: &Problem,
    all: impl IntoIterator<Item = K>,
    is_for_cpus: impl Fn(&K) -> bool,
    serves: impl Fn(&K) -> bool,
) -> Vec<K> {
    let (for_cpus, others): (Vec<K>, Vec<K>) = all.into_iter().partition(is_for_cpus);
    let mut serving: Vec<K> = others.into_iter().filter(&serves).collect();
    if serving.is_empty() || takes_kernels_for_cpus(problem) {
        serving.extend(for_cpus.into_iter().filter(serves));
    }
    assert!(!serving.is_empty(), "some kernel serves every problem");
    serving
}

fn takes_kernels_for_cpus(problem: &Problem) -> bool {
    let tiled = PlanOptions::default().kernel(ForwardKernel::Tiled);
    let mut hasher = DefaultHasher::new();
    match ATTENTION.kernels().wgsl(problem, &tiled) {
        Ok(text) => text.hash(&mut hasher),
        Err(_) => problem.hash(&mut hasher),
    }
    !is_brief() || hasher.finish().is_multiple_of(4)
}

/// Runs a problem with one kernel, every output.
pub(crate) fn run(problem: &Problem, operands: &Operands, kernel: ForwardKernel) -> Output {
    let outputs = RunOptions::default().lse(true).kernel(kernel);
    ATTENTION.run_blocking(problem, &operands.inputs(), &outputs).unwrap()
}

/// Compares o and lse of every kernel that serves, on random operands of dense tensors, with the f64 reference.
pub(crate) fn check_forward(shape: Shape, mask: &str, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &mask, &operands.inputs());
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        let what = format!("{kernel}, {mask}, {shape:?}");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

/// Compares the three tensors for looking inside with the f64 reference.
pub(crate) fn check_inspect(shape: Shape, mask: &str, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &mask, &operands.inputs());
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL.to_vec());
    let output = ATTENTION.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
    let [scores, masked_scores, weights] = &output.tensors[..] else {
        panic!("three tensors were asked for");
    };
    let what = format!("{mask}, {shape:?}");
    assert_close(&format!("scores of {what}"), scores, &naive.scores, &truth.scores);
    assert_close(
        &format!("masked scores of {what}"),
        masked_scores,
        &naive.masked_scores,
        &truth.masked_scores,
    );
    assert_close(&format!("weights of {what}"), weights, &naive.weights, &truth.weights);
}
