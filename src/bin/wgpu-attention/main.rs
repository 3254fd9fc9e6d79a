//! The command line: devices, masks, attention over tensor files, the kernels' text and their speed.
//!
//! What it prints on stdout, its options and its exit codes (0: done, 1: failed, 2: wrong usage) are a contract.

mod bench;
mod device_choice;
mod devices;
mod function;
mod kernels;
mod mask;
mod run;
mod tune;
mod wgsl;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::{Layout, Mask, Session, Shape};

/// What masks are made of, for help.
const MASKS: Masks = Masks;

/// The leaves that read nothing, those that read a tensor, and what isn't a leaf.
struct Masks;

impl fmt::Display for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |f: &mut fmt::Formatter<'_>, read_data: bool, others: &[(&str, &str)]| {
            let leaves = Mask::leaves().filter(|leaf| leaf.reads_data() == read_data);
            let forms = leaves.flat_map(|leaf| leaf.help()).chain(others);
            forms.into_iter().try_for_each(|(usage, text)| f.write_str(&help_line(usage, text)))
        };
        writeln!(f, "MASKS say which keys each query attends to. By name:")?;
        lines(f, false, &OPERATORS)?;
        writeln!(f, "and by name, reading a tensor of the file:")?;
        lines(f, true, &[WGSL])?;
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
        "what MASK keeps, the own position only where it keeps nothing else (Reformer)",
    ),
    ("per_head(MASK, ...)", "a mask for each head, or each run of heads"),
];

const WGSL: (&str, &str) = (
    "wgsl",
    "what the function of --wgsl-mask FILE keeps:
fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool;
a tensor x of the file, f32, i32 or bool, is read by calling x(index)",
);

const JOINED: &str = "\
A mask that appears twice reads the same tensors twice; with data=2 it reads those with _2 behind their names:
  documents | documents(data=2)
Joined by `!` (not), `&` (and), `|` (or), which bind in this order, and parentheses:
  'causal & key_lengths'    'prefix | causal'    'window(4,0) & !(documents | not_self)'";

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
#[command(version, after_help = format!("{EXAMPLES}\n\n{MASKS}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the devices, what they can do that matters here, and which kernels they would get.
    #[command(after_help = "EXAMPLE\n  wgpu-attention devices")]
    Devices,
    Mask(mask::Arguments),
    Run(run::Arguments),
    Wgsl(wgsl::Arguments),
    Kernels(kernels::Arguments),
    Bench(bench::Arguments),
    Tune(tune::Arguments),
}

/// Which device to work on.
#[derive(Debug, clap::Args)]
struct Device {
    /// The device: its number in `wgpu-attention devices`, or a part of its name. The fastest kind unless given. With
    /// `+matrices` behind it, it is opened with cooperative matrices, an experimental feature of wgpu's.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
}

impl Device {
    fn open(&self) -> wgpu_attention::Result<Session> {
        let options = self.device.as_deref().map(device_choice::parse).unwrap_or_default();
        Session::open_blocking(&options)
    }
}

/// How q, k, v and o lie.
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

/// A kernel to use instead of the best one.
#[derive(Debug, clap::Args)]
struct Kernel {
    /// Use this kernel (broadcast, tiled, decode_lanes, decode) instead of the one that is chosen.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
}

impl Kernel {
    fn parse(&self) -> wgpu_attention::Result<Option<ForwardKernel>> {
        self.kernel.as_deref().map(str::parse).transpose()
    }
}

fn main() -> ExitCode {
    env_logger::init();
    let done = match Cli::parse().command {
        Command::Devices => devices::list(),
        Command::Mask(arguments) => mask::show(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Wgsl(arguments) => wgsl::print(&arguments),
        Command::Kernels(arguments) => kernels::print(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
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
