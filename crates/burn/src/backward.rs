//! Gradients on cubecl's tensors.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::Result;
use wgpu_attention::plan::{BackwardBuffers, BackwardOptions, GradientBuffers};
use wgpu_attention::tensor::GradientDtypes;

use crate::backend::{Gradients, Operands};
use crate::call::Call;
use crate::forward::Inputs;
use crate::outputs::{Output, Stage};
use crate::tensor::{self, Bound, dims, empty, empty_dense, layout_like, strides};

/// The wanted gradients of q, k, v, bias and sinks. Each is of its operand's type and lies as it does.
pub(crate) fn gradients(
    operands: Operands<CubeBackend>,
    [o, lse, dout]: [CubeTensor; 3],
    call: &Call,
    wanted: [bool; 5],
) -> Result<Gradients<CubeBackend>> {
    let inputs = Inputs::new(operands, call)?;
    let Inputs { context, q, k, v, score, .. } = &inputs;
    let auxiliary = call.auxiliary(context)?;
    let (lse, dout) = (into_contiguous(lse), tensor::in_rows(dout));
    // By layout, not by strides: each element of a gradient has a place, which those of an expanded operand haven't.
    let like = |of: &CubeTensor| empty(of, dims(of), layout_like(&strides(of)), of.dtype);
    let dense = |of: &CubeTensor| empty_dense(of, of.meta.shape(), of.dtype);
    let [wants_q, wants_k, wants_v, wants_bias, wants_sinks] = wanted;
    let made = [
        wants_q.then(|| like(q)),
        wants_k.then(|| like(k)),
        wants_v.then(|| like(v)),
        score.bias.as_ref().filter(|_| wants_bias).map(dense),
        score.sinks.as_ref().filter(|_| wants_sinks).map(dense),
    ];
    let [dq, dk, dv] = [q, k, v].map(|of| layout_like(&strides(of)).strides(dims(of)));
    let options = BackwardOptions::default()
        .dtypes(dtypes(&inputs)?)
        .dout_strides(strides(&dout))
        .dq_strides(dq)
        .dk_strides(dk)
        .dv_strides(dv);
    let problem = inputs.problem.clone().o_strides(strides(&o));
    let bound = inputs.bind()?;
    let [o, lse, dout] =
        [Bound::new("o", &o)?, Bound::new("lse", &lse)?, Bound::new("dout", &dout)?];
    let read = [&bound.q, &bound.k, &bound.v, &o, &lse, &dout].into_iter().chain(bound.score.all());
    let mut stage = Stage::new(context.device(), read.map(Bound::buffer).collect());
    let mut outputs = [const { None }; 5];
    for (output, made) in outputs.iter_mut().zip(&made) {
        *output = Bound::optional("a gradient", made.as_ref())?.map(|made| stage.output(made));
    }
    let mut work = context.work();
    let plan = work.backward(context, &problem, &options)?;
    let staging = stage.allocate(&mut work.scratch)?;
    let [dq, dk, dv, dbias, dsinks] = outputs
        .each_ref()
        .map(|output: &Option<Output>| output.as_ref().map(|output| output.slice(&staging)));
    let buffers = BackwardBuffers {
        q: bound.q.slice(),
        k: bound.k.slice(),
        v: bound.v.slice(),
        o: o.slice(),
        lse: lse.slice(),
        dout: dout.slice(),
        dlse: None,
        aux: bound.score.aux(auxiliary.buffers()),
        gradients: GradientBuffers::default().dq(dq).dk(dk).dv(dv).dbias(dbias).dsinks(dsinks),
    };
    let submitted = context.submit(
        plan.submissions(),
        |encoder, submission| plan.encode_submission(encoder, &buffers, submission),
        |encoder| outputs.iter().flatten().for_each(|output| output.finish(encoder, &staging)),
    );
    // As in the forward pass.
    plan.forget_buffers();
    submitted?;
    Ok(Gradients { of: made })
}

/// The gradients' types: those of the operands.
fn dtypes(inputs: &Inputs) -> Result<GradientDtypes> {
    let bias = inputs.score.bias.as_ref().map_or(DType::F32, |bias| bias.dtype);
    Ok(GradientDtypes::default()
        .dq(tensor::dtype("q", inputs.q.dtype)?)
        .dk(tensor::dtype("k", inputs.k.dtype)?)
        .dv(tensor::dtype("v", inputs.v.dtype)?)
        .dbias(tensor::dtype("bias", bias)?))
}
