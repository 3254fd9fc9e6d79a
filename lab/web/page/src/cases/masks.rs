//! Masks made on the device against the CPU's evaluator, and the classes of their tiles against every cell.

use wgpu_attention::mask::{Evaluator, TileClass, TileGrid};
use wgpu_attention::plan::{MaskFormat, TileOptions};
use wgpu_attention::{Mask, Problem, Session, Shape};

use super::{Case, Outcome, case, ensure};
use crate::operands::{MASKS, mask_data};

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    let case = |mask: &'static &str| {
        let kernels = ["materialize", "tile classes", "tile map"];
        case(format!("tensor and tiles of {mask}"), &kernels, tensor_and_tiles(attention, mask))
    };
    MASKS.iter().map(case).collect()
}

async fn tensor_and_tiles(attention: &Session, mask: &str) -> Outcome {
    let mask: Mask = mask.parse()?;
    let mut compared = 0;
    for (seq_len_q, seq_len_kv) in [(1, 1), (7, 33), (40, 65)] {
        let shape = Shape::new(2, 2, seq_len_q, 8).seq_len_kv(seq_len_kv);
        compared += tensor(attention, &mask, &shape).await?;
        compared += tiles(attention, &mask, &shape).await?;
    }
    Ok(compared)
}

async fn tensor(attention: &Session, mask: &Mask, shape: &Shape) -> Outcome {
    let data = mask_data(shape, 1);
    let evaluator = Evaluator::new(mask, &data, shape)?;
    let problem = Problem::new(*shape).mask(mask.clone());
    for (format, kept, masked) in
        [(MaskFormat::Keep, 1.0, 0.0), (MaskFormat::Additive, 0.0, f32::NEG_INFINITY)]
    {
        let tensor = attention.materialize(&problem, &data, format).await?;
        let [batch, heads, rows, columns] = tensor.dims;
        ensure([rows, columns] == [shape.seq_len_q, shape.seq_len_kv], || "its size".to_owned())?;
        for [b, h, q_idx, kv_idx] in cells([shape.batch, shape.num_heads, rows, columns]) {
            let plane = b % batch * heads + h % heads;
            let found = tensor.values[(plane * rows + q_idx) * columns + kv_idx];
            let expected = if evaluator.keep(b, h, q_idx, kv_idx) { kept } else { masked };
            ensure(found == expected, || {
                format!("{found} instead of {expected} at ({b}, {h}, {q_idx}, {kv_idx})")
            })?;
        }
    }
    Ok(2)
}

/// SKIP keeps no cell, FULL all of them.
async fn tiles(attention: &Session, mask: &Mask, shape: &Shape) -> Outcome {
    let data = mask_data(shape, 1);
    let evaluator = Evaluator::new(mask, &data, shape)?;
    let problem = Problem::new(*shape).mask(mask.clone());
    let grid = TileGrid { block_q: 8, block_kv: 16 };
    let tiles = attention.tile_classes(&problem, &data, &TileOptions::default().grid(grid)).await?;
    let [batch, heads, rows, columns] = tiles.dims;
    for [b, h, y, x] in cells([shape.batch, shape.num_heads, rows, columns]) {
        let plane = b % batch * heads + h % heads;
        let class = tiles.classes[(plane * rows + y) * columns + x];
        let queries = y * 8..((y + 1) * 8).min(shape.seq_len_q);
        let keys = x * 16..((x + 1) * 16).min(shape.seq_len_kv);
        let mut kept = queries
            .flat_map(|q_idx| keys.clone().map(move |kv_idx| (q_idx, kv_idx)))
            .map(|(q_idx, kv_idx)| evaluator.keep(b, h, q_idx, kv_idx));
        let right = match class {
            TileClass::Skip => !kept.any(|kept| kept),
            TileClass::Full => kept.all(|kept| kept),
            TileClass::Partial => true,
        };
        ensure(right, || format!("tile ({y}, {x}) of ({b}, {h}) in {shape:?} is {class:?}"))?;
    }
    Ok(1)
}

/// Every index below these sizes.
fn cells([batch, heads, rows, columns]: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    (0..batch * heads * rows * columns).map(move |at| {
        [
            at / columns / rows / heads,
            at / columns / rows % heads,
            at / columns % rows,
            at % columns,
        ]
    })
}
