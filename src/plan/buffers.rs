//! The caller's buffers, checked before they are bound: usage, size, alignment, overlap.

use wgpu::{BufferSlice, BufferUsages};

use crate::auxiliary::{AuxBuffers, AuxTensor, InputName};
use crate::error::{Error, Result};
use crate::kernel::pipeline::Kernels;
use crate::problem::{Placed, Resolved};
use crate::tensor::dtype::Dtype;

/// A slice of the caller's that is to be bound or copied from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) name: &'a str,
    pub(crate) slice: BufferSlice<'a>,
    /// How many bytes of it are used.
    pub(crate) bytes: u64,
}

impl<'a> Operand<'a> {
    /// A tensor of `elements` elements; two of 16 bits share a word, and a last one has it alone.
    pub(crate) fn of(name: &'a str, slice: BufferSlice<'a>, elements: usize, dtype: Dtype) -> Self {
        let bytes = (elements as u64 * dtype.size() as u64).next_multiple_of(4);
        Self { name, slice, bytes }
    }

    /// A tensor of a checked problem.
    pub(crate) const fn placed(name: &'a str, slice: BufferSlice<'a>, placed: &Placed) -> Self {
        Self { name, slice, bytes: placed.bytes }
    }

    /// A tensor of `elements` 32-bit elements.
    pub(crate) fn new(name: &'a str, slice: BufferSlice<'a>, elements: usize) -> Self {
        Self { name, slice, bytes: elements as u64 * 4 }
    }

    /// The bias, where the problem has one.
    pub(crate) fn bias(problem: &Resolved, data: &AuxBuffers<'a>) -> Result<Option<Self>> {
        if !problem.score.bias {
            return Ok(None);
        }
        Ok(Some(Self::of(
            "bias",
            data.get(&InputName::Known(AuxTensor::Bias))?,
            problem.bias_len,
            problem.dtypes.bias,
        )))
    }

    /// Whether the slice can be bound, in pieces where it's too large to be bound as a whole.
    pub(crate) fn check_storage(&self, kernels: &Kernels) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let limits = &kernels.traits().limits;
        self.check(BufferUsages::STORAGE, u64::from(limits.min_storage_buffer_offset_alignment))
    }

    /// All of it as a binding.
    pub(crate) fn whole(&self) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.slice.buffer(),
            offset: self.slice.offset(),
            size: std::num::NonZero::new(self.bytes),
        })
    }

    /// Whether the slice has the usage, the size and the alignment.
    pub(crate) fn check(&self, usage: BufferUsages, alignment: u64) -> Result<()> {
        let Self { name, slice, bytes } = *self;
        if !slice.buffer().usage().contains(usage) {
            return Err(Error::operand(
                name,
                format!("a buffer with usage {usage:?}"),
                format!("{:?}", slice.buffer().usage()),
            ));
        }
        if slice.size() < bytes {
            return Err(Error::operand(
                name,
                format!("a slice of at least {bytes} bytes"),
                format!("{} bytes", slice.size()),
            ));
        }
        if !slice.offset().is_multiple_of(alignment) {
            return Err(Error::operand(
                name,
                format!("an offset that is a multiple of {alignment} bytes"),
                slice.offset(),
            ));
        }
        Ok(())
    }

    fn range(&self) -> std::ops::Range<u64> {
        self.slice.offset()..self.slice.offset() + self.bytes
    }
}

/// Whether outputs lie apart from everything else. wgpu tracks a buffer's use as a whole, so an output needs another
/// buffer than any input has; two outputs may share one.
pub(crate) fn check_outputs_apart(inputs: &[Operand<'_>], outputs: &[Operand<'_>]) -> Result<()> {
    for (index, output) in outputs.iter().enumerate() {
        if output.bytes == 0 {
            continue;
        }
        let same =
            |other: &&Operand<'_>| other.bytes > 0 && other.slice.buffer() == output.slice.buffer();
        if let Some(input) = inputs.iter().find(same) {
            return Err(Error::operand(
                output.name,
                format!("another buffer than the input {}", input.name),
                "the same one",
            ));
        }
        let range = output.range();
        let overlaps = |other: &&Operand<'_>| {
            same(other) && other.range().start < range.end && range.start < other.range().end
        };
        if let Some(other) = outputs[..index].iter().find(overlaps) {
            return Err(Error::operand(
                output.name,
                format!("bytes apart from {}'s, {:?}", other.name, other.range()),
                format!("{range:?}"),
            ));
        }
    }
    Ok(())
}
