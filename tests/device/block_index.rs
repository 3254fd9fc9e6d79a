//! The lists of `block_sparse` that the device picks, against the f64 reference's; and attention and gradients by them.

use wgpu_attention::auxiliary::AuxShape;
use wgpu_attention::mask::{BlockIndexOptions, BlockIndices, BlockPooling, TileClass, TileGrid};
use wgpu_attention::plan::{BlockIndexBuffers, BlockIndexPlan, TileOptions};
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionPlan, AuxBuffers, AuxData, AuxTensor, Dtype, Inputs, Layout, Mask, Problem, Session,
    Shape, reference, wgpu,
};

use crate::backward;
use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands, limited};
use crate::operands::stored;
use crate::tolerance::{assert_close, naive};

/// What the device picks, which is what the reference does.
fn picked_by(
    session: &Session,
    problem: &Problem,
    operands: &Operands,
    options: &BlockIndexOptions,
) -> BlockIndices {
    let expected = reference::block_indices(problem, &operands.inputs(), options).unwrap();
    let found = session.block_indices_blocking(problem, &operands.inputs(), options).unwrap();
    assert_eq!(found, expected, "{options:?}, {:?}", problem.shape());
    found
}

fn picked(problem: &Problem, operands: &Operands, options: &BlockIndexOptions) -> BlockIndices {
    picked_by(&ATTENTION, problem, operands, options)
}

/// Each option with both of its values, beside others.
const OPTIONS: [BlockIndexOptions; 4] = [
    BlockIndexOptions::new(8, 3),
    BlockIndexOptions::new(8, 4).causal(true).keep_first(true).share_group(true),
    BlockIndexOptions::new(8, 4)
        .causal(true)
        .keep_first(true)
        .keep_own(true)
        .pooling(BlockPooling::Max),
    BlockIndexOptions::new(8, 3).keep_own(true).share_group(true).pooling(BlockPooling::Max),
];

#[test]
fn every_option_on_awkward_sizes() {
    let sizes = [(1, 1), (1, 70), (70, 1), (64, 64), (37, 70), (70, 37), (5, 0), (0, 5)];
    for (seed, (seq_len_q, seq_len_kv)) in (0..).zip(sizes) {
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
        let operands = Operands::random(&shape, seed);
        let problem = Problem::new(shape).scale(if seed % 2 == 0 { 0.5 } else { -0.5 });
        for options in OPTIONS {
            picked(&problem, &operands, &options);
        }
    }
}

/// A list of several hundred of more blocks than a workgroup ranks at a time; blocks longer than the sequence.
#[test]
fn long_lists_and_long_blocks() {
    let shape = Shape::new(1, 1, 3, 6).seq_len_kv(700);
    let operands = Operands::random(&shape, 1);
    for options in [BlockIndexOptions::new(1, 512), BlockIndexOptions::new(5, 40).causal(true)] {
        picked(&Problem::new(shape), &operands, &options);
    }
    let found = picked(&Problem::new(shape), &operands, &BlockIndexOptions::new(1000, 3));
    assert_eq!(found.blocks, [0, -1, -1]);
}

/// Of blocks that are all alike the lower ones are listed, behind those that are listed always; as often as it is asked.
#[test]
fn of_equal_blocks_the_lower_comes_first() {
    let shape = Shape::new(1, 2, 160, 8);
    let mut operands = Operands::random(&shape, 2);
    operands.q.fill(1.0);
    operands.k.fill(-0.0);
    let problem = Problem::new(shape);
    let list = |options: BlockIndexOptions| {
        let found = picked(&problem, &operands, &options);
        let lists = found.blocks.len() / 2 / options.k;
        found.blocks[(lists - 1) * options.k..lists * options.k].to_vec()
    };
    assert_eq!(list(BlockIndexOptions::new(2, 4)), [0, 1, 2, 3]);
    assert_eq!(list(BlockIndexOptions::new(2, 4).keep_own(true)), [0, 1, 2, 79]);
    // Zeros of either sign are equal.
    operands.k[..8 * 80].fill(0.0);
    let found = picked(&problem, &operands, &BlockIndexOptions::new(2, 4).causal(true));
    assert_eq!(found.blocks[..12], [0, -1, -1, -1, 0, 1, -1, -1, 0, 1, 2, -1]);
}

/// What isn't a number ranks last, and what is infinite where it belongs; what a sequence doesn't have is never read.
#[test]
fn numbers_that_are_not_finite() {
    let shape = Shape::new(2, 1, 9, 4).seq_len_kv(48).sequences(Sequences {
        kv: KeySequences::Cached { left_padded: true },
        ..Sequences::default()
    });
    let mut operands = Operands::random(&shape, 3);
    operands.q.iter_mut().for_each(|x| *x = x.abs());
    operands.mask = AuxData::new().kv_lengths([40, 33]).kv_first([2, 0]);
    // Before and behind the keys; of the second block, and of the third.
    operands.k[..2 * 4].fill(f32::NAN);
    operands.k[40 * 4..48 * 4].fill(f32::INFINITY);
    operands.k[(48 + 33) * 4..].fill(f32::NAN);
    operands.k[(48 + 9) * 4] = f32::NAN;
    operands.k[(48 + 17) * 4 + 1] = f32::INFINITY;
    operands.k[(48 + 25) * 4 + 1] = f32::NEG_INFINITY;
    let problem = Problem::new(shape);
    for pooling in [BlockPooling::Mean, BlockPooling::Max] {
        for k in 1..=5 {
            picked(&problem, &operands, &BlockIndexOptions::new(8, k).pooling(pooling));
        }
    }
    let found = picked(&problem, &operands, &BlockIndexOptions::new(8, 4));
    // Two lists a sequence: the second sequence's have the infinity, and not the NaN.
    assert!(found.blocks[8..].chunks(4).all(|list| list.contains(&2) && !list.contains(&1)));
    // Queries that are no numbers rank all blocks alike.
    operands.q.fill(f32::NAN);
    let found = picked(&problem, &operands, &BlockIndexOptions::new(8, 2));
    assert!(found.blocks.chunks(2).all(|list| list == [0, 1]));
}

/// Sequences of lengths of their own: packed, padded on the left, in a ring, in blocks; one of them empty.
#[test]
fn sequences_of_different_lengths() {
    let shape = Shape::new(3, 4, 30, 12).seq_len_kv(50).num_kv_heads(2);
    let paged = KeySequences::Paged { block_size: 16, blocks: 12, blocks_per_sequence: 4 };
    let tables = [3, 1, 7, 0, 5, 5, 5, 5, 11, 2, 8, 0];
    let packed = AuxData::new().q_starts([0, 7, 7, 37]).kv_starts([0, 50, 51, 90]);
    let ring = AuxData::new().q_lengths([30, 0, 17]).kv_lengths([77, 3, 50]);
    let blocks = AuxData::new().q_lengths([1, 30, 8]).kv_lengths([49, 0, 33]).block_tables(tables);
    for (seed, (q, kv, mask)) in (0..).zip([
        (QuerySequences::Packed { total: 37 }, KeySequences::Packed { total: 90 }, packed),
        (QuerySequences::LeftPadded, KeySequences::Ring, ring),
        (QuerySequences::LeftPadded, paged, blocks),
    ]) {
        let shape = shape.sequences(Sequences { q, kv });
        let operands = Operands { mask, ..Operands::random(&shape, seed) };
        for options in &OPTIONS[1..3] {
            picked(&Problem::new(shape), &operands, options);
        }
    }
}

/// Types of 16 bits, and other layouts; a device that binds less than a tensor has.
#[test]
fn types_layouts_and_pieces() {
    let shape = Shape::new(2, 4, 70, 20).num_kv_heads(2);
    for (seed, dtype) in (0..).zip([Dtype::F16, Dtype::Bf16]) {
        let problem = Problem::new(shape).dtypes(dtype).layout(Layout::Bshd);
        let operands = stored(Operands::random(&shape, seed), dtype.into());
        picked(&problem, &operands, &OPTIONS[1]);
    }
    let shape = Shape::new(2, 4, 640, 16).num_kv_heads(2);
    let operands = Operands::random(&shape, 1);
    let narrow = limited(|limits| limits.max_storage_buffer_binding_size = 96 << 10);
    for options in &OPTIONS[..2] {
        picked_by(&narrow, &Problem::new(shape), &operands, options);
    }
}

/// What is picked is bound as it is: forward and backward, many queries and one, by kernels for each.
#[test]
fn attention_goes_by_what_is_picked() {
    for (seed, (seq_len_q, seq_len_kv)) in (0..).zip([(150, 150), (1, 150), (37, 150)]) {
        let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
        let options = BlockIndexOptions::new(32, 3).causal(true).keep_own(true).share_group(true);
        let mask = Mask::causal() & Mask::block_sparse(32);
        let problem = Problem::new(shape).mask(mask.clone());
        let mut operands = Operands::random(&shape, seed);
        let lists = reference::block_indices(&problem, &operands.inputs(), &options).unwrap();
        operands.mask = AuxData::new().block_indices(lists.dims, lists.blocks);

        // In one encoder, without the lists on the host.
        let kernels = ATTENTION.kernels();
        let index = BlockIndexPlan::new(kernels, &problem, &options).unwrap();
        let aux = AuxShape::new().with(AuxTensor::BlockIndices, index.dims());
        let problem = problem.aux_shape(aux);
        let plan = AttentionPlan::new(kernels, &problem, &Default::default()).unwrap();
        let uploaded = ATTENTION.upload(&problem, &operands.inputs()).unwrap();
        let block_indices = ATTENTION.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: index.dims().iter().product::<usize>() as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut buffers = uploaded.buffers();
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        let own = BlockIndexBuffers {
            q: buffers.q,
            k: buffers.k,
            aux: AuxBuffers::new(),
            block_indices: block_indices.slice(..),
        };
        index.encode(&mut encoder, &own).unwrap();
        buffers.aux = AuxBuffers::new().with(AuxTensor::BlockIndices, block_indices.slice(..));
        plan.encode(&mut encoder, &buffers).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let o: Vec<f32> = ATTENTION.read_o_blocking(&uploaded).unwrap();

        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        let naive = naive(&problem, &mask, &operands.inputs());
        assert_close(&format!("o, {shape:?}"), &o, &naive.o, &truth.o);
        if seq_len_q > 1 {
            backward::check_problem(&problem, &mask, &operands, seed);
        }
    }
}

/// The tiles that kernels compute are those of the listed blocks and no others, however long the sequence is.
#[test]
fn no_tile_is_visited_but_those_that_are_listed() {
    const BLOCK: usize = 64;
    let (seq_len, k) = (32_768, 32);
    let shape = Shape::new(1, 1, seq_len, 64);
    let blocks = seq_len / BLOCK;
    let list = |own: usize| (0..k).map(move |at| ((own + at * at * 7) % blocks) as i32);
    let lists: Vec<i32> = (0..blocks).flat_map(list).collect();
    let mut kept = 0;
    for list in lists.chunks(k) {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        kept += list.len();
    }
    let data = AuxData::new().block_indices([1, 1, blocks, k], lists);
    let problem = Problem::new(shape).mask(Mask::block_sparse(BLOCK as u32));
    let grid = TileGrid { block_q: 64, block_kv: 32 };
    let options = TileOptions::default().grid(grid);
    let tiles = ATTENTION.tile_classes_blocking(&problem, &data, &options).unwrap();
    let visited = tiles.classes.iter().filter(|&&class| class != TileClass::Skip).count();
    assert_eq!(visited, kept * BLOCK * BLOCK / (grid.block_q * grid.block_kv));
    assert!(tiles.classes.iter().all(|&class| class != TileClass::Partial));
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = Shape::new(1, 2, 64, 8);
    let problem = Problem::new(shape).mask(Mask::block_sparse(8));
    let plan = |options| BlockIndexPlan::new(ATTENTION.kernels(), &problem, &options);
    assert_says(&plan(BlockIndexOptions::new(8, 600)).unwrap_err(), &["k", "1 to 512", "600"]);
    let index = plan(BlockIndexOptions::new(8, 2)).unwrap();
    let operands = Operands::random(&shape, 1);
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v);
    let uploaded = ATTENTION.upload(&Problem::new(shape), &inputs).unwrap();
    let buffers = uploaded.buffers();
    let own = |block_indices| BlockIndexBuffers {
        q: buffers.q,
        k: buffers.k,
        aux: AuxBuffers::new(),
        block_indices,
    };
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    let error = index.encode(&mut encoder, &own(buffers.o.slice(..64))).unwrap_err();
    assert_says(&error, &["block_indices", "at least 128 bytes", "64 bytes"]);
    let error = index.encode(&mut encoder, &own(buffers.q)).unwrap_err();
    assert_says(&error, &["block_indices", "another buffer than the input q"]);
    let short = Inputs::new(&operands.q[1..], &operands.k, &operands.v);
    let error = ATTENTION.block_indices_blocking(&problem, &short, &OPTIONS[0]).unwrap_err();
    assert_says(&error, &["q", "1024 elements", "1023 elements"]);
    assert!(index.scratch_bytes() >= 4 * 8 * (2 * 8 + 2 * 8));
}
