//! Buffers of the caller's that lie in the middle of larger ones, and rows that lie apart: whatever ids, lengths, starts and
//! tables say, and whatever index a user-defined function asks for, nothing around what is bound is read or written,
//! and nothing between the rows.

mod append;
mod backward;
mod decode;
mod forward;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use wgpu::util::DeviceExt as _;
use wgpu_attention::mask::{MaskLeaf, Random};
use wgpu_attention::tensor::{KeySequences, QuerySequences, Strides};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{AuxBuffers, AuxTensor, Mask, Problem, Shape};

use crate::fixture::{ATTENTION, Operands, step_of_this_run};
use crate::sequences::Batch;

/// Words before and behind what is bound: more than any offset's alignment, and than a few rows.
const AROUND: usize = 1 << 12;
/// What lies there. Of the first, no sum keeps a trace; every sum shows the second.
const SENTINELS: [u32; 2] = [0, 0x7fc0_5afe];
/// What lies in the outputs beforehand.
const UNWRITTEN: u32 = 0x7fab_cdef;
/// Indices, lengths and ids that are no such thing.
const HOSTILE: [u32; 8] =
    [u32::MAX, 0x8000_0000, 0x7fff_ffff, 0xffff_fff0, 0x0001_0000, 0x4000_0000, 0xffff, 3];

/// Words between rows, and once more between heads and batches: rows are still read four words at a time.
const GAP: usize = 4;

/// A tensor `[batch, heads, rows, dim]` whose rows lie apart.
#[derive(Clone, Copy)]
struct Rows {
    dims: [usize; 4],
    strides: Strides,
}

impl Rows {
    const fn apart(dims: [usize; 4]) -> Self {
        let [_, heads, rows, dim] = dims;
        let seq = dim + GAP;
        let head = rows * seq + GAP;
        Self { dims, strides: Strides { batch: heads * head + GAP, head, seq, dim: 1 } }
    }

    /// q, k, v and o of a shape.
    fn of(shape: &Shape) -> [Self; 4] {
        let Shape { batch, num_heads, num_kv_heads, head_dim, head_dim_v, .. } = *shape;
        let [q_batch, q_rows] = match shape.sequences.q {
            QuerySequences::Packed { total } => [1, total],
            _ => [batch, shape.seq_len_q],
        };
        let [kv_batch, kv_rows] = match shape.sequences.kv {
            KeySequences::Packed { total } => [1, total],
            KeySequences::Paged { block_size, blocks, .. } => [blocks, block_size],
            _ => [batch, shape.seq_len_kv],
        };
        [
            [q_batch, num_heads, q_rows, head_dim],
            [kv_batch, num_kv_heads, kv_rows, head_dim],
            [kv_batch, num_kv_heads, kv_rows, head_dim_v],
            [q_batch, num_heads, q_rows, head_dim_v],
        ]
        .map(Self::apart)
    }

    /// Where each element lies.
    fn places(&self) -> Vec<usize> {
        let ([batch, heads, rows, dim], strides) = (self.dims, self.strides);
        let place = |at: usize| {
            let (row, h, b) = (at / dim % rows, at / dim / rows % heads, at / dim / rows / heads);
            b * strides.batch + h * strides.head + row * strides.seq + at % dim
        };
        (0..batch * heads * rows * dim).map(place).collect()
    }
}

/// A buffer of which the middle is bound.
struct Guarded {
    buffer: wgpu::Buffer,
    words: usize,
    sentinel: u32,
    /// Where its elements lie in the middle, if there is something between them.
    places: Option<Vec<usize>>,
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
        Self { buffer, words: middle.len(), sentinel, places: None }
    }

    /// Rows with sentinels between them.
    fn apart(rows: &Rows, elements: &[u32], sentinel: u32) -> Self {
        let places = rows.places();
        assert_eq!(places.len(), elements.len());
        let mut middle = vec![sentinel; rows.dims[0] * rows.strides.batch];
        for (&at, &element) in places.iter().zip(elements) {
            middle[at] = element;
        }
        Self { places: Some(places), ..Self::new(&middle, sentinel) }
    }

    fn floats_apart(rows: &Rows, values: &[f32], sentinel: u32) -> Self {
        Self::apart(rows, bytemuck::cast_slice(values), sentinel)
    }

    fn written_apart(rows: &Rows, sentinel: u32) -> Self {
        Self::apart(rows, &vec![UNWRITTEN; rows.dims.into_iter().product()], sentinel)
    }

    fn floats(values: &[f32], sentinel: u32) -> Self {
        Self::new(bytemuck::cast_slice(values), sentinel)
    }

    /// For what is written; what isn't is as it was, the same in each run.
    fn written(words: usize, sentinel: u32) -> Self {
        Self::new(&vec![UNWRITTEN; words], sentinel)
    }

    fn slice(&self) -> wgpu::BufferSlice<'_> {
        let start = 4 * AROUND as u64;
        self.buffer.slice(start..start + 4 * self.words as u64)
    }

    /// The elements; fails where anything around them has changed.
    #[track_caller]
    fn read(&self, what: &str) -> Vec<u32> {
        let all = ATTENTION.read_blocking(&self.buffer, 2 * AROUND + self.words).unwrap();
        let all: Vec<u32> = all.into_iter().map(f32::to_bits).collect();
        let (before, rest) = all.split_at(AROUND);
        let (middle, behind) = rest.split_at(self.words);
        for (at, &word) in before.iter().chain(behind).enumerate() {
            assert_eq!(word, self.sentinel, "{what}: word {at} around it was written");
        }
        let Some(places) = &self.places else { return middle.to_vec() };
        let mut between = middle.to_vec();
        places.iter().for_each(|&at| between[at] = self.sentinel);
        let written = between.iter().position(|&word| word != self.sentinel);
        assert_eq!(written, None, "{what}: a word between its rows was written");
        places.iter().map(|&at| middle[at]).collect()
    }
}

/// A problem, whose rows lie apart, and everything that it reads.
struct Case<'a> {
    problem: Problem,
    operands: &'a Operands,
    data: Vec<(AuxTensor, Vec<u32>)>,
    custom: Option<(&'static str, Vec<u32>)>,
}

impl<'a> Case<'a> {
    fn new(problem: Problem, operands: &'a Operands, data: Vec<(AuxTensor, Vec<u32>)>) -> Self {
        let [q, k, v, o] = Rows::of(problem.shape()).map(|rows| rows.strides);
        let problem = problem.q_strides(q).k_strides(k).v_strides(v).o_strides(o);
        Self { problem, operands, data, custom: None }
    }
}

/// A case's buffers, each between sentinels.
struct Bound {
    q: Guarded,
    k: Guarded,
    v: Guarded,
    data: Vec<(AuxTensor, Guarded)>,
    custom: Option<(&'static str, Guarded)>,
}

impl Bound {
    fn new(case: &Case<'_>, sentinel: u32) -> Self {
        let Operands { q, k, v, .. } = case.operands;
        let data = case.data.iter();
        let [q_rows, k_rows, v_rows, _] = Rows::of(case.problem.shape());
        Self {
            q: Guarded::floats_apart(&q_rows, q, sentinel),
            k: Guarded::floats_apart(&k_rows, k, sentinel),
            v: Guarded::floats_apart(&v_rows, v, sentinel),
            data: data.map(|(input, words)| (*input, Guarded::new(words, sentinel))).collect(),
            custom: (case.custom.as_ref())
                .map(|(name, words)| (*name, Guarded::new(words, sentinel))),
        }
    }

    fn mask(&self) -> AuxBuffers<'_> {
        let mut mask = AuxBuffers::new();
        for (input, guarded) in &self.data {
            mask = mask.with(*input, guarded.slice());
        }
        match &self.custom {
            Some((name, guarded)) => mask.with_custom(name, guarded.slice()),
            None => mask,
        }
    }

    /// Fails where anything around the inputs has changed.
    #[track_caller]
    fn check(&self) {
        for (name, guarded) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            guarded.read(name);
        }
        for (input, guarded) in &self.data {
            guarded.read(&input.name());
        }
        if let Some((name, guarded)) = &self.custom {
            guarded.read(name);
        }
    }
}

fn submit(record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    ATTENTION.queue().submit([encoder.finish()]);
}

/// Kernels that a check is made with: what reads data is the same text in each, so that one case of every test has them
/// all.
#[derive(Clone, Copy)]
enum By {
    Best,
    All,
}

impl By {
    fn of<T>(self, kernels: Vec<T>) -> impl Iterator<Item = T> {
        kernels.into_iter().take(match self {
            Self::Best => 1,
            Self::All => usize::MAX,
        })
    }
}

/// Runs with each of the sentinels around everything; the results are the same.
#[track_caller]
fn same_with_each_sentinel<T: PartialEq>(what: &str, run: impl Fn(u32) -> T) {
    let [first, second] = SENTINELS.map(run);
    assert!(first == second, "{what} read what lies around its buffers");
}

/// Hostile words for an input, in an order that depends on `turn`.
fn hostile(words: usize, turn: usize) -> Vec<u32> {
    (0..words).map(|at| HOSTILE[(at * 3 + turn + at / 8) % HOSTILE.len()]).collect()
}

/// Of the cases of [`masks`], those that a brief run takes beside the forward pass, which takes all: what reads data is the same
/// text in each kernel.
fn in_brief<'a>(
    masks: Vec<(&'static str, Case<'a>)>,
) -> impl Iterator<Item = (&'static str, Case<'a>)> {
    let step = step_of_this_run(3);
    let is_taken = move |at: usize, mask: &str| at.is_multiple_of(step) || mask == "documents";
    masks
        .into_iter()
        .enumerate()
        .filter(move |(at, (mask, _))| is_taken(*at, mask))
        .map(|(_, case)| case)
}

/// Every leaf that reads data, with hostile words for each of its tensors.
fn masks<'a>(operands: &'a Operands, shape: Shape, turn: usize) -> Vec<(&'static str, Case<'a>)> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(turn as u64);
    let mut draw = |range| rng.random_range(range);
    let mut case = |leaf: MaskLeaf| {
        let (mask, data) = leaf.random(&shape, &mut Random::new(&mut draw));
        let problem = Problem::new(shape).mask(mask).aux_shape(data.shape());
        let words = |input| hostile(problem.aux_words(input).unwrap(), turn);
        let data = problem.aux_tensors().into_iter().map(|input| (input, words(input))).collect();
        (leaf.name(), Case::new(problem, operands, data))
    };
    Mask::leaves().filter(MaskLeaf::reads_data).map(&mut case).collect()
}

/// A batch of sequences in one of the forms, with hostile lengths, starts and tables.
fn hostile_sequences<'a>(batch: &Batch, operands: &'a Operands, turn: usize) -> Case<'a> {
    let problem = batch.problem("causal");
    let sequences = batch.shape.batch;
    let words = |input| match input {
        AuxTensor::QStarts | AuxTensor::KvStarts => sequences + 1,
        AuxTensor::BlockTables => sequences * 6,
        _ => sequences,
    };
    let inputs = problem.aux_tensors();
    assert!(!inputs.is_empty(), "{:?} has data", batch.shape.sequences);
    // Most of the sequences start before they end, so that something is read.
    let first = |b: usize| if b % 3 == 2 { HOSTILE[b % 8] } else { 7 * b as u32 };
    let data = inputs.into_iter().map(|input| match input {
        AuxTensor::KvFirst => (input, (0..sequences).map(first).collect()),
        _ => (input, hostile(words(input), turn)),
    });
    Case::new(problem, operands, data.collect())
}

/// A user-defined function that reads its data wherever this says, and as far beyond.
fn wandering(shape: Shape, operands: &Operands) -> Case<'_> {
    let text = "
        fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            let far = ids(ids(kv_idx) + q_idx) ^ ids(0u - kv_idx) ^ ids(kv_idx * 0x01000193u);
            return (far & 1u) == 0u;
        }";
    let custom = WgslFunction::new(text).unwrap().buffer("ids", WgslBuffer::U32, 41).unwrap();
    let problem = Problem::new(shape).mask(Mask::Wgsl(custom));
    Case { custom: Some(("ids", hostile(41, 0))), ..Case::new(problem, operands, Vec::new()) }
}

/// Whether this driver lets an unchecked kernel reach what lies behind what is bound, which is printed. Some keep to what is
/// bound by themselves: there, only what lies between the rows shows a kernel that goes astray.
#[test]
fn an_unchecked_kernel_beyond_its_binding() {
    let text = "
        @group(0) @binding(0) var<storage, read_write> middle: array<u32>;
        @group(0) @binding(1) var<storage, read_write> seen: array<u32, 64>;
        @compute @workgroup_size(64)
        fn look(@builtin(local_invocation_index) i: u32) {
            seen[i] = middle[100u + i];
            middle[200u + i] = 7u;
        }";
    let device = ATTENTION.device();
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: what it reaches is beyond its binding, which holds fewer than 100 words, and not beyond the buffer, which has
    // thousands more: at worst the test's own words are changed.
    #[expect(unsafe_code)]
    let module = unsafe {
        device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let (middle, seen) = (Guarded::new(&[1; 37], SENTINELS[1]), Guarded::new(&[0; 64], 0));
    let entries = [(0, &middle), (1, &seen)].map(|(binding, guarded)| wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &guarded.buffer,
            offset: 4 * AROUND as u64,
            size: std::num::NonZeroU64::new(4 * guarded.words as u64),
        }),
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    submit(|encoder| {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    });
    let read = seen.read("seen").iter().filter(|&&word| word == SENTINELS[1]).count();
    let all = ATTENTION.read_blocking(&middle.buffer, 2 * AROUND + middle.words).unwrap();
    let written = all[AROUND + 37..].iter().filter(|word| word.to_bits() == 7).count();
    println!("of 64 words behind what is bound, {read} were read and {written} written");
    let behind = all[AROUND + 37..].iter().filter(|word| word.to_bits() == SENTINELS[1]).count();
    assert_eq!(behind + written, AROUND, "the sentinels are there");
}
