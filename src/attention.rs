//! One-shot calls: slices in, vectors out.

use std::sync::Arc;

use crate::auxiliary::{MaskBuffers, MaskData, MaskInput};
use crate::device::{self, DeviceChoice, scoped};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::key::ForwardKernel;
use crate::kernel::pipeline::{KernelOptions, Kernels};
use crate::mask::tile::{TileClass, TileGrid};
use crate::plan::attention::{AttentionBuffers, AttentionPlan};
use crate::plan::backward::{BackwardBuffers, BackwardOptions, BackwardPlan};
use crate::plan::inspect::{InspectBuffers, InspectPlan, ScoreTensor};
use crate::plan::materialize::{MaskFormat, MaskPlan};
use crate::plan::tiles::TilePlan;
use crate::problem::{Inputs, OutputGradients, Problem};
use crate::readback;

/// A device with its kernels, for calls that take slices and return vectors.
///
/// ```no_run
/// use wgpu_attention::{Attention, Inputs, Mask, Outputs, Problem, Shape};
/// let attention = Attention::open_blocking(&Default::default())?;
/// let shape = Shape::new(1, 1, 3, 2);
/// let (q, k, v) = (vec![1.0; 6], vec![1.0; 6], vec![1.0, 1.0, 2.0, 2.0, 6.0, 6.0]);
/// let problem = Problem::new(shape).mask(Mask::causal());
/// let result = attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &Outputs::default())?;
/// assert_eq!(result.o, [1.0, 1.0, 1.5, 1.5, 3.0, 3.0]); // the mean of what each token sees
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Attention {
    queue: wgpu::Queue,
    kernels: Kernels,
}

/// What to compute besides o.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outputs {
    /// The logarithm of the softmax's denominator, per row.
    pub lse: bool,
    /// Tensors of `[batch, num_heads, seq_len_q, seq_len_kv]` for looking inside.
    pub tensors: Vec<ScoreTensor>,
    /// A kernel to use instead of the best one.
    pub kernel: Option<ForwardKernel>,
    /// In how many parts a decode kernel has the keys, instead of as many as suit the device.
    pub num_splits: Option<usize>,
}

/// What was computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// `[batch, num_heads, seq_len_q, head_dim_v]` in the problem's layout; zeros in rows that keep no key
    pub o: Vec<f32>,
    /// `[batch, num_heads, seq_len_q]`, natural logarithm; −∞ in rows that keep no key. Empty unless asked for.
    pub lse: Vec<f32>,
    /// What [`Outputs::tensors`] asked for, in its order, each dense.
    pub tensors: Vec<Vec<f32>>,
}

/// The gradients of a loss with respect to the operands.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// As q, or with the strides of [`BackwardOptions`]
    pub dq: Vec<f32>,
    /// As k
    pub dk: Vec<f32>,
    /// As v
    pub dv: Vec<f32>,
    /// As the bias, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`; empty without one
    pub dbias: Vec<f32>,
    /// `[num_heads]`; empty without sinks
    pub dsinks: Vec<f32>,
}

/// A mask as a tensor on the CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskTensor {
    /// `[batch|1, num_heads|1, seq_len_q, seq_len_kv]`
    pub dims: [usize; 4],
    /// The elements.
    pub values: Vec<f32>,
}

/// The classes of a mask's tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileClasses {
    /// The tiles' size.
    pub grid: TileGrid,
    /// `[batch|1, num_heads|1, tiles along the queries, tiles along the keys]`
    pub dims: [usize; 4],
    /// The elements.
    pub classes: Vec<TileClass>,
}

impl Attention {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where there's none, or none like that.
    pub async fn open(choice: &DeviceChoice) -> Result<Self> {
        let adapter = device::adapter(choice).await?;
        if !choice.with_matrices() {
            return Self::from_adapter(&adapter).await;
        }
        let (device, queue) = device::open(&adapter, true).await?;
        let matrices = adapter.cooperative_matrix_properties();
        let options = KernelOptions { matrices, ..KernelOptions::default() };
        Ok(Self { kernels: Kernels::with_options(&device, options), queue })
    }

    /// [`Attention::open`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_blocking(choice: &DeviceChoice) -> Result<Self> {
        pollster::block_on(Self::open(choice))
    }

    /// Opens one of [`crate::adapters`].
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where it can't be opened.
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let (device, queue) = device::open(adapter, false).await?;
        Ok(Self::from_device(&device, &queue))
    }

    /// Works on a device that is open already.
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self { queue: queue.clone(), kernels: Kernels::new(device) }
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
        outputs: &Outputs,
    ) -> Result<Output> {
        let problem = problem.clone().data_shape(inputs.mask.shape());
        problem.validate()?;
        let shape = &problem.shape;
        inputs.check(&problem)?;
        let strides = problem.strides();

        let (kernel, splits) = (outputs.kernel, outputs.num_splits);
        let plan = AttentionPlan::with_splits(&self.kernels, &problem, kernel, splits)?;
        let q = self.upload("q", &problem.dtypes.q.encode(inputs.q))?;
        let k = self.upload("k", &problem.dtypes.k.encode(inputs.k))?;
        let v = self.upload("v", &problem.dtypes.v.encode(inputs.v))?;
        let uploads = self.upload_data(&problem, inputs.mask)?;
        let o_len = strides.o.span("o", shape.o_dims())?;
        let o_words = (o_len * problem.dtypes.o.size()).div_ceil(4);
        let o = self.allocate("o", o_words)?;
        // Rows of no sequence keep nothing, and kernels leave them alone.
        let lse = vec![f32::NEG_INFINITY; shape.lse_len()?];
        let lse = self.upload("lse", bytemuck::cast_slice(&lse))?;
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            mask: uploads.buffers(),
            o: o.slice(..),
            lse: Some(lse.slice(..)),
        };
        self.submit(plan.pieces(), |encoder, piece| plan.encode_piece(encoder, &buffers, piece))?;
        let mut output = Output {
            o: problem
                .dtypes
                .o
                .decode(&readback::read(self.device(), &self.queue, &o, o_words).await?, o_len),
            lse: Vec::new(),
            tensors: Vec::new(),
        };
        if outputs.lse {
            output.lse = readback::read(self.device(), &self.queue, &lse, shape.lse_len()?).await?;
        }
        if outputs.tensors.is_empty() {
            return Ok(output);
        }
        let cells = shape.scores_len()?;
        let inspect = InspectPlan::new(&self.kernels, &problem)?;
        let tensor = self.allocate("scores", cells)?;
        for &kind in &outputs.tensors {
            let buffers = InspectBuffers {
                q: q.slice(..),
                k: k.slice(..),
                mask: uploads.buffers(),
                output: tensor.slice(..),
            };
            self.submit(inspect.pieces(), |encoder, piece| {
                inspect.encode_piece(encoder, kind, &buffers, piece)
            })?;
            let values = readback::read(self.device(), &self.queue, &tensor, cells).await?;
            output.tensors.push(values);
        }
        Ok(output)
    }

    /// [`Attention::run`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn run_blocking(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        outputs: &Outputs,
    ) -> Result<Output> {
        pollster::block_on(self.run(problem, inputs, outputs))
    }

    /// Uploads the operands, computes forward and backward, reads every gradient back.
    ///
    /// # Errors
    /// As [`Attention::run`] and [`BackwardPlan::with_options`].
    pub async fn gradients(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &OutputGradients<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients> {
        let problem = problem.clone().data_shape(inputs.mask.shape());
        problem.validate()?;
        inputs.check(&problem)?;
        let (shape, dtypes) = (&problem.shape, options.dtypes);
        let strides = options.strides(&problem)?;
        upstream.check(&problem, strides.dout)?;

        let forward = AttentionPlan::in_order(&self.kernels, &problem)?;
        let backward = BackwardPlan::with_options(&self.kernels, &problem, options)?;
        let q = self.upload("q", &problem.dtypes.q.encode(inputs.q))?;
        let k = self.upload("k", &problem.dtypes.k.encode(inputs.k))?;
        let v = self.upload("v", &problem.dtypes.v.encode(inputs.v))?;
        let dout = self.upload("dout", &problem.dtypes.o.encode(upstream.dout))?;
        let dlse = (upstream.dlse)
            .map(|dlse| self.upload("dlse", bytemuck::cast_slice(dlse)))
            .transpose()?;
        let data = self.upload_data(&problem, inputs.mask)?;
        let o_len = problem.strides().o.span("o", shape.o_dims())?;
        let o = self.tensor("o", o_len, problem.dtypes.o)?;
        let lse = self.allocate("lse", shape.lse_len()?)?;
        let dq = self.tensor("dq", strides.dq.span("dq", shape.q_dims())?, dtypes.dq)?;
        let dk = self.tensor("dk", strides.dk.span("dk", shape.k_dims())?, dtypes.dk)?;
        let dv = self.tensor("dv", strides.dv.span("dv", shape.v_dims())?, dtypes.dv)?;
        let dbias = match problem.score.bias {
            true => {
                let elements = problem.data.bias.elements(shape)?;
                Some(self.tensor("dbias", elements, dtypes.dbias)?)
            }
            false => None,
        };
        let dsinks = match problem.score.sinks {
            true => Some(self.tensor("dsinks", shape.num_heads, Dtype::F32)?),
            false => None,
        };
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            mask: data.buffers(),
            o: o.buffer.slice(..),
            lse: Some(lse.slice(..)),
        };
        self.submit(forward.pieces(), |encoder, piece| {
            forward.encode_piece(encoder, &buffers, piece)
        })?;
        let AttentionBuffers { q, k, v, mask, o: o_slice, .. } = buffers;
        let buffers = BackwardBuffers {
            dlse: dlse.as_ref().map(|dlse| dlse.slice(..)),
            mask,
            dq: Some(dq.buffer.slice(..)),
            dk: Some(dk.buffer.slice(..)),
            dv: Some(dv.buffer.slice(..)),
            dbias: dbias.as_ref().map(|tensor| tensor.buffer.slice(..)),
            dsinks: dsinks.as_ref().map(|tensor| tensor.buffer.slice(..)),
            ..BackwardBuffers::new(q, k, v, o_slice, lse.slice(..), dout.slice(..))
        };
        self.submit(backward.pieces(), |encoder, piece| {
            backward.encode_piece(encoder, &buffers, piece)
        })?;
        let optional = async |tensor: Option<Tensor>| match tensor {
            Some(tensor) => self.download(&tensor).await,
            None => Ok(Vec::new()),
        };
        Ok(Gradients {
            dq: self.download(&dq).await?,
            dk: self.download(&dk).await?,
            dv: self.download(&dv).await?,
            dbias: optional(dbias).await?,
            dsinks: optional(dsinks).await?,
        })
    }

    /// [`Attention::gradients`], waiting for them. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn gradients_blocking(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_>,
        upstream: &OutputGradients<'_>,
        options: &BackwardOptions,
    ) -> Result<Gradients> {
        pollster::block_on(self.gradients(problem, inputs, upstream, options))
    }

    /// The problem's mask, made on the device.
    ///
    /// # Errors
    /// As [`Attention::run`]; and for [`MaskFormat::Bits`], which [`MaskPlan`] writes, as these aren't f32.
    pub async fn materialize(
        &self,
        problem: &Problem,
        data: &MaskData,
        format: MaskFormat,
    ) -> Result<MaskTensor> {
        let problem = problem.clone().data_shape(data.shape());
        problem.validate()?;
        data.check(&problem.mask_alone().tensors(), &problem.shape)?;
        if format == MaskFormat::Bits {
            return Err(Error::operand("format", "Keep or Additive, which are f32", "Bits"));
        }
        let plan = MaskPlan::new(&self.kernels, &problem, format)?;
        let dims = plan.dims();
        let elements = crate::shape::elements("mask", &dims)?;
        let uploads = self.upload_data(&problem.mask_alone(), data)?;
        let output = self.allocate("mask", elements)?;
        self.submit(plan.pieces(), |encoder, piece| {
            plan.encode_piece(encoder, &uploads.buffers(), output.slice(..), piece)
        })?;
        let values = readback::read(self.device(), &self.queue, &output, elements).await?;
        Ok(MaskTensor { dims, values })
    }

    /// [`Attention::materialize`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn materialize_blocking(
        &self,
        problem: &Problem,
        data: &MaskData,
        format: MaskFormat,
    ) -> Result<MaskTensor> {
        pollster::block_on(self.materialize(problem, data, format))
    }

    /// The classes of the mask's tiles for tiles of `grid`, or of the kernel that serves the problem for `None`.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub async fn tile_classes(
        &self,
        problem: &Problem,
        data: &MaskData,
        grid: Option<TileGrid>,
    ) -> Result<TileClasses> {
        let problem = problem.clone().data_shape(data.shape());
        problem.validate()?;
        data.check(&problem.mask_alone().tensors(), &problem.shape)?;
        let plan = TilePlan::new(&self.kernels, &problem, grid)?;
        let elements = crate::shape::elements("tiles", &plan.dims())?;
        let uploads = self.upload_data(&problem.mask_alone(), data)?;
        let output = self.allocate("tiles", elements)?;
        self.submit(plan.pieces(), |encoder, piece| {
            plan.encode_piece(encoder, &uploads.buffers(), output.slice(..), piece)
        })?;
        let words = readback::read::<u32>(self.device(), &self.queue, &output, elements).await?;
        let classes = words.into_iter().map(TileClass::from_word).collect();
        Ok(TileClasses { grid: plan.grid(), dims: plan.dims(), classes })
    }

    /// [`Attention::tile_classes`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn tile_classes_blocking(
        &self,
        problem: &Problem,
        data: &MaskData,
        grid: Option<TileGrid>,
    ) -> Result<TileClasses> {
        pollster::block_on(self.tile_classes(problem, data, grid))
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

    /// [`Attention::read`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self, source: &wgpu::Buffer, elements: usize) -> Result<Vec<f32>> {
        pollster::block_on(self.read(source, elements))
    }

    pub(crate) fn upload_data(&self, problem: &Problem, data: &MaskData) -> Result<Uploads> {
        let mut uploads = Uploads::default();
        for tensor in problem.tensors() {
            let (input, words) = (tensor.input, data.device_words(&tensor));
            let bytes = match input {
                MaskInput::Bias => problem.dtypes.bias.encode(bytemuck::cast_slice(&words)),
                _ => bytemuck::cast_slice(&words).into(),
            };
            uploads.known.push((input, self.upload(input.base(), &bytes)?));
        }
        for buffer in problem.customs().into_iter().flat_map(|(custom, _)| custom.buffers()) {
            let words = data.custom_words(buffer)?;
            let upload = self.upload("custom", bytemuck::cast_slice(words))?;
            uploads.custom.push((Arc::clone(&buffer.name), upload));
        }
        Ok(uploads)
    }

    pub(crate) fn upload(&self, label: &'static str, contents: &[u8]) -> Result<wgpu::Buffer> {
        // A buffer can't be empty: a tensor without elements gets a word that nobody reads.
        let contents = if contents.is_empty() { &[0; 4] } else { contents };
        device::filled_buffer(
            self.device(),
            label,
            contents.len() as u64,
            contents,
            wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        )
    }

    pub(crate) fn allocate(&self, label: &'static str, elements: usize) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        device::buffer(self.device(), label, elements.max(1) as u64 * 4, usage)
    }

    /// A buffer for so many elements of a type.
    fn tensor(&self, label: &'static str, elements: usize, dtype: Dtype) -> Result<Tensor> {
        let words = (elements * dtype.size()).div_ceil(4);
        Ok(Tensor { buffer: self.allocate(label, words)?, elements, words, dtype })
    }

    async fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let words =
            readback::read(self.device(), &self.queue, &tensor.buffer, tensor.words).await?;
        Ok(tensor.dtype.decode(&words, tensor.elements))
    }

    /// Submits pieces of work one by one, so that none takes longer than the device's driver has patience for.
    pub(crate) fn submit(
        &self,
        pieces: usize,
        record: impl Fn(&mut wgpu::CommandEncoder, usize) -> Result<()>,
    ) -> Result<()> {
        for piece in 0..pieces {
            let submitted: Result<()> = scoped(self.device(), "computing", || {
                let descriptor = wgpu::CommandEncoderDescriptor { label: Some("attention") };
                let mut encoder = self.device().create_command_encoder(&descriptor);
                record(&mut encoder, piece)?;
                self.queue.submit([encoder.finish()]);
                Ok(())
            })?;
            submitted?;
        }
        Ok(())
    }
}

/// An output of one call, on the device.
struct Tensor {
    buffer: wgpu::Buffer,
    elements: usize,
    words: usize,
    dtype: Dtype,
}

/// The data of one call, on the device.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    known: Vec<(MaskInput, wgpu::Buffer)>,
    custom: Vec<(Arc<str>, wgpu::Buffer)>,
}

impl Uploads {
    pub(crate) fn buffers(&self) -> MaskBuffers<'_> {
        let known = self.known.iter().fold(MaskBuffers::new(), |buffers, (input, buffer)| {
            buffers.with(*input, buffer.slice(..))
        });
        (self.custom.iter())
            .fold(known, |buffers, (name, buffer)| buffers.with_custom(name, buffer.slice(..)))
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
    use crate::plan::merge::MergePlan;
    use crate::score::Score;
    use crate::shape::Shape;

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

    /// On wgpu's noop backend; what a failed allocation leaves is the same invalid buffer everywhere.
    #[test]
    fn out_of_memory_at_every_allocation() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let attention = Attention::from_device(&device, &queue);
        let kernels = attention.kernels();
        let shape = Shape::new(2, 2, 9, 20);
        let mask: Mask = "documents & self_only_if_alone(causal)".parse().unwrap();
        let score = Score { bias: true, sinks: true, ..Score::default() };
        let problem = Problem::new(shape).mask(mask).score(score);
        let values = vec![0.5; shape.q_len().unwrap()];
        let data =
            MaskData::new().document_ids([1; 18]).bias([1, 1, 9, 9], [0.0; 81]).sinks([0.0; 2]);
        let inputs = Inputs::new(&values, &values, &values).mask(&data);
        let mut count = 0;
        let outputs =
            Outputs { lse: true, tensors: vec![ScoreTensor::Weights], ..Outputs::default() };
        count += every_allocation_fails_once("a forward pass", || {
            attention.run_blocking(&problem, &inputs, &outputs)
        });
        let decode = Problem::new(Shape::new(1, 1, 1, 20).seq_kv(700));
        let long = vec![0.5; 700 * 20];
        let inputs_of_decode = Inputs::new(&values[..20], &long, &long);
        let splits = Outputs { num_splits: Some(3), ..Outputs::default() };
        count += every_allocation_fails_once("a decode pass", || {
            attention.run_blocking(&decode, &inputs_of_decode, &splits)
        });
        let upstream = OutputGradients::new(&values);
        count += every_allocation_fails_once("gradients", || {
            attention.gradients_blocking(&problem, &inputs, &upstream, &Default::default())
        });
        count += every_allocation_fails_once("a mask", || {
            attention.materialize_blocking(&problem, &data, MaskFormat::Keep)
        });
        count += every_allocation_fails_once("tile classes", || {
            attention.tile_classes_blocking(&problem, &data, None)
        });
        count += every_allocation_fails_once("a merge", || MergePlan::new(kernels, &problem, 2));
        let cache = CacheShape::new(2, 2, 40, 20).paged(16, 9);
        count += every_allocation_fails_once("a cache", || KvCache::new(kernels, &cache));
        let tokens = NewTokens::new(3).rotary(Rotary::new(20, 1e4, Pairing::Half), 4);
        count +=
            every_allocation_fails_once("an append", || AppendPlan::new(kernels, &cache, &tokens));
        assert!(count > 50, "{count} allocations");
        println!("{count} allocations failed, one by one");
    }
}
