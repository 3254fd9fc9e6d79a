//! q, k and v of a file, with the sizes that go together.

use super::TensorFile;
use super::sequences::Batch;
use super::sizes::{named_sizes, reorder, sizes};
use crate::auxiliary::AuxData;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::problem::{Inputs, Problem};
use crate::tensor::dtype::Dtypes;
use crate::tensor::shape::{Layout, Shape};

/// q, k and v of one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Operands {
    /// The sizes, whatever the layout.
    pub shape: Shape,
    /// How q, k and v lie.
    pub layout: Layout,
    /// `[batch, num_heads, seq_len_q, head_dim]` in the layout's order
    pub q: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]` in the layout's order
    pub k: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]` in the layout's order
    pub v: Vec<f32>,
    /// The types that they had, and the bias if there is one; o has q's.
    pub dtypes: Dtypes,
}

impl Operands {
    /// Attention over these tensors, stored on the device in the types that they had.
    pub fn problem(&self, mask: Mask) -> Problem {
        Problem::new(self.shape).layout(self.layout).mask(mask).dtypes(self.dtypes)
    }

    /// The tensors as a call takes them.
    pub fn inputs<'a>(&'a self, mask: &'a AuxData) -> Inputs<'a> {
        Inputs::new(&self.q, &self.k, &self.v).mask(mask)
    }

    /// The sizes of o as it lies in memory: `[batch, num_heads, seq_len_q, head_dim_v]` in the layout's order.
    pub fn o_dims(&self) -> [usize; 4] {
        reorder(self.shape.o_dims(), self.layout)
    }

    /// The sizes of lse: `[batch, num_heads, seq_len_q]`, or `[1, num_heads, total]` where queries are packed.
    pub const fn lse_dims(&self) -> [usize; 3] {
        let [batch, rows] = self.shape.q_rows();
        [batch, self.shape.num_heads, rows]
    }
}
impl TensorFile {
    /// q, k and v.
    ///
    /// # Errors
    /// [`Error::File`] where one isn't there; [`Error::Operand`] where one has another type, other than 4
    /// dimensions, or sizes that don't go with the others', and where the sizes make no problem ([`Shape::validate`]).
    pub fn operands(&self, layout: Layout) -> Result<Operands> {
        let [q, k, v] = ["q", "k", "v"].map(|name| self.read_f32(name));
        let (q, k, v) = (q?, k?, v?);
        let [q_batch, num_heads, q_rows, head_dim] = sizes("q", &q.dims, layout)?;
        let [k_batch, num_kv_heads, k_rows, k_dim] = sizes("k", &k.dims, layout)?;
        let Batch { batch, seq_len_q, seq_len_kv, sequences } =
            self.batch([q_batch, q_rows], [k_batch, k_rows])?;
        let batch_fits = k_batch == q_batch || !sequences.are_uniform();
        if k_dim != head_dim || !batch_fits {
            return Err(Error::operand(
                "k",
                named_sizes(
                    [Ok(q_batch), Err("num_kv_heads"), Err("seq_len_kv"), Ok(head_dim)],
                    layout,
                ) + &format!(", as q is {:?}", q.dims),
                format!("{:?}", k.dims),
            ));
        }
        let [v_batch, v_heads, v_seq, head_dim_v] = sizes("v", &v.dims, layout)?;
        if [v_batch, v_heads, v_seq] != [k_batch, num_kv_heads, k_rows] {
            return Err(Error::operand(
                "v",
                named_sizes([Ok(k_batch), Ok(num_kv_heads), Ok(k_rows), Err("head_dim_v")], layout)
                    + &format!(", as k is {:?}", k.dims),
                format!("{:?}", v.dims),
            ));
        }
        let shape = Shape::new(batch, num_heads, seq_len_q, head_dim)
            .seq_len_kv(seq_len_kv)
            .num_kv_heads(num_kv_heads)
            .head_dim_v(head_dim_v)
            .sequences(sequences);
        shape.validate()?;
        let [q_type, k_type, v_type, bias_type] =
            ["q", "k", "v", "bias"].map(|name| self.dtype(name).unwrap_or_default());
        let dtypes = Dtypes { q: q_type, k: k_type, v: v_type, o: q_type, bias: bias_type };
        Ok(Operands { shape, layout, q: q.values, k: k.values, v: v.values, dtypes })
    }
}
