//! The note in a driver's folder that says what it is. A folder without one is no finished driver.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::probe::Adapter;

/// Counts the ways in which drivers' folders have been laid out: another number than this, and it is made again.
const LAYOUT: u64 = 1;

const FILE: &str = "stamp.json";

/// What a driver's folder has in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stamp {
    /// Where its packages came from, as [`Recipe::name`](crate::host::Recipe::name) tells.
    pub(crate) recipe: String,
    /// The driver's package and version.
    pub(crate) package: String,
    /// What the probe found when it ran on the driver; nothing for one that can't run.
    pub(crate) adapter: Option<Adapter>,
}

impl Stamp {
    /// The note in this folder; `None` if there is none, or one of another layout.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        Self::from_json(&serde_json::from_str(&fs::read_to_string(folder.join(FILE)).ok()?).ok()?)
    }

    /// Leaves the note; the last thing done in a folder before it is moved to its place.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        fs::write(&path, format!("{:#}\n", self.to_json()))
            .with_context(|| format!("writing {}", path.display()))
    }

    fn to_json(&self) -> Value {
        json!({
            "layout": LAYOUT,
            "recipe": self.recipe,
            "package": self.package,
            "adapter": self.adapter.as_ref().map(Adapter::to_json),
        })
    }

    fn from_json(json: &Value) -> Option<Self> {
        if json.get("layout")?.as_u64()? != LAYOUT {
            return None;
        }
        Some(Self {
            recipe: json.get("recipe")?.as_str()?.to_owned(),
            package: json.get("package")?.as_str()?.to_owned(),
            adapter: match json.get("adapter")? {
                Value::Null => None,
                adapter => Some(Adapter::from_json(adapter)?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_another_layout_dont_count() {
        let adapter = json!({
            "name": "n", "driver": "d", "backend": "vulkan", "is_gpu": false, "subgroups": [8, 8],
        });
        let stamp = Stamp {
            recipe: "system".into(),
            package: "mesa-vulkan-drivers 26.1.6".into(),
            adapter: Some(Adapter::from_json(&adapter).unwrap()),
        };
        let mut json = stamp.to_json();
        assert_eq!(Stamp::from_json(&json), Some(stamp));
        json["layout"] = json!(LAYOUT + 1);
        assert_eq!(Stamp::from_json(&json), None);
    }
}
