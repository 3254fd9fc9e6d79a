//! Which kernel serves a problem, and why, in words.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernel::key::{ForwardConfig, ForwardKernel, KernelKey, RowAccess};
use crate::kernel::pipeline::Kernels;
use crate::kernel::source;
use crate::kernel::tiles::{Candidate, candidates, suitable_splits, variants};
use crate::mask::emit::MaskText;
use crate::mask::tile::TileGrid;
use crate::problem::Problem;
use crate::profile::Advice;

/// Every kernel, the best first: by the profile where it speaks for the problem, else by the table; and what became of
/// the profile, in words.
pub(super) fn considered(
    kernels: &Kernels,
    problem: &Problem,
    num_splits: Option<usize>,
) -> (Vec<Candidate>, String) {
    let mut considered = candidates(problem, kernels.traits(), num_splits);
    let Some((profile, device)) = kernels.profile() else {
        return (considered, String::new());
    };
    let choice = match profile.advice(device, problem) {
        Advice::Use(choice) => choice,
        Advice::Foreign => {
            let words = "; the profile is of another device or driver, so the table decides";
            return (considered, words.to_owned());
        }
        Advice::Silent => {
            let words = "; the profile has nothing like it, so the table decides";
            return (considered, words.to_owned());
        }
    };
    let found = considered.iter().enumerate().find_map(|(at, (kernel, form))| {
        let config = form.as_ref().ok().filter(|_| kernel.name() == choice.best.kernel)?;
        let others = variants(*config, kernels.traits());
        let mut all = std::iter::once(*config).chain(others);
        all.find(|config| config.tiles() == choice.best.tiles).map(|config| (at, *kernel, config))
    });
    let Some((at, kernel, config)) = found else {
        let words = format!(
            "; the profile's {} with {} isn't to be had here, so the table decides",
            choice.best.kernel, choice.best.tiles
        );
        return (considered, words);
    };
    considered[..=at].rotate_right(1);
    considered[0] = (kernel, Ok(config));
    let words = format!(
        "; `{kernel}` with these tiles as the profile measured ({:.3} ms)",
        choice.best.ns as f64 * 1e-6
    );
    (considered, words)
}

/// The forced kernel, or the first that serves.
pub(super) fn choose<K: Copy + PartialEq + fmt::Display, C: Copy>(
    considered: &[(K, Result<C, String>)],
    forced: Option<K>,
) -> Result<(K, C)> {
    let mut names = Vec::new();
    let mut reasons = Vec::new();
    for (kernel, form) in considered {
        match form {
            _ if forced.is_some_and(|forced| forced != *kernel) => {}
            Ok(config) => return Ok((*kernel, *config)),
            Err(reason) => {
                names.push(kernel.to_string());
                reasons.push(reason.as_str());
            }
        }
    }
    Err(Error::KernelRefused { kernel: names.join(", "), reason: reasons.join("; ") })
}

impl Kernels {
    /// The whole WGSL text of the forward kernel that serves `problem`, or of the one that is forced.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::with_kernel`]; nothing is compiled.
    pub fn wgsl(&self, problem: &Problem, forced: Option<ForwardKernel>) -> Result<String> {
        problem.validate()?;
        let (_, config) = choose(&considered(self, problem, None).0, forced)?;
        let mask = Arc::new(MaskText::new(&problem.mask, problem.shape.sequences.forms()));
        source::wgsl(&KernelKey::Forward { config, score: problem.score_text(), mask })
    }

    /// In words, what [`crate::AttentionPlan::new`] would choose for `problem` on this device.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; nothing is compiled.
    pub fn explain(&self, problem: &Problem) -> Result<String> {
        problem.validate()?;
        let (considered, advice) = considered(self, problem, None);
        let (kernel, config) = choose(&considered, None)?;
        let splits = suitable_splits(problem, self.traits(), &config);
        Ok(explain(problem, kernel, &config, &considered, splits) + &advice)
    }
}

/// The tiles of the kernel that [`crate::AttentionPlan::new`] chooses.
pub(super) fn chosen_grid(kernels: &Kernels, problem: &Problem) -> Result<TileGrid> {
    let (_, config) = choose(&considered(kernels, problem, None).0, None)?;
    Ok(config.grid)
}

/// The choice in words.
pub(super) fn explain(
    problem: &Problem,
    kernel: ForwardKernel,
    config: &ForwardConfig,
    considered: &[Candidate],
    num_splits: usize,
) -> String {
    let grid = config.grid;
    let mut text = format!(
        "kernel `{kernel}`, tiles of {} queries x {} keys, rows read {}; mask `{}`, its tiles classed {}",
        grid.block_q,
        grid.block_kv,
        match config.rows.access {
            RowAccess::Vec4 => "4 elements at a time",
            RowAccess::Wide => "4 elements at a time, in words of 64 bits",
            RowAccess::Scalar => "one by one (a length or stride isn't a multiple of 4)",
        },
        problem.mask,
        if problem.mask.needs_tile_map() {
            "by a map made on the device"
        } else {
            "by closed forms"
        },
    );
    let score = problem.score.words();
    if !score.is_empty() {
        // Writing to a String can't fail.
        let _ = write!(text, "; scores with {}", score.join(", "));
    }
    if problem.score_mod.is_some() {
        text.push_str("; scores through `score_mod`");
    }
    if let Some(rows) = config.form.packed_rows() {
        // Writing to a String can't fail.
        let _ = write!(text, "; {rows} packed rows, the keys in {num_splits} splits");
    }
    for (other, form) in considered {
        // Writing to a String can't fail.
        let _ = match form {
            Err(reason) => write!(text, "; not `{other}`: {reason}"),
            Ok(_) if *other != kernel => write!(text, "; `{other}` could serve too"),
            Ok(_) => Ok(()),
        };
    }
    text
}
