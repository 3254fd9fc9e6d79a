//! `kernels`: the source of every kernel, for checks by other compilers.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};

use anyhow::bail;
use wgpu_attention::kernel::{KernelText, kernel_texts};

/// Print the source of every kernel that some device may choose, one JSON object per line.
///
/// A filter is required when stdout is a terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Only kernels whose names contain this.
    filter: Option<String>,
}

const EXAMPLES: &str = "\
The fields are kernel, form, entry_point, wgsl, browser_prelude (what browsers need before it), matrices (whether it uses wgpu's
cooperative matrices) and spirv (of such kernels, the words that Vulkan gets instead of the WGSL). No device is opened.

EXAMPLES
  wgpu-attention kernels | jq -r .kernel | sort | uniq -c
  wgpu-attention kernels 'forward tiled' | head -1 | jq -r .wgsl";

pub(crate) fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let mut texts = kernel_texts();
    let names: BTreeSet<String> = texts.iter().map(|text| text.kernel.clone()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    match &arguments.filter {
        None if io::stdout().is_terminal() => bail!(
            "{} kernels are too many for a terminal: give a part of a name, or redirect stdout to a file or a pipe; there are {names}",
            texts.len()
        ),
        None => {}
        Some(filter) => {
            texts.retain(|text| text.kernel.contains(filter));
            if texts.is_empty() {
                bail!("no kernel has `{filter}` in its name; there are {names}");
            }
        }
    }
    crate::print(|out| {
        for text in texts {
            let spirv = text.ordered_spirv().transpose().map_err(io::Error::other)?;
            let KernelText { kernel, form, entry_point, wgsl, browser_prelude, matrices } = text;
            let line = serde_json::json!({
                "kernel": kernel,
                "form": form,
                "entry_point": entry_point,
                "wgsl": wgsl,
                "browser_prelude": browser_prelude,
                "matrices": matrices,
                "spirv": spirv,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}
