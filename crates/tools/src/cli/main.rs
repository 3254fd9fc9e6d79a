//! The command line: devices, masks, attention over tensor files, kernel sources, benchmarks.
//!
//! What it prints on stdout, its options and its exit codes (0: done, 1: failed, 2: wrong usage) are a contract.

mod bench;
mod device_choice;
mod devices;
mod function;
mod kernels;
mod mask;
mod places;
mod report;
mod run;
#[cfg(feature = "sanitize")]
mod sanitized;
#[cfg(not(feature = "sanitize"))]
#[path = "not_sanitized.rs"]
mod sanitized;
mod talk;
mod tensors;
mod tune;
mod wgsl;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use talk::Talk;
use wgpu_attention::device::AdapterChoice;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::{DeviceOptions, Layout, Mask, Session, Shape};

/// What masks are made of, for help.
const MASKS: Masks = Masks;

/// The leaves that read nothing, those that read a tensor, what isn't a leaf, and names of combinations.
struct Masks;

impl fmt::Display for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |f: &mut fmt::Formatter<'_>, read_data: bool, others: &[(&str, &str)]| {
            let leaves = Mask::leaves().filter(|leaf| leaf.reads_data() == read_data);
            let forms = leaves.flat_map(|leaf| leaf.help()).chain(others);
            forms.into_iter().try_for_each(|(usage, text)| f.write_str(&help_line(usage, text)))
        };
        writeln!(f, "MASKS select the keys that each query attends to. By name:")?;
        lines(f, false, &OPERATORS)?;
        writeln!(f, "By name, reading tensors of the file:")?;
        lines(f, true, &[WGSL])?;
        writeln!(
            f,
            "By the names that models and papers use, for combinations of the masks above:"
        )?;
        COMPOSITIONS.iter().try_for_each(|(usage, text)| f.write_str(&help_line(usage, text)))?;
        f.write_str(JOINED)
    }
}

/// A form and what it keeps, in two columns.
fn help_line(usage: &str, text: &str) -> String {
    const COLUMN: usize = 26;
    let text = text.replace('\n', &format!("\n  {:COLUMN$}", ""));
    match usage.len() < COLUMN {
        true => format!("  {usage:COLUMN$}{text}\n"),
        false => format!("  {usage}\n  {:COLUMN$}{text}\n", ""),
    }
}

const OPERATORS: [(&str, &str); 2] = [
    (
        "self_only_if_alone(MASK)",
        "MASK, but the query's own position only where MASK keeps no other key (Reformer)",
    ),
    ("per_head(MASK, ...)", "a mask for each head, or for each group of consecutive heads"),
];

const WGSL: (&str, &str) = (
    "wgsl",
    "cells that the user-defined function in --wgsl-mask FILE keeps:
fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool;
x(index) reads a tensor x of the file: floats as f32, signed integers as i32, unsigned
integers and bool as u32",
);

const COMPOSITIONS: [(&str, &str); 11] = [
    ("sliding_window(SIZE)", "window(SIZE - 1,0)"),
    ("longformer(WINDOW,GLOBAL)", "window(WINDOW,WINDOW) | global(GLOBAL)"),
    ("bigbird(WINDOW,GLOBAL)", "longformer(WINDOW,GLOBAL) | dense"),
    ("prefix_lm", "prefix | causal"),
    ("packed_documents", "documents & causal"),
    ("streaming_llm(WINDOW,SINKS)", "causal & (window(WINDOW - 1,0) | global(SINKS))"),
    ("gemma2(LAYER,WINDOW)", "sliding_window(WINDOW) in layers 0, 2, 4 ..., causal in the others"),
    (
        "gemma3(LAYER,WINDOW)",
        "causal in layers 5, 11, 17 ..., sliding_window(WINDOW) in the others",
    ),
    ("llama4(LAYER,CHUNK)", "causal in layers 3, 7, 11 ..., chunk(CHUNK) & causal in the others"),
    ("reformer", "self_only_if_alone(buckets & causal)"),
    ("speculative_tree", "tree"),
];

const JOINED: &str = "\
A mask that appears twice reads the same tensors twice; with data=2 it reads those with _2 behind their names:
  documents | documents(data=2)
Operators are `!` (not), `&` (and), `|` (or), in this order of precedence, and parentheses:
  'causal & key_lengths'    'prefix | causal'    'window(4,0) & !(documents | not_self)'

Integers may have any integer type. Flags are bool, integers, or floats that are all 0 or 1.";

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention devices
  wgpu-attention mask causal --seq 5
  wgpu-attention mask 'causal & key_lengths' --seq 27 --data in.safetensors --format grid --png mask.png
  wgpu-attention run in.safetensors --mask key_lengths --outputs o,lse,weights --out out.safetensors
  wgpu-attention wgsl --shape 1,8,2,1024,1024,64 --mask causal
  wgpu-attention bench --report my-gpu.jsonl";

/// Masked flash attention on any GPU that wgpu reaches.
#[derive(Debug, Parser)]
#[command(name = "wgpu-attention", version, after_help = format!("{EXAMPLES}\n\n{MASKS}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    talk: Talk,
}

#[derive(Debug, Subcommand)]
enum Command {
    Devices(devices::Arguments),
    Mask(mask::Arguments),
    Run(run::Arguments),
    Wgsl(wgsl::Arguments),
    Kernels(kernels::Arguments),
    Bench(bench::Arguments),
    Tune(tune::Arguments),
    Report(report::Arguments),
    /// Print the completion script of a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

const COMPLETIONS: &str = "\
EXAMPLES
  wgpu-attention completions bash > ~/.local/share/bash-completion/completions/wgpu-attention
  wgpu-attention completions fish > ~/.config/fish/completions/wgpu-attention.fish";

/// Which device to work on.
#[derive(Debug, clap::Args)]
struct Device {
    /// The device: its number in `wgpu-attention devices`, or a part of its name. By default, the device named by
    /// WGPU_ADAPTER_NAME, else the fastest kind. A suffix `+matrices` opens it with cooperative matrices, an experimental
    /// feature of wgpu.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
}

/// The environment variable by which wgpu's examples choose an adapter.
const ADAPTER_NAME: &str = "WGPU_ADAPTER_NAME";

impl Device {
    fn open(&self, talk: Talk) -> anyhow::Result<Session> {
        let named = std::env::var(ADAPTER_NAME).ok().filter(|name| !name.is_empty());
        let Some(device) = &self.device else {
            let adapter = named.clone().map_or(AdapterChoice::Best, AdapterChoice::Name);
            let opened = Session::open_blocking(&DeviceOptions::default().adapter(adapter));
            return match named {
                Some(name) => opened.with_context(|| format!("{ADAPTER_NAME}={name}")),
                None => Ok(opened?),
            };
        };
        let attention = Session::open_blocking(&device_choice::parse(device))?;
        let opened = attention.device().adapter_info().name;
        match named {
            Some(name) if !opened.to_lowercase().contains(&name.to_lowercase()) => {
                talk.warn(&format!("{ADAPTER_NAME}={name} is ignored, as --device is given"));
            }
            _ => {}
        }
        Ok(attention)
    }
}

/// The memory layout of q, k, v and o.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LayoutName {
    /// [batch, heads, seq, dim]
    #[default]
    Bhsd,
    /// [batch, seq, heads, dim]
    Bshd,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Bhsd => Self::Bhsd,
            LayoutName::Bshd => Self::Bshd,
        }
    }
}

/// `B,H,Hkv,Tq,Tk,D`, perhaps with `,Dv`
fn parse_shape(text: &str) -> Result<Shape, String> {
    let sizes: Vec<usize> = (text.split(','))
        .map(|size| {
            let size = size.trim();
            size.parse().map_err(|_| format!("`{size}` isn't a size"))
        })
        .collect::<Result<_, _>>()?;
    let &[batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, ref rest @ ..] =
        sizes.as_slice()
    else {
        return Err(format!("expected 6 or 7 sizes, found {}", sizes.len()));
    };
    let head_dim_v = match rest {
        [] => head_dim,
        &[head_dim_v] => head_dim_v,
        _ => return Err(format!("expected 6 or 7 sizes, found {}", sizes.len())),
    };
    Ok(Shape::new(batch, num_heads, seq_len_q, head_dim)
        .seq_len_kv(seq_len_kv)
        .num_kv_heads(num_kv_heads)
        .head_dim_v(head_dim_v))
}

/// The sizes in the order of `--shape`.
fn sizes(shape: &Shape) -> [usize; 7] {
    let Shape {
        batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v, ..
    } = *shape;
    [batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v]
}

/// A kernel to use instead of the best one.
#[derive(Debug, clap::Args)]
struct Kernel {
    /// The kernel to use; chosen automatically by default.
    #[arg(long, value_name = "NAME", value_parser = kernel_names())]
    kernel: Option<ForwardKernel>,
}

/// The names of the forward kernels, as an option's values.
fn kernel_names() -> impl TypedValueParser<Value = ForwardKernel> {
    PossibleValuesParser::new(ForwardKernel::ALL.map(ForwardKernel::name))
        .try_map(|name| name.parse::<ForwardKernel>())
}

fn main() -> ExitCode {
    let Cli { command, talk } = Cli::parse();
    // Failures are returned as errors. wgpu also logs errors of drivers that it tries and doesn't use.
    let filter = if talk.quiet { "off" } else { "wgpu_attention=warn" };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).init();
    let done = match command {
        Command::Devices(arguments) => devices::list(&arguments, talk),
        Command::Mask(arguments) => mask::show(&arguments, talk),
        Command::Run(arguments) => run::run(&arguments, talk),
        Command::Wgsl(arguments) => wgsl::print(&arguments, talk),
        Command::Kernels(arguments) => kernels::print(&arguments),
        Command::Bench(arguments) => bench::run(&arguments, talk),
        Command::Tune(arguments) => tune::run(&arguments, talk),
        Command::Report(arguments) => report::run(&arguments, talk),
        Command::Completions { shell } => completions(shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as `head` has.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told where stderr is closed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wgpu-attention", &mut text);
    print(|out| out.write_all(&text))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

/// Writes to stdout, all of it.
fn print(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = write(&mut stdout).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
        other => other.context("stdout can't be written to"),
    }
}
