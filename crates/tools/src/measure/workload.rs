//! A problem with operands on the device, and what its result costs at least.

use wgpu_attention::mask::{Evaluator, TileClass, TileGrid};
use wgpu_attention::plan::TileOptions;
use wgpu_attention::{
    AttentionPlan, AuxData, Dtype, Inputs, Problem, Result, Session, Uploaded, wgpu,
};

use super::loads::Loads;

/// A problem with operands on the device: numbers that look random, the same every time.
#[derive(Debug)]
pub struct Workload {
    uploaded: Uploaded,
    kept: Kept,
}

/// How much of a problem its mask keeps.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Cells of all sequences and heads.
    cells: f64,
    /// Rows of q that keep some key.
    queries: f64,
    /// Rows of k, and of v, that some query keeps.
    keys: f64,
}

/// Tiles in which kept cells are counted: large enough to be few, small enough that few are partial.
const COUNTING: TileGrid = TileGrid { block_q: 64, block_kv: 64 };

impl Workload {
    /// Uploads operands in [-1, 1), as many as the problem's strides span, and counts what the mask keeps.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn new(attention: &Session, problem: &Problem, data: &AuxData) -> Result<Self> {
        let [q, k, v, _] = problem.clone().aux_shape(data.shape()).spans()?;
        let [q, k, v] = [(1, q), (2, k), (3, v)].map(|(seed, span)| uniform(seed, span));
        Self::with_operands(attention, problem, &Inputs::new(&q, &k, &v).aux(data))
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
        let uploaded = attention.upload(problem, inputs)?;
        let kept = Kept::count(attention, uploaded.problem(), inputs.aux)?;
        Ok(Self { uploaded, kept })
    }

    /// The problem, which knows the sizes of its data.
    pub fn problem(&self) -> &Problem {
        self.uploaded.problem()
    }

    /// Records the plan over the operands; it has to be one for [`Workload::problem`].
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn encode(&self, plan: &AttentionPlan, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        plan.encode(encoder, &self.uploaded.buffers())
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
        plan.encode_reusing_mask(encoder, &self.uploaded.buffers())
    }

    /// What the last run wrote.
    ///
    /// # Errors
    /// What the device reported.
    pub fn output(&self, attention: &Session) -> Result<Vec<f32>> {
        attention.read_o_blocking(&self.uploaded)
    }

    /// The cells of all sequences and heads that the mask keeps.
    pub const fn kept_cells(&self) -> f64 {
        self.kept.cells
    }

    /// Operations that the result needs: two per product of a kept cell, for q kᵀ and for p v.
    pub fn operations(&self) -> f64 {
        let shape = self.problem().shape();
        2.0 * self.kept.cells * (shape.head_dim + shape.head_dim_v) as f64
    }

    /// Bytes that have to be read or written: once, each row of q, k and v that the mask keeps something of, and o.
    pub fn bytes(&self) -> f64 {
        let o = self.problem().shape().o_dims().map(|dim| dim as f64).iter().product::<f64>();
        let o = o * self.problem().get_dtypes().o.size() as f64;
        self.kept_bytes().iter().sum::<f64>() + o
    }

    /// The bytes of the rows of q, k and v that the mask keeps something of.
    fn kept_bytes(&self) -> [f64; 3] {
        let (shape, dtypes) = (self.problem().shape(), self.problem().get_dtypes());
        let bytes = |[batch, heads, rows, dim]: [usize; 4], dtype: Dtype, kept: f64| {
            // Sequences may have rows in common, in blocks of a cache.
            let rows = kept.min((batch * heads * rows) as f64);
            rows * dim as f64 * dtype.size() as f64
        };
        [
            bytes(shape.q_dims(), dtypes.q, self.kept.queries),
            bytes(shape.k_dims(), dtypes.k, self.kept.keys),
            bytes(shape.v_dims(), dtypes.v, self.kept.keys),
        ]
    }

    /// Loads of k and v, as much of them as the mask keeps.
    ///
    /// # Errors
    /// As [`Loads::new`].
    pub fn loads(&self, attention: &Session) -> Result<Loads> {
        let [_, k, v] = self.kept_bytes().map(|bytes| bytes as u64);
        let buffers = self.uploaded.buffers();
        Loads::new(attention.device(), &[(buffers.k.buffer(), k), (buffers.v.buffer(), v)])
    }
}

impl Kept {
    /// Full tiles by their size, partial ones cell by cell.
    fn count(attention: &Session, problem: &Problem, data: &AuxData) -> Result<Self> {
        let shape = problem.shape();
        let tiles = attention.tile_classes_blocking(
            problem,
            data,
            &TileOptions::default().grid(COUNTING),
        )?;
        let [batch, heads, rows, columns] = tiles.dims;
        let own = Evaluator::new(problem.get_mask(), data, shape);
        // Query heads that share k and v, where they aren't all the same.
        let group = if heads > 1 { shape.group_size() } else { 1 };
        let mut cells = 0u64;
        let mut queries = vec![false; batch * heads * shape.seq_len_q];
        let mut keys = vec![false; batch * heads / group * shape.seq_len_kv];
        for (at, class) in tiles.classes.iter().enumerate() {
            if *class == TileClass::Skip {
                continue;
            }
            let (plane, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            let (q0, kv0) = (row * COUNTING.block_q, column * COUNTING.block_kv);
            let q1 = shape.seq_len_q.min(q0 + COUNTING.block_q);
            let kv1 = shape.seq_len_kv.min(kv0 + COUNTING.block_kv);
            let queries = &mut queries[plane * shape.seq_len_q..][q0..q1];
            let keys = &mut keys[plane / group * shape.seq_len_kv..][kv0..kv1];
            if *class == TileClass::Full {
                cells += (queries.len() * keys.len()) as u64;
                queries.fill(true);
                keys.fill(true);
                continue;
            }
            let evaluator = own.as_ref().map_err(Clone::clone)?;
            for (q_idx, query) in (q0..).zip(queries) {
                for (kv_idx, key) in (kv0..).zip(&mut *keys) {
                    if evaluator.keep(plane / heads, plane % heads, q_idx, kv_idx) {
                        cells += 1;
                        (*query, *key) = (true, true);
                    }
                }
            }
        }
        // What is the same for all sequences or heads is listed once.
        let sequences = (shape.batch / batch.max(1)) as f64;
        let alike = |listed: usize, all: usize| sequences * (all / listed.max(1)) as f64;
        let kept = |rows: Vec<bool>| rows.into_iter().filter(|&kept| kept).count() as f64;
        Ok(Self {
            cells: cells as f64 * alike(heads, shape.num_heads),
            queries: kept(queries) * alike(heads, shape.num_heads),
            keys: kept(keys) * alike(heads / group, shape.num_kv_heads),
        })
    }
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
