//! What is appended: where it lies, what 8 bits keep of it, and rotary embeddings.

use wgpu_attention::cache::{
    AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens, Pairing, Rotary,
};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{AuxBuffers, AuxTensor, Dtype, Layout};

use super::{
    HEADS, KV_HEADS, cache, cut, fault, row_at, stored_errors, stored_row, submit, tokens,
    upload_f32, words,
};
use crate::fixture::ATTENTION;
use crate::tolerance::{HADAMARD_ERROR, ROTARY_ERROR};

#[test]
fn appended_rows_lie_where_they_are_looked_for() {
    let shape = |dim| CacheShape::new(2, KV_HEADS, 40, dim).head_dim_v(dim + 3);
    let cases = [
        shape(20),
        shape(13).dtype(Dtype::F16),
        shape(12).head_dim_v(16).layout(Layout::Bshd).dtype(Dtype::Bf16),
        shape(18).paged(16, 11).dtype(Dtype::I8),
        shape(16).head_dim_v(16).paged(32, 9).layout(Layout::Bshd),
        shape(20).ring().dtype(Dtype::I8),
        shape(70).ring().dtype(Dtype::I4),
        shape(16).head_dim_v(32).paged(16, 11).dtype(Dtype::I4),
        shape(64).head_dim_v(64).ring().dtype(Dtype::F16),
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
        let (mut components, mut between) = (0, 0);
        let kept = length - length.min(shape.capacity)..length;
        for (b, h) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for position in kept.clone() {
                let expected =
                    &rows[position][(b * KV_HEADS + h) * shape.head_dim..][..shape.head_dim];
                let at = row_at(shape, shape.head_dim, &tables, b, h, position);
                let found = stored_row(&stored, at, shape.head_dim, shape.dtype);
                let allowed = stored_errors(expected, shape.dtype);
                let rounded = shape.dtype.round_rows(expected, shape.head_dim);
                components += rounded.len();
                let is_other = |(x, y): &(&f32, &f32)| (*x - *y).abs() > 1e-6;
                between += found.iter().zip(&rounded).filter(is_other).count();
                for (d, (&x, &y)) in found.iter().zip(expected).enumerate() {
                    let error = (x - shape.dtype.round(y)).abs();
                    assert!(
                        error <= allowed[d],
                        "{shape:?} ({b}, {h}, {position}, {d}): {x} for {y}"
                    );
                }
            }
        }
        // A rounding of the device's may decide between two steps, or of 4 bits between two scales.
        let allowed = if shape.dtype == Dtype::I4 { components / 50 } else { components / 500 };
        assert!(between <= allowed, "{shape:?}: {between} of {components} components");
    }
}

/// A step for which no sequence has a token, and no buffer room for one.
#[test]
fn no_tokens_at_all() {
    let shape = CacheShape::new(1, KV_HEADS, 8, 8);
    let (mut cache, _) = cache(&shape);
    let new = NewTokens::new(3)
        .sequences(QuerySequences::Packed { total: 0 })
        .rotary(Rotary::new(8, 1e4, Pairing::Half))
        .query_heads(HEADS);
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
    let [tokens, q, rotated, starts] = [(); 4].map(|()| upload_f32(&[0.0; 2]));
    let data = AuxBuffers::new().with(AuxTensor::QStarts, starts.slice(..));
    let buffers = AppendBuffers::new(tokens.slice(..), tokens.slice(..))
        .q(q.slice(..))
        .rotated_q(rotated.slice(..))
        .sequences(data)
        .lengths(&[0]);
    submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
    fault(&cache).unwrap();
    assert_eq!(words(cache.lengths())[0], 0);
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
fn groups_of_4_bits_keep_zeros_and_tell_of_nan() {
    // The groups of a row go by scales of their own: what a NaN is beside is as good as ever.
    let shape = CacheShape::new(1, 1, 5, 100).dtype(Dtype::I4);
    let (mut cache, _) = cache(&shape);
    let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(5)).unwrap();
    let mut k = vec![0.0; 5 * 100];
    k[99] = f32::NAN;
    k[100..132].copy_from_slice(&[1e-42; 32]);
    k[132] = 3e38;
    k[164..196].copy_from_slice(&std::array::from_fn::<f32, 32, _>(|i| (i % 16) as f32 - 5.0));
    k[196..200].copy_from_slice(&[-1.5, 0.75, 0.0, -0.0]);
    k[200..300].copy_from_slice(&[0.7; 100]);
    k[300..400].copy_from_slice(&[-7e34; 100]);
    k[400] = f32::NEG_INFINITY;
    let (k, v) = (upload_f32(&k), upload_f32(&[0.0; 500]));
    let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
    submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
    let stored = words(cache.k());
    let row = |i: usize| stored_row(&stored, i * 4 * (2 + 13), 100, Dtype::I4);
    assert!(row(0)[..96].iter().all(|x| *x == 0.0) && row(0)[96..].iter().all(|x| x.is_nan()));
    assert!(row(1)[..32].iter().all(|x| *x == 0.0) && row(1)[32..64].iter().all(|x| x.is_nan()));
    let exact: Vec<f32> = (0..32).map(|i| (i % 16) as f32 - 5.0).collect();
    assert_eq!(row(1)[64..96], exact);
    assert_eq!(row(1)[98..], [0.0; 2]);
    // All alike: a scale with four bits of mantissa times one of 13 to 15.
    assert!(row(2).iter().all(|x| (x / 0.7 - 1.0).abs() < 0.02), "{:?}", row(2));
    assert!(row(3).iter().all(|x| (x / -7e34 - 1.0).abs() < 0.02), "{:?}", row(3));
    assert!(row(4)[..32].iter().all(|x| x.is_nan()) && row(4)[32..].iter().all(|x| *x == 0.0));
}

/// `row` times the Hadamard matrix of 32 rows, 32 components at a time, in f64.
fn hadamard(row: &[f64]) -> Vec<f64> {
    let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
    let of =
        |block: &[f64], i| -> f64 { block.iter().enumerate().map(|(j, x)| sign(i, j) * x).sum() };
    row.chunks(32)
        .flat_map(|block| (0..32).map(|i| of(block, i) / 32f64.sqrt()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_hadamard_matrix_behind_the_rotary_embedding() {
    let shape = CacheShape::new(1, KV_HEADS, 8, 64).layout(Layout::Bshd);
    let rotary = Rotary::new(64, 10_000.0, Pairing::Half);
    for (shape, rotary) in [
        (shape, Some(&rotary)),
        (shape.dtype(Dtype::F16), None),
        (shape.dtype(Dtype::I8), Some(&rotary)),
        (shape.dtype(Dtype::I4), None),
    ] {
        let (mut cache, _) = cache(&shape);
        let mut new = NewTokens::new(8).hadamard(true).query_heads(HEADS);
        new.rotary = rotary.cloned();
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let tokens = tokens(&shape, 8, 70);
        let [k, v, q] = [&tokens.k, &tokens.v, &tokens.q].map(|values| upload_f32(values));
        let rotated = upload_f32(&vec![0.0; tokens.q.len()]);
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..))
            .q(q.slice(..))
            .rotated_q(rotated.slice(..));
        submit(|encoder| plan.encode(encoder, &mut cache, &buffers).unwrap());
        let expected = |row: &[f32], position: usize| -> Vec<f32> {
            let turned = match rotary {
                Some(rotary) => rotary.turn(row, position),
                None => row.iter().map(|&x| f64::from(x)).collect(),
            };
            hadamard(&turned).into_iter().map(|x| x as f32).collect()
        };
        let stored = words(cache.k());
        let rotated = ATTENTION.read_blocking(&rotated, tokens.q.len()).unwrap();
        for (h, token) in (0..HEADS).flat_map(|h| (0..8).map(move |token| (h, token))) {
            let at = (h * 8 + token) * 64;
            let row = expected(&tokens.q[at..at + 64], token);
            for (x, y) in rotated[at..at + 64].iter().zip(&row) {
                assert!((x - y).abs() <= HADAMARD_ERROR, "q: {x} instead of {y}");
            }
            if h < KV_HEADS {
                let row = expected(&tokens.k[at..at + 64], token);
                let stored =
                    stored_row(&stored, row_at(&shape, 64, &[], 0, h, token), 64, shape.dtype);
                let allowed = stored_errors(&row, shape.dtype);
                let allowed = allowed.iter().map(|error| error + HADAMARD_ERROR);
                for ((x, y), allowed) in stored.iter().zip(&row).zip(allowed) {
                    let half = if shape.dtype == Dtype::F16 { y.abs() / 1024.0 } else { 0.0 };
                    assert!(
                        (x - y).abs() <= allowed + half,
                        "k, {}: {x} instead of {y}",
                        shape.dtype
                    );
                }
            }
        }
    }
}

#[test]
fn rotary_turns_by_positions_as_f64_does() {
    for (dim, turned, first_turned, pairing, start) in [
        (20, 20, 0, Pairing::Half, 0),
        (20, 12, 0, Pairing::Interleaved, 5),
        (22, 14, 3, Pairing::Half, 131_071),
        (16, 16, 0, Pairing::Interleaved, 100_000_007),
        (576, 64, 512, Pairing::Interleaved, 7),
        (576, 576, 0, Pairing::Half, 7),
    ] {
        // A ring has every position in a little memory.
        let shape = CacheShape::new(2, KV_HEADS, 8, dim).ring();
        let (mut cache, _) = cache(&shape);
        let lengths = [start as i32, start as i32 + 3];
        ATTENTION.queue().write_buffer(cache.lengths().buffer(), 0, bytemuck::cast_slice(&lengths));
        cache.assume_length(1, start + 3).unwrap();
        cache.assume_length(0, start).unwrap();
        let rotary = Rotary::new(turned, 10_000.0, pairing).starting_at(first_turned);
        let new = NewTokens::new(5).rotary(rotary.clone()).query_heads(HEADS);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let tokens = tokens(&shape, 5, dim as u64);
        let [k, v, q] = [&tokens.k, &tokens.v, &tokens.q].map(|values| upload_f32(values));
        let rotated = upload_f32(&vec![0.0; tokens.q.len()]);
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..))
            .q(q.slice(..))
            .rotated_q(rotated.slice(..));
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
                    let at = row_at(&shape, dim, &[], b, h, first + token);
                    check("k", &stored_row(&stored, at, dim, Dtype::F32), row, first + token);
                }
            }
        }
    }
}
