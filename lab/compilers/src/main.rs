//! Hands the kernels' text to compilers that need no device, for `cargo xtask portability`.
//!
//! naga writes each text in the languages of wgpu's backends, as wgpu has it write them; where the next compiler is at
//! hand, its output goes through that too: HLSL through DXC, GLSL through glslang, SPIR-V through spirv-val.

#[expect(unsafe_code, reason = "DXC is a library of C++")]
mod dxc;
mod objection;
mod translate;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use dxc::Dxc;
use objection::Objection;
use translate::Text;

/// Compile every kernel for targets that need no device, and print what came of it as JSON lines.
#[derive(Parser)]
struct Options {
    /// What `wgpu-attention kernels` printed.
    kernels: PathBuf,

    /// For what to compile; several times for several.
    #[arg(long, value_enum, required = true)]
    target: Vec<Target>,

    /// The shared library of DXC. Without it, HLSL is only written.
    #[arg(long)]
    dxc: Option<PathBuf>,

    /// The program glslangValidator. Without it, GLSL is only written.
    #[arg(long)]
    glslang: Option<PathBuf>,

    /// The program spirv-val. Without it, SPIR-V is only written.
    #[arg(long)]
    spirv_val: Option<PathBuf>,

    /// What these programs are started through.
    #[arg(long)]
    runner: Option<PathBuf>,
}

/// What a kernel is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// SPIR-V, through spirv-val
    Spirv,
    /// HLSL, through DXC for shader model 6.0
    #[value(name = "hlsl-6.0")]
    Hlsl60,
    /// HLSL, through DXC for shader model 6.2 with 16-bit types
    #[value(name = "hlsl-6.2")]
    Hlsl62,
    /// Metal's language, version 2.4
    #[value(name = "msl-2.4")]
    Msl24,
    /// Metal's language, version 3.1
    #[value(name = "msl-3.1")]
    Msl31,
    /// GLSL ES 3.1, through glslang
    #[value(name = "glsl-es-3.1")]
    Glsl,
}

/// A line of the input; it has more fields than these.
#[derive(Deserialize)]
struct Kernel {
    kernel: String,
    form: String,
    entry_point: String,
    wgsl: String,
    /// What Vulkan gets instead of what naga writes, whose subgroup barriers it refuses.
    spirv: Option<Vec<u32>>,
}

/// A line of the output.
#[derive(Serialize)]
struct Outcome<'a> {
    target: String,
    kernel: &'a str,
    form: &'a str,
    /// Which compiler objected; nothing where none did.
    failed_in: Option<&'static str>,
    message: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let text = std::fs::read_to_string(&options.kernels)
        .with_context(|| format!("reading {}", options.kernels.display()))?;
    let kernels: Vec<Kernel> = text
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of the kernels"))
        .collect::<Result<_>>()?;
    let dxc = options.dxc.as_deref().map(Dxc::load).transpose()?;
    // What panics is an objection like any other.
    std::panic::set_hook(Box::new(|_| {}));

    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} kernels {eta:>4}")?;
    let bar = ProgressBar::new(kernels.len() as u64).with_style(style).with_prefix("compilers");
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let compiler = Compiler { options: &options, dxc: dxc.as_ref() };
                while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = compiler.report(kernel) {
                        failure.lock().expect("no thread panics here").get_or_insert(error);
                        return;
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    failure.into_inner().expect("no thread panics here").map_or(Ok(()), Err)
}

/// A thread's compilers.
struct Compiler<'a> {
    options: &'a Options,
    dxc: Option<&'a Dxc>,
}

impl Compiler<'_> {
    /// Prints what comes of one kernel, for each target.
    fn report(&self, kernel: &Kernel) -> Result<()> {
        let text = catch_unwind(|| Text::parse(&kernel.wgsl, &kernel.entry_point));
        let text = text.unwrap_or_else(|_| Err(Objection::new("naga", "naga panicked")));
        for &target in &self.options.target {
            let result = match &text {
                Ok(text) => catch_unwind(AssertUnwindSafe(|| self.compile(target, text, kernel)))
                    .unwrap_or_else(|_| Err(Objection::new("naga", "naga panicked"))),
                Err(error) => Err(Objection::new(error.compiler, &error.message)),
            };
            let name = target.to_possible_value().context("every target has a name")?;
            let (failed_in, message) = match result {
                Ok(()) => (None, String::new()),
                Err(error) => (Some(error.compiler), error.message),
            };
            let outcome = Outcome {
                target: name.get_name().to_owned(),
                kernel: &kernel.kernel,
                form: &kernel.form,
                failed_in,
                message,
            };
            println!("{}", serde_json::to_string(&outcome)?);
        }
        Ok(())
    }

    fn compile(&self, target: Target, text: &Text, kernel: &Kernel) -> Result<(), Objection> {
        match target {
            Target::Spirv => match &kernel.spirv {
                Some(words) => self.check_spirv(words),
                None => self.check_spirv(&text.spirv()?),
            },
            Target::Hlsl60 | Target::Hlsl62 => {
                let hlsl = text.hlsl(target == Target::Hlsl62)?;
                match self.dxc {
                    Some(dxc) => dxc.compile(&hlsl, target == Target::Hlsl62),
                    None => Ok(()),
                }
            }
            Target::Msl24 => text.msl((2, 4)),
            Target::Msl31 => text.msl((3, 1)),
            Target::Glsl => {
                let glsl = text.glsl()?;
                let arguments = ["--stdin", "-S", "comp"];
                self.check("glslang", self.options.glslang.as_deref(), &arguments, glsl.as_bytes())
            }
        }
    }

    fn check_spirv(&self, words: &[u32]) -> Result<(), Objection> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let arguments = ["--target-env", "vulkan1.1", "-"];
        self.check("spirv-val", self.options.spirv_val.as_deref(), &arguments, &bytes)
    }

    /// Has a program read a text, where the program is at hand.
    fn check(
        &self,
        name: &'static str,
        program: Option<&Path>,
        arguments: &[&str],
        text: &[u8],
    ) -> Result<(), Objection> {
        let Some(program) = program else { return Ok(()) };
        let started =
            |error: std::io::Error| Objection::new(name, &format!("it can't run: {error}"));
        let mut command = match &self.options.runner {
            Some(runner) => Command::new(runner),
            None => Command::new(program),
        };
        command.args(self.options.runner.is_some().then_some(program)).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(started)?;
        if let Some(mut input) = child.stdin.take() {
            // A program that has seen enough closes its input, and says why.
            let _ = input.write_all(text);
        }
        let done = child.wait_with_output().map_err(started)?;
        if done.status.success() {
            return Ok(());
        }
        let said = [done.stdout, done.stderr].concat();
        Err(Objection::new(name, &String::from_utf8_lossy(&said)))
    }
}
