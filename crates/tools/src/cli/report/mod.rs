//! `report`: everything that one can say of a GPU in twelve minutes, in a folder to send in.

mod checks;
mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use wgpu_attention::{DeviceOptions, Dtype, Mask, Problem, Session, Shape};
use wgpu_attention_tools::measure::{
    self, BackwardWorkload, Clock, Effort, Peaks, Workload, in_turns,
};

use crate::talk::Talk;
use crate::{bench, device_choice};

/// Check the results of a GPU, measure it, and write a folder to send in.
///
/// First every kernel is compared with the f64 reference, on sizes that show races, 20 times for equal bits. Then the device's own
/// rates are measured, and the forward pass, the backward pass and decoding as shares of them; at last the fastest kernels
/// are looked for. Each part is written as soon as it is done: a run that was stopped goes on where it was, in the same
/// folder. Nothing is sent anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The folder.
    #[arg(value_name = "FOLDER", default_value = "wgpu-attention-report")]
    folder: PathBuf,

    /// Begin no part after so many minutes.
    #[arg(long, default_value_t = 12)]
    minutes: u64,

    /// Measure 3 rounds of each, instead of 5 to 31 within 10 s.
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    device: crate::Device,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention report
  wgpu-attention report my-gpu --device radeon

The folder holds report.json, for programs, and report.html, for a browser.";

type Part = fn(&Run<'_>) -> anyhow::Result<Value>;

/// The parts, in the order in which they are worth most.
const PARTS: [(&str, Part); 6] = [
    ("device", device),
    ("checks", check),
    ("matrix checks", check_matrix),
    ("forward and decode", forward),
    ("backward", backward),
    ("tune", tune),
];

/// What the parts work with.
struct Run<'a> {
    arguments: &'a Arguments,
    talk: Talk,
    session: Session,
    effort: Effort,
    end: Instant,
    /// What an earlier run left.
    earlier: Value,
}

pub(crate) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let json = folder.join("report.json");
    let session = arguments.device.open(talk)?;
    let mut report = earlier(&json, &session)?;
    let earlier = report.clone();
    let effort = if arguments.quick { Effort::QUICK } else { Effort::default() };
    let end = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let run = Run { arguments, talk, session, effort, end, earlier };
    for (name, part) in PARTS {
        if is_done(&report[name]) {
            say(talk, &format!("{name}: done before"))?;
            continue;
        }
        if Instant::now() >= end && name != "device" {
            say(
                talk,
                &format!(
                    "{name}: left out, {} minutes are over; run it again to go on",
                    arguments.minutes
                ),
            )?;
            continue;
        }
        let start = Instant::now();
        // What fails is part of what is told, and doesn't keep the next part from running.
        let value = part(&run).unwrap_or_else(|error| json!({ "failed": format!("{error:#}") }));
        say(talk, &format!("{name}: {} ({:.0?})", page::in_short(&value), start.elapsed()))?;
        report[name] = value;
        write(&json, &serde_json::to_string_pretty(&report)?)?;
        write(&folder.join("report.html"), &page::html(&report)?)?;
    }
    say(talk, &folder.join("report.html").display().to_string())?;
    let wrong = |part: &Value| {
        let records = part.as_array().into_iter().flatten();
        records
            .filter(|record| matches!(record["result"].as_str(), Some("wrong" | "failed")))
            .count()
    };
    match wrong(&report["checks"]) + wrong(&report["matrix checks"]) {
        0 => Ok(()),
        count => bail!(
            "{count} checks found results that aren't right: please send {} in as an issue",
            folder.display()
        ),
    }
}

/// Whether a part has everything: what failed, or found no time, is tried again.
fn is_done(part: &Value) -> bool {
    let left_out = |record: &Value| record["result"] == LEFT_OUT;
    let all = part.as_array().is_none_or(|records| !records.iter().any(left_out));
    !part.is_null() && part["failed"].is_null() && all
}

/// Of a check that found no time.
const LEFT_OUT: &str = "left out";

fn say(talk: Talk, words: &str) -> anyhow::Result<()> {
    match talk.quiet {
        true => Ok(()),
        false => crate::print(|out| writeln!(out, "{words}")),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// What an earlier run left, if it was on this device.
fn earlier(path: &Path, session: &Session) -> anyhow::Result<Value> {
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(json!({ "wgpu_attention_gpu_report": 1 }));
    };
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} isn't a report: name another folder", path.display()))?;
    if report["wgpu_attention_gpu_report"] != 1 {
        bail!("{} isn't a report that this version reads: name another folder", path.display());
    }
    let own = session.device().adapter_info().name;
    match report["device"]["device"].as_str() {
        Some(name) if name != own => {
            bail!(
                "{} is a report of {name}, and this is {own}: name another folder",
                path.display()
            )
        }
        _ => Ok(report),
    }
}

fn device(run: &Run<'_>) -> anyhow::Result<Value> {
    let clock = Clock::new(run.session.device(), run.session.queue())?;
    let peaks = Peaks::measure(&clock)?;
    Ok(bench::about(&run.session, &clock, &peaks))
}

fn check(run: &Run<'_>) -> anyhow::Result<Value> {
    Ok(checked(run, "checks", &run.session, |name| !name.starts_with("matrix")))
}

/// On a device that is opened with cooperative matrices, which wgpu calls experimental.
fn check_matrix(run: &Run<'_>) -> anyhow::Result<Value> {
    let own = run.session.device().adapter_info().name;
    let options: DeviceOptions = device_choice::parse(&format!("{own}+matrices"));
    match Session::open_blocking(&options) {
        Ok(session) => {
            Ok(checked(run, "matrix checks", &session, |name| name.starts_with("matrix")))
        }
        Err(error) => {
            Ok(json!([{ "check": "matrix", "result": "refused", "why": error.to_string() }]))
        }
    }
}

fn checked(run: &Run<'_>, part: &str, session: &Session, wanted: impl Fn(&str) -> bool) -> Value {
    let earlier = run.earlier[part].as_array().map_or(&[][..], Vec::as_slice);
    let before = |name: &str| {
        let same = |record: &&Value| record["check"] == name && record["result"] != LEFT_OUT;
        earlier.iter().find(same).cloned()
    };
    let checks: Vec<_> = checks::all().into_iter().filter(|check| wanted(check.name())).collect();
    let progress = run.talk.steps(checks.len());
    let records = checks.iter().map(|check| {
        progress.0.set_message(check.name().to_owned());
        let record = before(check.name()).unwrap_or_else(|| match Instant::now() < run.end {
            true => check.run(session),
            false => json!({ "check": check.name(), "result": LEFT_OUT }),
        });
        progress.0.inc(1);
        record
    });
    records.collect()
}

fn forward(run: &Run<'_>) -> anyhow::Result<Value> {
    bench::standard_records(&run.session, run.effort, run.talk)
}

/// Sizes of the backward pass: heads, tokens, head_dim.
const BACKWARD: [[usize; 3]; 3] = [[8, 1024, 64], [8, 1024, 128], [8, 4096, 64]];

fn backward(run: &Run<'_>) -> anyhow::Result<Value> {
    let clock = Clock::new(run.session.device(), run.session.queue())?;
    let peaks = Peaks::measure(&clock)?;
    let progress = run.talk.steps(BACKWARD.len());
    let mut records = Vec::new();
    for [heads, tokens, head_dim] in BACKWARD {
        let shape = Shape::new(1, heads, tokens, head_dim);
        let problem = Problem::new(shape).mask(Mask::causal());
        let name = format!("{} causal, backward", bench::sizes(&shape));
        progress.0.set_message(name.clone());
        let passes = BackwardWorkload::new(&run.session, &problem)?;
        let kept = Workload::new(&run.session, &problem, &Default::default())?.kept_cells();
        let samples = in_turns(
            &clock,
            run.effort,
            &[&|encoder| passes.forward(encoder), &|encoder| passes.backward(encoder)],
            |_| (),
        )?;
        // Five products of what the mask keeps.
        let operations = 10.0 * kept * head_dim as f64;
        let seconds = samples[1].busy().as_secs_f64();
        records.push(json!({
            "name": name,
            "kernel": passes.plan().kernel().name(),
            "ms_median": seconds * 1e3,
            "forward_ms": samples[0].busy().as_secs_f64() * 1e3,
            "gflops": operations / seconds * 1e-9,
            "share_of_peak": (operations / peaks.operations / seconds).min(1.0),
        }));
        progress.0.inc(1);
    }
    Ok(records.into())
}

/// The sizes for which the fastest kernels are looked for: prefill, decode.
fn tune(run: &Run<'_>) -> anyhow::Result<Value> {
    let prefill = Shape::new(1, 8, 1024, 64);
    let decode = Shape::new(1, 32, 1, 128).num_kv_heads(8).seq_len_kv(4096);
    let problems = [Dtype::F32, Dtype::F16].into_iter().flat_map(|dtype| {
        [prefill, decode].map(|shape| {
            (Problem::new(shape).mask(Mask::causal()).dtypes(dtype), Default::default())
        })
    });
    let problems: Vec<_> = problems.collect();
    let progress = run.talk.steps(problems.len());
    let profile = measure::tune(&run.session, &problems, Effort::QUICK, |problem, what| {
        progress.0.set_position(problem as u64);
        progress.0.set_message(what.to_owned());
    })?;
    let path = run.arguments.folder.join("profile.json");
    profile.save(&path)?;
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str::<Value>(&text)?["choices"].take())
}
