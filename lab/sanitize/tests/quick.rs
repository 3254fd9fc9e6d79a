//! Every kernel at every subgroup size under the sanitizer: within the tolerances, and without a finding.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use sanitize::mutants::{Fate, KERNELS, Kind};
use sanitize::problems::{CASES, Outcome};
use sanitize::{attention, fenced, matrices_of, options, with_matrices};
use wgpu::DeviceType::{Cpu, DiscreteGpu};
use wgpu_attention::kernel::{ForwardKernel, KernelOptions, kernel_texts};
use wgsl_sanitizer::Order;
use wgsl_sanitizer::device::DeviceOptions;

/// All that a kind of device has at a size is right or refused; `served` problems at least aren't refused. Gives the entry
/// points that ran. `cargo xtask sanitize` runs both kinds at every size.
fn every_kernel(
    (subgroup_size, device_type): (u32, wgpu::DeviceType),
    matrix: u32,
    order: Order,
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
    for case in CASES {
        match case.run(&attention) {
            Outcome::Right => right += 1,
            Outcome::Refused(_) => {}
            Outcome::Wrong(words) => {
                panic!("{}, subgroups of {subgroup_size} on {device_type:?}: {words}", case.name)
            }
        }
    }
    assert!(right >= served, "{right} of {} problems were computed", CASES.len());
    entry_points.lock().unwrap().clone()
}

#[test]
fn operands_between_fences() {
    for (subgroup_size, device_type) in [(8, Cpu), (32, DiscreteGpu)] {
        let options = DeviceOptions { subgroup_size, device_type, ..options() };
        let attention = attention(options, KernelOptions::default());
        let mut served = 0;
        for kernel in ForwardKernel::ALL {
            for dim in [20, 17] {
                match fenced::forward(&attention, kernel, dim) {
                    Ok(is_served) => served += usize::from(is_served),
                    Err(words) => panic!("{kernel}, rows of {dim}, {device_type:?}: {words}"),
                }
            }
        }
        assert!(served >= 6, "{served}");
    }
}

/// The problems of `matrix`, which refuses subgroups with fewer lanes than a matrix has rows.
const OF_MATRIX: usize = 2;

#[test]
fn subgroups_of_4() {
    every_kernel((4, Cpu), 8, Order::Forward, CASES.len() - OF_MATRIX);
}

#[test]
fn subgroups_of_8() {
    every_kernel((8, Cpu), 16, Order::Backward, CASES.len() - OF_MATRIX);
}

#[test]
fn subgroups_of_16() {
    every_kernel((16, DiscreteGpu), 8, Order::Random(1), CASES.len());
}

#[test]
fn subgroups_of_32() {
    let ran = every_kernel((32, DiscreteGpu), 16, Order::Forward, CASES.len());
    let all: BTreeSet<_> =
        kernel_texts().into_iter().map(|text| text.entry_point.to_owned()).collect();
    assert_eq!(ran, all, "every kernel of the catalogue runs");
}

#[test]
fn subgroups_of_64() {
    every_kernel((64, DiscreteGpu), 16, Order::Random(2), 19);
}

#[test]
fn subgroups_of_128() {
    every_kernel((128, DiscreteGpu), 16, Order::Backward, 19);
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
