//! q, k and v of a file, with the sizes that go together.

use super::sequences::Batch;
use super::sizes::{Split, merged_sizes, sizes};
use super::{Tensor, TensorFile};
use wgpu_attention::AuxData;
use wgpu_attention::Mask;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{Error, Result};
use wgpu_attention::{Inputs, Problem};
use wgpu_attention::{Layout, Shape};

/// q, k and v of one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Operands {
    /// The sizes, whatever the layout.
    pub shape: Shape,
    /// How q, k and v lie in memory; of merged heads, as in [`Layout::Bshd`].
    pub layout: Layout,
    /// `[batch, num_heads, seq_len_q, head_dim]` in the layout's order
    pub q: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]` in the layout's order
    pub k: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]` in the layout's order
    pub v: Vec<f32>,
    /// The types that they had, and the bias if there is one; o has q's.
    pub dtypes: Dtypes,
    split: Split,
}

impl Operands {
    /// Attention over these tensors, stored on the device in the types that they had.
    pub fn problem(&self, mask: Mask) -> Problem {
        Problem::new(self.shape).layout(self.layout).mask(mask).dtypes(self.dtypes)
    }

    /// The tensors as a call takes them.
    pub fn inputs<'a>(&'a self, aux: &'a AuxData) -> Inputs<'a> {
        Inputs::new(&self.q, &self.k, &self.v).aux(aux)
    }

    /// The sizes of o in a file: those of q, with `head_dim_v` for `head_dim`.
    pub fn o_dims(&self) -> Vec<usize> {
        self.split.dims(self.shape.o_dims())
    }

    /// The sizes of lse: `[batch, num_heads, seq_len_q]`, or `[1, num_heads, total]` where queries are packed.
    pub const fn lse_dims(&self) -> [usize; 3] {
        let [batch, rows] = self.shape.q_rows();
        [batch, self.shape.num_heads, rows]
    }
}

impl TensorFile {
    /// q, k and v of four dimensions.
    ///
    /// # Errors
    /// [`Error::File`] where one isn't there; [`Error::Operand`] where one has another type, other than 4
    /// dimensions, or sizes that don't go with the others', and where the sizes make no problem ([`Shape::validate`]).
    pub fn operands(&self, layout: Layout) -> Result<Operands> {
        let [q, k, v] = self.qkv()?;
        let of = |name: &str, tensor: &Tensor<f32>| sizes(name, &tensor.dims, layout);
        let sizes = [of("q", &q)?, of("k", &k)?, of("v", &v)?];
        self.fitting([q, k, v], sizes, Split::Layout(layout))
    }

    /// q, k and v of three dimensions, `[batch, seq, heads * dim]`. Without a number of kv heads, there are as many as k's
    /// rows have keys of q's `head_dim`.
    ///
    /// # Errors
    /// As [`TensorFile::operands`], and where rows don't split into so many heads.
    pub fn merged_operands(
        &self,
        num_heads: usize,
        num_kv_heads: Option<usize>,
    ) -> Result<Operands> {
        let [q, k, v] = self.qkv()?;
        let q_sizes = merged_sizes("q", &q.dims, ("num_heads", num_heads))?;
        let head_dim = q_sizes[3].max(1);
        let [.., heads_of_k] = merged_sizes("k", &k.dims, ("head_dim", head_dim))?;
        if let Some(given) = num_kv_heads.filter(|&given| given != heads_of_k) {
            let expected = format!("{heads_of_k}, as head_dim is {head_dim} and k is {:?}", k.dims);
            return Err(Error::operand("num_kv_heads", expected, given));
        }
        let kv_heads = ("num_kv_heads", heads_of_k.max(1));
        let sizes =
            [q_sizes, merged_sizes("k", &k.dims, kv_heads)?, merged_sizes("v", &v.dims, kv_heads)?];
        self.fitting([q, k, v], sizes, Split::Merged)
    }

    fn qkv(&self) -> Result<[Tensor<f32>; 3]> {
        let [q, k, v] = ["q", "k", "v"].map(|name| self.read_f32(name));
        Ok([q?, k?, v?])
    }

    /// The tensors, of these sizes `[batch, heads, seq, dim]`, if they go together.
    fn fitting(
        &self,
        [q, k, v]: [Tensor<f32>; 3],
        [q_sizes, k_sizes, v_sizes]: [[usize; 4]; 3],
        split: Split,
    ) -> Result<Operands> {
        let [q_batch, num_heads, q_rows, head_dim] = q_sizes;
        let [k_batch, num_kv_heads, k_rows, k_dim] = k_sizes;
        let Batch { batch, seq_len_q, seq_len_kv, sequences } =
            self.batch([q_batch, q_rows], [k_batch, k_rows])?;
        let batch_fits = k_batch == q_batch || !sequences.are_uniform();
        if k_dim != head_dim || !batch_fits {
            let expected =
                split.named([Ok(q_batch), Err("num_kv_heads"), Err("seq_len_kv"), Ok(head_dim)]);
            return Err(Error::operand(
                "k",
                format!("{expected}, as q is {:?}", q.dims),
                format!("{:?}", k.dims),
            ));
        }
        let [v_batch, v_heads, v_seq, head_dim_v] = v_sizes;
        if [v_batch, v_heads, v_seq] != [k_batch, num_kv_heads, k_rows] {
            let expected =
                split.named([Ok(k_batch), Ok(num_kv_heads), Ok(k_rows), Err("head_dim_v")]);
            return Err(Error::operand(
                "v",
                format!("{expected}, as k is {:?}", k.dims),
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
        let dtypes = Dtypes::default().q(q_type).k(k_type).v(v_type).o(q_type).bias(bias_type);
        let layout = match split {
            Split::Layout(layout) => layout,
            Split::Merged => Layout::Bshd,
        };
        let [q, k, v] = [q, k, v].map(|tensor| tensor.values);
        Ok(Operands { shape, layout, q, k, v, dtypes, split })
    }
}
