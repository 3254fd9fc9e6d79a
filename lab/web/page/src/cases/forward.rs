//! Forward passes: every kernel, mask, modifier and type, user-defined functions, and what stands behind the mask.

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{
    AuxData, Dtype, Mask, Problem, RunOptions, ScoreModifiers, Session, Shape, reference,
};

use super::{Case, Outcome, case, ensure, same_bits};
use crate::operands::{MASKS, Operands, SCORES, ScoreData, stored};
use crate::tolerance::{close, naive_modified};

const TILED: &[&str] = &["forward tiled"];

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for kernel in ForwardKernel::ALL {
        let name = format!("forward {kernel}");
        cases.push(case(&name, &[&name], one_kernel(attention, kernel)));
    }
    for (at, mask) in MASKS.iter().enumerate() {
        let mut kernels = TILED.to_vec();
        if mask.starts_with("self_only_if_alone") {
            kernels.push("rows alone");
        }
        let check = every_length(attention, mask, 100 * at as u64);
        cases.push(case(format!("forward under {mask}"), &kernels, check));
    }
    cases.push(case("long rows", TILED, long_rows(attention)));
    cases.push(case("head_dim from 1 to 576", TILED, every_head_dim(attention)));
    cases.push(case("decode in parts", &["forward decode", "merge"], decode(attention)));
    for score in SCORES {
        let name = format!("forward, scores and weights with {score:?}");
        cases.push(case(name, &["forward tiled", "inspect"], modified(attention, score)));
    }
    cases.push(case("a mask in WGSL", TILED, custom_mask(attention)));
    cases.push(case("a score in WGSL", TILED, custom_score(attention)));
    cases.push(case("NaN and infinities behind the mask", TILED, hostile(attention)));
    cases.push(case("rows that keep no key", TILED, empty_rows(attention)));
    cases.push(case("no queries, no keys", TILED, nothing(attention)));
    cases.push(case("the same bits in every run", TILED, deterministic(attention)));
    cases
}

/// o and lse by one kernel, against the reference.
pub(super) async fn compare(
    attention: &Session,
    problem: &Problem,
    mask: &Mask,
    operands: &Operands,
    outputs: RunOptions,
    dtype: Dtype,
) -> Outcome {
    let inputs = operands.inputs();
    let outputs = outputs.lse(true);
    let found = attention.run(problem, &inputs, &outputs).await?;
    let truth = reference::attention(problem, &inputs)?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(problem, mask, &inputs, &score, &data, dtype);
    let what = format!("{mask}, {dtype}, {:?}", problem.shape());
    close(&format!("o of {what}"), &found.o, &naive.o, &truth.o)?;
    close(&format!("lse of {what}"), &found.lse, &naive.lse, &truth.lse)?;
    Ok(2)
}

/// The same with random operands and the kernel that suits best.
async fn best(attention: &Session, shape: Shape, mask: &str, seed: u64) -> Outcome {
    let mask: Mask = mask.parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    // Of the native tests, too, those of any size leave decode kernels out.
    let outputs = RunOptions::default().kernel(ForwardKernel::Tiled);
    compare(attention, &problem, &mask, &operands, outputs, Dtype::F32).await
}

/// One mask whose tiles are classed by closed forms, one with a tile map and a table of rows, in every type.
async fn one_kernel(attention: &Session, kernel: ForwardKernel) -> Outcome {
    let shape = match kernel.is_decode() {
        true => Shape::new(4, 8, 9, 20).seq_len_kv(203).num_kv_heads(4),
        false => Shape::new(2, 4, 113, 20).seq_len_kv(127).num_kv_heads(2),
    };
    let mut compared = 0;
    for mask in ["causal & key_lengths", "self_only_if_alone(causal & documents)"] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let mask: Mask = mask.parse()?;
            let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
            let operands = stored(Operands::random(&shape, 5), dtype.into());
            let outputs = RunOptions::default().kernel(kernel);
            compared += compare(attention, &problem, &mask, &operands, outputs, dtype).await?;
        }
    }
    Ok(compared)
}

async fn every_length(attention: &Session, mask: &str, seed: u64) -> Outcome {
    let lengths = [(1, 1), (17, 3), (65, 33), (113, 129), (1, 203)];
    let mut compared = 0;
    for (seed, (seq_len_q, seq_len_kv)) in (seed..).zip(lengths) {
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
        compared += best(attention, shape, mask, seed).await?;
    }
    Ok(compared)
}

async fn long_rows(attention: &Session) -> Outcome {
    let long = Shape::new(1, 2, 217, 20).seq_len_kv(1023).num_kv_heads(1);
    Ok(best(attention, Shape::new(1, 1, 1023, 20), "causal", 1).await?
        + best(attention, long, "causal & key_lengths", 2).await?
        + best(attention, Shape::new(1, 1, 257, 20).seq_len_kv(1023), "documents", 3).await?)
}

async fn every_head_dim(attention: &Session) -> Outcome {
    let mut compared = 0;
    for (seed, dim) in (0..).zip([1, 3, 16, 17, 32, 33, 64, 80, 127, 128, 129, 192, 200, 255, 256, 576])
    {
        let shape = Shape::new(1, 2, 37, dim).seq_len_kv(41);
        compared += best(attention, shape, "causal & key_lengths", seed).await?;
    }
    for (seed, (dim, dim_v)) in (0..).zip([(64, 1), (1, 64), (24, 130)]) {
        let shape = Shape::new(2, 2, 37, dim).seq_len_kv(41).head_dim_v(dim_v);
        compared += best(attention, shape, "causal & key_lengths", seed).await?;
    }
    Ok(compared)
}

async fn decode(attention: &Session) -> Outcome {
    let mask: Mask = "causal & key_lengths".parse()?;
    let mut compared = 0;
    for (seq_len_q, seq_len_kv) in [(1, 1), (2, 203), (16, 129), (9, 3), (2, 1023)] {
        let shape = Shape::new(4, 8, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(4);
        let problem = Problem::new(shape).mask(mask.clone());
        let operands = Operands::random(&shape, 4);
        for num_splits in [None, Some(3), Some(128)] {
            let kernel = Some(ForwardKernel::Decode);
            let outputs = RunOptions::default().kernel(kernel).num_splits(num_splits);
            compared += compare(attention, &problem, &mask, &operands, outputs, Dtype::F32).await?;
        }
    }
    Ok(compared)
}

async fn modified(attention: &Session, score: ScoreModifiers) -> Outcome {
    let mask: Mask = "causal & key_lengths".parse()?;
    let mut compared = 0;
    for (seed, (seq_len_q, seq_len_kv)) in (0..).zip([(37, 70), (70, 33)]) {
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
        let problem = Problem::new(shape).mask(mask.clone()).score(score).scale(0.2);
        let data = ScoreData::random(&shape, seed);
        let mut operands = Operands::random(&shape, seed);
        operands.mask = data.add_to(&shape, operands.mask);
        let inputs = operands.inputs();
        let outputs = RunOptions::default().lse(true).tensors(ScoreTensor::ALL.to_vec());
        let found = attention.run(&problem, &inputs, &outputs).await?;
        let truth = reference::attention(&problem, &inputs)?;
        let naive = naive_modified(&problem, &mask, &inputs, &score, &data, Dtype::F32);
        let [scores, masked_scores, weights] = &found.tensors[..] else {
            return Err(format!("{} tensors instead of three", found.tensors.len()).into());
        };
        for (name, found, naive, truth) in [
            ("o", &found.o, &naive.o, &truth.o),
            ("lse", &found.lse, &naive.lse, &truth.lse),
            ("scores", scores, &naive.scores, &truth.scores),
            ("masked scores", masked_scores, &naive.masked_scores, &truth.masked_scores),
            ("weights", weights, &naive.weights, &truth.weights),
        ] {
            close(&format!("{name}, {score:?}, {shape:?}"), found, naive, truth)?;
            compared += 1;
        }
    }
    Ok(compared)
}

/// A user-defined function, with a buffer, gives the same bits as the mask that it imitates.
async fn custom_mask(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 2, 33, 20);
    let text = "
        fn id_of(b: u32, at: u32) -> i32 { return ids(b * 33u + at); }
        fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            return kv_idx <= q_idx && id_of(b, q_idx) == id_of(b, kv_idx);
        }";
    let own = Mask::Wgsl(WgslFunction::new(text)?.buffer("ids", WgslBuffer::I32, 66)?);
    let ids: Vec<i32> = (0..66).map(|at| at / 9).collect();
    let mut operands = Operands::random(&shape, 1);
    operands.mask = AuxData::new().document_ids(ids.clone()).custom_i32("ids", ids);
    let known = "causal & documents".parse()?;
    let mut found = Vec::new();
    for mask in [own, known] {
        let problem = Problem::new(shape).mask(mask);
        let outputs = RunOptions::default().lse(true);
        found.push(attention.run(&problem, &operands.inputs(), &outputs).await?);
    }
    same_bits("o", &found[0].o, &found[1].o)?;
    same_bits("lse", &found[0].lse, &found[1].lse)?;
    Ok(2)
}

async fn custom_score(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let data = ScoreData::random(&shape, 2);
    let mut operands = Operands::random(&shape, 2);
    operands.mask =
        data.add_to(&shape, operands.mask).custom_f32("slopes", data.slopes.iter().copied());
    let text = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
        let own = i32(q_idx) + 4;
        return score - slopes(h) * f32(abs(own - i32(kv_idx)));
    }";
    let alibi = WgslFunction::new(text)?.buffer("slopes", WgslBuffer::F32, 4)?;
    let mask: Mask = "causal & key_lengths".parse()?;
    let score = ScoreModifiers::default().alibi(true);
    // What the function does is what ALiBi does, so ALiBi's reference is its own.
    let own = Problem::new(shape).mask(mask.clone()).score_mod(alibi);
    let known = Problem::new(shape).mask(mask.clone()).score(score);
    let outputs = RunOptions::default().lse(true);
    let found = attention.run(&own, &operands.inputs(), &outputs).await?;
    let truth = reference::attention(&known, &operands.inputs())?;
    let naive = naive_modified(&known, &mask, &operands.inputs(), &score, &data, Dtype::F32);
    close("o", &found.o, &naive.o, &truth.o)?;
    close("lse", &found.lse, &naive.lse, &truth.lse)?;
    Ok(2)
}

/// Keys and values that no query of their head group keeps are replaced; every bit of the output stays.
async fn hostile(attention: &Session) -> Outcome {
    const HOSTILE: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
    let shape = Shape::new(3, 4, 70, 20).seq_len_kv(75).num_kv_heads(2);
    let mut compared = 0;
    for (seed, mask) in
        (0..).zip(["key_lengths", "key_padding & causal", "window(3,0)", "documents & !prefix"])
    {
        let mask: Mask = mask.parse()?;
        let clean = Operands::random(&shape, seed);
        let mut hostile = Operands::random(&shape, seed);
        let evaluator = Evaluator::new(&mask, &clean.mask, &shape)?;
        let mut replaced = 0;
        for row in 0..shape.batch * shape.num_kv_heads * shape.seq_len_kv {
            let (head, kv_idx) = (row / shape.seq_len_kv, row % shape.seq_len_kv);
            let (b, h_kv) = (head / shape.num_kv_heads, head % shape.num_kv_heads);
            let mut group = h_kv * shape.group_size()..(h_kv + 1) * shape.group_size();
            let kept = group
                .any(|h| (0..shape.seq_len_q).any(|q_idx| evaluator.keep(b, h, q_idx, kv_idx)));
            if !kept {
                hostile.k[row * 20..][..20].fill(HOSTILE[replaced % 4]);
                hostile.v[row * 20..][..20].fill(HOSTILE[(replaced + 1) % 4]);
                replaced += 1;
            }
        }
        ensure(replaced > 0, || format!("{mask} keeps every key, so it tests nothing"))?;
        let problem = Problem::new(shape).mask(mask.clone());
        let outputs = RunOptions::default().lse(true);
        let expected = attention.run(&problem, &clean.inputs(), &outputs).await?;
        let found = attention.run(&problem, &hostile.inputs(), &outputs).await?;
        same_bits(&format!("o under {mask}"), &found.o, &expected.o)?;
        same_bits(&format!("lse under {mask}"), &found.lse, &expected.lse)?;
        compared += 2;
    }
    Ok(compared)
}

async fn empty_rows(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 2, 37, 20).seq_len_kv(41);
    let problem = Problem::new(shape).mask(Mask::KeyLengths);
    let mut operands = Operands::random(&shape, 1);
    operands.mask = AuxData::new().key_lengths([0, 41]);
    let outputs = RunOptions::default().lse(true);
    let compared =
        compare(attention, &problem, &Mask::KeyLengths, &operands, outputs, Dtype::F32).await?;
    let found = attention.run(&problem, &operands.inputs(), &RunOptions::default()).await?;
    let empty = found.o.len() / 2;
    ensure(found.o[..empty].iter().all(|x| x.to_bits() == 0), || "o isn't 0".to_owned())?;
    Ok(compared + 1)
}

async fn nothing(attention: &Session) -> Outcome {
    let mut compared = 0;
    for shape in [
        Shape::new(2, 2, 3, 8).seq_len_kv(0),
        Shape::new(2, 2, 0, 8).seq_len_kv(5),
        Shape::new(0, 2, 3, 8),
    ] {
        compared += best(attention, shape, "causal & key_lengths", 1).await?;
    }
    Ok(compared)
}

async fn deterministic(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 4, 129, 20).seq_len_kv(113).num_kv_heads(2);
    let problem = Problem::new(shape).mask("documents | causal".parse()?);
    let operands = Operands::random(&shape, 9);
    let first = attention.run(&problem, &operands.inputs(), &RunOptions::default()).await?;
    for _ in 0..10 {
        let again = attention.run(&problem, &operands.inputs(), &RunOptions::default()).await?;
        same_bits("o", &again.o, &first.o)?;
    }
    Ok(10)
}
