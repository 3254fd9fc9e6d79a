//! Many steps over one cache.

use wgpu::BufferUsages;
use wgpu::util::DeviceExt as _;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxBuffers, Error, KvCache, Mask};

use super::{DIM, HEADS, KV_HEADS, tokens};

/// After its first step, a loop of 256 compiles nothing, makes no bind group and allocates nothing on the device. Nothing is
/// submitted before all of it is recorded, so that whatever a step made would still be there to be counted; what the host
/// writes to a buffer goes through memory of the device and would be counted, too.
#[test]
fn a_long_loop_makes_nothing_anew() {
    let shape = CacheShape::new(2, KV_HEADS, 256, DIM);
    let tokens = tokens(&shape, 1, 100);
    let rotary = Rotary::new(DIM, 1e4, Pairing::Half);
    let new = NewTokens::new(1).rotary(rotary).query_heads(HEADS);
    // A device of its own, so that other tests don't count.
    let own = crate::open::best();
    let (device, kernels) = (own.device(), own.kernels());
    let mut cache = KvCache::new(kernels, &shape).unwrap();
    let append = AppendPlan::new(kernels, &shape, &new).unwrap();
    let problem = shape.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
    let attention = AttentionPlan::new(kernels, &problem, &Default::default()).unwrap();
    let [q, k, v, rotated, o] =
        [&tokens.q, &tokens.k, &tokens.v, &tokens.q, &tokens.q].map(|values| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(values),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
            })
        });
    let mut step = || {
        let mut encoder = device.create_command_encoder(&Default::default());
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..))
            .q(q.slice(..))
            .rotated_q(rotated.slice(..));
        append.encode(&mut encoder, &mut cache, &buffers)?;
        let buffers = AttentionBuffers {
            q: rotated.slice(..),
            k: cache.k(),
            v: cache.v(),
            aux: cache.aux_buffers(AuxBuffers::new()),
            o: o.slice(..),
            lse: None,
        };
        attention.encode(&mut encoder, &buffers)?;
        Ok::<_, Error>(encoder.finish())
    };
    let counts = || {
        let memory = device.generate_allocator_report();
        let memory = memory.map(|report| (report.allocations.len(), report.total_allocated_bytes));
        (kernels.compiled(), kernels.bind_groups(), memory)
    };
    own.queue().submit([step().unwrap()]);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let first = counts();
    assert_eq!(first.1, 2);
    assert!(first.2.is_none_or(|(allocations, _)| allocations > 8), "buffers count: {first:?}");
    let commands: Vec<_> = (1..256).map(|_| step().unwrap()).collect();
    assert_eq!(counts(), first, "recorded");
    own.queue().submit(commands);
    assert_eq!(counts(), first, "submitted");
    assert!(step().is_err(), "it is full");
    let lengths = own.read_blocking(cache.lengths().buffer(), 3).unwrap();
    let lengths: Vec<u32> = lengths.into_iter().map(f32::to_bits).collect();
    assert_eq!(lengths, [256, 256, 0]);

    // Without their bind groups, the plans keep the buffers no longer alive.
    let alive = || {
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        device.generate_allocator_report().map(|report| report.allocations.len())
    };
    drop((q, k, v, rotated, o));
    let before = alive();
    append.forget_buffers();
    attention.forget_buffers();
    let after = alive();
    assert!(before.is_none_or(|before| after.unwrap() + 5 <= before), "{before:?}, {after:?}");
}
