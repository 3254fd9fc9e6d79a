//! ONNX's operator `Attention`, opsets 23 to 25, on this crate: what an engine does with its attributes and inputs.
//!
//! [`Operator::lower`] maps them onto a [`Problem`] with its [`AuxData`]; [`Operator::run`] also computes it.
//! docs/onnx.md has the mapping attribute by attribute, and the conformance cases.
//!
//! ```
//! use wgpu_attention::onnx::{Operator, OperatorInputs, Tensor};
//! let values = [0.0; 2 * 3 * 4 * 8];
//! let tensor = Tensor { dims: &[2, 3, 4, 8], values: &values };
//! let operator = Operator::default().is_causal(true).left_window_size(2);
//! let lowered = operator.lower(&OperatorInputs::new(tensor, tensor, tensor))?;
//! assert_eq!(lowered.mask.to_string(), "causal(offset=0) & !causal(offset=-3)");
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

mod mask;
mod tensors;

use std::borrow::Cow;

use crate::auxiliary::AuxData;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::plan::inspect::ScoreTensor;
use crate::problem::{Inputs, Problem};
use crate::score::ScoreModifiers;
use crate::session::{RunOptions, Session};
use crate::tensor::shape::{Layout, Shape};

/// The page's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/onnx.md")]
pub struct Page;

/// The operator's attributes. The default is what a node without attributes means.
///
/// Scores go through the operator in the crate's own order: scale, softcap, float mask, what is masked, softmax.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Operator {
    /// `is_causal`: query `i` sees the keys up to `i + offset`, where `offset` is the length of the past,
    /// `nonpad_kv_seqlen[b] − q_sequence_length` with that input, otherwise 0.
    pub is_causal: bool,
    /// `scale`; `1 / sqrt(head_size)` for `None`.
    pub scale: Option<f32>,
    /// `softcap`; none where it isn't above 0.
    pub softcap: f32,
    /// `q_num_heads`, needed for inputs of 3 dimensions.
    pub q_num_heads: Option<usize>,
    /// `kv_num_heads`, needed for inputs of 3 dimensions.
    pub kv_num_heads: Option<usize>,
    /// `left_window_size` (opset 25), from the position `i + offset`; `None` is ONNX's −1, unbounded.
    pub left_window_size: Option<u32>,
    /// `right_window_size` (opset 25), likewise.
    pub right_window_size: Option<u32>,
    /// `softmax_precision`, by ONNX's numbers: 1 float, 10 float16, 11 double, 16 bfloat16. The softmax is computed in
    /// f32 whichever it is.
    pub softmax_precision: Option<i64>,
    /// `qk_matmul_output_mode`: what the fourth output is.
    pub qk_matmul_output_mode: QkMatmulOutput,
}

/// What the operator's output `qk_matmul_output` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QkMatmulOutput {
    /// 0: `scale · q kᵀ`.
    #[default]
    Raw,
    /// 1: the same after softcap.
    Softcapped,
    /// 2: the same after the mask, −∞ where it keeps nothing.
    Masked,
    /// 3: the softmax; zeros in rows that keep no key.
    Softmax,
}

impl TryFrom<i64> for QkMatmulOutput {
    type Error = Error;

    /// The mode of ONNX's number.
    ///
    /// # Errors
    /// [`Error::Operand`] for other numbers than 0 to 3.
    fn try_from(mode: i64) -> Result<Self> {
        match mode {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Softcapped),
            2 => Ok(Self::Masked),
            3 => Ok(Self::Softmax),
            _ => Err(Error::operand("qk_matmul_output_mode", "0 to 3", mode)),
        }
    }
}

/// A dense tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tensor<'a, T = f32> {
    /// The sizes, the last dimension fastest.
    pub dims: &'a [usize],
    /// As many elements as the sizes say.
    pub values: &'a [T],
}

/// A dense tensor that was computed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OutputTensor {
    /// The sizes, the last dimension fastest.
    pub dims: Vec<usize>,
    /// The elements.
    pub values: Vec<f32>,
}

/// The operator's input `attn_mask`, of 1 to 4 dimensions that broadcast from the right to `[batch_size, q_num_heads,
/// q_sequence_length, total_sequence_length]`; keys beyond a last dimension that is shorter are masked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttnMask<'a> {
    /// True where the key takes part.
    Bool(Tensor<'a, bool>),
    /// Added to the scores; −∞ masks, whatever the score is.
    Float(Tensor<'a>),
}

/// The operator's inputs. f16 and bf16 are for the caller to widen.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct OperatorInputs<'a> {
    /// `[batch_size, q_num_heads, q_sequence_length, head_size]` or `[batch_size, q_sequence_length, q_hidden_size]`
    pub q: Tensor<'a>,
    /// `[batch_size, kv_num_heads, kv_sequence_length, head_size]` or `[batch_size, kv_sequence_length, k_hidden_size]`
    pub k: Tensor<'a>,
    /// `[batch_size, kv_num_heads, kv_sequence_length, v_head_size]` or `[batch_size, kv_sequence_length, v_hidden_size]`
    pub v: Tensor<'a>,
    /// Which keys take part, or what is added to the scores.
    pub attn_mask: Option<AttnMask<'a>>,
    /// `past_key` and `past_value`, `[batch_size, kv_num_heads, past_sequence_length, head_size or v_head_size]`, also
    /// where the other inputs have 3 dimensions.
    pub past: Option<[Tensor<'a>; 2]>,
    /// `[batch_size]`: how many keys of each sequence are real. Not with a past.
    pub nonpad_kv_seqlen: Option<&'a [i64]>,
}

impl<'a> OperatorInputs<'a> {
    setters! {
        option attn_mask: AttnMask<'a>,
        option past: [Tensor<'a>; 2],
        some nonpad_kv_seqlen: &'a [i64],
    }

    /// The inputs that every node has.
    pub const fn new(q: Tensor<'a>, k: Tensor<'a>, v: Tensor<'a>) -> Self {
        Self { q, k, v, attn_mask: None, past: None, nonpad_kv_seqlen: None }
    }
}

/// Which of the optional outputs the node names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Wanted {
    /// `present_key` and `present_value`.
    pub present: bool,
    /// `qk_matmul_output`.
    pub qk_matmul_output: bool,
}

impl Wanted {
    setters! {
        const present: bool,
        const qk_matmul_output: bool,
    }
}

/// The operator's outputs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OperatorOutputs {
    /// `Y`, `[batch_size, q_num_heads, q_sequence_length, v_head_size]`, or `[batch_size, q_sequence_length,
    /// q_num_heads · v_head_size]` for inputs of 3 dimensions; zeros in rows that keep no key.
    pub y: OutputTensor,
    /// `present_key` and `present_value`, `[batch_size, kv_num_heads, total_sequence_length, head_size or v_head_size]`,
    /// if wanted.
    pub present: Option<[OutputTensor; 2]>,
    /// `[batch_size, q_num_heads, q_sequence_length, total_sequence_length]`, if wanted.
    pub qk_matmul_output: Option<OutputTensor>,
}

/// A call of the operator in this crate's words.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Lowered<'a> {
    /// Sizes, mask, score modifiers and strides.
    pub problem: Problem,
    /// The problem's mask.
    pub mask: Mask,
    /// What the mask and the score modifiers read.
    pub data: AuxData,
    /// As it came.
    pub q: &'a [f32],
    /// With the past before it, if there is one.
    pub k: Cow<'a, [f32]>,
    /// With the past before it, if there is one.
    pub v: Cow<'a, [f32]>,
    /// The layout of q and o.
    layout: Layout,
    /// The layout of k and v.
    kv_layout: Layout,
}

impl Lowered<'_> {
    /// The operands, for [`Session::run`].
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs::new(self.q, &self.k, &self.v).aux(&self.data)
    }
}

impl Operator {
    setters! {
        const is_causal: bool,
        option scale: f32,
        const softcap: f32,
        option q_num_heads: usize,
        option kv_num_heads: usize,
        option left_window_size: u32,
        option right_window_size: u32,
        option softmax_precision: i64,
        const qk_matmul_output_mode: QkMatmulOutput,
    }

    /// Maps a call onto this crate.
    ///
    /// Nothing is copied but k and v behind a past, and the mask.
    ///
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub fn lower<'a>(&self, inputs: &OperatorInputs<'a>) -> Result<Lowered<'a>> {
        self.check()?;
        let sizes = tensors::Sizes::new(self, inputs)?;
        let shape = sizes.shape();
        shape.validate()?;
        let (kv_layout, k, v) = match inputs.past {
            None => (sizes.layout, Cow::Borrowed(inputs.k.values), Cow::Borrowed(inputs.v.values)),
            Some([past_k, past_v]) => (
                Layout::Bhsd,
                Cow::Owned(tensors::append(past_k.values, inputs.k.values, sizes.k, sizes.layout)),
                Cow::Owned(tensors::append(past_v.values, inputs.v.values, sizes.v, sizes.layout)),
            ),
        };
        let mask::LoweredMask { mask, bias, data } =
            mask::lower(self, inputs, &shape, sizes.past_len)?;
        let softcap = self.used_softcap();
        let problem = self
            .base(shape, sizes.layout, kv_layout)
            .mask(mask.clone())
            .score(ScoreModifiers { softcap, bias, ..ScoreModifiers::default() })
            .aux_shape(data.shape());
        let q = inputs.q.values;
        Ok(Lowered { problem, mask, data, q, k, v, layout: sizes.layout, kv_layout })
    }

    /// Computes a call.
    ///
    /// # Errors
    /// As [`Operator::lower`] and [`Session::run`].
    pub async fn run(
        &self,
        attention: &Session,
        inputs: &OperatorInputs<'_>,
        wanted: Wanted,
    ) -> Result<OperatorOutputs> {
        let call = self.lower(inputs)?;
        let shape = *call.problem.shape();
        let tensor = wanted.qk_matmul_output.then(|| self.tensor()).flatten();
        let outputs = RunOptions::default().tensors(Vec::from_iter(tensor));
        let mut output = attention.run(&call.problem, &call.inputs(), &outputs).await?;
        let qk = match (wanted.qk_matmul_output, output.tensors.pop()) {
            (false, _) => None,
            (true, Some(values)) => Some(values),
            (true, None) => Some(self.softcapped(attention, &call).await?),
        };
        Ok(OperatorOutputs {
            y: OutputTensor { dims: tensors::y_dims(&shape, call.layout), values: output.o },
            present: wanted.present.then(|| present(&call, &shape)),
            qk_matmul_output: qk.map(|values| OutputTensor {
                dims: vec![shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv],
                values,
            }),
        })
    }

    /// [`Operator::run`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn run_blocking(
        &self,
        attention: &Session,
        inputs: &OperatorInputs<'_>,
        wanted: Wanted,
    ) -> Result<OperatorOutputs> {
        pollster::block_on(self.run(attention, inputs, wanted))
    }

    fn check(&self) -> Result<()> {
        match self.softmax_precision {
            None | Some(1 | 10 | 11 | 16) => Ok(()),
            Some(other) => Err(Error::operand("softmax_precision", "1, 10, 11 or 16", other)),
        }
    }

    /// The softcap, if there is one; NaN is passed on, to be refused.
    fn used_softcap(&self) -> Option<f32> {
        (self.softcap > 0.0 || self.softcap.is_nan()).then_some(self.softcap)
    }

    /// The problem without mask and modifiers.
    fn base(&self, shape: Shape, layout: Layout, kv_layout: Layout) -> Problem {
        let problem = Problem::new(shape)
            .layout(layout)
            .k_strides(kv_layout.strides(shape.k_dims()))
            .v_strides(kv_layout.strides(shape.v_dims()));
        match self.scale {
            Some(scale) => problem.scale(scale),
            None => problem,
        }
    }

    /// The tensor of the same problem that is the fourth output, if one is.
    fn tensor(&self) -> Option<ScoreTensor> {
        match self.qk_matmul_output_mode {
            QkMatmulOutput::Raw => Some(ScoreTensor::Scores),
            QkMatmulOutput::Softcapped => {
                // Without a softcap, the scores are what is left of the stage.
                self.used_softcap().is_none().then_some(ScoreTensor::Scores)
            }
            QkMatmulOutput::Masked => Some(ScoreTensor::MaskedScores),
            QkMatmulOutput::Softmax => Some(ScoreTensor::Weights),
        }
    }

    /// The scores between softcap and mask: the masked scores of the same problem without a mask.
    async fn softcapped(&self, attention: &Session, call: &Lowered<'_>) -> Result<Vec<f32>> {
        let problem = self
            .base(*call.problem.shape(), call.layout, call.kv_layout)
            .score(ScoreModifiers { softcap: self.used_softcap(), ..ScoreModifiers::default() });
        let outputs = RunOptions::default().tensors(vec![ScoreTensor::MaskedScores]);
        let inputs = Inputs::new(call.q, &call.k, &call.v);
        let mut output = attention.run(&problem, &inputs, &outputs).await?;
        Ok(output.tensors.pop().unwrap_or_default())
    }
}

/// `present_key` and `present_value`: k and v as heads of rows.
fn present(call: &Lowered<'_>, shape: &Shape) -> [OutputTensor; 2] {
    [(&call.k, shape.k_dims()), (&call.v, shape.v_dims())].map(|(values, dims)| OutputTensor {
        dims: dims.to_vec(),
        values: match call.kv_layout {
            Layout::Bhsd => values.to_vec(),
            Layout::Bshd => tensors::append(&[], values, dims, Layout::Bshd),
        },
    })
}
