//! The batch×heads×T×T tensors, for looking inside: a second pass over the same scores and the same mask.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand, check_outputs_apart};
use super::mask_tables::MaskTables;
use super::{Dispatch, begin_pass, bind, params_buffer};
use crate::error::Result;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::row_format;
use crate::problem::Problem;
use crate::shape::elements;

/// A tensor of `[batch, num_heads, seq_len_q, seq_len_kv]` to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScoreTensor {
    /// `scale · q kᵀ`
    Scores,
    /// The scores after softcap, bias and ALiBi where the mask keeps, −∞ elsewhere.
    MaskedScores,
    /// `softmax` of the masked scores: `exp(score − lse)` where the mask keeps, 0 elsewhere.
    Weights,
}

impl ScoreTensor {
    /// Every tensor, in the order of the kernel's modes.
    pub const ALL: [Self; 3] = [Self::Scores, Self::MaskedScores, Self::Weights];

    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::MaskedScores => "masked_scores",
            Self::Weights => "weights",
        }
    }
}

/// Writes scores, masked scores or weights of one problem, any number of times.
///
/// These tensors grow with seq_len_q × seq_len_kv; [`crate::AttentionPlan`] never makes them.
#[derive(Debug)]
pub struct InspectPlan {
    kernels: Kernels,
    problem: Problem,
    mask: MaskTables,
    dispatch: Dispatch,
    /// One for each of [`ScoreTensor::ALL`].
    params: Vec<wgpu::Buffer>,
    empty: wgpu::Buffer,
}

/// The caller's buffers for [`InspectPlan::encode`]; rules as for [`crate::AttentionBuffers`].
#[derive(Debug, Clone)]
pub struct InspectBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]` from the forward pass; needed for the weights only
    pub lse: Option<BufferSlice<'a>>,
    /// What the mask names.
    pub mask: MaskBuffers<'a>,
    /// f32 `[batch, num_heads, seq_len_q, seq_len_kv]`, dense, written
    pub output: BufferSlice<'a>,
}

impl InspectPlan {
    /// Validates and compiles.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`].
    pub fn new(kernels: &Kernels, problem: &Problem) -> Result<Self> {
        problem.validate()?;
        let mask = MaskTables::new(kernels, problem, None)?;
        let shape = &problem.shape;
        let pipeline = kernels.pipeline(KernelKey::Inspect {
            rows: row_format(problem),
            score: problem.score_text(),
            mask: Arc::clone(&mask.text),
        })?;
        let row_workgroups = shape.seq_len_kv.div_ceil(WORKGROUP_SIZE as usize);
        let sizes = [shape.batch, shape.num_heads, shape.seq_len_q, row_workgroups];
        let dispatch = Dispatch::new(kernels, pipeline, elements("workgroups", &sizes)?)?;
        let params = Params::new(problem, &mask.layout, 1)?;
        let device = kernels.device();
        let (params, empty) = crate::device::scoped(device, "allocating a plan", || {
            let params = (0..)
                .zip(ScoreTensor::ALL)
                .map(|(output_mode, _)| params_buffer(device, &Params { output_mode, ..params }))
                .collect();
            (params, MaskTables::empty_buffer(kernels))
        })?;
        Ok(Self {
            kernels: kernels.clone(),
            problem: problem.clone(),
            mask,
            dispatch,
            params,
            empty,
        })
    }

    /// Records the writing of one tensor.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        tensor: ScoreTensor,
        buffers: &InspectBuffers<'_>,
    ) -> Result<()> {
        let shape = &self.problem.shape;
        let strides = self.problem.strides();
        let dtypes = self.problem.dtypes;
        let cells = shape.scores_len()?;
        let q = Operand::of("q", buffers.q, strides.q.span("q", shape.q_dims())?, dtypes.q);
        let k = Operand::of("k", buffers.k, strides.k.span("k", self.problem.k_dims())?, dtypes.k);
        let lse = match (tensor, buffers.lse) {
            (ScoreTensor::Weights, Some(lse)) => Operand::new("lse", lse, shape.lse_len()?),
            (ScoreTensor::Weights, None) => {
                return Err(crate::error::Error::operand(
                    "lse",
                    "the forward pass's lse, for the weights",
                    "none",
                ));
            }
            _ => Operand::new("lse", self.empty.slice(..), 0),
        };
        let output = Operand::new(tensor.name(), buffers.output, cells);
        let mask = self.mask.operands(&buffers.mask)?;
        let mut inputs = vec![q, k, lse];
        inputs.extend(&mask);
        let bias = Operand::bias(&self.problem, &buffers.mask)?;
        inputs.extend(bias);
        check_outputs_apart(&inputs, &[output])?;
        let mut resources = vec![
            self.params[tensor as usize].as_entire_binding(),
            self.mask.buffer.as_entire_binding(),
        ];
        for operand in [&q, &k, &lse, &output] {
            resources.push(operand.bind(&self.kernels, &self.empty)?);
        }
        if let Some(bias) = bias {
            resources.push(bias.bind(&self.kernels, &self.empty)?);
        }
        if cells == 0 {
            return Ok(());
        }
        self.mask.encode(encoder, &mask);
        let bind_group = bind(self.kernels.device(), &self.dispatch.pipeline, &resources);
        let mut pass = begin_pass(encoder, tensor.name());
        self.dispatch.encode(&mut pass, &bind_group);
        Ok(())
    }
}
