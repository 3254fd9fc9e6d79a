//! All kernels that serve a problem, for programs that find out which is fastest.

use std::sync::Arc;
use std::time::Duration;

use super::attention::AttentionPlan;
use super::choice::Choice;
use crate::error::Result;
use crate::kernel::pipeline::Kernels;
use crate::problem::{Problem, Resolved};
use crate::profile::{self, Measured, Profile};

impl AttentionPlan {
    /// A plan by each kernel that serves the problem, with each of its sizes of tiles; the one that [`AttentionPlan::new`]
    /// would choose without a profile comes first. Each is compiled as the iterator comes to it.
    ///
    /// # Errors
    /// As [`AttentionPlan::new`].
    pub fn candidates(
        kernels: &Kernels,
        problem: &Problem,
    ) -> Result<impl ExactSizeIterator<Item = Result<Self>>> {
        let problem = Arc::new(Resolved::new(problem.clone())?);
        let choices = Choice::all_variants(kernels, &problem)?;
        Ok(choices.into_iter().map(move |choice| Self::of(kernels, &problem, choice)))
    }
}

impl Profile {
    /// Adds how long the device worked for a problem by each of some plans ([`AttentionPlan::candidates`]). Without plans
    /// there is nothing to add.
    #[must_use]
    pub fn measured<'a>(
        mut self,
        problem: &Problem,
        times: impl IntoIterator<Item = (&'a AttentionPlan, Duration)>,
    ) -> Self {
        let measured = times.into_iter().map(|(plan, time)| Measured {
            kernel: plan.kernel().name().to_owned(),
            tiles: plan.tiles(),
            ns: time.as_nanos() as u64,
        });
        if let Some(choice) = profile::Choice::new(problem, measured.collect()) {
            self.add(choice);
        }
        self
    }
}
