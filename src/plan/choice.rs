//! Which kernel serves a problem, and why, in words.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::attention::PlanOptions;
use super::cut::Bounds;
use super::mask_tables;
use super::windows::{self, Windows};
use crate::error::{Error, Result};
use crate::kernel::key::{ForwardConfig, ForwardKernel, KernelKey, RowAccess};
use crate::kernel::limits::Needs;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source;
use crate::kernel::tiles::{Candidate, Splitting, candidates, variants};
use crate::mask::tile::{ClassedBy, TileGrid};
use crate::problem::{Problem, Resolved};
use crate::profile::Advice;
use crate::tensor::sequences::KeySequences;

/// The forward kernel that was chosen for a problem on a device, and why.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) kernel: ForwardKernel,
    pub(crate) config: ForwardConfig,
    /// In how many splits the keys are; 1 for kernels that don't split them.
    pub(crate) num_splits: usize,
    /// The windows in which dispatches bind the queries and the keys.
    pub(crate) windows: Windows,
    considered: Vec<Candidate>,
    /// What became of the profile, in words.
    advice: String,
}

impl Choice {
    /// The kernel of the options, or the best one.
    ///
    /// # Errors
    /// [`Error::KernelRefused`] where it can't serve the problem on this device, [`Error::Operand`] for a number of splits that
    /// there can't be.
    pub(crate) fn new(
        kernels: &Kernels,
        problem: &Resolved,
        options: &PlanOptions,
    ) -> Result<Self> {
        let splitting = options.splitting()?;
        let (considered, advice) = match options.batch_invariant {
            // What was measured was measured for a size of the batch.
            true => (
                candidates(problem, kernels.traits(), splitting),
                "; chosen whatever the batch is".to_owned(),
            ),
            false => considered(kernels, problem, splitting),
        };
        let choice = Self::best(kernels, problem, options.kernel, splitting, (considered, advice))?;
        match options.batch_invariant && choice.windows_follow_the_batch(problem) {
            false => Ok(choice),
            true => Err(Error::operand(
                "batch_invariant",
                "keys that the device binds in one piece, where other sequences decide in which rows they lie: put them into a \
                 cache or a ring, use fewer at a time, or a device that binds more",
                format!(
                    "{} windows of them, which begin anywhere in a sequence",
                    choice.windows.looped.len()
                ),
            )),
        }
    }

    /// Whether windows of the keys begin elsewhere in a sequence if the others are of other lengths.
    fn windows_follow_the_batch(&self, problem: &Resolved) -> bool {
        let lie_anywhere = match problem.shape.sequences.kv {
            KeySequences::Packed { .. } | KeySequences::Paged { .. } => true,
            KeySequences::Cached { left_padded } => left_padded,
            KeySequences::Uniform | KeySequences::Ring => false,
        };
        lie_anywhere && !self.windows.looped.is_empty()
    }

    /// The best of the kernels that add up products in the order in which inspect and backward do it again: then the
    /// roundings in lse and in their scores are the same and cancel.
    pub(crate) fn in_order(kernels: &Kernels, problem: &Resolved) -> Result<Self> {
        let (mut considered, advice) = considered(kernels, problem, Splitting::Suitable);
        considered.retain(|(kernel, _)| !kernel.is_decode());
        Self::best(kernels, problem, None, Splitting::Suitable, (considered, advice))
    }

    /// The forced kernel, or the first that serves, in windows where it needs them.
    fn best(
        kernels: &Kernels,
        problem: &Resolved,
        forced: Option<ForwardKernel>,
        splitting: Splitting,
        (mut considered, advice): (Vec<Candidate>, String),
    ) -> Result<Self> {
        loop {
            let chosen = choose(&considered, forced)?;
            let all = (considered.clone(), advice.clone());
            match Self::of(kernels, problem, chosen, splitting, all) {
                Err(Error::KernelRefused { reason, .. }) => {
                    let refused = considered.iter_mut().filter(|(kernel, _)| *kernel == chosen.0);
                    refused.for_each(|(_, form)| *form = Err(reason.clone()));
                }
                choice => return choice,
            }
        }
    }

    /// Every kernel that serves, with its tiles of the table and with each other variant of them; the table's own choice
    /// comes first.
    pub(crate) fn all_variants(kernels: &Kernels, problem: &Resolved) -> Result<Vec<Self>> {
        let considered = candidates(problem, kernels.traits(), Splitting::Suitable);
        choose(&considered, None)?;
        let of = |chosen| {
            let all = (considered.clone(), String::new());
            Self::of(kernels, problem, chosen, Splitting::Suitable, all)
        };
        let serving = considered
            .iter()
            .filter_map(|(kernel, form)| form.as_ref().ok().map(|config| (*kernel, *config)));
        let all = serving.flat_map(|(kernel, config)| {
            let others = variants(config, kernels.traits());
            std::iter::once(config).chain(others).map(move |config| (kernel, config))
        });
        all.map(of).collect()
    }

    fn of(
        kernels: &Kernels,
        problem: &Resolved,
        (kernel, mut config): (ForwardKernel, ForwardConfig),
        splitting: Splitting,
        (considered, advice): (Vec<Candidate>, String),
    ) -> Result<Self> {
        let traits = kernels.traits();
        let mut num_splits = match config.form.is_split() {
            false => 1,
            true => splitting.count(problem, traits, &config),
        };
        let windows = windows::of_forward(problem, &config, num_splits, &Bounds::of(traits))?;
        config = config.of_windows(windows.windowed());
        if config.windows.looped {
            let count = windows.looped.len();
            if config.form.is_split() {
                num_splits = (num_splits / count).max(1) * count;
            }
            let needs = Needs::of_forward(&config, problem.score.bias);
            needs.refusal(&traits.limits).map_err(|reason| Error::KernelRefused {
                kernel: kernel.to_string(),
                reason: format!("for {count} windows of the keys, {reason}"),
            })?;
        }
        Ok(Self { kernel, config, num_splits, windows, considered, advice })
    }

    /// The choice in words: the kernel, its tiles, and why the others weren't taken.
    pub(crate) fn explain(&self, problem: &Resolved, classed_by: ClassedBy) -> String {
        let Self { kernel, config, num_splits, .. } = self;
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
            match classed_by {
                ClassedBy::ClosedForms => "by closed forms",
                ClassedBy::Map => "by a map made on the device",
                ClassedBy::Bounds => "by bounds of its data, found on the device",
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
        if let Some(p) = problem.drops() {
            // Writing to a String can't fail.
            let _ = write!(text, "; dropout of {p}");
        }
        if let Some(rows) = config.form.packed_rows() {
            // Writing to a String can't fail.
            let _ = write!(text, "; {rows} packed rows, the keys in {num_splits} splits");
        }
        let Windows { own, looped } = &self.windows;
        for (rows, windows) in [("queries", own), ("keys", looped)] {
            if !windows.is_empty() {
                // Writing to a String can't fail.
                let _ =
                    write!(text, "; the {rows} in {} windows that the device binds", windows.len());
            }
        }
        for (other, form) in &self.considered {
            // Writing to a String can't fail.
            let _ = match form {
                Err(reason) => write!(text, "; not `{other}`: {reason}"),
                Ok(_) if other != kernel => write!(text, "; `{other}` could serve too"),
                Ok(_) => Ok(()),
            };
        }
        text + &self.advice
    }
}

/// Every kernel, the best first: by the profile where it speaks for the problem, else by the table; and what became of
/// the profile, in words.
fn considered(
    kernels: &Kernels,
    problem: &Resolved,
    splitting: Splitting,
) -> (Vec<Candidate>, String) {
    let mut considered = candidates(problem, kernels.traits(), splitting);
    let Some((profile, device)) = kernels.profile() else {
        return (considered, String::new());
    };
    let choice = match profile.advice(device, problem) {
        Advice::Use(choice) => choice,
        Advice::Foreign => {
            let words = "the profile is of another device or driver; using the default table";
            kernels.warn_once(words);
            return (considered, format!("; {words}"));
        }
        Advice::Silent => {
            let words = "; the profile has measured nothing like it; using the default table";
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
            "the profile's kernel `{}` with {} is unavailable on this device; using the default table",
            choice.best.kernel, choice.best.tiles
        );
        kernels.warn_once(&words);
        return (considered, format!("; {words}"));
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
    /// The whole WGSL text of the forward kernel that [`crate::AttentionPlan::new`] would choose.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; nothing is compiled.
    pub fn wgsl(&self, problem: &Problem, options: &PlanOptions) -> Result<String> {
        let problem = Resolved::new(problem.clone())?;
        let config = Choice::new(self, &problem, options)?.config;
        let layout = mask_tables::layout(self, &problem, Some(config.grid))?;
        let mask = Arc::new(mask_tables::text(&problem, &layout));
        source::wgsl(&KernelKey::Forward { config, score: problem.score_text.clone(), mask })
    }

    /// The kernel that [`crate::AttentionPlan::new`] would choose for `problem` on this device, and its tiles.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; nothing is compiled.
    pub fn choose(
        &self,
        problem: &Problem,
        options: &PlanOptions,
    ) -> Result<(ForwardKernel, TileGrid)> {
        let problem = Resolved::new(problem.clone())?;
        let Choice { kernel, config, .. } = Choice::new(self, &problem, options)?;
        Ok((kernel, config.grid))
    }

    /// In words, what [`crate::AttentionPlan::new`] would choose for `problem` on this device.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; nothing is compiled.
    pub fn explain(&self, problem: &Problem, options: &PlanOptions) -> Result<String> {
        let problem = Resolved::new(problem.clone())?;
        let choice = Choice::new(self, &problem, options)?;
        let layout = mask_tables::layout(self, &problem, Some(choice.config.grid))?;
        Ok(choice.explain(&problem, layout.classed_by))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::custom::{WgslBuffer, WgslFunction};
    use crate::device::faults::with_failing_allocation;
    use crate::kernel::pipeline::{KernelOptions, Kernels};
    use crate::plan::attention::AttentionPlan;
    use crate::plan::backward::BackwardPlan;
    use crate::profile::{DeviceId, Profile};
    use crate::score::ScoreModifiers;
    use crate::tensor::shape::Shape;

    thread_local! {
        static LINES: RefCell<Vec<(log::Level, String)>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps this crate's lines, each thread its own.
    struct Keeper;

    impl log::Log for Keeper {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target().starts_with("wgpu_attention")
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let line = (record.level(), record.args().to_string());
                LINES.with_borrow_mut(|lines| lines.push(line));
            }
        }

        fn flush(&self) {}
    }

    /// Windows of the keys take a buffer more of kernels that go on in o: with a bias, one more than there are.
    #[test]
    fn a_kernel_whose_windows_need_too_much_is_passed_over() {
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: 8 << 10,
            max_storage_buffers_per_shader_stage: 7,
            ..wgpu::Limits::default()
        };
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, _) = wgpu::Device::noop(&descriptor);
        let kernels = Kernels::new(&device, &KernelOptions::default());
        let score = ScoreModifiers::default().bias(true);
        let problem = Problem::new(Shape::new(1, 1, 3, 20).seq_len_kv(203)).score(score);
        let problem = Resolved::new(problem).unwrap();
        let mut all = candidates(&problem, kernels.traits(), Splitting::Suitable);
        all.sort_by_key(|(kernel, _)| *kernel != ForwardKernel::Tiled);
        let best = |forced| {
            let all = (all.clone(), String::new());
            Choice::best(&kernels, &problem, forced, Splitting::Suitable, all)
        };
        assert_eq!(best(None).unwrap().kernel, ForwardKernel::Decode);
        let error = best(Some(ForwardKernel::Tiled)).unwrap_err().to_string();
        assert!(error.contains("windows of the keys"), "{error}");
    }

    #[test]
    fn choices_are_logged_and_fallbacks_once() {
        log::set_logger(&Keeper).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let (device, _) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let other = DeviceId::new(&wgpu::AdapterInfo {
            name: "another".to_owned(),
            ..device.adapter_info()
        });
        let options = KernelOptions::default()
            .profile(Profile::of(other, Vec::new()))
            .cache_dir(std::env::temp_dir());
        let kernels = Kernels::new(&device, &options);
        let problem = Problem::new(Shape::new(1, 1, 9, 8));
        for _ in 0..2 {
            AttentionPlan::new(&kernels, &problem, &Default::default()).unwrap();
        }
        // One that isn't made says nothing.
        let (failed, _) = with_failing_allocation(Some(0), || {
            AttentionPlan::new(&kernels, &problem, &Default::default())
        });
        assert!(failed.is_err());
        let lines = LINES.take();
        let starting = |level, start: &str| {
            lines.iter().filter(|(of, line)| *of == level && line.starts_with(start)).count()
        };
        assert_eq!(starting(log::Level::Warn, "no pipelines are kept: "), 1, "{lines:?}");
        // The noop backend calls itself a CPU.
        assert_eq!(starting(log::Level::Warn, "the fastest kernels for this"), 1, "{lines:?}");
        assert_eq!(starting(log::Level::Warn, "the profile is of another device"), 1, "{lines:?}");
        assert_eq!(starting(log::Level::Debug, "kernel `"), 2, "{lines:?}");
        assert_eq!(starting(log::Level::Debug, "compiled `forward` in "), 1, "{lines:?}");
        assert_eq!(lines.len(), 6, "{lines:?}");

        let text = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return score; }
            fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
            fn tabel_grad() {}";
        let function = WgslFunction::new(text).unwrap().buffer("table", WgslBuffer::F32, 8);
        let problem = problem.score_mod(function.unwrap());
        for _ in 0..2 {
            BackwardPlan::new(&kernels, &problem, &Default::default()).unwrap();
        }
        let lines = LINES.take();
        let told = lines.iter().filter(|(_, line)| line.contains("`tabel_grad`")).count();
        assert_eq!(told, 1, "{lines:?}");
    }
}
