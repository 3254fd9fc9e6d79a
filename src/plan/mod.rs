//! Plans: a problem validated once, with its pipelines and its own buffers, to be encoded any number of times.
//!
//! [`attention`] is the forward pass, [`backward`] its gradients, [`merge`] puts results over parts of the keys together,
//! [`inspect`] the tensors for looking inside, [`materialize`] the mask as a tensor,
//! [`tiles`] the classes of its tiles, [`score_points`] a user's score function at single points.
//! They share the mask's buffer and tables ([`mask_tables`], [`mask_output`]) and the checks of the caller's buffers ([`buffers`]).

pub(crate) mod attention;
pub(crate) mod backward;
pub(crate) mod buffers;
pub(crate) mod inspect;
pub(crate) mod mask_output;
pub(crate) mod mask_tables;
pub(crate) mod materialize;
pub(crate) mod merge;
pub(crate) mod score_points;
pub(crate) mod sequences;
pub(crate) mod tiles;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::util::DeviceExt as _;

use crate::error::{Error, Result};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};

/// A buffer that holds `words` from the start on.
pub(crate) fn filled_buffer(
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

pub(crate) fn params_buffer(device: &wgpu::Device, params: &Params) -> wgpu::Buffer {
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

/// How many bind groups a plan keeps: enough for one in each layer of a model.
const MOST_BIND_GROUPS: usize = 128;

/// A buffer, an offset, a size: what a bind group binds.
type Bound = (wgpu::Buffer, u64, Option<std::num::NonZero<u64>>);

/// Bind groups by what they bind, so that a loop over the same buffers makes each of them once. The latest are kept, and
/// with them their buffers.
#[derive(Debug, Default)]
pub(crate) struct BindGroups(Mutex<VecDeque<(Vec<Bound>, wgpu::BindGroup)>>);

impl BindGroups {
    pub(crate) fn get(
        &self,
        kernels: &Kernels,
        pipeline: &Pipeline,
        resources: &[wgpu::BindingResource<'_>],
    ) -> wgpu::BindGroup {
        let bound: Vec<Bound> = (resources.iter())
            .filter_map(|resource| match resource {
                wgpu::BindingResource::Buffer(binding) => {
                    Some((binding.buffer.clone(), binding.offset, binding.size))
                }
                _ => None,
            })
            .collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bind_group)) = kept.iter().find(|(other, _)| *other == bound) {
            return bind_group.clone();
        }
        let bind_group = bind(kernels.device(), pipeline, resources);
        kernels.count_bind_group();
        if kept.len() == MOST_BIND_GROUPS {
            kept.pop_front();
        }
        kept.push_back((bound, bind_group.clone()));
        bind_group
    }
}

/// A dispatch of a known size.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) pipeline: Arc<Pipeline>,
    /// Along x and y; kernels number them in that order.
    workgroups: [u32; 2],
}

impl Dispatch {
    /// `workgroups` in all, of which there may be more than one dimension takes.
    pub(crate) fn new(
        kernels: &Kernels,
        pipeline: Arc<Pipeline>,
        workgroups: usize,
    ) -> Result<Self> {
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

    /// Whether there's nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.workgroups.contains(&0)
    }

    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, bind_group: &wgpu::BindGroup) {
        let [x, y] = self.workgroups;
        if x == 0 || y == 0 {
            return;
        }
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

pub(crate) fn begin_pass<'a>(
    encoder: &'a mut wgpu::CommandEncoder,
    label: &str,
) -> wgpu::ComputePass<'a> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some(label),
        timestamp_writes: None,
    })
}
