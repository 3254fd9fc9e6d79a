//! What lies behind the mask never reaches an output, whatever it is; what is kept always does.

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{Mask, Problem, Shape};

use crate::fixture::{ATTENTION, Operands, kernels, run, serving};

const HOSTILE: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];

/// Keys and values that no query of their head group keeps are replaced; every bit of the output stays.
#[test]
fn keys_that_nobody_keeps_never_matter() {
    let shape = Shape::new(3, 4, 70, 20).seq_len_kv(75).num_kv_heads(2);
    for (seed, mask) in (0..).zip([
        "key_lengths",
        "key_padding & causal",
        "token_padding",
        "causal(offset=-20)",
        "window(3,0)",
        "documents & !prefix",
    ]) {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, seed);
        let mut hostile = Operands::random(&shape, seed);
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let mut replaced = 0;
        for b in 0..shape.batch {
            for h_kv in 0..shape.num_kv_heads {
                for kv_idx in 0..shape.seq_len_kv {
                    let group = h_kv * shape.group_size()..(h_kv + 1) * shape.group_size();
                    let kept = group.into_iter().any(|h| {
                        (0..shape.seq_len_q).any(|q_idx| evaluator.keep(b, h, q_idx, kv_idx))
                    });
                    if !kept {
                        let row = (b * shape.num_kv_heads + h_kv) * shape.seq_len_kv + kv_idx;
                        hostile.k[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                        hostile.v[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                        replaced += 1;
                    }
                }
            }
        }
        assert!(replaced > 0, "{mask} keeps every key, so it tests nothing");
        let problem = Problem::new(shape).mask(mask.clone());
        for kernel in kernels(&problem) {
            let expected = run(&problem, &clean, kernel);
            let found = run(&problem, &hostile, kernel);
            assert_eq!(bits(&expected.o), bits(&found.o), "{kernel}, {mask}: o");
            assert_eq!(bits(&expected.lse), bits(&found.lse), "{kernel}, {mask}: lse");
        }
    }
}

/// A hostile key in the middle: rows that mask it keep every bit, rows that keep it show it.
#[test]
fn a_hostile_key_reaches_the_rows_that_keep_it_and_no_other() {
    let shape = Shape::new(1, 2, 70, 20);
    for (mask, hostile_value) in [
        ("causal", f32::NAN),
        ("causal", f32::INFINITY),
        ("window(5,5)", f32::NAN),
        ("all", f32::NEG_INFINITY),
        ("documents", f32::NAN),
    ] {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, 4);
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let problem = Problem::new(shape).mask(mask.clone());
        for key in [0, 17, 37, 69] {
            let mut hostile = Operands::random(&shape, 4);
            // Head 0, one component of v alone: the others stay right in every row.
            hostile.v[key * 20 + 3] = hostile_value;
            for kernel in kernels(&problem) {
                let expected = run(&problem, &clean, kernel);
                let found = run(&problem, &hostile, kernel);
                for row in 0..140 {
                    let kept = row < 70 && evaluator.keep(0, 0, row, key);
                    for d in 0..20 {
                        let at = row * 20 + d;
                        let what = format!("{kernel}, {mask}, key {key}, row {row}, component {d}");
                        if kept && d == 3 {
                            let o = found.o[at];
                            assert!(
                                o == hostile_value || o.is_nan() && hostile_value.is_nan(),
                                "{what}: {o}"
                            );
                        } else {
                            assert_eq!(expected.o[at].to_bits(), found.o[at].to_bits(), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// Kernels for CPUs ask for rows ahead of time, `broadcast` where there are more than `CACHED_KEYS`, and look whether one is
/// what shaders/cpu/prefetch/line.wgsl calls unlikely.
#[test]
fn the_unlikely_number_is_like_any_other() {
    let shapes = [(70, 70), (5, 70), (40, 4200)];
    for shape in shapes.map(|(rows, keys)| Shape::new(1, 2, rows, 20).seq_len_kv(keys)) {
        let problem = Problem::new(shape).mask(Mask::causal());
        let clean = Operands::random(&shape, 6);
        let mut unlikely = Operands::random(&shape, 6);
        // A first component, which begins a cache line; one alone, so that no sum overflows.
        unlikely.v[40 * 20] = 3.0e38;
        for kernel in serving(&problem, shape.seq_len_q < 16) {
            if kernel == ForwardKernel::Broadcast && shape.seq_len_kv > 70 {
                let text = ATTENTION
                    .kernels()
                    .wgsl(&problem, &PlanOptions::default().kernel(kernel))
                    .unwrap();
                assert!(text.contains("CACHED_KEYS: u32 = 4096u"), "4200 keys are asked for");
            }
            let [expected, found] =
                [&clean, &unlikely].map(|operands| run(&problem, operands, kernel));
            for (at, (x, y)) in found.o.iter().zip(&expected.o).enumerate() {
                let same = x.to_bits() == y.to_bits() || at % 20 == 0 && x.is_finite();
                assert!(same, "{kernel}, o[{at}]: {x}, not {y}");
            }
        }
    }
}

/// A NaN in a kept key makes its rows NaN, and no others.
#[test]
fn a_kept_nan_in_k_shows() {
    let shape = Shape::new(1, 1, 40, 20);
    let problem = Problem::new(shape).mask(Mask::causal());
    let mut operands = Operands::random(&shape, 2);
    operands.k[11 * 20] = f32::NAN;
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        for row in 0..40 {
            let nan = output.o[row * 20..][..20].iter().all(|x| x.is_nan());
            assert_eq!(nan, row >= 11, "{kernel}: row {row}");
            assert_eq!(output.lse[row].is_nan(), row >= 11, "{kernel}: lse of row {row}");
        }
    }
}

/// A row that keeps nothing: o is 0, lse is −∞, whatever its query holds.
#[test]
fn empty_rows() {
    let shape = Shape::new(2, 2, 33, 20).seq_len_kv(20);
    let mask = Mask::causal() & Mask::KeyLengths;
    let problem = Problem::new(shape).mask(mask);
    let mut operands = Operands::random(&shape, 6);
    operands.mask = wgpu_attention::AuxData::new().key_lengths([0, 20]);
    // Lower right: the first 13 queries stand before the first key.
    operands.q[..13 * 20].fill(f32::NAN);
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        for row in 0..2 * 2 * 33 {
            let empty = row < 66 || row % 33 < 13;
            let o = &output.o[row * 20..][..20];
            assert_eq!(o.iter().all(|x| x.to_bits() == 0), empty, "{kernel}: o of row {row}");
            assert_eq!(output.lse[row] == f32::NEG_INFINITY, empty, "{kernel}: lse of row {row}");
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
