//! What looks inside: scores and weights, masks and tiles; and user-defined functions, which nothing else runs.

use wgpu_attention::mask::{BlockIndexOptions, Evaluator, TileGrid};
use wgpu_attention::plan::{MaskFormat, ScoreTensor, TileOptions};
use wgpu_attention::wgsl::{GradientCheck, WgslBuffer, WgslFunction};
use wgpu_attention::{AuxData, Inputs, Mask, Problem, RunOptions, Session, Shape, reference};

use super::{Failure, hostile_close};
use crate::operands::Operands;
use crate::tolerance::{close, naive};

pub(super) fn inspect(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(47).num_kv_heads(2);
    let mask: Mask = "causal & documents".parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, 31);
    let inputs = operands.inputs();
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL);
    let output = attention.run_blocking(&problem, &inputs, &outputs)?;
    let truth = reference::attention(&problem, &inputs)?;
    let naive = naive(&problem, &mask, &inputs);
    let [scores, masked_scores, weights] = &output.tensors[..] else {
        return Err(Failure::Wrong("three tensors were asked for".into()));
    };
    close("scores", scores, &naive.scores, &truth.scores)?;
    close("masked scores", masked_scores, &naive.masked_scores, &truth.masked_scores)?;
    close("weights", weights, &naive.weights, &truth.weights)?;
    Ok(())
}

/// Weights of rows that keep a score that isn't finite.
pub(super) fn inspect_infinity(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(1, 2, 33, 20).seq_len_kv(47);
    let problem = Problem::new(shape).mask(Mask::causal());
    let clean = Operands::random(&shape, 31);
    let mut hostile = Operands::random(&shape, 31);
    hostile.k[31 * 20 + 3] = f32::INFINITY;
    let outputs = RunOptions::default().tensors([ScoreTensor::Weights]);
    let output = attention.run_blocking(&problem, &hostile.inputs(), &outputs)?;
    let truth = reference::attention(&problem, &hostile.inputs())?;
    let naive = naive(&problem, &Mask::causal(), &clean.inputs());
    let found = output.tensors.first().ok_or_else(|| "weights were asked for".to_owned())?;
    let name = "weights with an infinity";
    hostile_close(name, [found, &naive.weights], &truth.weights, false, close)?;
    Ok(())
}

/// Every mask as a tensor and in tiles, against the reference's.
pub(super) fn masks(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 2, 19, 8).seq_len_kv(23);
    let data = Operands::random(&shape, 41).mask;
    for mask in crate::operands::MASKS {
        let mask: Mask = mask.parse()?;
        let problem = Problem::new(shape).mask(mask.clone());
        let tensor = attention.materialize_blocking(&problem, &data, MaskFormat::Keep)?;
        let evaluator = Evaluator::new(&mask, &data, &shape)?;
        let [batch, heads, queries, keys] = tensor.dims;
        for (at, value) in tensor.values.iter().enumerate() {
            let (q_idx, kv_idx) = (at / keys % queries, at % keys);
            let (b, h) = (at / keys / queries / heads % batch, at / keys / queries % heads);
            if (*value != 0.0) != evaluator.keep(b, h, q_idx, kv_idx) {
                return Err(format!("{mask} at ({b}, {h}, {q_idx}, {kv_idx}): {value}").into());
            }
        }
        let grid = TileGrid { block_q: 5, block_kv: 7 };
        attention.tile_classes_blocking(&problem, &data, &TileOptions::default().grid(grid))?;
    }
    Ok(())
}

/// Lists of blocks that are picked, of more blocks than are ranked at a time, and what attends by them.
pub(super) fn block_indices(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(1, 2, 9, 8).seq_len_kv(150).num_kv_heads(1);
    let options = BlockIndexOptions::new(2, 5).causal(true).keep_own(true).share_group(true);
    let mask = Mask::causal() & Mask::block_sparse(2);
    let problem = Problem::new(shape).mask(mask.clone());
    let mut operands = Operands::random(&shape, 51);
    let found = attention.block_indices_blocking(&problem, &operands.inputs(), &options)?;
    let truth = reference::block_indices(&problem, &operands.inputs(), &options)?;
    if found != truth {
        return Err(format!("block indices: {found:?} instead of {truth:?}").into());
    }
    operands.mask = AuxData::new().block_indices(found.dims, found.blocks);
    let output = attention.run_blocking(&problem, &operands.inputs(), &RunOptions::default())?;
    let problem = problem.aux_shape(operands.mask.shape());
    let truth = reference::attention(&problem, &operands.inputs())?;
    close("o", &output.o, &naive(&problem, &mask, &operands.inputs()).o, &truth.o)?;
    Ok(())
}

/// A mask and a score modifier in WGSL that say what the crate's own say, and the check of a derivative.
pub(super) fn functions(attention: &Session) -> Result<(), Failure> {
    const KEEP: &str = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
            return kv_idx <= q_idx + reach(h);
        }";
    const SCORE: &str = "
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score * 0.5;
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad * 0.5;
        }";
    let shape = Shape::new(2, 2, 33, 20);
    let keep = Mask::Wgsl(WgslFunction::new(KEEP)?.buffer("reach", WgslBuffer::U32, 2)?);
    let problem = Problem::new(shape).mask(keep).score_mod(WgslFunction::new(SCORE)?);
    let operands = Operands::random(&shape, 51);
    let data = AuxData::new().custom_u32("reach", [0, 0]);
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v).aux(&data);
    let output = attention.run_blocking(&problem, &inputs, &RunOptions::default())?;
    let known = Problem::new(shape).mask(Mask::causal());
    let known = known.clone().scale(known.get_scale() * 0.5);
    let inputs = operands.inputs();
    let truth = reference::attention(&known, &inputs)?;
    close("o by functions", &output.o, &naive(&known, &Mask::causal(), &inputs).o, &truth.o)?;
    let problem = Problem::new(shape).score_mod(WgslFunction::new(SCORE)?);
    attention.check_score_mod_grad_blocking(
        &problem,
        &AuxData::new(),
        &GradientCheck::default(),
    )?;
    Ok(())
}
