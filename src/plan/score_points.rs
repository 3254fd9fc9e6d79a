//! The user's score function and its derivative, at single points.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand};
use super::mask_tables::MaskTables;
use super::{Dispatch, begin_pass, bind, params_buffer};
use crate::custom::CustomUse;
use crate::error::Result;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::problem::Problem;

/// `ScorePoint` of shaders/score/points.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(crate) struct ScorePoint {
    pub(crate) b: u32,
    pub(crate) h: u32,
    pub(crate) q_idx: u32,
    pub(crate) kv_idx: u32,
    pub(crate) score: f32,
    pub(crate) grad: f32,
}

/// Evaluates a problem's `score_mod` and `score_mod_grad` at points. Its mask and its own modifiers play no part.
#[derive(Debug)]
pub(crate) struct ScorePointsPlan {
    kernels: Kernels,
    mask: MaskTables,
    dispatch: Dispatch,
    params: wgpu::Buffer,
    empty: wgpu::Buffer,
    points: usize,
}

impl ScorePointsPlan {
    /// `problem` has a function with its derivative, every key kept, and no modifiers.
    pub(crate) fn new(kernels: &Kernels, problem: &Problem, points: usize) -> Result<Self> {
        problem.validate()?;
        let score = problem.score_text_with_gradient()?;
        if let Some(custom) = &problem.score_mod {
            kernels.check_custom(custom, CustomUse::ScoreGradient)?;
        }
        let mask = MaskTables::new(kernels, problem, None)?;
        let key = KernelKey::ScorePoints { score, mask: Arc::clone(&mask.text) };
        let workgroups = points.div_ceil(WORKGROUP_SIZE as usize);
        let dispatch = Dispatch::new(kernels, kernels.pipeline(key)?, workgroups)?;
        let params = Params::new(problem, &mask.layout, 1)?;
        let (params, empty) = crate::device::scoped(kernels.device(), "allocating a plan", || {
            (params_buffer(kernels.device(), &params), MaskTables::empty_buffer(kernels))
        })?;
        Ok(Self { kernels: kernels.clone(), mask, dispatch, params, empty, points })
    }

    /// Records the writing of `[points, 2]` f32: what the function returns for each of `points`, and what its derivative.
    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &MaskBuffers<'_>,
        points: BufferSlice<'_>,
        values: BufferSlice<'_>,
    ) -> Result<()> {
        let mask = self.mask.operands(data)?;
        let points = Operand::new("points", points, self.points * size_of::<ScorePoint>() / 4);
        let values = Operand::new("values", values, self.points * 2);
        let resources = [
            self.params.as_entire_binding(),
            self.mask.buffer.as_entire_binding(),
            points.bind(&self.kernels, &self.empty)?,
            values.bind(&self.kernels, &self.empty)?,
        ];
        self.mask.encode(encoder, &mask);
        let bind_group = bind(self.kernels.device(), &self.dispatch.pipeline, &resources);
        let mut pass = begin_pass(encoder, "score points");
        self.dispatch.encode(&mut pass, &bind_group);
        Ok(())
    }
}
