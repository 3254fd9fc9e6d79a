//! The parts that transformers are made of: pre-norm, without biases.

use anyhow::Result;
use wgpu_attention::{Layout, Mask, Problem, Shape};

use super::attention::MaskBindings;
use super::parameters::Parameters;
use super::tape::{Tape, Tensor};

/// How the queries of an attention see its keys.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) mask: Mask,
    /// What the mask reads.
    pub(crate) data: MaskBindings,
    /// Where each query and key stands, i32, for rotary positions in self-attention; without, the embeddings tell.
    pub(crate) positions: Option<wgpu::Buffer>,
}

/// A tape and the parameters of the model that is put on it.
pub(crate) struct Builder<'a, 'g> {
    pub(crate) tape: &'a mut Tape<'g>,
    pub(crate) parameters: &'a mut Parameters<'g>,
    /// How many branches a residual stream gets: what they add is scaled so that their sum keeps its size.
    pub(crate) branches: usize,
}

impl Builder<'_, '_> {
    /// `x` times a matrix that keeps the size of numbers.
    pub(crate) fn linear(&mut self, name: &str, x: &Tensor, columns: usize) -> Result<Tensor> {
        self.scaled_linear(name, x, columns, 1.0)
    }

    fn scaled_linear(
        &mut self,
        name: &str,
        x: &Tensor,
        columns: usize,
        scale: f32,
    ) -> Result<Tensor> {
        let deviation = scale / (x.columns as f32).sqrt();
        let w = self.parameters.matrix(name, [x.columns, columns], deviation)?;
        self.tape.linear(x, &w)
    }

    /// The last matrix of a branch.
    fn out(&mut self, name: &str, x: &Tensor, columns: usize) -> Result<Tensor> {
        self.scaled_linear(name, x, columns, 1.0 / (self.branches as f32).sqrt())
    }

    pub(crate) fn norm(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let gain = self.parameters.gain(name, x.columns)?;
        self.tape.norm(x, &gain)
    }

    /// A learnt vector for each of `count` tokens, or of positions; an i32 per row says which.
    pub(crate) fn embed(
        &mut self,
        name: &str,
        tokens: &wgpu::Buffer,
        [count, width]: [usize; 2],
        rows: usize,
    ) -> Result<Tensor> {
        let table = self.parameters.matrix(name, [count, width], 0.3)?;
        self.tape.embed(&table, tokens, rows)
    }

    /// The embeddings of tokens and positions, added.
    pub(crate) fn embed_both(
        &mut self,
        name: &str,
        [tokens, positions]: [&wgpu::Buffer; 2],
        [vocabulary, context, width]: [usize; 3],
        rows: usize,
    ) -> Result<Tensor> {
        let x = self.embed(&format!("{name}.tokens"), tokens, [vocabulary, width], rows)?;
        let place = self.embed(&format!("{name}.positions"), positions, [context, width], rows)?;
        self.tape.add(&x, &place)
    }

    /// An attention's keys and values, made of `y`'s rows.
    pub(crate) fn keys_and_values(&mut self, name: &str, y: &Tensor) -> Result<[Tensor; 2]> {
        let k = self.linear(&format!("{name}.k"), y, y.columns)?;
        let v = self.linear(&format!("{name}.v"), y, y.columns)?;
        Ok([k, v])
    }

    /// `attention(x Wq, k, v) Wo`; rows are `[batch, seq]`, columns are the heads side by side.
    pub(crate) fn attend(
        &mut self,
        name: &str,
        x: &Tensor,
        [k, v]: [&Tensor; 2],
        sight: &Sight,
    ) -> Result<Tensor> {
        let mut q = self.linear(&format!("{name}.q"), x, x.columns)?;
        let mut k = k.clone();
        if let Some(positions) = &sight.positions {
            q = self.tape.rotate(&q, positions, sight.heads)?;
            k = self.tape.rotate(&k, positions, sight.heads)?;
        }
        let [seq_q, seq_kv] = [&q, &k].map(|tensor| tensor.rows / sight.batch);
        let shape =
            Shape::new(sight.batch, sight.heads, seq_q, x.columns / sight.heads).seq_len_kv(seq_kv);
        let problem = Problem::new(shape).layout(Layout::Bshd).mask(sight.mask.clone());
        let o = self.tape.attention(&problem, [&q, &k, v], &sight.data)?;
        self.out(&format!("{name}.o"), &o, x.columns)
    }

    /// `x` plus self-attention.
    pub(crate) fn self_attention(
        &mut self,
        name: &str,
        x: &Tensor,
        sight: &Sight,
    ) -> Result<Tensor> {
        let normed = self.norm(&format!("{name}.norm"), x)?;
        let [k, v] = self.keys_and_values(name, &normed)?;
        let branch = self.attend(name, &normed, [&k, &v], sight)?;
        self.tape.add(x, &branch)
    }

    /// `x` plus self-attention of one new token per sequence, over those before it in a cache with room for `capacity`.
    pub(crate) fn cached_self_attention(
        &mut self,
        name: &str,
        x: &Tensor,
        heads: usize,
        capacity: usize,
    ) -> Result<Tensor> {
        let normed = self.norm(&format!("{name}.norm"), x)?;
        let q = self.linear(&format!("{name}.q"), &normed, x.columns)?;
        let [k, v] = self.keys_and_values(name, &normed)?;
        let o = self.tape.cached_attention([&q, &k, &v], heads, capacity)?;
        let branch = self.out(&format!("{name}.o"), &o, x.columns)?;
        self.tape.add(x, &branch)
    }

    /// `x` plus attention over keys and values that are there already.
    pub(crate) fn attention_over(
        &mut self,
        name: &str,
        x: &Tensor,
        keys_and_values: [&Tensor; 2],
        sight: &Sight,
    ) -> Result<Tensor> {
        let normed = self.norm(&format!("{name}.norm"), x)?;
        let branch = self.attend(name, &normed, keys_and_values, sight)?;
        self.tape.add(x, &branch)
    }

    /// `x` plus the feed-forward layer, which looks at each row by itself.
    pub(crate) fn feed_forward(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm(&format!("{name}.norm"), x)?;
        let wide = self.linear(&format!("{name}.in"), &normed, 4 * x.columns)?;
        let wide = self.tape.gelu(&wide)?;
        let branch = self.out(&format!("{name}.out"), &wide, x.columns)?;
        self.tape.add(x, &branch)
    }

    /// The logits of the next token.
    pub(crate) fn head(&mut self, x: &Tensor, vocabulary: usize) -> Result<Tensor> {
        let normed = self.norm("head.norm", x)?;
        // Small at first, so that training starts from the uniform guess.
        self.scaled_linear("head", &normed, vocabulary, 0.2)
    }
}
