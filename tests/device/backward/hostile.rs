//! What isn't finite, behind the mask and before it.

use wgpu_attention::mask::Evaluator;
use wgpu_attention::{Mask, Problem, Shape, Upstream};

use super::{RandomUpstream, Served, bits, by_matrices, in_f32, run};
use crate::fixture::{Operands, is_brief};

const HOSTILE: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];

/// The masks that kernels of matrices are tested with: in a brief run, the first.
fn of_matrices<'a>(masks: &'a [&'a str]) -> &'a [&'a str] {
    if is_brief() { &masks[..1] } else { masks }
}

const KEEPING_LITTLE: [&str; 2] =
    ["key_lengths & causal(offset=-20)", "documents & !prefix & window(3,0)"];

#[test]
fn what_nobody_keeps_never_matters() {
    what_nobody_keeps(&KEEPING_LITTLE, in_f32);
}

#[test]
fn what_nobody_keeps_never_matters_by_matrices() {
    what_nobody_keeps(of_matrices(&KEEPING_LITTLE), by_matrices);
}

/// Rows of q and dout that keep nothing, and keys and values that nobody keeps, are replaced: every bit of every gradient
/// stays.
fn what_nobody_keeps(masks: &[&str], served: fn(&Problem) -> Served) {
    let shape = Shape::new(3, 4, 70, 20).seq_len_kv(75).num_kv_heads(2);
    for (seed, mask) in (0..).zip(masks) {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, seed);
        let mut hostile = Operands::random(&shape, seed);
        let upstream = RandomUpstream::random(&shape, seed);
        let mut dout = upstream.dout.clone();
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let keeps = |b, h, q_idx, kv_idx| evaluator.keep(b, h, q_idx, kv_idx);
        let mut replaced = 0;
        for b in 0..shape.batch {
            for h in 0..shape.num_heads {
                for q_idx in 0..shape.seq_len_q {
                    if (0..shape.seq_len_kv).all(|kv_idx| !keeps(b, h, q_idx, kv_idx)) {
                        let row = (b * shape.num_heads + h) * shape.seq_len_q + q_idx;
                        hostile.q[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                        dout[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                        replaced += 1;
                    }
                }
            }
        }
        let rows = replaced;
        for b in 0..shape.batch {
            for h_kv in 0..shape.num_kv_heads {
                for kv_idx in 0..shape.seq_len_kv {
                    let group = h_kv * shape.group_size()..(h_kv + 1) * shape.group_size();
                    let mut rows = group.flat_map(|h| (0..shape.seq_len_q).map(move |q| (h, q)));
                    if rows.all(|(h, q_idx)| !keeps(b, h, q_idx, kv_idx)) {
                        let row = (b * shape.num_kv_heads + h_kv) * shape.seq_len_kv + kv_idx;
                        hostile.k[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                        hostile.v[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                        replaced += 1;
                    }
                }
            }
        }
        assert!(rows > 0 && replaced > rows, "{mask} keeps everything, so it tests nothing");
        let problem = Problem::new(shape).mask(mask.clone());
        for (problem, kernel) in served(&problem) {
            let expected = run(&problem, &clean, &upstream.of_o(), kernel);
            let found = run(&problem, &hostile, &Upstream::new(&dout), kernel);
            for (name, expected, found) in [
                ("dq", &expected.dq, &found.dq),
                ("dk", &expected.dk, &found.dk),
                ("dv", &expected.dv, &found.dv),
            ] {
                assert!(expected.iter().all(|x| x.is_finite()));
                assert_eq!(bits(expected), bits(found), "{kernel}, {mask}: {name}");
            }
        }
    }
}

const KEEPING_MUCH: [&str; 3] = ["causal", "window(5,5)", "documents & not_self"];

#[test]
fn hostile_numbers_reach_who_keeps_them_and_no_other() {
    hostile_numbers(&KEEPING_MUCH, in_f32);
}

#[test]
fn hostile_numbers_reach_who_keeps_them_and_no_other_by_matrices() {
    hostile_numbers(of_matrices(&KEEPING_MUCH), by_matrices);
}

/// Numbers that aren't finite in the middle: gradients of who masks them keep every bit, those of who keeps them show it.
fn hostile_numbers(masks: &[&str], served: fn(&Problem) -> Served) {
    let shape = Shape::new(1, 2, 70, 20);
    let upstream = RandomUpstream::random(&shape, 4);
    for mask in masks {
        let mask: Mask = mask.parse().unwrap();
        let clean = Operands::random(&shape, 4);
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape).unwrap();
        let problem = Problem::new(shape).mask(mask.clone());
        for (tensor, row, value) in [
            ("k", 17, f32::NAN),
            ("v", 37, f32::INFINITY),
            ("q", 41, f32::NAN),
            ("dout", 33, f32::NEG_INFINITY),
            ("dout", 69, f32::NAN),
        ] {
            let mut hostile = Operands::random(&shape, 4);
            let mut dout = upstream.dout.clone();
            // Head 0, one component.
            let place = match tensor {
                "q" => &mut hostile.q,
                "k" => &mut hostile.k,
                "v" => &mut hostile.v,
                _ => &mut dout,
            };
            place[row * 20 + 3] = value;
            // Whose weights or gradients a NaN touches: rows that keep the key, or the row itself; and what they keep.
            let kept = |q_idx, kv_idx| evaluator.keep(0, 0, q_idx, kv_idx);
            let any_kept = |q_idx| (0..70).any(|kv_idx| kept(q_idx, kv_idx));
            let row_is_hit = |q_idx: usize| match tensor {
                "q" | "dout" => q_idx == row && any_kept(q_idx),
                _ => kept(q_idx, row),
            };
            let key_is_hit =
                |kv_idx: usize| (0..70).any(|q_idx| kept(q_idx, kv_idx) && row_is_hit(q_idx));
            for (problem, kernel) in served(&problem) {
                let expected = run(&problem, &clean, &upstream.of_o(), kernel);
                let found = run(&problem, &hostile, &Upstream::new(&dout), kernel);
                for at in 0..140 {
                    let what = format!("{kernel}, {mask}, {tensor}[{row}], row {at}");
                    for (name, hit, expected, found) in [
                        ("dq", at < 70 && row_is_hit(at), &expected.dq, &found.dq),
                        ("dk", at < 70 && key_is_hit(at), &expected.dk, &found.dk),
                        ("dv", at < 70 && key_is_hit(at), &expected.dv, &found.dv),
                    ] {
                        let (expected, found) =
                            (&expected[at * 20..][..20], &found[at * 20..][..20]);
                        if !hit {
                            assert_eq!(bits(expected), bits(found), "{name} of {what}");
                        } else if name != "dv" || tensor == "q" || tensor == "k" {
                            assert!(found.iter().all(|x| !x.is_finite()), "{name} of {what}");
                        } else if tensor == "dout" {
                            // A weight that is 0 in f32 turns an infinity into NaN, so which of the two isn't said.
                            let one =
                                found.iter().enumerate().all(|(d, x)| x.is_finite() != (d == 3));
                            assert!(one, "{name} of {what}: {found:?}");
                        }
                    }
                }
            }
        }
    }
}
