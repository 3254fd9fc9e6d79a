//! One-shot calls: slices in, vectors out.

mod gradients;
mod uploaded;

use std::sync::Arc;

use crate::auxiliary::AuxData;
use crate::device::{self, DeviceOptions, scoped};
use crate::error::{Error, Result};
use crate::kernel::key::ForwardKernel;
use crate::kernel::pipeline::{KernelOptions, Kernels};
use crate::mask::tile::TileClass;
use crate::mask::{BlockIndexOptions, BlockIndices};
use crate::plan::attention::{AttentionBuffers, AttentionPlan, PlanOptions};
use crate::plan::block_index::{BlockIndexBuffers, BlockIndexPlan};
use crate::plan::choice::Choice;
use crate::plan::inspect::{InspectBuffers, InspectPlan, ScoreTensor};
use crate::plan::materialize::{MaskFormat, MaskPlan, MaskTensor};
use crate::plan::tiles::{TileClasses, TileOptions, TilePlan};
use crate::problem::{Inputs, Problem, Resolved};
use crate::readback;
use crate::tensor::elements::Element;
pub use gradients::Gradients;
pub use uploaded::Uploaded;

/// A device with its kernels, for calls that take slices and return vectors.
///
/// ```no_run
/// use wgpu_attention::{Session, Inputs, Mask, RunOptions, Problem, Shape};
/// let attention = Session::open_blocking(&Default::default())?;
/// let shape = Shape::new(1, 1, 3, 2);
/// let (q, k, v) = (vec![1.0; 6], vec![1.0; 6], vec![1.0, 1.0, 2.0, 2.0, 6.0, 6.0]);
/// let problem = Problem::new(shape).mask(Mask::causal());
/// let result = attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &RunOptions::default())?;
/// assert_eq!(result.o, [1.0, 1.0, 1.5, 1.5, 3.0, 3.0]); // the mean of what each token sees
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    queue: wgpu::Queue,
    kernels: Kernels,
}

/// What to compute besides o.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RunOptions {
    /// The logarithm of the softmax's denominator, per row.
    pub lse: bool,
    /// Tensors of `[batch, num_heads, seq_len_q, seq_len_kv]` for looking inside.
    pub tensors: Vec<ScoreTensor>,
    /// A kernel to use instead of the best one.
    pub kernel: Option<ForwardKernel>,
    /// In how many splits a decode kernel has the keys: see [`PlanOptions::num_splits`](field@PlanOptions::num_splits).
    pub num_splits: Option<usize>,
    /// Whether a sequence gets the same bits in every batch: see
    /// [`PlanOptions::batch_invariant`](field@PlanOptions::batch_invariant).
    pub batch_invariant: bool,
}

impl RunOptions {
    setters! {
        lse: bool,
        into tensors: Vec<ScoreTensor>,
        option kernel: ForwardKernel,
        option num_splits: usize,
        batch_invariant: bool,
    }

    /// The options of the forward pass's plan.
    fn plan(&self) -> PlanOptions {
        PlanOptions::default()
            .kernel(self.kernel)
            .num_splits(self.num_splits)
            .batch_invariant(self.batch_invariant)
    }
}

/// What was computed.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Output<T = f32> {
    /// `[batch, num_heads, seq_len_q, head_dim_v]` in the problem's layout; zeros in rows that keep no key
    pub o: Vec<T>,
    /// `[batch, num_heads, seq_len_q]`, natural logarithm; −∞ in rows that keep no key. Empty unless asked for.
    pub lse: Vec<f32>,
    /// What [`RunOptions::tensors`] asked for, in its order, each dense.
    pub tensors: Vec<Vec<f32>>,
}

impl Session {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where there's none, or none like that.
    pub async fn open(options: &DeviceOptions) -> Result<Self> {
        let adapter = device::adapter(&options.adapter).await?;
        if !options.matrices {
            return Self::from_adapter(&adapter).await;
        }
        let (device, queue) = device::open(&adapter, true).await?;
        let matrices = adapter.cooperative_matrix_properties();
        let options = KernelOptions::default().matrices(matrices);
        Ok(Self { kernels: Kernels::new(&device, &options), queue })
    }

    /// [`Session::open`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_blocking(options: &DeviceOptions) -> Result<Self> {
        pollster::block_on(Self::open(options))
    }

    /// Opens one of [`crate::device::adapters`].
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where it can't be opened.
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let (device, queue) = device::open(adapter, false).await?;
        Ok(Self::from_device(&device, &queue))
    }

    /// Works on a device that is open already.
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self { queue: queue.clone(), kernels: Kernels::new(device, &Default::default()) }
    }

    /// Works with kernels that are there already, perhaps with options of their own.
    pub fn from_kernels(kernels: &Kernels, queue: &wgpu::Queue) -> Self {
        Self { queue: queue.clone(), kernels: kernels.clone() }
    }

    /// The kernels, for plans on the same device.
    pub const fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        self.kernels.device()
    }

    /// The queue.
    pub const fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Uploads the operands, computes, reads back.
    ///
    /// On native backends the calling thread waits for the device.
    ///
    /// # Errors
    /// [`Error::Operand`] where an operand doesn't fit; otherwise what the device reported.
    pub async fn run(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        outputs: &RunOptions,
    ) -> Result<Output> {
        self.run_as(problem, inputs, outputs).await
    }

    /// [`Session::run`] with o in a type of the caller's choice: as it is stored, where the problem stores it in this type.
    ///
    /// ```no_run
    /// use wgpu_attention::{Session, Dtype, Inputs, Output, Problem, Shape, half::f16};
    /// let attention = Session::open_blocking(&Default::default())?;
    /// let problem = Problem::new(Shape::new(1, 1, 2, 4)).dtypes(Dtype::F16);
    /// let x = [f16::ONE; 8];
    /// let inputs = Inputs::new(&x, &x, &x);
    /// let result: Output<f16> = attention.run_as_blocking(&problem, &inputs, &Default::default())?;
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn run_as<T: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        outputs: &RunOptions,
    ) -> Result<Output<T>> {
        let problem = Resolved::of(problem, inputs)?;
        let choice = Choice::new(&self.kernels, &problem, &outputs.plan())?;
        let plan = AttentionPlan::of(&self.kernels, &problem, choice)?;
        let uploaded = Uploaded::new(self, problem, inputs)?;
        let problem = &uploaded.problem;
        // Rows of no sequence keep nothing, and kernels leave them alone.
        let lse = vec![f32::NEG_INFINITY; problem.lse_len];
        let lse = self.filled("lse", bytemuck::cast_slice(&lse))?;
        let buffers = AttentionBuffers { lse: Some(lse.slice(..)), ..uploaded.buffers() };
        self.submit(plan.submissions(), |encoder, submission| {
            plan.encode_submission(encoder, &buffers, submission)
        })?;
        let o = self.download(&uploaded.o).await?;
        let mut output = Output { o, lse: Vec::new(), tensors: Vec::new() };
        if outputs.lse {
            output.lse = readback::read(self.device(), &self.queue, &lse, problem.lse_len).await?;
        }
        if outputs.tensors.is_empty() {
            return Ok(output);
        }
        let inspect = InspectPlan::of(&self.kernels, problem)?;
        let cells = inspect.cells();
        let tensor = self.allocate("scores", cells)?;
        let AttentionBuffers { q, k, aux, .. } = buffers;
        for &kind in &outputs.tensors {
            let buffers = InspectBuffers { q, k, aux: aux.clone(), output: tensor.slice(..) };
            self.submit(inspect.submissions(), |encoder, submission| {
                inspect.encode_submission(encoder, kind, &buffers, submission)
            })?;
            let values = readback::read(self.device(), &self.queue, &tensor, cells).await?;
            output.tensors.push(values);
        }
        Ok(output)
    }

    /// [`Session::run`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn run_blocking(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        outputs: &RunOptions,
    ) -> Result<Output> {
        pollster::block_on(self.run(problem, inputs, outputs))
    }

    /// [`Session::run_as`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn run_as_blocking<T: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        outputs: &RunOptions,
    ) -> Result<Output<T>> {
        pollster::block_on(self.run_as(problem, inputs, outputs))
    }

    /// The problem's mask, made on the device.
    ///
    /// # Errors
    /// As [`Session::run`]; and for [`MaskFormat::Bits`], which [`MaskPlan`] writes, as these aren't f32.
    pub async fn materialize(
        &self,
        problem: &Problem,
        data: &AuxData,
        format: MaskFormat,
    ) -> Result<MaskTensor> {
        let problem = self.mask_of(problem, data)?;
        if format == MaskFormat::Bits {
            return Err(Error::operand("format", "Keep or Additive, which are f32", "Bits"));
        }
        let plan = MaskPlan::of(&self.kernels, &problem, format)?;
        let dims = plan.dims();
        let elements = crate::tensor::shape::elements("mask", &dims)?;
        let uploads = self.upload_aux(&problem, data)?;
        let output = self.allocate("mask", elements)?;
        self.submit(plan.submissions(), |encoder, submission| {
            plan.encode_submission(encoder, &uploads.buffers(), output.slice(..), submission)
        })?;
        let values = readback::read(self.device(), &self.queue, &output, elements).await?;
        Ok(MaskTensor { dims, values })
    }

    /// [`Session::materialize`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn materialize_blocking(
        &self,
        problem: &Problem,
        data: &AuxData,
        format: MaskFormat,
    ) -> Result<MaskTensor> {
        pollster::block_on(self.materialize(problem, data, format))
    }

    /// The classes of the mask's tiles: of the kernel that serves the problem, unless the options say otherwise.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn tile_classes(
        &self,
        problem: &Problem,
        data: &AuxData,
        options: &TileOptions,
    ) -> Result<TileClasses> {
        let problem = self.mask_of(problem, data)?;
        let plan = TilePlan::of(&self.kernels, &problem, options)?;
        let elements = crate::tensor::shape::elements("tiles", &plan.dims())?;
        let uploads = self.upload_aux(&problem, data)?;
        let output = self.allocate("tiles", elements)?;
        self.submit(plan.submissions(), |encoder, submission| {
            plan.encode_submission(encoder, &uploads.buffers(), output.slice(..), submission)
        })?;
        let words = readback::read::<u32>(self.device(), &self.queue, &output, elements).await?;
        let classes = words.into_iter().map(TileClass::from_word).collect();
        Ok(TileClasses { grid: plan.grid(), dims: plan.dims(), classes })
    }

    /// [`Session::tile_classes`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn tile_classes_blocking(
        &self,
        problem: &Problem,
        data: &AuxData,
        options: &TileOptions,
    ) -> Result<TileClasses> {
        pollster::block_on(self.tile_classes(problem, data, options))
    }

    /// The lists of [`crate::Mask::block_sparse`] that [`BlockIndexPlan`] picks from q and k, for
    /// [`AuxData::block_indices`].
    ///
    /// ```no_run
    /// use wgpu_attention::mask::BlockIndexOptions;
    /// use wgpu_attention::{AuxData, Inputs, Mask, Problem, Session, Shape};
    /// let attention = Session::open_blocking(&Default::default())?;
    /// let problem = Problem::new(Shape::new(1, 2, 256, 32)).mask(Mask::causal() & Mask::block_sparse(32));
    /// let x = vec![0.5; 2 * 256 * 32];
    /// let inputs = Inputs::new(&x, &x, &x);
    /// let options = BlockIndexOptions::new(32, 3).causal(true).keep_own(true);
    /// let lists = attention.block_indices_blocking(&problem, &inputs, &options)?;
    /// let data = AuxData::new().block_indices(lists.dims, lists.blocks);
    /// let result = attention.run_blocking(&problem, &inputs.aux(&data), &Default::default())?;
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::run`] and [`BlockIndexPlan::new`]; the mask's data need not be there.
    pub async fn block_indices(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        options: &BlockIndexOptions,
    ) -> Result<BlockIndices> {
        let problem = Arc::new(Resolved::new(problem.rows_alone())?);
        inputs.check(&problem)?;
        let plan = BlockIndexPlan::of(&self.kernels, &problem, options)?;
        let dims = plan.dims();
        let words = dims.iter().product();
        let q = self.filled("q", &inputs.q.encode(problem.dtypes.q))?;
        let k = self.filled("k", &inputs.k.encode(problem.dtypes.k))?;
        let uploads = self.upload_aux(&problem, inputs.aux)?;
        let lists = self.allocate("block_indices", words)?;
        let buffers = BlockIndexBuffers {
            q: q.slice(..),
            k: k.slice(..),
            aux: uploads.buffers(),
            block_indices: lists.slice(..),
        };
        self.submit(plan.submissions(), |encoder, submission| {
            plan.encode_submission(encoder, &buffers, submission)
        })?;
        let blocks = readback::read(self.device(), &self.queue, &lists, words).await?;
        Ok(BlockIndices { dims, blocks })
    }

    /// [`Session::block_indices`], waiting for them. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn block_indices_blocking(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        options: &BlockIndexOptions,
    ) -> Result<BlockIndices> {
        pollster::block_on(self.block_indices(problem, inputs, options))
    }

    /// Reads `elements` f32 from the start of a buffer with `BufferUsages::COPY_SRC`, in pieces of bounded size.
    ///
    /// # Errors
    /// [`Error::Operand`] where the buffer is smaller or lacks the usage; otherwise what the device reported.
    pub async fn read(&self, source: &wgpu::Buffer, elements: usize) -> Result<Vec<f32>> {
        crate::plan::buffers::Operand::new("source", source.slice(..), elements)
            .check(wgpu::BufferUsages::COPY_SRC, wgpu::COPY_BUFFER_ALIGNMENT)?;
        readback::read(self.device(), &self.queue, source, elements).await
    }

    /// [`Session::read`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self, source: &wgpu::Buffer, elements: usize) -> Result<Vec<f32>> {
        pollster::block_on(self.read(source, elements))
    }

    /// A problem as far as its mask goes, checked, with the mask's data. The scores play no part, so their data isn't asked for;
    /// what is wrong with them is an error all the same.
    fn mask_of(&self, problem: &Problem, data: &AuxData) -> Result<Resolved> {
        let problem = Resolved::new(problem.clone().aux_shape(data.shape()))?.mask_alone()?;
        data.check(&problem.aux_specs(), &problem.shape)?;
        Ok(problem)
    }

    /// Submits work one submission after the other, so that none takes longer than the device's driver has patience for.
    pub(crate) fn submit(
        &self,
        submissions: usize,
        record: impl Fn(&mut wgpu::CommandEncoder, usize) -> Result<()>,
    ) -> Result<()> {
        for submission in 0..submissions {
            let submitted: Result<()> = scoped(self.device(), "computing", || {
                let descriptor = wgpu::CommandEncoderDescriptor { label: Some("attention") };
                let mut encoder = self.device().create_command_encoder(&descriptor);
                record(&mut encoder, submission)?;
                self.queue.submit([encoder.finish()]);
                Ok(())
            })?;
            submitted?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KvCache;
    use crate::cache::append::{AppendPlan, NewTokens};
    use crate::cache::rotary::Rotary;
    use crate::cache::shape::CacheShape;
    use crate::device::faults::with_failing_allocation;
    use crate::kernel::key::Pairing;
    use crate::mask::Mask;
    use crate::plan::backward::BackwardOptions;
    use crate::plan::merge::MergePlan;
    use crate::problem::{CHECKS, Upstream};
    use crate::score::ScoreModifiers;
    use crate::tensor::shape::Shape;

    /// Runs `work` once for each of its allocations, which fails, and once more: an error then, and no harm afterwards.
    fn every_allocation_fails_once<T>(what: &str, work: impl Fn() -> Result<T>) -> usize {
        let (first, count) = with_failing_allocation(None, &work);
        assert!(first.is_ok(), "{what}: {:?}", first.err());
        assert!(count > 0, "{what} allocates nothing");
        for nth in 0..count {
            let (result, _) = with_failing_allocation(Some(nth), &work);
            match result {
                Err(Error::OutOfMemory { .. }) => {}
                Err(other) => panic!("{what}, allocation {nth} of {count}: {other}"),
                Ok(_) => panic!("{what}, allocation {nth} of {count}: nobody noticed"),
            }
        }
        let (last, again) = with_failing_allocation(None, &work);
        assert!(last.is_ok() && again == count, "{what} afterwards: {:?}", last.err());
        count
    }

    /// Whatever a call computes, it checks its problem once.
    #[test]
    fn a_call_checks_its_problem_once() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let session = Session::from_device(&device, &queue);
        let shape = Shape::new(1, 2, 9, 20);
        let problem = Problem::new(shape).mask(Mask::causal());
        let values = vec![0.5; shape.q_len().unwrap()];
        let inputs = Inputs::new(&values, &values, &values);
        let checks = |call: &dyn Fn()| {
            let before = CHECKS.get();
            call();
            CHECKS.get() - before
        };
        let options = RunOptions::default().lse(true).tensors(ScoreTensor::ALL);
        let run = || drop(session.run_blocking(&problem, &inputs, &options).unwrap());
        let upstream = Upstream::new(&values);
        let gradients = || {
            let options = BackwardOptions::default();
            drop(session.gradients_blocking(&problem, &inputs, &upstream, &options).unwrap());
        };
        assert_eq!([checks(&run), checks(&gradients)], [1, 1]);
    }

    /// On wgpu's noop backend; what a failed allocation leaves is the same invalid buffer everywhere.
    #[test]
    fn out_of_memory_at_every_allocation() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let attention = Session::from_device(&device, &queue);
        let kernels = attention.kernels();
        let shape = Shape::new(2, 2, 9, 20);
        let mask: Mask = "documents & self_only_if_alone(causal)".parse().unwrap();
        let score = ScoreModifiers::default().bias(true).sinks(true);
        let problem = Problem::new(shape).mask(mask).score(score);
        let values = vec![0.5; shape.q_len().unwrap()];
        let data =
            AuxData::new().document_ids([1; 18]).bias([1, 1, 9, 9], [0.0; 81]).sinks([0.0; 2]);
        let inputs = Inputs::new(&values, &values, &values).aux(&data);
        let mut count = 0;
        let outputs = RunOptions::default().lse(true).tensors(vec![ScoreTensor::Weights]);
        count += every_allocation_fails_once("a forward pass", || {
            attention.run_blocking(&problem, &inputs, &outputs)
        });
        let decode = Problem::new(Shape::new(1, 1, 1, 20).seq_len_kv(700));
        let long = vec![0.5; 700 * 20];
        let inputs_of_decode = Inputs::new(&values[..20], &long, &long);
        let splits = RunOptions::default().num_splits(3);
        count += every_allocation_fails_once("a decode pass", || {
            attention.run_blocking(&decode, &inputs_of_decode, &splits)
        });
        let upstream = Upstream::new(&values);
        count += every_allocation_fails_once("gradients", || {
            attention.gradients_blocking(&problem, &inputs, &upstream, &Default::default())
        });
        count += every_allocation_fails_once("a mask", || {
            attention.materialize_blocking(&problem, &data, MaskFormat::Keep)
        });
        count += every_allocation_fails_once("tile classes", || {
            attention.tile_classes_blocking(&problem, &data, &Default::default())
        });
        count += every_allocation_fails_once("a merge", || MergePlan::new(kernels, &problem, 2));
        let cache = CacheShape::new(2, 2, 40, 20).paged(16, 9);
        count += every_allocation_fails_once("a cache", || KvCache::new(kernels, &cache));
        let tokens = NewTokens::new(3).rotary(Rotary::new(20, 1e4, Pairing::Half)).query_heads(4);
        count +=
            every_allocation_fails_once("an append", || AppendPlan::new(kernels, &cache, &tokens));
        assert!(count > 50, "{count} allocations");
        println!("{count} allocations failed, one by one");
    }
}
