//! Sequences of different lengths, wherever they lie, against each of them alone.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu::util::DeviceExt as _;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::{Evaluator, TileClass, TileGrid};
use wgpu_attention::plan::{MaskFormat, PlanOptions, ScoreTensor, TileOptions};
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Layout, Mask, Problem,
    RunOptions, ScoreModifiers, Shape, reference,
};

use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands, ScoreData, kernels, mask_data, run};
use crate::forward::MASKS;
use crate::tolerance::{SCORES_ERROR, WEIGHTS_ERROR};

pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const DIM: usize = 20;
const BLOCK: usize = 16;
/// The most that a sequence has.
const MOST_Q: usize = 40;
const MOST_KV: usize = 65;
/// Queries and keys of each sequence: none of either, more of the one, more of the other, off every tile.
pub(crate) const LENGTHS: &[(usize, usize)] =
    &[(17, 33), (0, 5), (1, 65), (40, 0), (33, 7), (0, 0), (5, 64)];

/// Every way in which queries and keys may lie.
pub(crate) const FORMS: &[(QuerySequences, KeySequences)] = &[
    (QuerySequences::Packed { total: 96 }, KeySequences::Packed { total: 174 }),
    (QuerySequences::LeftPadded, KeySequences::Cached { left_padded: true }),
    (QuerySequences::Packed { total: 96 }, KeySequences::Cached { left_padded: false }),
    (QuerySequences::LeftPadded, KeySequences::Ring),
    (
        QuerySequences::Packed { total: 96 },
        KeySequences::Paged { block_size: BLOCK, blocks: 23, blocks_per_sequence: 6 },
    ),
];

/// Where the rows of each sequence lie, as the documentation says, worked out anew.
pub(crate) struct Places {
    /// Batch index and row of each query and of each key.
    pub(crate) q: Vec<Vec<[usize; 2]>>,
    pub(crate) kv: Vec<Vec<[usize; 2]>>,
    /// What says so, for every form.
    pub(crate) data: AuxData,
}

impl Places {
    /// Of sequences with so many queries and keys. A ring that is full may have gone round.
    pub(crate) fn random(shape: &Shape, lengths: &[(usize, usize)], rng: &mut SmallRng) -> Self {
        let Shape {
            seq_len_q: most_q, seq_len_kv: most_kv, sequences: Sequences { q, kv }, ..
        } = *shape;
        let (block, blocks, entries) = match kv {
            KeySequences::Paged { block_size, blocks, blocks_per_sequence } => {
                (block_size, blocks, blocks_per_sequence)
            }
            _ => (1, 0, 0),
        };
        let mut free: Vec<usize> = (0..blocks).collect();
        let (mut q_starts, mut kv_starts) = (vec![0], vec![0]);
        let (mut first, mut kv_lengths, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let (mut q_rows, mut kv_rows) = (Vec::new(), Vec::new());
        for (b, &(q_len, kv_len)) in lengths.iter().enumerate() {
            let [q_start, kv_start] = [q_starts[b], kv_starts[b]];
            q_starts.push(q_start + q_len);
            kv_starts.push(kv_start + kv_len);
            let q_row = |i| match q {
                QuerySequences::Packed { .. } => [0, q_start + i],
                QuerySequences::LeftPadded => [b, most_q - q_len + i],
                _ => [b, i],
            };
            q_rows.push((0..q_len).map(q_row).collect());
            let before = match kv {
                KeySequences::Cached { left_padded: true } => {
                    rng.random_range(0..=most_kv - kv_len)
                }
                KeySequences::Ring if kv_len == most_kv => rng.random_range(0..3 * most_kv),
                _ => 0,
            };
            first.push(before as i32);
            kv_lengths.push((before + kv_len) as i32);
            let mut table = vec![-1; entries];
            if entries > 0 {
                for entry in &mut table[..kv_len.div_ceil(block)] {
                    *entry = free.swap_remove(rng.random_range(0..free.len())) as i32;
                }
            }
            let kv_row = |i| match kv {
                KeySequences::Packed { .. } => [0, kv_start + i],
                KeySequences::Ring => [b, (before + i) % most_kv],
                KeySequences::Paged { .. } => [table[i / block] as usize, i % block],
                _ => [b, before + i],
            };
            kv_rows.push((0..kv_len).map(kv_row).collect());
            tables.extend(table);
        }
        let ints = |values: Vec<usize>| values.into_iter().map(|value| value as i32);
        let data = AuxData::new()
            .q_starts(ints(q_starts))
            .kv_starts(ints(kv_starts))
            .q_lengths(lengths.iter().map(|&(q_len, _)| q_len as i32))
            .kv_lengths(kv_lengths)
            .kv_first(first)
            .block_tables(tables);
        Self { q: q_rows, kv: kv_rows, data }
    }
}

/// A batch of sequences, each a problem of its own, and the same laid out in one of the forms.
pub(crate) struct Batch {
    pub(crate) shape: Shape,
    layout: Layout,
    pub(crate) data: AuxData,
    /// Of each sequence, `[heads, its own length, dim]`.
    pub(crate) alone: Vec<Operands>,
    q_rows: Vec<Vec<[usize; 2]>>,
    kv_rows: Vec<Vec<[usize; 2]>>,
}

impl Batch {
    pub(crate) fn new(q: QuerySequences, kv: KeySequences, layout: Layout) -> Self {
        let mut rng = SmallRng::seed_from_u64(5);
        let shape = Shape::new(LENGTHS.len(), HEADS, MOST_Q, DIM)
            .seq_len_kv(MOST_KV)
            .num_kv_heads(KV_HEADS)
            .sequences(Sequences { q, kv });
        let alone = (0..)
            .zip(LENGTHS)
            .map(|(seed, &(q_len, kv_len))| {
                let shape =
                    Shape::new(1, HEADS, q_len, DIM).seq_len_kv(kv_len).num_kv_heads(KV_HEADS);
                Operands::random(&shape, seed)
            })
            .collect();
        let Places { q: q_rows, kv: kv_rows, data: lengths } =
            Places::random(&shape, LENGTHS, &mut rng);
        let uniform = Shape::new(LENGTHS.len(), HEADS, MOST_Q, DIM).seq_len_kv(MOST_KV);
        let data = mask_data(&uniform, 3).with_numbered(1, lengths);
        Self { shape, layout, data, alone, q_rows, kv_rows }
    }

    pub(crate) fn problem(&self, mask: &str) -> Problem {
        Problem::new(self.shape).layout(self.layout).mask(mask.parse().unwrap())
    }

    /// Where element `(head, row, d)` lies in a tensor of `[batch, heads, rows, DIM]`.
    fn at(&self, heads: usize, rows: usize, [batch, row]: [usize; 2], h: usize, d: usize) -> usize {
        match self.layout {
            Layout::Bhsd => ((batch * heads + h) * rows + row) * DIM + d,
            Layout::Bshd => ((batch * rows + row) * heads + h) * DIM + d,
        }
    }

    fn q_row_count(&self) -> usize {
        self.shape.q_len().unwrap() / HEADS / DIM / self.q_batches()
    }

    fn q_batches(&self) -> usize {
        match self.shape.sequences.q {
            QuerySequences::Packed { .. } => 1,
            _ => LENGTHS.len(),
        }
    }

    fn kv_row_count(&self) -> usize {
        match self.shape.sequences.kv {
            KeySequences::Packed { total } => total,
            KeySequences::Paged { block_size, .. } => block_size,
            _ => MOST_KV,
        }
    }

    /// All sequences in the form; NaN in every row that belongs to none.
    pub(crate) fn operands(&self) -> Operands {
        let mut q = vec![f32::NAN; self.shape.q_len().unwrap()];
        let mut k = vec![f32::NAN; self.shape.k_len().unwrap()];
        let mut v = k.clone();
        for (b, alone) in self.alone.iter().enumerate() {
            let (q_len, kv_len) = LENGTHS[b];
            for (i, &place) in self.q_rows[b].iter().enumerate() {
                for (h, d) in (0..HEADS).flat_map(|h| (0..DIM).map(move |d| (h, d))) {
                    q[self.at(HEADS, self.q_row_count(), place, h, d)] =
                        alone.q[(h * q_len + i) * DIM + d];
                }
            }
            for (i, &place) in self.kv_rows[b].iter().enumerate() {
                for (h, d) in (0..KV_HEADS).flat_map(|h| (0..DIM).map(move |d| (h, d))) {
                    let at = self.at(KV_HEADS, self.kv_row_count(), place, h, d);
                    k[at] = alone.k[(h * kv_len + i) * DIM + d];
                    v[at] = alone.v[(h * kv_len + i) * DIM + d];
                }
            }
        }
        Operands { q, k, v, mask: self.data.clone() }
    }

    /// Where each element of sequence `b`'s own `[heads, its queries, DIM]` lies in the batch's q, dense.
    pub(crate) fn q_elements(&self, b: usize) -> Vec<(usize, usize)> {
        self.elements(HEADS, self.q_row_count(), &self.q_rows[b])
    }

    /// The same for k and v.
    pub(crate) fn kv_elements(&self, b: usize) -> Vec<(usize, usize)> {
        self.elements(KV_HEADS, self.kv_row_count(), &self.kv_rows[b])
    }

    fn elements(&self, heads: usize, rows: usize, places: &[[usize; 2]]) -> Vec<(usize, usize)> {
        let index = (0..heads).flat_map(|h| (0..places.len()).map(move |i| (h, i)));
        let index = index.flat_map(|(h, i)| (0..DIM).map(move |d| (h, i, d)));
        let at = |(h, i, d)| self.at(heads, rows, places[i], h, d);
        index.map(at).enumerate().collect()
    }

    /// Where each of its `[heads, its queries]` lies in lse.
    pub(crate) fn lse_elements(&self, b: usize) -> Vec<(usize, usize)> {
        let (rows, places) = (self.q_row_count(), &self.q_rows[b]);
        let index = (0..HEADS).flat_map(|h| places.iter().map(move |place| (h, place)));
        index.map(|(h, place)| (place[0] * HEADS + h) * rows + place[1]).enumerate().collect()
    }

    /// Compares what the batch gave with what each sequence gives alone, and that nothing else was written.
    fn check_rows<T: Copy + PartialEq + Default + From<f32> + std::fmt::Debug>(
        &self,
        what: &str,
        [o, lse]: [&[T]; 2],
        alone: impl Fn(usize) -> [Vec<T>; 2],
    ) {
        let rows = self.q_row_count();
        let (mut o_left, mut lse_left) = (o.to_vec(), lse.to_vec());
        for (b, &(q_len, _)) in LENGTHS.iter().enumerate() {
            let [o_alone, lse_alone] = alone(b);
            for (i, &place) in self.q_rows[b].iter().enumerate() {
                for h in 0..HEADS {
                    for d in 0..DIM {
                        let at = self.at(HEADS, rows, place, h, d);
                        let expected = o_alone[(h * q_len + i) * DIM + d];
                        assert_eq!(o[at], expected, "{what}: o of ({b}, {h}, {i}, {d})");
                        o_left[at] = T::default();
                    }
                    let at = (place[0] * HEADS + h) * rows + place[1];
                    assert_eq!(lse[at], lse_alone[h * q_len + i], "{what}: lse of ({b}, {h}, {i})");
                    lse_left[at] = T::from(f32::NEG_INFINITY);
                }
            }
        }
        let rest = |left: &[T], value: f32| left.iter().all(|x| *x == T::from(value));
        assert!(rest(&o_left, 0.0), "{what}: o of a row of no sequence");
        assert!(rest(&lse_left, f32::NEG_INFINITY), "{what}: lse of a row of no sequence");
    }
}

/// Masks whose only data is what a sequence has alone, too.
const POSITIONS: &[&str] =
    &["causal & window(19,inf) | global(2)", "chunk(24) & !not_self | dilated(5,3)"];

#[test]
fn sequences_give_what_each_gives_alone() {
    for (at, &(q, kv)) in FORMS.iter().enumerate() {
        let layout = [Layout::Bhsd, Layout::Bshd][at % 2];
        let batch = Batch::new(q, kv, layout);
        let operands = batch.operands();
        for mask in POSITIONS {
            let problem = batch.problem(mask);
            let alone = |b: usize| {
                let (q_len, kv_len) = LENGTHS[b];
                let shape =
                    Shape::new(1, HEADS, q_len, DIM).seq_len_kv(kv_len).num_kv_heads(KV_HEADS);
                Problem::new(shape).mask(mask.parse().unwrap())
            };
            let truth = reference::attention(&problem, &operands.inputs()).unwrap();
            batch.check_rows(&format!("reference, {mask}, {kv:?}"), [&truth.o, &truth.lse], |b| {
                let result = reference::attention(&alone(b), &batch.alone[b].inputs()).unwrap();
                [result.o, result.lse]
            });
            for kernel in kernels(&problem) {
                let output = run(&problem, &operands, kernel);
                let what = format!("{kernel}, {mask}, {q:?}, {:?}", kv);
                batch.check_rows(&what, [&output.o, &output.lse], |b| {
                    let output = run(&alone(b), &batch.alone[b], kernel);
                    [output.o, output.lse]
                });
            }
        }
    }
}

#[test]
fn every_mask_holds_for_sequences_of_any_lengths() {
    // Masks see the lengths alone: one form of each stands for the others.
    for (q, kv) in [FORMS[0], FORMS[3]] {
        let batch = Batch::new(q, kv, Layout::Bhsd);
        for text in MASKS.iter().chain(&["tree"]) {
            let mask: Mask = text.parse().unwrap();
            let problem = Problem::new(batch.shape).mask(mask.clone());
            let evaluator = Evaluator::new(&mask, &batch.data, &batch.shape).unwrap();
            let tensor =
                ATTENTION.materialize_blocking(&problem, &batch.data, MaskFormat::Keep).unwrap();
            assert_eq!(tensor.dims[0], LENGTHS.len());
            let heads = tensor.dims[1];
            let keeps = |b: usize, h: usize, q_idx: usize, kv_idx: usize| {
                let cell = ((b * heads + h % heads) * MOST_Q + q_idx) * MOST_KV + kv_idx;
                tensor.values[cell] == 1.0
            };
            let grid = TileGrid { block_q: 8, block_kv: 6 };
            let tiles = ATTENTION
                .tile_classes_blocking(&problem, &batch.data, &TileOptions::default().grid(grid))
                .unwrap();
            let [_, tile_heads, tile_rows, tile_columns] = tiles.dims;
            for (b, &(q_len, kv_len)) in LENGTHS.iter().enumerate() {
                for h in 0..HEADS {
                    for (q_idx, kv_idx) in
                        (0..MOST_Q).flat_map(|i| (0..MOST_KV).map(move |j| (i, j)))
                    {
                        let inside = q_idx < q_len && kv_idx < kv_len;
                        let kept = evaluator.keep(b, h, q_idx, kv_idx);
                        assert!(inside || !kept, "{text}: a cell of no sequence is kept");
                        assert_eq!(
                            keeps(b, h, q_idx, kv_idx),
                            kept,
                            "{text} at {b}, {h}, {q_idx}, {kv_idx}"
                        );
                        let tile = (q_idx / 8) * tile_columns + kv_idx / 6;
                        let plane = b * tile_heads + h % tile_heads;
                        let class = tiles.classes[plane * tile_rows * tile_columns + tile];
                        match class {
                            TileClass::Skip => {
                                assert!(!kept, "{text}: a kept cell in a skipped tile")
                            }
                            TileClass::Full => {
                                assert!(kept || !inside, "{text}: a masked cell in a full tile")
                            }
                            TileClass::Partial => {}
                        }
                    }
                }
            }
        }
    }
}

/// Masks that read data, with score modifiers, on the forward kernels and the tensors for looking inside.
#[test]
fn data_and_scores_count_from_each_sequence() {
    let (q, kv) = FORMS[4];
    let batch = Batch::new(q, kv, Layout::Bhsd);
    let score = ScoreModifiers::default().bias(true).alibi(true).sinks(true);
    let scores = ScoreData::random(&batch.shape, 9);
    let dense = batch.shape.sequences(Sequences::default());
    let data = scores.add_to(&dense, batch.data.clone());
    let operands = Operands { mask: data, ..batch.operands() };
    let problem = batch
        .problem("self_only_if_alone(causal & documents) | buckets & prefix")
        .score(score)
        .aux_shape(operands.mask.shape());
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let near = |what: &str, found: &[f32], expected: &[f64], allowed: f64| {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (at, (&x, &y)) in found.iter().zip(expected).enumerate() {
            let same = f64::from(x) == y;
            assert!(
                same || (f64::from(x) - y).abs() <= allowed,
                "{what}[{at}]: {x} instead of {y}"
            );
        }
    };
    for kernel in kernels(&problem) {
        let outputs =
            RunOptions::default().lse(true).kernel(kernel).tensors(ScoreTensor::ALL.to_vec());
        let output = ATTENTION.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
        near("o", &output.o, &truth.o, WEIGHTS_ERROR);
        near("lse", &output.lse, &truth.lse, SCORES_ERROR);
        near("scores", &output.tensors[0], &truth.scores, SCORES_ERROR);
        near("masked scores", &output.tensors[1], &truth.masked_scores, SCORES_ERROR);
        near("weights", &output.tensors[2], &truth.weights, WEIGHTS_ERROR);
    }
}

#[test]
fn data_that_contradicts_itself_is_refused() {
    let says = |at: usize, change: fn(AuxData) -> AuxData, parts: &[&str]| {
        let (q, kv) = FORMS[at];
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let operands = Operands { mask: change(batch.data.clone()), ..batch.operands() };
        let problem = batch.problem("causal");
        let error = ATTENTION.run_blocking(&problem, &operands.inputs(), &RunOptions::default());
        assert_says(&error.unwrap_err(), parts);
        assert_says(&reference::attention(&problem, &operands.inputs()).unwrap_err(), parts);
    };
    says(0, |data| data.q_starts([0, 17, 17, 18, 58, 91, 91, 95]), &["q_starts[7]", "96", "95"]);
    says(0, |data| data.q_starts([0, 17, 16, 18, 58, 91, 91, 96]), &["q_starts[2]", "17 to", "16"]);
    says(0, |data| data.q_starts([0, 58, 58, 59, 60, 91, 91, 96]), &["q_starts[1]", "40", "58"]);
    says(0, |data| data.kv_starts([1, 33, 38, 103, 103, 110, 110, 174]), &["kv_starts[0]", "1"]);
    says(0, |data| data.kv_starts([0; 3]), &["kv_starts", "8 elements", "3 elements"]);
    says(1, |data| data.q_lengths([41; 7]), &["q_lengths[0]", "seq_len_q = 40", "41"]);
    says(1, |data| data.kv_first([66; 7]), &["kv_first[0]", "kv_lengths[0]", "66"]);
    says(2, |data| data.kv_lengths([5, 66, 1, 1, 1, 1, 1]), &["kv_lengths[1]", "65", "66"]);
    says(3, |data| data.kv_lengths([-1; 7]), &["kv_lengths[0]", "-1"]);
    says(4, |data| data.block_tables([23; 42]), &["block_tables[0, 0]", "blocks - 1 = 22", "23"]);
    says(4, |data| data.block_tables([-1; 42]), &["block_tables[0, 0]", "-1"]);
}

#[test]
fn shapes_of_sequences_are_validated() {
    let says = |kv: KeySequences, parts: &[&str]| {
        let sequences = Sequences { q: QuerySequences::Uniform, kv };
        assert_says(&Shape::new(1, 1, 40, 8).sequences(sequences).validate().unwrap_err(), parts);
    };
    let paged = |block_size, blocks, blocks_per_sequence| KeySequences::Paged {
        block_size,
        blocks,
        blocks_per_sequence,
    };
    says(paged(0, 3, 40), &["block_size", "1 to 536870912", "0"]);
    says(paged(16, 0, 3), &["blocks", "0"]);
    says(paged(16, 3, 2), &["blocks_per_sequence", "seq_len_kv = 40", "2"]);
    says(KeySequences::Packed { total: 1 << 30 }, &["packed keys", "rows"]);
}

/// Data that the host doesn't see: where some of it is wrong nothing is written, and the fault can be read.
#[test]
fn faults_on_the_device_are_caught_and_told() {
    let fault = |at: usize, change: &[(AuxTensor, &[i32])], kernel: ForwardKernel| {
        let (q, kv) = FORMS[at];
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let operands = batch.operands();
        let problem = batch.problem("causal");
        let plan = AttentionPlan::new(
            ATTENTION.kernels(),
            &problem,
            &PlanOptions::default().kernel(kernel),
        )
        .unwrap();
        let device = ATTENTION.device();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let upload = |contents: &[u8]| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents,
                usage,
            })
        };
        let [q, k, v] =
            [&operands.q, &operands.k, &operands.v].map(|x| upload(bytemuck::cast_slice(x)));
        let inputs: Vec<_> = problem
            .aux_tensors()
            .into_iter()
            .map(|input| {
                let changed =
                    change.iter().find(|(other, _)| *other == input).map(|(_, words)| *words);
                let words = changed.unwrap_or(&[0; 42]);
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                (input, upload(&bytes))
            })
            .collect();
        let mask = inputs
            .iter()
            .fold(AuxBuffers::new(), |mask, (input, buffer)| mask.with(*input, buffer.slice(..)));
        let unwritten = |elements: usize| upload(&vec![0xab; elements * 4]);
        let (o, lse) = (unwritten(operands.q.len()), unwritten(batch.shape.lse_len().unwrap()));
        let word = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: usage | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: mask,
            o: o.slice(..),
            lse: Some(lse.slice(..)),
        };
        let mut encoder = device.create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &buffers).unwrap();
        plan.encode_sequences_check(&mut encoder, word.slice(..)).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let found = ATTENTION.read_blocking(&word, 1).unwrap()[0].to_bits();
        for written in [&o, &lse] {
            let words = ATTENTION.read_blocking(written, written.size() as usize / 4).unwrap();
            assert!(words.iter().all(|word| word.to_bits() == 0xabab_abab), "{kernel}: written");
        }
        plan.check_sequences(found)
    };
    for kernel in ForwardKernel::ALL {
        let (q, kv) = FORMS[0];
        if !kernels(&Batch::new(q, kv, Layout::Bhsd).problem("causal")).contains(&kernel) {
            continue;
        }
        fault(0, &[], kernel).unwrap();
        let starts = [0, 5, 3, 9, i32::MAX, -1, 90, 96];
        let error = fault(0, &[(AuxTensor::QStarts, &starts)], kernel).unwrap_err();
        assert_says(&error, &["q_starts[1] and [2]", "0 to 40", "96 rows"]);
        let error = fault(0, &[(AuxTensor::KvStarts, &starts)], kernel).unwrap_err();
        assert_says(&error, &["kv_starts[1]"]);
        let error =
            fault(1, &[(AuxTensor::QLengths, &[1, 41, -1, 1, 1, 1, 1])], kernel).unwrap_err();
        assert_says(&error, &["q_lengths[1]", "seq_len_q = 40"]);
        let tables = [i32::MAX; 42];
        let lengths = [0, 0, 9, 65, 1, 1, 1];
        let faulty = [(AuxTensor::KvLengths, &lengths[..]), (AuxTensor::BlockTables, &tables[..])];
        let error = fault(4, &faulty, kernel).unwrap_err();
        assert_says(&error, &["block_tables[2]", "below 23"]);
        let error = fault(3, &[(AuxTensor::KvLengths, &[-1; 7])], kernel).unwrap_err();
        assert_says(&error, &["kv_lengths[0]"]);
    }
}
