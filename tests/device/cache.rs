//! Caches: what is appended, in every form and type, and attention over them, step by step, against one parallel pass.

use half::{bf16, f16};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu::util::DeviceExt as _;
use wgpu::{BufferSlice, BufferUsages};
use wgpu_attention::{
    AppendBuffers, AppendPlan, Attention, AttentionBuffers, AttentionPlan, CacheForm, CacheShape,
    DeviceChoice, Dtype, Error, Inputs, KvCache, Layout, Mask, MaskBuffers, MaskData, MaskInput,
    NewTokens, Pairing, Problem, QuerySequences, Rotary, Score, Shape, reference,
};

use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, ScoreData};
use crate::tolerance::{DEQUANTIZED_ERROR, I8_ERROR, ROTARY_ERROR, assert_close, naive_modified};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// A buffer with everything that any use asks for.
fn upload(contents: &[u8]) -> wgpu::Buffer {
    let contents = if contents.is_empty() { &[0; 4] } else { contents };
    ATTENTION.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
    })
}

fn upload_f32(values: &[f32]) -> wgpu::Buffer {
    upload(bytemuck::cast_slice(values))
}

fn upload_i32(values: &[i32]) -> wgpu::Buffer {
    upload(bytemuck::cast_slice(values))
}

fn words(slice: BufferSlice<'_>) -> Vec<u32> {
    let elements = slice.buffer().size() as usize / 4;
    let values = ATTENTION.read_blocking(slice.buffer(), elements).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn submit(record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    ATTENTION.queue().submit([encoder.finish()]);
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-8.0..8.0)).collect()
}

/// What the cache says of all that was appended.
fn fault(cache: &KvCache) -> Result<(), Error> {
    let word = upload(&[0; 4]);
    submit(|encoder| cache.encode_check(encoder, word.slice(..)).unwrap());
    cache.check(words(word.slice(..))[0])
}

/// An empty cache; of a paged one, every sequence has as many blocks as it may need, in no order.
fn cache(shape: &CacheShape) -> (KvCache, Vec<Vec<u32>>) {
    let mut cache = KvCache::new(ATTENTION.kernels(), shape).unwrap();
    let mut tables = Vec::new();
    if let CacheForm::Paged { blocks, .. } = shape.form {
        let per_sequence = shape.blocks_per_sequence();
        for b in 0..shape.batch {
            let table: Vec<u32> =
                (0..per_sequence).map(|i| ((b * per_sequence + i) * 7 % blocks) as u32).collect();
            cache.set_table(ATTENTION.queue(), b, &table).unwrap();
            tables.push(table);
        }
    }
    (cache, tables)
}

/// Tokens as a caller has them: `[batch, heads, seq_len, dim]` f32, per sequence.
struct Tokens {
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

fn tokens(shape: &CacheShape, seq_len: usize, seed: u64) -> Tokens {
    let rows = shape.batch * seq_len;
    Tokens {
        k: random(seed, rows * KV_HEADS * shape.head_dim),
        v: random(seed + 1, rows * KV_HEADS * shape.head_dim_v),
        q: random(seed + 2, rows * HEADS * shape.head_dim),
    }
}

/// The tokens `from..to` of `[batch, heads, seq_len, dim]`.
fn cut(values: &[f32], seq_len: usize, dim: usize, from: usize, to: usize) -> Vec<f32> {
    values.chunks(seq_len * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
}

/// A stored row, as f32.
fn stored_row(words: &[u32], at: usize, dim: usize, dtype: Dtype) -> Vec<f32> {
    let half = |i: usize| (words[(at + i) / 2] >> ((at + i) % 2 * 16)) as u16;
    match dtype {
        Dtype::F32 => words[at..at + dim].iter().map(|&word| f32::from_bits(word)).collect(),
        Dtype::F16 => (0..dim).map(|i| f16::from_bits(half(i)).to_f32()).collect(),
        Dtype::Bf16 => (0..dim).map(|i| bf16::from_bits(half(i)).to_f32()).collect(),
        Dtype::I8 => {
            let scale = f32::from_bits(words[at / 4]);
            let byte = |i: usize| (words[at / 4 + 1 + i / 4] >> (i % 4 * 8)) as u8 as i8;
            (0..dim).map(|i| f32::from(byte(i)) / 127.0 * scale).collect()
        }
    }
}

/// Where the row of a token lies, in elements of k's type.
fn row_at(shape: &CacheShape, tables: &[Vec<u32>], b: usize, h: usize, position: usize) -> usize {
    let dim = match shape.dtype {
        Dtype::I8 => 4 + shape.head_dim.next_multiple_of(4),
        _ => shape.head_dim,
    };
    let (batch, row, rows) = match shape.form {
        CacheForm::Paged { block_size, .. } => {
            (tables[b][position / block_size] as usize, position % block_size, block_size)
        }
        _ => (b, position % shape.capacity, shape.capacity),
    };
    match shape.layout {
        Layout::Bhsd => ((batch * KV_HEADS + h) * rows + row) * dim,
        Layout::Bshd => ((batch * rows + row) * KV_HEADS + h) * dim,
    }
}

#[test]
fn appended_rows_lie_where_they_are_looked_for() {
    let shape = |dim| CacheShape::new(2, KV_HEADS, 40, dim).dim_v(dim + 3);
    let cases = [
        shape(20),
        shape(13).dtype(Dtype::F16),
        shape(12).dim_v(16).layout(Layout::Bshd).dtype(Dtype::Bf16),
        shape(18).paged(16, 11).dtype(Dtype::I8),
        shape(16).dim_v(16).paged(32, 9).layout(Layout::Bshd),
        shape(20).ring().dtype(Dtype::I8),
        shape(64).dim_v(64).ring().dtype(Dtype::F16),
    ];
    for shape in &cases {
        let (mut cache, tables) = cache(shape);
        let mut length = 0;
        // A ring goes round, the others nearly fill.
        let sizes: &[usize] = match shape.form {
            CacheForm::Ring => &[33, 1, 1, 30],
            _ => &[1, 17, 1, 20],
        };
        let mut rows = Vec::new();
        for (seed, &seq_len) in (0..).zip(sizes) {
            let tokens = tokens(shape, seq_len, seed * 3);
            let plan =
                AppendPlan::new(ATTENTION.kernels(), shape, &NewTokens::new(seq_len)).unwrap();
            let (k, v) = (upload_f32(&tokens.k), upload_f32(&tokens.v));
            let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
            submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
            for token in 0..seq_len {
                let row = cut(&tokens.k, seq_len, shape.head_dim, token, token + 1);
                rows.push(row);
            }
            length += seq_len;
        }
        fault(&cache).unwrap();
        assert_eq!(words(cache.lengths())[..2], [length as u32; 2]);
        assert_eq!(cache.length_bounds(), [length; 2]);
        let stored = words(cache.k());
        let kept = length - length.min(shape.capacity)..length;
        for (b, h) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for position in kept.clone() {
                let expected =
                    &rows[position][(b * KV_HEADS + h) * shape.head_dim..][..shape.head_dim];
                let at = row_at(shape, &tables, b, h, position);
                let found = stored_row(&stored, at, shape.head_dim, shape.dtype);
                let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (d, (&x, &y)) in found.iter().zip(expected).enumerate() {
                    let allowed = if shape.dtype == Dtype::I8 { largest * I8_ERROR } else { 0.0 };
                    let error = (x - shape.dtype.round(y)).abs();
                    assert!(error <= allowed, "{shape:?} ({b}, {h}, {position}, {d}): {x} for {y}");
                }
            }
        }
    }
}

#[test]
fn rows_of_8_bits_keep_zeros_and_tell_of_nan() {
    let shape = CacheShape::new(1, KV_HEADS, 3, 5).dtype(Dtype::I8);
    let (mut cache, _) = cache(&shape);
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(3)).unwrap();
    let mut k = vec![0.0; 2 * 3 * 5];
    k[7] = f32::NAN;
    k[12] = f32::NEG_INFINITY;
    k[15..20].copy_from_slice(&[1e-42, -1e-42, 0.0, 0.0, 0.0]);
    k[20..25].copy_from_slice(&[-127.0, 1.4, 0.6, 126.4, 3.0]);
    let v = upload_f32(&[0.0; 30]);
    let k = upload_f32(&k);
    let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
    submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
    let stored = words(cache.k());
    let row = |i: usize| stored_row(&stored, i * 12, 5, Dtype::I8);
    assert_eq!(row(0), [0.0; 5]);
    assert!(row(1).iter().chain(&row(2)).all(|x| x.is_nan()));
    assert_eq!(row(3), [0.0; 5]);
    assert_eq!(row(4), [-127.0, 1.0, 1.0, 126.0, 3.0]);
}

#[test]
fn rotary_turns_by_positions_as_f64_does() {
    for (dim, turned, pairing, start) in [
        (20, 20, Pairing::Half, 0),
        (20, 12, Pairing::Interleaved, 5),
        (22, 14, Pairing::Half, 131_071),
        (16, 16, Pairing::Interleaved, 100_000_007),
    ] {
        // A ring has every position in a little memory.
        let shape = CacheShape::new(2, KV_HEADS, 8, dim).ring();
        let (mut cache, _) = cache(&shape);
        let lengths = [start as i32, start as i32 + 3];
        ATTENTION.queue().write_buffer(cache.lengths().buffer(), 0, bytemuck::cast_slice(&lengths));
        cache.assume_length(1, start + 3).unwrap();
        cache.assume_length(0, start).unwrap();
        let rotary = Rotary::new(turned, 10_000.0, pairing);
        let new = NewTokens::new(5).rotary(rotary.clone(), HEADS);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let tokens = tokens(&shape, 5, dim as u64);
        let [k, v, q] = [&tokens.k, &tokens.v, &tokens.q].map(|values| upload_f32(values));
        let rotated = upload_f32(&vec![0.0; tokens.q.len()]);
        let buffers =
            AppendBuffers::new(k.slice(..), v.slice(..)).queries(q.slice(..), rotated.slice(..));
        submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
        let check = |what: &str, found: &[f32], row: &[f32], position: usize| {
            let expected = rotary.turn(row, position);
            for (d, (&x, &y)) in found.iter().zip(&expected).enumerate() {
                let error = (f64::from(x) - y).abs();
                assert!(
                    error <= ROTARY_ERROR,
                    "{what} at {position}, {pairing:?}, {d}: {x} instead of {y}"
                );
            }
        };
        let stored = words(cache.k());
        let rotated = ATTENTION.read_blocking(&rotated, tokens.q.len()).unwrap();
        for (b, first) in lengths.map(|length| length as usize).into_iter().enumerate() {
            for (h, token) in (0..HEADS).flat_map(|h| (0..5).map(move |token| (h, token))) {
                let at = ((b * HEADS + h) * 5 + token) * dim;
                check("q", &rotated[at..at + dim], &tokens.q[at..at + dim], first + token);
                if h < KV_HEADS {
                    let row = &tokens.k[((b * KV_HEADS + h) * 5 + token) * dim..][..dim];
                    let at = row_at(&shape, &[], b, h, first + token);
                    check("k", &stored_row(&stored, at, dim, Dtype::F32), row, first + token);
                }
            }
        }
    }
}

const DIM: usize = 16;
const STEPS: usize = 45;

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

/// Everything that a cache holds on the device.
fn contents(cache: &KvCache) -> [Vec<u32>; 3] {
    [words(cache.k()), words(cache.v()), words(cache.lengths())]
}

#[test]
fn what_has_no_room_is_refused_before_anything_is_written() {
    let shape = CacheShape::new(2, KV_HEADS, 20, DIM);
    let (mut cache, _) = cache(&shape);
    let tokens = tokens(&shape, 9, 70);
    let (k, v) = (upload_f32(&tokens.k), upload_f32(&tokens.v));
    let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(9)).unwrap();
    submit(|encoder| {
        plan.encode(encoder, &mut cache, &buffers).unwrap();
        plan.encode(encoder, &mut cache, &buffers).unwrap();
    });
    let before = contents(&cache);
    let refused =
        |cache: &mut KvCache, plan: &AppendPlan, buffers: &AppendBuffers<'_>, parts: &[&str]| {
            let bounds = cache.length_bounds().to_vec();
            submit(|encoder| {
                assert_says(&plan.encode(encoder, cache, buffers).unwrap_err(), parts);
            });
            assert_eq!(contents(cache), before, "{parts:?}");
            assert_eq!(cache.length_bounds(), bounds);
        };
    refused(&mut cache, &plan, &buffers, &["sequence 0", "at most 20 tokens", "18 + 9"]);

    let packed = NewTokens::new(9).sequences(QuerySequences::Packed { total: 4 });
    let packed = AppendPlan::new(ATTENTION.kernels(), &shape, &packed).unwrap();
    let starts = upload_i32(&[0, 1, 4]);
    let data = MaskBuffers::new().with(MaskInput::QStarts, starts.slice(..));
    let with = |lengths| buffers.clone().sequences(data.clone(), Some(lengths));
    refused(&mut cache, &packed, &with(&[1, 3]), &["sequence 1", "18 + 3"]);
    refused(&mut cache, &packed, &with(&[1]), &["lengths", "2 elements", "1 elements"]);
    refused(&mut cache, &packed, &with(&[10, 0]), &["lengths[0]", "seq_len = 9", "10"]);
    refused(&mut cache, &packed, &with(&[2, 3]), &["lengths", "4 packed tokens", "5"]);
    refused(&mut cache, &packed, &buffers, &["q_starts", "a buffer", "none"]);
    let small = upload_f32(&[0.0; 8]);
    let few = AppendBuffers { k: small.slice(..), ..buffers.clone() };
    let one = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(1)).unwrap();
    refused(&mut cache, &one, &few, &["k:", "256 bytes", "32 bytes"]);

    // A plan for caches of another shape or type.
    for other in [shape.dtype(Dtype::F16), shape.ring(), CacheShape { capacity: 21, ..shape }] {
        let plan = AppendPlan::new(ATTENTION.kernels(), &other, &NewTokens::new(1)).unwrap();
        refused(&mut cache, &plan, &buffers, &["cache:", "the plan's shape"]);
    }
    let attends = |other: CacheShape| {
        let problem = other.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
        let (q, o) = (k.slice(..), v.slice(..));
        cache.attention_buffers(&problem, q, MaskBuffers::new(), o).map(|_| ())
    };
    attends(shape).unwrap();
    for other in [
        shape.dtype(Dtype::F16),
        shape.layout(Layout::Bshd),
        shape.ring(),
        shape.paged(16, 4),
        CacheShape { capacity: 19, ..shape },
        CacheShape { batch: 1, ..shape },
    ] {
        assert_says(&attends(other).unwrap_err(), &["cache:", "as the plan has them"]);
    }

    // What is left of the room is still there.
    submit(|encoder| {
        plan.encode(encoder, &mut cache, &buffers).unwrap_err();
        one.encode(encoder, &mut cache, &buffers).unwrap();
        one.encode(encoder, &mut cache, &buffers).unwrap();
    });
    assert_eq!(words(cache.lengths()), [20, 20, 0]);
}

#[test]
fn what_the_host_is_not_told_is_caught_on_the_device() {
    let shape = CacheShape::new(2, KV_HEADS, 20, DIM);
    let new = NewTokens::new(9).sequences(QuerySequences::LeftPadded);
    let tokens = tokens(&shape, 9, 80);
    let (k, v) = (upload_f32(&tokens.k), upload_f32(&tokens.v));
    let append = |cache: &mut KvCache, lengths: &[i32]| {
        let plan = AppendPlan::new(ATTENTION.kernels(), cache.shape(), &new).unwrap();
        let lengths = upload_i32(lengths);
        let data = MaskBuffers::new().with(MaskInput::QLengths, lengths.slice(..));
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..)).sequences(data, None);
        submit(|encoder| plan.encode(encoder, cache, &buffers).unwrap());
    };
    let (mut full, _) = cache(&shape);
    append(&mut full, &[9, 2]);
    append(&mut full, &[9, 0]);
    fault(&full).unwrap();
    let before = words(full.k());
    append(&mut full, &[4, 1]);
    assert_eq!(words(full.lengths())[..2], [20, 3]);
    assert_says(&fault(&full).unwrap_err(), &["sequence 0", "at most 20", "left out"]);
    // Nothing but rows 18 and 19 of the first and 2 of the second sequence has changed.
    let changed: Vec<usize> = (before.iter().zip(words(full.k())).enumerate())
        .filter(|(_, (before, after))| *before != after)
        .map(|(at, _)| at / DIM)
        .collect();
    assert!(changed.iter().all(|row| [18, 19, 38, 39, 42, 62].contains(row)), "{changed:?}");
    submit(|encoder| full.forget_check(encoder));
    fault(&full).unwrap();
    append(&mut full, &[10, 0]);
    assert_says(&fault(&full).unwrap_err(), &["sequence 0", "agree"]);

    // A sequence without blocks, one whose table was written on the device and leads outside.
    let (mut paged, _) = cache(&shape.paged(16, 4));
    paged.set_table(ATTENTION.queue(), 0, &[]).unwrap();
    let before = contents(&paged);
    append(&mut paged, &[3, 0]);
    assert_says(&fault(&paged).unwrap_err(), &["sequence 0", "block in the pool", "not written"]);
    assert_eq!(words(paged.k()), before[0]);
}

#[test]
fn tables_and_lengths_from_the_host_are_checked() {
    let shape = CacheShape::new(2, KV_HEADS, 40, DIM).paged(16, 4);
    let mut cache = KvCache::new(ATTENTION.kernels(), &shape).unwrap();
    let queue = ATTENTION.queue();
    assert_says(&cache.set_table(queue, 2, &[0]).unwrap_err(), &["sequence", "2"]);
    assert_says(
        &cache.set_table(queue, 0, &[1, 4]).unwrap_err(),
        &["block_tables[0, 1]", "blocks - 1 = 3", "4"],
    );
    assert_says(
        &cache.set_table(queue, 0, &[0; 4]).unwrap_err(),
        &["block_tables[0]", "at most 3", "4"],
    );
    cache.set_table(queue, 0, &[3]).unwrap();
    let tokens = tokens(&shape, 17, 90);
    let (k, v) = (upload_f32(&tokens.k), upload_f32(&tokens.v));
    let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(17)).unwrap();
    submit(|encoder| {
        let error = plan.encode(encoder, &mut cache, &buffers).unwrap_err();
        assert_says(&error, &["block_tables[0]", "blocks of 16 for 0 + 17", "1"]);
    });
    // Two sequences share the block of a prefix.
    cache.set_table(queue, 0, &[3, 0]).unwrap();
    cache.set_table(queue, 1, &[3, 1]).unwrap();
    submit(|encoder| {
        plan.encode(encoder, &mut cache, &buffers).unwrap();
        assert_says(
            &cache.set_length(encoder, 0, 33).unwrap_err(),
            &["sequence 0", "0 to 32", "33"],
        );
        cache.set_length(encoder, 0, 4).unwrap();
        // The shared block alone, as it was filled.
        cache.set_length(encoder, 1, 16).unwrap();
    });
    assert_eq!(words(cache.lengths()), [4, 16, 0]);
    assert_eq!(cache.length_bounds(), [4, 16]);
    assert_says(&cache.assume_length(0, 41).unwrap_err(), &["0 to 40", "41"]);
    let mut ring = KvCache::new(ATTENTION.kernels(), &CacheShape::new(1, 1, 8, 4).ring()).unwrap();
    submit(|encoder| assert!(ring.set_length(encoder, 0, 1).is_err()));
    assert!(ring.set_table(queue, 0, &[0]).is_err());
}

#[test]
fn shapes_and_tokens_are_validated() {
    let shape = CacheShape::new(1, 2, 8, 16);
    let says = |shape: CacheShape, parts: &[&str]| {
        assert_says(&KvCache::new(ATTENTION.kernels(), &shape).unwrap_err(), parts);
    };
    says(CacheShape { capacity: 0, ..shape }, &["capacity", "at least 1"]);
    says(CacheShape { head_dim: 257, ..shape }, &["head_dim", "1 to 256"]);
    says(shape.paged(24, 3), &["block_size", "24"]);
    says(CacheShape { capacity: 1 << 28, ..shape }, &["the cache's k", "max_buffer_size"]);
    let says = |shape: CacheShape, tokens: NewTokens, parts: &[&str]| {
        assert_says(&AppendPlan::new(ATTENTION.kernels(), &shape, &tokens).unwrap_err(), parts);
    };
    says(shape.ring(), NewTokens::new(9), &["seq_len", "ring's capacity, 8", "9"]);
    says(shape, NewTokens::new(1).dtype(Dtype::I8), &["tokens' type", "i8"]);
    let rotary = |dim| Rotary::new(dim, 1e4, Pairing::Half);
    says(shape, NewTokens::new(1).rotary(rotary(18), 4), &["rotary", "1 to 8 pairs", "9"]);
    says(shape, NewTokens::new(1).rotary(rotary(0), 4), &["rotary", "0"]);
    says(shape, NewTokens::new(1).rotary(rotary(4), 3), &["num_heads", "multiple of", "3"]);
    says(
        shape,
        NewTokens { query_heads: Some(4), ..NewTokens::new(1) },
        &["query_heads", "rotary"],
    );
    let nan = Rotary::with_frequencies([f64::NAN], Pairing::Half);
    says(shape, NewTokens::new(1).rotary(nan, 4), &["frequency of pair 0", "NaN"]);
    // One-shot calls and outputs have no rows of 8 bits.
    let problem = Problem::new(Shape::new(1, 1, 1, 4)).dtypes(Dtype::I8);
    assert_says(&problem.validate().unwrap_err(), &["q", "i8"]);
}

/// After its first step, a loop of 256 compiles nothing, makes no bind group and allocates nothing on the device. Nothing is
/// submitted before all of it is recorded, so that whatever a step made would still be there to be counted; what the host
/// writes to a buffer goes through memory of the device and would be counted, too.
#[test]
fn a_long_loop_makes_nothing_anew() {
    let shape = CacheShape::new(2, KV_HEADS, 256, DIM);
    let tokens = tokens(&shape, 1, 100);
    let rotary = Rotary::new(DIM, 1e4, Pairing::Half);
    let new = NewTokens::new(1).rotary(rotary, HEADS);
    // A device of its own, so that other tests don't count.
    let own = Attention::open_blocking(&DeviceChoice::Best).unwrap();
    let (device, kernels) = (own.device(), own.kernels());
    let mut cache = KvCache::new(kernels, &shape).unwrap();
    let append = AppendPlan::new(kernels, &shape, &new).unwrap();
    let problem = shape.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
    let attention = AttentionPlan::new(kernels, &problem).unwrap();
    let [q, k, v, rotated, o] =
        [&tokens.q, &tokens.k, &tokens.v, &tokens.q, &tokens.q].map(|values| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(values),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
            })
        });
    let mut step = || {
        let mut encoder = device.create_command_encoder(&Default::default());
        let buffers =
            AppendBuffers::new(k.slice(..), v.slice(..)).queries(q.slice(..), rotated.slice(..));
        append.encode(&mut encoder, &mut cache, &buffers)?;
        let buffers = AttentionBuffers {
            q: rotated.slice(..),
            k: cache.k(),
            v: cache.v(),
            mask: cache.mask_buffers(MaskBuffers::new()),
            o: o.slice(..),
            lse: None,
        };
        attention.encode(&mut encoder, &buffers)?;
        Ok::<_, Error>(encoder.finish())
    };
    let counts = || {
        let memory = device.generate_allocator_report();
        let memory = memory.map(|report| (report.allocations.len(), report.total_allocated_bytes));
        (kernels.compiled(), kernels.bind_groups(), memory)
    };
    own.queue().submit([step().unwrap()]);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let first = counts();
    assert_eq!(first.1, 2);
    assert!(first.2.is_none_or(|(allocations, _)| allocations > 8), "buffers count: {first:?}");
    let commands: Vec<_> = (1..256).map(|_| step().unwrap()).collect();
    assert_eq!(counts(), first, "recorded");
    own.queue().submit(commands);
    assert_eq!(counts(), first, "submitted");
    assert!(step().is_err(), "it is full");
    let lengths = own.read_blocking(cache.lengths().buffer(), 3).unwrap();
    let lengths: Vec<u32> = lengths.into_iter().map(f32::to_bits).collect();
    assert_eq!(lengths, [256, 256, 0]);
}
