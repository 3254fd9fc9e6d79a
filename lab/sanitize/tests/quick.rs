//! Every kernel at every subgroup size under the sanitizer: within the tolerances, and without a finding.

use sanitize::problems::{CASES, Outcome};
use sanitize::{attention, fenced, matrices_of, options, with_matrices};
use wgpu::DeviceType::{Cpu, DiscreteGpu};
use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgsl_sanitizer::Order;
use wgsl_sanitizer::device::DeviceOptions;

/// All that a size has is right or refused; `served` kernels at least aren't refused.
fn every_kernel(subgroup_size: u32, matrix: u32, order: Order, served: usize) {
    let mut right = 0;
    for device_type in [Cpu, DiscreteGpu] {
        let options = DeviceOptions { subgroup_size, device_type, order, ..options() };
        let kernels = KernelOptions::default().matrices(matrices_of(matrix));
        let attention = attention(with_matrices(options), kernels);
        for case in CASES {
            match case.run(&attention) {
                Outcome::Right => right += 1,
                Outcome::Refused(_) => {}
                Outcome::Wrong(words) => {
                    panic!(
                        "{}, subgroups of {subgroup_size} on {device_type:?}: {words}",
                        case.name
                    )
                }
            }
        }
    }
    assert!(right >= served, "{right} of {} problems were computed", 2 * CASES.len());
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

#[test]
fn subgroups_of_4() {
    every_kernel(4, 8, Order::Forward, 24);
}

#[test]
fn subgroups_of_8() {
    every_kernel(8, 16, Order::Backward, 24);
}

#[test]
fn subgroups_of_16() {
    every_kernel(16, 8, Order::Random(1), 24);
}

#[test]
fn subgroups_of_32() {
    every_kernel(32, 16, Order::Forward, 24);
}

#[test]
fn subgroups_of_64() {
    every_kernel(64, 16, Order::Random(2), 20);
}

#[test]
fn subgroups_of_128() {
    every_kernel(128, 16, Order::Backward, 20);
}
