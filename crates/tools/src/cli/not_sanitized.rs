//! In the place of sanitized.rs, without the feature `sanitize`: there is no such option.

use std::path::Path;

use wgpu_attention::{Problem, Session, Shape};

use crate::talk::Talk;

/// No option.
#[derive(Debug, clap::Args)]
pub(crate) struct Sanitize {}

/// There is none.
pub(crate) struct Sanitized {
    pub(crate) session: Session,
}

impl Sanitize {
    pub(crate) fn device(
        &self,
        _: &[(&'static str, Option<&Path>)],
    ) -> anyhow::Result<Option<Sanitized>> {
        Ok(None)
    }

    pub(crate) fn check_mask(&self, _: &Shape) -> anyhow::Result<()> {
        Ok(())
    }

    pub(crate) fn check_problem(&self, _: &Problem) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Sanitized {
    pub(crate) fn check(&self, _: Talk) -> anyhow::Result<()> {
        Ok(())
    }
}
