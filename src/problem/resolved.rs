//! A problem that was checked once, with everything that follows from it: what the choice of a kernel, plans, bindings and the
//! reference are made from.

use std::ops::Deref;
use std::sync::Arc;

use super::{GradientStrides, Inputs, Problem, TensorStrides};
use crate::auxiliary::{AuxTensor, TensorSizes};
use crate::error::{Error, Result};
use crate::score::ScoreText;
use crate::tensor::dtype::{Dtype, Dtypes, GradientDtypes};
use crate::tensor::sequences::KeySequences;
use crate::tensor::shape::{Indexing, Layout, Shape, Strides};

/// A checked problem. The problem's own fields are found through it.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    problem: Problem,
    pub(crate) strides: TensorStrides,
    pub(crate) q: Placed,
    pub(crate) k: Placed,
    pub(crate) v: Placed,
    pub(crate) o: Placed,
    /// Elements of lse.
    pub(crate) lse_len: usize,
    /// Elements of o, however they lie: 0 where there is nothing to compute.
    pub(crate) o_len: usize,
    pub(crate) scale: f32,
    pub(crate) score_text: ScoreText,
    /// The auxiliary tensors' sizes, in the order of [`Problem::aux_tensors`].
    pub(crate) tensors: Vec<TensorSizes>,
    /// Elements of the bias; 0 without one.
    pub(crate) bias_len: usize,
}

/// How a tensor lies in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    /// What kernels count it by.
    pub(crate) indexing: Indexing,
    /// From its first element to behind its last one, in elements.
    pub(crate) span: usize,
    /// The same in bytes, in whole words.
    pub(crate) bytes: u64,
}

impl Placed {
    /// # Errors
    /// [`Error::Operand`] that names the tensor, where it doesn't fit the address space.
    pub(crate) fn new(
        name: &str,
        dtype: Dtype,
        dims: [usize; 4],
        strides: Strides,
    ) -> Result<Self> {
        let span = strides.span(name, dims)?;
        let indexing = Indexing::new(dtype, dims, strides);
        let bytes = (indexing.bytes(name)? as u64).next_multiple_of(4);
        Ok(Self { indexing, span, bytes })
    }

    /// The same of a tensor that is written.
    ///
    /// # Errors
    /// Also where two of its elements share a place.
    pub(crate) fn written(
        name: &str,
        dtype: Dtype,
        dims: [usize; 4],
        strides: Strides,
    ) -> Result<Self> {
        let placed = Self::new(name, dtype, dims, strides)?;
        if strides.overlaps(dims) {
            return Err(Error::operand(
                format!("{name}'s strides"),
                "a place of its own for every element",
                format!("{:?} for {dims:?}", strides.to_array()),
            ));
        }
        Ok(placed)
    }
}

/// The backward pass's own tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GradientTensors {
    pub(crate) dtypes: GradientDtypes,
    pub(crate) strides: GradientStrides,
    pub(crate) dout: Placed,
    pub(crate) dq: Placed,
    pub(crate) dk: Placed,
    pub(crate) dv: Placed,
}

impl GradientTensors {
    /// # Errors
    /// [`Error::Operand`] that names the tensor that doesn't fit the address space, or a gradient of which two elements share a
    /// place.
    pub(crate) fn new(
        problem: &Resolved,
        dtypes: GradientDtypes,
        strides: GradientStrides,
    ) -> Result<Self> {
        let shape = &problem.shape;
        Ok(Self {
            dout: Placed::new("dout", problem.dtypes.o, shape.o_dims(), strides.dout)?,
            dq: Placed::written("dq", dtypes.dq, shape.q_dims(), strides.dq)?,
            dk: Placed::written("dk", dtypes.dk, shape.k_dims(), strides.dk)?,
            dv: Placed::written("dv", dtypes.dv, shape.v_dims(), strides.dv)?,
            dtypes,
            strides,
        })
    }

    /// What the dk/dv pass writes: these, or, where sequences share rows of keys, dk and dv of each sequence in f32, dense.
    ///
    /// # Errors
    /// Where they don't fit the address space.
    pub(crate) fn of_sequences(&self, problem: &Resolved) -> Result<Self> {
        let KeySequences::Paged { .. } = problem.shape.sequences.kv else {
            return Ok(*self);
        };
        let Shape { batch, num_kv_heads, seq_len_kv, head_dim, head_dim_v, .. } = problem.shape;
        let dense = |name, dim| -> Result<_> {
            let dims = [batch, num_kv_heads, seq_len_kv, dim];
            let strides = Layout::Bhsd.strides(dims);
            Ok((strides, Placed::new(name, Dtype::F32, dims, strides)?))
        };
        let (dk_strides, dk) = dense("dk of each sequence", head_dim)?;
        let (dv_strides, dv) = dense("dv of each sequence", head_dim_v)?;
        Ok(Self {
            dtypes: self.dtypes.dk(Dtype::F32).dv(Dtype::F32),
            strides: GradientStrides { dk: dk_strides, dv: dv_strides, ..self.strides },
            dk,
            dv,
            ..*self
        })
    }
}

impl Resolved {
    /// Checks a problem.
    ///
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub(crate) fn new(problem: Problem) -> Result<Self> {
        #[cfg(test)]
        CHECKS.set(CHECKS.get() + 1);
        let shape = &problem.shape;
        shape.validate()?;
        let scale = problem.get_scale();
        if !scale.is_finite() {
            return Err(Error::operand("scale", "a finite number", scale));
        }
        if let Some(softcap) = problem.score.softcap
            && !(softcap.is_finite() && softcap > 0.0)
        {
            return Err(Error::operand("softcap", "a finite number above 0", softcap));
        }
        let dropout = problem.get_dropout();
        if !(0.0..1.0).contains(&dropout) {
            return Err(Error::operand("dropout", "a number from 0 to below 1", dropout));
        }
        if problem.mask.depth() > crate::mask::text::MAX_DEPTH {
            return Err(Error::operand(
                "mask",
                format!("at most {} levels", crate::mask::text::MAX_DEPTH),
                problem.mask.depth(),
            ));
        }
        problem.mask.check(shape)?;
        let strides = problem.strides();
        let Dtypes { q, k, v, o, bias } = problem.dtypes;
        for (name, dtype) in [("q", q), ("o", o), ("bias", bias)] {
            if dtype.is_quantized() {
                return Err(Error::operand(name, "f32, f16 or bf16", dtype));
            }
        }
        let (k_dims, v_dims) = (problem.k_dims(), problem.v_dims());
        check_quantized_rows("k", k, k_dims, strides.k)?;
        check_quantized_rows("v", v, v_dims, strides.v)?;
        let tensors = (problem.aux_specs().iter())
            .map(|tensor| tensor.resolve(problem.data.sizes(tensor.input)))
            .collect::<Result<_>>()?;
        Ok(Self {
            q: Placed::new("q", q, shape.q_dims(), strides.q)?,
            k: Placed::new("k", k, k_dims, strides.k)?,
            v: Placed::new("v", v, v_dims, strides.v)?,
            o: Placed::written("o", o, shape.o_dims(), strides.o)?,
            lse_len: shape.lse_len()?,
            o_len: shape.o_len()?,
            scale,
            score_text: problem.score_text(),
            tensors,
            bias_len: match problem.score.bias {
                true => problem.data.bias.elements(shape)?,
                false => 0,
            },
            strides,
            problem,
        })
    }

    /// The sizes of an auxiliary tensor, on the device, if the problem reads it.
    pub(crate) fn sizes_of(&self, input: AuxTensor) -> Option<&[usize]> {
        let tensor = self.tensors.iter().find(|tensor| tensor.input == input)?;
        Some(&tensor.sizes)
    }

    /// Checks a problem and the operands for it, which bring the sizes of their auxiliary tensors.
    ///
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub(crate) fn of(problem: &Problem, inputs: &Inputs<'_>) -> Result<Arc<Self>> {
        let problem = Self::new(problem.clone().aux_shape(inputs.aux.shape()))?;
        inputs.check(&problem)?;
        Ok(Arc::new(problem))
    }

    /// The same problem as far as the mask goes. What is left of a checked problem is right.
    ///
    /// # Errors
    /// None but those of [`Resolved::new`].
    pub(crate) fn mask_alone(&self) -> Result<Self> {
        Self::new(self.problem.mask_alone())
    }
}

#[cfg(test)]
thread_local! {
    /// How many problems this thread has checked.
    pub(crate) static CHECKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Deref for Resolved {
    type Target = Problem;

    fn deref(&self) -> &Problem {
        &self.problem
    }
}

/// Quantized rows stand together behind their scales, whole.
fn check_quantized_rows(
    name: &str,
    dtype: Dtype,
    dims: [usize; 4],
    strides: Strides,
) -> Result<()> {
    let [batch, head, seq, dim] = strides.to_array();
    let row = dims[3];
    let of_rows = [batch, head, seq].iter().all(|stride| stride.is_multiple_of(row));
    if !dtype.is_quantized() || of_rows && dim == 1 {
        return Ok(());
    }
    Err(Error::operand(
        format!("{name}'s strides"),
        format!("multiples of a row's {row} elements, and 1 along the row, as its type is {dtype}"),
        format!("{:?}", strides.to_array()),
    ))
}
