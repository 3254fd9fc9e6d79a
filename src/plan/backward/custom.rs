//! The gradients of the buffers that a score's function reads: which there are, how their sums are divided among workgroups.

use std::ops::Range;
use std::sync::Arc;

use crate::custom::WgslFunction;
use crate::error::{Error, Result};
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::{BIAS_ROWS, SEGMENT, SUM_COLUMNS};
use crate::problem::Resolved;

/// The most bytes of sums at a time: enough workgroups for a device where there are some thousands of elements.
const MOST_BYTES: u64 = 64 << 20;

/// The most workgroups whose sums are added up at a time: no running sum has more terms than 1024.
const MOST_WORKGROUPS: usize = 4096;

/// The most cells of a workgroup: no column of its sums has more terms than 4096.
const MOST_CELLS: usize = 1 << 16;

/// What the kernel that sums up cells has to do.
#[derive(Debug, Clone)]
pub(in crate::plan) struct CustomWork {
    pub(in crate::plan) buffers: Vec<Learned>,
    /// The rows of a workgroup.
    pub(in crate::plan) rows: usize,
}

/// A buffer with a gradient.
#[derive(Debug, Clone)]
pub(in crate::plan) struct Learned {
    pub(in crate::plan) name: Arc<str>,
    /// The gradient's name in messages.
    pub(in crate::plan) gradient: String,
    /// Where its elements lie among those of all of them.
    pub(in crate::plan) elements: Range<usize>,
}

impl CustomWork {
    /// Of a problem whose score function has buffers with a gradient.
    pub(in crate::plan) fn of(problem: &Resolved) -> Option<Self> {
        let mut end = 0usize;
        let buffers: Vec<_> = (problem.score_mod.iter())
            .flat_map(WgslFunction::learned)
            .map(|(_, buffer)| {
                let start = end;
                end = end.saturating_add(buffer.len);
                let name = Arc::clone(&buffer.name);
                Learned { gradient: format!("d{name}"), name, elements: start..end }
            })
            .collect();
        if buffers.is_empty() {
            return None;
        }
        // Sums are cleared and added up for each workgroup: it takes rows until these are a few for each cell.
        let keys = problem.shape.seq_len_kv.clamp(1, SEGMENT);
        let enough = (end.saturating_mul(SUM_COLUMNS) / 4).min(MOST_CELLS) / keys;
        let most = (MOST_CELLS / keys).min(problem.shape.seq_len_q);
        let mut rows = BIAS_ROWS;
        while rows < enough && 2 * rows <= most {
            rows *= 2;
        }
        Some(Self { buffers, rows })
    }

    pub(in crate::plan) fn elements(&self) -> usize {
        self.buffers.last().map_or(0, |buffer| buffer.elements.end)
    }

    /// Bytes of a workgroup's sums.
    fn bytes(&self) -> u64 {
        (self.elements() as u64).saturating_mul(4 * SUM_COLUMNS as u64)
    }

    /// The workgroups that have their sums at a time, of so many; one chunk at least, which clears the gradients.
    ///
    /// # Errors
    /// More elements than there is memory for.
    fn chunks(&self, limits: &wgpu::Limits, workgroups: usize) -> Result<Vec<Range<usize>>> {
        let device = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let most = device.min(MOST_BYTES);
        let at_a_time = (most / self.bytes().max(1)).min(MOST_WORKGROUPS as u64) as usize;
        if at_a_time == 0 {
            let largest = self.buffers.iter().max_by_key(|buffer| buffer.elements.len());
            return Err(Error::operand(
                largest.map_or("dcustom", |buffer| &buffer.gradient),
                format!(
                    "at most {} elements in all buffers of score_mod that have a gradient; leave out the function that ends in \
                     `_grad`, or make it a bias, whose gradient has no such limit",
                    most / (4 * SUM_COLUMNS as u64)
                ),
                self.elements(),
            ));
        }
        let chunk = |start| start..workgroups.min(start + at_a_time);
        Ok((0..workgroups.max(1)).step_by(at_a_time).map(chunk).collect())
    }

    /// Bytes of the sums of the largest of these chunks.
    fn scratch(&self, chunks: &[Range<usize>]) -> u64 {
        let most = chunks.iter().map(Range::len).max().unwrap_or(0);
        (most as u64).saturating_mul(self.bytes()).max(4)
    }

    /// The workgroups that add up the sums of each chunk, those of one buffer after the other: one for each element.
    fn sums(&self, chunks: &[Range<usize>], params: Params) -> Vec<(Range<usize>, Params)> {
        let of_workgroup = (self.elements() * SUM_COLUMNS) as u32;
        let of_chunk = |chunk: &Range<usize>| {
            let params = Params {
                num_splits: chunk.len() as u32,
                part_strides: [of_workgroup, 0, SUM_COLUMNS as u32, 1],
                ..Self::params(chunk, params)
            };
            self.buffers.iter().map(move |Learned { elements, .. }| {
                (elements.clone(), Params { output_base: elements.start as u32, ..params })
            })
        };
        chunks.iter().flat_map(of_chunk).collect()
    }

    /// `Grid::workgroups` has refused what 32 bits don't count.
    const fn params(chunk: &Range<usize>, params: Params) -> Params {
        Params { cells_first_workgroup: chunk.start as u32, ..params }
    }
}

/// The work on one device.
#[derive(Debug)]
pub(super) struct Custom {
    pub(super) work: CustomWork,
    /// The workgroups that have their sums at a time.
    pub(super) chunks: Vec<Range<usize>>,
    /// The sums of a chunk: `[workgroups, elements, SUM_COLUMNS]`.
    pub(super) shares: wgpu::Buffer,
}

impl Custom {
    /// Of so many workgroups.
    ///
    /// # Errors
    /// As [`CustomWork::chunks`], and where the device fails to allocate.
    pub(super) fn new(kernels: &Kernels, work: CustomWork, workgroups: usize) -> Result<Self> {
        let chunks = work.chunks(&kernels.traits().limits, workgroups)?;
        let (bytes, usage) = (work.scratch(&chunks), wgpu::BufferUsages::STORAGE);
        let name = "sums of what score_mod reads";
        let shares = crate::device::buffer(kernels.device(), name, bytes, usage)?;
        Ok(Self { work, chunks, shares })
    }

    /// The ranges of workgroups of the kernel that makes the sums.
    pub(super) fn cells(&self, params: Params) -> Vec<(Range<usize>, Params)> {
        let of_chunk = |chunk: &Range<usize>| (chunk.clone(), CustomWork::params(chunk, params));
        self.chunks.iter().map(of_chunk).collect()
    }

    /// Those of the kernel that adds them up.
    pub(super) fn sums(&self, params: Params) -> Vec<(Range<usize>, Params)> {
        self.work.sums(&self.chunks, params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custom::WgslBuffer;
    use crate::problem::Problem;
    use crate::tensor::shape::Shape;

    const TEXT: &str =
        "fn score_mod() {} fn table_index() {} fn table_grad() {} fn scale_grad() {}";

    fn work(shape: Shape, len: usize) -> CustomWork {
        let function = WgslFunction::new(TEXT).unwrap();
        let function = function.buffer("kinds", WgslBuffer::U32, 9).unwrap();
        let function = function.buffer("scale", WgslBuffer::F32, 2).unwrap();
        let function = function.buffer("unlearned", WgslBuffer::F32, 9).unwrap();
        let function = function.buffer("table", WgslBuffer::F32, len).unwrap();
        let problem = Resolved::new(Problem::new(shape).score_mod(function)).unwrap();
        CustomWork::of(&problem).unwrap()
    }

    #[test]
    fn sums_are_divided_among_workgroups() {
        let limits = wgpu::Limits::defaults();
        for (seq_len_q, seq_len_kv) in [(0, 0), (1, 1), (37, 70), (512, 512), (100_000, 100_000)] {
            for len in [1, 64, 4096, 1 << 19] {
                let work = work(Shape::new(1, 2, seq_len_q, 8).seq_len_kv(seq_len_kv), len);
                let names: Vec<_> = work.buffers.iter().map(|x| &*x.gradient).collect();
                assert_eq!((names, work.elements()), (vec!["dscale", "dtable"], len + 2));
                let cells = work.rows * seq_len_kv.min(SEGMENT);
                assert!(work.rows.is_multiple_of(BIAS_ROWS) && cells <= MOST_CELLS, "{work:?}");
                for workgroups in [0, 1, 5000] {
                    let chunks = work.chunks(&limits, workgroups).unwrap();
                    assert_eq!(chunks.iter().map(Range::len).sum::<usize>(), workgroups);
                    assert!(work.scratch(&chunks) <= MOST_BYTES);
                    let sums = work.sums(&chunks, Params::default());
                    assert_eq!(sums.len(), 2 * chunks.len());
                    assert_eq!((sums[0].0.clone(), sums[1].0.clone()), (0..2, 2..len + 2));
                }
            }
        }
    }

    #[test]
    fn too_many_elements_are_refused() {
        for len in [(1 << 20) - 1, usize::MAX / 8] {
            let mut work = work(Shape::new(1, 1, 1, 1), 1);
            work.buffers[1].elements = 2..len + 2;
            let error = work.chunks(&wgpu::Limits::defaults(), 1).unwrap_err().to_string();
            assert!(error.contains("dtable: expected at most 1048576 elements"), "{error}");
        }
    }
}
