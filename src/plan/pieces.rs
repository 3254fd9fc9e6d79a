//! The pieces of a kernel's work on the device: a dispatch and a uniform block for each, and the windows that it binds.

use std::ops::Range;

use super::buffers::Operand;
use super::cut::{Bounds, Grid, Piece, Tensor, cut};
use super::filled_buffer;
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};

/// A kernel's work, cut for one device.
#[derive(Debug)]
pub(crate) struct Pieces {
    list: Vec<Piece>,
    /// Where each share's pieces end.
    ends: Vec<usize>,
    /// A block for each piece, `stride` bytes apart.
    params: Option<wgpu::Buffer>,
    stride: u64,
    workgroups_per_dimension: usize,
}

/// A share of a kernel's work: some of its workgroups, what these reach, and parameters of their own.
pub(crate) struct Share {
    pub(crate) grid: Grid,
    pub(crate) reached: Vec<Tensor>,
    pub(crate) workgroups: Range<usize>,
    pub(crate) params: Params,
}

/// What a binding of a kernel is bound to.
pub(crate) enum Source<'a> {
    /// All of it.
    Whole(wgpu::BindingResource<'a>),
    /// A piece's window of it.
    Window(Operand<'a>),
}

impl Pieces {
    /// Cuts the work and writes a uniform block for each piece.
    ///
    /// # Errors
    /// As [`cut`], and where the device fails to allocate.
    pub(crate) fn new(
        kernels: &Kernels,
        grid: &Grid,
        tensors: &[Tensor],
        params: &Params,
    ) -> Result<Self> {
        let workgroups = 0..grid.workgroups()?;
        let (grid, reached, params) = (*grid, tensors.to_vec(), *params);
        Self::of_shares(kernels, &[Share { grid, reached, workgroups, params }])
    }

    /// The same of several shares, in their order.
    ///
    /// # Errors
    /// As [`Pieces::new`].
    pub(crate) fn of_shares(kernels: &Kernels, shares: &[Share]) -> Result<Self> {
        let limits = &kernels.traits().limits;
        let bounds = Bounds::of(kernels.traits());
        let (mut list, mut ends, mut params_of) = (Vec::new(), Vec::new(), Vec::new());
        for Share { grid, reached, workgroups, params } in shares {
            list.extend(cut(grid, reached, &bounds, workgroups.clone())?);
            params_of.resize(list.len(), *params);
            ends.push(list.len());
        }
        let stride = (size_of::<Params>() as u64)
            .next_multiple_of(u64::from(limits.min_uniform_buffer_offset_alignment));
        let mut blocks = vec![0; list.len() * stride as usize];
        let blocks_of = blocks.chunks_mut(stride as usize);
        for ((piece, mut own), block) in list.iter().zip(params_of).zip(blocks_of) {
            // `Grid::workgroups` has refused what 32 bits don't count.
            own.first_workgroup = piece.workgroups.start as u32;
            own.end_workgroup = piece.workgroups.end as u32;
            for window in &piece.windows {
                if let Some(base) = base_of(&mut own, window.binding) {
                    // Kernels' sums wrap around, and so does this.
                    *base = window.base as u32;
                }
            }
            block[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&own));
        }
        let params = match list.is_empty() {
            true => None,
            false => Some(filled_buffer(
                kernels.device(),
                "attention params",
                &blocks,
                wgpu::BufferUsages::UNIFORM,
            )?),
        };
        let workgroups_per_dimension = bounds.workgroups_per_dimension;
        Ok(Self { list, ends, params, stride, workgroups_per_dimension })
    }

    /// How many there are; none where there's nothing to do.
    pub(crate) const fn count(&self) -> usize {
        self.list.len()
    }

    /// How many shares they are of.
    pub(crate) const fn shares(&self) -> usize {
        self.ends.len()
    }

    /// Those of a share.
    pub(crate) fn of_share(&self, share: usize) -> Range<usize> {
        share.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[share]
    }

    /// The chunk that a piece is of.
    pub(crate) fn chunk_of(&self, piece: usize) -> usize {
        self.ends.partition_point(|&end| end <= piece)
    }

    /// The most multiply-adds of each.
    pub(crate) fn work(&self) -> impl Iterator<Item = u64> + '_ {
        self.list.iter().map(|piece| piece.work)
    }

    /// What their uniform blocks take.
    pub(crate) fn bytes(&self) -> u64 {
        self.params.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// What a piece's bind group binds, in the order of the kernel's bindings; `empty` stands for tensors without elements.
    pub(crate) fn resources<'a>(
        &'a self,
        index: usize,
        bindings: &[Binding],
        empty: &'a wgpu::Buffer,
        source: impl Fn(Binding) -> Result<Source<'a>>,
    ) -> Result<Vec<wgpu::BindingResource<'a>>> {
        let slice = |buffer, offset, bytes| {
            let size = std::num::NonZero::new(bytes);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
        };
        (bindings.iter())
            .map(|&binding| {
                if let (Binding::Params, Some(params)) = (binding, &self.params) {
                    let at = index as u64 * self.stride;
                    return Ok(slice(params, at, size_of::<Params>() as u64));
                }
                let operand = match source(binding)? {
                    Source::Whole(resource) => return Ok(resource),
                    Source::Window(operand) => operand,
                };
                let windows = &self.list[index].windows;
                let (buffer, start) = (operand.slice.buffer(), operand.slice.offset());
                Ok(match windows.iter().find(|window| window.binding == binding) {
                    // Kernels that read 16 bytes at a time see whole vectors: rows are multiples of that then.
                    Some(window) => slice(buffer, start + window.offset, window.bytes),
                    // This piece has nothing to do with the tensor, but a buffer has one use at a time.
                    None if binding.is_written() && operand.bytes > 0 => {
                        slice(buffer, start, operand.bytes.min(256))
                    }
                    None => empty.as_entire_binding(),
                })
            })
            .collect()
    }

    /// Records a piece.
    pub(crate) fn encode(
        &self,
        index: usize,
        pass: &mut wgpu::ComputePass<'_>,
        pipeline: &Pipeline,
        bind_group: &wgpu::BindGroup,
    ) {
        let count = self.list[index].workgroups.len();
        let y = count.div_ceil(self.workgroups_per_dimension).max(1);
        // Each is at most the limit, a u32: `cut` sees to it.
        let (x, y) = (count.div_ceil(y) as u32, y as u32);
        pass.set_pipeline(&pipeline.compute);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

/// Where a kernel finds the first element of what is bound of a tensor.
fn base_of(params: &mut Params, binding: Binding) -> Option<&mut u32> {
    Some(match binding {
        Binding::Q | Binding::PooledQ => &mut params.q_base,
        Binding::K | Binding::CacheK | Binding::PooledK => &mut params.k_base,
        Binding::V | Binding::CacheV => &mut params.v_base,
        Binding::O | Binding::OIn | Binding::Pooled => &mut params.o_base,
        Binding::Bias | Binding::Dbias => &mut params.bias_base,
        Binding::Dout => &mut params.dout_base,
        Binding::Dq => &mut params.dq_base,
        Binding::KeyGradients => &mut params.part_base,
        Binding::Dk => &mut params.dk_base,
        Binding::Dv => &mut params.dv_base,
        Binding::NewK => &mut params.new_k_base,
        Binding::NewV => &mut params.new_v_base,
        Binding::RotatedQ => &mut params.rotated_q_base,
        Binding::LseIn
        | Binding::LseOut
        | Binding::SegmentStats
        | Binding::Dlse
        | Binding::RowTerms
        | Binding::RowTermsOut => &mut params.lse_base,
        Binding::Scores | Binding::MaskTensor | Binding::BlockIndices => &mut params.output_base,
        _ => return None,
    })
}

/// Which steps of a plan go into one submission, as many as do no more work together than one may: where each ends.
#[derive(Debug)]
pub(crate) struct Schedule(Vec<usize>);

impl Schedule {
    pub(crate) fn new(work: impl Iterator<Item = u64>, most: u64) -> Self {
        let (mut ends, mut start, mut end, mut sum) = (Vec::new(), 0, 0, 0u64);
        for work in work {
            sum = sum.saturating_add(work);
            if sum > most && end > start {
                ends.push(end);
                (start, sum) = (end, work);
            }
            end += 1;
        }
        ends.push(end);
        Self(ends)
    }

    /// How many submissions there are, at least 1.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// The steps of one of them.
    pub(crate) fn steps(&self, submission: usize) -> Result<Range<usize>> {
        let Some(&end) = self.0.get(submission) else {
            return Err(Error::operand(
                "submission",
                format!("less than {}", self.count()),
                submission,
            ));
        };
        Ok(submission.checked_sub(1).map_or(0, |before| self.0[before])..end)
    }

    /// All steps.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.0.last().copied().unwrap_or(0)
    }
}

/// The part of `steps` that belongs to `own`, counted from its start.
pub(crate) fn steps_within(steps: &Range<usize>, own: Range<usize>) -> Range<usize> {
    let start = steps.start.clamp(own.start, own.end) - own.start;
    start..(steps.end.clamp(own.start, own.end) - own.start).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_grouped_by_their_work() {
        let ends = |work: &[u64], most| Schedule::new(work.iter().copied(), most).0;
        assert_eq!(ends(&[], 10), [0]);
        assert_eq!(ends(&[3, 3, 3, 3], 9), [3, 4]);
        assert_eq!(ends(&[20, 3, 20, 20], 9), [1, 2, 3, 4]);
        assert_eq!(ends(&[0, 0, 10], 9), [2, 3]);
        assert_eq!(ends(&[u64::MAX, u64::MAX], u64::MAX), [2]);
        let schedule = Schedule::new([3, 3, 3, 3].into_iter(), 6);
        assert_eq!((schedule.steps(0).unwrap(), schedule.steps(1).unwrap()), (0..2, 2..4));
        assert!(schedule.steps(2).is_err());
    }

    #[test]
    fn steps_are_shared_out() {
        assert_eq!(steps_within(&(0..9), 2..5), 0..3);
        assert_eq!(steps_within(&(3..4), 2..5), 1..2);
        assert_eq!(steps_within(&(6..9), 2..5), 3..3);
        assert_eq!(steps_within(&(0..1), 2..5), 0..0);
    }
}
