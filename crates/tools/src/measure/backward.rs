//! Both passes of a problem, with operands on the device.

use wgpu_attention::plan::{BackwardBuffers, GradientBuffers};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, BackwardPlan, Inputs, Problem, Result, Session,
    Uploaded, wgpu,
};

use wgpu_attention::wgpu::util::DeviceExt as _;

use super::device::scoped;
use super::workload::uniform;

/// The forward and the backward pass of a problem in f32 whose mask reads no data; numbers that look random, the same every time.
#[derive(Debug)]
pub struct BackwardWorkload {
    forward: AttentionPlan,
    backward: BackwardPlan,
    uploaded: Uploaded,
    lse: wgpu::Buffer,
    dout: wgpu::Buffer,
    /// dq, dk, dv
    gradients: [wgpu::Buffer; 3],
}

impl BackwardWorkload {
    /// Uploads operands in [-1, 1).
    ///
    /// # Errors
    /// As [`Session::run`] and [`BackwardPlan::new`].
    pub fn new(session: &Session, problem: &Problem) -> Result<Self> {
        let [q, k, v, o] = problem.spans()?;
        let operands = [(1, q), (2, k), (3, v)].map(|(seed, len)| uniform(seed, len));
        let [q_values, k_values, v_values] = &operands;
        let uploaded = session.upload(problem, &Inputs::new(q_values, k_values, v_values))?;
        let device = session.device();
        let buffer = |elements: usize| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("gradient"),
                size: elements.max(1) as u64 * 4,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let rows = problem.shape().lse_len()?;
        let (lse, dout, gradients) = scoped(device, "allocating gradients", || {
            let dout = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("dout"),
                contents: bytemuck::cast_slice(&uniform(4, o)),
                usage: wgpu::BufferUsages::STORAGE,
            });
            (buffer(rows), dout, [q, k, v].map(buffer))
        })?;
        Ok(Self {
            forward: AttentionPlan::new(session.kernels(), problem, &Default::default())?,
            backward: BackwardPlan::new(session.kernels(), problem, &Default::default())?,
            uploaded,
            lse,
            dout,
            gradients,
        })
    }

    /// Records the forward pass; the backward pass needs what it writes.
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn forward(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let lse = Some(self.lse.slice(..));
        self.forward.encode(encoder, &AttentionBuffers { lse, ..self.uploaded.buffers() })
    }

    /// Records the backward pass.
    ///
    /// # Errors
    /// As [`BackwardPlan::encode`].
    pub fn backward(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let AttentionBuffers { q, k, v, o, .. } = self.uploaded.buffers();
        let [dq, dk, dv] = self.gradients.each_ref().map(|buffer| buffer.slice(..));
        let buffers = BackwardBuffers {
            q,
            k,
            v,
            o,
            lse: self.lse.slice(..),
            dout: self.dout.slice(..),
            dlse: None,
            aux: AuxBuffers::new(),
            gradients: GradientBuffers::default().dq(dq).dk(dk).dv(dv),
        };
        self.backward.encode(encoder, &buffers)
    }

    /// The plan of the backward pass.
    pub const fn plan(&self) -> &BackwardPlan {
        &self.backward
    }

    /// Bytes that are held beyond operands and gradients: o and lse, and the backward plan's own.
    pub fn held_bytes(&self) -> u64 {
        self.forward.kept_bytes() + self.backward.scratch_bytes()
    }
}
