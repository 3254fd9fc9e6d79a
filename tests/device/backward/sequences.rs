//! Gradients of sequences of different lengths, wherever they lie.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::reference::ReferenceGradients;
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AuxData, BackwardPlan, Dtype, Gradients, Layout, Mask, Problem, ScoreModifiers, Shape,
    Upstream, reference,
};

use super::{RandomUpstream, assert_all_close, bits, kernels, run};
use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands};
use crate::sequences::{Batch, DIM, FORMS, HEADS, KV_HEADS, LENGTHS};
use crate::tolerance::naive_gradients;

/// Each sequence's gradients where the batch has its rows; 0 in rows of no sequence.
struct Laid {
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl Laid {
    fn new(batch: &Batch) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        let (q, kv) = (batch.shape.q_len().unwrap(), batch.shape.k_len().unwrap());
        Self { dq: zeros(q), dk: zeros(kv), dv: zeros(kv) }
    }

    /// Adds sequence `b`'s, dense `[1, heads, its length, DIM]`.
    fn add(&mut self, batch: &Batch, b: usize, own: [&[f64]; 3]) {
        for (own_at, at) in batch.q_elements(b) {
            self.dq[at] = own[0][own_at];
        }
        for (own_at, at) in batch.kv_elements(b) {
            (self.dk[at], self.dv[at]) = (own[1][own_at], own[2][own_at]);
        }
    }
}

/// dout and dlse of the batch, NaN in rows of no sequence, and those of each sequence alone.
fn upstreams(batch: &Batch) -> (RandomUpstream, Vec<RandomUpstream>) {
    let mut rng = SmallRng::seed_from_u64(8);
    let mut whole = RandomUpstream {
        dout: vec![f32::NAN; batch.shape.o_len().unwrap()],
        dlse: vec![f32::NAN; batch.shape.lse_len().unwrap()],
    };
    let alone = (0..LENGTHS.len()).map(|b| {
        let rows = HEADS * LENGTHS[b].0;
        let mut numbers = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
        let own = RandomUpstream { dout: numbers(rows * DIM), dlse: numbers(rows) };
        for (own_at, at) in batch.q_elements(b) {
            whole.dout[at] = own.dout[own_at];
        }
        for (own_at, at) in batch.lse_elements(b) {
            whole.dlse[at] = own.dlse[own_at];
        }
        own
    });
    let alone = alone.collect();
    (whole, alone)
}

/// Compares the batch's gradients with those of each sequence alone, under a mask of bits that keeps the same cells.
fn check(batch: &Batch, mask: &str, every_kernel: bool) {
    let parsed: Mask = mask.parse().unwrap();
    let problem = batch.problem(mask);
    let operands = batch.operands();
    let (upstream, upstream_alone) = upstreams(batch);
    let evaluator = Evaluator::new(&parsed, &batch.data, &batch.shape).unwrap();
    let (mut truth, mut naive) = (Laid::new(batch), Laid::new(batch));
    for (b, &(q_len, kv_len)) in LENGTHS.iter().enumerate() {
        let shape = Shape::new(1, HEADS, q_len, DIM).seq_len_kv(kv_len).num_kv_heads(KV_HEADS);
        let cells = (0..HEADS).flat_map(|h| (0..q_len).map(move |i| (h, i)));
        let cells = cells.flat_map(|(h, i)| (0..kv_len).map(move |j| (h, i, j)));
        let keep: Vec<bool> = cells.map(|(h, i, j)| evaluator.keep(b, h, i, j)).collect();
        let alone = &batch.alone[b];
        let data = alone.mask.clone().dense([1, HEADS, q_len, kv_len], keep);
        let alone =
            Operands { q: alone.q.clone(), k: alone.k.clone(), v: alone.v.clone(), mask: data };
        let problem = Problem::new(shape).mask(Mask::Dense).aux_shape(alone.mask.shape());
        let (inputs, upstream) = (alone.inputs(), upstream_alone[b].of_o_and_lse());
        let exact = reference::gradients(&problem, &inputs, &upstream).unwrap();
        truth.add(batch, b, [&exact.dq, &exact.dk, &exact.dv]);
        let found = naive_gradients(&problem, &Mask::Dense, &inputs, &upstream);
        let [dq, dk, dv] = [&found.dq, &found.dk, &found.dv]
            .map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        naive.add(batch, b, [&dq, &dk, &dv]);
    }
    let what = format!("{mask}, {:?}", batch.shape.sequences);
    let whole =
        reference::gradients(&problem, &operands.inputs(), &upstream.of_o_and_lse()).unwrap();
    assert_eq!([&whole.dq, &whole.dk, &whole.dv], [&truth.dq, &truth.dk, &truth.dv], "{what}");
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
    let mut naive_gradients = Gradients::default();
    naive_gradients.dq = narrow(&naive.dq);
    naive_gradients.dk = narrow(&naive.dk);
    naive_gradients.dv = narrow(&naive.dv);
    let naive = naive_gradients;
    let mut true_gradients = ReferenceGradients::default();
    (true_gradients.dq, true_gradients.dk, true_gradients.dv) = (truth.dq, truth.dk, truth.dv);
    let truth = true_gradients;
    let kernels = kernels(&problem);
    for &kernel in if every_kernel { &kernels[..] } else { &kernels[..1] } {
        let found = run(&problem, &operands, &upstream.of_o_and_lse(), kernel);
        assert_all_close(&format!("{kernel}, {what}"), &found, &naive, &truth);
        // What is exactly 0 there has no share in any loss, and rows of no sequence aren't written.
        for (name, found, truth) in [
            ("dq", &found.dq, &truth.dq),
            ("dk", &found.dk, &truth.dk),
            ("dv", &found.dv, &truth.dv),
        ] {
            let same = found.iter().zip(truth).all(|(&x, &y)| y != 0.0 || x == 0.0);
            assert!(same, "{name} of {kernel}, {what}: a row of no sequence has a gradient");
        }
    }
}

/// Packed, left-padded, cached, ring and paged sequences, some of them without queries, keys or both.
#[test]
fn gradients_of_sequences_are_those_of_each_alone() {
    for (at, (&(q, kv), mask)) in FORMS
        .iter()
        .zip([
            "causal & window(19,inf) | global(2)",
            "causal",
            "documents & causal",
            "chunk(24) & !not_self | dilated(5,3)",
            "causal | documents",
        ])
        .enumerate()
    {
        let batch = Batch::new(q, kv, [Layout::Bhsd, Layout::Bshd][at % 2]);
        // One form stands for the others where the way that rows are found is concerned; blocks have a kernel of their own.
        check(&batch, mask, at == 0 || at == 4);
    }
}

/// Blocks that sequences share have the sum of what they have unshared, in the same bits each time, whatever they are stored in.
#[test]
fn shared_blocks_have_the_sum() {
    // Two sequences share their first two blocks, a third the first alone; one block is none's, and a row has three components.
    let (block_size, blocks, dim) = (7, 9, 19);
    let kv = KeySequences::Paged { block_size, blocks, blocks_per_sequence: 3 };
    let shape = Shape::new(3, 4, 10, dim).seq_len_kv(21).num_kv_heads(2);
    let paged = shape.sequences(Sequences { kv, ..Sequences::default() });
    let tables = [4, 7, 2, 4, 7, 0, 4, 5, -1];
    let lengths = [21, 18, 9];
    let data = AuxData::new().kv_lengths(lengths).block_tables(tables);
    let mut operands = Operands { mask: data, ..Operands::random(&paged, 6) };
    // The rows that no sequence has.
    for block in [1, 3, 6, 8] {
        let rows = 2 * block_size * dim;
        operands.k[block * rows..][..rows].fill(f32::NAN);
        operands.v[block * rows..][..rows].fill(f32::NAN);
    }
    // The same unpaged, each sequence with rows of its own.
    let mut apart = Operands { q: operands.q.clone(), ..Operands::random(&shape, 6) };
    let place = |b: usize, h: usize, i: usize, d: usize| {
        let block = tables[b * 3 + i / block_size] as usize;
        ((block * 2 + h) * block_size + i % block_size) * dim + d
    };
    let cells = |b: usize| {
        let rows = (0..2).flat_map(move |h| (0..lengths[b] as usize).map(move |i| (h, i)));
        rows.flat_map(move |(h, i)| (0..dim).map(move |d| (h, i, d)))
    };
    for b in 0..3 {
        for (h, i, d) in cells(b) {
            let at = ((b * 2 + h) * 21 + i) * dim + d;
            (apart.k[at], apart.v[at]) =
                (operands.k[place(b, h, i, d)], operands.v[place(b, h, i, d)]);
        }
    }
    let cached = KeySequences::Cached { left_padded: false };
    let unpaged = shape.sequences(Sequences { kv: cached, ..Sequences::default() });
    apart.mask = AuxData::new().kv_lengths(lengths);
    let upstream = RandomUpstream::random(&shape, 6);
    let problem = |shape| Problem::new(shape).mask(Mask::causal());
    let truth =
        reference::gradients(&problem(paged), &operands.inputs(), &upstream.of_o()).unwrap();
    for kernel in kernels(&problem(paged)) {
        let [found, again] =
            [(); 2].map(|()| run(&problem(paged), &operands, &upstream.of_o(), kernel));
        let single = run(&problem(unpaged), &apart, &upstream.of_o(), kernel);
        let mut sums = [vec![0.0; found.dk.len()], vec![0.0; found.dv.len()]];
        for b in 0..3 {
            for (h, i, d) in cells(b) {
                let at = ((b * 2 + h) * 21 + i) * dim + d;
                sums[0][place(b, h, i, d)] += single.dk[at];
                sums[1][place(b, h, i, d)] += single.dv[at];
            }
        }
        assert_eq!(bits(&found.dq), bits(&single.dq), "{kernel}");
        assert_eq!(
            [bits(&found.dk), bits(&found.dv)],
            sums.each_ref().map(|x| bits(x)),
            "{kernel}"
        );
        assert_eq!(bits(&found.dk), bits(&again.dk), "{kernel}");
        let options = BackwardOptions::default().kernel(kernel).dtypes(Dtype::F16);
        let inputs = operands.inputs();
        let halves =
            ATTENTION.gradients_blocking(&problem(paged), &inputs, &upstream.of_o(), &options);
        let halves = halves.unwrap();
        for (half, whole, truth) in
            [(&halves.dk, &found.dk, &truth.dk), (&halves.dv, &found.dv, &truth.dv)]
        {
            for ((half, whole), truth) in half.iter().zip(whole).zip(truth) {
                assert_eq!(*half, Dtype::F16.round(*whole), "{kernel}");
                assert!((f64::from(*whole) - truth).abs() <= 1e-4 * truth.abs().max(1.0));
            }
        }
    }
}

/// Packed sequences of which none has a query, or a key: what isn't empty gets zeros.
#[test]
fn packed_sequences_without_rows() {
    for (q, kv) in [(0, 0), (0, 7), (7, 0)] {
        let sequences = Sequences {
            q: QuerySequences::Packed { total: q },
            kv: KeySequences::Packed { total: kv },
        };
        let shape = Shape::new(1, 2, 9, 8).sequences(sequences);
        let score = ScoreModifiers::new().bias(true).alibi(true).sinks(true);
        let data = AuxData::new()
            .q_starts([0, q as i32])
            .kv_starts([0, kv as i32])
            .bias([1, 1, 1, 9], [0.5; 9])
            .alibi_slopes([0.1; 2])
            .sinks([0.5; 2]);
        let problem = Problem::new(shape).score(score).aux_shape(data.shape());
        let (q, kv) = (vec![0.5; q * 16], vec![0.5; kv * 16]);
        let operands = Operands { q: q.clone(), k: kv.clone(), v: kv, mask: data };
        let truth = reference::gradients(&problem, &operands.inputs(), &Upstream::new(&q)).unwrap();
        let found = run(&problem, &operands, &Upstream::new(&q), kernels(&problem)[0]);
        for (found, truth) in [
            (&found.dq, &truth.dq),
            (&found.dk, &truth.dk),
            (&found.dv, &truth.dv),
            (&found.dbias, &truth.dbias),
            (&found.dsinks, &truth.dsinks),
            (&found.dalibi_slopes, &truth.dalibi_slopes),
        ] {
            assert_eq!(found.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), *truth);
        }
    }
}

#[test]
fn what_has_no_place_for_a_gradient_is_refused() {
    // 8 bits are a cache's storage.
    let (q, kv) = (QuerySequences::Uniform, KeySequences::Cached { left_padded: false });
    let cached = Batch::new(q, kv, Layout::Bhsd);
    let dtypes = wgpu_attention::tensor::Dtypes::default().k(Dtype::I8).v(Dtype::I8);
    let problem = cached.problem("causal").dtypes(dtypes);
    let error = BackwardPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap_err();
    assert_says(&error, &["k:", "f32, f16 or bf16 in a backward pass", "i8"]);
}
