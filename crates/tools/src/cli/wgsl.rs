//! `wgsl`: a kernel's source.

use crate::talk::Talk;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{Layout, Mask, Problem, Shape};

/// Print the WGSL source of the forward kernel that a device uses for a problem.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The sizes: batch, heads, key/value heads, queries, keys, head_dim, and head_dim_v if it differs.
    #[arg(long, value_name = "B,H,Hkv,Tq,Tk,D[,Dv]", value_parser = crate::parse_shape)]
    shape: Shape,

    /// The mask; see MASKS below.
    #[arg(long, value_name = "TEXT", default_value = "all")]
    mask: String,

    /// The memory layout of q, k, v and o.
    #[arg(long, value_enum, default_value_t)]
    layout: crate::LayoutName,

    #[command(flatten)]
    kernel: crate::Kernel,

    #[command(flatten)]
    device: crate::Device,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention wgsl --shape 1,8,8,1024,1024,64 --mask causal
  wgpu-attention wgsl --shape 2,32,8,1,4096,128 --mask 'causal & key_lengths' --kernel tiled --layout bshd";

pub(crate) fn print(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let mask: Mask = arguments.mask.parse()?;
    let kernel = arguments.kernel.kernel;
    let problem = Problem::new(arguments.shape).mask(mask).layout(Layout::from(arguments.layout));
    let text = arguments
        .device
        .open(talk)?
        .kernels()
        .wgsl(&problem, &PlanOptions::default().kernel(kernel))?;
    crate::print(|out| out.write_all(text.as_bytes()))
}
