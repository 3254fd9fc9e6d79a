//! One call, checked as far as its sizes and types go.

use std::sync::Arc;

use burn::tensor::Tensor;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{Dtype, Error, Problem, Result, Shape};

use crate::auxiliary::{Auxiliary, SharedAux};
use crate::context::Context;
use crate::options::Options;
use crate::tensor;

/// What a call computes: a problem over dense tensors, with the data of its mask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Call(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    problem: Problem,
    aux: SharedAux,
}

impl Call {
    /// Attention over these tensors.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the tensor that doesn't fit the others, or the option that doesn't fit the tensors.
    pub(crate) fn new(
        q: &Tensor<4>,
        k: &Tensor<4>,
        v: &Tensor<4>,
        options: &Options,
    ) -> Result<Self> {
        let [batch, num_heads, seq_len_q, head_dim] = q.dims();
        let [_, num_kv_heads, seq_len_kv, _] = k.dims();
        let head_dim_v = v.dims()[3];
        check_dims("k", k.dims(), [batch, num_kv_heads, seq_len_kv, head_dim], "q's")?;
        check_dims("v", v.dims(), [batch, num_kv_heads, seq_len_kv, head_dim_v], "k's")?;
        let shape = Shape::new(batch, num_heads, seq_len_q, head_dim)
            .num_kv_heads(num_kv_heads)
            .seq_len_kv(seq_len_kv)
            .head_dim_v(head_dim_v);
        let dtypes = Dtypes::from(tensor::dtype("q", q.dtype())?)
            .k(tensor::dtype("k", k.dtype())?)
            .v(tensor::dtype("v", v.dtype())?);
        Self::of(Problem::new(shape).dtypes(dtypes), options)
    }

    /// A problem of which shape and types are set, with options.
    ///
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub(crate) fn of(problem: Problem, options: &Options) -> Result<Self> {
        let heads = problem.shape().num_heads;
        if let Some(sinks) = options.get_sinks()
            && sinks.dims() != [heads]
        {
            let expected = format!("[heads] = [{heads}]");
            return Err(Error::operand("sinks", expected, format!("{:?}", sinks.dims())));
        }
        let bias = match options.get_bias() {
            Some(bias) => tensor::dtype("bias", bias.dtype())?,
            None => Dtype::F32,
        };
        let dtypes = problem.get_dtypes().bias(bias);
        let problem = options.apply(problem.dtypes(dtypes));
        problem.validate()?;
        Ok(Self(Arc::new(Inner { problem, aux: options.get_aux().clone() })))
    }

    /// The problem, over dense tensors.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// Whether the call has a bias.
    pub fn has_bias(&self) -> bool {
        self.0.problem.get_score().bias
    }

    /// Whether the call has sinks.
    pub fn has_sinks(&self) -> bool {
        self.0.problem.get_score().sinks
    }

    /// The data of its mask on the device.
    ///
    /// # Errors
    /// Where data are missing or don't fit.
    pub(crate) fn auxiliary(&self, context: &Arc<Context>) -> Result<Auxiliary> {
        self.0.aux.upload(context, &self.0.problem)
    }
}

fn check_dims(name: &str, found: [usize; 4], expected: [usize; 4], of: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let expected = format!("[batch, kv_heads, seq_kv, dim] = {expected:?}, to fit {of} sizes");
    Err(Error::operand(name, expected, format!("{found:?}")))
}
