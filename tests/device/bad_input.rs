//! Bad input comes back as an error that names the operand, what was expected and what came.

use wgpu::BufferUsages;
use wgpu_attention::cache::{AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::device::AdapterChoice;
use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::mask::{BlockIndexOptions, TileGrid};
use wgpu_attention::plan::{
    BlockIndexPlan, InspectBuffers, InspectPlan, MaskFormat, MaskPlan, MergePlan, ScoreTensor,
    TileOptions, TilePlan,
};
use wgpu_attention::tensor::{QuerySequences, Strides};
use wgpu_attention::wgsl::{GradientCheck, WgslBuffer, WgslFunction};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, DeviceOptions, Error, Layout,
    Mask, Problem, RunOptions, Session, Shape,
};

use crate::fixture::{ATTENTION, Operands, limited_with};

/// The error's text has all of `parts`.
#[track_caller]
pub(crate) fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// What a one-shot call answers after `change`.
#[track_caller]
fn refusal(shape: Shape, mask: &str, change: impl FnOnce(&mut Operands)) -> Error {
    let valid = Shape::new(2, 4, 5, 8).num_kv_heads(2);
    let mut operands = Operands::random(&valid, 1);
    change(&mut operands);
    let problem = Problem::new(shape).mask(mask.parse().unwrap());
    ATTENTION.run_blocking(&problem, &operands.inputs(), &RunOptions::default()).unwrap_err()
}

const VALID: Shape = Shape::new(2, 4, 5, 8).num_kv_heads(2);

#[test]
fn sizes() {
    let says = |shape, parts: &[&str]| assert_says(&refusal(shape, "all", |_| ()), parts);
    says(VALID.num_heads(0), &["num_heads", "at least 1", "found 0"]);
    says(VALID.num_kv_heads(0), &["num_kv_heads", "at least 1"]);
    says(VALID.num_kv_heads(3), &["num_heads", "multiple of num_kv_heads = 3", "4"]);
    says(VALID.head_dim(0), &["head_dim", "1 to 576", "0"]);
    says(VALID.head_dim(577), &["head_dim", "1 to 576", "577"]);
    says(VALID.head_dim_v(0), &["head_dim_v", "1 to 576"]);
    says(VALID.head_dim_v(1000), &["head_dim_v", "1000"]);
    says(VALID.seq_len_q(usize::MAX), &["seq_len_q", "at most"]);
    says(VALID.batch(usize::MAX), &["address space"]);
}

#[test]
fn element_counts() {
    assert_says(&refusal(VALID, "all", |x| _ = x.q.pop()), &["q:", "expected 320", "found 319"]);
    assert_says(&refusal(VALID, "all", |x| x.k.push(0.0)), &["k:", "expected 160", "found 161"]);
    assert_says(&refusal(VALID, "all", |x| x.v.clear()), &["v:", "expected 160", "found 0"]);
}

#[test]
fn mask_data() {
    let says = |mask: &str, data: AuxData, parts: &[&str]| {
        assert_says(&refusal(VALID, mask, |x| x.mask = data), parts);
    };
    says("key_lengths", AuxData::new(), &["key_lengths", "expected data", "found none"]);
    says("dense", AuxData::new(), &["dense", "found none"]);
    says("token_padding", AuxData::new(), &["token_ids", "found none"]);
    says(
        "key_lengths",
        AuxData::new().key_lengths([1]),
        &["key_lengths", "2 elements", "1 elements"],
    );
    says(
        "key_lengths",
        AuxData::new().key_lengths([1, 6]),
        &["key_lengths[1]", "0 to seq_len_kv = 5", "6"],
    );
    says("key_lengths", AuxData::new().key_lengths([-1, 5]), &["key_lengths[0]", "-1"]);
    says("prefix", AuxData::new().prefix_lengths([9, 5]), &["prefix_lengths[0]", "9"]);
    says(
        "documents",
        AuxData::new().document_ids([1; 9]),
        &["document_ids_q", "10 elements", "9 elements"],
    );
    says(
        "documents",
        AuxData::new().document_ids_q_kv([1; 10], [1; 11]),
        &["document_ids_kv", "10 elements", "11 elements"],
    );
    says("key_padding", AuxData::new().key_padding([true; 4]), &["key_padding", "10 elements"]);
    says(
        "dense",
        AuxData::new().dense([2, 3, 5, 5], [true; 150]),
        &["dense", "broadcast to [2, 4, 5, 5]", "[2, 3, 5, 5]"],
    );
    let columns =
        |bounds: usize, rows: Vec<i32>| AuxData::new().column_ranges([2, 1, 5, bounds], rows);
    says("column_ranges", columns(1, vec![9; 10]), &["column_ranges[0]", "seq_len_q = 5", "9"]);
    says("column_ranges", columns(3, vec![1; 30]), &["column_ranges", "1, 2 or 4", "3"]);
    says(
        "column_ranges",
        columns(4, [0, 5, 3, 2].repeat(10)),
        &["column_ranges[2]", "after its end", "3..2"],
    );
    says(
        "tree",
        AuxData::new().tree_parents([-1, 0, 1, 4, 2].repeat(2)),
        &["tree_parents[3]", "cycle", "4"],
    );
    says("buckets", AuxData::new(), &["bucket_ids", "found none"]);
    says("per_head(all, causal, all)", AuxData::new(), &["per_head", "num_heads = 4", "3"]);
    says("dense", AuxData::new().dense([1, 1, 5, 5], [true; 24]), &["dense", "25 elements", "24"]);
}

#[test]
fn scale_and_strides() {
    let operands = Operands::random(&VALID, 1);
    let refusal = |problem: Problem| {
        ATTENTION.run_blocking(&problem, &operands.inputs(), &RunOptions::default()).unwrap_err()
    };
    let problem = || Problem::new(VALID);
    assert_says(&refusal(problem().scale(f32::NAN)), &["scale", "finite", "NaN"]);
    assert_says(&refusal(problem().scale(f32::INFINITY)), &["scale", "finite", "inf"]);
    let strides = |seq| Strides { batch: 160, head: 40, seq, dim: 1 };
    assert_says(&refusal(problem().o_strides(strides(0))), &["o's strides", "place of its own"]);
    assert_says(&refusal(problem().q_strides(strides(usize::MAX))), &["q's strides"]);
    assert_says(&refusal(problem().q_strides(strides(1 << 40))), &["q"]);
    let deep = (0..100).fold(Mask::All, |mask, _| !mask);
    assert_says(&refusal(problem().mask(deep)), &["mask", "64 levels"]);
}

#[test]
fn kernels_that_cannot_serve() {
    assert_says(
        &"magic".parse::<ForwardKernel>().unwrap_err(),
        &["kernel", "broadcast", "tiled", "magic"],
    );
    // Its long rows come four components at a time.
    let wide = VALID.head_dim(67);
    let operands = Operands::random(&wide, 1);
    let outputs = RunOptions::default().kernel(ForwardKernel::Broadcast);
    let error =
        ATTENTION.run_blocking(&Problem::new(wide), &operands.inputs(), &outputs).unwrap_err();
    assert!(
        matches!(&error, Error::KernelRefused { kernel, .. } if kernel == "broadcast"),
        "{error}"
    );
}

#[test]
fn devices() {
    let open = |adapter| Session::open_blocking(&DeviceOptions::default().adapter(adapter));
    let error = open(AdapterChoice::Index(99)).unwrap_err();
    assert_says(&error, &["number 99", "0: "]);
    let error = open(AdapterChoice::Name("no such device".to_owned())).unwrap_err();
    assert_says(&error, &["no such device", "0: "]);
}

fn buffer(size: u64, usage: BufferUsages) -> wgpu::Buffer {
    ATTENTION.kernels().device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// What encoding answers for buffers that don't fit.
struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    lse: wgpu::Buffer,
    lengths: wgpu::Buffer,
}

impl Buffers {
    fn new() -> Self {
        let storage = |elements: u64| buffer(elements * 4, BufferUsages::STORAGE);
        Self {
            q: storage(320),
            k: storage(160),
            v: storage(160),
            o: storage(320),
            lse: storage(40),
            lengths: buffer(8, BufferUsages::COPY_SRC),
        }
    }

    fn all(&self) -> AttentionBuffers<'_> {
        AttentionBuffers {
            q: self.q.slice(..),
            k: self.k.slice(..),
            v: self.v.slice(..),
            aux: AuxBuffers::new().with(AuxTensor::KeyLengths, self.lengths.slice(..)),
            o: self.o.slice(..),
            lse: Some(self.lse.slice(..)),
        }
    }
}

fn encode(buffers: &AttentionBuffers<'_>) -> Result<(), Error> {
    let problem = Problem::new(VALID).mask(Mask::KeyLengths);
    let plan = AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    let mut encoder = ATTENTION.kernels().device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, buffers)
}

#[test]
fn buffers_of_an_application() {
    let own = Buffers::new();
    encode(&own.all()).unwrap();
    let says = |buffers: AttentionBuffers<'_>, parts: &[&str]| {
        assert_says(&encode(&buffers).unwrap_err(), parts);
    };

    let small = buffer(316 * 4, BufferUsages::STORAGE);
    says(AttentionBuffers { q: small.slice(..), ..own.all() }, &["q:", "1280 bytes", "1264 bytes"]);
    let uniform = buffer(1280, BufferUsages::UNIFORM);
    says(AttentionBuffers { o: uniform.slice(..), ..own.all() }, &["o:", "STORAGE", "UNIFORM"]);
    let large = buffer(4096, BufferUsages::STORAGE);
    says(
        AttentionBuffers { v: large.slice(4..), ..own.all() },
        &["v:", "offset", "multiple of", "4"],
    );
    says(AttentionBuffers { o: own.q.slice(..), ..own.all() }, &["o:", "another buffer", "q"]);
    says(
        AttentionBuffers { o: large.slice(..), lse: Some(large.slice(1024..)), ..own.all() },
        &["lse:", "apart from o's", "0..1280"],
    );
    says(AttentionBuffers { aux: AuxBuffers::new(), ..own.all() }, &["key_lengths", "a buffer"]);
    let mask = AuxBuffers::new().with(AuxTensor::KeyLengths, own.q.slice(..));
    says(AttentionBuffers { aux: mask, ..own.all() }, &["key_lengths", "COPY_SRC"]);
    let short = buffer(4, BufferUsages::COPY_SRC);
    let mask = AuxBuffers::new().with(AuxTensor::KeyLengths, short.slice(..));
    says(AttentionBuffers { aux: mask, ..own.all() }, &["key_lengths", "8 bytes", "4 bytes"]);
}

#[test]
fn buffers_of_the_other_plans() {
    let own = Buffers::new();
    let device = ATTENTION.kernels().device();
    let mut encoder = device.create_command_encoder(&Default::default());
    let cells = buffer(2 * 4 * 5 * 5 * 4, BufferUsages::STORAGE);
    let inspect = InspectPlan::new(ATTENTION.kernels(), &Problem::new(VALID)).unwrap();
    let buffers = InspectBuffers {
        q: own.q.slice(..),
        k: own.k.slice(..),
        aux: AuxBuffers::new(),
        output: own.lengths.slice(..),
    };
    let error = inspect.encode(&mut encoder, ScoreTensor::Weights, &buffers).unwrap_err();
    assert_says(&error, &["weights"]);
    let buffers = InspectBuffers { output: cells.slice(..), ..buffers };
    inspect.encode(&mut encoder, ScoreTensor::Weights, &buffers).unwrap();

    let problem = Problem::new(VALID).mask(Mask::KeyLengths);
    let plan = MaskPlan::new(ATTENTION.kernels(), &problem, MaskFormat::Keep).unwrap();
    let data = AuxBuffers::new().with(AuxTensor::KeyLengths, own.lengths.slice(..));
    let error = plan.encode(&mut encoder, &data, own.lengths.slice(..)).unwrap_err();
    assert_says(&error, &["mask:", "another buffer"]);
    let grid = Some(TileGrid { block_q: 0, block_kv: 4 });
    let error = ATTENTION.tile_classes_blocking(
        &problem,
        &AuxData::new().key_lengths([1, 2]),
        &TileOptions::default().grid(grid),
    );
    assert_says(&error.unwrap_err(), &["grid", "blocks of 1 to 536870912"]);
    let error = ATTENTION.read_blocking(&own.q, 1000).unwrap_err();
    assert_says(&error, &["source", "COPY_SRC"]);
}

#[test]
fn more_than_the_device_takes() {
    let problem = Problem::new(Shape::new(1, 1, 1 << 18, 8)).mask(Mask::Dense).layout(Layout::Bshd);
    let error = AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Limit { limit: "max_storage_buffer_binding_size", .. }),
        "{error}"
    );
    assert_says(&error, &["mask", "max_storage_buffer_binding_size"]);
}

/// Options of which nobody has made sure that they are anything like sizes.
#[test]
fn options_at_the_ends_of_their_types() {
    let kernels = ATTENTION.kernels();
    let far = usize::MAX;
    let problem = |mask: &str| Problem::new(VALID).mask(mask.parse().unwrap());
    for grid in [(far, far), (far, 1), (1, far), (1 << 30, 1 << 30)] {
        let grid = TileGrid { block_q: grid.0, block_kv: grid.1 };
        let options = TileOptions::default().grid(grid);
        for mask in ["causal", "dense", "documents"] {
            let error = TilePlan::new(kernels, &problem(mask), &options).unwrap_err();
            assert_says(&error, &["grid:", "1 to 536870912"]);
        }
    }
    for parts in [far, 1 << 31] {
        drop(MergePlan::new(kernels, &problem("all"), parts).unwrap_err());
    }
    for (block, k) in [(far, 1), (1, far), (far, far), (u32::MAX as usize, 1)] {
        let options = BlockIndexOptions::new(block, k).causal(true).keep_own(true).keep_first(true);
        let _ = BlockIndexPlan::new(kernels, &problem("all"), &options);
        let _ = options.dims(&VALID);
    }
    let cache = CacheShape::new(2, 2, 8, 8);
    for tokens in [far, far / 2, 1 << 29, 1 << 31] {
        for form in [QuerySequences::Uniform, QuerySequences::Packed { total: far }] {
            let _ = AppendPlan::new(kernels, &cache, &NewTokens::new(tokens).sequences(form));
            let rotary = Rotary::new(8, 1e4, Pairing::Half);
            let new = NewTokens::new(tokens).sequences(form).rotary(rotary).query_heads(far);
            let _ = AppendPlan::new(kernels, &cache, &new);
        }
    }
    let rotary = Rotary::new(far, 1e4, Pairing::Half).starting_at(far);
    let error = AppendPlan::new(kernels, &cache, &NewTokens::new(1).rotary(rotary)).unwrap_err();
    assert_says(&error, &["rotary:", "pairs"]);
    let score_mod = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return score; }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }";
    let function = WgslFunction::new(score_mod).unwrap();
    let scored = Problem::new(VALID).score_mod(function.clone());
    let check = GradientCheck::default().cells(far);
    let error = ATTENTION.check_score_mod_grad_blocking(&scored, &AuxData::new(), &check);
    assert_says(&error.unwrap_err(), &["cells:"]);
    for len in [far, 1 << 32, 1 << 31] {
        let function = function.clone().buffer("table", WgslBuffer::F32, len).unwrap();
        let scored = Problem::new(VALID).score_mod(function);
        drop(AttentionPlan::new(kernels, &scored, &Default::default()).unwrap_err());
    }
    for options in [
        KernelOptions::default().registers(0).most_work(0),
        KernelOptions::default().registers(far).most_work(u64::MAX).largest_tile_map(u64::MAX),
    ] {
        let session = limited_with(options, |_| ());
        let operands = Operands::random(&VALID, 1);
        let found =
            session.run_blocking(&problem("documents"), &operands.inputs(), &RunOptions::default());
        found.unwrap();
    }
}
