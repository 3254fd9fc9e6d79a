//! A problem with operands on the device, and what its result costs at least.

use crate::auxiliary::AuxData;
use crate::error::Result;
use crate::mask::Evaluator;
use crate::mask::tile::{TileClass, TileGrid};
use crate::plan::attention::{AttentionBuffers, AttentionPlan};
use crate::plan::tiles::TileOptions;
use crate::problem::{Inputs, Problem};
use crate::readback;
use crate::session::{Session, Uploads};

/// A problem with operands on the device: numbers that look random, the same every time.
#[derive(Debug)]
pub struct Workload {
    problem: Problem,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    o_words: usize,
    o_len: usize,
    mask: Uploads,
    kept_cells: f64,
}

/// Tiles in which kept cells are counted: large enough to be few, small enough that few are partial.
const COUNTING: TileGrid = TileGrid { block_q: 64, block_kv: 64 };

impl Workload {
    /// Uploads operands in [-1, 1), as many as the problem's strides span, and counts what the mask keeps.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn new(attention: &Session, problem: &Problem, data: &AuxData) -> Result<Self> {
        problem.shape.validate()?;
        let (shape, strides) = (&problem.shape, problem.strides());
        let q = uniform(1, strides.q.span("q", shape.q_dims())?);
        let k = uniform(2, strides.k.span("k", shape.k_dims())?);
        let v = uniform(3, strides.v.span("v", shape.v_dims())?);
        Self::with_operands(attention, problem, &Inputs::new(&q, &k, &v).mask(data))
    }

    /// The same with given operands.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn with_operands(
        attention: &Session,
        problem: &Problem,
        inputs: &Inputs<'_>,
    ) -> Result<Self> {
        let problem = problem.clone().aux_shape(inputs.mask.shape());
        problem.validate()?;
        inputs.check(&problem)?;
        let dtypes = problem.dtypes;
        let q = attention.upload("q", &inputs.q.encode(dtypes.q))?;
        let k = attention.upload("k", &inputs.k.encode(dtypes.k))?;
        let v = attention.upload("v", &inputs.v.encode(dtypes.v))?;
        let mask = attention.upload_data(&problem, inputs.mask)?;
        let o_len = problem.strides().o.span("o", problem.shape.o_dims())?;
        let o_words = (o_len * dtypes.o.size()).div_ceil(4);
        let o = attention.allocate("o", o_words)?;
        let kept_cells = kept_cells(attention, &problem, inputs.mask)?;
        Ok(Self { q, k, v, o, o_words, o_len, mask, kept_cells, problem })
    }

    /// The problem, which knows the sizes of its data.
    pub const fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Records the plan over the operands; it has to be one for [`Workload::problem`].
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn encode(&self, plan: &AttentionPlan, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        plan.encode(encoder, &self.buffers())
    }

    /// The same with the mask's tables as they are: [`AttentionPlan::encode_reusing_mask`].
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn encode_reusing_mask(
        &self,
        plan: &AttentionPlan,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<()> {
        plan.encode_reusing_mask(encoder, &self.buffers())
    }

    fn buffers(&self) -> AttentionBuffers<'_> {
        AttentionBuffers {
            q: self.q.slice(..),
            k: self.k.slice(..),
            v: self.v.slice(..),
            mask: self.mask.buffers(),
            o: self.o.slice(..),
            lse: None,
        }
    }

    /// What the last run wrote.
    ///
    /// # Errors
    /// What the device reported.
    pub fn output(&self, attention: &Session) -> Result<Vec<f32>> {
        let words = pollster::block_on(readback::read(
            attention.device(),
            attention.queue(),
            &self.o,
            self.o_words,
        ))?;
        Ok(self.problem.dtypes.o.decode(&words, self.o_len))
    }

    /// The cells of all sequences and heads that the mask keeps.
    pub const fn kept_cells(&self) -> f64 {
        self.kept_cells
    }

    /// Operations that the result needs: two per product of a kept cell, for q kᵀ and for p v.
    pub fn operations(&self) -> f64 {
        let shape = &self.problem.shape;
        2.0 * self.kept_cells * (shape.head_dim + shape.head_dim_v) as f64
    }

    /// Bytes that have to be read or written: each element of q, k, v and o once.
    pub fn bytes(&self) -> f64 {
        let shape = &self.problem.shape;
        let dtypes = self.problem.dtypes;
        let tensors = [
            (shape.q_dims(), dtypes.q),
            (shape.k_dims(), dtypes.k),
            (shape.v_dims(), dtypes.v),
            (shape.o_dims(), dtypes.o),
        ];
        let bytes = |(dims, dtype): ([usize; 4], crate::Dtype)| {
            dims.map(|dim| dim as f64).iter().product::<f64>() * dtype.size() as f64
        };
        tensors.into_iter().map(bytes).sum()
    }
}

/// Full tiles by their size, partial ones cell by cell.
fn kept_cells(attention: &Session, problem: &Problem, data: &AuxData) -> Result<f64> {
    let shape = &problem.shape;
    let tiles =
        attention.tile_classes_blocking(problem, data, &TileOptions::default().grid(COUNTING))?;
    let [batch, heads, rows, columns] = tiles.dims;
    let own = Evaluator::new(&problem.mask, data, shape);
    let mut kept = 0;
    for (at, class) in tiles.classes.iter().enumerate() {
        let (plane, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
        let q0 = row * COUNTING.block_q;
        let kv0 = column * COUNTING.block_kv;
        let q1 = shape.seq_len_q.min(q0 + COUNTING.block_q);
        let kv1 = shape.seq_len_kv.min(kv0 + COUNTING.block_kv);
        kept += match class {
            TileClass::Skip => 0,
            TileClass::Full => (q1 - q0) * (kv1 - kv0),
            TileClass::Partial => {
                let evaluator = own.as_ref().map_err(Clone::clone)?;
                let keep = |(q_idx, kv_idx): &(usize, usize)| {
                    evaluator.keep(plane / heads, plane % heads, *q_idx, *kv_idx)
                };
                (q0..q1)
                    .flat_map(|q_idx| (kv0..kv1).map(move |kv_idx| (q_idx, kv_idx)))
                    .filter(keep)
                    .count()
            }
        };
    }
    // What is the same for all sequences or heads is listed once.
    let alike = (shape.batch / batch.max(1)) * (shape.num_heads / heads.max(1));
    Ok(kept as f64 * alike as f64)
}

/// Numbers in [-1, 1), the same on every run: a congruential generator will do for timing.
pub fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}
