//! Steps that run one after the other, and the summary at the end.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use drivers::UNAVAILABLE;
use drivers::workspace::describe;

/// How a step ended.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    Skipped(String),
}

impl Outcome {
    fn of(status: ExitStatus, time: Duration) -> Self {
        match status.code() {
            Some(0) => Self::Passed(time),
            Some(code) if code == i32::from(UNAVAILABLE) => {
                Self::Skipped("it is unavailable here, as it says above".to_owned())
            }
            _ => Self::Failed(time),
        }
    }
}

/// What a command printed, on both of its streams as it came, and how it ended.
struct Captured {
    words: String,
    text: Vec<u8>,
    outcome: Outcome,
}

fn capture(mut command: Command) -> Result<Captured> {
    let (start, words) = (Instant::now(), describe(&command));
    let (mut output, input) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("`{words}` could not be started"))?;
    // The command has the pipe's other end, too, and would keep it open.
    drop(command);
    let mut text = Vec::new();
    output.read_to_end(&mut text)?;
    let outcome = Outcome::of(child.wait()?, start.elapsed());
    Ok(Captured { words, text, outcome })
}

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<(String, Outcome)>,
}

impl Report {
    /// Runs a command as one step, under a headline; tells whether it succeeded.
    pub(crate) fn run(&mut self, name: impl Into<String>, command: &mut Command) -> Result<bool> {
        let name = name.into();
        eprintln!("\n── {name}\n   {}", describe(command));
        let start = Instant::now();
        let status = command
            .status()
            .with_context(|| format!("`{}` could not be started", describe(command)))?;
        self.steps.push((name, Outcome::of(status, start.elapsed())));
        Ok(status.success())
    }

    /// Runs commands as a step each, two at a time, in their order: most drivers for CPUs compile one kernel at a time, which
    /// leaves half of two cores idle. One of the two prints as it goes; what the other prints follows when the first has ended.
    pub(crate) fn run_two_at_a_time(&mut self, steps: Vec<(String, Command)>) -> Result<()> {
        let queue = Mutex::new(steps.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            // It gets the second of them: this thread takes the first before it starts.
            let mut first = next();
            scope.spawn(move || {
                while let Some((name, command)) = next() {
                    // Where one couldn't be started, no more are.
                    if sender.send((name, capture(command))).is_err() {
                        return;
                    }
                }
            });
            while let Some((name, mut command)) = first.take().or_else(next) {
                self.run(name, &mut command)?;
                for (name, captured) in ended.try_iter() {
                    self.show(name, captured?)?;
                }
            }
            for (name, captured) in ended {
                self.show(name, captured?)?;
            }
            Ok(())
        })
    }

    /// Prints what a command printed, and notes how it ended.
    fn show(&mut self, name: String, captured: Captured) -> Result<()> {
        let Captured { words, text, outcome } = captured;
        eprintln!("\n── {name}\n   {words}");
        std::io::stderr().write_all(&text)?;
        self.steps.push((name, outcome));
        Ok(())
    }

    /// Notes a step that was left out, and says so at once.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        let (name, reason) = (name.into(), reason.into());
        eprintln!("\n── {name}\n   skipped: {reason}");
        self.steps.push((name, Outcome::Skipped(reason)));
    }

    /// Prints the summary, and gives the exit code that fits.
    pub(crate) fn finish(self) -> ExitCode {
        eprintln!("\n── summary\n{self}");
        let failed = self.steps.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.steps {
            match outcome {
                Outcome::Passed(time) => {
                    writeln!(f, "   ok      {:>7.1} s  {name}", time.as_secs_f64())?
                }
                Outcome::Failed(time) => {
                    writeln!(f, "   FAILED  {:>7.1} s  {name}", time.as_secs_f64())?
                }
                Outcome::Skipped(reason) => writeln!(f, "   skipped            {name}: {reason}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn every_command_counts() {
        let mut report = Report::default();
        let mut fails = Command::new("sh");
        // More than a pipe holds, in one line.
        fails.args(["-c", "head -c 70000 /dev/zero | tr '\\0' ' ' >&2; exit 3"]);
        let mut unavailable = Command::new("sh");
        unavailable.args(["-c", &format!("exit {UNAVAILABLE}")]);
        let steps = vec![
            ("passes".to_owned(), Command::new("true")),
            ("fails".to_owned(), fails),
            ("passes too".to_owned(), Command::new("true")),
            ("unavailable".to_owned(), unavailable),
        ];
        report.run_two_at_a_time(steps).unwrap();
        // They end in any order.
        report.steps.sort_by(|(one, _), (other, _)| one.cmp(other));
        let found: Vec<(&str, &str)> = (report.steps.iter())
            .map(|(name, outcome)| {
                let outcome = match outcome {
                    Outcome::Passed(_) => "passed",
                    Outcome::Failed(_) => "failed",
                    Outcome::Skipped(_) => "skipped",
                };
                (name.as_str(), outcome)
            })
            .collect();
        let expected = [
            ("fails", "failed"),
            ("passes", "passed"),
            ("passes too", "passed"),
            ("unavailable", "skipped"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_failed_step_shows_and_fails_the_whole() {
        let report = Report {
            steps: vec![
                ("build".into(), Outcome::Passed(Duration::from_millis(1500))),
                ("tests".into(), Outcome::Failed(Duration::from_secs(70))),
                ("more".into(), Outcome::Skipped("no driver".into())),
            ],
        };
        assert_eq!(
            report.to_string(),
            "   ok          1.5 s  build\n   FAILED     70.0 s  tests\n   skipped            more: no driver\n"
        );
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }
}
