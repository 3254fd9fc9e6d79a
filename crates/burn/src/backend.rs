//! Attention as an extension of burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, backend_extension};
use burn_cubecl::CubeBackend;
use wgpu_attention::{Error, Result};

use crate::call::Call;
use crate::{backward, forward};

/// What attention gave.
#[derive(Debug, ExtensionType)]
pub struct Attended<B: Backend> {
    /// `[batch, heads, seq_q, dim_v]`; q where there is an error
    pub o: FloatTensor<B>,
    /// Why nothing was computed: burn's dispatch hands no `Result` through.
    pub error: Option<Error>,
}

/// A backend to which attention can be dispatched, with gradients where it has these.
///
/// burn's dispatch hands no `Option` of a tensor through either: where the call has no bias or no sinks, q stands for them.
#[backend_extension(Cube, Autodiff)]
pub trait AttentionBackend: Backend {
    /// `softmax(scale · q kᵀ, modified, where the mask keeps) v`
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        call: Call,
    ) -> Attended<Self>;
}

/// The tensors that a call reads.
#[derive(Debug, Clone)]
pub struct Operands<B: Backend> {
    /// `[batch, heads, seq_q, dim]`
    pub q: FloatTensor<B>,
    /// `[batch, kv_heads, seq_kv, dim]`
    pub k: FloatTensor<B>,
    /// `[batch, kv_heads, seq_kv, dim_v]`
    pub v: FloatTensor<B>,
    /// `[batch or 1, heads or 1, seq_q or 1, seq_kv]`
    pub bias: Option<FloatTensor<B>>,
    /// f32 `[heads]`
    pub sinks: Option<FloatTensor<B>>,
}

/// The gradients of a call's operands, each where it was wanted.
#[derive(Debug)]
pub struct Gradients<B: Backend> {
    /// As [`Operands`]: q, k, v, bias, sinks.
    pub of: [Option<FloatTensor<B>>; 5],
}

/// A backend that computes attention and its gradients itself: what `Autodiff` is made of.
pub trait AttentionKernels: Backend {
    /// o, and f32 `[batch, heads, seq_q]`: the logarithm of each softmax's denominator, if it is wanted.
    ///
    /// # Errors
    /// Where the device is unknown, data of the mask are missing or don't fit, or the device refuses or fails.
    fn attend(
        operands: Operands<Self>,
        call: &Call,
        wants_lse: bool,
    ) -> Result<(FloatTensor<Self>, Option<FloatTensor<Self>>)>;

    /// The wanted gradients, of q, k, v, bias and sinks, from `forward`: o, lse and the gradient of the
    /// loss with respect to o.
    ///
    /// # Errors
    /// As [`AttentionKernels::attend`].
    fn gradients(
        operands: Operands<Self>,
        forward: [FloatTensor<Self>; 3],
        call: &Call,
        wanted: [bool; 5],
    ) -> Result<Gradients<Self>>;
}

impl<B: Backend> Operands<B> {
    /// From what dispatch hands through.
    pub(crate) fn new([q, k, v, bias, sinks]: [FloatTensor<B>; 5], call: &Call) -> Self {
        let (bias, sinks) = (call.has_bias().then_some(bias), call.has_sinks().then_some(sinks));
        Self { q, k, v, bias, sinks }
    }
}

impl AttentionKernels for CubeBackend {
    fn attend(
        operands: Operands<Self>,
        call: &Call,
        wants_lse: bool,
    ) -> Result<(FloatTensor<Self>, Option<FloatTensor<Self>>)> {
        forward::attend(operands, call, wants_lse)
    }

    fn gradients(
        operands: Operands<Self>,
        forward: [FloatTensor<Self>; 3],
        call: &Call,
        wanted: [bool; 5],
    ) -> Result<Gradients<Self>> {
        backward::gradients(operands, forward, call, wanted)
    }
}

impl AttentionBackend for CubeBackend {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        call: Call,
    ) -> Attended<Self> {
        without_gradients::<Self>([q, k, v, bias, sinks], &call)
    }
}

/// Attention on a backend without autodiff.
pub(crate) fn without_gradients<B: AttentionKernels>(
    operands: [FloatTensor<B>; 5],
    call: &Call,
) -> Attended<B> {
    let q = operands[0].clone();
    match B::attend(Operands::<B>::new(operands, call), call, false) {
        Ok((o, _)) => Attended { o, error: None },
        Err(error) => Attended { o: q, error: Some(error) },
    }
}

#[cfg(feature = "fusion")]
pub(crate) use crate::fusion::{resolve, wrap};

/// The tensor as cubecl has it.
#[cfg(not(feature = "fusion"))]
pub(crate) const fn resolve(tensor: FloatTensor<CubeBackend>) -> FloatTensor<CubeBackend> {
    tensor
}

/// The inverse of [`resolve`].
#[cfg(not(feature = "fusion"))]
pub(crate) const fn wrap(tensor: FloatTensor<CubeBackend>) -> FloatTensor<CubeBackend> {
    tensor
}
