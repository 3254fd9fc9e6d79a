//! Buffers of the caller's that lie in the middle of larger ones: whatever ids, lengths, starts and tables say, and whatever
//! index a function of the user's own asks for, nothing around what is bound is read or written.

use wgpu::util::DeviceExt as _;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, Custom, CustomType, ForwardKernel, KeySequences, Layout, Mask,
    MaskBuffers, MaskFormat, MaskInput, MaskPlan, Problem, QuerySequences, Shape, TilePlan,
};

use crate::fixture::{ATTENTION, Operands, kernels};
use crate::sequences::{Batch, FORMS};

/// Words before and behind what is bound: more than any offset's alignment, and than a few rows.
const AROUND: usize = 1 << 12;
/// What lies there. Of the first, no sum keeps a trace; every sum shows the second.
const SENTINELS: [u32; 2] = [0, 0x7fc0_5afe];
/// Indices, lengths and ids that are no such thing.
const HOSTILE: [u32; 8] =
    [u32::MAX, 0x8000_0000, 0x7fff_ffff, 0xffff_fff0, 0x0001_0000, 0x4000_0000, 0xffff, 3];

/// A buffer of which the middle is bound.
struct Guarded {
    buffer: wgpu::Buffer,
    words: usize,
    sentinel: u32,
}

impl Guarded {
    fn new(middle: &[u32], sentinel: u32) -> Self {
        let mut words = vec![sentinel; AROUND];
        words.extend(middle);
        // The end of the middle may lie anywhere, its start at a multiple of the alignment.
        words.extend([sentinel; AROUND]);
        let buffer = ATTENTION.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&words),
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
        });
        Self { buffer, words: middle.len(), sentinel }
    }

    fn floats(values: &[f32], sentinel: u32) -> Self {
        Self::new(bytemuck::cast_slice(values), sentinel)
    }

    fn slice(&self) -> wgpu::BufferSlice<'_> {
        let start = 4 * AROUND as u64;
        self.buffer.slice(start..start + 4 * self.words as u64)
    }

    /// The middle; fails where anything around it has changed.
    #[track_caller]
    fn read(&self, what: &str) -> Vec<u32> {
        let all = ATTENTION.read_blocking(&self.buffer, 2 * AROUND + self.words).unwrap();
        let all: Vec<u32> = all.into_iter().map(f32::to_bits).collect();
        let (before, rest) = all.split_at(AROUND);
        let (middle, behind) = rest.split_at(self.words);
        for (at, &word) in before.iter().chain(behind).enumerate() {
            assert_eq!(word, self.sentinel, "{what}: word {at} around it was written");
        }
        middle.to_vec()
    }
}

/// What every kernel makes of the problem with such data: o, lse, keep mask and tile classes.
fn everything(
    problem: &Problem,
    operands: &Operands,
    data: &[(MaskInput, Vec<u32>)],
    custom: Option<(&str, &[u32])>,
    kernel: ForwardKernel,
    sentinel: u32,
) -> Vec<Vec<u32>> {
    let [q, k, v] =
        [&operands.q, &operands.k, &operands.v].map(|values| Guarded::floats(values, sentinel));
    let inputs: Vec<_> =
        data.iter().map(|(input, words)| (*input, Guarded::new(words, sentinel))).collect();
    let custom = custom.map(|(name, words)| (name, Guarded::new(words, sentinel)));
    let mut mask = MaskBuffers::new();
    for (input, guarded) in &inputs {
        mask = mask.with(*input, guarded.slice());
    }
    if let Some((name, guarded)) = &custom {
        mask = mask.with_custom(name, guarded.slice());
    }
    // What isn't written is as it was: the same in each run.
    let written = |words: usize| Guarded::new(&vec![0x7fab_cdef; words], sentinel);
    let shape = problem.shape();
    let o = written(shape.o_len().unwrap());
    let lse = written(shape.lse_len().unwrap());
    let plan = AttentionPlan::with_kernel(ATTENTION.kernels(), problem, Some(kernel)).unwrap();
    let buffers = AttentionBuffers {
        q: q.slice(),
        k: k.slice(),
        v: v.slice(),
        mask: mask.clone(),
        o: o.slice(),
        lse: Some(lse.slice()),
    };
    let keep = MaskPlan::new(ATTENTION.kernels(), problem, MaskFormat::Keep).unwrap();
    let keep_mask = written(keep.dims().iter().product());
    let tiles = TilePlan::new(ATTENTION.kernels(), problem, None).unwrap();
    let classes = written(tiles.dims().iter().product());
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &buffers).unwrap();
    keep.encode(&mut encoder, &mask, keep_mask.slice()).unwrap();
    tiles.encode(&mut encoder, &mask, classes.slice()).unwrap();
    ATTENTION.queue().submit([encoder.finish()]);
    for (input, guarded) in &inputs {
        guarded.read(input.name());
    }
    for (name, guarded) in [("q", &q), ("k", &k), ("v", &v)] {
        guarded.read(name);
    }
    [("o", &o), ("lse", &lse), ("keep mask", &keep_mask), ("tile classes", &classes)]
        .map(|(name, guarded)| guarded.read(&format!("{name} of {kernel}, {problem:?}")))
        .to_vec()
}

/// Kernels that the checks are made with: what reads data is the same in each, so that one case of every test has them all.
#[derive(Clone, Copy)]
enum By {
    Best,
    All,
}

/// Runs with each of the sentinels around everything; the results are the same.
fn check(
    by: By,
    problem: &Problem,
    operands: &Operands,
    data: &[(MaskInput, Vec<u32>)],
    custom: Option<(&str, &[u32])>,
) {
    let most = match by {
        By::Best => 1,
        By::All => usize::MAX,
    };
    for kernel in kernels(problem).into_iter().take(most) {
        let [first, second] =
            SENTINELS.map(|sentinel| everything(problem, operands, data, custom, kernel, sentinel));
        assert!(first == second, "{kernel} read what lies around its buffers: {problem:?}");
    }
}

/// Hostile words for an input, in an order that depends on `turn`.
fn hostile(words: usize, turn: usize) -> Vec<u32> {
    (0..words).map(|at| HOSTILE[(at * 3 + turn + at / 8) % HOSTILE.len()]).collect()
}

#[test]
fn hostile_ids_tables_and_ranges() {
    let shape = Shape::new(2, 2, 37, 20).seq_kv(41);
    let operands = Operands::random(&shape, 1);
    let (batch, heads, q, kv) = (2, 2, 37, 41);
    use MaskInput as Input;
    for (mask, inputs) in [
        ("key_lengths", vec![(Input::KeyLengths, batch)]),
        ("prefix & causal", vec![(Input::PrefixLengths, batch)]),
        ("token_padding", vec![(Input::TokenIds, batch * kv), (Input::PadId, 1)]),
        ("documents", vec![(Input::DocumentIdsQ, batch * q), (Input::DocumentIdsKv, batch * kv)]),
        (
            "block_bidirectional",
            vec![(Input::BlockIdsQ, batch * q), (Input::BlockIdsKv, batch * kv)],
        ),
    ] {
        let problem = Problem::new(shape).mask(mask.parse().unwrap());
        for turn in 0..3 {
            let data: Vec<_> =
                inputs.iter().map(|&(input, words)| (input, hostile(words, turn))).collect();
            let by = if mask == "documents" { By::All } else { By::Best };
            check(by, &problem, &operands, &data, None);
        }
    }
    // The data's own dimensions are the problem's affair: one-shot calls take them from the data.
    let masks = [
        (Mask::Buckets, Input::BucketIds, batch * heads * 2 * kv),
        (
            Mask::ColumnRanges(wgpu_attention::ColumnRanges::Ranges),
            Input::ColumnRanges,
            batch * heads * kv * 2,
        ),
    ];
    for (mask, input, words) in masks {
        let problem = Problem::new(shape).mask(mask).data_shape(operands.mask.shape());
        for turn in 0..3 {
            check(By::Best, &problem, &operands, &[(input, hostile(words, turn))], None);
        }
    }
    // Parents that lie behind, outside, or are one's own: the walk ends all the same.
    let square = Shape::new(2, 2, 37, 20);
    let operands = Operands::random(&square, 2);
    let problem = Problem::new(square).mask(Mask::Tree);
    let own: Vec<u32> = (0..74).map(|at| at % 37).collect();
    let next: Vec<u32> = (0..74).map(|at| (at + 1) % 37).collect();
    for parents in [hostile(74, 0), hostile(74, 1), own, next] {
        check(By::Best, &problem, &operands, &[(MaskInput::TreeParents, parents)], None);
    }
}

#[test]
fn hostile_lengths_starts_and_block_tables() {
    for &(q, kv) in FORMS {
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let operands = batch.operands();
        let problem = batch.problem("causal");
        let sequences = batch.shape.batch;
        for turn in 0..3 {
            let data: Vec<_> = problem
                .inputs()
                .into_iter()
                .map(|input| {
                    let words = match input {
                        MaskInput::QStarts | MaskInput::KvStarts => sequences + 1,
                        MaskInput::BlockTables => sequences * 6,
                        _ => sequences,
                    };
                    (input, hostile(words, turn))
                })
                .collect();
            assert!(!data.is_empty(), "{q:?} and {kv:?} have data");
            check(By::Best, &problem, &operands, &data, None);
        }
    }
    // Lengths that are right, so that every entry of the table is followed.
    let paged = KeySequences::Paged { block_size: 16, blocks: 23, blocks_per_sequence: 6 };
    let batch = Batch::new(QuerySequences::LeftPadded, paged, Layout::Bhsd);
    let operands = batch.operands();
    for turn in 0..3 {
        let sequences = batch.shape.batch;
        let data = [
            (MaskInput::QLengths, vec![40; sequences]),
            (MaskInput::KvLengths, vec![65; sequences]),
            (MaskInput::BlockTables, hostile(sequences * 6, turn)),
        ];
        check(By::All, &batch.problem("all"), &operands, &data, None);
    }
}

#[test]
fn hostile_indices_of_functions() {
    let shape = Shape::new(1, 2, 37, 20).seq_kv(41);
    let operands = Operands::random(&shape, 3);
    let text = "
        fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            let far = ids(ids(kv_idx) + q_idx) ^ ids(0u - kv_idx) ^ ids(kv_idx * 0x01000193u);
            return (far & 1u) == 0u;
        }";
    let custom = Custom::new(text).unwrap().buffer("ids", CustomType::U32, 41).unwrap();
    let problem = Problem::new(shape).mask(Mask::Wgsl(custom));
    check(By::All, &problem, &operands, &[], Some(("ids", &hostile(41, 0))));
}
