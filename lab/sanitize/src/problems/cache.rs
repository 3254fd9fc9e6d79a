//! Caches.

use wgpu_attention::cache::{
    AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens, Pairing, Rotary,
};
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Dtype, KvCache, Layout, Mask, Problem, Session,
    Shape, reference,
};

use super::Failure;
use crate::operands::{Operands, stored};

const HEADS: usize = 4;

/// Tokens in two calls, then attention over what was kept, in pages, too, and with rotated keys.
pub(super) fn append(attention: &Session) -> Result<(), Failure> {
    let contiguous = CacheShape::new(2, 2, 40, 20);
    append_and_attend(attention, &contiguous, None)?;
    append_and_attend(attention, &contiguous.layout(Layout::Bshd).dtype(Dtype::F16), None)?;
    append_and_attend(attention, &contiguous.ring(), None)?;
    append_and_attend(attention, &contiguous.paged(16, 8), None)?;
    let rotary = Rotary::new(20, 1e4, Pairing::Half);
    append_and_attend(attention, &contiguous.dtype(Dtype::I8), Some(&rotary))?;
    append_and_attend(attention, &contiguous.dtype(Dtype::I4), None)
}

fn upload(attention: &Session, values: &[f32]) -> wgpu::Buffer {
    let buffer = attention.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: (values.len() * 4) as u64,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    attention.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(values));
    buffer
}

fn append_and_attend(
    attention: &Session,
    shape: &CacheShape,
    rotary: Option<&Rotary>,
) -> Result<(), Failure> {
    let (device, queue) = (attention.device(), attention.queue());
    let upload = |values: &[f32]| upload(attention, values);
    let (kernels, dim) = (attention.kernels(), shape.head_dim);
    let mut cache = KvCache::new(kernels, shape)?;
    if let CacheForm::Paged { .. } = shape.form {
        // Blocks in no order, of which some are nobody's.
        cache.set_table(queue, 0, &[7, 2, 5])?;
        cache.set_table(queue, 1, &[0, 3, 4])?;
    }
    let total = 20;
    let full = Shape::new(shape.batch, HEADS, total, dim).num_kv_heads(shape.num_kv_heads);
    let operands = Operands::random(&full, 21);
    let cut = |values: &[f32], from: usize, to: usize| -> Vec<f32> {
        values.chunks(total * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
    };
    for (from, to) in [(0, 17), (17, 20)] {
        let new = NewTokens::new(to - from);
        let new = match rotary {
            Some(rotary) => new.rotary(rotary.clone()).query_heads(HEADS),
            None => new,
        };
        let plan = AppendPlan::new(kernels, shape, &new)?;
        let [k, v, q] =
            [&operands.k, &operands.v, &operands.q].map(|values| upload(&cut(values, from, to)));
        let rotated = upload(&cut(&operands.q, from, to));
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
        let buffers = match rotary {
            Some(_) => buffers.q(q.slice(..)).rotated_q(rotated.slice(..)),
            None => buffers,
        };
        let problem = shape.problem(HEADS, to - from, QuerySequences::Uniform).mask(Mask::causal());
        let attend = AttentionPlan::new(kernels, &problem, &PlanOptions::default())?;
        let elements = shape.batch * HEADS * (to - from) * dim;
        let o = upload(&vec![0.0; elements]);
        let mut encoder = device.create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &mut cache, &buffers)?;
        let buffers = AttentionBuffers {
            q: if rotary.is_some() { rotated.slice(..) } else { q.slice(..) },
            k: cache.k(),
            v: cache.v(),
            aux: cache.aux_buffers(AuxBuffers::new()),
            o: o.slice(..),
            lse: None,
        };
        attend.encode(&mut encoder, &buffers)?;
        queue.submit([encoder.finish()]);
        let found = attention.read_blocking(&o, elements)?;
        // Of rotated keys there is no reference here: that they run is what is looked at.
        if rotary.is_none() {
            let whole = Problem::new(full).mask(Mask::causal());
            let mut kept = stored(Operands::random(&full, 21), shape.dtype.into());
            kept.q.clone_from(&operands.q);
            if shape.dtype == Dtype::I4 {
                kept.k = shape.dtype.round_rows(&operands.k, dim);
                kept.v = shape.dtype.round_rows(&operands.v, dim);
            }
            let truth = reference::attention(&whole, &kept.inputs())?;
            for (head, rows) in truth.o.chunks(total * dim).enumerate() {
                let own = &found[head * (to - from) * dim..][..(to - from) * dim];
                for (x, y) in own.iter().zip(&rows[from * dim..to * dim]) {
                    if (f64::from(*x) - y).abs() > 1e-3 {
                        return Err(format!("o over a cache, {shape:?}: {x} instead of {y}").into());
                    }
                }
            }
        }
    }
    Ok(())
}

/// The second sequence's length is beyond the cache's capacity, which the device alone knows: nothing is computed.
pub(super) fn refused(attention: &Session) -> Result<(), Failure> {
    const NEITHER: f32 = 7.0;
    let shape = CacheShape::new(2, 2, 40, 20);
    let kernels = attention.kernels();
    let cache = KvCache::new(kernels, &shape)?;
    attention.queue().write_buffer(
        cache.lengths().buffer(),
        0,
        bytemuck::cast_slice(&[3u32, 1000]),
    );
    let problem = shape.problem(HEADS, 3, QuerySequences::Uniform).mask(Mask::causal());
    let attend = AttentionPlan::new(kernels, &problem, &PlanOptions::default())?;
    let elements = 2 * HEADS * 3 * 20;
    let (q, o) =
        (upload(attention, &vec![1.0; elements]), upload(attention, &vec![NEITHER; elements]));
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    let buffers = AttentionBuffers {
        q: q.slice(..),
        k: cache.k(),
        v: cache.v(),
        aux: cache.aux_buffers(AuxBuffers::new()),
        o: o.slice(..),
        lse: None,
    };
    attend.encode(&mut encoder, &buffers)?;
    attention.queue().submit([encoder.finish()]);
    let found = attention.read_blocking(&o, elements)?;
    match found.iter().position(|x| *x != NEITHER) {
        Some(at) => Err(format!("o[{at}] is {}, though the lengths are refused", found[at]).into()),
        None => Ok(()),
    }
}
