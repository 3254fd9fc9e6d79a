//! cubecl's tensors as the library sees them: a slice of a wgpu buffer, with strides.

use std::any::Any;

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::server::ServerError;
use burn_cubecl::cubecl::wgpu::{AutoCompiler, WgpuServer};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::tensor::Strides;
use wgpu_attention::{Dtype, Error, Layout, Result, wgpu};

/// A tensor's bytes on the device. cubecl neither moves nor reuses them while this lives.
#[derive(Debug)]
pub(crate) struct Bound {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
    /// cubecl's hold on the bytes, of a type that it doesn't name outside.
    _hold: Box<dyn Any + Send>,
}

impl Bound {
    /// Where a tensor lies.
    ///
    /// cubecl submits what it has recorded for the tensor's stream and for this thread's before it answers. So what is
    /// submitted from here on to the same queue runs behind everything that made the tensor.
    ///
    /// # Errors
    /// Where what made the tensor failed.
    pub(crate) fn new(name: &str, tensor: &CubeTensor) -> Result<Self> {
        let handle = tensor.handle.clone();
        let held = tensor.client.get_resource::<WgpuServer<AutoCompiler>>(handle);
        let held = held.map_err(|error| failed(name, &error))?;
        let resource = held.resource();
        // In whole words: an allocation has at least one, and ends at a multiple of more.
        let bytes = resource.size.next_multiple_of(4).max(4);
        let (buffer, offset) = (resource.buffer.clone(), resource.offset);
        Ok(Self { buffer, offset, bytes, _hold: Box::new(held) })
    }

    /// [`Bound::new`] of a tensor that may not be there.
    pub(crate) fn optional(name: &str, tensor: Option<&CubeTensor>) -> Result<Option<Self>> {
        tensor.map(|tensor| Self::new(name, tensor)).transpose()
    }

    pub(crate) const fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn slice(&self) -> wgpu::BufferSlice<'_> {
        self.buffer.slice(self.offset..self.offset + self.bytes)
    }
}

fn failed(name: &str, error: &ServerError) -> Error {
    Error::operand(name, "a tensor whose own computation succeeded", error)
}

/// How a float tensor is stored, in the library's words.
///
/// # Errors
/// Where it is stored in a way that the library hasn't.
pub(crate) fn dtype(name: &str, dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        other => {
            let expected = format!("f32, f16 or bf16; `{name}.cast(DType::F32)` converts");
            Err(Error::operand(name, expected, format!("{other:?}")))
        }
    }
}

/// `[batch, heads, seq, dim]`
pub(crate) fn dims(tensor: &CubeTensor) -> [usize; 4] {
    let shape = tensor.meta.shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

/// The tensor with its rows in memory as its strides say: nothing to do, unless cubecl laid it out in tiles for a product.
pub(crate) fn in_rows(tensor: CubeTensor) -> CubeTensor {
    if tensor.meta.is_tiled() { into_contiguous(tensor) } else { tensor }
}

/// A tensor's strides. Those of dimensions of one element say nothing, and are made alike, so that plans are found again.
pub(crate) fn strides(tensor: &CubeTensor) -> Strides {
    let dims = dims(tensor);
    let dense = Layout::Bhsd.strides(dims);
    let own = tensor.meta.strides();
    let of = |at: usize, dense: usize| if dims[at] > 1 { own[at] } else { dense };
    Strides {
        batch: of(0, dense.batch),
        head: of(1, dense.head),
        seq: of(2, dense.seq),
        dim: of(3, dense.dim),
    }
}

/// The layout in which an output lies as the tensor it belongs to: so what a module does next, bringing heads together,
/// needs no copy.
pub(crate) const fn layout_like(strides: &Strides) -> Layout {
    if strides.seq > strides.head { Layout::Bshd } else { Layout::Bhsd }
}

/// A tensor of these sizes beside another on its device, not written yet.
pub(crate) fn empty(
    beside: &CubeTensor,
    dims: [usize; 4],
    layout: Layout,
    dtype: DType,
) -> CubeTensor {
    let mut tensor = empty_dense(beside, &dims, dtype);
    let Strides { batch, head, seq, dim } = layout.strides(dims);
    tensor.meta.strides = [batch, head, seq, dim].into();
    tensor
}

/// A dense tensor of these sizes beside another.
pub(crate) fn empty_dense(beside: &CubeTensor, dims: &[usize], dtype: DType) -> CubeTensor {
    let (client, device) = (beside.client.clone(), beside.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(dims.to_vec()), dtype)
}
