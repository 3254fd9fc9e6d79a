//! The command line: devices, masks, attention over tensor files, the kernels' text and their speed.
//!
//! What it prints on stdout, its options and its exit codes (0: done, 1: failed, 2: wrong usage) are a contract.

mod bench;
mod devices;
mod function;
mod kernels;
mod mask;
mod run;
mod tune;
mod wgsl;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use wgpu_attention::{Attention, DeviceChoice, ForwardKernel, Layout, Shape};

const MASKS: &str = "\
MASKS say which keys each query attends to. By name:
  all                       every key
  causal                    the query's own position and those before it; the last query stands at the last key
  causal(upper_left)        the same, but the first query stands at the first key
  causal(offset=N)          kv_idx <= q_idx + N
  window(LEFT,RIGHT)        so many keys before and after the own position; `inf` for all
  not_self                  every key but the query's own position
  self_only_if_alone(MASK)  what MASK keeps, the own position only where it keeps nothing else (Reformer)
  chunk(SIZE)               the keys of the own position's chunk of so many positions (Llama 4)
  dilated(WINDOW,STEP)      every STEPth key, up to WINDOW of them on either side
  strided(STEP)             every STEPth key, counted from the own position
  global(TOKENS)            the first keys for every query, every key for the first queries (Longformer, BigBird)
  per_head(MASK, ...)       a mask for each head, or each run of heads
and by name, reading a tensor of the file:
  key_lengths               the first key_lengths[b] keys: i32 [batch]
  prefix                    the first prefix_lengths[b] keys: i32 [batch]
  key_padding               keys whose key_padding isn't 0: u8 or bool [batch, seq_len_kv]
  token_padding             keys whose token_ids aren't the pad id: i32 [batch, seq_len_kv]
  documents                 keys of the query's own document: i32 document_ids [batch, seq_len],
                            or document_ids_q and document_ids_kv
  block_bidirectional       keys of the query's own block: i32 block_ids [batch, seq_len], or block_ids_q and
                            block_ids_kv; negative in no block
  buckets                   keys of the own position's bucket in some round:
                            i32 bucket_ids [batch, heads or 1, rounds, seq_len_kv] (Reformer's LSH)
  column_ranges             all but the rows that each key's column_ranges name:
                            i32 [batch, heads or 1, seq_len_kv, 1: start, 2: start end, 4: two ranges] (FlashMask)
  column_ranges(bidirectional)
                            all but the rows from the first bound on and before the second
  tree                      keys before the last seq_len_q, the own position and its ancestors:
                            i32 tree_parents [batch, seq_len_q], -1 for a root (speculative decoding)
  wgsl                      what the function of --wgsl-mask FILE keeps:
                            fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool;
                            a tensor x of the file, f32, i32 or bool, is read by calling x(index)
  dense                     cells whose dense isn't 0: u8 or bool, broadcasts to [batch, heads, seq_len_q, seq_len_kv]
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
    fn open(&self) -> wgpu_attention::Result<Attention> {
        let choice = self.device.as_deref().map_or(DeviceChoice::Best, DeviceChoice::from);
        Attention::open_blocking(&choice)
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
        .seq_kv(seq_len_kv)
        .kv_heads(num_kv_heads)
        .dim_v(head_dim_v))
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
