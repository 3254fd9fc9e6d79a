//! Which tensors kernels are bound to, and what of them a workgroup reaches: what [`super::cut`] goes by.

use super::cut::{Axis, Reach, Tensor};
use crate::kernel::binding::Binding;
use crate::problem::Resolved;
use crate::tensor::dtype::Dtype;
use crate::tensor::sequences::{KeySequences, QuerySequences};
use crate::tensor::shape::{Indexing, Shape};

/// What a kernel's workgroups are numbered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// Query heads, and rows of queries.
    Queries,
    /// Kv heads, and rows of keys.
    Keys,
    /// Kv heads alone: rows of either side are all reached.
    KvHeads,
}

impl Numbering {
    /// What is reached of q and of all that lies as it does.
    pub(crate) const fn queries(self, shape: &Shape) -> Reach {
        let batch = match shape.sequences.q {
            // One behind the other: where a sequence lies is known to the device alone.
            QuerySequences::Packed { .. } => Axis::All,
            QuerySequences::Uniform | QuerySequences::LeftPadded => Axis::Own,
        };
        match (self, shape.sequences.q) {
            (Self::Queries, QuerySequences::Uniform) => [batch, Axis::Own, Axis::Own],
            (Self::Queries, _) => [batch, Axis::Own, Axis::All],
            (Self::Keys | Self::KvHeads, _) => [batch, Axis::Group(shape.group_size()), Axis::All],
        }
    }

    /// The same of k.
    pub(crate) const fn keys(self, shape: &Shape) -> Reach {
        let batch = match shape.sequences.kv {
            KeySequences::Packed { .. } | KeySequences::Paged { .. } => Axis::All,
            KeySequences::Uniform | KeySequences::Cached { .. } | KeySequences::Ring => Axis::Own,
        };
        match (self, shape.sequences.kv) {
            (Self::Queries, _) => [batch, Axis::Shared(shape.group_size()), Axis::All],
            (Self::Keys, KeySequences::Uniform) => [batch, Axis::Own, Axis::Own],
            (Self::Keys | Self::KvHeads, _) => [batch, Axis::Own, Axis::All],
        }
    }

    /// The same of the bias, which is found by the numbers of queries and keys.
    const fn bias(self, shape: &Shape, [batch, heads, rows]: [bool; 3]) -> Reach {
        let own = match self {
            Self::Queries => [Axis::Own, Axis::Own, Axis::Own],
            Self::Keys | Self::KvHeads => [Axis::Own, Axis::Group(shape.group_size()), Axis::All],
        };
        [
            if batch { Axis::All } else { own[0] },
            if heads { Axis::All } else { own[1] },
            if rows { Axis::All } else { own[2] },
        ]
    }
}

/// A problem's tensors as one kernel sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) problem: &'a Resolved,
    pub(crate) queries: Reach,
    pub(crate) keys: Reach,
    bias: Reach,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(problem: &'a Resolved, numbering: Numbering) -> Self {
        let shape = &problem.shape;
        let bias = &problem.data.bias;
        let broadcast = [bias.broadcast_batch, bias.broadcast_heads, bias.broadcast_q];
        Self {
            problem,
            queries: numbering.queries(shape),
            keys: numbering.keys(shape),
            bias: numbering.bias(shape, broadcast),
        }
    }

    /// The same, its workgroups numbered by the elements of the bias: where that is broadcast, a workgroup adds up over all
    /// that reads an element.
    pub(crate) fn by_bias(problem: &'a Resolved) -> Self {
        let of_queries = Self::new(problem, Numbering::Queries);
        let bias = &problem.data.bias;
        let broadcast = [bias.broadcast_batch, bias.broadcast_heads, bias.broadcast_q];
        let widened = |reach: Reach| {
            let widen = |at: usize| if broadcast[at] { Axis::All } else { reach[at] };
            [widen(0), widen(1), widen(2)]
        };
        Self {
            queries: widened(of_queries.queries),
            keys: widened(of_queries.keys),
            bias: of_queries.bias,
            ..of_queries
        }
    }

    pub(crate) fn q(&self) -> Tensor {
        self.of_queries(Binding::Q, "q", self.problem.q.indexing)
    }

    /// A tensor of q's rows, or of o's.
    pub(crate) const fn of_queries(
        &self,
        binding: Binding,
        name: &'static str,
        indexing: Indexing,
    ) -> Tensor {
        Tensor { binding, name, indexing, reach: self.queries }
    }

    pub(crate) fn k(&self) -> Tensor {
        self.of_keys(Binding::K, "k", self.problem.k.indexing)
    }

    /// A tensor of k's rows, or of v's.
    pub(crate) const fn of_keys(
        &self,
        binding: Binding,
        name: &'static str,
        indexing: Indexing,
    ) -> Tensor {
        Tensor { binding, name, indexing, reach: self.keys }
    }

    pub(crate) fn v(&self) -> Tensor {
        self.of_keys(Binding::V, "v", self.problem.v.indexing)
    }

    pub(crate) fn o(&self) -> Tensor {
        self.of_queries(Binding::O, "o", self.problem.o.indexing)
    }

    /// A tensor of an entry of `size` bytes for each row of queries.
    pub(crate) fn of_rows(&self, binding: Binding, name: &'static str, size: usize) -> Tensor {
        let [batch, rows] = self.problem.shape.q_rows();
        let dims = [batch, self.problem.shape.num_heads, rows, 1];
        Tensor::dense(binding, name, dims, size, self.queries)
    }

    pub(crate) fn lse(&self, binding: Binding) -> Tensor {
        self.of_rows(binding, "lse", 4)
    }

    /// The bias, if the problem has one.
    pub(crate) fn bias(&self) -> Option<Tensor> {
        let dtype = self.problem.dtypes.bias;
        self.problem.score.bias.then(|| self.of_bias(Binding::Bias, "bias", dtype))
    }

    /// A tensor of the bias's sizes.
    pub(crate) fn of_bias(&self, binding: Binding, name: &'static str, dtype: Dtype) -> Tensor {
        let (shape, data) = (&self.problem.shape, &self.problem.data);
        let dims = data.bias.dims(shape);
        let indexing = Indexing::new(dtype, dims, data.bias.element_strides(shape));
        Tensor { binding, name, indexing, reach: self.bias }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cut::Bounds;
    use super::super::windows;
    use super::super::work::{self, Stage};
    use super::*;
    use crate::auxiliary::shape::DenseShape;
    use crate::cache::shape::CacheShape;
    use crate::error::Result;
    use crate::kernel::params::Params;
    use crate::kernel::tiles::{DeviceTraits, Splitting, backward_candidates, candidates};
    use crate::mask::Mask;
    use crate::mask::layout::{MaskLayout, Tiling};
    use crate::plan::backward::BackwardOptions;
    use crate::problem::Problem;
    use crate::score::ScoreModifiers;
    use crate::tensor::sequences::Sequences;
    use crate::tensor::shape::{Layout, Strides};

    /// Small sizes, and sizes around those where something might overflow.
    fn size() -> impl Strategy<Value = usize> {
        let around = |bit: u32| {
            (-2..3i64).prop_map(move |d| (1usize << bit).wrapping_add_signed(d as isize))
        };
        prop_oneof![
            4 => 0..5usize,
            2 => 1..300usize,
            1 => around(16),
            2 => around(29),
            1 => around(31),
            1 => around(32),
            1 => around(48),
            1 => around(57),
            1 => around(63),
            1 => (usize::MAX - 2)..=usize::MAX,
        ]
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let sizes = (size(), size(), size(), size(), size(), 0..260usize, 0..260usize);
        let sequences = (0..3usize, 0..5usize, size(), size());
        (sizes, sequences).prop_map(|((batch, kv_heads, group, q, kv, dim, dim_v), form)| {
            let (q_form, kv_form, total, blocks) = form;
            let sequences = Sequences {
                q: [
                    QuerySequences::Uniform,
                    QuerySequences::Packed { total },
                    QuerySequences::LeftPadded,
                ][q_form],
                kv: [
                    KeySequences::Uniform,
                    KeySequences::Packed { total },
                    KeySequences::Cached { left_padded: true },
                    KeySequences::Ring,
                    KeySequences::Paged { block_size: 16, blocks, blocks_per_sequence: total },
                ][kv_form],
            };
            Shape {
                batch,
                num_heads: kv_heads.wrapping_mul(group),
                num_kv_heads: kv_heads,
                seq_len_q: q,
                seq_len_kv: kv,
                head_dim: dim,
                head_dim_v: dim_v,
                sequences,
            }
        })
    }

    fn problem() -> impl Strategy<Value = Problem> {
        const MASKS: [&str; 5] = [
            "causal",
            "documents & self_only_if_alone(dense)",
            "buckets | column_ranges & key_padding",
            "prefix & tree & token_padding",
            "dilated(4294967295,4294967295) | window(4294967295,4294967295) & strided(4294967295) | chunk(4294967295)
                & global(4294967295) & causal(offset=-2147483648)",
        ];
        let strides = (size(), size(), size(), size());
        let options = (any::<bool>(), any::<bool>(), any::<bool>(), 0..MASKS.len(), 0..16usize);
        (shape(), strides, options).prop_map(|(shape, strides, options)| {
            let (bias, bshd, own_strides, mask, broadcast) = options;
            let mut problem = Problem::new(shape)
                .mask(MASKS[mask].parse::<Mask>().unwrap())
                .score(ScoreModifiers { bias, sinks: true, ..ScoreModifiers::default() })
                .layout(if bshd { Layout::Bshd } else { Layout::Bhsd });
            problem.data.bias = DenseShape {
                broadcast_batch: broadcast & 1 > 0,
                broadcast_heads: broadcast & 2 > 0,
                broadcast_q: broadcast & 4 > 0,
                broadcast_kv: broadcast & 8 > 0,
            };
            if own_strides {
                let (batch, head, seq, dim) = strides;
                problem = problem.k_strides(Strides { batch, head, seq, dim });
            }
            problem
        })
    }

    /// Everything that plans work out from sizes before a device has anything to do.
    fn work_out(problem: &Problem) -> Result<()> {
        let problem = &Resolved::new(problem.clone())?;
        let limits = wgpu::Limits::defaults();
        let bounds = Bounds {
            binding_bytes: limits.max_storage_buffer_binding_size,
            alignment: 256,
            workgroups_per_dimension: 65_535,
            work: u64::MAX,
        };
        let traits = DeviceTraits::with_everything(8);
        let shape = &problem.shape;
        let tried = |work: windows::Work| {
            let (grid, tensors) = &work;
            if let Ok(workgroups @ 1..) = grid.workgroups() {
                let _ = windows::of_keys(shape, &work, &bounds, 32);
                let _ = windows::of_queries(shape, &work, &bounds, 32);
                let _ = windows::of_own_queries(shape, &[&work], &bounds, 32);
                let _ = windows::of_own_keys(shape, &work, &bounds, 32);
                let _ = bounds.windows(grid, tensors, &(0..1));
                let _ = bounds.windows(grid, tensors, &(0..workgroups));
                let _ = bounds.windows(grid, tensors, &(workgroups / 3..workgroups));
            }
        };
        for (_, form) in candidates(problem, &traits, Splitting::Suitable) {
            let Ok(config) = form else { continue };
            let splits = Splitting::Suitable.count(problem, &traits, &config);
            tried(work::forward(problem, &config, splits));
            let tensors: Vec<_> = problem.tensors.iter().collect();
            for largest_map in [0, u64::MAX] {
                let tiling = Some(Tiling { grid: config.grid, largest_map });
                let (mask, shape) = (&problem.mask, &problem.shape);
                let layout = MaskLayout::new(mask, &tensors, None, None, shape, tiling);
                let _ = layout.and_then(|layout| Params::new(problem, &layout, 1));
            }
        }
        let options = BackwardOptions::default();
        let gradients = options.resolve(problem)?;
        let made = gradients.of_sequences(problem)?;
        for (_, form) in backward_candidates(problem, &made.strides, made.dtypes, &traits) {
            let Ok(config) = form else { continue };
            for stage in Stage::ALL {
                tried(work::backward(problem, &config, &made, &gradients, stage));
            }
        }
        let _ = problem.shape.scores_len();
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Whatever the sizes are, they are served or refused: nothing overflows.
        #[test]
        fn sizes_at_the_limits_of_their_types_are_no_panic(problem in problem()) {
            let _ = work_out(&problem);
        }

        #[test]
        fn caches_likewise(sizes in (size(), size(), size(), 0..260usize), paged in any::<bool>(), blocks in (size(), size())) {
            let (batch, heads, capacity, dim) = sizes;
            let shape = CacheShape::new(batch, heads, capacity, dim);
            let shape = if paged { shape.paged(blocks.0, blocks.1) } else { shape };
            let _ = shape.bytes();
            if let Ok(heads) = heads.checked_mul(2).ok_or(()) {
                let _ = work_out(&shape.problem(heads, blocks.1, QuerySequences::Uniform));
            }
        }
    }

    /// Which of them have queries is data.
    #[test]
    fn more_packed_sequences_than_rows_are_no_panic() {
        let sequences =
            Sequences { q: QuerySequences::Packed { total: 0 }, ..Sequences::default() };
        let shape = Shape::new(1 << 48, 121, 1, 1).num_kv_heads(1).seq_len_kv(0).head_dim_v(133);
        let _ = work_out(&Problem::new(shape.sequences(sequences)));
    }

    /// Without a bias, its strides are nobody's business: 65,536 queries by as many keys have more cells than 32 bits count.
    #[test]
    fn long_sequences_are_served() {
        let problem = Problem::new(Shape::new(1, 1, 1 << 16, 64)).mask(Mask::causal());
        let problem = Resolved::new(problem).unwrap();
        let layout = MaskLayout::new(&problem.mask, &[], None, None, &problem.shape, None);
        assert!(Params::new(&problem, &layout.unwrap(), 64).is_ok());
    }
}
