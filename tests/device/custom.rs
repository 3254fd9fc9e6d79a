//! User-defined functions, in masks and for scores.

use wgpu_attention::mask::{Evaluator, TileClass};
use wgpu_attention::plan::MaskFormat;
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{
    AttentionPlan, AuxData, Error, Kernels, Mask, Problem, RunOptions, ScoreModifiers, Shape,
    reference,
};

use crate::fixture::{ATTENTION, Operands, ScoreData, kernels, mask_data, run};

const CAUSAL: &str = "
// The crate's own `causal`, as a user would write it.
fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return kv_idx <= q_idx;
}";

fn custom(text: &str) -> WgslFunction {
    WgslFunction::new(text).unwrap()
}

/// Both problems give the same bits, with every kernel.
fn assert_same(shape: Shape, own: &Mask, known: &str, data: &AuxData) {
    let mut operands = Operands::random(&shape, 1);
    operands.mask = data.clone();
    let known = Problem::new(shape).mask(known.parse().unwrap());
    let own = Problem::new(shape).mask(own.clone());
    for kernel in kernels(&own) {
        assert_eq!(
            run(&known, &operands, kernel).lse,
            run(&own, &operands, kernel).lse,
            "{kernel}"
        );
        assert_eq!(run(&known, &operands, kernel).o, run(&own, &operands, kernel).o, "{kernel}");
    }
}

#[test]
fn a_function_is_a_mask_like_any_other() {
    let shape = Shape::new(2, 2, 70, 20);
    let data = mask_data(&shape, 1);
    let own = Mask::Wgsl(custom(CAUSAL));
    assert_same(shape, &own, "causal", &data);
    assert_same(shape, &(!own.clone() & Mask::KeyLengths), "!causal & key_lengths", &data);
    assert_same(
        shape,
        &(own | Mask::Prefix).self_only_if_alone(),
        "self_only_if_alone(causal | prefix)",
        &data,
    );
}

#[test]
fn functions_read_buffers_and_may_share_names() {
    let shape = Shape::new(2, 2, 33, 20);
    let text = "
        const NONE: i32 = -1;
        fn id_of(b: u32, at: u32) -> i32 { return ids(b * 33u + at); }
        fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            return id_of(b, q_idx) == id_of(b, kv_idx) && id_of(b, q_idx) != NONE;
        }";
    let documents = custom(text).buffer("ids", WgslBuffer::I32, 66).unwrap();
    let mask = Mask::Wgsl(documents) & Mask::Wgsl(custom(CAUSAL));
    let ids: Vec<i32> = (0..66).map(|at| at / 9).collect();
    let data = AuxData::new().document_ids(ids.clone()).custom_i32("ids", ids);
    assert_same(shape, &mask, "documents & causal", &data);
}

#[test]
fn its_tiles_are_classed_exactly() {
    let shape = Shape::new(1, 1, 200, 8);
    let problem = Problem::new(shape).mask(Mask::Wgsl(custom(CAUSAL)));
    let none = AuxData::new();
    let tiles = ATTENTION.tile_classes_blocking(&problem, &none, &Default::default()).unwrap();
    let plain = Problem::new(shape).mask(Mask::causal());
    assert_eq!(tiles, ATTENTION.tile_classes_blocking(&plain, &none, &Default::default()).unwrap());
    assert!(tiles.classes.contains(&TileClass::Skip) && tiles.classes.contains(&TileClass::Full));
}

#[test]
fn an_index_beyond_a_buffer_reads_its_last_element() {
    let text = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
        return flags(kv_idx * 1000000u) == 7u;
    }";
    let mask = Mask::Wgsl(custom(text).buffer("flags", WgslBuffer::U32, 2).unwrap());
    let problem = Problem::new(Shape::new(1, 1, 2, 8).seq_len_kv(40)).mask(mask);
    let data = AuxData::new().custom_u32("flags", [0, 7]);
    let tensor = ATTENTION.materialize_blocking(&problem, &data, MaskFormat::Keep).unwrap();
    for (at, &kept) in tensor.values.iter().enumerate() {
        assert_eq!(kept == 1.0, at % 40 != 0, "cell {at}");
    }
}

#[test]
fn scores_go_through_a_function() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let data = ScoreData::random(&shape, 2);
    let mut operands = Operands::random(&shape, 2);
    operands.mask =
        data.add_to(&shape, operands.mask).custom_f32("slopes", data.slopes.iter().copied());
    let text = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
        let own = i32(q_idx) + 4;
        return score - slopes(h) * f32(abs(own - i32(kv_idx)));
    }";
    let alibi = custom(text).buffer("slopes", WgslBuffer::F32, 4).unwrap();
    let softcap = ScoreModifiers::default().softcap(30.0);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let own = Problem::new(shape).mask(mask.clone()).score(softcap).score_mod(alibi);
    let known = Problem::new(shape).mask(mask).score(softcap.alibi(true));
    for kernel in kernels(&own) {
        let (found, expected) = (run(&own, &operands, kernel), run(&known, &operands, kernel));
        for (x, y) in found.o.iter().zip(&expected.o) {
            assert!((x - y).abs() < 1e-4, "{kernel}: {x} instead of {y}");
        }
    }
}

#[test]
fn functions_that_differ_in_data_alone_share_a_pipeline() {
    let kernels = Kernels::new(ATTENTION.kernels().device(), &Default::default());
    let text =
        "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return at(b) > kv_idx; }";
    for len in [1, 5, 9] {
        let mask = Mask::Wgsl(custom(text).buffer("at", WgslBuffer::U32, len).unwrap());
        let problem = Problem::new(Shape::new(1, 1, 40 * len, 20)).mask(mask);
        AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap();
        // The forward kernel, the same for more than 32 queries, and the one that makes the tile map.
        assert_eq!(kernels.compiled(), 2);
    }
}

#[test]
fn what_is_wrong_is_told_in_its_own_lines() {
    let shape = Shape::new(1, 1, 5, 8);
    let operands = Operands::random(&shape, 1);
    let refusal = |problem: Problem, data: &AuxData| -> Error {
        let inputs = operands.inputs().aux(data);
        ATTENTION.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap_err()
    };
    let none = AuxData::new();
    let mask = |text: &str| Problem::new(shape).mask(Mask::Wgsl(custom(text)));
    for (text, parts) in [
        (
            "fn keep(b: u32,\n h: u32, q_idx: u32, kv_idx: u32) -> bool {\n return nothing; }",
            ["wgsl:3", "nothing"],
        ),
        ("fn keep(b: u32) -> bool { return true; }", ["-> bool", "keep"]),
        (
            "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return 1.0; }",
            ["-> bool", "keep"],
        ),
        (
            "fn hold(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return true; }",
            ["keep", "-> bool"],
        ),
        // The kernels' own names are out of reach.
        (
            "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return mask_words[0] > 1u; }",
            ["mask_words", "wgsl:1"],
        ),
    ] {
        let error = refusal(mask(text), &none).to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    let scores =
        Problem::new(shape).score_mod(custom("fn score_mod(score: f32) -> f32 { return score; }"));
    let error = refusal(scores, &none).to_string();
    assert!(error.contains("fn score_mod(score: f32, b: u32"), "{error}");

    let text = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return x(b) > 0.0; }";
    let reads = Mask::Wgsl(custom(text).buffer("x", WgslBuffer::F32, 3).unwrap());
    let problem = || Problem::new(shape).mask(reads.clone());
    let error = refusal(problem(), &none).to_string();
    assert!(error.contains("wgsl buffer `x`: expected data"), "{error}");
    let error = refusal(problem(), &AuxData::new().custom_f32("x", [1.0])).to_string();
    assert!(error.contains("expected 3 elements, found 1 elements"), "{error}");
    assert!(Evaluator::new(&reads, &none, &shape).is_err());
    assert!(reference::attention(&problem(), &operands.inputs()).is_err());
    assert!("causal & wgsl".parse::<Mask>().is_err());
    let parsed = Mask::parse_with("causal & wgsl", custom(CAUSAL)).unwrap();
    assert_eq!(parsed, Mask::causal() & Mask::Wgsl(custom(CAUSAL)));
}
