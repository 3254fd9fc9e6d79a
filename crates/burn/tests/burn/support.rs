//! The device, numbers, and how far they may be apart.

use std::sync::LazyLock;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// burn's default device, opened once.
static DEVICE: LazyLock<Device> =
    LazyLock::new(|| wgpu_attention_burn::init().expect("a device; see CONTRIBUTING.md"));

/// The device, without autodiff.
pub(crate) fn device() -> Device {
    DEVICE.clone()
}

/// What tensors hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values {
    /// From -1 to 1.
    Random,
    /// The same number.
    Alike,
    /// From 0.5 to 1.5.
    Positive,
}

/// So many of them; the same for the same seed.
pub(crate) fn numbers(values: Values, len: usize, seed: u64) -> Vec<f32> {
    // splitmix64
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let number = |_| match values {
        Values::Random => 2.0 * next() - 1.0,
        Values::Alike => 0.7,
        Values::Positive => 0.5 + next(),
    };
    (0..len).map(number).collect()
}

/// A tensor on a device.
pub(crate) fn tensor<const D: usize>(
    numbers: &[f32],
    dims: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), dims), device)
}

/// What a tensor holds, densely.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().expect("f32")
}

/// Fails where numbers differ by more than `allowed` times the largest of the truth, which counts as 1 at least.
pub(crate) fn assert_close(what: &str, found: &[f32], truth: &[f64], allowed: f64) {
    assert_eq!(found.len(), truth.len(), "{what}: numbers of elements");
    let largest = truth.iter().map(|x| x.abs()).fold(1.0, f64::max);
    for (at, (&found, &truth)) in found.iter().zip(truth).enumerate() {
        let error = (f64::from(found) - truth).abs();
        assert!(
            error <= allowed * largest,
            "{what}[{at}]: {found} instead of {truth}, an error of {error:.2e}; allowed are {:.2e}",
            allowed * largest
        );
    }
}

/// Of an output: some roundings of f32 in scores of a few units, and in sums of some dozen values.
pub(crate) const ERROR: f64 = 3e-6;
/// Of a gradient, which passes through one more product.
pub(crate) const GRADIENT_ERROR: f64 = 1e-5;
/// Between tensors of f16 and f64 of the same numbers: a rounding of the output.
pub(crate) const F16_ERROR: f64 = 1e-3;
