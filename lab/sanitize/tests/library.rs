//! The library's device tests, on devices under the sanitizer: the same problems, masks, types and sizes, compared with the
//! f64 reference within the same tolerances, while every access of every kernel is checked.

#[path = "../../../tests/device/backward/mod.rs"]
mod backward;
#[path = "../../../tests/device/bad_input.rs"]
mod bad_input;
#[path = "../../../tests/device/bounds.rs"]
mod bounds;
#[path = "../../../tests/device/cache/mod.rs"]
mod cache;
#[path = "../../../tests/device/custom.rs"]
mod custom;
#[path = "../../../tests/device/decode.rs"]
mod decode;
#[path = "../../../tests/device/dtypes.rs"]
mod dtypes;
#[path = "../../../tests/device/fixture.rs"]
mod fixture;
#[path = "../../../tests/device/forward.rs"]
mod forward;
#[path = "../../../tests/device/hostile.rs"]
mod hostile;
#[path = "../../../tests/device/inspect.rs"]
mod inspect;
#[path = "../../../tests/device/kernels.rs"]
mod kernels;
#[path = "../../../tests/device/leaves.rs"]
mod leaves;
#[path = "../../../tests/device/masks.rs"]
mod masks;
#[path = "../../../tests/device/matrix.rs"]
mod matrix;
#[path = "../../../tests/device/merge.rs"]
mod merge;
#[path = "../../../tests/device/metamorphic.rs"]
mod metamorphic;
#[path = "../../../tests/device/operands.rs"]
mod operands;
#[path = "../../../tests/device/races.rs"]
mod races;
#[path = "../../../tests/device/random/mod.rs"]
mod random;
#[path = "../../../tests/device/scores.rs"]
mod scores;
#[path = "../../../tests/device/security/mod.rs"]
mod security;
#[path = "../../../tests/device/sequences.rs"]
mod sequences;
#[path = "../../../tests/device/tolerance.rs"]
mod tolerance;
#[path = "../../../tests/device/windows/mod.rs"]
mod windows;

use fixture::fuses;

/// In the place of tests/device/open.rs.
mod open {
    use sanitize::{attention, options};
    use wgpu_attention::Session;
    use wgpu_attention::kernel::KernelOptions;

    pub(crate) fn best() -> Session {
        attention(options(), KernelOptions::default())
    }

    pub(crate) fn with_matrices() -> Session {
        let kernels = KernelOptions::default().matrices(matrices());
        attention(sanitize::with_matrices(options()), kernels)
    }

    pub(crate) fn limited_with_matrices(change: impl FnOnce(&mut wgpu::Limits)) -> Session {
        let mut options = options();
        change(&mut options.limits);
        attention(sanitize::with_matrices(options), KernelOptions::default().matrices(matrices()))
    }

    pub(crate) fn matrices() -> Vec<wgpu::CooperativeMatrixProperties> {
        sanitize::matrices()
    }

    pub(crate) fn limited(
        kernels: KernelOptions,
        change: impl FnOnce(&mut wgpu::Limits),
    ) -> Session {
        let mut options = options();
        change(&mut options.limits);
        options.features = wgpu::Features::SUBGROUP;
        attention(options, kernels)
    }
}
