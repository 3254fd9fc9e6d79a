//! Progress of what takes long: a bar on a terminal, a line at the start and at the end elsewhere (logs of CI).
//!
//! It all goes to standard error: standard output belongs to what was asked for.

use std::io::{self, BufRead as _, BufReader, Read};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// The progress of one thing, counted in bytes.
pub(crate) struct Progress {
    label: String,
    bar: ProgressBar,
    start: Instant,
}

impl Progress {
    /// Begins; `total` is the number of bytes, where it is known.
    pub(crate) fn new(label: impl Into<String>, total: Option<u64>) -> Self {
        let label = label.into();
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(
                "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec:>12} {eta:>4}",
            )),
            None => ProgressBar::new_spinner().with_style(style("{prefix} {spinner}")),
        };
        // The bar hides itself where standard error isn't a terminal.
        bar.set_prefix(label.clone());
        if bar.is_hidden() {
            match total {
                Some(total) => eprintln!("{label}: {} …", HumanBytes(total)),
                None => eprintln!("{label} …"),
            }
        } else {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { label, bar, start: Instant::now() }
    }

    /// So many bytes are done.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// So many percent are done.
    pub(crate) fn set_percent(&self, percent: f64) {
        if let Some(total) = self.bar.length() {
            self.bar.set_position((total as f64 * percent / 100.0) as u64);
        }
    }

    /// Ends it with a line that stays.
    pub(crate) fn finish(self) {
        let hidden = self.bar.is_hidden();
        self.bar.finish_and_clear();
        let size = match self.bar.length() {
            Some(total) if !hidden => format!("{}, ", HumanBytes(total)),
            _ => String::new(),
        };
        eprintln!("{}: done ({size}{:.1} s)", self.label, self.start.elapsed().as_secs_f64());
    }
}

/// The progress of steps that are counted.
pub struct Steps(Progress);

impl Steps {
    /// Begins; how many there are is told later.
    pub fn new(label: impl Into<String>) -> Self {
        Self(Progress::new(label, None))
    }

    /// How many there are.
    pub fn set_total(&self, total: u64) {
        self.0.bar.set_style(style("{prefix} [{bar:30}] {pos}/{len} {elapsed}"));
        self.0.bar.set_length(total);
    }

    /// One is done.
    pub fn step(&self) {
        self.0.bar.inc(1);
    }

    /// Reads lines to their end: one of them tells the total, some of them are steps.
    pub fn follow(
        self,
        lines: impl Read,
        total: impl Fn(&str) -> Option<u64>,
        is_step: impl Fn(&str) -> bool,
    ) -> io::Result<String> {
        let mut text = String::new();
        for line in BufReader::new(lines).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if let Some(total) = total(&line) {
                self.set_total(total);
            } else if is_step(&line) {
                self.step();
            }
            text += &line;
            text.push('\n');
        }
        self.finish();
        Ok(text)
    }

    /// Ends it with a line that stays.
    pub fn finish(self) {
        let Progress { label, bar, start } = self.0;
        bar.finish_and_clear();
        eprintln!("{label}: done ({:.1} s)", start.elapsed().as_secs_f64());
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants that parse")
}
