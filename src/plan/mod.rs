//! Plans: a problem validated once, with its pipelines and its own buffers, to be encoded any number of times.
//!
//! [`attention`] is the forward pass, [`backward`] its gradients, [`inspect`] the tensors for looking inside, [`materialize`] the mask as a tensor,
//! [`tiles`] the classes of its tiles.
//! They share the mask's buffer and tables ([`mask_tables`], [`mask_output`]) and the checks of the caller's buffers ([`buffers`]).

pub(crate) mod attention;
pub(crate) mod backward;
pub(crate) mod buffers;
pub(crate) mod inspect;
pub(crate) mod mask_output;
pub(crate) mod mask_tables;
pub(crate) mod materialize;
pub(crate) mod sequences;
pub(crate) mod tiles;

use std::sync::Arc;

use wgpu::util::DeviceExt as _;

use crate::error::{Error, Result};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};

/// A buffer that holds `words` from the start on.
fn filled_buffer(
    device: &wgpu::Device,
    label: &str,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some(label),
        contents,
        usage,
    })
}

fn params_buffer(device: &wgpu::Device, params: &Params) -> wgpu::Buffer {
    filled_buffer(
        device,
        "attention params",
        bytemuck::bytes_of(params),
        wgpu::BufferUsages::UNIFORM,
    )
}

/// Binds `resources`, in the order of the kernel's bindings.
fn bind(
    device: &wgpu::Device,
    pipeline: &Pipeline,
    resources: &[wgpu::BindingResource<'_>],
) -> wgpu::BindGroup {
    let entries: Vec<_> = (0u32..)
        .zip(resources)
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.layout,
        entries: &entries,
    })
}

/// A dispatch of a known size.
#[derive(Debug, Clone)]
struct Dispatch {
    pipeline: Arc<Pipeline>,
    /// Along x and y; kernels number them in that order.
    workgroups: [u32; 2],
}

impl Dispatch {
    /// `workgroups` in all, of which there may be more than one dimension takes.
    fn new(kernels: &Kernels, pipeline: Arc<Pipeline>, workgroups: usize) -> Result<Self> {
        let most = kernels.traits().limits.max_compute_workgroups_per_dimension as usize;
        let x = workgroups.min(most);
        let y = if x == 0 { 0 } else { workgroups.div_ceil(x) };
        if y > most || u32::try_from(x * y).is_err() {
            return Err(Error::Limit {
                what: "the problem's workgroups".to_owned(),
                limit: "max_compute_workgroups_per_dimension",
                needed: y as u64,
                available: most as u64,
            });
        }
        Ok(Self { pipeline, workgroups: [x as u32, y as u32] })
    }

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, bind_group: &wgpu::BindGroup) {
        let [x, y] = self.workgroups;
        if x == 0 || y == 0 {
            return;
        }
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

fn begin_pass<'a>(encoder: &'a mut wgpu::CommandEncoder, label: &str) -> wgpu::ComputePass<'a> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some(label),
        timestamp_writes: None,
    })
}
