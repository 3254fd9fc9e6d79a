//! Keys and values of earlier tokens, on burn's device.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::Cube;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::tensor::{Dtypes, QuerySequences};
use wgpu_attention::{Dtype, Error, Layout, Result};

use crate::attention::check_device;
use crate::call::Call;
use crate::context::Context;
use crate::options::Options;
use crate::recent::Recent;
use crate::score::ScoreTensors;
use crate::tensor::{self, Bound, dims, strides};
use crate::{backend, device, forward};

/// A cache of keys and values, each sequence of the batch at a length of its own: `wgpu_attention`'s cache on burn's device.
///
/// For generation; nothing in it has gradients.
///
/// ```no_run
/// use burn::tensor::Tensor;
/// use wgpu_attention_burn::wgpu_attention::Mask;
/// use wgpu_attention_burn::wgpu_attention::cache::CacheShape;
/// use wgpu_attention_burn::{KvCache, Options};
/// # fn projections() -> [Tensor<4>; 3] { unimplemented!() }
/// let device = wgpu_attention_burn::init()?;
/// // 2 sequences, 4 kv heads, up to 1024 tokens, head_dim 64
/// let mut cache = KvCache::new(&device, CacheShape::new(2, 4, 1024, 64))?;
/// let causal = Options::new(Mask::causal());
/// for _ in 0..256 {
///     let [q, k, v] = projections(); // [2, heads, 1, 64]
///     cache.append(k, v)?;
///     let o = cache.attend(q, &causal)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KvCache {
    device: Device,
    context: Arc<Context>,
    cache: wgpu_attention::KvCache,
    appends: Recent<(usize, Dtype, Layout), AppendPlan>,
}

impl KvCache {
    /// An empty cache. Its elements may be f32, f16, bf16 or 8 bits, whatever the tensors are; it may be contiguous, a ring or
    /// paged.
    ///
    /// # Errors
    /// Where the device isn't one of [`crate::init`], the shape is invalid, or the device fails to allocate.
    pub fn new(device: &Device, shape: CacheShape) -> Result<Self> {
        let context = device::context(&device::cube_device(device)?)?;
        let cache = wgpu_attention::KvCache::new(context.kernels(), &shape)?;
        Ok(Self { device: device.clone(), context, cache, appends: Recent::default() })
    }

    /// Adds tokens at the end of each sequence: k `[batch, kv_heads, tokens, dim]`, v `[batch, kv_heads, tokens, dim_v]`, of one
    /// type.
    ///
    /// # Errors
    /// [`Error::Operand`] where a tensor doesn't fit the cache or has no room in it; nothing is added then.
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> Result<()> {
        let CacheShape { batch, num_kv_heads: heads, head_dim, head_dim_v, .. } =
            *self.cache.shape();
        let tokens = k.dims()[2];
        self.check("k", k.dims(), [batch, heads, tokens, head_dim])?;
        self.check("v", v.dims(), [batch, heads, tokens, head_dim_v])?;
        let dtype = tensor::dtype("k", k.dtype())?;
        if v.dtype() != k.dtype() {
            let found = format!("{:?}", v.dtype());
            return Err(Error::operand("v", format!("k's type, {dtype}"), found));
        }
        if tokens == 0 {
            return Ok(());
        }
        let (k, v, layout) = in_one_layout(self.resolve("k", k)?, self.resolve("v", v)?);
        let new = NewTokens::new(tokens).dtype(dtype).layout(layout);
        let (context, shape) = (&self.context, self.cache.shape());
        let make = || AppendPlan::new(context.kernels(), shape, &new);
        let plan = self.appends.get_or_make(&(tokens, dtype, layout), make, |_| 0)?;
        let [k, v] = [Bound::new("k", &k)?, Bound::new("v", &v)?];
        let _alone = context.work();
        let mut encoder = context.encoder();
        let buffers = AppendBuffers::new(k.slice(), v.slice());
        plan.encode(&mut encoder, &mut self.cache, &buffers)?;
        context.session().queue().submit([encoder.finish()]);
        plan.forget_buffers();
        Ok(())
    }

    /// Attention of q `[batch, heads, seq_q, dim]` over what the cache has: `[batch, heads, seq_q, dim_v]`, of q's type.
    ///
    /// The queries are those of the last `seq_q` tokens of each sequence, so that `causal` means what it means over the whole
    /// sequence. Data of masks have the sizes of a sequence of the cache's capacity.
    ///
    /// # Errors
    /// As [`crate::try_attention`].
    pub fn attend(&self, q: Tensor<4>, options: &Options) -> Result<Tensor<4>> {
        let shape = self.cache.shape();
        let [_, heads, tokens, _] = q.dims();
        self.check("q", q.dims(), [shape.batch, heads, tokens, shape.head_dim])?;
        let dtypes = Dtypes::from(tensor::dtype("q", q.dtype())?).k(shape.dtype).v(shape.dtype);
        let problem = shape.problem(heads, tokens, QuerySequences::Uniform).dtypes(dtypes);
        let call = Call::of(problem, options)?;
        let bias = options.get_bias().map(|bias| self.resolve("bias", bias.clone()));
        let sinks = options.get_sinks().map(|sinks| sinks.clone().cast(DType::F32));
        let sinks = sinks.map(|sinks| self.resolve("sinks", sinks));
        let score = ScoreTensors::new(bias.transpose()?, sinks.transpose()?);
        let q = self.resolve("q", q)?;
        let o = forward::attend_cache(&self.context, &self.cache, q, &score, &call)?;
        Ok(Tensor::from_primitive::<Cube>(backend::wrap(o)))
    }

    /// What the cache looks like.
    pub const fn shape(&self) -> &CacheShape {
        self.cache.shape()
    }

    /// How many tokens each sequence has; in a ring, has had.
    pub fn lengths(&self) -> &[usize] {
        self.cache.length_bounds()
    }

    /// Goes on from the first `length` tokens of sequence `b`: 0 to reuse its place, fewer than there are to take back drafts
    /// that were rejected. A ring takes 0 alone.
    ///
    /// # Errors
    /// [`Error::Operand`] where there is no such sequence, or it can't have that many tokens.
    pub fn set_length(&mut self, b: usize, length: usize) -> Result<()> {
        let _alone = self.context.work();
        let mut encoder = self.context.encoder();
        self.cache.set_length(&mut encoder, b, length)?;
        self.context.session().queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Gives sequence `b` of a paged cache its blocks, from its first one on.
    ///
    /// # Errors
    /// [`Error::Operand`] where the cache has no blocks or no such sequence, or a block lies outside the pool.
    pub fn set_table(&mut self, b: usize, blocks: &[u32]) -> Result<()> {
        self.cache.set_table(self.context.session().queue(), b, blocks)
    }

    fn check(&self, name: &str, found: [usize; 4], expected: [usize; 4]) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let expected = format!("[batch, heads, tokens, dim] = {expected:?}, to fit the cache");
        Err(Error::operand(name, expected, format!("{found:?}")))
    }

    /// A tensor of the cache's device, computed.
    fn resolve<const D: usize>(&self, name: &str, tensor: Tensor<D>) -> Result<CubeTensor> {
        let device = tensor.device();
        check_device(name, &device, &self.device)?;
        match tensor.try_into_primitive::<Cube>() {
            Ok(tensor) => Ok(backend::resolve(tensor)),
            Err(_) => Err(Error::operand(
                name,
                "a tensor without autodiff, as caches have no gradients; call `inner()`",
                format!("one on {device:?}"),
            )),
        }
    }
}

/// k and v in one dense layout: as they lie, where that is one.
fn in_one_layout(k: CubeTensor, v: CubeTensor) -> (CubeTensor, CubeTensor, Layout) {
    let (k, v) = (tensor::in_rows(k), tensor::in_rows(v));
    let lie = |layout: Layout| {
        [&k, &v].into_iter().all(|tensor| strides(tensor) == layout.strides(dims(tensor)))
    };
    if lie(Layout::Bshd) {
        return (k, v, Layout::Bshd);
    }
    (into_contiguous(k), into_contiguous(v), Layout::Bhsd)
}
