//! Gradients by burn's autodiff.

use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients as Registered;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use crate::backend::{Attended, AttentionBackend, AttentionKernels, Operands, without_gradients};
use crate::call::Call;

/// The backward step of attention.
#[derive(Debug)]
struct Attention;

/// What it needs: the nodes of q, k, v, bias and sinks, o and lse.
#[derive(Debug, Clone)]
struct State<B: Backend> {
    call: Call,
    operands: [NodeId; 5],
    o: FloatTensor<B>,
    lse: FloatTensor<B>,
}

impl<B: AttentionKernels> Backward<B, 5> for Attention {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        gradients: &mut Registered,
        checkpointer: &mut Checkpointer,
    ) {
        let State { call, operands, o, lse } = ops.state;
        let dout = gradients.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let operands = operands.map(|node| checkpointer.retrieve_node_output(node));
        let operands = Operands::<B>::new(operands, &call);
        let computed = B::gradients(operands, [o, lse, dout], &call, wanted);
        let computed = computed.unwrap_or_else(|error| panic!("attention's gradients: {error}"));
        for (parent, gradient) in ops.parents.into_iter().zip(computed.of) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: AttentionKernels, C: CheckpointStrategy> AttentionBackend for Autodiff<B, C> {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        call: Call,
    ) -> Attended<Self> {
        let tensors = [q, k, v, bias, sinks];
        let nodes = tensors.each_ref().map(|tensor| tensor.node());
        // Computing o again would cost as much as the forward pass: so it is kept.
        match Attention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let operands = tensors.each_ref().map(|tensor| prep.checkpoint(tensor));
                let [q, ..] = &tensors;
                let q = q.clone();
                let tensors = tensors.map(|tensor| tensor.into_primitive());
                match B::attend(Operands::<B>::new(tensors, &call), &call, true) {
                    Ok((o, Some(lse))) => {
                        let state = State { call, operands, o: o.clone(), lse };
                        Attended { o: prep.finish(state, o), error: None }
                    }
                    Ok((o, None)) => unreachable!("lse was asked for with {o:?}"),
                    Err(error) => Attended { o: q, error: Some(error) },
                }
            }
            OpsKind::UnTracked(prep) => {
                let tensors = tensors.map(|tensor| tensor.into_primitive());
                let Attended { o, error } = without_gradients::<B>(tensors, &call);
                Attended { o: prep.finish(o), error }
            }
        }
    }
}
