//! Sequences whose queries and keys are both more than the device binds in one piece: their own rows in windows, too.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::{Dtypes, KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AuxData, BackwardPlan, Dtype, Error, Gradients, Layout, Problem, RunOptions, ScoreModifiers,
    Session, Shape, reference,
};

use super::binding;
use super::caches::check_sequences;
use crate::backward::{self, RandomUpstream, assert_all_close};
use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands, ScoreData, kernels};
use crate::matrix::{WITH_MATRICES, has_matrices};
use crate::open;
use crate::operands::stored;

/// Queries and keys of each sequence: more than a window, a few, one, none of either.
const LENGTHS: [(usize, usize); 7] =
    [(0, 0), (70, 70), (1, 1), (190, 187), (33, 36), (0, 2), (2, 0)];
const DIM: usize = 20;

struct Batch {
    problem: Problem,
    operands: Operands,
    upstream: RandomUpstream,
}

impl Batch {
    /// Packed sequences of [`LENGTHS`].
    fn packed(layout: Layout, mask: &str) -> Self {
        let starts = |length: fn(&(usize, usize)) -> usize| -> Vec<i32> {
            (0..=LENGTHS.len())
                .map(|b| LENGTHS[..b].iter().map(length).sum::<usize>() as i32)
                .collect()
        };
        let (q_starts, kv_starts) = (starts(|lengths| lengths.0), starts(|lengths| lengths.1));
        let sequences = Sequences {
            q: QuerySequences::Packed { total: q_starts[LENGTHS.len()] as usize },
            kv: KeySequences::Packed { total: kv_starts[LENGTHS.len()] as usize },
        };
        let shape = Shape::new(LENGTHS.len(), 4, 190, DIM).seq_len_kv(187).num_kv_heads(2);
        Self::new(shape.sequences(sequences), layout, mask)
            .with(|data| data.q_starts(q_starts).kv_starts(kv_starts))
    }

    /// Queries that are padded on their left, and keys in a cache, padded likewise, with NaN.
    fn padded(mask: &str) -> Self {
        let (q_lengths, first, lengths) = ([203, 0, 57], [13, 250, 9], [250, 259, 9]);
        let sequences = Sequences {
            q: QuerySequences::LeftPadded,
            kv: KeySequences::Cached { left_padded: true },
        };
        let shape = Shape::new(3, 4, 203, DIM).seq_len_kv(259).num_kv_heads(2);
        let mut batch = Self::new(shape.sequences(sequences), Layout::Bhsd, mask);
        let is_query = |row: usize| row % 203 + q_lengths[row / 203 / 4] >= 203;
        let is_key =
            |row: usize| (first[row / 259 / 2]..lengths[row / 259 / 2]).contains(&(row % 259));
        hide(&mut batch.operands.q, DIM, is_query);
        hide(&mut batch.upstream.dout, DIM, is_query);
        hide(&mut batch.upstream.dlse, 1, is_query);
        hide(&mut batch.operands.k, DIM, is_key);
        hide(&mut batch.operands.v, DIM, is_key);
        let words = |values: [usize; 3]| values.map(|value| value as i32);
        batch.with(|data| {
            data.q_lengths(words(q_lengths)).kv_first(words(first)).kv_lengths(words(lengths))
        })
    }

    fn new(shape: Shape, layout: Layout, mask: &str) -> Self {
        Self {
            problem: Problem::new(shape).layout(layout).mask(mask.parse().unwrap()),
            operands: Operands::random(&shape, 7),
            upstream: RandomUpstream::random(&shape, 7),
        }
    }

    fn with(mut self, data: impl FnOnce(AuxData) -> AuxData) -> Self {
        self.operands.mask = data(self.operands.mask);
        self
    }

    fn gradients(&self, attention: &Session, kernel: BackwardKernel) -> Gradients {
        let options = BackwardOptions::default().kernel(kernel);
        let (inputs, upstream) = (self.operands.inputs(), self.upstream.of_o_and_lse());
        attention.gradients_blocking(&self.problem, &inputs, &upstream, &options).unwrap()
    }

    /// Compares each kernel's gradients with the f64 reference: in windows they may be as wrong as those in one piece.
    fn check_gradients(&self, attention: &Session) {
        let (inputs, upstream) = (self.operands.inputs(), self.upstream.of_o_and_lse());
        let truth = reference::gradients(&self.problem, &inputs, &upstream).unwrap();
        for kernel in backward::kernels(&self.problem) {
            let what = format!("{kernel}, {:?}", self.problem);
            let found = self.gradients(attention, kernel);
            assert_all_close(&what, &found, &self.gradients(&ATTENTION, kernel), &truth);
            for (found, truth) in
                [(&found.dq, &truth.dq), (&found.dk, &truth.dk), (&found.dv, &truth.dv)]
            {
                let same = found.iter().zip(truth).all(|(&x, &y)| y != 0.0 || x == 0.0);
                assert!(same, "{what}: a row of no sequence has a gradient");
            }
        }
    }
}

/// NaN in rows of so many elements that aren't there.
fn hide(values: &mut [f32], row: usize, is_there: impl Fn(usize) -> bool) {
    let rows = values.chunks_mut(row).enumerate();
    rows.filter(|(at, _)| !is_there(*at)).for_each(|(_, values)| values.fill(f32::NAN));
}

#[test]
fn packed_sequences() {
    for (layout, bytes, mask) in [
        (Layout::Bhsd, 16 << 10, "causal & window(60,inf) | global(2)"),
        (Layout::Bshd, 42 << 10, "documents | !causal"),
    ] {
        let (batch, attention) = (Batch::packed(layout, mask), binding(bytes));
        let forward = kernels(&batch.problem);
        check_sequences(&attention, &batch.problem, &batch.operands, &forward);
        batch.check_gradients(&attention);
    }
}

#[test]
fn padded_sequences() {
    let (batch, attention) = (Batch::padded("causal & documents"), binding(12 << 10));
    check_sequences(&attention, &batch.problem, &batch.operands, &kernels(&batch.problem));
    batch.check_gradients(&attention);
}

/// Every gradient that goes on from window to window, and weights that are dropped in one as in the other.
#[test]
fn modifiers_and_dropout() {
    let mut batch = Batch::packed(Layout::Bhsd, "causal | global(1)");
    let score = ScoreModifiers::default().softcap(20.0).alibi(true).sinks(true);
    let shape = *batch.problem.shape();
    batch = batch.with(|data| ScoreData::random(&shape, 4).add_to(&shape, data));
    batch.problem = batch.problem.score(score).dropout(0.3);
    batch.check_gradients(&binding(16 << 10));
}

#[test]
fn operands_of_16_bits() {
    let mut batch = Batch::packed(Layout::Bhsd, "causal");
    let dtypes = Dtypes::default().q(Dtype::F16).k(Dtype::F16).v(Dtype::Bf16);
    batch.operands = stored(batch.operands, dtypes);
    batch.problem = batch.problem.dtypes(dtypes);
    // o and dout have 32 bits.
    batch.check_gradients(&binding(14 << 10));
}

#[test]
fn gradients_by_matrices() {
    if !has_matrices() {
        return;
    }
    let limited = open::limited_with_matrices(|limits| {
        limits.max_storage_buffer_binding_size = 11 << 10;
    });
    let mut batch = Batch::packed(Layout::Bhsd, "causal & window(60,inf)");
    let dtypes = Dtypes::all(Dtype::F16);
    batch.operands = stored(batch.operands, dtypes);
    batch.upstream.dout.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
    batch.problem = batch.problem.dtypes(dtypes);
    let (inputs, upstream) = (batch.operands.inputs(), batch.upstream.of_o_and_lse());
    let truth = reference::gradients(&batch.problem, &inputs, &upstream).unwrap();
    let [found, whole] = [&limited, &*WITH_MATRICES]
        .map(|attention| batch.gradients(attention, BackwardKernel::Matrix));
    assert_all_close("matrices", &found, &whole, &truth);
}

/// A block is of one window: where those of the workgroups' own rows suffice, nothing is summed in another order.
#[test]
fn own_rows_have_the_same_bits() {
    let same = |what: &str, found: &[f32], whole: &[f32]| {
        let is_same = found.iter().zip(whole).all(|(x, y)| x.to_bits() == y.to_bits());
        assert!(found.len() == whole.len() && is_same, "{what}");
    };
    for (q_len, kv_len) in [(400, 30), (30, 400)] {
        let sequences = Sequences {
            q: QuerySequences::Packed { total: 3 * q_len },
            kv: KeySequences::Packed { total: 3 * kv_len },
        };
        let shape = Shape::new(4, 2, 2 * q_len, DIM).seq_len_kv(2 * kv_len).sequences(sequences);
        let problem =
            Problem::new(shape).mask("causal(upper_left) & !dilated(5,3)".parse().unwrap());
        let mut operands = Operands::random(&shape, 1);
        let starts = |len: usize| [0, len + 7, len + 7, len + 8, 3 * len].map(|start| start as i32);
        operands.mask = AuxData::new().q_starts(starts(q_len)).kv_starts(starts(kv_len));
        let attention = binding(20 << 10);
        if q_len > kv_len {
            for kernel in kernels(&problem) {
                let options = RunOptions::default().lse(true).kernel(kernel);
                let [found, whole] = [&attention, &*ATTENTION].map(|attention| {
                    attention.run_blocking(&problem, &operands.inputs(), &options).unwrap()
                });
                same("o", &found.o, &whole.o);
                same("lse", &found.lse, &whole.lse);
            }
        }
        let upstream = RandomUpstream::random(&shape, 1);
        let batch = Batch { problem, operands, upstream };
        let [found, whole] = [&attention, &*ATTENTION]
            .map(|attention| batch.gradients(attention, BackwardKernel::Tiled));
        match q_len > kv_len {
            true => same("dq", &found.dq, &whole.dq),
            false => {
                same("dk", &found.dk, &whole.dk);
                same("dv", &found.dv, &whole.dv);
            }
        }
    }
}

/// A key that is NaN reaches the rows that keep it, in whichever windows both are, and nothing else.
#[test]
fn hostile_sequences() {
    const ROW: usize = 100;
    let attention = binding(16 << 10);
    let clean = Batch::packed(Layout::Bhsd, "causal(upper_left)");
    let mut hostile = Batch::packed(Layout::Bhsd, "causal(upper_left)");
    let first = 71;
    for rows in hostile.operands.k.chunks_mut(hostile.operands.v.len() / 2) {
        rows[(first + ROW) * DIM..][..DIM].fill(f32::NAN);
    }
    for kernel in backward::kernels(&clean.problem) {
        let [found, expected] = [&hostile, &clean].map(|batch| batch.gradients(&attention, kernel));
        let tensors =
            [(&found.dq, &expected.dq), (&found.dk, &expected.dk), (&found.dv, &expected.dv)];
        for (tensor, (found, expected)) in tensors.into_iter().enumerate() {
            let heads = if tensor == 0 { 4 } else { 2 };
            let rows = found.len() / heads / DIM;
            for (at, (x, y)) in found.iter().zip(expected).enumerate() {
                let row = at / DIM % rows;
                let is_of_it = (first..first + 190).contains(&row);
                let is_reached = is_of_it && (tensor > 0 || row >= first + ROW);
                let is_right = x.to_bits() == y.to_bits() || (is_reached && x.is_nan());
                assert!(is_right, "{kernel}: element {at} of tensor {tensor} is {x}, not {y}");
                let must_be = tensor == 0 && is_reached;
                assert!(!must_be || x.is_nan(), "{kernel}: dq[{at}] is {x}");
            }
        }
    }
}

/// Queries in windows beside keys whose rows lie in an order that the device alone knows, in one piece.
#[test]
fn queries_over_a_ring() {
    let sequences = Sequences { q: QuerySequences::LeftPadded, kv: KeySequences::Ring };
    let shape = Shape::new(2, 4, 203, DIM).seq_len_kv(41).num_kv_heads(2).sequences(sequences);
    let batch = Batch::new(shape, Layout::Bhsd, "window(60,9) | global(2)")
        .with(|data| data.q_lengths([150, 203]).kv_lengths([350, 17]));
    batch.check_gradients(&binding(12 << 10));
}

/// What windows of sequences don't help is refused by its name.
#[test]
fn what_windows_of_sequences_dont_help() {
    let attention = binding(16 << 10);
    let refused = |problem: &Problem, name: &str| {
        let options = BackwardOptions::default();
        let error = BackwardPlan::new(attention.kernels(), problem, &options).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        assert_says(&error, &[name, "max_storage_buffer_binding_size is 16384", "or use a device"]);
    };
    // A bias's gradient is made of queries and keys of any rows.
    let problem = Batch::packed(Layout::Bhsd, "causal").problem;
    let bias = AuxData::new().bias([1, 1, 1, 187], vec![0.0; 187]);
    let score = ScoreModifiers::default().bias(true);
    refused(&problem.score(score).aux_shape(bias.shape()), "q (");
    // A block of keys has rows wherever the ring begins, and in several blocks of a pool.
    for kv in [
        KeySequences::Ring,
        KeySequences::Paged { block_size: 16, blocks: 40, blocks_per_sequence: 26 },
    ] {
        let sequences = Sequences { q: QuerySequences::Uniform, kv };
        refused(
            &Problem::new(Shape::new(1, 1, 4, DIM).seq_len_kv(403).sequences(sequences)),
            "k (",
        );
    }
}
