//! One-shot calls for gradients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Session;
use super::uploaded::Uploaded;
use crate::auxiliary::AuxTensor;
use crate::custom::WgslFunction;
use crate::error::Result;
use crate::plan::attention::{AttentionBuffers, AttentionPlan};
use crate::plan::backward::{BackwardBuffers, BackwardOptions, BackwardPlan, GradientBuffers};
use crate::plan::choice::Choice;
use crate::problem::{Inputs, Problem, Resolved, Upstream};
use crate::tensor::dtype::Dtype;
use crate::tensor::elements::Element;

/// The gradients of a loss with respect to the operands.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Gradients<T = f32> {
    /// As q, or with the strides of [`BackwardOptions`]
    pub dq: Vec<T>,
    /// As k
    pub dk: Vec<T>,
    /// As v
    pub dv: Vec<T>,
    /// As the bias, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]`; empty without one
    pub dbias: Vec<T>,
    /// `[num_heads]`; empty without sinks
    pub dsinks: Vec<f32>,
    /// As ALiBi's slopes, `[batch|1, num_heads]`; empty without ALiBi
    pub dalibi_slopes: Vec<f32>,
    /// Of the buffers that [`Problem::score_mod`] reads, by name: those for which the function's text has a derivative
    pub dcustom: BTreeMap<String, Vec<f32>>,
}

impl Session {
    /// Uploads the operands, computes forward and backward, reads every gradient back.
    ///
    /// # Errors
    /// As [`Session::run`] and [`BackwardPlan::new`].
    pub async fn gradients(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients> {
        self.gradients_as(problem, inputs, upstream, options).await
    }

    /// [`Session::gradients`] in a type of the caller's choice, but for dsinks, dalibi_slopes and dcustom: as they are stored, where
    /// the options store them in this type.
    ///
    /// # Errors
    /// As [`Session::gradients`].
    pub async fn gradients_as<T: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients<T>> {
        let problem = Resolved::of(problem, inputs)?;
        let own = options.resolve(&problem)?;
        upstream.check(&problem, &own.dout)?;

        let choice = Choice::in_order(&self.kernels, &problem)?;
        let forward = AttentionPlan::of(&self.kernels, &problem, choice)?;
        let backward = BackwardPlan::of(&self.kernels, &problem, &own, options)?;
        let uploaded = Uploaded::new(self, Arc::clone(&problem), inputs)?;
        let dout = self.filled("dout", &upstream.dout.encode(problem.dtypes.o))?;
        let dlse = (upstream.dlse)
            .map(|dlse| self.filled("dlse", bytemuck::cast_slice(dlse)))
            .transpose()?;
        let lse = self.allocate("lse", problem.lse_len)?;
        let dq = self.tensor("dq", &own.dq, own.dtypes.dq)?;
        let dk = self.tensor("dk", &own.dk, own.dtypes.dk)?;
        let dv = self.tensor("dv", &own.dv, own.dtypes.dv)?;
        let dbias = match problem.score.bias {
            true => Some(self.dense("dbias", problem.bias_len, own.dtypes.dbias)?),
            false => None,
        };
        let dsinks = match problem.score.sinks {
            true => Some(self.dense("dsinks", problem.shape.num_heads, Dtype::F32)?),
            false => None,
        };
        let dalibi_slopes = (problem.sizes_of(AuxTensor::AlibiSlopes))
            .map(|sizes| self.dense("dalibi_slopes", sizes.iter().product(), Dtype::F32))
            .transpose()?;
        let mut dcustom = Vec::new();
        for (_, buffer) in problem.score_mod.iter().flat_map(WgslFunction::learned) {
            dcustom.push((&*buffer.name, self.dense("dcustom", buffer.len, Dtype::F32)?));
        }
        let of_custom: Vec<_> =
            dcustom.iter().map(|(name, tensor)| (*name, tensor.buffer.slice(..))).collect();
        let buffers = AttentionBuffers { lse: Some(lse.slice(..)), ..uploaded.buffers() };
        self.submit(forward.submissions(), |encoder, submission| {
            forward.encode_submission(encoder, &buffers, submission)
        })?;
        let AttentionBuffers { q, k, v, aux, o, .. } = buffers;
        let buffers = BackwardBuffers {
            q,
            k,
            v,
            o,
            lse: lse.slice(..),
            dout: dout.slice(..),
            dlse: dlse.as_ref().map(|dlse| dlse.slice(..)),
            aux,
            gradients: GradientBuffers {
                dq: Some(dq.buffer.slice(..)),
                dk: Some(dk.buffer.slice(..)),
                dv: Some(dv.buffer.slice(..)),
                dbias: dbias.as_ref().map(|tensor| tensor.buffer.slice(..)),
                dsinks: dsinks.as_ref().map(|tensor| tensor.buffer.slice(..)),
                dalibi_slopes: dalibi_slopes.as_ref().map(|tensor| tensor.buffer.slice(..)),
                dcustom: &of_custom,
            },
        };
        self.submit(backward.submissions(), |encoder, submission| {
            backward.encode_submission(encoder, &buffers, submission)
        })?;
        let mut custom = BTreeMap::new();
        for (name, tensor) in &dcustom {
            custom.insert((*name).to_owned(), self.download(tensor).await?);
        }
        Ok(Gradients {
            dq: self.download(&dq).await?,
            dk: self.download(&dk).await?,
            dv: self.download(&dv).await?,
            dbias: match &dbias {
                Some(dbias) => self.download(dbias).await?,
                None => Vec::new(),
            },
            dsinks: match &dsinks {
                Some(dsinks) => self.download(dsinks).await?,
                None => Vec::new(),
            },
            dalibi_slopes: match &dalibi_slopes {
                Some(slopes) => self.download(slopes).await?,
                None => Vec::new(),
            },
            dcustom: custom,
        })
    }

    /// [`Session::gradients`], waiting for them. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn gradients_blocking(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients> {
        pollster::block_on(self.gradients(problem, inputs, upstream, options))
    }

    /// [`Session::gradients_as`], waiting for them. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn gradients_as_blocking<T: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients<T>> {
        pollster::block_on(self.gradients_as(problem, inputs, upstream, options))
    }
}
