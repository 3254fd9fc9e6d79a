//! Plans: a problem checked once, with its pipelines and its own buffers, to be encoded any number of times.
//!
//! All are made by `new(&kernels, &problem, …)` and record into the application's own encoder by `encode`. Where the work of
//! one may take long, `submissions` says in how many command buffers it should be, and `encode_submission` records them.

// `attention` is the forward pass, `backward` its gradients, `merge` puts results over parts of the keys together,
// `block_index` picks the blocks that queries attend to, `inspect` the tensors for looking inside, `materialize` the mask as a tensor,
// `tiles` the classes of its tiles, `score_points` a user's score function at single points.
// They share the mask's buffer and tables (`mask_tables`, `masked_kernel`, `mask_output`), the checks of the caller's buffers
// (`buffers`), the choice of a kernel (`choice`, `candidates`), and how work is cut into pieces (`cut`, `pieces`), by what workgroups
// do and reach (`work`, `tensors`).

pub(crate) mod attention;
pub(crate) mod backward;
pub(crate) mod block_index;
pub(crate) mod buffers;
mod candidates;
pub(crate) mod choice;
pub(crate) mod cut;
pub(crate) mod inspect;
pub(crate) mod mask_output;
pub(crate) mod mask_tables;
mod masked_kernel;
pub(crate) mod materialize;
pub(crate) mod merge;
pub(crate) mod pieces;
pub(crate) mod score_points;
pub(crate) mod sequences;
pub(crate) mod tensors;
pub(crate) mod tiles;
pub(crate) mod windows;
mod work;

pub use attention::{AttentionBuffers, AttentionPlan, PlanOptions};
pub use backward::{BackwardBuffers, BackwardOptions, BackwardPlan, GradientBuffers};
pub use block_index::{BlockIndexBuffers, BlockIndexPlan};
pub use inspect::{InspectBuffers, InspectPlan, ScoreTensor};
pub use materialize::{MaskFormat, MaskPlan, MaskTensor};
pub use merge::{MergePlan, PartSlices};
pub use tiles::{TileClasses, TileOptions, TilePlan};

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::kernel::pipeline::{Kernels, Pipeline};

/// A buffer that holds `contents` and no more.
pub(crate) fn filled_buffer(
    device: &wgpu::Device,
    name: &'static str,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    crate::device::filled_buffer(device, name, contents.len() as u64, contents, usage)
}

/// A buffer to bind where a tensor has no elements.
pub(crate) fn empty_buffer(kernels: &Kernels) -> Result<wgpu::Buffer> {
    crate::device::buffer(kernels.device(), "empty tensor", 16, wgpu::BufferUsages::STORAGE)
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

/// Bind groups by what they bind, so that a loop over the same buffers makes each of them once. The latest are kept, which
/// keeps the caller's buffers alive: plans' `forget_buffers` lets go of them.
#[derive(Debug, Default)]
pub(crate) struct BindGroups(Mutex<VecDeque<(Vec<Bound>, wgpu::BindGroup)>>);

impl BindGroups {
    /// Drops all of them.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

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

pub(crate) fn begin_pass<'a>(
    encoder: &'a mut wgpu::CommandEncoder,
    label: &str,
) -> wgpu::ComputePass<'a> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some(label),
        timestamp_writes: None,
    })
}
