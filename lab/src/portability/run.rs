//! What runs of the device tests printed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What a test prints where a kernel refuses.
const REFUSED: &str = "refused: ";

/// What runs of the tests printed: of all of them, or of selections one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The driver, and what it was on.
    pub(super) device: String,
    /// Names, and whether they passed.
    pub(super) tests: BTreeMap<String, bool>,
    /// Those whose kernels were compiled without optimisation.
    #[serde(default)]
    pub(super) unoptimised: BTreeSet<String>,
    /// Kernels that refused: the test's name and the reason.
    pub(super) refusals: BTreeMap<String, String>,
    /// The validation layer, if there was one, and what it objected to.
    pub(super) layer: Option<String>,
    pub(super) messages: Vec<String>,
}

impl Run {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut run = Self::default();
        let mut shown = None;
        for line in text.lines() {
            if let Some((name, result)) = outcome(line) {
                if !result.starts_with("ignored") {
                    run.tests.insert(name.to_owned(), result == "ok");
                }
            } else if let Some(name) =
                line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                shown = Some(name.to_owned());
            } else if let (Some(name), Some(reason)) = (&shown, line.strip_prefix(REFUSED)) {
                run.refusals.insert(name.clone(), reason.to_owned());
            }
        }
        let ended = text.lines().any(|line| line.starts_with("test result: "));
        ensure!(
            ended && !run.tests.is_empty(),
            "the tests broke off after {} of them:\n{}",
            run.tests.len(),
            text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
        Ok(run)
    }

    /// Adds what other tests found before, on the same device.
    pub(super) fn join(&mut self, before: Self) {
        if before.device != self.device || before.layer != self.layer {
            return;
        }
        let own: Vec<String> = self.tests.keys().cloned().collect();
        for (name, passed) in before.tests {
            self.tests.entry(name).or_insert(passed);
        }
        self.unoptimised.extend(before.unoptimised.into_iter().filter(|name| !own.contains(name)));
        for (name, reason) in before.refusals {
            if !own.contains(&name) {
                self.refusals.insert(name, reason);
            }
        }
        self.messages.extend(before.messages);
        self.messages.sort();
        self.messages.dedup();
    }
}

/// The name of a test, which is in some module, and what came of it. Its line may begin behind half a line of a layer's,
/// which shares the output.
fn outcome(line: &str) -> Option<(&str, &str)> {
    let (before, result) = line.split_once(" ... ")?;
    let (_, name) = before.rsplit_once("test ")?;
    let ended = ["ok", "FAILED", "ignored"].iter().any(|word| result.starts_with(word));
    (ended && name.contains("::") && !name.contains(' ')).then_some((name, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_of_a_layer_hides_no_test() {
        assert_eq!(
            outcome("validation-latest matrix::sizes ... ok"),
            Some(("matrix::sizes", "ok"))
        );
        assert_eq!(outcome("test a::b has been running for over 60 seconds"), None);
        assert_eq!(outcome("what this test prints ... ok"), None);
    }
}
