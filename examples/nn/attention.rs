//! The crate's attention on a tape: in training with its gradients, in translation over a cache.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, ensure};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::plan::{
    BackwardBuffers, GradientBuffers, InspectBuffers, InspectPlan, ScoreTensor,
};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, BackwardPlan, KvCache, Mask, Problem,
};

use super::tape::{Tape, Tensor};

/// What a mask reads, by name.
pub(crate) type MaskBindings = Vec<(AuxTensor, wgpu::Buffer)>;

/// One attention of the tape, kept to look into.
#[derive(Debug, Clone)]
pub(super) struct Attended {
    problem: Problem,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    lse: wgpu::Buffer,
    mask: MaskBindings,
}

impl Tape<'_> {
    /// The crate's attention. q, k and v are read by nothing else, since its backward pass writes their gradients
    /// rather than adding to them.
    pub(crate) fn attention(
        &mut self,
        problem: &Problem,
        [q, k, v]: [&Tensor; 3],
        mask: &MaskBindings,
    ) -> Result<Tensor> {
        let shape = problem.shape();
        let o = Tensor::zeros(self.gpu, q.rows, v.columns);
        let lse = self.gpu.zeros(shape.lse_len()?);
        let plan = AttentionPlan::new(self.gpu.kernels(), problem, &Default::default())?;
        self.attended.push(Attended {
            problem: problem.clone(),
            q: q.values.clone(),
            k: k.values.clone(),
            lse: lse.clone(),
            mask: mask.clone(),
        });
        let [q, k, v] = [q, k, v].map(Clone::clone);
        if self.training {
            let backward = BackwardPlan::new(self.gpu.kernels(), problem, &Default::default())?;
            let (q, k, v, o) = (q.clone(), k.clone(), v.clone(), o.clone());
            let (lse, mask) = (lse.clone(), mask.clone());
            self.gradients.push(o.gradient.clone());
            self.backward.push(Box::new(move |encoder| {
                let buffers = BackwardBuffers {
                    q: q.values.slice(..),
                    k: k.values.slice(..),
                    v: v.values.slice(..),
                    o: o.values.slice(..),
                    lse: lse.slice(..),
                    dout: o.gradient.slice(..),
                    dlse: None,
                    aux: aux_buffers(&mask),
                    gradients: GradientBuffers::default()
                        .dq(q.gradient.slice(..))
                        .dk(k.gradient.slice(..))
                        .dv(v.gradient.slice(..)),
                };
                Ok(backward.encode(encoder, &buffers)?)
            }));
        }
        let (written, mask) = (o.values.clone(), mask.clone());
        self.forward.push(Box::new(move |encoder| {
            let buffers = AttentionBuffers {
                q: q.values.slice(..),
                k: k.values.slice(..),
                v: v.values.slice(..),
                aux: aux_buffers(&mask),
                o: written.slice(..),
                lse: Some(lse.slice(..)),
            };
            Ok(plan.encode(encoder, &buffers)?)
        }));
        Ok(o)
    }

    /// Attention of one new token of each sequence over all its tokens so far. The crate's cache keeps their keys and
    /// values, up to `capacity` of them, until [`Tape::forget`].
    pub(crate) fn cached_attention(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        heads: usize,
        capacity: usize,
    ) -> Result<Tensor> {
        ensure!(!self.training, "cached_attention: only for inference");
        let kernels = self.gpu.kernels();
        let shape = CacheShape::new(q.rows, heads, capacity, q.columns / heads);
        let append = AppendPlan::new(kernels, &shape, &NewTokens::new(1))?;
        let problem = shape.problem(heads, 1, QuerySequences::Uniform).mask(Mask::causal());
        let plan = AttentionPlan::new(kernels, &problem, &Default::default())?;
        let cache = Rc::new(RefCell::new(KvCache::new(kernels, &shape)?));
        self.caches.push(Rc::clone(&cache));
        let o = Tensor::zeros(self.gpu, q.rows, v.columns);
        let ([q, k, v], written) = ([q, k, v].map(|x| x.values.clone()), o.values.clone());
        self.forward.push(Box::new(move |encoder| {
            let mut cache = cache.borrow_mut();
            let new = AppendBuffers::new(k.slice(..), v.slice(..));
            append.encode(encoder, &mut cache, &new)?;
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                aux: cache.aux_buffers(AuxBuffers::new()),
                o: written.slice(..),
                lse: None,
            };
            Ok(plan.encode(encoder, &buffers)?)
        }));
        Ok(o)
    }

    /// Empties the caches, for other sequences.
    pub(crate) fn forget(&self) -> Result<()> {
        let mut encoder = self.gpu.encoder();
        for cache in &self.caches {
            let mut cache = cache.borrow_mut();
            for sequence in 0..cache.shape().batch {
                cache.set_length(&mut encoder, sequence, 0)?;
            }
        }
        self.gpu.submit(encoder);
        Ok(())
    }

    /// The weights of the `index`th attention as the last run left them, `[batch, heads, seq_len_q, seq_len_kv]`.
    pub(crate) fn attention_weights(&self, index: usize) -> Result<Vec<f32>> {
        let attended = &self.attended[index];
        let plan = InspectPlan::new(self.gpu.kernels(), &attended.problem)?;
        let cells = attended.problem.shape().scores_len()?;
        let weights = self.gpu.zeros(cells);
        let mut encoder = self.gpu.encoder();
        let buffers = InspectBuffers {
            q: attended.q.slice(..),
            k: attended.k.slice(..),
            aux: aux_buffers(&attended.mask),
            output: weights.slice(..),
        };
        plan.encode(&mut encoder, ScoreTensor::Weights, &buffers)?;
        self.gpu.submit(encoder);
        self.gpu.read(&weights, cells)
    }
}

fn aux_buffers(bindings: &MaskBindings) -> AuxBuffers<'_> {
    bindings
        .iter()
        .fold(AuxBuffers::new(), |buffers, (input, buffer)| buffers.with(*input, buffer.slice(..)))
}
