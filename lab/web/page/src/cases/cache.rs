//! Caches, token by token, against one parallel pass; and parts put together.

use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens};
use wgpu_attention::plan::MergePlan;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, Dtype, Inputs, KvCache, Mask, Problem,
    ScoreModifiers, Session, Shape, reference,
};

use super::{Case, Outcome, case, ensure};
use crate::gpu::{output, submit, upload};
use crate::operands::{Operands, ScoreData};
use crate::tolerance::{close, naive_modified};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const STEPS: usize = 45;

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    let shape = CacheShape::new(2, KV_HEADS, 48, DIM);
    let kernels = ["append", "forward decode", "forward tiled"];
    let case = |name: &str, shape, mask| case(name, &kernels, steps(attention, shape, mask));
    vec![
        case("a cache, in steps", shape, "causal"),
        case("a paged cache, in steps", shape.paged(16, 9), "causal"),
        case(
            "a ring under a window, in steps",
            CacheShape::new(2, KV_HEADS, 32, DIM).ring(),
            "causal & window(12,0)",
        ),
        super::case("parts that are put together", &["merge", "forward tiled"], merge(attention)),
    ]
}

/// The tokens `from..to` of `[batch, heads, seq_len, dim]`.
fn cut(values: &[f32], seq_len: usize, dim: usize, from: usize, to: usize) -> Vec<f32> {
    values.chunks(seq_len * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
}

/// Appends and attends, in steps of a prompt, single tokens and a few at a time; nothing is read back in between.
async fn steps(attention: &Session, shape: CacheShape, mask: &str) -> Outcome {
    let whole = Shape::new(shape.batch, HEADS, STEPS, DIM).num_kv_heads(KV_HEADS);
    let operands = Operands::random(&whole, 8);
    let mut cache = KvCache::new(attention.kernels(), &shape)?;
    if let CacheForm::Paged { blocks, .. } = shape.form {
        let each = shape.blocks_per_sequence();
        for b in 0..shape.batch {
            let table: Vec<u32> = (0..each).map(|i| ((b * each + i) * 7 % blocks) as u32).collect();
            cache.set_table(attention.queue(), b, &table)?;
        }
    }
    let mut outputs = Vec::new();
    let mut first = 0;
    for size in [17, 1, 1, 5, 1, 20] {
        let append = AppendPlan::new(attention.kernels(), &shape, &NewTokens::new(size))?;
        let problem = shape.problem(HEADS, size, QuerySequences::Uniform).mask(mask.parse()?);
        let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default())?;
        let part =
            |values: &[f32]| upload(attention, &cut(values, STEPS, DIM, first, first + size));
        let (q, k, v) = (part(&operands.q), part(&operands.k), part(&operands.v));
        let o = output(attention, shape.batch * HEADS * size * DIM);
        submit(attention, |encoder| {
            append.encode(encoder, &mut cache, &AppendBuffers::new(k.slice(..), v.slice(..)))?;
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                aux: cache.aux_buffers(AuxBuffers::new()),
                o: o.slice(..),
                lse: None,
            };
            plan.encode(encoder, &buffers)
        })?;
        outputs.push((first, size, o));
        first += size;
    }
    ensure(first == STEPS, || format!("{first} steps"))?;
    let word = upload(attention, &[0u32]);
    submit(attention, |encoder| cache.encode_check(encoder, word.slice(..)))?;
    cache.check(attention.read(&word, 1).await?[0].to_bits())?;

    let mut found = vec![f32::NAN; operands.q.len()];
    for (first, size, o) in outputs {
        let part = attention.read(&o, shape.batch * HEADS * size * DIM).await?;
        for (head, rows) in part.chunks(size * DIM).enumerate() {
            found[(head * STEPS + first) * DIM..][..size * DIM].copy_from_slice(rows);
        }
    }
    let mask: Mask = mask.parse()?;
    let problem = Problem::new(whole).mask(mask.clone());
    let none = AuxData::new();
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v).aux(&none);
    let truth = reference::attention(&problem, &inputs)?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(&problem, &mask, &inputs, &score, &data, Dtype::F32);
    close("o of all steps", &found, &naive.o, &truth.o)?;
    Ok(2)
}

/// The keys in parts, one of them empty and one that some rows don't keep at all, each a pass of its own.
async fn merge(attention: &Session) -> Outcome {
    let shape = Shape::new(2, 4, 40, 20).seq_len_kv(113).num_kv_heads(2);
    let bounds = [0, 1, 1, 77, 100, 113];
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 1);
    let merge = MergePlan::new(attention.kernels(), &problem, bounds.len() - 1)?;
    let q = upload(attention, &operands.q);
    for (part, keys) in bounds.windows(2).enumerate() {
        let tensor = |values: &[f32]| {
            let mut part = cut(values, shape.seq_len_kv, 20, keys[0], keys[1]);
            // A buffer can't be empty.
            part.push(0.0);
            upload(attention, &part)
        };
        let (k, v) = (tensor(&operands.k), tensor(&operands.v));
        let own = shape.seq_len_kv(keys[1] - keys[0]);
        let offset = shape.seq_len_kv as i32 - shape.seq_len_q as i32 - keys[0] as i32;
        let causal = Mask::causal_offset(offset);
        let plan = AttentionPlan::new(
            attention.kernels(),
            &Problem::new(own).mask(causal),
            &Default::default(),
        )?;
        let slices = merge.part(part)?;
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: AuxBuffers::new(),
            o: slices.o,
            lse: Some(slices.lse),
        };
        submit(attention, |encoder| plan.encode(encoder, &buffers))?;
    }
    let o = output(attention, shape.o_len()?);
    let lse = output(attention, shape.lse_len()?);
    submit(attention, |encoder| merge.encode(encoder, o.slice(..), Some(lse.slice(..))))?;
    let found = attention.read(&o, shape.o_len()?).await?;
    let found_lse = attention.read(&lse, shape.lse_len()?).await?;
    let truth = reference::attention(&problem, &operands.inputs())?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let inputs = operands.inputs();
    let naive = naive_modified(&problem, &Mask::causal(), &inputs, &score, &data, Dtype::F32);
    close("o", &found, &naive.o, &truth.o)?;
    close("lse", &found_lse, &naive.lse, &truth.lse)?;
    Ok(2)
}
