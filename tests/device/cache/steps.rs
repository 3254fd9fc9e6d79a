//! Attention over what has been appended, step by step, against one parallel pass.

use wgpu::BufferSlice;
use wgpu_attention::{
    AppendBuffers, AppendPlan, AttentionBuffers, AttentionPlan, CacheForm, CacheShape, Dtype,
    Inputs, KvCache, Layout, Mask, MaskBuffers, MaskData, MaskInput, NewTokens, Problem,
    QuerySequences, Score, Shape, reference,
};

use super::{
    DIM, HEADS, KV_HEADS, STEPS, Tokens, cache, cut, fault, stored_row, submit, tokens, upload_f32,
    upload_i32, words,
};
use crate::fixture::{ATTENTION, ScoreData};
use crate::tolerance::{DEQUANTIZED_ERROR, assert_close, naive_modified};

/// o of one parallel pass over all tokens, `[batch, HEADS, STEPS, DIM]`: in f64, and as the naive computation has it.
struct Parallel {
    truth: Vec<f64>,
    naive: Vec<f32>,
}

fn parallel(mask: &str, score: Score, slopes: &[f32], tokens: &Tokens, batch: usize) -> Parallel {
    let shape = Shape::new(batch, HEADS, STEPS, DIM).kv_heads(KV_HEADS);
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score);
    let data = MaskData::new().alibi_slopes(slopes.iter().copied());
    let inputs = Inputs::new(&tokens.q, &tokens.k, &tokens.v).mask(&data);
    let truth = reference::attention(&problem, &inputs).unwrap().o;
    let scores = ScoreData { slopes: slopes.to_vec(), ..ScoreData::default() };
    let naive = naive_modified(&problem, &mask, &inputs, &score, &scores, Dtype::F32).o;
    Parallel { truth, naive }
}

/// o of every token, appended and attended to in chunks of the given sizes.
fn step_by_step(
    shape: &CacheShape,
    mask: &str,
    score: Score,
    slopes: &[f32],
    tokens: &Tokens,
    chunks: &[usize],
) -> (Vec<f32>, KvCache) {
    let (mut cache, _) = cache(shape);
    let slopes = upload_f32(slopes);
    let mut o = vec![0.0; tokens.q.len()];
    let mut first = 0;
    for &size in chunks {
        let plan = AppendPlan::new(ATTENTION.kernels(), shape, &NewTokens::new(size)).unwrap();
        let problem = shape
            .problem(HEADS, size, QuerySequences::Uniform)
            .mask(mask.parse().unwrap())
            .score(score);
        let attention = AttentionPlan::new(ATTENTION.kernels(), &problem).unwrap();
        let part = |values: &[f32]| upload_f32(&cut(values, STEPS, DIM, first, first + size));
        let (q, k, v) = (part(&tokens.q), part(&tokens.k), part(&tokens.v));
        let out = upload_f32(&vec![0.0; shape.batch * HEADS * size * DIM]);
        submit(|encoder| {
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
            plan.encode(encoder, &mut cache, &buffers).unwrap();
            let mask = MaskBuffers::new().with(MaskInput::AlibiSlopes, slopes.slice(..));
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                mask: cache.mask_buffers(mask),
                o: out.slice(..),
                lse: None,
            };
            attention.encode(encoder, &buffers).unwrap();
        });
        let out = ATTENTION.read_blocking(&out, shape.batch * HEADS * size * DIM).unwrap();
        for head in 0..shape.batch * HEADS {
            o[(head * STEPS + first) * DIM..][..size * DIM]
                .copy_from_slice(&out[head * size * DIM..][..size * DIM]);
        }
        first += size;
    }
    assert_eq!(first, STEPS);
    fault(&cache).unwrap();
    (o, cache)
}

#[test]
fn every_step_is_a_row_of_the_parallel_pass() {
    let batch = 2;
    let contiguous = CacheShape::new(batch, KV_HEADS, STEPS, DIM);
    let tokens = tokens(&contiguous, STEPS, 40);
    let slopes: Vec<f32> = (0..HEADS).map(|h| 0.1 * h as f32).collect();
    let alibi = Score { alibi: true, ..Score::default() };
    let ones = vec![1; STEPS];
    let prefill = [vec![17, 9], vec![1; STEPS - 26]].concat();
    // A window of 20 looks back at most 19 from the oldest of the tokens that are appended together.
    for (mask, form, capacity) in [
        ("causal", CacheForm::Contiguous, STEPS),
        ("causal", CacheForm::Paged { block_size: 16, blocks: 8 }, STEPS),
        ("causal & window(19,0)", CacheForm::Ring, 36),
    ] {
        let shape = CacheShape { form, capacity, ..contiguous };
        let whole = parallel(mask, alibi, &slopes, &tokens, batch);
        for chunks in [&ones, &prefill] {
            let (steps, _) = step_by_step(&shape, mask, alibi, &slopes, &tokens, chunks);
            assert_close(&format!("{mask}, {form:?}"), &steps, &whole.naive, &whole.truth);
        }
    }
}

#[test]
fn blocks_give_the_bits_of_a_contiguous_cache() {
    let contiguous = CacheShape::new(3, KV_HEADS, STEPS, DIM);
    let tokens = tokens(&contiguous, STEPS, 50);
    let chunks = [vec![20], vec![1; 25]].concat();
    let run = |shape: CacheShape, tokens: &Tokens| {
        step_by_step(&shape, "causal", Score::default(), &[0.0; HEADS], tokens, &chunks)
    };
    let expected = run(contiguous, &tokens).0;
    assert_eq!(run(contiguous.paged(16, 10), &tokens).0, expected);
    assert_eq!(run(contiguous.paged(64, 4), &tokens).0, expected);
    assert_eq!(run(contiguous.layout(Layout::Bshd), &tokens).0, expected);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let rounded = |values: &[f32]| values.iter().map(|&x| dtype.round(x)).collect();
        let (k, v) = (rounded(&tokens.k), rounded(&tokens.v));
        let rounded = Tokens { k, v, q: tokens.q.clone() };
        assert_eq!(run(contiguous.dtype(dtype), &tokens).0, run(contiguous, &rounded).0, "{dtype}");
    }
    // 8 bits: as f32 with the numbers that the stored rows stand for.
    let shape = contiguous.dtype(Dtype::I8);
    let (o, cache) = run(shape, &tokens);
    let numbers = |slice: BufferSlice<'_>| -> Vec<f32> {
        let words = words(slice);
        (0..3 * KV_HEADS * STEPS)
            .flat_map(|row| stored_row(&words, row * (4 + DIM), DIM, Dtype::I8))
            .collect()
    };
    let stored = Tokens { k: numbers(cache.k()), v: numbers(cache.v()), q: tokens.q.clone() };
    for (x, y) in o.iter().zip(run(contiguous, &stored).0) {
        assert!((x - y).abs() <= DEQUANTIZED_ERROR, "{x} instead of {y}");
    }
    assert_eq!(run(contiguous.paged(32, 6).dtype(Dtype::I8), &tokens).0, o);
}

#[test]
fn sequences_take_different_numbers_of_tokens() {
    // Sequences join, pause and go on; packed and left-padded steps by turns.
    let steps: &[[usize; 3]] = &[[5, 0, 17], [1, 9, 1], [0, 0, 1], [3, 1, 0], [12, 12, 12]];
    let shape = CacheShape::new(3, KV_HEADS, 48, DIM).paged(16, 9);
    let (mut cache, _) = cache(&shape);
    let tokens = tokens(&shape, STEPS, 60);
    let whole = parallel("causal", Score::default(), &[0.0; HEADS], &tokens, 3);
    // The rows of all steps, in the order in which they were computed.
    let (mut found, mut naive, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    let row = |values: &[f32], heads: usize, b: usize, h: usize, token: usize| {
        values[((b * heads + h) * STEPS + token) * DIM..][..DIM].to_vec()
    };
    let mut lengths = [0; 3];
    for (step, &added) in steps.iter().enumerate() {
        let most = *added.iter().max().unwrap();
        let total: usize = added.iter().sum();
        let packed = step % 2 == 0;
        // (sequence, token) of each row of the step's tensors, `[batch, heads, rows, DIM]`.
        let rows: Vec<Vec<Option<(usize, usize)>>> = if packed {
            let all = (0..3).flat_map(|b| (0..added[b]).map(move |i| (b, i)));
            vec![all.map(|(b, i)| Some((b, lengths[b] + i))).collect()]
        } else {
            let padded = |b: usize| {
                let padding = std::iter::repeat_n(None, most - added[b]);
                padding.chain((0..added[b]).map(move |i| Some((b, i)))).collect::<Vec<_>>()
            };
            let at = |row: Option<(usize, usize)>| row.map(|(b, i)| (b, lengths[b] + i));
            (0..3).map(|b| padded(b).into_iter().map(at).collect()).collect()
        };
        let tensor = |values: &[f32], heads: usize| {
            let rows = rows
                .iter()
                .flat_map(|rows| (0..heads).flat_map(move |h| rows.iter().map(move |at| (h, *at))));
            let values: Vec<f32> = rows
                .flat_map(|(h, at)| match at {
                    Some((b, token)) => row(values, heads, b, h, token),
                    None => vec![f32::NAN; DIM],
                })
                .collect();
            upload_f32(&values)
        };
        let (q, k, v) =
            (tensor(&tokens.q, HEADS), tensor(&tokens.k, KV_HEADS), tensor(&tokens.v, KV_HEADS));
        let sequences =
            if packed { QuerySequences::Packed { total } } else { QuerySequences::LeftPadded };
        let mut starts = vec![0];
        added.iter().for_each(|&n| starts.push(starts[starts.len() - 1] + n as i32));
        let counts: Vec<i32> = added.iter().map(|&n| n as i32).collect();
        let (starts, counts) = (upload_i32(&starts), upload_i32(&counts));
        let data = MaskBuffers::new()
            .with(MaskInput::QStarts, starts.slice(..))
            .with(MaskInput::QLengths, counts.slice(..));
        let new = NewTokens::new(most).sequences(sequences);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let problem = shape.problem(HEADS, most, sequences).mask(Mask::causal());
        let attention = AttentionPlan::new(ATTENTION.kernels(), &problem).unwrap();
        let out = upload_f32(&vec![0.0; rows.len() * rows[0].len() * HEADS * DIM]);
        submit(|encoder| {
            let buffers =
                AppendBuffers::new(k.slice(..), v.slice(..)).sequences(data.clone(), Some(&added));
            plan.encode(encoder, &mut cache, &buffers).unwrap();
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                mask: cache.mask_buffers(data.clone()),
                o: out.slice(..),
                lse: None,
            };
            attention.encode(encoder, &buffers).unwrap();
        });
        let out = ATTENTION.read_blocking(&out, rows.len() * rows[0].len() * HEADS * DIM).unwrap();
        for (plane, rows) in rows.iter().enumerate() {
            for h in 0..HEADS {
                for (at, row_of) in rows.iter().enumerate() {
                    let o = &out[((plane * HEADS + h) * rows.len() + at) * DIM..][..DIM];
                    match *row_of {
                        Some((b, token)) => {
                            let from = ((b * HEADS + h) * STEPS + token) * DIM;
                            found.extend_from_slice(o);
                            naive.extend_from_slice(&whole.naive[from..][..DIM]);
                            truth.extend_from_slice(&whole.truth[from..][..DIM]);
                        }
                        None => assert_eq!(o, [0.0; DIM], "step {step}: padding isn't written"),
                    }
                }
            }
        }
        for b in 0..3 {
            lengths[b] += added[b];
        }
    }
    assert_close("rows of all steps", &found, &naive, &truth);
    assert_eq!(words(cache.lengths())[..3], lengths.map(|length| length as u32));
    assert_eq!(cache.length_bounds(), lengths);
    fault(&cache).unwrap();
}
