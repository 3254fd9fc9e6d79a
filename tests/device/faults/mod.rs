//! What goes wrong in the middle: devices that are lost, readbacks whose futures are dropped, threads that share a plan, plans
//! that are dropped in any order. Each gives an error or completes, and nothing stays behind.

mod driver;

use std::any::Any;
use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use wgpu::util::DeviceExt as _;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::mask::BlockIndexOptions;
use wgpu_attention::plan::{
    BackwardBuffers, BlockIndexBuffers, BlockIndexPlan, GradientBuffers, InspectBuffers,
    InspectPlan, MaskFormat, MaskPlan, MergePlan, PlanOptions, ScoreTensor, TilePlan,
};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, BackwardPlan, Error, KvCache, Mask,
    Problem, RunOptions, Session, Shape, Upstream,
};

use crate::fixture::{ATTENTION, Operands, kernels, limited, run};

const SHAPE: Shape = Shape::new(2, 2, 33, 20);

fn problem() -> Problem {
    Problem::new(SHAPE).mask("causal & documents".parse().unwrap())
}

/// A device of its own, and the call that is to fail.
fn own_device() -> Session {
    limited(|_| ())
}

fn upload(attention: &Session, values: &[u8]) -> wgpu::Buffer {
    attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: values,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
    })
}

/// Buffers of one attention.
struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    ids: wgpu::Buffer,
    o: wgpu::Buffer,
    lse: wgpu::Buffer,
}

impl Buffers {
    fn new(attention: &Session, operands: &Operands, ids: &[i32]) -> Self {
        let floats = |values: &[f32]| upload(attention, bytemuck::cast_slice(values));
        Self {
            q: floats(&operands.q),
            k: floats(&operands.k),
            v: floats(&operands.v),
            ids: upload(attention, bytemuck::cast_slice(ids)),
            o: floats(&vec![f32::NAN; SHAPE.o_len().unwrap()]),
            lse: floats(&vec![f32::NAN; SHAPE.lse_len().unwrap()]),
        }
    }

    fn mask(&self) -> AuxBuffers<'_> {
        AuxBuffers::new()
            .with(wgpu_attention::AuxTensor::DocumentIdsQ, self.ids.slice(..))
            .with(wgpu_attention::AuxTensor::DocumentIdsKv, self.ids.slice(..))
    }

    fn attention(&self) -> AttentionBuffers<'_> {
        AttentionBuffers {
            q: self.q.slice(..),
            k: self.k.slice(..),
            v: self.v.slice(..),
            aux: self.mask(),
            o: self.o.slice(..),
            lse: Some(self.lse.slice(..)),
        }
    }
}

fn operands() -> (Operands, Vec<i32>) {
    let mut operands = Operands::random(&SHAPE, 1);
    let ids: Vec<i32> = (0..66).map(|i| i / 9).collect();
    operands.mask = AuxData::new().document_ids(ids.clone());
    (operands, ids)
}

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_device_lost_between_any_two_calls() {
    let (operands, ids) = operands();
    let upstream = vec![1.0; SHAPE.o_len().unwrap()];
    for lost_at in ["start", "compiled", "encoded", "submitted"] {
        let own = own_device();
        let buffers = Buffers::new(&own, &operands, &ids);
        if lost_at == "start" {
            own.device().destroy();
            let kernels = own.kernels();
            assert_lost("forward", AttentionPlan::new(kernels, &problem(), &Default::default()));
            assert_lost("backward", BackwardPlan::new(kernels, &problem(), &Default::default()));
            assert_lost("inspect", InspectPlan::new(kernels, &problem()));
            assert_lost("mask", MaskPlan::new(kernels, &problem(), MaskFormat::Keep));
            assert_lost("tiles", TilePlan::new(kernels, &problem(), &Default::default()));
            let options = BlockIndexOptions::default();
            assert_lost("block index", BlockIndexPlan::new(kernels, &problem(), &options));
            assert_lost("merge", MergePlan::new(kernels, &problem(), 2));
            let cache = CacheShape::new(1, 1, 9, 20);
            assert_lost("append", AppendPlan::new(kernels, &cache, &NewTokens::new(1)));
            assert_lost("cache", KvCache::new(kernels, &cache));
            let outputs = RunOptions::default();
            assert_lost("run", own.run_blocking(&problem(), &operands.inputs(), &outputs));
            let upstream = Upstream::new(&upstream);
            let gradients = own.gradients_blocking(
                &problem(),
                &operands.inputs(),
                &upstream,
                &Default::default(),
            );
            assert_lost("gradients", gradients);
            let mask = &operands.mask;
            let tensor = own.materialize_blocking(&problem(), mask, MaskFormat::Keep);
            assert_lost("materialize", tensor);
            assert_lost(
                "tile classes",
                own.tile_classes_blocking(&problem(), mask, &Default::default()),
            );
            assert_lost("read", own.read_blocking(&buffers.o, 9));
            continue;
        }
        let plan = AttentionPlan::new(own.kernels(), &problem(), &Default::default()).unwrap();
        if lost_at == "compiled" {
            own.device().destroy();
        }
        let mut encoder = own.device().create_command_encoder(&Default::default());
        // An encoder of a lost device takes everything, and nothing comes of it.
        plan.encode(&mut encoder, &buffers.attention()).unwrap();
        if lost_at == "encoded" {
            own.device().destroy();
        }
        own.queue().submit([encoder.finish()]);
        own.device().destroy();
        assert_lost(lost_at, own.read_blocking(&buffers.o, SHAPE.o_len().unwrap()));
    }
}

#[test]
fn a_device_lost_while_a_cache_grows() {
    let own = own_device();
    let shape = CacheShape::new(2, 2, 40, 20);
    let tokens = vec![1.0f32; 2 * 2 * 3 * 20];
    let [k, v] = [(); 2].map(|()| upload(&own, bytemuck::cast_slice(&tokens)));
    let mut cache = KvCache::new(own.kernels(), &shape).unwrap();
    let append = AppendPlan::new(own.kernels(), &shape, &NewTokens::new(3)).unwrap();
    for step in 0..3 {
        if step == 1 {
            own.device().destroy();
        }
        let mut encoder = own.device().create_command_encoder(&Default::default());
        let buffers = AppendBuffers::new(k.slice(..), v.slice(..));
        append.encode(&mut encoder, &mut cache, &buffers).unwrap();
        own.queue().submit([encoder.finish()]);
        let lengths = own.read_blocking(cache.lengths().buffer(), 2);
        match step {
            0 => {
                let lengths = lengths.unwrap().into_iter().map(f32::to_bits);
                assert_eq!(lengths.collect::<Vec<_>>(), [3, 3]);
            }
            _ => assert_lost("lengths", lengths),
        }
    }
}

/// Another thread destroys the device at some time during a call: an error or the right answer, at once.
#[test]
fn a_device_lost_during_a_call() {
    let (operands, _) = operands();
    let expected = run(&problem(), &operands, kernels(&problem())[0]);
    for delay in [0, 1, 3, 10, 30] {
        let own = own_device();
        let device = own.device().clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(delay));
                device.destroy();
            });
            let outputs = RunOptions::default().lse(true).kernel(kernels(&problem())[0]);
            match own.run_blocking(&problem(), &operands.inputs(), &outputs) {
                Ok(found) => assert_eq!(found, expected),
                Err(Error::DeviceLost { .. }) => {}
                Err(error) => panic!("after {delay} ms: {error}"),
            }
        });
    }
}

#[test]
fn a_readback_that_nobody_waits_for() {
    let (operands, _) = operands();
    let problem = problem();
    let outputs = RunOptions::default().lse(true);
    let inputs = operands.inputs();
    // Dropped before it starts, and after its first step, wherever that ends.
    drop(ATTENTION.run(&problem, &inputs, &outputs));
    let expected = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
    for _ in 0..20 {
        let mut future = pin!(ATTENTION.run(&problem, &inputs, &outputs));
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    assert_eq!(ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap(), expected);
}

#[test]
fn threads_that_encode_from_one_plan() {
    let (operands, ids) = operands();
    let kernel = kernels(&problem())[0];
    let plan =
        AttentionPlan::new(ATTENTION.kernels(), &problem(), &PlanOptions::default().kernel(kernel))
            .unwrap();
    let expected = run(&problem(), &operands, kernel);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let buffers = Buffers::new(&ATTENTION, &operands, &ids);
                    let mut encoder =
                        ATTENTION.device().create_command_encoder(&Default::default());
                    plan.encode(&mut encoder, &buffers.attention()).unwrap();
                    ATTENTION.queue().submit([encoder.finish()]);
                    let o = ATTENTION.read_blocking(&buffers.o, SHAPE.o_len().unwrap()).unwrap();
                    let lse =
                        ATTENTION.read_blocking(&buffers.lse, SHAPE.lse_len().unwrap()).unwrap();
                    assert_eq!((o, lse), (expected.o.clone(), expected.lse.clone()));
                }
            });
        }
    });
}

/// A plan of some kind, and what it has encoded: held until it is dropped.
type Plan = Box<dyn Any + Send>;

/// Plans of every kind are made, encoded, and dropped in any order, some before their work is submitted: all of their
/// buffers go.
#[test]
fn plans_dropped_in_any_order_leave_nothing_behind() {
    let own = own_device();
    let (operands, ids) = operands();
    let buffers = Buffers::new(&own, &operands, &ids);
    let gradient = Buffers::new(&own, &operands, &ids);
    let tensor = upload(&own, &vec![0; SHAPE.scores_len().unwrap() * 4]);
    let cache_shape = CacheShape::new(2, 2, 40, 20);
    let merged = upload(&own, &vec![0; SHAPE.o_len().unwrap() * 4]);
    let make = |kind: usize, encoder: &mut wgpu::CommandEncoder| {
        let kernels = own.kernels();
        match kind % 7 {
            0 => {
                let plan = AttentionPlan::new(kernels, &problem(), &Default::default())?;
                plan.encode(encoder, &buffers.attention())?;
                Ok(Box::new(plan) as Plan)
            }
            1 => {
                let plan = BackwardPlan::new(kernels, &problem(), &Default::default())?;
                let own = buffers.attention();
                let AttentionBuffers { q, k, v, o, aux: mask, .. } = own;
                let gradients = GradientBuffers::default()
                    .dq(gradient.q.slice(..))
                    .dk(gradient.k.slice(..))
                    .dv(gradient.v.slice(..));
                let (lse, dlse) = (buffers.lse.slice(..), None);
                let buffers =
                    BackwardBuffers { q, k, v, o, lse, dout: o, dlse, aux: mask, gradients };
                plan.encode(encoder, &buffers)?;
                Ok(Box::new(plan) as Plan)
            }
            2 => {
                let plan = InspectPlan::new(kernels, &problem())?;
                let inspect = InspectBuffers {
                    q: buffers.q.slice(..),
                    k: buffers.k.slice(..),
                    aux: buffers.mask(),
                    output: tensor.slice(..),
                };
                plan.encode(encoder, ScoreTensor::Weights, &inspect)?;
                let options = BlockIndexOptions::new(8, 2);
                let index = BlockIndexPlan::new(kernels, &problem(), &options)?;
                let InspectBuffers { q, k, output: block_indices, .. } = inspect;
                let aux = AuxBuffers::new();
                index.encode(encoder, &BlockIndexBuffers { q, k, aux, block_indices })?;
                Ok(Box::new((plan, index)) as Plan)
            }
            3 => {
                let plan = MaskPlan::new(kernels, &problem(), MaskFormat::Keep)?;
                plan.encode(encoder, &buffers.mask(), tensor.slice(..))?;
                Ok(Box::new(plan) as Plan)
            }
            4 => {
                let plan = TilePlan::new(kernels, &problem(), &Default::default())?;
                plan.encode(encoder, &buffers.mask(), tensor.slice(..))?;
                Ok(Box::new(plan) as Plan)
            }
            5 => {
                let plan = MergePlan::new(kernels, &problem(), 2)?;
                plan.encode(encoder, merged.slice(..), None)?;
                Ok(Box::new(plan) as Plan)
            }
            _ => {
                let mut cache = KvCache::new(kernels, &cache_shape)?;
                let plan = AppendPlan::new(kernels, &cache_shape, &NewTokens::new(33))?;
                let new = AppendBuffers::new(buffers.k.slice(..), buffers.v.slice(..));
                plan.encode(encoder, &mut cache, &new)?;
                let problem = cache_shape.problem(2, 33, QuerySequences::Uniform);
                let attention = AttentionPlan::new(
                    kernels,
                    &problem.mask(Mask::causal()),
                    &Default::default(),
                )?;
                drop(attention);
                Ok::<_, Error>(Box::new((plan, cache)) as Plan)
            }
        }
    };
    let settled = || {
        own.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        own.device().generate_allocator_report().map(|report| report.allocations.len())
    };
    let mut rng = SmallRng::seed_from_u64(2);
    let mut live = Vec::new();
    for round in 0..3 {
        let mut plans = Vec::new();
        for kind in 0..105 {
            let mut encoder = own.device().create_command_encoder(&Default::default());
            let plan = make(kind, &mut encoder).unwrap();
            if kind % 3 == 0 {
                // The commands hold what they need.
                drop(plan);
            } else {
                plans.push(plan);
            }
            if kind % 4 != 1 {
                own.queue().submit([encoder.finish()]);
            }
        }
        plans.shuffle(&mut rng);
        if round == 1 {
            std::thread::scope(|scope| {
                let rest = plans.split_off(plans.len() / 2);
                scope.spawn(move || drop(rest));
                drop(plans);
            });
        } else {
            drop(plans);
        }
        live.push(settled());
    }
    assert_eq!(live[1], live[2], "allocations that are left after a round");
}
