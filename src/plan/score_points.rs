//! The user's score function and its derivative, at single points.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use wgpu::BufferSlice;

use super::buffers::Operand;
use super::cut::Grid;
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Source};
use super::{begin_pass, bind, empty_buffer};
use crate::auxiliary::AuxBuffers;
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::{KernelKey, PointSlope};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::source::WORKGROUP_SIZE;
use crate::problem::Resolved;

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

/// Evaluates a problem's `score_mod` and one of its derivatives at points. Its mask and its own modifiers play no part.
#[derive(Debug)]
pub(crate) struct ScorePointsPlan {
    kernels: Kernels,
    mask: MaskTables,
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
    pieces: Pieces,
    empty: wgpu::Buffer,
    points: usize,
}

impl ScorePointsPlan {
    /// `problem` has a function with its derivative, every key kept, and no modifiers.
    pub(crate) fn new(
        kernels: &Kernels,
        problem: &Resolved,
        slope: PointSlope,
        points: usize,
    ) -> Result<Self> {
        let score = problem.score_text_with_gradient()?;
        if let Some(custom) = &problem.score_mod {
            for usage in custom.gradient_uses() {
                kernels.check_custom(custom, &usage)?;
            }
        }
        let mask = MaskTables::new(kernels, problem, None)?;
        let key = KernelKey::ScorePoints { score, slope, mask: Arc::clone(&mask.text) };
        let per_workgroup = WORKGROUP_SIZE as usize;
        let grid = Grid::items([1, 1, points], 1, per_workgroup, per_workgroup as u64);
        let params = Params::new(problem, &mask.layout, 1)?;
        Ok(Self {
            kernels: kernels.clone(),
            mask,
            bindings: key.bindings(),
            pipeline: kernels.pipeline(key)?,
            pieces: Pieces::new(kernels, &grid, &[], &params)?,
            empty: empty_buffer(kernels)?,
            points,
        })
    }

    /// Records the writing of `[points, 2]` f32: what the function returns for each of `points`, and what its derivative.
    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        points: BufferSlice<'_>,
        values: BufferSlice<'_>,
    ) -> Result<()> {
        let mask = self.mask.operands(data)?;
        let points = Operand::new("points", points, self.points * size_of::<ScorePoint>() / 4);
        let values = Operand::new("values", values, self.points * 2);
        for operand in [&points, &values] {
            operand.check_storage(&self.kernels)?;
        }
        let source = |binding| {
            Ok(Source::Whole(match binding {
                Binding::ScorePoints => points.whole(),
                Binding::ScoreValues => values.whole(),
                _ => self.mask.buffer.as_entire_binding(),
            }))
        };
        let bind_groups = (0..self.pieces.count())
            .map(|piece| {
                let resources =
                    self.pieces.resources(piece, &self.bindings, &self.empty, source)?;
                Ok(bind(self.kernels.device(), &self.pipeline, &resources))
            })
            .collect::<Result<Vec<_>>>()?;
        self.mask.copy(encoder, &mask);
        self.mask.make(encoder, 0..self.mask.steps());
        let mut pass = begin_pass(encoder, "score points");
        for (piece, bind_group) in bind_groups.iter().enumerate() {
            self.pieces.encode(piece, &mut pass, &self.pipeline, bind_group);
        }
        Ok(())
    }
}
