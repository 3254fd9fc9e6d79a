//! This crate's side of `cargo xtask compare`: a process that is told on stdin what to do, a JSON object per line, and
//! answers on stdout. `lab/src/compare/peer.rs` says what the words are.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use wgpu_attention::plan::{BackwardBuffers, GradientBuffers};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, BackwardPlan, Inputs, Mask, Problem,
    Session, Shape,
};
use wgpu_attention_tools::measure::{Clock, Workload};

enum Prepared {
    Forward { work: Box<Workload>, plan: Box<AttentionPlan> },
    Training(Box<Training>),
}

/// Both passes of a problem whose mask reads no data.
struct Training {
    forward: AttentionPlan,
    backward: BackwardPlan,
    /// q, k, v, dout
    operands: [wgpu::Buffer; 4],
    /// o, lse
    kept: [wgpu::Buffer; 2],
    /// dq, dk, dv
    gradients: [wgpu::Buffer; 3],
}

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let clock = Clock::of_the_wall(attention.device(), attention.queue());
    let mut prepared = None;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        let reply = answer(&command, &attention, &clock, &mut prepared);
        let reply = reply.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{reply}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(
    command: &Value,
    attention: &Session,
    clock: &Clock,
    prepared: &mut Option<Prepared>,
) -> Result<Value> {
    match command["do"].as_str() {
        Some("about") => {
            let info = attention.device().adapter_info();
            Ok(json!({ "about": format!("wgpu-attention {}", env!("CARGO_PKG_VERSION")),
                "device": info.name, "driver": format!("{} {}", info.driver, info.driver_info).trim() }))
        }
        Some("prepare") => {
            *prepared = None;
            let new = prepare(command, attention)?;
            let kernel = match &new {
                Prepared::Forward { plan, .. } => plan.kernel().name(),
                Prepared::Training(training) => training.backward.kernel().name(),
            };
            *prepared = Some(new);
            Ok(json!({ "note": kernel }))
        }
        Some("run") => {
            let time = match prepared.as_ref().context("nothing is prepared")? {
                Prepared::Forward { work, plan } => {
                    clock.time(|encoder| work.encode(plan, encoder))?
                }
                Prepared::Training(training) => clock.time(|encoder| training.encode(encoder))?,
            };
            Ok(
                json!({ "ms": time.device.as_secs_f64() * 1e3, "cpu_ms": time.cpu.as_secs_f64() * 1e3 }),
            )
        }
        Some("output") => {
            let values = match prepared.as_ref().context("nothing is prepared")? {
                Prepared::Forward { work, .. } => work.output(attention)?,
                Prepared::Training(training) => training.output(attention)?,
            };
            let path = command["path"].as_str().context("no path")?;
            std::fs::write(path, bytemuck::cast_slice(&values))?;
            Ok(json!({}))
        }
        _ => bail!("`do` is none of about, prepare, run, output"),
    }
}

fn prepare(command: &Value, attention: &Session) -> Result<Prepared> {
    let sizes: [usize; 6] = serde_json::from_value(command["shape"].clone())?;
    let [batch, heads, kv_heads, seq_q, seq_kv, dim] = sizes;
    let shape = Shape::new(batch, heads, seq_q, dim).num_kv_heads(kv_heads).seq_len_kv(seq_kv);
    let mut mask = if command["causal"] == true { Mask::causal() } else { Mask::All };
    let mut data = AuxData::new();
    if let Ok(lengths) = serde_json::from_value::<Vec<i32>>(command["lengths"].clone()) {
        mask = if mask == Mask::All { Mask::KeyLengths } else { mask & Mask::KeyLengths };
        data = data.key_lengths(lengths);
    }
    let problem = Problem::new(shape).mask(mask);
    let folder = Path::new(command["folder"].as_str().context("no folder")?);
    let read = |name: &str| -> Result<Vec<f32>> {
        Ok(bytemuck::pod_collect_to_vec(&std::fs::read(folder.join(name))?))
    };
    let (q, k, v) = (read("q.bin")?, read("k.bin")?, read("v.bin")?);
    if command["backward"] == true {
        let operands = [q, k, v, read("dout.bin")?];
        return Ok(Prepared::Training(Box::new(Training::new(attention, &problem, &operands)?)));
    }
    let inputs = Inputs::new(&q, &k, &v).aux(&data);
    let work = Workload::with_operands(attention, &problem, &inputs)?;
    let plan = AttentionPlan::new(attention.kernels(), work.problem(), &Default::default())?;
    Ok(Prepared::Forward { work: Box::new(work), plan: Box::new(plan) })
}

impl Training {
    fn new(attention: &Session, problem: &Problem, operands: &[Vec<f32>; 4]) -> Result<Self> {
        use wgpu::util::DeviceExt as _;
        let (device, kernels) = (attention.device(), attention.kernels());
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let upload = |values: &Vec<f32>| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(values),
                usage,
            })
        };
        let output = |elements: usize| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: elements as u64 * 4,
                usage,
                mapped_at_creation: false,
            })
        };
        let shape = problem.shape();
        Ok(Self {
            forward: AttentionPlan::new(kernels, problem, &Default::default())?,
            backward: BackwardPlan::new(kernels, problem, &Default::default())?,
            operands: operands.each_ref().map(upload),
            kept: [output(shape.o_len()?), output(shape.lse_len()?)],
            gradients: [output(shape.q_len()?), output(shape.k_len()?), output(shape.v_len()?)],
        })
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> wgpu_attention::Result<()> {
        let [q, k, v, dout] = self.operands.each_ref().map(|buffer| buffer.slice(..));
        let [o, lse] = self.kept.each_ref().map(|buffer| buffer.slice(..));
        let [dq, dk, dv] = self.gradients.each_ref().map(|buffer| buffer.slice(..));
        let buffers = AttentionBuffers { q, k, v, aux: AuxBuffers::new(), o, lse: Some(lse) };
        self.forward.encode(encoder, &buffers)?;
        let gradients = GradientBuffers::default().dq(dq).dk(dk).dv(dv);
        let mask = AuxBuffers::new();
        let buffers = BackwardBuffers { q, k, v, o, lse, dout, dlse: None, aux: mask, gradients };
        self.backward.encode(encoder, &buffers)
    }

    /// dq, dk and dv, one after the other.
    fn output(&self, attention: &Session) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for buffer in &self.gradients {
            values.extend(attention.read_blocking(buffer, buffer.size() as usize / 4)?);
        }
        Ok(values)
    }
}
