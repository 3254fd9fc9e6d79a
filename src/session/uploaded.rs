//! From slices to buffers of the device, and back.

use std::sync::Arc;

use super::Session;
use crate::auxiliary::{AuxBuffers, AuxData, AuxTensor};
use crate::device;
use crate::error::Result;
use crate::plan::attention::AttentionBuffers;
use crate::problem::{Inputs, Placed, Problem, Resolved};
use crate::readback;
use crate::tensor::dtype::Dtype;
use crate::tensor::elements::{self, Element};

/// The operands of a problem on the device, with a buffer for o: what a plan is encoded over, once or many times.
///
/// ```no_run
/// use wgpu_attention::{AttentionPlan, Inputs, Problem, Session, Shape};
/// let session = Session::open_blocking(&Default::default())?;
/// let problem = Problem::new(Shape::new(1, 1, 2, 4));
/// let uploaded = session.upload(&problem, &Inputs::new(&[0.5; 8], &[0.5; 8], &[0.5; 8]))?;
/// let plan = AttentionPlan::new(session.kernels(), uploaded.problem(), &Default::default())?;
/// let mut encoder = session.device().create_command_encoder(&Default::default());
/// plan.encode(&mut encoder, &uploaded.buffers())?;
/// session.queue().submit([encoder.finish()]);
/// let o: Vec<f32> = session.read_o_blocking(&uploaded)?;
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct Uploaded {
    pub(super) problem: Arc<Resolved>,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    aux: AuxUploads,
    pub(super) o: Tensor,
}

impl Uploaded {
    /// `inputs` were checked: [`Resolved::of`].
    pub(super) fn new(
        session: &Session,
        problem: Arc<Resolved>,
        inputs: &Inputs<'_>,
    ) -> Result<Self> {
        let dtypes = problem.dtypes;
        Ok(Self {
            q: session.filled("q", &inputs.q.encode(dtypes.q))?,
            k: session.filled("k", &inputs.k.encode(dtypes.k))?,
            v: session.filled("v", &inputs.v.encode(dtypes.v))?,
            aux: session.upload_aux(&problem, inputs.aux)?,
            o: session.tensor("o", &problem.o, dtypes.o)?,
            problem,
        })
    }

    /// The problem, which knows the sizes of its auxiliary tensors.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The buffers, for [`crate::AttentionPlan::encode`]; without one for lse.
    pub fn buffers(&self) -> AttentionBuffers<'_> {
        AttentionBuffers {
            q: self.q.slice(..),
            k: self.k.slice(..),
            v: self.v.slice(..),
            aux: self.aux.buffers(),
            o: self.o.buffer.slice(..),
            lse: None,
        }
    }
}

impl Session {
    /// Uploads operands in the types that the problem stores them in.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn upload(&self, problem: &Problem, inputs: &Inputs<'_>) -> Result<Uploaded> {
        Uploaded::new(self, Resolved::of(problem, inputs)?, inputs)
    }

    /// What was last written to o, in a type of the caller's choice.
    ///
    /// # Errors
    /// What the device reported.
    pub async fn read_o<T: Element>(&self, uploaded: &Uploaded) -> Result<Vec<T>> {
        self.download(&uploaded.o).await
    }

    /// [`Session::read_o`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn read_o_blocking<T: Element>(&self, uploaded: &Uploaded) -> Result<Vec<T>> {
        pollster::block_on(self.read_o(uploaded))
    }

    pub(crate) fn upload_aux(&self, problem: &Problem, data: &AuxData) -> Result<AuxUploads> {
        let mut uploads = AuxUploads::default();
        for tensor in problem.aux_specs() {
            let (input, words) = (tensor.input, data.device_words(&tensor));
            let bytes = match input {
                AuxTensor::Bias => problem.dtypes.bias.encode(bytemuck::cast_slice(&words)),
                _ => bytemuck::cast_slice(&words).into(),
            };
            uploads.known.push((input, self.filled(input.base(), &bytes)?));
        }
        for buffer in problem.customs().into_iter().flat_map(|(custom, _)| custom.buffers()) {
            let words = data.custom_words(buffer)?;
            let upload = self.filled("custom", bytemuck::cast_slice(words))?;
            uploads.custom.push((Arc::clone(&buffer.name), upload));
        }
        Ok(uploads)
    }

    pub(crate) fn filled(&self, label: &'static str, contents: &[u8]) -> Result<wgpu::Buffer> {
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

    /// A buffer for a tensor that lies so.
    pub(super) fn tensor(
        &self,
        label: &'static str,
        placed: &Placed,
        dtype: Dtype,
    ) -> Result<Tensor> {
        self.dense(label, placed.span, dtype)
    }

    /// A buffer for so many elements of a type.
    pub(super) fn dense(
        &self,
        label: &'static str,
        elements: usize,
        dtype: Dtype,
    ) -> Result<Tensor> {
        let words = (elements * dtype.size()).div_ceil(4);
        Ok(Tensor { buffer: self.allocate(label, words)?, elements, words, dtype })
    }

    pub(super) async fn download<T: Element>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        let words: Vec<u32> =
            readback::read(self.device(), &self.queue, &tensor.buffer, tensor.words).await?;
        Ok(elements::decode(tensor.dtype, &words, tensor.elements))
    }
}

/// An output of one call, on the device.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) buffer: wgpu::Buffer,
    elements: usize,
    words: usize,
    dtype: Dtype,
}

/// The data of one call, on the device.
#[derive(Debug, Default)]
pub(crate) struct AuxUploads {
    known: Vec<(AuxTensor, wgpu::Buffer)>,
    custom: Vec<(Arc<str>, wgpu::Buffer)>,
}

impl AuxUploads {
    pub(crate) fn buffers(&self) -> AuxBuffers<'_> {
        let known = self.known.iter().fold(AuxBuffers::new(), |buffers, (input, buffer)| {
            buffers.with(*input, buffer.slice(..))
        });
        (self.custom.iter())
            .fold(known, |buffers, (name, buffer)| buffers.with_custom(name, buffer.slice(..)))
    }
}
