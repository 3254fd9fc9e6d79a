//! Auxiliary tensors on the device: the caller's buffers.

use std::collections::BTreeMap;

use wgpu::BufferSlice;

use super::{AuxTensor, InputName};
use crate::error::{Error, Result};

/// The device's buffers with what masks, score modifiers and sequences read.
///
/// Formats: [`AuxTensor`]; 32-bit words throughout. The buffers need `BufferUsages::COPY_SRC`.
///
/// ```no_run
/// # fn f(lengths: wgpu::Buffer) {
/// use wgpu_attention::{AuxBuffers, AuxTensor};
/// let data = AuxBuffers::new().with(AuxTensor::KeyLengths, lengths.slice(..));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct AuxBuffers<'a> {
    slices: BTreeMap<AuxTensor, BufferSlice<'a>>,
    custom: BTreeMap<&'a str, BufferSlice<'a>>,
}

impl<'a> AuxBuffers<'a> {
    /// No data, as for masks that need none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where `input` lies.
    #[must_use]
    pub fn with(mut self, input: AuxTensor, slice: BufferSlice<'a>) -> Self {
        self.slices.insert(input, slice);
        self
    }

    /// Where a user-defined function's buffer of that name lies.
    #[must_use]
    pub fn with_custom(mut self, name: &'a str, slice: BufferSlice<'a>) -> Self {
        self.custom.insert(name, slice);
        self
    }

    pub(crate) fn get(&self, input: &InputName) -> Result<BufferSlice<'a>> {
        let slice = match input {
            InputName::Known(input) => self.slices.get(input),
            InputName::WgslFunction(name) => self.custom.get(&**name),
        };
        slice.copied().ok_or_else(|| {
            Error::operand(input.name(), "a buffer, for the problem names it", "none")
        })
    }
}
