//! burn's and cubek's attention for `cargo xtask compare`: processes that are told on stdin what to do, a JSON object per
//! line, and answer on stdout (`lab/src/compare/peer.rs`).

use std::io::{BufRead as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cpu_time::ProcessTime;
use serde_json::{Value, json};

/// A problem, q, k and v being `[batch, heads, seq, dim]`.
pub struct Case {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub seq_q: usize,
    pub seq_kv: usize,
    pub dim: usize,
    pub causal: bool,
    pub lengths: Option<Vec<u32>>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// A library's attention over one problem.
pub trait Prepared {
    /// Computes, and waits until it is done.
    fn run(&mut self) -> Result<()>;

    /// What the last run gave, `[batch, heads, seq_q, dim]`.
    fn output(&mut self) -> Result<Vec<f32>>;
}

/// A library.
pub struct Library<'a> {
    /// Its name and version.
    pub about: &'a str,
    pub device: String,
    pub prepare: &'a dyn Fn(Case) -> Result<Box<dyn Prepared>>,
}

/// Answers until nobody asks.
pub fn serve(library: &Library) -> Result<()> {
    let mut prepared: Option<Box<dyn Prepared>> = None;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        // Both libraries panic where others return errors.
        let answered = catch_unwind(AssertUnwindSafe(|| answer(library, &command, &mut prepared)));
        let reply = match answered {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                json!({ "error": format!("panic: {}", text.unwrap_or("without words")) })
            }
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{reply}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(
    library: &Library,
    command: &Value,
    prepared: &mut Option<Box<dyn Prepared>>,
) -> Result<Value> {
    match command["do"].as_str() {
        Some("about") => Ok(json!({ "about": library.about, "device": library.device })),
        Some("prepare") => {
            *prepared = None;
            *prepared = Some((library.prepare)(case(command)?)?);
            Ok(json!({}))
        }
        Some("run") => {
            let prepared = prepared.as_mut().context("nothing is prepared")?;
            let (wall, cpu) = (Instant::now(), ProcessTime::now());
            prepared.run()?;
            let (wall, cpu) = (wall.elapsed(), cpu.elapsed());
            Ok(json!({ "ms": wall.as_secs_f64() * 1e3, "cpu_ms": cpu.as_secs_f64() * 1e3 }))
        }
        Some("output") => {
            let o = prepared.as_mut().context("nothing is prepared")?.output()?;
            let bytes: Vec<u8> = o.iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(command["path"].as_str().context("no path")?, bytes)?;
            Ok(json!({}))
        }
        _ => bail!("`do` is none of about, prepare, run, output"),
    }
}

fn case(command: &Value) -> Result<Case> {
    ensure!(command["backward"] != true, "there is no backward pass");
    let sizes: [usize; 6] = serde_json::from_value(command["shape"].clone())?;
    let [batch, heads, kv_heads, seq_q, seq_kv, dim] = sizes;
    let folder = Path::new(command["folder"].as_str().context("no folder")?);
    let read = |name: &str| -> Result<Vec<f32>> {
        let bytes = std::fs::read(folder.join(name))?;
        let words = bytes.chunks_exact(4);
        words.map(|word| Ok(f32::from_le_bytes(word.try_into()?))).collect()
    };
    Ok(Case {
        batch,
        heads,
        kv_heads,
        seq_q,
        seq_kv,
        dim,
        causal: command["causal"] == true,
        lengths: serde_json::from_value(command["lengths"].clone())?,
        q: read("q.bin")?,
        k: read("k.bin")?,
        v: read("v.bin")?,
    })
}

/// An error of a library as one of ours.
pub fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("{error:?}")
}
