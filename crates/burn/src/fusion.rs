//! Attention under burn's kernel fusion.
//!
//! Attention runs when it is called: what burn has queued for its operands is run first, and its result is a tensor that is
//! there already. As a queued operation it couldn't give its errors to the caller.

use burn::backend::fusion::stream::StreamId;
use burn::backend::fusion::{Fusion, NoOp, get_client};
use burn::backend::ir::{BackendIr, InitOperationIr, OperationIr, OperationOutput};
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::Result;

use crate::backend::{
    Attended, AttentionBackend, AttentionKernels, Gradients, Operands, without_gradients,
};
use crate::call::Call;

type Fused = Fusion<CubeBackend>;

/// The tensor, computed.
pub(crate) fn resolve(tensor: FloatTensor<Fused>) -> CubeTensor {
    tensor.client.clone().resolve_tensor_float::<CubeBackend>(tensor)
}

/// A computed tensor for burn.
pub(crate) fn wrap(tensor: CubeTensor) -> FloatTensor<Fused> {
    let client = get_client::<CubeBackend>(&tensor.device);
    let (shape, dtype) = (tensor.meta.shape().clone(), tensor.dtype);
    let handle = CubeBackend::float_tensor_handle(tensor);
    let init = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    let operation = OperationIr::Init(init);
    client.register(StreamId::current(), operation, NoOp::<CubeBackend>::new()).output()
}

impl AttentionKernels for Fused {
    fn attend(
        operands: Operands<Self>,
        call: &Call,
        wants_lse: bool,
    ) -> Result<(FloatTensor<Self>, Option<FloatTensor<Self>>)> {
        let (o, lse) = CubeBackend::attend(resolved(operands), call, wants_lse)?;
        Ok((wrap(o), lse.map(wrap)))
    }

    fn gradients(
        operands: Operands<Self>,
        forward: [FloatTensor<Self>; 3],
        call: &Call,
        wanted: [bool; 5],
    ) -> Result<Gradients<Self>> {
        let forward = forward.map(resolve);
        let Gradients { of } = CubeBackend::gradients(resolved(operands), forward, call, wanted)?;
        Ok(Gradients { of: of.map(|gradient| gradient.map(wrap)) })
    }
}

impl AttentionBackend for Fused {
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

fn resolved(operands: Operands<Fused>) -> Operands<CubeBackend> {
    Operands {
        q: resolve(operands.q),
        k: resolve(operands.k),
        v: resolve(operands.v),
        bias: operands.bias.map(resolve),
        sinks: operands.sinks.map(resolve),
    }
}
