//! Forward passes.

use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    Dtype, Kernels, Mask, Problem, RunOptions, ScoreModifiers, Session, Shape, reference,
};

use super::{Failure, all_modifiers, few_registers, hostile_close};
use crate::operands::{Operands, ScoreData, stored};
use crate::tolerance::{close, naive_modified};

pub(super) fn dense(
    attention: &Session,
    kernel: ForwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    let shape = match kernel.is_decode() {
        true => Shape::new(3, 4, 3, 20).seq_len_kv(83).num_kv_heads(2),
        false => Shape::new(2, 4, 41, 20).seq_len_kv(75).num_kv_heads(2),
    };
    let masks = ["causal & key_lengths", "self_only_if_alone(causal & documents)"];
    for (seed, mask) in (3..).zip(masks) {
        let mask: Mask = mask.parse()?;
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
        let operands = stored(Operands::random(&shape, seed), dtype.into());
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        check(attention, &problem, &mask, &operands, &outputs, dtype)?;
    }
    Ok(())
}

/// Masks whose tiles are classed by two levels of bounds of their data.
pub(super) fn by_bounds(attention: &Session) -> Result<(), Failure> {
    let options = KernelOptions::default().largest_tile_map(0);
    let kernels = Kernels::new(attention.device(), &options);
    let attention = Session::from_kernels(&kernels, attention.queue());
    let shape = Shape::new(1, 2, 33, 8).seq_len_kv(290);
    let mask: Mask = "per_head(documents & causal, column_ranges | key_padding)".parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, 7);
    let outputs = RunOptions::default().lse(true);
    check(&attention, &problem, &mask, &operands, &outputs, Dtype::F32)
}

/// Several tiles of which none is FULL, and among their values one that isn't finite.
pub(super) fn infinity(
    attention: &Session,
    kernel: ForwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    let shape = match kernel.is_decode() {
        true => Shape::new(1, 2, 3, 20).seq_len_kv(83),
        false => Shape::new(1, 2, 41, 20).seq_len_kv(75),
    };
    let mask: Mask = "causal & key_padding".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
    let clean = stored(Operands::random(&shape, 5), dtype.into());
    let evaluator = Evaluator::new(&mask, &clean.mask, &shape)?;
    let last = shape.seq_len_q - 1;
    let key = (30..60).find(|key| evaluator.keep(0, 0, last, *key));
    let key = key.ok_or_else(|| "no key is kept".to_owned())?;
    let mut hostile = stored(Operands::random(&shape, 5), dtype.into());
    hostile.v[key * 20 + 3] = f32::INFINITY;
    let outputs = RunOptions::default().lse(true).kernel(kernel);
    let output = attention.run_blocking(&problem, &hostile.inputs(), &outputs)?;
    let truth = reference::attention(&problem, &hostile.inputs())?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(&problem, &mask, &clean.inputs(), &score, &data, dtype);
    hostile_close("o with an infinity", [&output.o, &naive.o], &truth.o, true, close)?;
    close("lse with an infinity", &output.lse, &naive.lse, &truth.lse)?;
    Ok(())
}

/// More keys than one running sum takes.
pub(super) fn segments(
    attention: &Session,
    kernel: ForwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    let shape = Shape::new(1, 1, 33, 8).seq_len_kv(4200);
    let mut dtypes = Dtypes::from(dtype);
    // Sums that are folded lie in o.
    dtypes.o = Dtype::F32;
    let problem = Problem::new(shape).mask(Mask::causal()).dtypes(dtypes);
    let operands = stored(Operands::random(&shape, 7), dtypes);
    let outputs = RunOptions::default().lse(true).kernel(kernel);
    check(attention, &problem, &Mask::causal(), &operands, &outputs, dtype)
}

/// Rows whose components are summed up in slices.
pub(super) fn long_rows(attention: &Session, kernel: ForwardKernel) -> Result<(), Failure> {
    let queries = if kernel.is_decode() { 2 } else { 9 };
    let shape = Shape::new(1, 2, queries, 20).seq_len_kv(35).head_dim_v(520);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 8);
    let outputs = RunOptions::default().lse(true).kernel(kernel);
    let few = few_registers(attention);
    check(&few, &problem, &Mask::causal(), &operands, &outputs, Dtype::F32)
}

fn check(
    attention: &Session,
    problem: &Problem,
    mask: &Mask,
    operands: &Operands,
    outputs: &RunOptions,
    dtype: Dtype,
) -> Result<(), Failure> {
    let inputs = operands.inputs();
    let output = attention.run_blocking(problem, &inputs, outputs)?;
    let truth = reference::attention(problem, &inputs)?;
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    let naive = naive_modified(problem, mask, &inputs, &score, &data, dtype);
    close(&format!("o under {mask}"), &output.o, &naive.o, &truth.o)?;
    close(&format!("lse under {mask}"), &output.lse, &naive.lse, &truth.lse)?;
    Ok(())
}

/// Keys in three splits, and in more than there are tiles of them.
pub(super) fn splits(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(3, 4, 3, 20).seq_len_kv(203).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse()?;
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, 11);
    for splits in [3, 128] {
        let outputs = RunOptions::default().lse(true).num_splits(splits);
        check(attention, &problem, &mask, &operands, &outputs, Dtype::F32)?;
    }
    Ok(())
}

pub(super) fn modifiers(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(47).num_kv_heads(2);
    let mask: Mask = "causal".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).score(all_modifiers()).dropout(0.3);
    let mut operands = Operands::random(&shape, 12);
    let data = ScoreData::random(&shape, 12);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs)?;
    let naive = naive_modified(&problem, &mask, &inputs, &all_modifiers(), &data, Dtype::F32);
    let outputs = RunOptions::default().lse(true);
    let output = attention.run_blocking(&problem, &inputs, &outputs)?;
    close("o with modifiers", &output.o, &naive.o, &truth.o)?;
    close("lse with modifiers", &output.lse, &naive.lse, &truth.lse)?;
    Ok(())
}
