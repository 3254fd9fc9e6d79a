//! One random call: a structure of the pool, and sizes, lengths and numbers of its own.

use std::ops::RangeInclusive;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::{Dtypes, KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AuxData, Gradients, Layout, Mask, Problem, RunOptions, ScoreModifiers, Shape, Upstream,
    reference,
};

use super::pool::{Kind, POOL, Structure};
use crate::backward::RandomUpstream;
use crate::dtypes::stored;
use crate::fixture::{ATTENTION, Operands, ScoreData};
use crate::tolerance::{
    assert_close, assert_gradient_close, naive_gradients_modified, naive_modified,
};

/// How many of the calls were what.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) decode: u64,
    pub(super) gradients: u64,
}

impl std::ops::AddAssign for Made {
    fn add_assign(&mut self, other: Self) {
        self.decode += other.decode;
        self.gradients += other.gradients;
    }
}

/// A dense `[batch, heads, seq, dim]` problem that the reference takes, and where each of its elements lies in the call's
/// own tensors.
struct Part {
    problem: Problem,
    operands: Operands,
    upstream: RandomUpstream,
    /// Of q, o and their gradients.
    q: Vec<usize>,
    /// Of k, v and their gradients.
    kv: Vec<usize>,
    /// Of lse and its gradient.
    rows: Vec<usize>,
}

impl Part {
    fn of_o_and_lse(&self) -> Upstream<'_> {
        Upstream::new(&self.upstream.dout).dlse(&self.upstream.dlse)
    }
}

/// Where `[batch, heads, rows, dim]` lies in a tensor of `of_rows` rows to a head, from batch `first[0]`, row `first[1]` on.
fn places(
    layout: Layout,
    [batch, heads, rows, dim]: [usize; 4],
    of_rows: usize,
    first: [usize; 2],
) -> Vec<usize> {
    let place = |at: usize| {
        let (d, row) = (at % dim, at / dim % rows + first[1]);
        let (h, b) = (at / dim / rows % heads, at / dim / rows / heads + first[0]);
        match layout {
            Layout::Bhsd => ((b * heads + h) * of_rows + row) * dim + d,
            Layout::Bshd => ((b * of_rows + row) * heads + h) * dim + d,
        }
    };
    (0..batch * heads * rows * dim).map(place).collect()
}

/// NaN wherever no part lies.
fn lay<'a>(len: usize, parts: impl Iterator<Item = (&'a [usize], &'a [f32])>) -> Vec<f32> {
    let mut laid = vec![f32::NAN; len];
    for (places, values) in parts {
        for (&at, &value) in places.iter().zip(values) {
            laid[at] = value;
        }
    }
    laid
}

fn gather(from: &[f32], places: &[usize]) -> Vec<f32> {
    places.iter().map(|&at| from[at]).collect()
}

/// A call's problem and operands, and the parts that they are laid out from.
struct Call {
    structure: Structure,
    mask: Mask,
    problem: Problem,
    operands: Operands,
    parts: Vec<Part>,
}

impl Call {
    fn random(seed: u64, rng: &mut SmallRng) -> Self {
        let structure = *POOL.choose(rng).unwrap();
        let Structure { kind, dtype, dim, .. } = structure;
        let mask: Mask = structure.mask.parse().unwrap();
        let layout = *[Layout::Bhsd, Layout::Bshd].choose(rng).unwrap();
        // Kernels have a few sizes of blocks; each structure's queries go into those of one.
        let most_q = rng.random_range(match (kind.is_decode(), structure.many_queries) {
            (true, false) => 1..=1,
            (true, true) => 5..=16,
            (false, false) => 1..=32,
            (false, true) => 33..=70,
        });
        let (kv_heads, group, most_kv) = match kind.is_decode() {
            // Of up to 256 keys, a plan for a CPU adapter makes no parts by itself.
            true => (4, 2, if structure.is_split { 300 } else { 256 }),
            false => (rng.random_range(1..=2), rng.random_range(1..=3), 70),
        };
        let heads = kv_heads * group;
        // The kernels add up in another order than the naive computation: so many rows that its largest error isn't luck
        // (see the tests of decode).
        let batch = 512_usize.div_ceil(heads * most_q);
        let mut length = |range: RangeInclusive<usize>| rng.random_range(range);
        // Queries and keys of each sequence; of all of them where they are equal.
        let lengths: Vec<(usize, usize)> = match kind {
            Kind::Dense | Kind::Decode => vec![(most_q, length(1..=most_kv)); batch],
            Kind::DecodeCached => (0..batch).map(|_| (most_q, length(1..=most_kv))).collect(),
            _ => (0..batch)
                .map(|b| (if b == 0 { most_q } else { length(1..=most_q) }, length(1..=most_kv)))
                .collect(),
        };
        let start = |b: usize, of: fn(&(usize, usize)) -> usize| -> usize {
            lengths[..b].iter().map(of).sum()
        };
        let most = |of: fn(&(usize, usize)) -> usize| lengths.iter().map(of).max().unwrap();
        let (q_total, kv_total) = (start(batch, |x| x.0), start(batch, |x| x.1));
        let alone = |batch: usize, q_len: usize, kv_len: usize| {
            Shape::new(batch, heads, q_len, dim).seq_len_kv(kv_len).num_kv_heads(kv_heads)
        };
        let sequences = Sequences {
            q: match kind {
                Kind::Packed | Kind::Cached => QuerySequences::Packed { total: q_total },
                _ => QuerySequences::Uniform,
            },
            kv: match kind {
                Kind::Packed => KeySequences::Packed { total: kv_total },
                Kind::Cached | Kind::DecodeCached => KeySequences::Cached { left_padded: false },
                _ => KeySequences::Uniform,
            },
        };
        let shape = alone(batch, most(|x| x.0), most(|x| x.1)).sequences(sequences);
        let with = |shape| Problem::new(shape).mask(mask.clone()).dtypes(Dtypes::from(dtype));

        // Of each part: its shape, and the batch index and row of its first query and of its first key.
        let [q_rows, kv_rows] = [
            if kind.packs_q() { q_total } else { shape.seq_len_q },
            if kind == Kind::Packed { kv_total } else { shape.seq_len_kv },
        ];
        let wholes: Vec<(Shape, [usize; 2], [usize; 2])> = match kind.has_sequences() {
            false => vec![(shape, [0, 0], [0, 0])],
            true => (0..batch)
                .map(|b| {
                    let (q_len, kv_len) = lengths[b];
                    let q = if kind.packs_q() { [0, start(b, |x| x.0)] } else { [b, 0] };
                    let kv = if kind == Kind::Packed { [0, start(b, |x| x.1)] } else { [b, 0] };
                    (alone(1, q_len, kv_len), q, kv)
                })
                .collect(),
        };
        let parts: Vec<Part> = (wholes.into_iter().zip(0u64..))
            .map(|((shape, q, kv), number)| {
                let seed = if kind.has_sequences() { seed ^ (number + 1) } else { seed };
                let mut upstream = RandomUpstream::random(&shape, seed);
                upstream.dout.iter_mut().for_each(|x| *x = dtype.round(*x));
                let q_dims = [shape.batch, heads, shape.seq_len_q, dim];
                let row_dims = [shape.batch, heads, shape.seq_len_q, 1];
                let kv_dims = [shape.batch, kv_heads, shape.seq_len_kv, dim];
                Part {
                    problem: with(shape),
                    operands: stored(Operands::random(&shape, seed), dtype.into()),
                    upstream,
                    q: places(layout, q_dims, q_rows, q),
                    kv: places(layout, kv_dims, kv_rows, kv),
                    rows: places(Layout::Bhsd, row_dims, q_rows, q),
                }
            })
            .collect();

        let starts = |of: fn(&(usize, usize)) -> usize| -> Vec<i32> {
            (0..=batch).map(|b| start(b, of) as i32).collect()
        };
        let kv_lengths = || lengths.iter().map(|x| x.1 as i32).collect::<Vec<_>>();
        let data = match kind {
            Kind::Dense | Kind::Decode => parts[0].operands.mask.clone(),
            Kind::Packed => AuxData::new().q_starts(starts(|x| x.0)).kv_starts(starts(|x| x.1)),
            Kind::Cached => AuxData::new().q_starts(starts(|x| x.0)).kv_lengths(kv_lengths()),
            Kind::DecodeCached => AuxData::new().kv_lengths(kv_lengths()),
        };
        let of_parts =
            |len: usize, of: fn(&Part) -> (&[usize], &[f32])| lay(len, parts.iter().map(of));
        let operands = Operands {
            q: of_parts(shape.q_len().unwrap(), |part| (&part.q, &part.operands.q)),
            k: of_parts(shape.k_len().unwrap(), |part| (&part.kv, &part.operands.k)),
            v: of_parts(shape.v_len().unwrap(), |part| (&part.kv, &part.operands.v)),
            mask: data,
        };
        let problem = with(shape).layout(layout);
        Self { structure, mask, problem, operands, parts }
    }

    /// Compares o and lse of all parts together.
    fn compare(&self, what: &str, o: &[f32], lse: &[f32]) {
        let none = (ScoreModifiers::default(), ScoreData::default());
        let (mut o_all, mut lse_all) = (Compared::default(), Compared::default());
        for Part { problem, operands, q, rows, .. } in &self.parts {
            let inputs = operands.inputs();
            let truth = reference::attention(problem, &inputs).unwrap();
            let dtype = self.structure.dtype;
            let naive = naive_modified(problem, &self.mask, &inputs, &none.0, &none.1, dtype);
            o_all.add(gather(o, q), naive.o, truth.o);
            lse_all.add(gather(lse, rows), naive.lse, truth.lse);
        }
        assert_close(&format!("o of {what}"), &o_all.found, &o_all.naive, &o_all.truth);
        assert_close(&format!("lse of {what}"), &lse_all.found, &lse_all.naive, &lse_all.truth);
    }

    /// Compares the gradients of all parts together.
    fn compare_gradients(&self, what: &str, found: &Gradients) {
        let none = (ScoreModifiers::default(), ScoreData::default());
        let mut all: [Compared; 3] = Default::default();
        for part in &self.parts {
            let (inputs, upstream) = (part.operands.inputs(), part.of_o_and_lse());
            let truth = reference::gradients(&part.problem, &inputs, &upstream).unwrap();
            let naive = naive_gradients_modified(
                &part.problem,
                &self.mask,
                &inputs,
                &upstream,
                &none.0,
                &none.1,
                self.structure.dtype,
            );
            let [dq, dk, dv] = &mut all;
            dq.add(gather(&found.dq, &part.q), naive.dq, truth.dq);
            dk.add(gather(&found.dk, &part.kv), naive.dk, truth.dk);
            dv.add(gather(&found.dv, &part.kv), naive.dv, truth.dv);
        }
        for (name, Compared { found, naive, truth }) in ["dq", "dk", "dv"].into_iter().zip(&all) {
            assert_gradient_close(&format!("{name} of {what}"), found, naive, truth);
        }
    }

    /// What the loss gives back, laid out as the call's o and lse.
    fn upstream(&self) -> RandomUpstream {
        let shape = self.problem.shape();
        let of_parts =
            |len: usize, of: fn(&Part) -> (&[usize], &[f32])| lay(len, self.parts.iter().map(of));
        RandomUpstream {
            dout: of_parts(shape.o_len().unwrap(), |part| (&part.q, &part.upstream.dout)),
            dlse: of_parts(shape.lse_len().unwrap(), |part| (&part.rows, &part.upstream.dlse)),
        }
    }
}

#[derive(Default)]
struct Compared {
    found: Vec<f32>,
    naive: Vec<f32>,
    truth: Vec<f64>,
}

impl Compared {
    fn add(&mut self, found: Vec<f32>, naive: Vec<f32>, truth: Vec<f64>) {
        self.found.extend(found);
        self.naive.extend(naive);
        self.truth.extend(truth);
    }
}

/// A call made from a seed of its own, by its structure's kernels; every other one but decode's asks for the gradients,
/// too.
pub(super) fn make(seed: u64) -> Made {
    let mut rng = SmallRng::seed_from_u64(seed);
    let call = Call::random(seed, &mut rng);
    let (problem, inputs) = (&call.problem, call.operands.inputs());
    let Structure { kind, forward: kernel, is_split, backward, .. } = call.structure;
    let num_splits = is_split.then(|| *[3, 128].choose(&mut rng).unwrap());
    let outputs = RunOptions::default().lse(true).kernel(kernel).num_splits(num_splits);
    let output = ATTENTION.run_blocking(problem, &inputs, &outputs).unwrap();
    let what = format!("call {seed} ({kernel}, {num_splits:?} splits, {problem:?})");
    call.compare(&what, &output.o, &output.lse);
    let mut made = Made { decode: u64::from(kind.is_decode()), gradients: 0 };
    if let Some(kernel) = backward.filter(|_| rng.random_bool(0.5)) {
        made.gradients = 1;
        let upstream = call.upstream();
        let upstream = Upstream::new(&upstream.dout).dlse(&upstream.dlse);
        let options = BackwardOptions::default().kernel(kernel);
        let found = ATTENTION.gradients_blocking(problem, &inputs, &upstream, &options).unwrap();
        call.compare_gradients(&format!("call {seed} ({kernel}, {problem:?})"), &found);
    }
    made
}
