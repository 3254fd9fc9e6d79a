//! The call.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor};
use wgpu_attention::{Error, Result};

use crate::backend::AttentionBackend;
use crate::call::Call;
use crate::device;
use crate::options::Options;

/// Attention: `softmax(scale · q kᵀ, modified, where the mask keeps) v`, on burn's device and over burn's buffers.
///
/// - q `[batch, heads, seq_q, dim]`
/// - k `[batch, kv_heads, seq_kv, dim]`, `kv_heads` a divisor of `heads`
/// - v `[batch, kv_heads, seq_kv, dim_v]`
/// - the result `[batch, heads, seq_q, dim_v]`, of q's type
///
/// Types are f32, f16 and bf16, as the device has them; sums are f32. `dim` is 1 to 576. Tensors may lie in memory as they like: what
/// `swap_dims` gives is read in place. Rows that keep no key give 0, and what lies behind a mask, NaN included, reaches no
/// result.
///
/// On a device with autodiff the result has gradients with respect to q, k, v, the bias and the sinks. They need o, and 4
/// bytes for each row and head; no tensor of `seq_q × seq_kv` is made.
///
/// ```no_run
/// use burn::tensor::{Distribution, Tensor};
/// use wgpu_attention_burn::{Options, attention};
/// use wgpu_attention_burn::wgpu_attention::Mask;
/// let device = wgpu_attention_burn::init()?;
/// let [q, k, v] = [8, 2, 2].map(|heads| {
///     Tensor::<4>::random([1, heads, 1024, 64], Distribution::Default, &device)
/// });
/// let o = attention(q, k, v, &Options::new(Mask::causal()));
/// # Ok::<(), burn::tensor::wgpu::WgpuInitError>(())
/// ```
///
/// # Panics
/// Where [`try_attention`] gives an error, with its message.
#[track_caller]
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &Options) -> Tensor<4> {
    match try_attention(q, k, v, options) {
        Ok(o) => o,
        Err(error) => panic!("attention: {error}"),
    }
}

/// [`attention`], with errors as values.
///
/// # Errors
/// [`Error::Operand`] that names the tensor or the option that doesn't fit, or the device where it isn't one of
/// [`crate::init`]; otherwise what the device refused or where it failed. Whether a user-defined function comes with its
/// derivative shows where gradients are computed, which panics.
pub fn try_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &Options,
) -> Result<Tensor<4>> {
    let call = Call::new(&q, &k, &v, options)?;
    let device = q.device();
    device::context(&device::cube_device(&device)?)?;
    let bias = options.get_bias().cloned();
    // The kernels read sinks in f32; a cast has gradients.
    let sinks = options.get_sinks().map(|sinks| sinks.clone().cast(DType::F32));
    check_device("k", &k.device(), &device)?;
    check_device("v", &v.device(), &device)?;
    if let Some(bias) = &bias {
        check_device("bias", &bias.device(), &device)?;
    }
    if let Some(sinks) = &sinks {
        check_device("sinks", &sinks.device(), &device)?;
    }
    let q = q.into_dispatch();
    let bias = bias.map_or_else(|| q.clone(), Tensor::into_dispatch);
    let sinks = sinks.map_or_else(|| q.clone(), Tensor::into_dispatch);
    let (k, v) = (k.into_dispatch(), v.into_dispatch());
    let attended = Dispatch::masked_attention(q, k, v, bias, sinks, call);
    match attended.error {
        None => Ok(Tensor::from_dispatch(attended.o)),
        Some(error) => Err(error),
    }
}

/// Whether a tensor lies where the others do.
pub(crate) fn check_device(name: &str, found: &Device, expected: &Device) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let expected = format!("a tensor on the same device as the others, {expected:?}");
    Err(Error::operand(name, expected, format!("one on {found:?}")))
}
