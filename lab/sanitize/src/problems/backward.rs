//! Backward passes.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::{KeySequences, Sequences};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{
    AuxData, Dtype, Gradients, Inputs, Mask, Problem, ScoreModifiers, Session, Shape, Upstream,
    reference,
};

use super::{Failure, all_modifiers, few_registers, hostile_close};
use crate::operands::{Operands, ScoreData, stored};
use crate::tolerance::{gradient_close, naive_gradients_modified};

pub(super) fn dense(
    attention: &Session,
    kernel: BackwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 41, 20).seq_len_kv(35).num_kv_heads(2);
    let longer_keys = Shape::new(1, 2, 19, 64).seq_len_kv(21).head_dim_v(16);
    let cases = [
        (shape, "causal & key_lengths"),
        (shape, "self_only_if_alone(causal & documents)"),
        (longer_keys, "causal"),
    ];
    for (seed, (shape, mask)) in (6..).zip(cases) {
        check(attention, kernel, dtype, shape, mask, seed)?;
    }
    Ok(())
}

/// Rows whose components are summed up in slices: two of dq, two of dk and dv.
pub(super) fn long_rows(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(1, 2, 9, 390).seq_len_kv(11).num_kv_heads(1).head_dim_v(20);
    let few = few_registers(attention);
    check(&few, BackwardKernel::Tiled, Dtype::F32, shape, "causal", 10)
}

/// Keys and values in blocks, of which two sequences share the first: its gradients are the sums of theirs.
pub(super) fn paged(attention: &Session) -> Result<(), Failure> {
    let kv = KeySequences::Paged { block_size: 5, blocks: 4, blocks_per_sequence: 2 };
    let sequences = Sequences { kv, ..Sequences::default() };
    let shape = Shape::new(2, 2, 7, 18).seq_len_kv(10).num_kv_heads(1).sequences(sequences);
    let data = AuxData::new().kv_lengths([9, 7]).block_tables([2, 0, 2, 3]);
    let operands = Operands { mask: data, ..Operands::random(&shape, 11) };
    let inputs = operands.inputs();
    let dout = eighths(&operands.q[..shape.o_len()?], Dtype::F32);
    let upstream = Upstream::new(&dout);
    let problem = Problem::new(shape).mask(Mask::causal());
    let found =
        attention.gradients_blocking(&problem, &inputs, &upstream, &BackwardOptions::default())?;
    let truth = reference::gradients(&problem, &inputs, &upstream)?;
    for (name, found, truth) in [("dk", &found.dk, &truth.dk), ("dv", &found.dv, &truth.dv)] {
        for (at, (&x, &y)) in found.iter().zip(truth).enumerate() {
            if (f64::from(x) - y).abs() > 1e-4 * y.abs().max(1.0) {
                return Err(format!("{name} of blocks, at {at}: {x} instead of {y}").into());
            }
        }
    }
    Ok(())
}

/// More queries and more keys than one running sum takes.
pub(super) fn segments(
    attention: &Session,
    kernel: BackwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    check(attention, kernel, dtype, Shape::new(1, 1, 33, 8).seq_len_kv(4200), "causal", 7)?;
    check(attention, kernel, dtype, Shape::new(1, 1, 4200, 8).seq_len_kv(33), "causal", 8)
}

fn check(
    attention: &Session,
    kernel: BackwardKernel,
    dtype: Dtype,
    shape: Shape,
    mask: &str,
    seed: u64,
) -> Result<(), Failure> {
    let mask: Mask = mask.parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
    let operands = stored(Operands::random(&shape, seed), dtype.into());
    let inputs = operands.inputs();
    let dout = eighths(&operands.q[..shape.o_len()?], dtype);
    let upstream = Upstream::new(&dout);
    let options = BackwardOptions::default().kernel(kernel);
    let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options)?;
    let truth = reference::gradients(&problem, &inputs, &upstream)?;
    let naive = naive_plain(&problem, &mask, &operands, &upstream, dtype);
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
    ] {
        gradient_close(&format!("{name} under {mask}"), found, naive, truth)?;
    }
    Ok(())
}

/// Of each number an eighth, as it is stored.
fn eighths(values: &[f32], dtype: Dtype) -> Vec<f32> {
    values.iter().map(|x| dtype.round(x / 8.0)).collect()
}

fn naive_plain(
    problem: &Problem,
    mask: &Mask,
    operands: &Operands,
    upstream: &Upstream<'_>,
    dtype: Dtype,
) -> Gradients {
    let (score, data) = (ScoreModifiers::default(), ScoreData::default());
    naive_gradients_modified(problem, mask, &operands.inputs(), upstream, &score, &data, dtype)
}

/// A number that isn't finite in k, then in dout, in tiles that aren't FULL.
pub(super) fn nan(
    attention: &Session,
    kernel: BackwardKernel,
    dtype: Dtype,
) -> Result<(), Failure> {
    let shape = Shape::new(1, 2, 70, 20);
    let mask: Mask = "causal & not_self".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
    let clean = stored(Operands::random(&shape, 9), dtype.into());
    let clean_dout = eighths(&clean.q, dtype);
    let naive = naive_plain(&problem, &mask, &clean, &Upstream::new(&clean_dout), dtype);
    for is_k in [true, false] {
        let mut hostile = stored(Operands::random(&shape, 9), dtype.into());
        let mut dout = clean_dout.clone();
        let (tensor, row) = if is_k { (&mut hostile.k, 37) } else { (&mut dout, 45) };
        tensor[row * 20 + 3] = f32::NAN;
        let (inputs, upstream) = (hostile.inputs(), Upstream::new(&dout));
        let options = BackwardOptions::default().kernel(kernel);
        let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options)?;
        let truth = reference::gradients(&problem, &inputs, &upstream)?;
        for (name, found, naive, truth) in [
            ("dq", &found.dq, &naive.dq, &truth.dq),
            ("dk", &found.dk, &naive.dk, &truth.dk),
            ("dv", &found.dv, &naive.dv, &truth.dv),
        ] {
            let name = format!("{name} with a NaN in {}", if is_k { "k" } else { "dout" });
            hostile_close(&name, [found, naive], truth, false, gradient_close)?;
        }
    }
    Ok(())
}

pub(super) fn modifiers(attention: &Session) -> Result<(), Failure> {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(35).num_kv_heads(2);
    let mask: Mask = "causal".parse()?;
    let problem = Problem::new(shape).mask(mask.clone()).score(all_modifiers()).dropout(0.3);
    let mut operands = Operands::random(&shape, 8);
    let data = ScoreData::random(&shape, 8);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let dout: Vec<f32> = operands.q.iter().map(|x| x / 8.0).collect();
    let upstream = Upstream::new(&dout);
    let options = BackwardOptions::default();
    let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options)?;
    let truth = reference::gradients(&problem, &inputs, &upstream)?;
    let naive = naive_gradients_modified(
        &problem,
        &mask,
        &inputs,
        &upstream,
        &all_modifiers(),
        &data,
        Dtype::F32,
    );
    for (name, found, naive, truth) in [
        ("dq", &found.dq, &naive.dq, &truth.dq),
        ("dk", &found.dk, &naive.dk, &truth.dk),
        ("dv", &found.dv, &naive.dv, &truth.dv),
        ("dbias", &found.dbias, &naive.dbias, &truth.dbias),
        ("dsinks", &found.dsinks, &naive.dsinks, &truth.dsinks),
        ("dalibi_slopes", &found.dalibi_slopes, &naive.dalibi_slopes, &truth.dalibi_slopes),
    ] {
        gradient_close(&format!("{name} with modifiers"), found, naive, truth)?;
    }
    Ok(())
}

/// A table that a score function reads, of a head and a distance: elements that all rows, and that invocations in turn, add to.
pub(super) fn learned(attention: &Session) -> Result<(), Failure> {
    const TEXT: &str = "
        fn table_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 {
            return h * 9u + u32(clamp(i32(kv_idx) - i32(q_idx), -4, 4) + 4);
        }
        fn table_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score + table(table_index(b, h, q_idx, kv_idx));
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }";
    let dims = [2, 2, 19, 70];
    let shape = Shape::new(2, 2, 19, 12).seq_len_kv(70);
    let place =
        |at: usize| at / (19 * 70) % 2 * 9 + (at % 70 + 4).saturating_sub(at / 70 % 19).min(8);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 14);
    let dout = eighths(&operands.q, Dtype::F32);
    let upstream = Upstream::new(&dout);
    let table: Vec<f32> = (0..18).map(|at| at as f32 / 8.0 - 1.0).collect();

    let score = ScoreModifiers::default().bias(true);
    let bias = (0..dims.iter().product()).map(|at| table[place(at)]);
    let aux = AuxData::new().bias(dims, bias);
    let as_bias = problem.clone().score(score).aux_shape(aux.shape());
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v).aux(&aux);
    let cells = reference::gradients(&as_bias, &inputs, &upstream)?.dbias;
    let mut truth = [0.0; 18];
    cells.iter().enumerate().for_each(|(at, cell)| truth[place(at)] += cell);

    let function = WgslFunction::new(TEXT)?.buffer("table", WgslBuffer::F32, 18)?;
    let aux = AuxData::new().custom_f32("table", table);
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v).aux(&aux);
    let options = BackwardOptions::default();
    let found =
        attention.gradients_blocking(&problem.score_mod(function), &inputs, &upstream, &options)?;
    let most = truth.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    for (at, (&x, y)) in found.dcustom["table"].iter().zip(truth).enumerate() {
        if (f64::from(x) - y).abs() > 1e-4 * most {
            return Err(format!("dtable, at {at}: {x} instead of {y}").into());
        }
    }
    Ok(())
}
