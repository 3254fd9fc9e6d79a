//! Adding tokens to a cache.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::KvCache;
use super::rotary::Rotary;
use super::shape::{CacheForm, CacheShape};
use crate::auxiliary::AuxBuffers;
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::key::{AppendConfig, KernelKey, RowAccess};
use crate::kernel::limits::Needs;
use crate::kernel::params::{self, Params};
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::source::WORKGROUP_SIZE;
use crate::mask::emit::MaskText;
use crate::plan::buffers::{Operand, check_outputs_apart};
use crate::plan::cut::{Axis, Bounds, Grid, Reach, Tensor};
use crate::plan::mask_tables::MaskTables;
use crate::plan::pieces::{Pieces, Share, Source};
use crate::plan::tensors::{Numbering, Tensors};
use crate::plan::windows;
use crate::plan::{BindGroups, begin_pass, empty_buffer, filled_buffer};
use crate::problem::{Placed, Resolved};
use crate::tensor::dtype::{Dtype, Dtypes};
use crate::tensor::sequences::QuerySequences;
use crate::tensor::shape::Layout;

/// The tokens that are added to a cache at a time.
///
/// Their keys, values and queries are of one type and in one layout, dense: `[batch, heads, seq_len, dim]`, or as
/// [`crate::tensor::Sequences`] says for other forms.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NewTokens {
    /// How many tokens each sequence gets, or the most that one may get.
    pub seq_len: usize,
    /// How they lie, and whether sequences get different numbers of them.
    pub sequences: QuerySequences,
    /// The type of the tokens' keys, values and queries; the cache's may be another.
    pub dtype: Dtype,
    /// The layout of the tokens' keys, values and queries.
    pub layout: Layout,
    /// Turns the keys by their positions on the way: a sequence's token stands at the number of those before it.
    pub rotary: Option<Rotary>,
    /// Multiplies the keys by a Hadamard matrix, 32 components at a time, behind `rotary`: a large component is spread over 32,
    /// which a cache of 4 bits keeps better. `head_dim` is a multiple of 32, and the queries need the same: `query_heads`.
    pub hadamard: bool,
    /// Rotates the queries of the same tokens as the keys, by `rotary` and `hadamard`; they have this many heads.
    pub query_heads: Option<usize>,
}

impl NewTokens {
    /// `seq_len` tokens of each sequence, f32 `[batch, num_kv_heads, seq_len, dim]`, as they are.
    pub const fn new(seq_len: usize) -> Self {
        Self {
            seq_len,
            sequences: QuerySequences::Uniform,
            dtype: Dtype::F32,
            layout: Layout::Bhsd,
            rotary: None,
            hadamard: false,
            query_heads: None,
        }
    }

    setters! {
        seq_len: usize,
        sequences: QuerySequences,
        dtype: Dtype,
        layout: Layout,
        option rotary: Rotary,
        hadamard: bool,
        option query_heads: usize,
    }
}

/// Adds tokens to caches of one shape, any number of times.
///
/// Plans for different numbers of tokens work on the same cache: a long one for prompts, one of 1 for generating.
#[derive(Debug)]
pub struct AppendPlan {
    kernels: Kernels,
    shape: CacheShape,
    tokens: NewTokens,
    own: TokenTensors,
    mask: MaskTables,
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
    pieces: Pieces,
    rotary: Option<wgpu::Buffer>,
    empty: wgpu::Buffer,
    bind_groups: BindGroups,
}

/// How the tokens' tensors lie.
#[derive(Debug, Clone, Copy)]
struct TokenTensors {
    q: Placed,
    k: Placed,
    v: Placed,
}

/// The caller's buffers for [`AppendPlan::encode`], of the tokens' type; rules as for [`crate::AttentionBuffers`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AppendBuffers<'a> {
    /// `[batch, num_kv_heads, seq_len, head_dim]`
    pub k: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len, head_dim_v]`; of a cache whose values are in its keys it isn't read.
    pub v: BufferSlice<'a>,
    /// `[batch, query_heads, seq_len, head_dim]`, where queries are rotated
    pub q: Option<BufferSlice<'a>>,
    /// The same, written: the queries rotated
    pub rotated_q: Option<BufferSlice<'a>>,
    /// `q_starts` or `q_lengths`, where sequences get different numbers of tokens: also for the queries of the attention
    /// that follows.
    pub sequences: AuxBuffers<'a>,
    /// The number of tokens of each sequence, where the host knows them: then what has no room is refused beforehand.
    /// Not needed where every sequence gets as many.
    pub lengths: Option<&'a [usize]>,
}

impl<'a> AppendBuffers<'a> {
    /// Keys and values alone, as many for each sequence.
    pub fn new(k: BufferSlice<'a>, v: BufferSlice<'a>) -> Self {
        Self { k, v, q: None, rotated_q: None, sequences: AuxBuffers::new(), lengths: None }
    }

    /// Keys alone, for a cache whose values are in its keys ([`CacheShape::values_in_keys`]).
    pub fn keys(k: BufferSlice<'a>) -> Self {
        Self::new(k, k)
    }

    setters! {
        option q: BufferSlice<'a>,
        option rotated_q: BufferSlice<'a>,
        sequences: AuxBuffers<'a>,
        some lengths: &'a [usize],
    }
}

impl AppendPlan {
    /// Validates and compiles.
    ///
    /// # Errors
    /// Where shape or tokens are invalid, or larger than the device's limits, or the device fails to compile or allocate.
    pub fn new(kernels: &Kernels, shape: &CacheShape, tokens: &NewTokens) -> Result<Self> {
        shape.resolve()?;
        let rotates_q = tokens.query_heads.is_some();
        if rotates_q && tokens.rotary.is_none() && !tokens.hadamard {
            return Err(Error::operand(
                "query_heads",
                "a rotary embedding or a Hadamard matrix to rotate them by",
                "none",
            ));
        }
        if tokens.hadamard && !rotates_q {
            return Err(Error::operand(
                "hadamard",
                "query_heads, as queries need the same rotation as keys",
                "none",
            ));
        }
        if tokens.hadamard && shape.values_in_keys {
            return Err(Error::operand(
                "hadamard",
                "a cache with values of its own, which no query undoes a rotation of",
                "values in the keys",
            ));
        }
        if tokens.hadamard && !shape.head_dim.is_multiple_of(32) {
            return Err(Error::operand(
                "hadamard",
                "a head_dim that is a multiple of 32",
                shape.head_dim,
            ));
        }
        if tokens.dtype.is_quantized() {
            return Err(Error::operand("the tokens' type", "f32, f16 or bf16", tokens.dtype));
        }
        if shape.form == CacheForm::Ring && tokens.seq_len > shape.capacity {
            return Err(Error::operand(
                "seq_len",
                format!("at most the ring's capacity, {}", shape.capacity),
                tokens.seq_len,
            ));
        }
        let heads = tokens.query_heads.unwrap_or(shape.num_kv_heads);
        let dtypes = Dtypes::from(tokens.dtype).k(shape.dtype).v(shape.dtype);
        let problem = shape
            .problem(heads, tokens.seq_len, tokens.sequences)
            .dtypes(dtypes)
            .layout(tokens.layout);
        let problem = Resolved::new(problem)?;
        let [batch, rows] = problem.shape.q_rows();
        let placed = |name, dim| {
            let dims = [batch, shape.num_kv_heads, rows, dim];
            Placed::new(name, tokens.dtype, dims, tokens.layout.strides(dims))
        };
        let own = TokenTensors {
            q: problem.q,
            k: placed("k", shape.head_dim)?,
            v: placed("v", shape.head_dim_v)?,
        };
        let query_heads = tokens.query_heads.unwrap_or(0);
        let parts = shape.head_dim.max(shape.head_dim_v).div_ceil(4);
        let tensors = if shape.values_in_keys { 1 } else { 2 };
        let sizes = [shape.batch, query_heads + tensors * shape.num_kv_heads, tokens.seq_len];
        let per_workgroup = WORKGROUP_SIZE as usize;
        let grid = Grid::items(sizes, parts, per_workgroup, 16 * per_workgroup as u64);
        let work = (grid, reached(&problem, shape, &own, query_heads));
        let windows = windows::of_append(&problem, &work, &Bounds::of(kernels.traits()))?;
        let config = AppendConfig {
            access: access(&problem, &own),
            tokens: tokens.dtype,
            cache: shape.dtype,
            parts,
            pairing: tokens.rotary.as_ref().map(Rotary::pairing),
            hadamard: tokens.hadamard,
            rotates_q,
            values: !shape.values_in_keys,
            windows: windows.windowed().looped,
        };
        let rotary =
            tokens.rotary.as_ref().map(|rotary| rotary.block(shape.head_dim)).transpose()?;
        let text = Arc::new(MaskText::new(&problem.mask, problem.shape().sequences.forms()));
        let key = KernelKey::Append { config, mask: text };
        Needs::of(&key).check("append", &kernels.traits().limits)?;
        let mask = MaskTables::of_append(kernels, &problem)?;
        let params = Params {
            new_k_strides: params::strides("new k", own.k.indexing.strides)?,
            new_v_strides: params::strides("new v", own.v.indexing.strides)?,
            rotated_q_strides: params::strides("q", own.q.indexing.strides)?,
            ..Params::new(&problem, &mask.layout, 1)?
        };
        let ((grid, reached), workgroups) = (work, 0..grid.workgroups()?);
        let whole = Share { grid, reached, workgroups, params };
        let pieces = Pieces::of_shares(kernels, &windows::shares(whole, &windows))?;
        let rotary = match rotary {
            Some(block) => Some(filled_buffer(
                kernels.device(),
                "rotary",
                bytemuck::bytes_of(&block),
                wgpu::BufferUsages::UNIFORM,
            )?),
            None => None,
        };
        Ok(Self {
            kernels: kernels.clone(),
            shape: *shape,
            tokens: tokens.clone(),
            own,
            mask,
            bindings: key.bindings(),
            pipeline: kernels.pipeline(key)?,
            pieces,
            rotary,
            empty: empty_buffer(kernels)?,
            bind_groups: BindGroups::default(),
        })
    }

    /// Records the appending of tokens to `cache`. The plan keeps nothing of the cache, and serves any of its shape.
    ///
    /// # Errors
    /// [`Error::Operand`] where the cache has another shape, other [`Kernels`] or no room, or that names the first buffer that doesn't fit;
    /// nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        cache: &mut KvCache,
        buffers: &AppendBuffers<'_>,
    ) -> Result<()> {
        if cache.shape != self.shape {
            return Err(Error::operand(
                "cache",
                format!("one of the plan's shape, {:?}", self.shape),
                format!("{:?}", cache.shape),
            ));
        }
        // Not by the device: wgpu takes devices of two instances for equal.
        if !cache.kernels.is(&self.kernels) {
            return Err(Error::operand(
                "cache",
                "one made with the plan's `Kernels`, or a clone of it",
                "one made with another",
            ));
        }
        let added = self.added(buffers.lengths)?;
        if let Some(added) = &added {
            cache.check_room(added)?;
        }
        self.record(encoder, cache, buffers)?;
        let most = cache.most_tokens();
        for (b, bound) in cache.bounds.iter_mut().enumerate() {
            let added = added.as_ref().map_or(self.tokens.seq_len, |added| added[b]);
            *bound = (*bound + added).min(most);
        }
        Ok(())
    }

    /// Lets go of the caller's buffers: see [`crate::AttentionPlan::forget_buffers`].
    pub fn forget_buffers(&self) {
        self.bind_groups.forget();
    }

    /// How many tokens each sequence gets, where the host knows.
    fn added(&self, lengths: Option<&[usize]>) -> Result<Option<Vec<usize>>> {
        let (batch, seq_len) = (self.shape.batch, self.tokens.seq_len);
        let Some(lengths) = lengths else {
            let uniform = self.tokens.sequences == QuerySequences::Uniform;
            return Ok(uniform.then(|| vec![seq_len; batch]));
        };
        if lengths.len() != batch {
            return Err(Error::operand(
                "lengths",
                format!("{batch} elements ([batch])"),
                format!("{} elements", lengths.len()),
            ));
        }
        let least = if self.tokens.sequences == QuerySequences::Uniform { seq_len } else { 0 };
        for (b, &length) in lengths.iter().enumerate() {
            if !(least..=seq_len).contains(&length) {
                return Err(Error::operand(
                    format!("lengths[{b}]"),
                    format!("{least} to seq_len = {seq_len}"),
                    length,
                ));
            }
        }
        if let QuerySequences::Packed { total } = self.tokens.sequences {
            let sum: usize = lengths.iter().sum();
            if sum > total {
                return Err(Error::operand(
                    "lengths",
                    format!("{total} packed tokens in all"),
                    sum,
                ));
            }
        }
        Ok(Some(lengths.to_vec()))
    }

    fn record<'a>(
        &'a self,
        encoder: &mut wgpu::CommandEncoder,
        cache: &'a KvCache,
        buffers: &AppendBuffers<'a>,
    ) -> Result<()> {
        let own = &self.own;
        let k = Operand::placed("k", buffers.k, &own.k);
        let v = Operand::placed("v", buffers.v, &own.v);
        let v = cache.v.as_ref().map(|cache_v| (v, cache_v));
        let (mut inputs, mut outputs) = (vec![k], Vec::new());
        inputs.extend(v.map(|(v, _)| v));
        let mut queries = Vec::new();
        if self.tokens.query_heads.is_some() {
            let (Some(q), Some(rotated)) = (buffers.q, buffers.rotated_q) else {
                return Err(Error::operand("q", "buffers for q and rotated_q", "none"));
            };
            queries.push(Operand::placed("q", q, &own.q));
            queries.push(Operand::placed("rotated_q", rotated, &own.q));
            inputs.push(queries[0]);
            outputs.push(queries[1]);
        }
        let sequences = cache.aux_buffers(buffers.sequences.clone());
        let mask = self.mask.operands(&sequences)?;
        inputs.extend(&mask);
        let of_cache = |name, buffer: &'a wgpu::Buffer| Operand {
            name,
            slice: buffer.slice(..),
            bytes: buffer.size(),
        };
        let cache_k = of_cache("the cache's k", &cache.k);
        let v = v.map(|(v, cache_v)| (v, of_cache("the cache's v", cache_v)));
        outputs.push(cache_k);
        outputs.extend(v.map(|(_, cache_v)| cache_v));
        check_outputs_apart(&inputs, &outputs)?;
        for operand in queries.iter().chain([&k]).chain(v.iter().map(|(v, _)| v)) {
            operand.check_storage(&self.kernels)?;
        }
        if self.pieces.count() == 0 || own.k.span == 0 {
            return Ok(());
        }
        let source = |binding| {
            Ok(match (binding, &self.rotary, &queries[..]) {
                (Binding::Rotary, Some(rotary), _) => Source::Whole(rotary.as_entire_binding()),
                (Binding::Q, _, [q, _]) => Source::Window(*q),
                (Binding::RotatedQ, _, [_, rotated]) => Source::Window(*rotated),
                (Binding::NewK, ..) => Source::Window(k),
                (Binding::NewV | Binding::CacheV, ..) => match (v, binding) {
                    (Some((v, _)), Binding::NewV) => Source::Window(v),
                    (Some((_, cache_v)), _) => Source::Window(cache_v),
                    (None, _) => Source::Whole(self.empty.as_entire_binding()),
                },
                (Binding::CacheK, ..) => Source::Window(cache_k),
                (Binding::CacheLengths, ..) => Source::Whole(cache.lengths.as_entire_binding()),
                _ => Source::Whole(self.mask.buffer.as_entire_binding()),
            })
        };
        let bind_groups = (0..self.pieces.count())
            .map(|piece| {
                let resources =
                    self.pieces.resources(piece, &self.bindings, &self.empty, source)?;
                Ok(self.bind_groups.get(&self.kernels, &self.pipeline, &resources))
            })
            .collect::<Result<Vec<_>>>()?;
        self.mask.copy(encoder, &mask);
        self.mask.make(encoder, 0..self.mask.steps());
        let mut pass = begin_pass(encoder, "append");
        for (piece, bind_group) in bind_groups.iter().enumerate() {
            self.pieces.encode(piece, &mut pass, &self.pipeline, bind_group);
        }
        Ok(())
    }
}

/// What a workgroup reaches: its heads are those of the queries, of the new keys, and of the new values.
fn reached(
    problem: &Resolved,
    shape: &CacheShape,
    own: &TokenTensors,
    query_heads: usize,
) -> Vec<Tensor> {
    let tensors = Tensors::new(problem, Numbering::Queries);
    let from = |[batch, _, rows]: Reach, first| [batch, Axis::From(first), rows];
    let (k_heads, v_heads) = (query_heads, query_heads + shape.num_kv_heads);
    let new = |binding, name, placed: &Placed, first| Tensor {
        binding,
        name,
        indexing: placed.indexing,
        reach: from(tensors.queries, first),
    };
    let cache = |tensor: Tensor, first| Tensor { reach: from(tensor.reach, first), ..tensor };
    let cache_k = tensors.of_keys(Binding::CacheK, "the cache's k", problem.k.indexing);
    let cache_v = tensors.of_keys(Binding::CacheV, "the cache's v", problem.v.indexing);
    let mut reached = vec![
        new(Binding::NewK, "k", &own.k, k_heads),
        new(Binding::NewV, "v", &own.v, v_heads),
        cache(cache_k, k_heads),
        cache(cache_v, v_heads),
    ];
    if query_heads > 0 {
        reached.push(tensors.q());
        reached.push(tensors.of_queries(Binding::RotatedQ, "rotated_q", own.q.indexing));
    }
    reached
}

/// Four elements at a time where every row of the tokens and of the cache starts at a multiple of that.
fn access(problem: &Resolved, own: &TokenTensors) -> RowAccess {
    let (shape, cache) = (&problem.shape, problem.strides);
    let [q, k, v] = [own.q, own.k, own.v].map(|placed| placed.indexing.strides);
    let strides = [q, k, v, cache.k, cache.v];
    let aligned = strides.iter().all(|strides| {
        let [batch, head, seq, dim] = strides.to_array();
        dim == 1 && [batch, head, seq].iter().all(|n| n.is_multiple_of(4))
    });
    let lengths = shape.head_dim.is_multiple_of(4) && shape.head_dim_v.is_multiple_of(4);
    if aligned && lengths { RowAccess::Vec4 } else { RowAccess::Scalar }
}
