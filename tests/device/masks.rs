//! Masks made on the device against the CPU's evaluator, and the classes of their tiles against every cell.

use wgpu_attention::mask::{Evaluator, TileClass, TileGrid, compositions};
use wgpu_attention::plan::{MaskFormat, MaskPlan, TileOptions};
use wgpu_attention::{AuxBuffers, AuxData, Mask, Problem, Session, Shape};

use crate::fixture::{ATTENTION, mask_data};
use crate::forward::MASKS;

const SHAPES: &[(usize, usize)] = &[(1, 1), (7, 33), (33, 7), (40, 65), (5, 32)];

/// Compares the materialized mask, cell by cell, in every format.
pub(crate) fn check_materialized(mask: &Mask, shape: &Shape, data: &AuxData) {
    let evaluator = Evaluator::new(mask, data, shape).unwrap();
    let problem = Problem::new(*shape).mask(mask.clone());
    for (format, kept, masked) in
        [(MaskFormat::Keep, 1.0, 0.0), (MaskFormat::Additive, 0.0, f32::NEG_INFINITY)]
    {
        let tensor = ATTENTION.materialize_blocking(&problem, data, format).unwrap();
        let [batch, heads, rows, columns] = tensor.dims;
        assert!([1, shape.batch].contains(&batch) && [1, shape.num_heads].contains(&heads));
        assert_eq!([rows, columns], [shape.seq_len_q, shape.seq_len_kv]);
        for_each_cell(shape, |[b, h, q_idx, kv_idx]| {
            let plane = b % batch * heads + h % heads;
            let value = tensor.values[(plane * rows + q_idx) * columns + kv_idx];
            let expected = if evaluator.keep(b, h, q_idx, kv_idx) { kept } else { masked };
            assert_eq!(value, expected, "{mask} at ({b}, {h}, {q_idx}, {kv_idx}) of {shape:?}");
        });
    }
}

/// Compares the classes of all tiles with their cells: SKIP keeps none, FULL all; exact where a tile map is made.
pub(crate) fn check_tiles(mask: &Mask, shape: &Shape, data: &AuxData, grid: TileGrid) {
    check_tiles_on(&ATTENTION, mask, shape, data, grid);
}

pub(crate) fn check_tiles_on(
    session: &Session,
    mask: &Mask,
    shape: &Shape,
    data: &AuxData,
    grid: TileGrid,
) {
    let evaluator = Evaluator::new(mask, data, shape).unwrap();
    let problem = Problem::new(*shape).mask(mask.clone());
    let tiles =
        session.tile_classes_blocking(&problem, data, &TileOptions::default().grid(grid)).unwrap();
    let [batch, heads, rows, columns] = tiles.dims;
    assert_eq!(rows, shape.seq_len_q.div_ceil(grid.block_q));
    assert_eq!(columns, shape.seq_len_kv.div_ceil(grid.block_kv));
    for_each_cell(&shape.seq_len_q(rows).seq_len_kv(columns), |[b, h, y, x]| {
        let plane = b % batch * heads + h % heads;
        let class = tiles.classes[(plane * rows + y) * columns + x];
        let queries = y * grid.block_q..((y + 1) * grid.block_q).min(shape.seq_len_q);
        let keys = x * grid.block_kv..((x + 1) * grid.block_kv).min(shape.seq_len_kv);
        let mut cells = queries
            .flat_map(|q_idx| keys.clone().map(move |kv_idx| (q_idx, kv_idx)))
            .map(|(q_idx, kv_idx)| evaluator.keep(b, h, q_idx, kv_idx));
        let right = match class {
            TileClass::Skip => !cells.any(|kept| kept),
            TileClass::Full => cells.all(|kept| kept),
            TileClass::Partial => true,
        };
        assert!(right, "{mask}: tile ({y}, {x}) of ({b}, {h}) in {shape:?}, {grid:?} is {class:?}");
    });
}

/// How many of a mask's tiles are visited, and how many have a kept cell.
fn visited_and_needed(
    mask: &Mask,
    shape: &Shape,
    data: &AuxData,
    grid: TileGrid,
) -> (usize, usize) {
    let evaluator = Evaluator::new(mask, data, shape).unwrap();
    let problem = Problem::new(*shape).mask(mask.clone());
    let tiles = ATTENTION
        .tile_classes_blocking(&problem, data, &TileOptions::default().grid(grid))
        .unwrap();
    let visited = tiles.classes.iter().filter(|&&class| class != TileClass::Skip).count();
    let [batch, heads, rows, columns] = tiles.dims;
    let mut needed = std::collections::HashSet::new();
    for_each_cell(shape, |[b, h, q_idx, kv_idx]| {
        if b < batch && h < heads && evaluator.keep(b, h, q_idx, kv_idx) {
            needed.insert([b, h, q_idx / grid.block_q, kv_idx / grid.block_kv]);
        }
    });
    assert_eq!(tiles.classes.len(), batch * heads * rows * columns);
    (visited, needed.len())
}

/// Data for every composition, as models have it: 9 documents, blocks of 64 at random, buckets of about 16 positions.
fn realistic_data(seq: usize) -> AuxData {
    let hash = |n: usize| (n as u32).wrapping_mul(0x9e37_79b9) >> 7;
    let block = |cell: usize| hash(cell / seq / 64 * 1000 + cell % seq / 64);
    let parent = |at: usize| if at == 0 { -1 } else { ((at - 1) / 3) as i32 };
    AuxData::new()
        .dense([1, 1, seq, seq], (0..seq * seq).map(|cell| block(cell).is_multiple_of(8)))
        .prefix_lengths([seq as i32 / 3])
        .document_ids((0..seq).map(|at| (at * 9 / seq) as i32))
        .bucket_ids(
            [1, 1, 2, seq],
            (0..2 * seq).map(|at| hash(at) as i32 % (seq as i32 / 16)).collect::<Vec<_>>(),
        )
        .tree_parents((0..seq).map(parent).collect::<Vec<_>>())
}

#[test]
fn named_compositions_visit_what_they_keep() {
    let shape = Shape::new(1, 1, 1024, 64);
    let data = realistic_data(1024);
    for (name, mask) in [
        ("longformer", compositions::longformer(64, 2)),
        ("bigbird", compositions::bigbird(64, 2)),
        ("prefix_lm", compositions::prefix_lm()),
        ("packed_documents", compositions::packed_documents()),
        ("streaming_llm", compositions::streaming_llm(200, 4)),
        ("gemma2", compositions::gemma2(0, 256)),
        ("gemma3", compositions::gemma3(5, 256)),
        ("llama4", compositions::llama4(0, 200)),
        ("reformer", compositions::reformer()),
        ("speculative_tree", compositions::speculative_tree()),
    ] {
        let problem = Problem::new(shape).mask(mask.clone());
        let grid =
            ATTENTION.tile_classes_blocking(&problem, &data, &Default::default()).unwrap().grid;
        let (visited, needed) = visited_and_needed(&mask, &shape, &data, grid);
        println!("{name}: {visited} tiles visited, {needed} needed");
        assert!(
            visited >= needed && visited as f64 <= needed as f64 * 1.05,
            "{name}: {visited} tiles are visited, {needed} have a kept cell"
        );
    }
}

fn for_each_cell(shape: &Shape, mut visit: impl FnMut([usize; 4])) {
    for b in 0..shape.batch {
        for h in 0..shape.num_heads {
            for q_idx in 0..shape.seq_len_q {
                for kv_idx in 0..shape.seq_len_kv {
                    visit([b, h, q_idx, kv_idx]);
                }
            }
        }
    }
}

#[test]
fn every_mask_materializes() {
    for (seed, mask) in (0..).zip(MASKS) {
        let mask: Mask = mask.parse().unwrap();
        for &(seq_len_q, seq_len_kv) in SHAPES {
            let shape = Shape::new(2, 4, seq_len_q, 8).seq_len_kv(seq_len_kv);
            check_materialized(&mask, &shape, &mask_data(&shape, seed));
        }
    }
}

#[test]
fn trees_materialize() {
    // As many keys as queries at least: the tree is the last of them.
    for (seq_len_q, seq_len_kv) in [(1, 1), (7, 7), (7, 33), (40, 65)] {
        let shape = Shape::new(2, 2, seq_len_q, 8).seq_len_kv(seq_len_kv);
        let data = mask_data(&shape, 5);
        check_materialized(&Mask::Tree, &shape, &data);
        check_tiles(&Mask::Tree, &shape, &data, TileGrid { block_q: 4, block_kv: 3 });
    }
    let shape = Shape::new(1, 2, 24, 20).seq_len_kv(90);
    crate::fixture::check_forward(shape, "tree", 3);
}

#[test]
fn column_ranges_in_every_form() {
    let shape = Shape::new(2, 2, 20, 8).seq_len_kv(30);
    for (mask, bounds) in
        [("column_ranges", 1), ("column_ranges", 4), ("column_ranges(bidirectional)", 2)]
    {
        for heads in [1, 2] {
            let rows = (0..2 * heads * 30 * bounds / 4 * 4).map(|at| (at % 4 * 5) as i32);
            let data = AuxData::new().column_ranges([2, heads, 30, bounds], rows);
            let mask: Mask = mask.parse().unwrap();
            check_materialized(&mask, &shape, &data);
            check_tiles(&mask, &shape, &data, TileGrid { block_q: 4, block_kv: 3 });
        }
    }
}

#[test]
fn dense_masks_broadcast() {
    let shape = Shape::new(2, 3, 5, 8).seq_len_kv(37);
    let mask: Mask = "dense & causal".parse().unwrap();
    for dims in
        [[1, 1, 5, 37], [2, 1, 5, 37], [1, 3, 5, 37], [2, 1, 1, 37], [1, 1, 1, 37], [2, 3, 5, 1]]
    {
        let cells: usize = dims.iter().product();
        let data = AuxData::new().dense(dims, (0..cells).map(|i| i * 7 % 3 != 0));
        check_materialized(&mask, &shape, &data);
        check_tiles(&mask, &shape, &data, TileGrid { block_q: 2, block_kv: 8 });
    }
}

#[test]
fn bits_are_packed_from_the_least_significant() {
    let shape = Shape::new(1, 1, 3, 8).seq_len_kv(40);
    let problem = Problem::new(shape).mask(Mask::causal());
    let plan = MaskPlan::new(ATTENTION.kernels(), &problem, MaskFormat::Bits).unwrap();
    assert_eq!(plan.dims(), [1, 1, 3, 2]);
    let device = ATTENTION.kernels().device();
    let output = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 24,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &AuxBuffers::new(), output.slice(..)).unwrap();
    ATTENTION.queue().submit([encoder.finish()]);
    let words: Vec<u32> =
        ATTENTION.read_blocking(&output, 6).unwrap().into_iter().map(f32::to_bits).collect();
    // Query 0 stands at key 37.
    assert_eq!(words, [u32::MAX, 0x3f, u32::MAX, 0x7f, u32::MAX, 0xff]);
}

#[test]
fn every_tile_class_is_right() {
    for (seed, mask) in (0..).zip(MASKS) {
        let mask: Mask = mask.parse().unwrap();
        for grid in [TileGrid { block_q: 4, block_kv: 3 }, TileGrid { block_q: 1, block_kv: 1 }] {
            for &(seq_len_q, seq_len_kv) in SHAPES {
                let shape = Shape::new(2, 2, seq_len_q, 8).seq_len_kv(seq_len_kv);
                check_tiles(&mask, &shape, &mask_data(&shape, seed), grid);
            }
        }
    }
}

#[test]
fn empty_tiles_are_not_visited() {
    let shape = Shape::new(2, 2, 200, 8);
    let grid = TileGrid { block_q: 16, block_kv: 8 };
    let data = mask_data(&shape, 1).key_lengths([40, 0]);
    for mask in MASKS {
        let mask: Mask = mask.parse().unwrap();
        let (visited, needed) = visited_and_needed(&mask, &shape, &data, grid);
        assert!(
            visited as f64 <= needed as f64 * 1.05,
            "{mask}: {visited} tiles are visited, {needed} have a kept cell"
        );
    }
}
