//! The batch×heads×T×T tensors, for looking inside: a second pass over the same scores and the same mask.

use std::ops::Range;
use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{Operand, check_outputs_apart};
use super::cut::{Axis, Grid, Tensor};
use super::mask_tables::{MaskTables, WORK_OF_CELL};
use super::masked_kernel::MaskedKernel;
use super::pieces::{Pieces, Schedule, Source};
use super::tensors::{Numbering, Tensors};
use crate::auxiliary::AuxBuffers;
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::KernelKey;
use crate::kernel::limits::Needs;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::row_format;
use crate::mask::emit::MaskText;
use crate::problem::{Problem, Resolved};
use crate::score::ScoreText;

/// A tensor of `[batch, num_heads, seq_len_q, seq_len_kv]` to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScoreTensor {
    /// `scale · q kᵀ`
    Scores,
    /// The scores after softcap, bias and ALiBi where the mask keeps, −∞ elsewhere.
    MaskedScores,
    /// `softmax` of the masked scores over this problem's keys, and its sinks, with dropout: 0 where the mask doesn't keep.
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
    kernel: MaskedKernel,
    problem: Arc<Resolved>,
    /// Elements of each tensor.
    cells: usize,
    /// Of each of [`ScoreTensor::ALL`]; their cuts are the same.
    pieces: Vec<Pieces>,
    /// What makes weights of masked scores, row by row.
    weights: Pieces,
    schedule: Schedule,
}

/// The caller's buffers for [`InspectPlan::encode`]; rules as for [`crate::AttentionBuffers`].
#[derive(Debug, Clone)]
pub struct InspectBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// The auxiliary tensors that the problem reads.
    pub aux: AuxBuffers<'a>,
    /// f32 `[batch, num_heads, seq_len_q, seq_len_kv]`, dense, written
    pub output: BufferSlice<'a>,
}

impl InspectPlan {
    /// Validates and compiles.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`].
    pub fn new(kernels: &Kernels, problem: &Problem) -> Result<Self> {
        Self::of(kernels, &Arc::new(Resolved::new(problem.clone())?))
    }

    /// The plan of a checked problem.
    pub(crate) fn of(kernels: &Kernels, problem: &Arc<Resolved>) -> Result<Self> {
        let shape = &problem.shape;
        let key = |mask| KernelKey::Inspect {
            rows: row_format(problem),
            score: ScoreText { dropout: None, ..problem.score_text.clone() },
            mask,
        };
        let text = Arc::new(MaskText::new(&problem.mask, shape.sequences.forms()));
        Needs::of(&key(text)).check("inspect", &kernels.traits().limits)?;
        let mask = MaskTables::new(kernels, problem, None)?;
        let key = key(Arc::clone(&mask.text));
        let row_workgroups = shape.seq_len_kv.div_ceil(WORKGROUP_SIZE as usize);
        let work = (WORKGROUP_SIZE as usize * shape.head_dim) as u64;
        let sizes = [shape.batch, shape.num_heads, shape.seq_len_q];
        let grid = Grid::items(sizes, row_workgroups, 1, work);
        let tensors = Tensors::new(problem, Numbering::Queries);
        let [batch, heads, rows] = sizes;
        let output = Tensor::dense(
            Binding::Scores,
            "the tensor of scores",
            [batch, heads, rows, shape.seq_len_kv],
            4,
            [Axis::Own; 3],
        );
        let mut reached = vec![tensors.q(), tensors.k(), output];
        reached.extend(tensors.bias());
        let params = Params::new(problem, &mask.layout, 1)?;
        let pieces = (0..)
            .zip(ScoreTensor::ALL)
            .map(|(output_mode, _)| {
                Pieces::new(kernels, &grid, &reached, &Params { output_mode, ..params })
            })
            .collect::<Result<Vec<_>>>()?;
        let row_work = shape.seq_len_kv as u64 * WORK_OF_CELL;
        let weights =
            Pieces::new(kernels, &Grid::items(sizes, 1, 1, row_work), &[output], &params)?;
        let work = mask.work().chain(pieces.iter().take(1).flat_map(Pieces::work));
        let work = work.chain(weights.work());
        let schedule = Schedule::new(work, kernels.traits().most_work);
        let text = Arc::clone(&mask.text);
        let (sinks, dropout) = (problem.score.sinks, problem.score_text.dropout);
        let softmax = KernelKey::Weights { sinks, dropout, mask: text };
        let kernel = MaskedKernel::new(kernels, mask, [key, softmax])?;
        let (problem, cells) = (Arc::clone(problem), shape.scores_len()?);
        Ok(Self { kernel, problem, cells, pieces, weights, schedule })
    }

    /// Elements of each tensor.
    pub(crate) const fn cells(&self) -> usize {
        self.cells
    }

    /// In how many submissions the writing of a tensor may be: [`InspectPlan::encode_submission`].
    pub const fn submissions(&self) -> usize {
        self.schedule.count()
    }

    /// Records one of [`InspectPlan::submissions`] for one tensor, for a command buffer of its own: all of them, in order, do what
    /// [`InspectPlan::encode`] does. See [`crate::AttentionPlan::encode_submission`].
    ///
    /// # Errors
    /// As [`InspectPlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        tensor: ScoreTensor,
        buffers: &InspectBuffers<'_>,
        submission: usize,
    ) -> Result<()> {
        self.record(encoder, tensor, buffers, self.schedule.steps(submission)?)
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
        self.record(encoder, tensor, buffers, self.schedule.all())
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        tensor: ScoreTensor,
        buffers: &InspectBuffers<'_>,
        steps: Range<usize>,
    ) -> Result<()> {
        let (problem, cells) = (&self.problem, self.cells);
        let q = Operand::placed("q", buffers.q, &problem.q);
        let k = Operand::placed("k", buffers.k, &problem.k);
        let output = Operand::new(tensor.name(), buffers.output, cells);
        let mask = self.kernel.mask.operands(&buffers.aux)?;
        let mut inputs = vec![q, k];
        let bias = Operand::bias(&self.problem, &buffers.aux)?;
        inputs.extend(bias);
        for operand in inputs.iter().chain([&output]) {
            operand.check_storage(&self.kernel.kernels)?;
        }
        inputs.extend(&mask);
        check_outputs_apart(&inputs, &[output])?;
        if cells == 0 {
            return Ok(());
        }
        let mut stages = vec![&self.pieces[tensor as usize]];
        if tensor == ScoreTensor::Weights {
            stages.push(&self.weights);
        }
        let windows = |_, binding| match (binding, bias) {
            (Binding::Q, _) => Some(Source::Window(q)),
            (Binding::K, _) => Some(Source::Window(k)),
            (Binding::Scores, _) => Some(Source::Window(output)),
            (Binding::Bias, Some(bias)) => Some(Source::Window(bias)),
            _ => None,
        };
        self.kernel.record(encoder, tensor.name(), &steps, &stages, &mask, windows)
    }
}
