//! The tensors of the score modifiers: bias and sinks.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::{AuxBuffers, AuxTensor, Result};

use crate::tensor::Bound;

/// Bias and sinks, dense.
#[derive(Debug)]
pub(crate) struct ScoreTensors {
    pub(crate) bias: Option<CubeTensor>,
    pub(crate) sinks: Option<CubeTensor>,
}

/// Their bytes.
#[derive(Debug)]
pub(crate) struct BoundScore {
    bias: Option<Bound>,
    sinks: Option<Bound>,
}

impl ScoreTensors {
    pub(crate) fn new(bias: Option<CubeTensor>, sinks: Option<CubeTensor>) -> Self {
        Self { bias: bias.map(into_contiguous), sinks: sinks.map(into_contiguous) }
    }

    pub(crate) fn bind(&self) -> Result<BoundScore> {
        Ok(BoundScore {
            bias: Bound::optional("bias", self.bias.as_ref())?,
            sinks: Bound::optional("sinks", self.sinks.as_ref())?,
        })
    }
}

impl BoundScore {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Bound> {
        self.bias.iter().chain(&self.sinks)
    }

    /// `aux` with bias and sinks.
    pub(crate) fn aux<'a>(&'a self, mut aux: AuxBuffers<'a>) -> AuxBuffers<'a> {
        if let Some(bias) = &self.bias {
            aux = aux.with(AuxTensor::Bias, bias.slice());
        }
        if let Some(sinks) = &self.sinks {
            aux = aux.with(AuxTensor::Sinks, sinks.slice());
        }
        aux
    }
}
