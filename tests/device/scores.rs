//! Score modifiers, alone and together, against the f64 reference.

use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{AuxData, Dtype, Mask, Problem, RunOptions, ScoreModifiers, Shape, reference};

use crate::fixture::{ATTENTION, Operands, SCORES, ScoreData, is_brief, kernels, run};
use crate::tolerance::{assert_close, naive_modified};

fn check(shape: Shape, mask: &str, score: ScoreModifiers, scale: f32, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score).scale(scale);
    let data = ScoreData::random(&shape, seed);
    let mut operands = Operands::random(&shape, seed);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs).unwrap();
    let naive = naive_modified(&problem, &mask, &inputs, &score, &data, Dtype::F32);
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        let what = format!("{kernel}, {mask}, {score:?}, {shape:?}");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL.to_vec());
    let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
    let what = format!("{mask}, {score:?}, {shape:?}");
    for ((name, found), (naive, truth)) in
        ["scores", "masked scores", "weights"].iter().zip(&output.tensors).zip([
            (&naive.scores, &truth.scores),
            (&naive.masked_scores, &truth.masked_scores),
            (&naive.weights, &truth.weights),
        ])
    {
        assert_close(&format!("{name} of {what}"), found, naive, truth);
    }
}

#[test]
fn every_modifier_alone_and_together() {
    for (seed, score) in (0..).zip(SCORES) {
        for (seq_len_q, seq_len_kv) in [(37, 70), (70, 33), (1, 65)] {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
            // In a brief run, a modifier alone takes one mask or the other: what a mask's text does to a modifier's is nothing.
            let alone = is_brief() && !(score.softcap.is_some() && score.bias);
            if !alone || seed % 2 == 0 {
                check(shape, "causal & key_lengths", score, 0.2, seed);
            }
            if !alone || seed % 2 == 1 {
                check(shape, "all", score, -0.2, seed);
            }
        }
    }
}

#[test]
fn rows_without_keys_have_the_sink_alone() {
    let shape = Shape::new(1, 2, 5, 8).seq_len_kv(7);
    let problem =
        Problem::new(shape).mask(Mask::KeyLengths).score(ScoreModifiers::default().sinks(true));
    let mut operands = Operands::random(&shape, 1);
    operands.mask = AuxData::new().key_lengths([0]).sinks([1.5, -2.0]);
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        assert!(output.o.iter().all(|x| x.to_bits() == 0), "{kernel}");
        for (row, lse) in output.lse.iter().enumerate() {
            let sink = [1.5, -2.0][row / 5];
            assert!((lse - sink).abs() < 1e-6, "{kernel}: {lse} instead of {sink}");
        }
    }
}

#[test]
fn a_bias_broadcasts() {
    let shape = Shape::new(2, 3, 9, 20).seq_len_kv(11);
    let operands = Operands::random(&shape, 2);
    let problem =
        Problem::new(shape).mask(Mask::causal()).score(ScoreModifiers::default().bias(true));
    for dims in [[1, 1, 9, 11], [2, 1, 1, 11], [1, 3, 1, 11], [1, 1, 1, 11]] {
        let cells: usize = dims.iter().product();
        let value = |at: usize| (at * 37 % 101) as f32 / 25.0 - 2.0;
        let small = AuxData::new().bias(dims, (0..cells).map(value));
        let full = AuxData::new().bias(
            [2, 3, 9, 11],
            (0..2 * 3 * 9 * 11).map(|at| {
                let index = [at / 297 % 2, at / 99 % 3, at / 11 % 9, at % 11];
                let place =
                    (dims.iter().zip(index)).fold(0, |place, (&dim, i)| place * dim + i % dim);
                value(place)
            }),
        );
        let call = |mask: &AuxData| {
            let inputs = operands.inputs().aux(mask);
            ATTENTION.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap().o
        };
        assert_eq!(call(&small), call(&full), "{dims:?}");
    }
}

#[test]
fn what_a_bias_holds_behind_the_mask_never_matters() {
    let shape = Shape::new(1, 2, 33, 20);
    let score = ScoreModifiers::default().bias(true).softcap(30.0);
    let problem = Problem::new(shape).mask(Mask::causal()).score(score);
    let mut operands = Operands::random(&shape, 3);
    let bias = |masked: f32| {
        (0..2 * 33 * 33).map(move |at| if at % 33 > at / 33 % 33 { masked } else { 0.5 })
    };
    for kernel in kernels(&problem) {
        operands.mask = AuxData::new().bias([1, 2, 33, 33], bias(0.0));
        let clean = run(&problem, &operands, kernel);
        for hostile in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            operands.mask = AuxData::new().bias([1, 2, 33, 33], bias(hostile));
            assert_eq!(clean, run(&problem, &operands, kernel), "{kernel}");
        }
    }
}

#[test]
fn bad_modifiers() {
    let shape = Shape::new(1, 2, 5, 8);
    let operands = Operands::random(&shape, 1);
    let refusal = |score: ScoreModifiers, mask: AuxData| {
        let inputs = operands.inputs().aux(&mask);
        let problem = Problem::new(shape).score(score);
        let error = ATTENTION.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap_err();
        error.to_string()
    };
    for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let text = refusal(ScoreModifiers::default().softcap(softcap), AuxData::new());
        assert!(text.starts_with("softcap: expected a finite number above 0"), "{text}");
    }
    let bias = ScoreModifiers::default().bias(true);
    assert!(refusal(bias, AuxData::new()).starts_with("bias: expected data"));
    let text = refusal(bias, AuxData::new().bias([1, 2, 5, 4], [0.0; 40]));
    assert!(text.contains("bias: expected sizes that broadcast to [1, 2, 5, 5]"), "{text}");
    let alibi = ScoreModifiers::default().alibi(true);
    let text = refusal(alibi, AuxData::new().alibi_slopes([0.5]));
    assert!(text.contains("alibi_slopes: expected 2 elements"), "{text}");
}
