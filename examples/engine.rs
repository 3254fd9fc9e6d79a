//! The decode loop of a small model as an engine writes it: its own device and kernels, weights and caches in f16, plans keyed by
//! their problems. Each token is chosen on the device and feeds the next step there; the host reads once, at the end.
//!
//! The model is the small GPT that examples/train_gpt trained on Alice's Adventures in Wonderland.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use wgpu::util::{BufferInitDescriptor, DeviceExt as _};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::half::f16;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionPlan, AuxBuffers, Dtype, Kernels, KvCache, Layout, Mask, Problem, Session,
};
use wgpu_attention_tools::files::TensorFile;

const LAYERS: usize = 4;
const HEADS: usize = 4;
const HEAD_DIM: usize = 32;
const DIM: usize = HEADS * HEAD_DIM;
/// Tokens are the codes of ASCII.
const VOCABULARY: usize = 128;
const PROMPT: &str = "Alice was beginning to";
const STEPS: usize = 96;
/// One sequence of up to 128 tokens.
const CACHE: CacheShape = CacheShape::new(1, HEADS, 128, HEAD_DIM).dtype(Dtype::F16);
/// Flags of examples/engine.wgsl.
const NORMALIZE: u32 = 1;
const GELU: u32 = 2;
const ACCUMULATE: u32 = 4;

fn main() -> Result<()> {
    let mut engine = Engine::open()?;
    let mut tokens: Vec<f32> = PROMPT.bytes().map(f32::from).collect();
    let (prefill, step) = (engine.stage(tokens.len())?, engine.stage(1)?);
    let (mut caches, history) = (engine.caches()?, engine.buffer(STEPS));
    engine.session.queue().write_buffer(&prefill.tokens, 0, bytemuck::cast_slice(&tokens));
    for number in 0..STEPS {
        let stage = if number == 0 { &prefill } else { &step };
        let mut encoder = engine.session.device().create_command_encoder(&Default::default());
        engine.record(stage, &mut caches, &mut encoder)?;
        let last = stage.chosen.size() - 4; // what is chosen behind the last token
        encoder.copy_buffer_to_buffer(&stage.chosen, last, &step.tokens, 0, 4);
        encoder.copy_buffer_to_buffer(&stage.chosen, last, &history, number as u64 * 4, 4);
        engine.session.queue().submit([encoder.finish()]);
    }
    tokens.extend(engine.session.read_blocking(&history, STEPS)?);
    println!("{:?}", tokens.iter().map(|&token| char::from(token as u8)).collect::<String>());

    // One parallel pass over all tokens but the last chooses the same behind each.
    let seen = &tokens[..tokens.len() - 1];
    let whole = engine.stage(seen.len())?;
    engine.session.queue().write_buffer(&whole.tokens, 0, bytemuck::cast_slice(seen));
    let mut encoder = engine.session.device().create_command_encoder(&Default::default());
    engine.record(&whole, &mut engine.caches()?, &mut encoder)?;
    engine.session.queue().submit([encoder.finish()]);
    let chosen = engine.session.read_blocking(&whole.chosen, seen.len())?;
    ensure!(chosen[PROMPT.len() - 1..] == tokens[PROMPT.len()..], "both ways choose the same");
    println!("a parallel pass over them chooses the same; {} plans", engine.plans.len());
    Ok(())
}

struct Engine {
    /// On the engine's own device; it reads results back.
    session: Session,
    plans: HashMap<Problem, AttentionPlan>,
    module: wgpu::ShaderModule,
    weights: HashMap<String, wgpu::Buffer>,
}

/// A pass over so many tokens: what is dispatched at its start, before and after attention in each layer, and at its end.
struct Stage {
    tokens: wgpu::Buffer,
    chosen: wgpu::Buffer,
    /// q, k, v, rotated q, o
    operands: [wgpu::Buffer; 5],
    problem: Problem,
    append: AppendPlan,
    start: Vec<Dispatch>,
    layers: Vec<[Vec<Dispatch>; 2]>,
    end: Vec<Dispatch>,
}

type Dispatch = (wgpu::ComputePipeline, wgpu::BindGroup, [u32; 2]);

impl Engine {
    fn open() -> Result<Self> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
        let (device, queue) =
            pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
                required_features: wgpu_attention::required_features(&adapter),
                required_limits: wgpu_attention::required_limits(&adapter),
                ..Default::default()
            }))?;
        let file = TensorFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt.safetensors"))?;
        let upload = |name: String| {
            let values = file.read_f32(&name)?.values.into_iter().map(f16::from_f32);
            let contents = bytemuck::cast_slice(&values.collect::<Vec<_>>()).to_vec();
            let usage = wgpu::BufferUsages::STORAGE;
            let descriptor =
                BufferInitDescriptor { label: Some(&name), contents: &contents, usage };
            let buffer = device.create_buffer_init(&descriptor);
            Ok((name, buffer))
        };
        let weights = file.names().into_iter().map(upload).collect::<Result<_>>()?;
        let module = device.create_shader_module(wgpu::include_wgsl!("engine.wgsl"));
        let session = Session::from_kernels(&Kernels::new(&device, &Default::default()), &queue);
        Ok(Self { session, plans: HashMap::new(), module, weights })
    }

    fn buffer(&self, elements: usize) -> wgpu::Buffer {
        self.session.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: elements as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    fn caches(&self) -> Result<Vec<KvCache>> {
        (0..LAYERS).map(|_| Ok(KvCache::new(self.session.kernels(), &CACHE)?)).collect()
    }

    fn stage(&mut self, rows: usize) -> Result<Stage> {
        let kernels = self.session.kernels().clone();
        let rotary = Rotary::new(HEAD_DIM, 1000.0, Pairing::Half);
        let new = NewTokens::new(rows).layout(Layout::Bshd).rotary(rotary).query_heads(HEADS);
        let problem = CACHE.problem(HEADS, rows, QuerySequences::Uniform);
        let problem = problem.layout(Layout::Bshd).mask(Mask::causal());
        if !self.plans.contains_key(&problem) {
            let plan = AttentionPlan::new(&kernels, &problem, &Default::default())?;
            self.plans.insert(problem.clone(), plan);
        }
        let [tokens, chosen] = [0; 2].map(|_| self.buffer(rows));
        let [x, q, k, v, rotated_q, o] = [0; 6].map(|_| self.buffer(rows * DIM));
        let [wide, logits] = [4 * DIM, VOCABULARY].map(|columns| self.buffer(rows * columns));
        let run = |kernel, [weights, gains]: [&str; 2], x: &_, y: &_, flags| {
            self.dispatch(kernel, [&self.weights[weights], &self.weights[gains], x, y], rows, flags)
        };
        let layer = |layer: usize| {
            let linear = |name: &str, norm: &str, x: &_, y: &_, flags| {
                let names = [name, norm].map(|name| format!("layer{layer}.{name}"));
                run("linear", [&names[0], &names[1]], x, y, flags)
            };
            let before = ["q", "k", "v"].into_iter().zip([&q, &k, &v]).map(|(name, y)| {
                linear(&format!("attention.{name}"), "attention.norm", &x, y, NORMALIZE)
            });
            let after = vec![
                linear("attention.o", "attention.norm", &o, &x, ACCUMULATE),
                linear("feed_forward.in", "feed_forward.norm", &x, &wide, NORMALIZE | GELU),
                linear("feed_forward.out", "feed_forward.norm", &wide, &x, ACCUMULATE),
            ];
            [before.collect(), after]
        };
        Ok(Stage {
            append: AppendPlan::new(&kernels, &CACHE, &new)?,
            start: vec![run("embed", ["embed", "head.norm"], &tokens, &x, 0)],
            layers: (0..LAYERS).map(layer).collect(),
            end: vec![
                run("linear", ["head", "head.norm"], &x, &logits, NORMALIZE),
                run("pick", ["head", "head.norm"], &logits, &chosen, 0),
            ],
            operands: [q, k, v, rotated_q, o],
            tokens,
            chosen,
            problem,
        })
    }

    /// A kernel of examples/engine.wgsl over weights, gains, x and y.
    fn dispatch(
        &self,
        kernel: &str,
        buffers: [&wgpu::Buffer; 4],
        rows: usize,
        flags: u32,
    ) -> Dispatch {
        let device = self.session.device();
        let [from, to] =
            [buffers[2], buffers[3]].map(|buffer| (buffer.size() / 4) as u32 / rows as u32);
        let sizes = device.create_buffer_init(&BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&[from, to, flags, 0]),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel),
            layout: None,
            module: &self.module,
            entry_point: Some(kernel),
            compilation_options: Default::default(),
            cache: None,
        });
        let buffers = [&sizes].into_iter().chain(buffers).zip(0..);
        let entries: Vec<_> = buffers
            .map(|(buffer, binding)| {
                let resource = buffer.as_entire_binding();
                wgpu::BindGroupEntry { binding, resource }
            })
            .collect();
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        (pipeline, bindings, [to.div_ceil(64), rows as u32])
    }

    /// Records a pass. Nothing is submitted, and nothing is written from the host.
    fn record(
        &self,
        stage: &Stage,
        caches: &mut [KvCache],
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<()> {
        let run = |dispatches: &[Dispatch], encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (pipeline, bindings, [columns, rows]) in dispatches {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, bindings, &[]);
                pass.dispatch_workgroups(*columns, *rows, 1);
            }
        };
        let [q, k, v, rotated_q, o] = stage.operands.each_ref().map(|buffer| buffer.slice(..));
        run(&stage.start, encoder);
        for ([before, after], cache) in stage.layers.iter().zip(caches) {
            run(before, encoder);
            let new = AppendBuffers::new(k, v).q(q).rotated_q(rotated_q);
            stage.append.encode(encoder, cache, &new)?;
            let buffers =
                cache.attention_buffers(&stage.problem, rotated_q, AuxBuffers::new(), o)?;
            self.plans[&stage.problem].encode(encoder, &buffers)?;
            run(after, encoder);
        }
        run(&stage.end, encoder);
        Ok(())
    }
}
