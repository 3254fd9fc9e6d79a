//! The drivers' compilers, on the kernels.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use drivers::Shims;
use drivers::progress::Steps;
use drivers::workspace::{Workspace, artifact, describe};

use super::gpu::{GPUS, Gpu};
use super::listing::{Compiled, Listing};

/// Everything that compiling takes.
pub(super) struct Compiler {
    pub(super) shims: Shims,
    /// The program that compiles all kernels.
    program: PathBuf,
    /// Where what compilers print is kept, and read instead of compiling.
    printed: Option<PathBuf>,
}

/// Which kernels.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Selection {
    /// Only kernels with this in their name
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,

    /// Only for rows of this length
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
}

impl Selection {
    pub(super) fn of(kernel: &str, head_dim: usize) -> Self {
        Self { kernel: Some(kernel.to_owned()), head_dim: Some(head_dim) }
    }

    fn has(&self, compiled: &Compiled) -> bool {
        self.kernel.as_ref().is_none_or(|part| compiled.kernel.contains(part))
    }
}

impl Compiler {
    pub(super) fn build(
        workspace: &Workspace,
        shims: Shims,
        printed: Option<PathBuf>,
    ) -> Result<Self> {
        // The whole workspace, so that shared dependencies have the features that all other tasks build them with.
        let mut program = workspace.cargo("build");
        program.args(["--workspace", "--all-features", "--bin", "isa-kernels"]);
        let program = artifact(&mut program, "isa-kernels", std::env::consts::EXE_EXTENSION)?;
        Ok(Self { shims, program, printed })
    }

    /// What the GPU's compiler made of the kernels; `each` gets every line that it printed.
    pub(super) fn compile(
        &self,
        gpu: Gpu,
        selection: &Selection,
        each: impl FnMut(&str),
    ) -> Result<Vec<Compiled>> {
        let mut command = self.command(gpu)?;
        command.args(&selection.kernel);
        if let Some(head_dim) = selection.head_dim {
            command.arg("--head-dim").arg(head_dim.to_string());
        }
        let mut compiled = self.listing(gpu, "own", command, each)?;
        compiled.retain(|kernel| selection.has(kernel));
        Ok(compiled)
    }

    /// What the GPU's compiler made of the kernels of a program; `each` gets every line that it printed.
    pub(super) fn listing(
        &self,
        gpu: Gpu,
        name: &str,
        command: Command,
        mut each: impl FnMut(&str),
    ) -> Result<Vec<Compiled>> {
        let mut listing = Listing::new(gpu.driver);
        let mut read = |line: &[u8]| {
            let line = String::from_utf8_lossy(line);
            each(&line);
            listing.line(&line).with_context(|| format!("on {}", gpu.name))
        };
        let kept = self.printed.as_ref().map(|folder| folder.join(format!("{}-{name}", gpu.name)));
        match kept {
            Some(kept) if kept.is_file() => {
                let kept = File::open(&kept).with_context(|| kept.display().to_string())?;
                for line in BufReader::new(kept).split(b'\n') {
                    read(&line?)?;
                }
            }
            Some(kept) => {
                let partial = kept.with_extension("partial");
                let mut file =
                    File::create(&partial).with_context(|| partial.display().to_string())?;
                self.print(gpu, command, |line| {
                    file.write_all(line)?;
                    file.write_all(b"\n")?;
                    read(line)
                })?;
                fs::rename(partial, kept)?;
            }
            None => self.print(gpu, command, read)?,
        }
        listing.finish().with_context(|| format!("on {}", gpu.name))
    }

    /// What the compiler prints, line by line, while a program runs.
    fn print(
        &self,
        gpu: Gpu,
        mut command: Command,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (name, value) = gpu.printing();
        let (output, input) = io::pipe()?;
        let started = command.env(name, value).stdout(input.try_clone()?).stderr(input).spawn();
        let mut child =
            started.with_context(|| format!("`{}` could not be started", describe(&command)))?;
        // It holds the pipe open.
        drop(command);
        let mut last = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            each(&line)?;
            last.push_back(String::from_utf8_lossy(&line).into_owned());
            if last.len() > 10 {
                last.pop_front();
            }
        }
        if !child.wait()?.success() {
            let lines = Vec::from(last).join("\n");
            bail!(
                "kernels can't be compiled for {} with {}:\n{lines}",
                gpu.name,
                self.shims.package
            );
        }
        Ok(())
    }

    /// The program, on a GPU.
    pub(super) fn command(&self, gpu: Gpu) -> Result<Command> {
        let mut command = self.shims.command(gpu.driver, &self.program)?;
        command
            .args(gpu.is_wave32().then_some("--without-subgroups"))
            // Its last lines are shown where it fails.
            .env("RUST_BACKTRACE", "0")
            // It checks indirect dispatches by a kernel of its own, which would be in the report.
            .env("WGPU_VALIDATION_INDIRECT_CALL", "0")
            .envs(gpu.environment());
        Ok(command)
    }
}

/// What every GPU's compiler made of the kernels.
pub(crate) struct Everywhere {
    /// The drivers' package.
    pub(crate) package: String,
    pub(crate) gpus: Vec<(Gpu, Result<Vec<Compiled>>)>,
}

/// Compiles all kernels for all GPUs.
pub(crate) fn compile_everywhere(workspace: &Workspace) -> Result<Everywhere> {
    let compiler = Compiler::build(workspace, drivers::shims(workspace)?, None)?;
    let progress = Steps::new("GPUs");
    progress.set_total(GPUS.len() as u64);
    let compile = |gpu| {
        let compiled = compiler.compile(gpu, &Selection::default(), |_| {});
        progress.step();
        (gpu, compiled)
    };
    let gpus = GPUS.into_iter().map(compile).collect();
    progress.finish();
    Ok(Everywhere { package: compiler.shims.package, gpus })
}
