//! Packed sequences of different lengths, against each of them alone.

use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Dtype, Mask, Problem,
    RunOptions, ScoreModifiers, Session, Shape, reference,
};

use super::{Case, Failure, Outcome, case, ensure};
use crate::gpu::{output, submit, upload};
use crate::operands::{Operands, ScoreData};
use crate::tolerance::{close, naive_modified};

/// Queries and keys of each.
const LENGTHS: [(usize, usize); 5] = [(17, 33), (0, 5), (1, 65), (33, 7), (5, 64)];
const STARTS: ([i32; 6], [i32; 6]) = ([0, 17, 17, 18, 51, 56], [0, 33, 38, 103, 110, 174]);
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 20;

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    vec![
        case("packed sequences", &["forward tiled"], packed(attention)),
        case("starts that are wrong are told of", &["sequences check"], check(attention)),
    ]
}

fn problem(mask: &Mask) -> Problem {
    let sequences = Sequences {
        q: QuerySequences::Packed { total: STARTS.0[5] as usize },
        kv: KeySequences::Packed { total: STARTS.1[5] as usize },
    };
    let shape = Shape::new(LENGTHS.len(), HEADS, 33, DIM).seq_len_kv(65).num_kv_heads(KV_HEADS);
    Problem::new(shape.sequences(sequences)).mask(mask.clone())
}

/// `[heads, seq_len, dim]` of each sequence, one behind the other in each head.
fn joined<'a>(heads: usize, parts: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    let mut whole = Vec::new();
    for h in 0..heads {
        for b in 0..LENGTHS.len() {
            let len = parts(b).len() / heads;
            whole.extend_from_slice(&parts(b)[h * len..][..len]);
        }
    }
    whole
}

async fn packed(attention: &Session) -> Outcome {
    let alone: Vec<(Problem, Operands)> = (0..)
        .zip(LENGTHS)
        .map(|(seed, (q_len, kv_len))| {
            let shape = Shape::new(1, HEADS, q_len, DIM).seq_len_kv(kv_len).num_kv_heads(KV_HEADS);
            (Problem::new(shape), Operands::random(&shape, seed))
        })
        .collect();
    let data = AuxData::new().q_starts(STARTS.0).kv_starts(STARTS.1);
    let operands = Operands {
        q: joined(HEADS, |b| &alone[b].1.q),
        k: joined(KV_HEADS, |b| &alone[b].1.k),
        v: joined(KV_HEADS, |b| &alone[b].1.v),
        mask: data,
    };
    let mut compared = 0;
    for mask in ["causal", "window(9,2)", "chunk(24) & causal"] {
        let mask: Mask = mask.parse()?;
        let found =
            attention.run(&problem(&mask), &operands.inputs(), &RunOptions::default()).await?;
        for (b, (own, operands)) in alone.iter().enumerate() {
            let own = own.clone().mask(mask.clone());
            let inputs = operands.inputs();
            let truth = reference::attention(&own, &inputs)?;
            let (score, data) = (ScoreModifiers::default(), ScoreData::default());
            let naive = naive_modified(&own, &mask, &inputs, &score, &data, Dtype::F32);
            let total = STARTS.0[5] as usize;
            let part: Vec<f32> = (0..HEADS)
                .flat_map(|h| {
                    let first = h * total + STARTS.0[b] as usize;
                    &found.o[first * DIM..][..LENGTHS[b].0 * DIM]
                })
                .copied()
                .collect();
            close(&format!("o of sequence {b} under {mask}"), &part, &naive.o, &truth.o)?;
            compared += 1;
        }
    }
    Ok(compared)
}

async fn check(attention: &Session) -> Outcome {
    let problem = problem(&Mask::causal());
    let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default())?;
    let shape = problem.shape();
    let q = upload(attention, &vec![1f32; shape.q_len()?]);
    let k = upload(attention, &vec![1f32; shape.k_len()?]);
    let o = output(attention, shape.o_len()?);
    let kv_starts = upload(attention, &STARTS.1);
    for (starts, right) in [(STARTS.0, true), ([0, 17, i32::MAX, 3, -1, 56], false)] {
        let q_starts = upload(attention, &starts);
        let word = upload(attention, &[0u32]);
        let mask = AuxBuffers::new()
            .with(AuxTensor::QStarts, q_starts.slice(..))
            .with(AuxTensor::KvStarts, kv_starts.slice(..));
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: k.slice(..),
            aux: mask,
            o: o.slice(..),
            lse: None,
        };
        submit(attention, |encoder| {
            plan.encode(encoder, &buffers)?;
            plan.encode_sequences_check(encoder, word.slice(..))
        })?;
        let word = attention.read(&word, 1).await?[0].to_bits();
        match plan.check_sequences(word) {
            Ok(()) => ensure(right, || format!("{starts:?} passed"))?,
            Err(error) if right => return Err(error.into()),
            Err(error) => {
                ensure(error.to_string().contains("q_starts[1] and [2]"), || error.to_string())?
            }
        }
    }
    Ok::<_, Failure>(2)
}
