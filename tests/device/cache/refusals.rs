//! What can't be: refused before anything is written, on the host where it knows, else on the device.

use wgpu_attention::cache::{
    AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens, Pairing, Rotary,
};
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::{Dtypes, QuerySequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, Dtype, KvCache, Layout, Mask, Problem,
    Shape,
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
    let data = AuxBuffers::new().with(AuxTensor::QStarts, starts.slice(..));
    let with = |lengths: &'static [usize]| buffers.clone().sequences(data.clone()).lengths(lengths);
    refused(&mut cache, &packed, &with(&[1, 3]), &["sequence 1", "18 + 3"]);
    refused(&mut cache, &packed, &with(&[1]), &["lengths", "2 elements", "1 elements"]);
    refused(&mut cache, &packed, &with(&[10, 0]), &["lengths[0]", "seq_len = 9", "10"]);
    refused(&mut cache, &packed, &with(&[2, 3]), &["lengths", "4 packed tokens", "5"]);
    refused(&mut cache, &packed, &buffers, &["q_starts", "a buffer", "none"]);
    let small = upload_f32(&[0.0; 8]);
    let mut few = buffers.clone();
    few.k = small.slice(..);
    let one = AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(1)).unwrap();
    refused(&mut cache, &one, &few, &["k:", "256 bytes", "32 bytes"]);

    // A plan for caches of another shape or type.
    for other in [shape.dtype(Dtype::F16), shape.ring(), shape.capacity(21)] {
        let plan = AppendPlan::new(ATTENTION.kernels(), &other, &NewTokens::new(1)).unwrap();
        refused(&mut cache, &plan, &buffers, &["cache:", "the plan's shape"]);
    }
    let attends_by = |problem: &Problem| {
        let (q, o) = (k.slice(..), v.slice(..));
        cache.attention_buffers(problem, q, AuxBuffers::new(), o).map(|_| ())
    };
    let attends = |other: CacheShape| {
        attends_by(&other.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal()))
    };
    attends(shape).unwrap();
    let one_query = shape.problem(HEADS, 1, QuerySequences::Uniform);
    for mixed in [Dtypes::default().k(Dtype::F16), Dtypes::default().v(Dtype::Bf16)] {
        let error = attends_by(&one_query.clone().dtypes(mixed)).unwrap_err();
        assert_says(&error, &["cache:", "as the plan has them"]);
    }
    for other in [
        shape.dtype(Dtype::F16),
        shape.layout(Layout::Bshd),
        shape.ring(),
        shape.paged(16, 4),
        shape.capacity(19),
        shape.batch(1),
        shape.num_kv_heads(4),
        shape.head_dim(12),
        shape.head_dim_v(12),
    ] {
        assert_says(&attends(other).unwrap_err(), &["cache:", "as the plan has them"]);
    }

    // Tokens that lie in the cache itself, and a plan of another device.
    let own = cache.k().buffer().clone();
    let own = AppendBuffers::new(own.slice(..), v.slice(..));
    refused(&mut cache, &one, &own, &["the cache's k:", "another buffer"]);
    let foreign = crate::open::best();
    let mut other = KvCache::new(foreign.kernels(), &shape).unwrap();
    submit(|encoder| {
        let error = one.encode(encoder, &mut other, &buffers).unwrap_err();
        assert_says(&error, &["cache:", "the plan's `Kernels`"]);
    });

    // What is left of the room is still there.
    submit(|encoder| {
        plan.encode(encoder, &mut cache, &buffers).unwrap_err();
        one.encode(encoder, &mut cache, &buffers).unwrap();
        one.encode(encoder, &mut cache, &buffers).unwrap();
    });
    assert_eq!(words(cache.lengths()), [20, 20, 0]);
}

/// What is wrong with a step, where the device alone can know.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The second sequence gets more tokens than it has room for.
    Room,
    /// The second sequence says that it gets more tokens than a step may have.
    TooMany,
    /// Starts that fall.
    Falling,
    /// Starts that lead beyond the packed rows.
    Beyond,
    /// A cache of more tokens than it has room for.
    Length,
    /// The table leads outside the pool where the new tokens would go.
    NewBlock,
    /// The table leads outside the pool where tokens are.
    OldBlock,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Room,
        Self::TooMany,
        Self::Falling,
        Self::Beyond,
        Self::Length,
        Self::NewBlock,
        Self::OldBlock,
    ];

    /// What the cache says, and which words of the queries, of the cache's lengths and of the tables are wrong.
    fn of(self, form: CacheForm, packed: bool) -> Option<(&'static str, Words)> {
        let good = Words { q: [2, 4, 1], lengths: [18, 18, 1], table: None };
        let paged = matches!(form, CacheForm::Paged { .. });
        let agree = "lengths that agree";
        Some(match self {
            Self::Room if form == CacheForm::Ring => {
                ("room for every token", Words { lengths: [18, (1 << 29) - 3, 1], ..good })
            }
            Self::Room => ("room for every token", Words { lengths: [18, 37, 1], ..good }),
            Self::TooMany => (agree, Words { q: [2, 10, 1], ..good }),
            Self::Falling => (agree, Words { q: [2, -1, 1], ..good }),
            Self::Beyond if packed => (agree, Words { q: [8, 8, 9], ..good }),
            Self::Length if form == CacheForm::Ring => {
                (agree, Words { lengths: [18, (1 << 29) + 1, 1], ..good })
            }
            Self::Length => (agree, Words { lengths: [18, 41, 1], ..good }),
            Self::NewBlock if paged => {
                // The tokens 31 to 34 go on from the second block to the third.
                let words = Words { lengths: [18, 31, 1], table: Some(2), ..good };
                ("a block in the pool", words)
            }
            Self::OldBlock if paged => (agree, Words { table: Some(0), ..good }),
            Self::Beyond | Self::NewBlock | Self::OldBlock => return None,
        })
    }
}

/// What a step goes by.
#[derive(Debug, Clone, Copy)]
struct Words {
    /// How many tokens each sequence gets.
    q: [i32; 3],
    lengths: [i32; 3],
    /// Which entry of the second sequence's table leads outside the pool.
    table: Option<usize>,
}

/// In every form and type of cache, with packed and with left-padded tokens: no sequence gets anything of a step in which
/// anything is wrong, neither in the cache, nor queries, nor outputs, and the next step is as if it hadn't been.
#[test]
fn a_fault_that_the_device_alone_sees_leaves_everything_as_it_was() {
    let shape = CacheShape::new(3, KV_HEADS, 40, DIM);
    let packed = QuerySequences::Packed { total: 24 };
    for (shape, sequences) in [
        (shape, packed),
        (shape.layout(Layout::Bshd).dtype(Dtype::F16), QuerySequences::LeftPadded),
        (shape.ring().dtype(Dtype::Bf16), packed),
        (shape.ring().dtype(Dtype::I8), QuerySequences::LeftPadded),
        (shape.paged(16, 10), QuerySequences::LeftPadded),
        (shape.paged(16, 10).dtype(Dtype::I8), packed),
        (shape.dtype(Dtype::I8), QuerySequences::LeftPadded),
    ] {
        let rotary = Rotary::new(DIM, 1e4, Pairing::Half);
        let new = NewTokens::new(9).sequences(sequences).rotary(rotary).query_heads(HEADS);
        let plan = AppendPlan::new(ATTENTION.kernels(), &shape, &new).unwrap();
        let problem = shape.problem(HEADS, 9, sequences).mask(Mask::causal());
        // Keys in splits, so that a merge writes the outputs, in one of the cases.
        let splits =
            (shape.form == CacheForm::Contiguous && shape.dtype == Dtype::F32).then_some(3);
        let attention = AttentionPlan::new(
            ATTENTION.kernels(),
            &problem,
            &PlanOptions::default().num_splits(splits),
        )
        .unwrap();
        let tokens = tokens(&shape, 9, 85);
        let [q, k, v] = [&tokens.q, &tokens.k, &tokens.v].map(|values| upload_f32(values));
        let words_of = |buffer: &wgpu::Buffer| words(buffer.slice(..));
        let step = |cache: &mut KvCache, words: &Words| {
            let starts = [0].into_iter().chain(words.q).scan(0, |end, n| {
                *end += n;
                Some(*end)
            });
            let (starts, counts) = (starts.collect::<Vec<_>>(), words.q.to_vec());
            let (starts, counts) = (upload_i32(&starts), upload_i32(&counts));
            let data = AuxBuffers::new()
                .with(AuxTensor::QStarts, starts.slice(..))
                .with(AuxTensor::QLengths, counts.slice(..));
            let unwritten = |elements: usize| upload_i32(&vec![0x7fab_cdef; elements]);
            let written = [tokens.q.len(), tokens.q.len(), 3 * HEADS * 9].map(unwritten);
            let [rotated, o, lse] = &written;
            let word = upload_i32(&[0]);
            submit(|encoder| {
                let buffers = AppendBuffers::new(k.slice(..), v.slice(..))
                    .q(q.slice(..))
                    .rotated_q(rotated.slice(..))
                    .sequences(data.clone());
                plan.encode(encoder, cache, &buffers).unwrap();
            });
            // Attention over words that are still wrong; after the tokens' own fault the cache is right, and just shorter.
            submit(|encoder| {
                let buffers = cache
                    .attention_buffers(&problem, rotated.slice(..), data, o.slice(..))
                    .unwrap();
                let buffers = AttentionBuffers { lse: Some(lse.slice(..)), ..buffers };
                attention.clear_sequence_error(encoder);
                attention.encode(encoder, &buffers).unwrap();
                attention.encode_sequences_check(encoder, word.slice(..)).unwrap();
            });
            let told = attention.check_sequences(words_of(&word)[0]);
            (written.map(|buffer| words_of(&buffer)), told)
        };
        // A cache that has never seen a fault is what the others are compared with.
        let write = |cache: &KvCache, words: &Words| {
            let queue = ATTENTION.queue();
            queue.write_buffer(cache.lengths().buffer(), 0, bytemuck::cast_slice(&words.lengths));
            if let Some(tables) = cache.tables() {
                let mut rows: Vec<u32> = (0..9).map(|at| at * 7 % 10).collect();
                if let Some(at) = words.table {
                    rows[3 + at] = 10;
                }
                queue.write_buffer(tables, 0, bytemuck::cast_slice(&rows));
            }
        };
        let good = Words { q: [2, 4, 1], lengths: [18, 18, 1], table: None };
        let (mut clean, _) = cache(&shape);
        write(&clean, &good);
        let (expected, told) = step(&mut clean, &good);
        told.unwrap();
        fault(&clean).unwrap();
        let (mut faulty, _) = cache(&shape);
        for case in Fault::ALL {
            let Some((says, words)) = case.of(shape.form, sequences == packed) else { continue };
            // Lengths that a step may have, though there is no room for it.
            let tokens_alone = matches!(case, Fault::Room | Fault::NewBlock);
            write(&faulty, &words);
            let before = contents(&faulty);
            let (written, told) = step(&mut faulty, &words);
            let what = format!("{case:?}, {shape:?}, {sequences:?}");
            assert_says(&fault(&faulty).unwrap_err(), &["sequence", says]);
            submit(|encoder| faulty.clear_error(encoder));
            assert_eq!(contents(&faulty), before, "{what}");
            assert_eq!(told.is_ok(), tokens_alone, "{what}");
            for (name, (at, words)) in
                ["rotated_q", "o", "lse"].iter().zip(written.iter().enumerate())
            {
                let attends = tokens_alone && at > 0;
                let untouched = words.iter().all(|&word| word == 0x7fab_cdef);
                assert!(untouched || attends, "{name}, {what}");
            }
        }
        write(&faulty, &good);
        assert_eq!(step(&mut faulty, &good).0, expected, "{shape:?}");
        assert_eq!(contents(&faulty), contents(&clean), "{shape:?}");
    }
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
    says(shape.capacity(0), &["capacity", "at least 1"]);
    says(shape.head_dim(577), &["head_dim", "1 to 576"]);
    let latent = shape.values_in_keys(true);
    says(latent.head_dim_v(17), &["head_dim_v", "at most head_dim = 16", "17"]);
    says(latent.dtype(Dtype::I8), &["the cache's type", "f32, f16 or bf16", "i8"]);
    says(shape.paged(0, 3), &["block_size", "0"]);
    says(shape.capacity(1 << 28), &["the cache's k", "max_buffer_size"]);
    let says = |shape: CacheShape, tokens: NewTokens, parts: &[&str]| {
        assert_says(&AppendPlan::new(ATTENTION.kernels(), &shape, &tokens).unwrap_err(), parts);
    };
    says(shape.ring(), NewTokens::new(9), &["seq_len", "ring's capacity, 8", "9"]);
    says(shape, NewTokens::new(1).dtype(Dtype::I8), &["tokens' type", "i8"]);
    says(shape, NewTokens::new(1).dtype(Dtype::I4), &["tokens' type", "i4"]);
    says(shape, NewTokens::new(1).hadamard(true), &["hadamard", "query_heads"]);
    let hadamard = NewTokens::new(1).hadamard(true).query_heads(2);
    says(shape.values_in_keys(true), hadamard.clone(), &["hadamard", "values in the keys"]);
    says(shape, hadamard, &["hadamard", "multiple of 32", "16"]);
    let rotary = |dim| Rotary::new(dim, 1e4, Pairing::Half);
    says(
        shape,
        NewTokens::new(1).rotary(rotary(18)).query_heads(4),
        &["rotary", "1 to 8 pairs", "9"],
    );
    says(shape, NewTokens::new(1).rotary(rotary(0)).query_heads(4), &["rotary", "0"]);
    says(
        shape,
        NewTokens::new(1).rotary(rotary(4)).query_heads(3),
        &["num_heads", "multiple of", "3"],
    );
    says(shape, NewTokens::new(1).query_heads(4), &["query_heads", "rotary"]);
    let nan = Rotary::with_frequencies([f64::NAN], Pairing::Half);
    says(shape, NewTokens::new(1).rotary(nan).query_heads(4), &["frequency of pair 0", "NaN"]);
    // One-shot calls and outputs have no rows of 8 bits.
    let problem = Problem::new(Shape::new(1, 1, 1, 4)).dtypes(Dtype::I8);
    assert_says(&problem.validate().unwrap_err(), &["q", "i8"]);
}
