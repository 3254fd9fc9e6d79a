//! Gradients of every operand, against the f64 reference's.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{Dtype, Mask, Problem, ScoreModifiers, Session, Shape, Upstream, reference};

use super::{Case, Outcome, case};
use crate::operands::{Operands, SCORES, ScoreData};
use crate::tolerance::{gradient_close, naive_gradients_modified};

const TILED: [&str; 3] = ["backward terms", "backward dq tiled", "backward dkdv tiled"];

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for kernel in BackwardKernel::ALL {
        let mut kernels = vec![format!("backward dq {kernel}"), format!("backward dkdv {kernel}")];
        if kernel == BackwardKernel::Tiled {
            kernels.push("backward terms".to_owned());
        }
        let names: Vec<&str> = kernels.iter().map(String::as_str).collect();
        cases.push(case(format!("backward {kernel}"), &names, one_kernel(attention, kernel)));
    }
    for mask in [
        "all",
        "window(9,2)",
        "key_padding",
        "documents",
        "dense",
        "column_ranges & causal",
        "(window(inf,3) | prefix) & !documents & key_lengths",
    ] {
        cases.push(case(format!("gradients under {mask}"), &TILED, every_length(attention, mask)));
    }
    for score in SCORES {
        let mut kernels = TILED.to_vec();
        kernels.extend(score.bias.then_some("backward bias"));
        kernels.extend(score.sinks.then_some("backward sinks"));
        let name = format!("gradients with {score:?}");
        cases.push(case(name, &kernels, modified(attention, score)));
    }
    cases.push(case("gradients of a score in WGSL", &TILED, custom(attention)));
    cases
}

/// Every gradient of `problem`, against the reference's of `known`, which is the same in the crate's own words.
async fn compare(
    attention: &Session,
    [problem, known]: [&Problem; 2],
    mask: &Mask,
    operands: &Operands,
    (score, data): (&ScoreModifiers, &ScoreData),
    kernel: Option<BackwardKernel>,
) -> Outcome {
    let dout: Vec<f32> = (0..problem.shape().o_len()?).map(|at| part(at, 1)).collect();
    let dlse: Vec<f32> = (0..problem.shape().lse_len()?).map(|at| part(at, 2)).collect();
    let upstream = Upstream::new(&dout).dlse(&dlse);
    let inputs = operands.inputs();
    let options = BackwardOptions::default().kernel(kernel);
    let found = attention.gradients(problem, &inputs, &upstream, &options).await?;
    let truth = reference::gradients(known, &inputs, &upstream)?;
    let naive = naive_gradients_modified(known, mask, &inputs, &upstream, score, data, Dtype::F32);
    // What a user-defined function reads has no gradient.
    let has_slopes = !found.dalibi_slopes.is_empty();
    let mut compared = 0;
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
        ("dbias", &found.dbias, &naive.dbias, &truth.dbias),
        ("dsinks", &found.dsinks, &naive.dsinks, &truth.dsinks),
        ("dalibi_slopes", &found.dalibi_slopes, &naive.dalibi_slopes, &truth.dalibi_slopes),
    ]
    .into_iter()
    .filter(|(name, ..)| has_slopes || *name != "dalibi_slopes")
    {
        let what = format!("{name} under {mask}, {:?}", problem.shape());
        gradient_close(&what, found, naive, truth)?;
        compared += usize::from(!truth.is_empty());
    }
    Ok(compared)
}

/// A number from −1 to 1 that tells neighbours apart.
fn part(at: usize, seed: usize) -> f32 {
    ((at + seed * 7919) * 7919 % 2003) as f32 / 1001.5 - 1.0
}

async fn plain(
    attention: &Session,
    shape: Shape,
    mask: &str,
    seed: u64,
    kernel: Option<BackwardKernel>,
) -> Outcome {
    let mask: Mask = mask.parse()?;
    let problem = &Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let none = (&ScoreModifiers::default(), &ScoreData::default());
    compare(attention, [problem, problem], &mask, &operands, none, kernel).await
}

async fn one_kernel(attention: &Session, kernel: BackwardKernel) -> Outcome {
    let shape = Shape::new(2, 4, 65, 20).seq_len_kv(33).num_kv_heads(2);
    let masks = ["causal & key_lengths", "self_only_if_alone(causal & documents)"];
    Ok(plain(attention, shape, masks[0], 6, Some(kernel)).await?
        + plain(attention, shape, masks[1], 7, Some(kernel)).await?)
}

async fn every_length(attention: &Session, mask: &str) -> Outcome {
    let mut compared = 0;
    for (seed, (seq_len_q, seq_len_kv)) in (0..).zip([(1, 1), (17, 3), (65, 33), (1, 203)]) {
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
        compared += plain(attention, shape, mask, seed, None).await?;
    }
    Ok(compared)
}

async fn modified(attention: &Session, score: ScoreModifiers) -> Outcome {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse()?;
    let problem = &Problem::new(shape).mask(mask.clone()).score(score).scale(0.2);
    let data = ScoreData::random(&shape, 3);
    let mut operands = Operands::random(&shape, 3);
    operands.mask = data.add_to(&shape, operands.mask);
    compare(attention, [problem, problem], &mask, &operands, (&score, &data), None).await
}

async fn custom(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let data = ScoreData::random(&shape, 2);
    let mut operands = Operands::random(&shape, 2);
    operands.mask =
        data.add_to(&shape, operands.mask).custom_f32("slopes", data.slopes.iter().copied());
    let text = "
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            let own = i32(q_idx) + 4;
            return score - slopes(h) * f32(abs(own - i32(kv_idx)));
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad;
        }";
    let alibi = WgslFunction::new(text)?.buffer("slopes", WgslBuffer::F32, 4)?;
    let mask: Mask = "causal & key_lengths".parse()?;
    let score = ScoreModifiers::default().alibi(true);
    let own = &Problem::new(shape).mask(mask.clone()).score_mod(alibi);
    let known = &Problem::new(shape).mask(mask.clone()).score(score);
    compare(attention, [own, known], &mask, &operands, (&score, &data), None).await
}
