//! What is to be computed: sizes, mask, scale, how the tensors lie in memory, and the operands on the CPU; checked, and with
//! what follows from it, a problem is [`resolved`].

mod resolved;

#[cfg(test)]
pub(crate) use self::resolved::CHECKS;
pub(crate) use self::resolved::{GradientTensors, Placed, Resolved};
use crate::auxiliary::{self, AuxData, AuxShape, AuxSpec, AuxTensor};
use crate::custom::{CustomUse, WgslFunction};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::mask::emit::{dropout_slot, score_mod_gradient, score_mod_learned, score_mod_text};
use crate::score::{ScoreModifiers, ScoreText};
use crate::tensor::dtype::Dtypes;
use crate::tensor::elements::Elements;
use crate::tensor::sequences::Sequences;
use crate::tensor::shape::{Layout, Shape, Strides};

/// An attention problem: `o = softmax(scale · q kᵀ, modified, where the mask keeps) v`.
///
/// ```
/// use wgpu_attention::{Layout, Mask, Problem, Shape};
/// let problem = Problem::new(Shape::new(2, 8, 128, 64))
///     .mask(Mask::causal() & Mask::KeyLengths)
///     .layout(Layout::Bshd);
/// assert_eq!(problem.get_scale(), 0.125);
/// ```
///
/// Problems are equal, and hash alike, where everything is the same, numbers by their bits: so an application can keep plans
/// by their problems.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    pub(crate) shape: Shape,
    pub(crate) mask: Mask,
    pub(crate) data: AuxShape,
    pub(crate) score: ScoreModifiers,
    pub(crate) score_mod: Option<WgslFunction>,
    pub(crate) dtypes: Dtypes,
    scale: Option<Bits>,
    dropout: Bits,
    layout: Layout,
    strides: [Option<Strides>; 4],
}

/// A number that is compared by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bits(u32);

/// The operands, each as long as its strides span; dense unless the problem says otherwise.
///
/// ```
/// use wgpu_attention::{Inputs, AuxData, half};
/// let (q, kv) = ([0.5; 24], vec![half::f16::ONE; 24]);
/// let data = AuxData::new().key_lengths([3]);
/// let inputs = Inputs::new(&q, &kv, &kv).aux(&data);
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Inputs<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: Elements<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: Elements<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub v: Elements<'a>,
    /// The auxiliary tensors that the problem reads.
    pub aux: &'a AuxData,
}

impl<'a> Inputs<'a> {
    setters! {
        const aux: &'a AuxData,
    }

    /// Operands of a problem that reads no auxiliary tensors.
    pub fn new(
        q: impl Into<Elements<'a>>,
        k: impl Into<Elements<'a>>,
        v: impl Into<Elements<'a>>,
    ) -> Self {
        static NO_DATA: AuxData = AuxData::new();
        Self { q: q.into(), k: k.into(), v: v.into(), aux: &NO_DATA }
    }
}

impl Inputs<'_> {
    /// Whether each operand is as long as its strides span, and the data is there that the problem names.
    pub(crate) fn check(&self, problem: &Resolved) -> Result<()> {
        let shape = &problem.shape;
        for (name, dtype) in [("k", problem.dtypes.k), ("v", problem.dtypes.v)] {
            if dtype.is_quantized() {
                return Err(Error::operand(name, "f32, f16 or bf16 outside a cache", dtype));
            }
        }
        check_length("q", self.q, &problem.q)?;
        check_length("k", self.k, &problem.k)?;
        check_length("v", self.v, &problem.v)?;
        self.aux.check(&problem.aux_specs(), shape)
    }
}

fn check_length(name: &str, values: Elements<'_>, placed: &Placed) -> Result<()> {
    let Placed { span, indexing, .. } = placed;
    if values.len() == *span {
        return Ok(());
    }
    Err(Error::operand(
        name,
        format!("{span} elements ([batch, heads, seq, dim] = {:?})", indexing.dims),
        format!("{} elements", values.len()),
    ))
}

/// The gradients of a loss with respect to what the forward pass gave.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Upstream<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, as long as o's strides span
    pub dout: Elements<'a>,
    /// `[batch, num_heads, seq_len_q]`, where the loss uses lse too
    pub dlse: Option<&'a [f32]>,
}

impl<'a> Upstream<'a> {
    setters! {
        some dlse: &'a [f32],
    }

    /// Of a loss that uses o alone.
    pub fn new(dout: impl Into<Elements<'a>>) -> Self {
        Self { dout: dout.into(), dlse: None }
    }

    /// Whether both are as long as the problem has them.
    pub(crate) fn check(&self, problem: &Resolved, dout: &Placed) -> Result<()> {
        check_length("dout", self.dout, dout)?;
        let rows = problem.lse_len;
        match self.dlse {
            Some(dlse) if dlse.len() != rows => Err(Error::operand(
                "dlse",
                format!("{rows} elements ([batch, num_heads, seq_len_q])"),
                format!("{} elements", dlse.len()),
            )),
            _ => Ok(()),
        }
    }
}

/// The strides of the backward pass's own tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GradientStrides {
    pub(crate) dout: Strides,
    pub(crate) dq: Strides,
    pub(crate) dk: Strides,
    pub(crate) dv: Strides,
}

/// The strides of each tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TensorStrides {
    pub(crate) q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    pub(crate) o: Strides,
}

impl Problem {
    /// Attention over every key, scaled by `1 / sqrt(head_dim)`, on dense `[batch, heads, seq, dim]` tensors.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            mask: Mask::All,
            data: AuxShape::default(),
            score: ScoreModifiers::default(),
            score_mod: None,
            dtypes: Dtypes::default(),
            scale: None,
            dropout: Bits(0),
            layout: Layout::Bhsd,
            strides: [None; 4],
        }
    }

    /// Which keys each query attends to.
    #[must_use]
    pub fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// What is done to the scores before the mask and in the softmax.
    #[must_use]
    pub fn score(self, score: ScoreModifiers) -> Self {
        Self { score, ..self }
    }

    /// A user-defined function that scores go through last before the mask,
    /// `fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32`. It runs on the device alone.
    ///
    /// For gradients the text holds its derivative, too: `fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32,
    /// q_idx: u32, kv_idx: u32) -> f32` gets the loss's gradient with respect to what `score_mod` returned for `score`, and
    /// returns that with respect to `score`: `grad` times the derivative at `score`.
    /// [`Session::check_score_mod_grad`](crate::Session::check_score_mod_grad) tells whether it is.
    ///
    /// A buffer `NAME` of f32 that the function reads has a gradient if the text also says which element a cell's score depends on,
    /// `fn NAME_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32` (beyond the end, the last), and
    /// `fn NAME_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32`: `grad` times the derivative with respect to
    /// that element. [The guide](crate::_guide::c_your_own_mask_in_wgsl#learned-tables) has an example. A function of such a name that is part of
    /// no gradient, since another one is missing or its name misspelled, is told by a warning of the log.
    #[must_use]
    pub fn score_mod(self, function: WgslFunction) -> Self {
        Self { score_mod: Some(function), ..self }
    }

    /// Sets each weight to 0 with probability `p`, from 0 to below 1, and multiplies the others by `1 / (1 - p)`, after the
    /// softmax: lse is that of all weights. For training: gradients are those of what the forward pass gave with the same seed.
    ///
    /// Which weights are dropped follows from the seed and the cell's place: [`reference::Dropout`](crate::reference::Dropout). The
    /// seed is data, `dropout_seed` ([`AuxData::dropout_seed`]), so that each step of a training has another one with the same plan.
    ///
    /// ```
    /// use wgpu_attention::{AuxData, AuxTensor, Problem, Shape};
    /// let problem = Problem::new(Shape::new(1, 2, 8, 4)).dropout(0.1);
    /// assert_eq!(problem.aux_tensors(), [AuxTensor::DropoutSeed]);
    /// let data = AuxData::new().dropout_seed(42);
    /// ```
    #[must_use]
    pub fn dropout(self, p: f32) -> Self {
        Self { dropout: Bits(p.to_bits()), ..self }
    }

    /// The same problem as far as the mask goes.
    pub(crate) fn mask_alone(&self) -> Self {
        let score = ScoreModifiers::default();
        Self { score, score_mod: None, dropout: Bits(0), ..self.clone() }
    }

    /// Where its queries and keys lie, and nothing that is computed of them.
    pub(crate) fn rows_alone(&self) -> Self {
        Self { mask: Mask::All, ..self.mask_alone() }
    }

    /// The same problem over all rows of queries that there are in memory, whichever sequence they belong to.
    pub(crate) fn rows_in_memory(mut self) -> Self {
        let [batch, seq_len_q] = self.shape.q_rows();
        self.shape = Shape { batch, seq_len_q, sequences: Sequences::default(), ..self.shape };
        self
    }

    /// What of the scores a kernel's text depends on.
    pub(crate) fn score_text(&self) -> ScoreText {
        let custom = self.score_mod.as_ref().map(|custom| score_mod_text(&self.mask, custom));
        let dropout = self.drops().map(|_| dropout_slot(&self.mask, self.score_mod.as_ref()));
        ScoreText { dropout, ..self.score.text(custom) }
    }

    /// The share of weights that is dropped, if some are.
    pub(crate) fn drops(&self) -> Option<f32> {
        Some(self.get_dropout()).filter(|&p| p != 0.0)
    }

    /// The same for the backward pass, which also goes through the derivatives.
    ///
    /// # Errors
    /// [`Error::Operand`] where the user's function comes without its derivative.
    pub(crate) fn score_text_with_gradient(&self) -> Result<ScoreText> {
        let custom_gradient = match &self.score_mod {
            Some(custom) if !custom.declares(&CustomUse::ScoreGradient) => {
                return Err(Error::operand(
                    "score_mod",
                    format!(
                        "its derivative in the same text, `{}`",
                        CustomUse::ScoreGradient.signature()
                    ),
                    "none",
                ));
            }
            Some(_) => Some(score_mod_gradient(&self.mask)),
            None => None,
        };
        let custom = self.score_mod.iter();
        let learned = custom.flat_map(|custom| score_mod_learned(&self.mask, custom)).collect();
        Ok(ScoreText { custom_gradient, learned, ..self.score_text() })
    }

    /// The user-defined functions.
    pub(crate) fn customs(&self) -> Vec<(&WgslFunction, CustomUse)> {
        let masks = self.mask.customs().into_iter().map(|custom| (custom, CustomUse::Mask));
        masks
            .chain(self.score_mod.iter().map(|custom| (custom, CustomUse::ScoreModifiers)))
            .collect()
    }

    /// How many elements the buffers of q, k, v and o have: from each tensor's first element to behind its last one, by its
    /// strides.
    ///
    /// # Errors
    /// [`Error::Operand`] where the problem is invalid.
    pub fn spans(&self) -> Result<[usize; 4]> {
        let Resolved { q, k, v, o, .. } = Resolved::new(self.clone())?;
        Ok([q, k, v, o].map(|placed| placed.span))
    }

    /// How q, k, v, o and the bias are stored on the device: one [`crate::Dtype`] for all, or [`Dtypes`] for each. One-shot
    /// calls convert what comes in other types ([`Elements`]).
    #[must_use]
    pub fn dtypes(self, dtypes: impl Into<Dtypes>) -> Self {
        Self { dtypes: dtypes.into(), ..self }
    }

    /// Everything that the mask, the score modifiers and the sequences read, each once.
    pub fn aux_tensors(&self) -> Vec<AuxTensor> {
        self.aux_specs().into_iter().map(|tensor| tensor.input).collect()
    }

    /// How many 32-bit words a tensor of [`Problem::aux_tensors`] has on the device: one for each element, of `dense` one for 32
    /// keys of a row. A bias of 16 bits counts as if it had 32.
    ///
    /// # Errors
    /// [`Error::Operand`] where the problem doesn't read it, or its sizes aren't ones that it can have.
    pub fn aux_words(&self, input: AuxTensor) -> Result<usize> {
        let tensor = self.aux_specs().into_iter().find(|tensor| tensor.input == input);
        match tensor {
            Some(tensor) => tensor.words(self.data.sizes(input)),
            None => Err(Error::operand(
                input.name(),
                format!("one of {:?}", self.aux_tensors()),
                "no reader",
            )),
        }
    }

    /// The same with their types and sizes.
    pub fn aux_specs(&self) -> Vec<AuxSpec> {
        let score = auxiliary::score::tensors(&self.score, &self.shape);
        let seed = self.drops().map(|_| auxiliary::score::dropout_seed());
        let sequences = auxiliary::sequences::tensors(&self.shape);
        let of_mask = self.mask.aux_specs(&self.shape);
        of_mask.into_iter().chain(score).chain(seed).chain(sequences).collect()
    }

    /// The sizes of mask data that the shape leaves open: how `dense` broadcasts, rounds of buckets, bounds of columns.
    /// One-shot calls take them from the data.
    #[must_use]
    pub fn aux_shape(self, data: AuxShape) -> Self {
        Self { data, ..self }
    }

    /// What scores are multiplied with instead of `1 / sqrt(head_dim)`.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scale: Some(Bits(scale.to_bits())), ..self }
    }

    /// How q, k, v and o lie in memory, all four dense.
    #[must_use]
    pub fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Strides of q instead of the layout's.
    #[must_use]
    pub fn q_strides(self, strides: Strides) -> Self {
        self.set_strides(0, strides)
    }

    /// Strides of k instead of the layout's.
    #[must_use]
    pub fn k_strides(self, strides: Strides) -> Self {
        self.set_strides(1, strides)
    }

    /// Strides of v instead of the layout's.
    #[must_use]
    pub fn v_strides(self, strides: Strides) -> Self {
        self.set_strides(2, strides)
    }

    /// Strides of o instead of the layout's. No two elements may share a place.
    #[must_use]
    pub fn o_strides(self, strides: Strides) -> Self {
        self.set_strides(3, strides)
    }

    fn set_strides(mut self, tensor: usize, strides: Strides) -> Self {
        self.strides[tensor] = Some(strides);
        self
    }

    /// The sizes.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The mask.
    pub const fn get_mask(&self) -> &Mask {
        &self.mask
    }

    /// The score modifiers.
    pub const fn get_score(&self) -> &ScoreModifiers {
        &self.score
    }

    /// How q, k, v, o and the bias are stored on the device.
    pub const fn get_dtypes(&self) -> Dtypes {
        self.dtypes
    }

    /// What scores are multiplied with.
    pub fn get_scale(&self) -> f32 {
        self.scale.map_or_else(|| self.shape.default_scale(), |Bits(bits)| f32::from_bits(bits))
    }

    /// The share of weights that is dropped.
    pub const fn get_dropout(&self) -> f32 {
        f32::from_bits(self.dropout.0)
    }

    pub(crate) fn strides(&self) -> TensorStrides {
        let of =
            |tensor: usize, dims| self.strides[tensor].unwrap_or_else(|| self.layout.strides(dims));
        TensorStrides {
            q: of(0, self.shape.q_dims()),
            k: of(1, self.k_dims()),
            v: of(2, self.v_dims()),
            o: of(3, self.shape.o_dims()),
        }
    }

    /// k's dimensions, its rows as long as its type makes them.
    pub(crate) const fn k_dims(&self) -> [usize; 4] {
        let [batch, heads, rows, dim] = self.shape.k_dims();
        [batch, heads, rows, self.dtypes.k.row_elements(dim)]
    }

    /// v's likewise.
    pub(crate) const fn v_dims(&self) -> [usize; 4] {
        let [batch, heads, rows, dim] = self.shape.v_dims();
        [batch, heads, rows, self.dtypes.v.row_elements(dim)]
    }

    /// Whether the problem is one that can be computed on some device.
    ///
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub fn validate(&self) -> Result<()> {
        Resolved::new(self.clone()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use crate::tensor::dtype::Dtype;
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn problems_are_keys() {
        let shape = Shape::new(1, 2, 3, 4);
        let problem = |scale: f32, softcap: f32| {
            let score = ScoreModifiers::default().softcap(softcap);
            Problem::new(shape).mask(Mask::causal()).score(score).scale(scale)
        };
        let mut plans = HashMap::from([(problem(0.5, 2.0), "a plan")]);
        assert_eq!(plans.get(&problem(0.5, 2.0)), Some(&"a plan"));
        for other in [
            problem(0.25, 2.0),
            problem(0.5, 3.0),
            problem(0.5, 2.0).layout(Layout::Bshd),
            problem(0.5, 2.0).dropout(0.1),
            problem(0.5, 2.0).dtypes(Dtype::F16),
            Problem::new(shape),
        ] {
            assert_eq!(plans.insert(other.clone(), "another"), None, "{other:?}");
        }
        // By bits: −0 isn't 0, and what isn't a number is equal to itself.
        assert_ne!(problem(0.0, 2.0), problem(-0.0, 2.0));
        assert_eq!(problem(f32::NAN, f32::NAN), problem(f32::NAN, f32::NAN));
    }
}
