//! Where results, tools and logs are kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::column::{Check, Column};

/// Where results and tools are kept.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) root: PathBuf,
    pub(super) results: PathBuf,
}

impl Store {
    fn result(&self, check: Check) -> PathBuf {
        self.results.join(check.name() + ".json")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(name)
    }

    pub(super) fn keep(&self, check: Check, column: &Column) -> Result<()> {
        write(&self.result(check), &(serde_json::to_string_pretty(column)? + "\n"))
    }

    /// The last result, if there is one.
    pub(super) fn find(&self, check: Check) -> Result<Option<Column>> {
        let path = self.result(check);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display())).map(Some)
    }
}

/// Writes a file and the folders that it is in.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
