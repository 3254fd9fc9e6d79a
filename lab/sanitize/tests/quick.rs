//! Every kernel at every subgroup size under the sanitizer: within the tolerances, and without a finding.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use sanitize::mutants::{Fate, KERNELS, Kind};
use sanitize::problems::{CASES, Case, Outcome};
use sanitize::{attention, fenced, matrices_of, options, with_matrices};
use wgpu::DeviceType::{Cpu, DiscreteGpu};
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions, kernel_texts};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::{AuxData, Inputs, Mask, Problem, RunOptions, Session, Shape, Upstream};
use wgpu_attention_tools::measure::uniform;
use wgsl_sanitizer::Order;
use wgsl_sanitizer::device::DeviceOptions;

/// The problems of a run: all, or those at even or odd places, since most are alike at subgroups of neighbouring sizes.
#[derive(Clone, Copy)]
enum Part {
    All,
    Even,
    Odd,
}

impl Part {
    fn cases(self) -> impl Iterator<Item = &'static Case> {
        let all = CASES.iter().enumerate();
        let some = all.filter(move |(at, _)| match self {
            Self::All => true,
            Self::Even => at.is_multiple_of(2),
            Self::Odd => !at.is_multiple_of(2),
        });
        some.map(|(_, case)| case)
    }

    /// But those of `matrix`, which refuses subgroups with fewer lanes than a matrix has rows.
    fn without_matrices(self) -> usize {
        self.cases().filter(|case| !case.name.contains("matrix")).count()
    }
}

/// All that a kind of device has at a size is right or refused; `served` problems at least aren't refused. Gives the entry
/// points that ran. `cargo xtask sanitize` runs both kinds with all problems at every size.
fn every_kernel(
    (subgroup_size, device_type): (u32, wgpu::DeviceType),
    matrix: u32,
    order: Order,
    part: Part,
    served: usize,
) -> BTreeSet<String> {
    let entry_points: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut right = 0;
    let ears = Arc::clone(&entry_points);
    let options = DeviceOptions {
        subgroup_size,
        device_type,
        order,
        on_dispatch: Some(Arc::new(move |dispatch| {
            ears.lock().unwrap().insert(dispatch.label.clone());
        })),
        ..options()
    };
    let kernels = KernelOptions::default().matrices(matrices_of(matrix));
    let attention = attention(with_matrices(options), kernels);
    for case in part.cases() {
        match case.run(&attention) {
            Outcome::Right => right += 1,
            Outcome::Refused(_) => {}
            Outcome::Wrong(words) => {
                panic!("{}, subgroups of {subgroup_size} on {device_type:?}: {words}", case.name)
            }
        }
    }
    assert!(right >= served, "{right} problems were computed, of {served} at least");
    entry_points.lock().unwrap().clone()
}

#[test]
fn operands_between_fences() {
    for (subgroup_size, device_type) in [(8, Cpu), (32, DiscreteGpu)] {
        let options = DeviceOptions { subgroup_size, device_type, ..options() };
        let attention = attention(options, KernelOptions::default());
        let mut served = 0;
        let mut count = |kernel: &str, dim: usize, result: Result<bool, String>| match result {
            Ok(is_served) => served += usize::from(is_served),
            Err(words) => panic!("{kernel}, rows of {dim}, {device_type:?}: {words}"),
        };
        for dim in [20, 17] {
            for kernel in ForwardKernel::ALL {
                count(kernel.name(), dim, fenced::forward(&attention, kernel, dim));
            }
            for kernel in BackwardKernel::ALL {
                count(kernel.name(), dim, fenced::backward(&attention, kernel, dim));
            }
        }
        assert!(served >= 8, "{served}");
    }
}

/// Every kernel that serves gives the same numbers here and on the first adapter that wgpu finds, at subgroups of its size.
#[test]
fn kernels_give_what_a_driver_gives() {
    let driver = Session::open_blocking(&wgpu_attention::DeviceOptions::default())
        .expect("this test needs a GPU, or a software one");
    let info = driver.device().adapter_info();
    let (subgroup_size, device_type) = (info.subgroup_max_size, info.device_type);
    let options = DeviceOptions { subgroup_size, device_type, ..options() };
    let here = attention(options, KernelOptions::default());
    let (mut compared, mut largest) = (0, 0.0f32);
    let mut compare = |what: String, here: &[f32], there: &[f32]| {
        assert_eq!(here.len(), there.len(), "{what}");
        // A row without a key has lse = -inf in both.
        let apart = |(a, b): (&f32, &f32)| match (a - b).abs() {
            _ if a == b => 0.0,
            difference if difference.is_nan() => f32::INFINITY,
            difference => difference,
        };
        let most = here.iter().filter(|x| x.is_finite()).fold(0.0f32, |most, x| most.max(x.abs()));
        let off = here.iter().zip(there).map(apart).fold(0.0, f32::max) / most;
        // lavapipe's and SwiftShader's exp2, log2 and contracted products make up to 4e-7 of it.
        assert!(off <= 1e-6, "{what}: {off:e} of the largest number");
        largest = largest.max(off);
        compared += 1;
    };
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    for kernel in ForwardKernel::ALL {
        let seq_len_q = if kernel.is_decode() { 3 } else { 41 };
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(75).num_kv_heads(2);
        let problem = Problem::new(shape).mask(mask.clone());
        let (values, aux) = (operands(&shape), AuxData::new().key_lengths([75, 31]));
        let inputs = Inputs::new(&values[0], &values[1], &values[2]).aux(&aux);
        let options = RunOptions::default().lse(true).kernel(kernel);
        let run = |on: &Session| on.run_blocking(&problem, &inputs, &options);
        let (Ok(here), Ok(there)) = (run(&here), run(&driver)) else { continue };
        compare(format!("o of {kernel}"), &here.o, &there.o);
        compare(format!("lse of {kernel}"), &here.lse, &there.lse);
    }
    for kernel in BackwardKernel::ALL {
        let shape = Shape::new(2, 4, 41, 20).seq_len_kv(75).num_kv_heads(2);
        let problem = Problem::new(shape).mask(mask.clone());
        let (values, aux) = (operands(&shape), AuxData::new().key_lengths([75, 31]));
        let inputs = Inputs::new(&values[0], &values[1], &values[2]).aux(&aux);
        let upstream = Upstream::new(&values[0]);
        let options = BackwardOptions::default().kernel(kernel);
        let run = |on: &Session| on.gradients_blocking(&problem, &inputs, &upstream, &options);
        let (Ok(here), Ok(there)) = (run(&here), run(&driver)) else { continue };
        for (name, here, there) in
            [("dq", here.dq, there.dq), ("dk", here.dk, there.dk), ("dv", here.dv, there.dv)]
        {
            compare(format!("{name} of {kernel}"), &here, &there);
        }
    }
    println!("{compared} results, {largest:e} apart at most");
    assert!(compared >= 7, "{compared} results");
}

/// q, k and v in [-1, 1).
fn operands(shape: &Shape) -> [Vec<f32>; 3] {
    let Shape { batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, .. } = *shape;
    let kv = batch * num_kv_heads * seq_len_kv * head_dim;
    [(1, batch * num_heads * seq_len_q * head_dim), (2, kv), (3, kv)]
        .map(|(seed, len)| uniform(seed, len))
}

#[test]
fn subgroups_of_4() {
    every_kernel((4, Cpu), 8, Order::Forward, Part::All, Part::All.without_matrices());
}

#[test]
fn subgroups_of_8() {
    every_kernel((8, Cpu), 16, Order::Backward, Part::Even, Part::Even.without_matrices());
}

#[test]
fn subgroups_of_16() {
    every_kernel((16, DiscreteGpu), 8, Order::Random(1), Part::Odd, CASES.len() / 2);
}

#[test]
fn subgroups_of_32() {
    let ran = every_kernel((32, DiscreteGpu), 16, Order::Forward, Part::All, CASES.len());
    let all: BTreeSet<_> =
        kernel_texts().into_iter().map(|text| text.entry_point.to_owned()).collect();
    assert_eq!(ran, all, "every kernel of the catalogue runs");
}

#[test]
fn subgroups_of_64() {
    every_kernel((64, DiscreteGpu), 16, Order::Random(2), Part::Even, 10);
}

#[test]
fn subgroups_of_128() {
    every_kernel((128, DiscreteGpu), 16, Order::Backward, Part::Odd, 10);
}

/// Of two kernels each barrier is taken out; `cargo xtask sanitize` does so with all.
#[test]
fn a_missing_barrier_is_found() {
    for kernel in KERNELS.iter().filter(|kernel| ["weights", "tile_map"].contains(&kernel.name)) {
        let whole = kernel.whole().unwrap_or_else(|words| panic!("{}: {words}", kernel.name));
        let barriers = whole.mutants.iter().filter(|(mutant, _)| mutant.kind == Kind::Barrier);
        let mut count = 0;
        for (mutant, cases) in barriers {
            let fate = whole.fate(mutant, cases);
            assert!(matches!(fate, Fate::Found(_)), "{}, {mutant}: {fate:?}", kernel.name);
            count += 1;
        }
        assert!(count >= 2, "{}", kernel.name);
    }
}
