//! This crate's side of `cargo xtask compare`: a process that is told on stdin what to do, a JSON object per line, and
//! answers on stdout. `xtask/src/compare/peer.rs` says what the words are.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use wgpu_attention::measure::{Clock, Workload};
use wgpu_attention::{Attention, AttentionPlan, Inputs, Mask, MaskData, Problem, Shape};

struct Prepared {
    work: Workload,
    plan: AttentionPlan,
}

fn main() -> Result<()> {
    let attention = Attention::open_blocking(&Default::default())?;
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
    attention: &Attention,
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
            let kernel = new.plan.kernel().name();
            *prepared = Some(new);
            Ok(json!({ "note": kernel }))
        }
        Some("run") => {
            let Prepared { work, plan } = prepared.as_ref().context("nothing is prepared")?;
            let time = clock.time(|encoder| work.encode(plan, encoder))?;
            Ok(
                json!({ "ms": time.device.as_secs_f64() * 1e3, "cpu_ms": time.cpu.as_secs_f64() * 1e3 }),
            )
        }
        Some("output") => {
            let Prepared { work, .. } = prepared.as_ref().context("nothing is prepared")?;
            let path = command["path"].as_str().context("no path")?;
            std::fs::write(path, bytemuck::cast_slice(&work.output(attention)?))?;
            Ok(json!({}))
        }
        _ => bail!("`do` is none of about, prepare, run, output"),
    }
}

fn prepare(command: &Value, attention: &Attention) -> Result<Prepared> {
    let sizes: [usize; 6] = serde_json::from_value(command["shape"].clone())?;
    let [batch, heads, kv_heads, seq_q, seq_kv, dim] = sizes;
    let shape = Shape::new(batch, heads, seq_q, dim).kv_heads(kv_heads).seq_kv(seq_kv);
    let mut mask = if command["causal"] == true { Mask::causal() } else { Mask::All };
    let mut data = MaskData::new();
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
    let inputs = Inputs::new(&q, &k, &v).mask(&data);
    let work = Workload::with_operands(attention, &problem, &inputs)?;
    let plan = AttentionPlan::new(attention.kernels(), work.problem())?;
    Ok(Prepared { work, plan })
}
