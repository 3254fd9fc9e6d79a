//! Output besides the results: warnings, progress, the choice of kernels.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::TileGrid;

/// How much is printed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Talk {
    /// Also print why the kernel was chosen, and the alternatives.
    #[arg(long, short, global = true, conflicts_with = "quiet", display_order = 900)]
    pub(crate) verbose: bool,

    /// Print only results and errors: no warnings, progress or summary.
    #[arg(long, short, global = true, display_order = 901)]
    pub(crate) quiet: bool,
}

impl Talk {
    /// A line on stderr about something that may not be meant.
    pub(crate) fn warn(self, text: &str) {
        if !self.quiet {
            // Nobody is left to be told where stderr is closed.
            let _ = writeln!(io::stderr(), "warning: {text}");
        }
    }

    /// A line on a terminal's stderr about what is being done; nothing elsewhere.
    pub(crate) fn spinner(self) -> Progress {
        let bar = self.shown(ProgressBar::new_spinner());
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// The same for so many steps.
    pub(crate) fn steps(self, steps: usize) -> Progress {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress(self.shown(ProgressBar::new(steps as u64)).with_style(style))
    }

    fn shown(self, bar: ProgressBar) -> ProgressBar {
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar
    }
}

/// A progress line, cleared when dropped, so that an error starts on an empty line.
pub(crate) struct Progress(pub(crate) ProgressBar);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A plan's choice in words, a line for each clause.
pub(crate) fn clauses(choice: &str) -> impl Iterator<Item = &str> {
    choice.split("; ")
}

/// A kernel and its tiles.
pub(crate) fn in_short(kernel: ForwardKernel, grid: TileGrid) -> String {
    format!("`{kernel}`, tiles of {} queries x {} keys", grid.block_q, grid.block_kv)
}
