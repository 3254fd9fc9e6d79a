//! `kernels`: the text of every kernel, for checks by other compilers.

use wgpu_attention::kernel::{KernelText, kernel_texts};

/// Print the text of every kernel that some device may choose, a JSON object in a line each.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Only kernels with this in their names.
    filter: Option<String>,
}

const EXAMPLES: &str = "\
The fields are kernel, form, entry_point, wgsl, browser_prelude (what browsers want in front of it) and matrices (whether it
uses wgpu's cooperative matrices). No device is opened.

EXAMPLES
  wgpu-attention kernels | jq -r .kernel | sort | uniq -c
  wgpu-attention kernels 'forward tiled' | head -1 | jq -r .wgsl";

pub(crate) fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = arguments.filter.as_deref().unwrap_or_default();
    let texts = kernel_texts().into_iter().filter(|text| text.kernel.contains(wanted));
    crate::print(|out| {
        for KernelText { kernel, form, entry_point, wgsl, browser_prelude, matrices } in texts {
            let line = serde_json::json!({
                "kernel": kernel,
                "form": form,
                "entry_point": entry_point,
                "wgsl": wgsl,
                "browser_prelude": browser_prelude,
                "matrices": matrices,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}
