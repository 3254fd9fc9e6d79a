//! A bar on a terminal, a line now and then elsewhere.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of a training run.
pub(crate) struct Progress {
    bar: ProgressBar,
    name: String,
    start: Instant,
}

impl Progress {
    pub(crate) fn new(name: &str, steps: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg} {eta:>5}")
            .expect("the template is a constant that parses");
        let bar = ProgressBar::new(steps as u64).with_style(style).with_prefix(name.to_owned());
        Self { bar, name: name.to_owned(), start: Instant::now() }
    }

    /// The step from 0 is done, with this loss.
    pub(crate) fn step(&self, step: usize, loss: f32) {
        self.bar.set_message(format!("loss {loss:.3}"));
        self.bar.inc(1);
        if self.bar.is_hidden() && (step + 1).is_multiple_of(50) {
            let seconds = self.start.elapsed().as_secs_f64();
            eprintln!("{}: step {}, loss {loss:.3}, {seconds:.0} s", self.name, step + 1);
        }
    }

    /// Ends it; the seconds that it took.
    pub(crate) fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.start.elapsed().as_secs_f64()
    }
}
