//! The forward pass on cubecl's tensors.

use std::sync::Arc;

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::{AttentionBuffers, KvCache, Problem, Result, wgpu};

use crate::auxiliary::Auxiliary;
use crate::backend::Operands;
use crate::call::Call;
use crate::context::Context;
use crate::device;
use crate::outputs::Stage;
use crate::score::{BoundScore, ScoreTensors};
use crate::tensor::{self, Bound, dims};

/// A call's operands where they lie, and the problem with their strides.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) context: Arc<Context>,
    pub(crate) problem: Problem,
    pub(crate) q: CubeTensor,
    pub(crate) k: CubeTensor,
    pub(crate) v: CubeTensor,
    pub(crate) score: ScoreTensors,
}

impl Inputs {
    /// q, k and v stay as they lie.
    pub(crate) fn new(operands: Operands<CubeBackend>, call: &Call) -> Result<Self> {
        let context = device::context(&operands.q.device)?;
        let [q, k, v] = [operands.q, operands.k, operands.v].map(tensor::in_rows);
        let problem =
            call.problem().clone().k_strides(tensor::strides(&k)).v_strides(tensor::strides(&v));
        let score = ScoreTensors::new(operands.bias, operands.sinks);
        Ok(Self { context, problem: with_queries(problem, &q), q, k, v, score })
    }

    /// Where q, k, v, bias and sinks lie. Whatever made them is submitted then.
    pub(crate) fn bind(&self) -> Result<BoundInputs> {
        Ok(BoundInputs {
            q: Bound::new("q", &self.q)?,
            k: Bound::new("k", &self.k)?,
            v: Bound::new("v", &self.v)?,
            score: self.score.bind()?,
        })
    }
}

/// The bytes of a call's operands.
#[derive(Debug)]
pub(crate) struct BoundInputs {
    pub(crate) q: Bound,
    pub(crate) k: Bound,
    pub(crate) v: Bound,
    pub(crate) score: BoundScore,
}

/// The problem over q as it lies, with o in the same layout.
fn with_queries(problem: Problem, q: &CubeTensor) -> Problem {
    let strides = tensor::strides(q);
    let o = tensor::layout_like(&strides).strides(problem.shape().o_dims());
    problem.q_strides(strides).o_strides(o)
}

/// Keys and values, and whose they are.
struct Keys<'a> {
    k: wgpu::BufferSlice<'a>,
    v: wgpu::BufferSlice<'a>,
    cache: Option<&'a KvCache>,
}

/// What is written: o, and lse if it is wanted.
struct Written {
    o: CubeTensor,
    lse: Option<CubeTensor>,
}

impl Written {
    fn new(problem: &Problem, q: &CubeTensor, wants_lse: bool) -> Self {
        let shape = problem.shape();
        let layout = tensor::layout_like(&tensor::strides(q));
        let rows = [shape.batch, shape.num_heads, shape.seq_len_q];
        Self {
            o: tensor::empty(q, shape.o_dims(), layout, q.dtype),
            lse: wants_lse.then(|| tensor::empty_dense(q, &rows, DType::F32)),
        }
    }
}

/// o, and lse if it is wanted.
pub(crate) fn attend(
    operands: Operands<CubeBackend>,
    call: &Call,
    wants_lse: bool,
) -> Result<(CubeTensor, Option<CubeTensor>)> {
    let inputs = Inputs::new(operands, call)?;
    let auxiliary = call.auxiliary(&inputs.context)?;
    let written = Written::new(&inputs.problem, &inputs.q, wants_lse);
    if !dims(&written.o).contains(&0) {
        let bound = inputs.bind()?;
        let keys = Keys { k: bound.k.slice(), v: bound.v.slice(), cache: None };
        let read = (&bound.q, [&bound.k, &bound.v].into_iter(), &bound.score);
        run(&inputs.context, &inputs.problem, read, &keys, &auxiliary, &written)?;
    }
    Ok((written.o, written.lse))
}

/// Attention of q over a cache.
pub(crate) fn attend_cache(
    context: &Arc<Context>,
    cache: &KvCache,
    q: CubeTensor,
    score: &ScoreTensors,
    call: &Call,
) -> Result<CubeTensor> {
    let q = tensor::in_rows(q);
    let problem = with_queries(call.problem().clone(), &q);
    let auxiliary = call.auxiliary(context)?;
    let written = Written::new(&problem, &q, false);
    if !dims(&written.o).contains(&0) {
        let keys = Keys { k: cache.k(), v: cache.v(), cache: Some(cache) };
        let (q, score) = (Bound::new("q", &q)?, score.bind()?);
        run(context, &problem, (&q, [].into_iter(), &score), &keys, &auxiliary, &written)?;
    }
    Ok(written.o)
}

/// Records and submits. What is read: q, others among burn's tensors, bias and sinks.
fn run<'a>(
    context: &Context,
    problem: &Problem,
    (q, others, score): (&'a Bound, impl Iterator<Item = &'a Bound>, &'a BoundScore),
    keys: &Keys<'_>,
    auxiliary: &Auxiliary,
    written: &Written,
) -> Result<()> {
    let read: Vec<_> =
        [q].into_iter().chain(others).chain(score.all()).map(Bound::buffer).collect();
    let mut stage = Stage::new(context.device(), read);
    let o = stage.output(Bound::new("o", &written.o)?);
    let lse = Bound::optional("lse", written.lse.as_ref())?.map(|lse| stage.output(lse));
    let mut work = context.work();
    let plan = work.forward(context, problem)?;
    let staging = stage.allocate(&mut work.scratch)?;
    let aux = score.aux(auxiliary.buffers());
    let aux = match keys.cache {
        Some(cache) => cache.aux_buffers(aux),
        None => aux,
    };
    let buffers = AttentionBuffers {
        q: q.slice(),
        k: keys.k,
        v: keys.v,
        aux,
        o: o.slice(&staging),
        lse: lse.as_ref().map(|lse| lse.slice(&staging)),
    };
    let submitted = context.submit(
        plan.submissions(),
        |encoder, submission| plan.encode_submission(encoder, &buffers, submission),
        |encoder| [&o].into_iter().chain(&lse).for_each(|output| output.finish(encoder, &staging)),
    );
    // Otherwise the plan's bind groups would keep buffers alive that cubecl has freed.
    plan.forget_buffers();
    submitted
}
