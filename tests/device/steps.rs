//! `tiled` in steps of 64 keys, on devices whose workgroups have the memory, and of 32 on others; all sizes off the tiles.

use std::sync::LazyLock;

use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{Dtype, Mask, Problem, RunOptions, Session, Shape};

use crate::fixture::{ATTENTION, Operands, limited, limited_with};
use crate::long_rows::forward;

/// WebGPU's baseline.
static BASELINE: LazyLock<Session> =
    LazyLock::new(|| limited(|limits| limits.max_compute_workgroup_storage_size = 16 << 10));

/// Tiles as on Apple's GPUs.
static APPLE: LazyLock<Session> =
    LazyLock::new(|| limited_with(KernelOptions::default().registers(128), |_| {}));

/// Tiles as on Intel's.
static INTEL: LazyLock<Session> =
    LazyLock::new(|| limited_with(KernelOptions::default().registers(64), |_| {}));

/// The keys of a step for such rows.
fn keys_of_step(session: &Session, shape: Shape) -> usize {
    let options = PlanOptions::default().kernel(ForwardKernel::Tiled);
    let text = session.kernels().wgsl(&Problem::new(shape), &options).unwrap();
    let (_, after) = text.split_once("const BLOCK_KV: u32 = ").unwrap();
    after.split_once("u;").unwrap().0.parse().unwrap()
}

/// 64, unless steps of 32 are all that the driver's workgroup memory allows.
fn longest_step(session: &Session) -> usize {
    let bytes = session.device().limits().max_compute_workgroup_storage_size;
    if bytes >= 32 << 10 { 64 } else { 32 }
}

#[test]
fn steps_of_64_and_of_32_keys() {
    let block = Shape::new(1, 2, 67, 20).seq_len_kv(141).num_kv_heads(1);
    // Whose sums are folded.
    let few = Shape::new(1, 1, 5, 8).seq_len_kv(4200);
    let wide = longest_step(&ATTENTION);
    for (seed, (session, shape, head_dim_v, keys)) in (0..).zip([
        (&*ATTENTION, block, 50, wide),
        (&ATTENTION, block, 100, wide),
        (&ATTENTION, block, 200, wide),
        (&ATTENTION, few, 64, 64),
        (&BASELINE, block, 50, 32),
        (&BASELINE, block, 100, 32),
        (&BASELINE, few, 64, 64),
        (&APPLE, block, 100, wide),
        (&APPLE, block, 200, 64),
        (&INTEL, block, 50, wide),
        (&INTEL, block, 100, 32),
    ]) {
        let shape = shape.head_dim_v(head_dim_v);
        assert_eq!(keys_of_step(session, shape), keys, "{shape:?}");
        forward(session, ForwardKernel::Tiled, shape, Dtype::F32, seed);
    }
}

/// A NaN or an infinity among the values of any key of a step, the last 32 of 64, too: the rows that keep the key show it, and
/// no other bit changes.
#[test]
fn a_hostile_value_of_any_key_of_a_step() {
    let shape = Shape::new(1, 1, 70, 20).head_dim_v(40);
    let problem = Problem::new(shape).mask(Mask::causal());
    let run = |operands: &Operands| {
        let options = RunOptions::default().kernel(ForwardKernel::Tiled);
        ATTENTION.run_blocking(&problem, &operands.inputs(), &options).unwrap().o
    };
    let expected = run(&Operands::random(&shape, 7));
    for (key, value) in [(3, f32::NAN), (31, f32::INFINITY), (32, f32::NAN), (63, f32::INFINITY)] {
        let mut hostile = Operands::random(&shape, 7);
        hostile.v[key * 40 + 17] = value;
        for (at, (x, y)) in run(&hostile).into_iter().zip(&expected).enumerate() {
            let shows = at / 40 >= key && at % 40 == 17;
            let same = if shows { !x.is_finite() } else { x.to_bits() == y.to_bits() };
            assert!(same, "{value} of key {key}, o[{at}]: {x}, {y}");
        }
    }
}
