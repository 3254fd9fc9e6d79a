//! Devices with less than this one has: what doesn't fit in one binding, one dispatch or one submission is computed in
//! pieces, to the same bits; what can't be is refused by the limit's name and both numbers.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::mask::{Evaluator, TileGrid};
use wgpu_attention::plan::{BackwardOptions, MaskFormat, MaskPlan, ScoreTensor, TileOptions};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, Dtype, Error, Gradients, KvCache, Layout,
    Mask, Output, Problem, RunOptions, ScoreModifiers, Session, Shape, Upstream,
};

use crate::bad_input::assert_says;
use crate::fixture::{
    ATTENTION, Operands, ScoreData, is_brief, kernels, limited, limited_with, serving,
};
use crate::tolerance::WEIGHTS_ERROR;

/// Everything that one-shot calls give for a problem.
#[derive(Debug, PartialEq)]
struct Everything {
    forward: Vec<Output>,
    inspected: Output,
    gradients: Option<Gradients>,
    mask: Vec<f32>,
    tiles: Vec<wgpu_attention::mask::TileClass>,
}

/// The first of it that fails.
fn everything(
    attention: &Session,
    problem: &Problem,
    operands: &Operands,
    kernels: &[ForwardKernel],
) -> Result<Everything, Error> {
    let inputs = operands.inputs();
    let mut rng = SmallRng::seed_from_u64(1);
    let elements = problem.shape().o_len().unwrap();
    let dout: Vec<f32> = (0..elements).map(|_| rng.random_range(-1.0..1.0)).collect();
    let forward = (kernels.iter())
        .map(|&kernel| {
            let outputs = RunOptions::default().lse(true).kernel(kernel);
            attention.run_blocking(problem, &inputs, &outputs)
        })
        .collect::<Result<_, _>>()?;
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL.to_vec());
    let options = BackwardOptions::default();
    let upstream = Upstream::new(&dout);
    let grid = TileGrid { block_q: 16, block_kv: 8 };
    Ok(Everything {
        forward,
        inspected: attention.run_blocking(problem, &inputs, &outputs)?,
        gradients: Some(attention.gradients_blocking(problem, &inputs, &upstream, &options)?),
        mask: attention.materialize_blocking(problem, &operands.mask, MaskFormat::Keep)?.values,
        tiles: attention
            .tile_classes_blocking(problem, &operands.mask, &TileOptions::default().grid(grid))?
            .classes,
    })
}

/// In pieces of at most so many bytes of a tensor, everything is as it is in one.
fn check_pieces(problem: &Problem, operands: &Operands, binding_bytes: u64) {
    let small = limited(|limits| limits.max_storage_buffer_binding_size = binding_bytes);
    let kernels = kernels(problem);
    let whole = everything(&ATTENTION, problem, operands, &kernels).unwrap();
    let found = everything(&small, problem, operands, &kernels).unwrap();
    assert_eq!(found, whole, "{binding_bytes} bytes, {:?}", problem.shape());
}

#[test]
fn tensors_larger_than_a_binding() {
    // k of one head has 113 x 20 elements, 9040 bytes; q, k, v, o and the tensors of scores are larger than 32 KiB. The weights
    // that a backward pass keeps of a workgroup's rows are 30 KiB, so that dk and dv are summed up chunk by chunk.
    let shape = Shape::new(3, 4, 67, 20).seq_len_kv(113).num_kv_heads(2);
    let operands = Operands::random(&shape, 1);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
    check_pieces(&problem, &operands, 32 << 10);
    // A tile map, and rows of a query head alone.
    let problem = Problem::new(shape).mask("documents & prefix | not_self".parse().unwrap());
    check_pieces(&problem, &operands, 32 << 10);
    // Rows that aren't multiples of 4, in types of which two share a word.
    let shape = Shape::new(6, 3, 35, 13).seq_len_kv(47);
    let operands = Operands::random(&shape, 2);
    let problem = Problem::new(shape).mask(Mask::causal()).dtypes(Dtype::F16);
    check_pieces(&problem, &operands, 14 << 10);
}

#[test]
fn tensors_of_all_heads_side_by_side() {
    // [batch, seq, heads, dim]: k of one sequence lies between those of its other heads, 113 x 2 x 20 x 4 bytes in all;
    // q, o and their gradients are cut between rows, too.
    let shape = Shape::new(3, 4, 67, 20).seq_len_kv(113).num_kv_heads(2);
    let operands = Operands::random(&shape, 3);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
    check_pieces(&problem.layout(Layout::Bshd), &operands, 32 << 10);
}

#[test]
fn a_bias_larger_than_a_binding() {
    let shape = Shape::new(2, 3, 37, 20).seq_len_kv(61);
    let mut operands = Operands::random(&shape, 4);
    operands.mask = ScoreData::random(&shape, 4).add_to(&shape, operands.mask);
    let score = ScoreModifiers::default().bias(true).alibi(true).sinks(true);
    let problem = Problem::new(shape).mask(Mask::causal()).score(score);
    // 54168 bytes of bias, 9028 for each head.
    check_pieces(&problem, &operands, 12 << 10);
}

#[test]
fn splits_of_a_decode_pass_in_pieces() {
    let shape = Shape::new(5, 4, 3, 20).seq_len_kv(600).num_kv_heads(2);
    let operands = Operands::random(&shape, 5);
    let problem = Problem::new(shape).mask(Mask::causal());
    let small = limited(|limits| limits.max_storage_buffer_binding_size = 100 << 10);
    for kernel in serving(&problem, true) {
        for num_splits in [1, 3] {
            let (kernel, num_splits) = (Some(kernel), Some(num_splits));
            let outputs = RunOptions::default().lse(true).kernel(kernel).num_splits(num_splits);
            let [found, whole] = [&small, &*ATTENTION].map(|attention| {
                attention.run_blocking(&problem, &operands.inputs(), &outputs).unwrap()
            });
            assert_eq!(found, whole, "{kernel:?}, {num_splits:?}");
        }
    }
}

/// Appends and attends over a cache, on one device.
fn through_a_cache(
    attention: &Session,
    shape: &CacheShape,
    new: &[Vec<f32>; 3],
) -> Result<Vec<f32>, Error> {
    use wgpu::util::DeviceExt as _;
    let upload = |values: &[f32]| {
        attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(values),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        })
    };
    let [q, k, v] = [0, 1, 2].map(|at| upload(&new[at]));
    let [turned, o] = [(); 2].map(|()| upload(&vec![f32::NAN; new[0].len()]));
    let kernels = attention.kernels();
    let mut cache = KvCache::new(kernels, shape)?;
    let heads = 2 * shape.num_kv_heads;
    let tokens = new[1].len() / shape.batch / shape.num_kv_heads / shape.head_dim;
    let rotary = Rotary::new(shape.head_dim / 2 * 2, 10_000.0, Pairing::Half);
    let append = NewTokens::new(tokens).layout(shape.layout).rotary(rotary).query_heads(heads);
    let append = AppendPlan::new(kernels, shape, &append)?;
    let problem = shape.problem(heads, tokens, QuerySequences::Uniform).mask(Mask::causal());
    let dims = [shape.batch, heads, tokens, shape.head_dim];
    let strides = shape.layout.strides(dims);
    let problem = problem.q_strides(strides).o_strides(strides);
    let plan = AttentionPlan::new(kernels, &problem, &Default::default())?;
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
    append.encode(&mut encoder, &mut cache, &buffers.q(q.slice(..)).rotated_q(turned.slice(..)))?;
    let buffers =
        cache.attention_buffers(&problem, turned.slice(..), AuxBuffers::new(), o.slice(..))?;
    plan.encode(&mut encoder, &buffers)?;
    attention.queue().submit([encoder.finish()]);
    attention.read_blocking(&o, new[0].len())
}

#[test]
fn caches_larger_than_a_binding() {
    let small = limited(|limits| limits.max_storage_buffer_binding_size = 20 << 10);
    let mut rng = SmallRng::seed_from_u64(6);
    for (shape, at_least) in [
        (CacheShape::new(3, 2, 120, 20), 3 * 2 * 120 * 20 * 4),
        (CacheShape::new(3, 2, 110, 20).layout(Layout::Bshd), 3 * 2 * 110 * 20 * 4),
        (CacheShape::new(3, 2, 60, 20).ring(), 3 * 2 * 60 * 20 * 4),
        (CacheShape::new(4, 2, 300, 13).dtype(Dtype::F16), 4 * 2 * 300 * 13 * 2),
        // Heads begin in the midst of four rows that stand together.
        (CacheShape::new(3, 2, 299, 20).dtype(Dtype::I8), 3 * 2 * 299 * 24),
        (CacheShape::new(3, 2, 179, 32).layout(Layout::Bshd).dtype(Dtype::I4), 3 * 2 * 179 * 20),
    ] {
        assert!(shape.bytes().unwrap() >= 2 * at_least && at_least > 20 << 10);
        let mut tokens = |heads: usize| -> Vec<f32> {
            let elements = shape.batch * heads * 37 * shape.head_dim;
            (0..elements).map(|_| rng.random_range(-2.0..2.0)).collect()
        };
        let new = [tokens(4), tokens(2), tokens(2)];
        let found = through_a_cache(&small, &shape, &new).unwrap();
        let whole = through_a_cache(&ATTENTION, &shape, &new).unwrap();
        assert_eq!(found, whole, "{shape:?}");
        assert!(found.iter().all(|x| x.is_finite()));
    }
}

/// One head's rows are more than a binding: appending and attending come in windows.
#[test]
fn caches_of_which_a_head_is_larger() {
    let mut rng = SmallRng::seed_from_u64(12);
    let cache = CacheShape::new(2, 2, 203, 20);
    for (shape, seq_len, bytes) in [
        (cache, 180, 12 << 10),
        (cache.layout(Layout::Bshd), 37, 13 << 10),
        (cache.ring().dtype(Dtype::F16), 180, 9 << 10),
        (CacheShape::new(2, 2, 2403, 20).dtype(Dtype::I8), 180, 40 << 10),
        (CacheShape::new(3, 2, 403, 13).dtype(Dtype::F16), 180, 9 << 10),
    ] {
        let mut tokens = |heads: usize| -> Vec<f32> {
            let elements = shape.batch * heads * seq_len * shape.head_dim;
            (0..elements).map(|_| rng.random_range(-2.0..2.0)).collect()
        };
        let new = [tokens(4), tokens(2), tokens(2)];
        let found = through_a_cache(
            &limited(|limits| limits.max_storage_buffer_binding_size = bytes),
            &shape,
            &new,
        )
        .unwrap();
        let whole = through_a_cache(&ATTENTION, &shape, &new).unwrap();
        for (at, (x, y)) in found.iter().zip(&whole).enumerate() {
            let off = f64::from((x - y).abs());
            assert!(off <= WEIGHTS_ERROR, "{shape:?}: o[{at}] is {x} instead of {y}");
        }
    }
}

#[test]
fn what_one_workgroup_reaches_is_more_than_a_binding() {
    let small = limited(|limits| limits.max_storage_buffer_binding_size = 8 << 10);
    // Scores are computed over all keys at once.
    let shape = Shape::new(2, 2, 30, 20).seq_len_kv(113);
    let operands = Operands::random(&shape, 7);
    let outputs = RunOptions::default().tensors(vec![ScoreTensor::Scores]);
    let error = small.run_blocking(&Problem::new(shape), &operands.inputs(), &outputs).unwrap_err();
    assert_says(&error, &["k (", "needs 9040", "max_storage_buffer_binding_size is 8192"]);
    assert!(matches!(error, Error::Limit { .. }));
    // A mask may read any of its data for any tile.
    let shape = Shape::new(2, 2, 300, 20).seq_len_kv(101);
    let operands = Operands::random(&shape, 8);
    let problem = Problem::new(shape).mask(Mask::Dense);
    let error =
        small.run_blocking(&problem, &operands.inputs(), &RunOptions::default()).unwrap_err();
    assert_says(&error, &["the mask's data", "max_storage_buffer_binding_size is 8192"]);
}

#[test]
fn more_workgroups_than_two_dimensions_take() {
    // 4 x 4 of them in a dispatch: 3 x 5 heads of up to 5 blocks of queries, and of more rows than that.
    let narrow = limited(|limits| limits.max_compute_workgroups_per_dimension = 4);
    let shape = Shape::new(3, 5, 67, 20);
    let operands = Operands::random(&shape, 9);
    let problem = Problem::new(shape).mask("documents & causal".parse().unwrap());
    let kernels = kernels(&problem);
    let found = everything(&narrow, &problem, &operands, &kernels).unwrap();
    assert_eq!(found, everything(&ATTENTION, &problem, &operands, &kernels).unwrap());
}

#[test]
fn more_workgroups_than_65535() {
    let shape = Shape::new(1100, 60, 1, 4).seq_len_kv(2);
    let operands = Operands::random(&shape, 10);
    let problem = Problem::new(shape);
    for kernel in kernels(&problem).into_iter().take(1) {
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        let found = ATTENTION.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
        let one = shape.batch(1).num_heads(1).num_kv_heads(1);
        for head in [0, 65_534, 65_535, 65_536, 1100 * 60 - 1] {
            let part = |values: &[f32], len: usize| values[head * len..][..len].to_vec();
            let operands = Operands {
                q: part(&operands.q, 4),
                k: part(&operands.k, 8),
                v: part(&operands.v, 8),
                mask: AuxData::new(),
            };
            let own =
                ATTENTION.run_blocking(&Problem::new(one), &operands.inputs(), &outputs).unwrap();
            assert_eq!(part(&found.o, 4), own.o, "head {head}");
            assert_eq!(part(&found.lse, 1), own.lse, "head {head}");
        }
    }
}

#[test]
fn long_work_in_submissions_of_bounded_length() {
    let shape = Shape::new(2, 3, 67, 20).seq_len_kv(113);
    let mut operands = Operands::random(&shape, 11);
    operands.mask = ScoreData::random(&shape, 11).add_to(&shape, operands.mask);
    let score = ScoreModifiers::default().bias(true).sinks(true);
    let mask = "documents & self_only_if_alone(causal)".parse().unwrap();
    let problem = Problem::new(shape).mask(mask).score(score);
    let kernels = kernels(&problem);
    let whole = everything(&ATTENTION, &problem, &operands, &kernels).unwrap();
    let mut counts = Vec::new();
    for most_work in [1, 1 << 20, 1 << 40] {
        let options = KernelOptions::default().most_work(most_work);
        let patient = limited_with(options, |_| ());
        let found = everything(&patient, &problem, &operands, &kernels).unwrap();
        assert_eq!(found, whole, "at most {most_work}");
        let shaped = problem.clone().aux_shape(operands.mask.shape());
        counts.push(
            AttentionPlan::new(patient.kernels(), &shaped, &Default::default())
                .unwrap()
                .submissions(),
        );
    }
    assert!(counts[0] > 12 && counts[0] > counts[1] && counts[1] > 2, "{counts:?}");
    assert_eq!(counts[2], 1);

    // Without a bias: weights are kept of a few rows at a time, and both kernels that share them are cut.
    let shape = Shape::new(3, 4, 67, 20).seq_len_kv(113).num_kv_heads(2);
    let operands = Operands::random(&shape, 1);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
    let whole = everything(&ATTENTION, &problem, &operands, &kernels).unwrap();
    let options = KernelOptions::default().most_work(1 << 17);
    let patient = limited_with(options, |limits| limits.max_storage_buffer_binding_size = 64 << 10);
    let found = everything(&patient, &problem, &operands, &kernels).unwrap();
    assert_eq!(found, whole, "a few rows at a time");
}

#[test]
fn a_submission_that_isnt_there() {
    let plan = AttentionPlan::new(
        ATTENTION.kernels(),
        &Problem::new(Shape::new(1, 1, 9, 20)),
        &Default::default(),
    );
    let plan = plan.unwrap();
    let buffer = ATTENTION.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 1024,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    let slice = || buffer.slice(..);
    let mask = AuxBuffers::new();
    let buffers =
        AttentionBuffers { q: slice(), k: slice(), v: slice(), aux: mask, o: slice(), lse: None };
    let error = plan.encode_submission(&mut encoder, &buffers, plan.submissions()).unwrap_err();
    assert_says(&error, &["submission", "less than 1", "1"]);
}

/// For real: a mask and keys that are larger than the 128 MiB that every device binds.
#[test]
fn beyond_128_mib() {
    const MIB: usize = 1 << 20;
    let default = limited(|limits| {
        limits.max_storage_buffer_binding_size = 128 << 20;
        limits.max_buffer_size = limits.max_buffer_size.max(256 << 20);
    });
    // [1, 1, 5900, 5900] in f32: 132.8 MiB.
    let seq_len = 5900;
    let problem = Problem::new(Shape::new(1, 1, seq_len, 4)).mask(Mask::window(700, 3));
    let tensor = default.materialize_blocking(&problem, &AuxData::new(), MaskFormat::Keep);
    let tensor = tensor.unwrap();
    assert!(tensor.values.len() * 4 > 128 * MIB);
    for (q_idx, row) in tensor.values.chunks(seq_len).enumerate() {
        let kept = q_idx.saturating_sub(700)..(q_idx + 4).min(seq_len);
        let right = |(kv_idx, &x): (usize, &f32)| x == f32::from(u8::from(kept.contains(&kv_idx)));
        assert!(row.iter().enumerate().all(right), "row {q_idx}");
    }
    // k and v of [1, 9, 60000, 64]: 131.8 MiB each.
    let shape = Shape::new(1, 9, 2, 64).seq_len_kv(60_000);
    let mut rng = SmallRng::seed_from_u64(12);
    let few: Vec<f32> = (0..8191).map(|_| rng.random_range(-2.0..2.0)).collect();
    let long = |from: usize, len: usize| -> Vec<f32> {
        few.iter().copied().cycle().skip(from).take(len).collect()
    };
    let operands = Operands {
        q: long(0, shape.q_len().unwrap()),
        k: long(17, shape.k_len().unwrap()),
        v: long(2345, shape.v_len().unwrap()),
        mask: AuxData::new(),
    };
    assert!(operands.k.len() * 4 > 128 * MIB);
    let problem = Problem::new(shape).mask(Mask::causal());
    let outputs = RunOptions::default().lse(true);
    let found = default.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
    // Each head by itself fits.
    let own = shape.num_heads(1).num_kv_heads(1);
    for head in [0, 4, 8] {
        let part = |values: &[f32]| {
            let len = values.len() / 9;
            values[head * len..][..len].to_vec()
        };
        let [q, k, v] = [&operands.q, &operands.k, &operands.v].map(|values| part(values));
        let operands = Operands { q, k, v, mask: AuxData::new() };
        let problem = Problem::new(own).mask(Mask::causal());
        let truth = wgpu_attention::reference::attention(&problem, &operands.inputs()).unwrap();
        let naive = crate::tolerance::naive(&problem, &Mask::causal(), &operands.inputs());
        let what = format!("head {head}");
        crate::tolerance::assert_close(&what, &part(&found.o), &naive.o, &truth.o);
        crate::tolerance::assert_close(&what, &part(&found.lse), &naive.lse, &truth.lse);
    }
}

/// What is asked of devices with lowered limits: every feature once.
fn features() -> Vec<(&'static str, Problem, Operands)> {
    let shape = Shape::new(2, 4, 19, 20).seq_len_kv(37).num_kv_heads(2);
    let mut features = Vec::new();
    for (name, mask) in [
        ("closed forms", "causal & key_lengths"),
        ("a tile map", "documents | dense"),
        ("rows alone", "self_only_if_alone(causal & not_self)"),
    ] {
        let problem = Problem::new(shape).mask(mask.parse().unwrap());
        features.push((name, problem, Operands::random(&shape, 13)));
    }
    let mut operands = Operands::random(&shape, 14);
    operands.mask = ScoreData::random(&shape, 14).add_to(&shape, operands.mask);
    let score = ScoreModifiers::default().bias(true).alibi(true).sinks(true).softcap(20.0);
    features.push(("scores", Problem::new(shape).score(score), operands));
    let wide = Shape::new(1, 2, 19, 256).seq_len_kv(37);
    features.push(("long rows", Problem::new(wide), Operands::random(&wide, 15)));
    let few = Shape::new(1, 4, 2, 128).seq_len_kv(300).num_kv_heads(1);
    let problem = Problem::new(few).mask(Mask::causal());
    features.push(("decoding", problem, Operands::random(&few, 16)));
    features
}

#[test]
fn with_lowered_limits_features_run_or_are_refused_by_name() {
    type Change = fn(&mut wgpu::Limits);
    // With the feature that a brief run takes of each: the driver, to which devices that promise less are all one, compiles
    // everything for each of them anew.
    let devices: [(&str, &str, Change); 9] = [
        ("downlevel", "closed forms", |limits| {
            let low = wgpu::Limits::downlevel_defaults();
            limits.max_storage_buffers_per_shader_stage = low.max_storage_buffers_per_shader_stage;
            limits.max_compute_workgroup_storage_size = low.max_compute_workgroup_storage_size;
            limits.max_compute_invocations_per_workgroup =
                low.max_compute_invocations_per_workgroup;
            limits.max_storage_buffer_binding_size = low.max_storage_buffer_binding_size;
            limits.max_buffer_size = low.max_buffer_size;
        }),
        ("6 storage buffers", "scores", |limits| limits.max_storage_buffers_per_shader_stage = 6),
        ("7 storage buffers", "scores", |limits| limits.max_storage_buffers_per_shader_stage = 7),
        ("8 storage buffers", "scores", |limits| limits.max_storage_buffers_per_shader_stage = 8),
        ("16 KiB of workgroup memory", "long rows", |limits| {
            limits.max_compute_workgroup_storage_size = 16 << 10;
        }),
        ("8 KiB of workgroup memory", "long rows", |limits| {
            limits.max_compute_workgroup_storage_size = 8 << 10;
        }),
        ("128 invocations", "decoding", |limits| {
            limits.max_compute_invocations_per_workgroup = 128;
            limits.max_compute_workgroup_size_x = 128;
        }),
        ("32 invocations", "rows alone", |limits| {
            limits.max_compute_invocations_per_workgroup = 32
        }),
        ("offsets of 256 bytes", "a tile map", |limits| {
            limits.min_storage_buffer_offset_alignment = 256
        }),
    ];
    let names = [
        "max_storage_buffers_per_shader_stage is",
        "max_compute_workgroup_storage_size is",
        "max_compute_invocations_per_workgroup is",
        "max_compute_workgroup_size_x is",
    ];
    // The limits that WebGPU promises are enough for all of it.
    let all_run = ["8 storage buffers", "16 KiB of workgroup memory", "offsets of 256 bytes"];
    let features = features();
    for (device, in_brief, change) in devices {
        let limited = limited(change);
        for (feature, problem, operands) in &features {
            if is_brief() && *feature != in_brief {
                continue;
            }
            let candidates: Vec<_> = kernels(problem)
                .into_iter()
                .chain(if *feature == "decoding" { serving(problem, true) } else { Vec::new() })
                .collect();
            let mut run = 0;
            for kernel in candidates {
                let outputs = RunOptions::default().lse(true).kernel(kernel);
                match limited.run_blocking(problem, &operands.inputs(), &outputs) {
                    Ok(found) => {
                        let whole = ATTENTION.run_blocking(problem, &operands.inputs(), &outputs);
                        assert_eq!(found, whole.unwrap(), "{feature} by {kernel} with {device}");
                        run += 1;
                    }
                    Err(error) => {
                        let text = error.to_string();
                        let named = names.iter().any(|name| text.contains(name));
                        assert!(named, "{feature} by {kernel} with {device}: {text}");
                    }
                }
            }
            assert!(run > 0 || !all_run.contains(&device), "{feature} with {device}");
            // Whether one kernel was chosen instead of another: the bits may differ then, which other tests look at.
            if let Err(error) = everything(&limited, problem, operands, &[]) {
                let text = error.to_string();
                let named = names.iter().any(|name| text.contains(name));
                assert!(named && !all_run.contains(&device), "{feature} with {device}: {text}");
            }
        }
    }
}

/// A mask's bits and its additive form in pieces, by the plan.
#[test]
fn every_form_of_a_mask_in_pieces() {
    // A workgroup writes 2048 cells, 8 KiB, and of rows of 77 as many as that are.
    let small = limited(|limits| limits.max_storage_buffer_binding_size = 8 << 10);
    let shape = Shape::new(2, 3, 450, 4).seq_len_kv(77);
    let mask: Mask = "per_head(causal, window(5,2), chunk(7)) & key_lengths".parse().unwrap();
    let lengths = [70, 31];
    let data = AuxData::new().key_lengths(lengths);
    let problem = Problem::new(shape).mask(mask.clone());
    let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
    let keep = |b, h, q, kv| evaluator.keep(b, h, q, kv);
    let lengths = {
        use wgpu::util::DeviceExt as _;
        small.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&lengths),
            usage: wgpu::BufferUsages::COPY_SRC,
        })
    };
    let aux_buffers =
        AuxBuffers::new().with(wgpu_attention::AuxTensor::KeyLengths, lengths.slice(..));
    for format in [MaskFormat::Bits, MaskFormat::Additive] {
        let plan = MaskPlan::new(small.kernels(), &problem, format).unwrap();
        let [batch, heads, rows, row] = plan.dims();
        let elements = batch * heads * rows * row;
        let output = small.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: elements as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = small.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &aux_buffers, output.slice(..)).unwrap();
        small.queue().submit([encoder.finish()]);
        let found = small.read_blocking(&output, elements).unwrap();
        for (at, row) in found.chunks(row).enumerate() {
            let (b, h, q) = (at / rows / heads, at / rows % heads, at % rows);
            for kv in 0..77 {
                let kept = match format {
                    MaskFormat::Bits => row[kv / 32].to_bits() >> (kv % 32) & 1 == 1,
                    _ => row[kv] == 0.0,
                };
                assert_eq!(kept, keep(b, h, q, kv), "{format:?} at {b}, {h}, {q}, {kv}");
            }
        }
    }
}
