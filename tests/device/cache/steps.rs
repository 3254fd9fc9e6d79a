//! Attention over what has been appended, step by step, against one parallel pass.

use wgpu::BufferSlice;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Dtype, Error, Inputs, KvCache,
    Layout, Mask, Problem, ScoreModifiers, Shape, reference,
};

use super::{
    DIM, HEADS, KV_HEADS, STEPS, Tokens, cache, cut, fault, random, row_elements, stored_row,
    submit, tokens, upload_f32, upload_i32, words,
};
use crate::fixture::{ATTENTION, ScoreData};
use crate::tolerance::{DEQUANTIZED_ERROR, assert_close, naive, naive_modified};

/// How the tokens attend.
struct Attending {
    mask: &'static str,
    score: ScoreModifiers,
}

impl Attending {
    const CAUSAL: Self = Self { mask: "causal", score: NO_SCORE };

    fn mask(&self) -> Mask {
        self.mask.parse().unwrap()
    }
}

const QUANTIZED: [Dtype; 2] = [Dtype::I8, Dtype::I4];

const NO_SCORE: ScoreModifiers = ScoreModifiers::new();

/// The modifiers' data, whether they are on or not.
fn score_data() -> ScoreData {
    let of_heads = |factor: f32| (0..HEADS).map(|h| factor * h as f32).collect();
    ScoreData { slopes: of_heads(0.1), sinks: of_heads(9.0), ..ScoreData::default() }
}

/// o of one parallel pass over all tokens, `[batch, HEADS, tokens, DIM]`: in f64, and as the naive computation has it.
struct Parallel {
    truth: Vec<f64>,
    naive: Vec<f32>,
}

fn parallel(attending: &Attending, tokens: &Tokens, batch: usize) -> Parallel {
    let seq_len = tokens.q.len() / batch / HEADS / DIM;
    let shape = Shape::new(batch, HEADS, seq_len, DIM).num_kv_heads(KV_HEADS);
    let (mask, score) = (attending.mask(), attending.score);
    let problem = Problem::new(shape).mask(mask.clone()).score(score);
    let scores = score_data();
    let data = AuxData::new().alibi_slopes(scores.slopes.clone()).sinks(scores.sinks.clone());
    let inputs = Inputs::new(&tokens.q, &tokens.k, &tokens.v).aux(&data);
    let truth = reference::attention(&problem, &inputs).unwrap().o;
    let naive = naive_modified(&problem, &mask, &inputs, &score, &scores, Dtype::F32).o;
    Parallel { truth, naive }
}

/// Which kernel serves single tokens.
fn decode_kernel(shape: &CacheShape) -> ForwardKernel {
    let problem = shape.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
    AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap().kernel()
}

/// o of every token, appended and attended to in chunks of the given sizes.
fn step_by_step(
    shape: &CacheShape,
    attending: &Attending,
    tokens: &Tokens,
    chunks: &[usize],
) -> (Vec<f32>, KvCache) {
    let (mut cache, _) = cache(shape);
    let seq_len: usize = chunks.iter().sum();
    let data = score_data();
    let (slopes, sinks) = (upload_f32(&data.slopes), upload_f32(&data.sinks));
    let mut o = vec![0.0; tokens.q.len()];
    let mut first = 0;
    for &size in chunks {
        let plan = AppendPlan::new(ATTENTION.kernels(), shape, &NewTokens::new(size)).unwrap();
        let problem = shape
            .problem(HEADS, size, QuerySequences::Uniform)
            .mask(attending.mask())
            .score(attending.score);
        let attention =
            AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
        let part = |values: &[f32]| upload_f32(&cut(values, seq_len, DIM, first, first + size));
        let (q, k, v) = (part(&tokens.q), part(&tokens.k), part(&tokens.v));
        let out = upload_f32(&vec![0.0; shape.batch * HEADS * size * DIM]);
        submit(|encoder| {
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
            plan.encode(encoder, &mut cache, &buffers).unwrap();
            let mask = AuxBuffers::new()
                .with(AuxTensor::AlibiSlopes, slopes.slice(..))
                .with(AuxTensor::Sinks, sinks.slice(..));
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                aux: cache.aux_buffers(mask),
                o: out.slice(..),
                lse: None,
            };
            attention.encode(encoder, &buffers).unwrap();
        });
        let out = ATTENTION.read_blocking(&out, shape.batch * HEADS * size * DIM).unwrap();
        for head in 0..shape.batch * HEADS {
            o[(head * seq_len + first) * DIM..][..size * DIM]
                .copy_from_slice(&out[head * size * DIM..][..size * DIM]);
        }
        first += size;
    }
    assert_eq!(tokens.q.len(), shape.batch * HEADS * seq_len * DIM);
    fault(&cache).unwrap();
    (o, cache)
}

#[test]
fn every_step_is_a_row_of_the_parallel_pass() {
    let batch = 2;
    let contiguous = CacheShape::new(batch, KV_HEADS, STEPS, DIM);
    let tokens = tokens(&contiguous, STEPS, 40);
    let alibi = NO_SCORE.alibi(true);
    let ones = vec![1; STEPS];
    let prefill = [vec![17, 9], vec![1; STEPS - 26]].concat();
    // A window of 20 looks back at most 19 from the oldest of the tokens that are appended together.
    for (mask, form, capacity) in [
        ("causal", CacheForm::Contiguous, STEPS),
        ("causal", CacheForm::Paged { block_size: 16, blocks: 8 }, STEPS),
        ("causal & window(19,0)", CacheForm::Ring, 36),
    ] {
        let shape = contiguous.form(form).capacity(capacity);
        let attending = Attending { mask, score: alibi };
        let whole = parallel(&attending, &tokens, batch);
        for chunks in [&ones, &prefill] {
            let (steps, _) = step_by_step(&shape, &attending, &tokens, chunks);
            assert_close(&format!("{mask}, {form:?}"), &steps, &whole.naive, &whole.truth);
        }
    }
}

/// 1 to 16 queries at a time, with every modifier; what 16 bits keep of keys and values is what the parallel pass gets, too.
#[test]
fn any_number_of_queries_under_every_modifier() {
    let chunks: Vec<usize> = (1..=16).collect();
    let seq_len = chunks.iter().sum();
    let contiguous = CacheShape::new(1, KV_HEADS, seq_len, DIM);
    let all = ScoreModifiers::default().softcap(50.0).alibi(true).sinks(true);
    let softcap = NO_SCORE.softcap(20.0);
    let sinks = NO_SCORE.sinks(true);
    for (shape, mask, score) in [
        (contiguous, "causal & (window(19,0) | global(2))", all),
        (contiguous.paged(32, 5).dtype(Dtype::F16), "causal", softcap),
        (contiguous.capacity(35).ring().dtype(Dtype::Bf16), "causal & window(19,0)", sinks),
    ] {
        let mut tokens = tokens(&contiguous, seq_len, 45);
        tokens.k.iter_mut().chain(&mut tokens.v).for_each(|x| *x = shape.dtype.round(*x));
        let attending = Attending { mask, score };
        let whole = parallel(&attending, &tokens, 1);
        let (steps, _) = step_by_step(&shape, &attending, &tokens, &chunks);
        assert_close(&format!("{mask}, {shape:?}"), &steps, &whole.naive, &whole.truth);
    }
}

/// Drafts behind caches of different lengths, one of them empty, verified at once: the last of the keys are a tree.
#[test]
fn a_tree_of_drafts_behind_each_cache() {
    let lengths = [21, 0, 40];
    let shape = CacheShape::new(3, KV_HEADS, 64, DIM).paged(16, 12);
    for drafts in [1, 5, 16] {
        let (mut cache, _) = cache(&shape);
        let all = tokens(&shape, 64, 46);
        // A tree with branches everywhere, another for each sequence.
        let parents: Vec<Vec<i32>> =
            (0..3).map(|b| (0..drafts).map(|own| own * b / 3 - 1).collect()).collect();
        let before = NewTokens::new(40).sequences(QuerySequences::LeftPadded);
        let before = AppendPlan::new(ATTENTION.kernels(), &shape, &before).unwrap();
        let append =
            AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(drafts as usize)).unwrap();
        let problem =
            shape.problem(HEADS, drafts as usize, QuerySequences::Uniform).mask(Mask::Tree);
        let attention =
            AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
        // The rows `from..to` of each sequence, behind one another.
        let rows = |values: &[f32], heads: usize, of: &dyn Fn(usize) -> (usize, usize)| {
            let rows = values.chunks(heads * 64 * DIM).enumerate().flat_map(|(b, sequence)| {
                let (from, to) = of(b);
                cut(sequence, 64, DIM, from, to)
            });
            rows.collect::<Vec<f32>>()
        };
        // Left padding is whatever stands there.
        let padded = |values: &[f32]| {
            let sequences = values.chunks(KV_HEADS * 64 * DIM).zip(lengths);
            let heads = sequences.flat_map(|(sequence, length)| {
                sequence.chunks(64 * DIM).map(move |head| (head, length))
            });
            let rows = heads.flat_map(|(head, length)| {
                let padding = std::iter::repeat_n(f32::NAN, (40 - length) * DIM);
                padding.chain(head[..length * DIM].iter().copied())
            });
            upload_f32(&rows.collect::<Vec<_>>())
        };
        let (k, v) = (padded(&all.k), padded(&all.v));
        let counts = upload_i32(&lengths.map(|length| length as i32));
        let of_drafts = |b: usize| (lengths[b], lengths[b] + drafts as usize);
        let q = rows(&all.q, HEADS, &of_drafts);
        let drafted = [&all.k, &all.v].map(|values| rows(values, KV_HEADS, &of_drafts));
        let [new_k, new_v] = drafted.each_ref().map(|values| upload_f32(values));
        let (new_q, out) = (upload_f32(&q), upload_f32(&vec![0.0; q.len()]));
        let words: Vec<i32> = parents.iter().flatten().copied().collect();
        let trees = upload_i32(&words);
        submit(|encoder| {
            let data = AuxBuffers::new().with(AuxTensor::QLengths, counts.slice(..));
            let buffers =
                AppendBuffers::new(k.slice(..), v.slice(..)).sequences(data).lengths(&lengths);
            before.encode(encoder, &mut cache, &buffers).unwrap();
            let buffers = AppendBuffers::new(new_k.slice(..), new_v.slice(..));
            append.encode(encoder, &mut cache, &buffers).unwrap();
            let mask = AuxBuffers::new().with(AuxTensor::TreeParents, trees.slice(..));
            let buffers =
                cache.attention_buffers(&problem, new_q.slice(..), mask, out.slice(..)).unwrap();
            attention.encode(encoder, &buffers).unwrap();
        });
        fault(&cache).unwrap();
        let found = ATTENTION.read_blocking(&out, q.len()).unwrap();
        let sequence = HEADS * drafts as usize * DIM;
        for b in 0..3 {
            let keys = lengths[b] + drafts as usize;
            let shape =
                Shape::new(1, HEADS, drafts as usize, DIM).num_kv_heads(KV_HEADS).seq_len_kv(keys);
            let problem = Problem::new(shape).mask(Mask::Tree);
            let upto = |values: &[f32]| {
                let sequence = &values[b * KV_HEADS * 64 * DIM..][..KV_HEADS * 64 * DIM];
                cut(sequence, 64, DIM, 0, keys)
            };
            let (k, v) = (upto(&all.k), upto(&all.v));
            let data = AuxData::new().tree_parents(parents[b].iter().copied());
            let own = b * sequence..(b + 1) * sequence;
            let inputs = Inputs::new(&q[own.clone()], &k, &v).aux(&data);
            let truth = reference::attention(&problem, &inputs).unwrap();
            let naive = naive(&problem, &Mask::Tree, &inputs);
            let what = format!("{drafts} drafts behind {}", lengths[b]);
            assert_close(&what, &found[own], &naive.o, &truth.o);
        }
    }
}

/// Two sequences go on from the blocks of one prefix, as if each had a copy.
#[test]
fn shared_blocks_are_as_good_as_copies() {
    const SEQ_LEN: usize = 37;
    let prefix = 32;
    let shape = CacheShape::new(2, KV_HEADS, 48, DIM).paged(16, 6);
    let mut tokens = tokens(&shape, SEQ_LEN, 47);
    // The same prefix in both; then each its own tokens.
    for values in [&mut tokens.k, &mut tokens.v] {
        let (first, second) = values.split_at_mut(KV_HEADS * SEQ_LEN * DIM);
        for (from, to) in first.chunks(SEQ_LEN * DIM).zip(second.chunks_mut(SEQ_LEN * DIM)) {
            to[..prefix * DIM].copy_from_slice(&from[..prefix * DIM]);
        }
    }
    let chunks = [vec![prefix], vec![1; SEQ_LEN - prefix]].concat();
    let (expected, _) = step_by_step(&shape, &Attending::CAUSAL, &tokens, &chunks);

    let mut cache = KvCache::new(ATTENTION.kernels(), &shape).unwrap();
    cache.set_table(ATTENTION.queue(), 0, &[4, 1, 5]).unwrap();
    let part =
        |values: &[f32], from: usize, to: usize| upload_f32(&cut(values, SEQ_LEN, DIM, from, to));
    // The first sequence alone fills the prefix; the second has no tokens then.
    let new = NewTokens::new(prefix).sequences(QuerySequences::LeftPadded);
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
    let (k, v) = (part(&tokens.k, 0, prefix), part(&tokens.v, 0, prefix));
    let (lengths, counts) = ([prefix, 0], upload_i32(&[prefix as i32, 0]));
    submit(|encoder| {
        let data = AuxBuffers::new().with(AuxTensor::QLengths, counts.slice(..));
        let buffers =
            AppendBuffers::new(k.slice(..), v.slice(..)).sequences(data).lengths(&lengths);
        plan.encode(encoder, &mut cache, &buffers).unwrap();
        cache.set_table(ATTENTION.queue(), 1, &[4, 1, 0]).unwrap();
        cache.set_length(encoder, 1, prefix).unwrap();
    });
    let one = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(1)).unwrap();
    let problem = shape.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
    let attention = AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    for token in prefix..SEQ_LEN {
        let [k, v, q] = [&tokens.k, &tokens.v, &tokens.q].map(|x| part(x, token, token + 1));
        let out = upload_f32(&[0.0; 2 * HEADS * DIM]);
        submit(|encoder| {
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
            one.encode(encoder, &mut cache, &buffers).unwrap();
            let (mask, o) = (AuxBuffers::new(), out.slice(..));
            let buffers = cache.attention_buffers(&problem, q.slice(..), mask, o).unwrap();
            attention.encode(encoder, &buffers).unwrap();
        });
        let found = ATTENTION.read_blocking(&out, 2 * HEADS * DIM).unwrap();
        assert_eq!(found, cut(&expected, SEQ_LEN, DIM, token, token + 1), "token {token}");
    }
    fault(&cache).unwrap();
}

#[test]
fn blocks_of_every_size_give_the_same_bits() {
    // More than one of the largest but one, and off them all.
    let seq_len = 275;
    let chunks = [255, 3, 16, 1];
    for (dtype, sizes) in [
        (Dtype::F32, &[1, 2, 7, 16, 24, 256, 300][..]),
        (Dtype::I8, &[1, 6, 16]),
        (Dtype::I4, &[6]),
    ] {
        let contiguous = CacheShape::new(1, KV_HEADS, 280, DIM).dtype(dtype);
        let tokens = tokens(&contiguous, seq_len, 48);
        let (expected, _) = step_by_step(&contiguous, &Attending::CAUSAL, &tokens, &chunks);
        for &block_size in sizes {
            let shape = contiguous.paged(block_size, 1 + 280usize.div_ceil(block_size));
            let (found, _) = step_by_step(&shape, &Attending::CAUSAL, &tokens, &chunks);
            assert_eq!(found, expected, "blocks of {block_size}, {dtype}");
        }
    }
}

#[test]
fn blocks_give_the_bits_of_a_contiguous_cache() {
    let contiguous = CacheShape::new(3, KV_HEADS, STEPS, DIM);
    let tokens = tokens(&contiguous, STEPS, 50);
    let chunks = [vec![20], vec![1; 25]].concat();
    let run = |shape: CacheShape, tokens: &Tokens| {
        step_by_step(&shape, &Attending::CAUSAL, tokens, &chunks)
    };
    let expected = run(contiguous, &tokens).0;
    assert_eq!(run(contiguous.paged(16, 10), &tokens).0, expected);
    assert_eq!(run(contiguous.paged(64, 4), &tokens).0, expected);
    assert_eq!(run(contiguous.layout(Layout::Bshd), &tokens).0, expected);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let rounded = |values: &[f32]| values.iter().map(|&x| dtype.round(x)).collect();
        let (k, v) = (rounded(&tokens.k), rounded(&tokens.v));
        let rounded = Tokens { k, v, q: tokens.q.clone() };
        let own = run(contiguous.dtype(dtype), &tokens).0;
        match decode_kernel(&contiguous) {
            // It reads 16 bits two vectors at a time, and adds their products up in another order.
            ForwardKernel::Decode => {
                let whole = parallel(&Attending::CAUSAL, &rounded, 3);
                assert_close(dtype.name(), &own, &whole.naive, &whole.truth);
            }
            _ => assert_eq!(own, run(contiguous, &rounded).0, "{dtype}"),
        }
    }
    // Quantized: as f32 with the numbers that the stored rows stand for.
    for dtype in QUANTIZED {
        let (o, cache) = run(contiguous.dtype(dtype), &tokens);
        let rows = 3 * KV_HEADS * STEPS;
        let numbers = |slice| stored_rows(slice, rows, DIM, dtype);
        let stored = Tokens { k: numbers(cache.k()), v: numbers(cache.v()), q: tokens.q.clone() };
        for (x, y) in o.iter().zip(run(contiguous, &stored).0) {
            assert!((x - y).abs() <= DEQUANTIZED_ERROR, "{dtype}: {x} instead of {y}");
        }
        assert_eq!(run(contiguous.paged(32, 6).dtype(dtype), &tokens).0, o, "{dtype}");
    }
}

/// The numbers that so many rows stand for.
fn stored_rows(slice: BufferSlice<'_>, rows: usize, dim: usize, dtype: Dtype) -> Vec<f32> {
    let words = words(slice);
    let at = |row| row * row_elements(dtype, dim);
    (0..rows).flat_map(|row| stored_row(&words, at(row), dim, dtype)).collect()
}

#[test]
fn every_kernel_reads_quantized_rows() {
    const KEYS: usize = 27;
    // Rows of whole runs of 16 bytes that fill a kernel's room and that don't, and rows of other lengths; some of them no
    // multiple of four, as rows stand together; and long ones.
    let of_8_bits = [(16, 64), (80, 48), (20, 13), (576, 512)].map(|dims| (dims, Dtype::I8));
    let of_4_bits = [(64, 128), (96, 32), (70, 13), (300, 257)].map(|dims| (dims, Dtype::I4));
    for ((dim, dim_v), dtype) in of_8_bits.into_iter().chain(of_4_bits) {
        let shape = CacheShape::new(1, KV_HEADS, KEYS, dim).head_dim_v(dim_v).dtype(dtype);
        let (mut cache, _) = cache(&shape);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(KEYS)).unwrap();
        let small = |seed, len| random(seed, len).iter().map(|x| x / 4.0).collect::<Vec<_>>();
        let [k, v] = [dim, dim_v].map(|dim| upload_f32(&small(dim as u64, KV_HEADS * KEYS * dim)));
        submit(|encoder| {
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
            plan.encode(encoder, &mut cache, &buffers).unwrap();
        });
        let numbers = |slice, dim| stored_rows(slice, KV_HEADS * KEYS, dim, dtype);
        let (q, k, v) = (small(3, HEADS * dim), numbers(cache.k(), dim), numbers(cache.v(), dim_v));
        let stored =
            Shape::new(1, HEADS, 1, dim).num_kv_heads(KV_HEADS).seq_len_kv(KEYS).head_dim_v(dim_v);
        let truth = reference::attention(&Problem::new(stored), &Inputs::new(&q, &k, &v)).unwrap();

        let problem = shape.problem(HEADS, 1, QuerySequences::Uniform);
        let (q, out) = (upload_f32(&q), upload_f32(&vec![0.0; HEADS * dim_v]));
        let mut served = Vec::new();
        for kernel in ForwardKernel::ALL {
            let plan = match AttentionPlan::new(
                ATTENTION.kernels(),
                &problem,
                &PlanOptions::default().kernel(kernel),
            ) {
                Ok(plan) => plan,
                Err(Error::KernelRefused { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            submit(|encoder| {
                let (mask, o) = (AuxBuffers::new(), out.slice(..));
                let buffers = cache.attention_buffers(&problem, q.slice(..), mask, o).unwrap();
                plan.encode(encoder, &buffers).unwrap();
            });
            let found = ATTENTION.read_blocking(&out, HEADS * dim_v).unwrap();
            for (at, (x, y)) in found.iter().zip(&truth.o).enumerate() {
                let error = (f64::from(*x) - y).abs();
                assert!(
                    error <= f64::from(DEQUANTIZED_ERROR),
                    "{kernel}, {dim}, {dtype}: o[{at}] is {x}, not {y}"
                );
            }
            served.push(kernel);
        }
        assert!(served.contains(&ForwardKernel::Decode), "{served:?}");
    }
}

#[test]
fn sequences_take_different_numbers_of_tokens() {
    // Sequences join, pause and go on; packed and left-padded steps by turns.
    let steps: &[[usize; 3]] = &[[5, 0, 17], [1, 9, 1], [0, 0, 1], [3, 1, 0], [12, 12, 12]];
    let shape = CacheShape::new(3, KV_HEADS, 48, DIM).paged(16, 9);
    let (mut cache, _) = cache(&shape);
    let tokens = tokens(&shape, STEPS, 60);
    let whole = parallel(&Attending::CAUSAL, &tokens, 3);
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
        let data = AuxBuffers::new()
            .with(AuxTensor::QStarts, starts.slice(..))
            .with(AuxTensor::QLengths, counts.slice(..));
        let new = NewTokens::new(most).sequences(sequences);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let problem = shape.problem(HEADS, most, sequences).mask(Mask::causal());
        let attention =
            AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
        let out = upload_f32(&vec![0.0; rows.len() * rows[0].len() * HEADS * DIM]);
        submit(|encoder| {
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..))
                .sequences(data.clone())
                .lengths(&added);
            plan.encode(encoder, &mut cache, &buffers).unwrap();
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                aux: cache.aux_buffers(data.clone()),
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
