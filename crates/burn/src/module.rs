//! Multi-head attention with burn's names and records.

use burn::config::Config;
use burn::module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay};
use burn::nn::attention::MultiHeadAttention as BurnMultiHeadAttention;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use wgpu_attention::{AuxData, Error, Mask, Result};

use crate::attention::try_attention;
use crate::cache::KvCache;
use crate::options::Options;

/// How a [`MultiHeadAttention`] is made: burn's `MultiHeadAttentionConfig`, of which `dropout` is 0 unless set and `min_float` isn't
/// needed.
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// The size of each linear layer.
    pub d_model: usize,
    /// The number of heads, a divisor of `d_model`.
    pub n_heads: usize,
    /// Refused above 0 where gradients are computed: dropout of attention weights isn't there.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Adds 1 to the softmax's denominator, so that a head may attend to nothing: a sink of logit 0.
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// How parameters are initialized.
    #[config(
        default = "Initializer::KaimingUniform { gain: 0.5773502691896258, fan_out_only: false }"
    )]
    pub initializer: Initializer,
    /// Whether the key layer has a bias.
    #[config(default = true)]
    pub key_bias: bool,
    /// Whether the value layer has a bias.
    #[config(default = true)]
    pub value_bias: bool,
    /// Whether the query layer has a bias.
    #[config(default = true)]
    pub query_bias: bool,
    /// Whether the output layer has a bias.
    #[config(default = true)]
    pub output_bias: bool,
}

/// burn's `MultiHeadAttention` without its matrix of weights: records of one load into the other.
///
/// Its input takes a [`Mask`] instead of mask tensors. Rows that keep no key give 0, where burn's give the mean of all values. It has no
/// weights to return; `wgpu_attention::plan::InspectPlan` computes them.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MultiHeadAttention {
    /// From the input to queries.
    pub query: Linear,
    /// From the input to keys.
    pub key: Linear,
    /// From the input to values.
    pub value: Linear,
    /// From all heads to the output.
    pub output: Linear,
    /// Kept for burn's records; see [`MultiHeadAttentionConfig::dropout`].
    pub dropout: Dropout,
    /// The size of each linear layer.
    pub d_model: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The size of a head.
    pub d_k: usize,
    /// See [`MultiHeadAttentionConfig::quiet_softmax`].
    pub quiet_softmax: bool,
}

impl ModuleDisplay for MultiHeadAttention {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("d_model", &self.d_model)
            .add("n_heads", &self.n_heads)
            .add("d_k", &self.d_k)
            .add("dropout", &self.dropout.prob)
            .add("quiet_softmax", &self.quiet_softmax)
            .optional()
    }
}

/// What a [`MultiHeadAttention`] attends from and to.
#[derive(Debug, Clone)]
pub struct MhaInput {
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    options: Options,
}

/// What a [`MultiHeadAttention`] gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MhaOutput {
    /// `[batch, seq_q, d_model]`
    pub context: Tensor<3>,
}

impl MhaInput {
    /// Self-attention: `[batch, seq, d_model]`.
    pub fn self_attn(tensor: Tensor<3>) -> Self {
        Self::new(tensor.clone(), tensor.clone(), tensor)
    }

    /// Cross-attention: query `[batch, seq_q, d_model]`, key and value `[batch, seq_kv, d_model]`.
    pub fn new(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>) -> Self {
        Self { query, key, value, options: Options::default() }
    }

    /// Which keys each query attends to.
    #[must_use]
    pub fn mask(mut self, mask: Mask) -> Self {
        self.options = self.options.mask(mask);
        self
    }

    /// The mask's data.
    #[must_use]
    pub fn aux(mut self, data: AuxData) -> Self {
        self.options = self.options.aux(data);
        self
    }

    /// Mask, data, scale and score modifiers at once. Layers that share them upload the data once.
    #[must_use]
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }
}

impl MultiHeadAttentionConfig {
    /// The module, with parameters initialized on a device.
    ///
    /// # Panics
    /// Where `n_heads` doesn't divide `d_model`.
    pub fn init(&self, device: &Device) -> MultiHeadAttention {
        let Self { d_model, n_heads, .. } = *self;
        assert!(
            n_heads > 0 && d_model.is_multiple_of(n_heads),
            "n_heads: expected a divisor of d_model = {d_model}, found {n_heads}"
        );
        let linear = LinearConfig::new(d_model, d_model).with_initializer(self.initializer.clone());
        let linear = |bias| linear.clone().with_bias(bias).init(device);
        MultiHeadAttention {
            query: linear(self.query_bias),
            key: linear(self.key_bias),
            value: linear(self.value_bias),
            output: linear(self.output_bias),
            dropout: DropoutConfig::new(self.dropout).init(),
            d_model,
            n_heads,
            d_k: d_model / n_heads,
            quiet_softmax: self.quiet_softmax,
        }
    }
}

impl From<BurnMultiHeadAttention> for MultiHeadAttention {
    /// burn's module with its parameters.
    fn from(module: BurnMultiHeadAttention) -> Self {
        Self {
            query: module.query,
            key: module.key,
            value: module.value,
            output: module.output,
            dropout: module.dropout,
            d_model: module.d_model,
            n_heads: module.n_heads,
            d_k: module.d_k,
            quiet_softmax: module.quiet_softmax,
        }
    }
}

impl MultiHeadAttention {
    /// Projects, attends, and projects the heads together.
    ///
    /// # Panics
    /// Where [`MultiHeadAttention::try_forward`] gives an error, with its message.
    #[track_caller]
    pub fn forward(&self, input: MhaInput) -> MhaOutput {
        match self.try_forward(input) {
            Ok(output) => output,
            Err(error) => panic!("multi-head attention: {error}"),
        }
    }

    /// [`MultiHeadAttention::forward`], with errors as values.
    ///
    /// # Errors
    /// [`Error::Operand`] where an input isn't `[batch, seq, d_model]` or the options have sinks beside `quiet_softmax`, or
    /// dropout would be needed; otherwise as [`try_attention`].
    pub fn try_forward(&self, input: MhaInput) -> Result<MhaOutput> {
        let MhaInput { query, key, value, options } = input;
        self.check_training(&query.device())?;
        let options = self.with_quiet_softmax(options, &query.device())?;
        let q = self.heads("query", query, &self.query)?;
        let k = self.heads("key", key, &self.key)?;
        let v = self.heads("value", value, &self.value)?;
        Ok(MhaOutput { context: self.together(try_attention(q, k, v, &options)?) })
    }

    /// Generates: adds the tokens of `[batch, tokens, d_model]` to a cache and attends from them to all that it has.
    ///
    /// With a causal mask, step by step gives what [`MultiHeadAttention::forward`] gives for the whole sequence.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::try_forward`], [`KvCache::append`] and [`KvCache::attend`].
    pub fn forward_cache(
        &self,
        tokens: Tensor<3>,
        options: &Options,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>> {
        let options = self.with_quiet_softmax(options.clone(), &tokens.device())?;
        let q = self.heads("tokens", tokens.clone(), &self.query)?;
        let k = self.heads("tokens", tokens.clone(), &self.key)?;
        let v = self.heads("tokens", tokens, &self.value)?;
        cache.append(k, v)?;
        Ok(self.together(cache.attend(q, &options)?))
    }

    /// `[batch, seq, d_model]` to `[batch, heads, seq, d_k]`, which isn't copied: attention reads it as it lies.
    fn heads(&self, name: &str, input: Tensor<3>, linear: &Linear) -> Result<Tensor<4>> {
        let [batch, seq, d_model] = input.dims();
        if d_model != self.d_model {
            let expected = format!("[batch, seq, d_model = {}]", self.d_model);
            return Err(Error::operand(name, expected, format!("{:?}", input.dims())));
        }
        let projected = linear.forward(input).reshape([batch, seq, self.n_heads, self.d_k]);
        Ok(projected.swap_dims(1, 2))
    }

    /// `[batch, heads, seq, d_k]` to `[batch, seq, d_model]`.
    fn together(&self, o: Tensor<4>) -> Tensor<3> {
        let [batch, _, seq, _] = o.dims();
        self.output.forward(o.swap_dims(1, 2).reshape([batch, seq, self.d_model]))
    }

    /// Whether dropout would do something, by burn's own rule.
    fn check_training(&self, device: &Device) -> Result<()> {
        let Dropout { prob, training } = &self.dropout;
        if *prob == 0.0 || !device.is_autodiff() || !training.is_enabled() {
            return Ok(());
        }
        Err(Error::operand(
            "dropout",
            "0 where gradients are computed, as attention weights have no dropout here; set `with_dropout(0.0)` and drop out \
             the context instead, or `freeze` the module",
            prob,
        ))
    }

    fn with_quiet_softmax(&self, options: Options, device: &Device) -> Result<Options> {
        if !self.quiet_softmax {
            return Ok(options);
        }
        if options.get_sinks().is_some() {
            return Err(Error::operand(
                "sinks",
                "none beside quiet_softmax, which is a sink",
                "some",
            ));
        }
        Ok(options.sinks(Tensor::zeros([self.n_heads], device)))
    }
}
