//! What can't be: refused before anything is written, on the host where it knows, else on the device.

use wgpu_attention::{
    AppendBuffers, AppendPlan, CacheShape, Dtype, KvCache, Layout, Mask, MaskBuffers, MaskInput,
    NewTokens, Pairing, Problem, QuerySequences, Rotary, Shape,
};

use super::{
    DIM, HEADS, KV_HEADS, cache, contents, fault, submit, tokens, upload_f32, upload_i32, words,
};
use crate::bad_input::assert_says;
use crate::fixture::ATTENTION;

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
