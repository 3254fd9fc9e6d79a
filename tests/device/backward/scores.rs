//! Score modifiers, the user's own functions, and the gradients of their data.

use wgpu_attention::wgsl::{GradientCheck, WgslBuffer, WgslFunction};
use wgpu_attention::{
    AuxData, BackwardPlan, Dtype, Mask, Problem, ScoreModifiers, Shape, reference,
};

use super::{RandomUpstream, assert_all_close, bits, kernels, run};
use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands, SCORES, ScoreData, is_brief};
use crate::tolerance::naive_gradients_modified;

#[test]
fn every_modifier_alone_and_together() {
    for (seed, score) in (0..).zip(SCORES) {
        for (seq_len_q, seq_len_kv) in [(37, 70), (70, 33)] {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
            // In a brief run, a modifier alone takes one mask or the other: what a mask's text does to a modifier's is nothing.
            let alone = is_brief() && !(score.softcap.is_some() && score.bias);
            if !alone || seed % 2 == 0 {
                check_score(shape, "causal & key_lengths", score, 0.2, seed);
            }
            if !alone || seed % 2 == 1 {
                check_score(shape, "all", score, -0.2, seed + 1);
            }
        }
    }
}

fn check_score(shape: Shape, mask: &str, score: ScoreModifiers, scale: f32, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score).scale(scale);
    let data = ScoreData::random(&shape, seed);
    let mut operands = Operands::random(&shape, seed);
    operands.mask = data.add_to(&shape, operands.mask);
    let (inputs, upstream) = (operands.inputs(), RandomUpstream::random(&shape, seed));
    let upstream = upstream.of_o_and_lse();
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    let naive =
        naive_gradients_modified(&problem, &mask, &inputs, &upstream, &score, &data, Dtype::F32);
    // The best kernel takes each modifier alone, all take them together.
    let kernels = kernels(&problem);
    let together = score.softcap.is_some() && score.bias;
    for &kernel in if together { &kernels[..] } else { &kernels[..1] } {
        let found = run(&problem, &operands, &upstream, kernel);
        let what = format!("{kernel}, {mask}, {score:?}, {shape:?}");
        assert_all_close(&what, &found, &naive, &truth);
    }
}

/// A bias that is broadcast has the sum of what a full one has.
#[test]
fn a_broadcast_bias_has_the_sum() {
    let shape = Shape::new(2, 3, 37, 20).seq_len_kv(70);
    let score = ScoreModifiers::default().bias(true).softcap(30.0);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap()).score(score);
    let mut operands = Operands::random(&shape, 2);
    let data = operands.mask.clone();
    let upstream = RandomUpstream::random(&shape, 2);
    for dims in [
        [1, 1, 37, 70],
        [2, 1, 1, 70],
        [1, 3, 1, 70],
        [1, 1, 1, 70],
        [2, 1, 37, 70],
        [1, 3, 37, 1],
        [2, 1, 1, 1],
    ] {
        let cells: usize = dims.iter().product();
        let value = |at: usize| (at * 37 % 101) as f32 / 25.0 - 2.0;
        operands.mask = data.clone().bias(dims, (0..cells).map(value));
        let problem = problem.clone().aux_shape(operands.mask.shape());
        let inputs = operands.inputs();
        let truth = reference::gradients(&problem, &inputs, &upstream.of_o()).unwrap();
        // The naive gradient of the full bias, summed.
        let place = |at: usize| {
            let index = [at / (3 * 37 * 70), at / (37 * 70) % 3, at / 70 % 37, at % 70];
            dims.iter().zip(index).fold(0, |place, (&dim, i)| place * dim + i % dim)
        };
        let full = ScoreData {
            bias: (0..2 * 3 * 37 * 70).map(|at| value(place(at))).collect(),
            ..ScoreData::default()
        };
        let mask = "causal & key_lengths".parse().unwrap();
        let upstream = upstream.of_o();
        let mut naive = naive_gradients_modified(
            &problem,
            &mask,
            &inputs,
            &upstream,
            &score,
            &full,
            Dtype::F32,
        );
        let mut sums = vec![0.0; cells];
        naive.dbias.iter().enumerate().for_each(|(at, x)| sums[place(at)] += x);
        naive.dbias = sums;
        for kernel in kernels(&problem) {
            let found = run(&problem, &operands, &upstream, kernel);
            assert_all_close(&format!("{kernel}, {dims:?}"), &found, &naive, &truth);
        }
    }
}

/// Slopes of each sequence have gradients of their own, and the same bits each time; so has what a sequence's keys don't reach.
#[test]
fn slopes_of_each_sequence() {
    let shape = Shape::new(3, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
    let score = ScoreModifiers::default().alibi(true).softcap(20.0);
    let mut operands = Operands::random(&shape, 4);
    operands.mask =
        operands.mask.key_lengths([70, 0, 33]).alibi_slopes_per_sequence([3, 4], [0.25; 12]);
    // NaN behind the mask.
    let rows = 2 * 70 * 20;
    operands.k[2 * rows + 33 * 20..2 * rows + 70 * 20].fill(f32::NAN);
    operands.v[2 * rows + 33 * 20..2 * rows + 70 * 20].fill(f32::NAN);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score);
    let problem = problem.aux_shape(operands.mask.shape());
    let upstream = RandomUpstream::random(&shape, 4);
    let (inputs, upstream) = (operands.inputs(), upstream.of_o());
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    assert_eq!(truth.dalibi_slopes.len(), 12);
    assert!(truth.dalibi_slopes[4..8].iter().all(|&x| x == 0.0));
    for kernel in kernels(&problem) {
        let [found, again] = [(); 2].map(|()| run(&problem, &operands, &upstream, kernel));
        assert_eq!(bits(&found.dalibi_slopes), bits(&again.dalibi_slopes));
        let most = truth.dalibi_slopes.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (x, y) in found.dalibi_slopes.iter().zip(&truth.dalibi_slopes) {
            assert!((f64::from(*x) - y).abs() <= 1e-5 * most, "{kernel}: {x} instead of {y}");
        }
    }
}

/// A user-defined function with its derivative, against the crate's own softcap and ALiBi; without it, an error.
#[test]
fn a_score_function_with_its_derivative() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let score_mod = "
        fn capped(score: f32) -> f32 { return tanh(score / 20.0); }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            let own = i32(q_idx) + 41 - 37;
            return 20.0 * capped(score) - slopes(h) * f32(abs(own - i32(kv_idx)));
        }";
    let derivative = "
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad * (1.0 - capped(score) * capped(score));
        }";
    let custom = |text: String| {
        WgslFunction::new(text).unwrap().buffer("slopes", WgslBuffer::F32, 4).unwrap()
    };
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let known = ScoreModifiers::default().softcap(20.0).alibi(true);
    let known = Problem::new(shape).mask(mask.clone()).score(known);
    let own = Problem::new(shape).mask(mask.clone());
    let mut operands = Operands::random(&shape, 1);
    let data = ScoreData::random(&shape, 1);
    operands.mask = data.add_to(&shape, operands.mask).custom_f32("slopes", data.slopes.clone());
    let upstream = RandomUpstream::random(&shape, 1);
    let (inputs, upstream) = (operands.inputs(), upstream.of_o());
    let mut truth = reference::gradients(&known, &inputs, &upstream).unwrap();
    let score = ScoreModifiers::default().softcap(20.0).alibi(true);
    let mut naive =
        naive_gradients_modified(&known, &mask, &inputs, &upstream, &score, &data, Dtype::F32);
    // What a function reads has no gradient.
    (truth.dalibi_slopes, naive.dalibi_slopes) = (Vec::new(), Vec::new());
    let full = own.clone().score_mod(custom(format!("{score_mod}{derivative}")));
    for kernel in kernels(&full) {
        let found = run(&full, &operands, &upstream, kernel);
        assert_all_close(&format!("{kernel}, score_mod"), &found, &naive, &truth);
    }
    let without = own.score_mod(custom(score_mod.to_owned()));
    let error = BackwardPlan::new(ATTENTION.kernels(), &without, &Default::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("score_mod: expected its derivative"), "{error}");
}

/// A function that reads buffers, with its derivative right and wrong.
#[test]
fn a_derivative_is_checked_by_differences() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let data = AuxData::new()
        .custom_f32("caps", [5.0, 10.0, 20.0, 40.0])
        .custom_i32("kinds", (0..41).map(|at| at % 3));
    let problem = |derivative: &str| {
        let text = format!(
            "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{
                if (kinds(kv_idx) == 2 && q_idx == kv_idx) {{ return bitcast<f32>(0xff800000u + b * 0u); }}
                return caps(h) * tanh(score / caps(h)) + f32(kinds(kv_idx)) * score * score;
            }}
            fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{
                {derivative}
            }}"
        );
        let custom = WgslFunction::new(text).unwrap().buffer("caps", WgslBuffer::F32, 4).unwrap();
        let custom = custom.buffer("kinds", WgslBuffer::I32, 41).unwrap();
        // Neither the mask nor another modifier's data is asked for.
        let score = ScoreModifiers::default().sinks(true);
        Problem::new(shape).mask(Mask::Documents).score(score).score_mod(custom)
    };
    let check = |problem: &Problem| {
        ATTENTION.check_score_mod_grad_blocking(problem, &data, &GradientCheck::default())
    };
    let right = "let x = tanh(score / caps(h));
        return grad * (1.0 - x * x + 2.0 * f32(kinds(kv_idx)) * score);";
    let report = check(&problem(right)).unwrap();
    assert!(report.worst.error <= 0.01 && (900..1024).contains(&report.compared), "{report:?}");
    for wrong in [
        // of another head, without one summand, of another sign, without what comes from above
        right.replace("caps(h)", "caps(3u - h)"),
        right.replace("2.0 * f32", "0.0 * f32"),
        right.replace("1.0 - x * x", "x * x - 1.0"),
        right.replace("grad * ", ""),
    ] {
        let error = check(&problem(&wrong)).unwrap_err();
        assert_says(&error, &["score_mod_grad: expected", "in cell (", "for score", "found"]);
    }
    let error = check(&problem(right).score_mod(WgslFunction::new("fn score_mod() {}").unwrap()));
    assert_says(&error.unwrap_err(), &["score_mod: expected its derivative"]);
    assert_says(&check(&Problem::new(shape)).unwrap_err(), &["score_mod", "a function", "none"]);
    let missing = ATTENTION.check_score_mod_grad_blocking(
        &problem(right),
        &AuxData::new(),
        &GradientCheck::default(),
    );
    assert_says(&missing.unwrap_err(), &["caps"]);
}
