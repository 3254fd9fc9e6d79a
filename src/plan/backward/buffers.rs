//! What the caller binds for a backward pass.

use wgpu::BufferSlice;

use super::BackwardPlan;
use super::custom::Learned;
use crate::auxiliary::{AuxBuffers, AuxTensor};
use crate::custom::{CustomUse, WgslBuffer, WgslFunction};
use crate::error::{Error, Result};
use crate::plan::buffers::Operand;
use crate::problem::Resolved;

/// The caller's buffers for [`crate::BackwardPlan::encode`]; rules as for [`crate::AttentionBuffers`].
///
/// q, k, v, o and the mask's data are those of the forward pass, dout is of o's type.
#[derive(Debug, Clone)]
pub struct BackwardBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub v: BufferSlice<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, what the forward pass gave
    pub o: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, what the forward pass gave
    pub lse: BufferSlice<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, the loss's gradient with respect to o
    pub dout: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, the loss's gradient with respect to lse, where it uses lse
    pub dlse: Option<BufferSlice<'a>>,
    /// The auxiliary tensors that the problem reads.
    pub aux: AuxBuffers<'a>,
    /// Which gradients are written, and where.
    pub gradients: GradientBuffers<'a>,
}

/// The gradients that a [`crate::BackwardPlan`] writes: those that are given.
///
/// ```no_run
/// # fn f(dq: wgpu::BufferSlice<'_>, dk: wgpu::BufferSlice<'_>) {
/// use wgpu_attention::plan::GradientBuffers;
/// let gradients = GradientBuffers::default().dq(dq).dk(dk);
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct GradientBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub dq: Option<BufferSlice<'a>>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub dk: Option<BufferSlice<'a>>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub dv: Option<BufferSlice<'a>>,
    /// As the bias, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]`
    pub dbias: Option<BufferSlice<'a>>,
    /// f32 `[num_heads]`
    pub dsinks: Option<BufferSlice<'a>>,
    /// f32, as ALiBi's slopes, `[batch|1, num_heads]`
    pub dalibi_slopes: Option<BufferSlice<'a>>,
    /// f32, of buffers that [`Problem::score_mod`](crate::Problem::score_mod) reads, each by its name and as long as it: those for
    /// which the function's text has a derivative
    pub dcustom: &'a [(&'a str, BufferSlice<'a>)],
}

impl<'a> GradientBuffers<'a> {
    setters! {
        option dq: BufferSlice<'a>,
        option dk: BufferSlice<'a>,
        option dv: BufferSlice<'a>,
        option dbias: BufferSlice<'a>,
        option dsinks: BufferSlice<'a>,
        option dalibi_slopes: BufferSlice<'a>,
        dcustom: &'a [(&'a str, BufferSlice<'a>)],
    }
}

/// The caller's buffers with their sizes.
pub(super) struct Operands<'a> {
    pub(super) q: Operand<'a>,
    pub(super) k: Operand<'a>,
    pub(super) v: Operand<'a>,
    pub(super) o: Operand<'a>,
    pub(super) lse: Operand<'a>,
    pub(super) dout: Operand<'a>,
    pub(super) dlse: Option<Operand<'a>>,
    pub(super) bias: Option<Operand<'a>>,
    pub(super) dq: Option<Operand<'a>>,
    pub(super) dk: Option<Operand<'a>>,
    pub(super) dv: Option<Operand<'a>>,
    pub(super) dbias: Option<Operand<'a>>,
    pub(super) dsinks: Option<Operand<'a>>,
    pub(super) dalibi_slopes: Option<Operand<'a>>,
    /// Of each of the plan's buffers with a gradient.
    pub(super) dcustom: Vec<Option<Operand<'a>>>,
}

impl<'a> Operands<'a> {
    pub(super) fn new(plan: &'a BackwardPlan, buffers: &BackwardBuffers<'a>) -> Result<Self> {
        let (problem, gradients) = (&plan.problem, &plan.gradients);
        let wanted = &buffers.gradients;
        for (name, given, used) in [
            ("dbias", wanted.dbias.is_some(), problem.score.bias),
            ("dsinks", wanted.dsinks.is_some(), problem.score.sinks),
            ("dalibi_slopes", wanted.dalibi_slopes.is_some(), problem.score.alibi),
        ] {
            if given && !used {
                let what = name.strip_prefix('d').unwrap_or(name);
                return Err(Error::operand(
                    name,
                    format!("none, for the problem has no {what}"),
                    "one",
                ));
            }
        }
        let learned = plan.custom.as_ref().map_or(&[][..], |custom| &custom.work.buffers);
        let of_learned = |buffer: &'a Learned| {
            let given = wanted.dcustom.iter().find(|(name, _)| *name == &*buffer.name);
            given.map(|(_, slice)| Operand::new(&buffer.gradient, *slice, buffer.elements.len()))
        };
        for (at, (name, _)) in wanted.dcustom.iter().enumerate() {
            if !learned.iter().any(|buffer| &*buffer.name == *name) {
                return Err(unknown(problem, name));
            }
            if wanted.dcustom[..at].iter().any(|(other, _)| other == name) {
                return Err(Error::operand(
                    "dcustom",
                    "each buffer once",
                    format!("`{name}` twice"),
                ));
            }
        }
        let rows = problem.lse_len;
        let gradient = |name, slice: Option<BufferSlice<'a>>, placed| {
            slice.map(|slice| Operand::placed(name, slice, placed))
        };
        Ok(Self {
            q: Operand::placed("q", buffers.q, &problem.q),
            k: Operand::placed("k", buffers.k, &problem.k),
            v: Operand::placed("v", buffers.v, &problem.v),
            o: Operand::placed("o", buffers.o, &problem.o),
            lse: Operand::new("lse", buffers.lse, rows),
            dout: Operand::placed("dout", buffers.dout, &gradients.dout),
            dlse: buffers.dlse.map(|dlse| Operand::new("dlse", dlse, rows)),
            bias: Operand::bias(problem, &buffers.aux)?,
            dq: gradient("dq", wanted.dq, &gradients.dq),
            dk: gradient("dk", wanted.dk, &gradients.dk),
            dv: gradient("dv", wanted.dv, &gradients.dv),
            dbias: (wanted.dbias)
                .map(|dbias| Operand::of("dbias", dbias, problem.bias_len, gradients.dtypes.dbias)),
            dsinks: (wanted.dsinks)
                .map(|dsinks| Operand::new("dsinks", dsinks, problem.shape.num_heads)),
            dalibi_slopes: wanted.dalibi_slopes.map(|slopes| {
                let sizes = problem.sizes_of(AuxTensor::AlibiSlopes).unwrap_or_default();
                Operand::new("dalibi_slopes", slopes, sizes.iter().product())
            }),
            dcustom: learned.iter().map(of_learned).collect(),
        })
    }

    pub(super) fn inputs(&self) -> Vec<Operand<'a>> {
        let own = [self.q, self.k, self.v, self.o, self.lse, self.dout];
        own.into_iter().chain(self.dlse).chain(self.bias).collect()
    }

    pub(super) fn outputs(&self) -> Vec<Operand<'a>> {
        let data = [self.dbias, self.dsinks, self.dalibi_slopes];
        let own = [self.dq, self.dk, self.dv].into_iter().chain(data);
        own.chain(self.dcustom.iter().copied()).flatten().collect()
    }
}

/// What is wrong with asking for the gradient of a buffer that has none.
fn unknown(problem: &Resolved, name: &str) -> Error {
    let mut buffers = problem.score_mod.iter().flat_map(WgslFunction::buffer_sizes);
    let expected = match buffers.find(|(own, ..)| *own == name) {
        None => "the name of a buffer that score_mod reads".to_owned(),
        Some((_, WgslBuffer::F32, _)) => {
            let [gradient, index] = [CustomUse::ElementGradient, CustomUse::ElementIndex]
                .map(|usage| usage(name.into()).signature());
            format!("its derivative in the text of score_mod, `{gradient}` and `{index}`")
        }
        Some(_) => "a buffer of f32, which alone have gradients".to_owned(),
    };
    Error::operand("dcustom", expected, format!("`{name}`"))
}
