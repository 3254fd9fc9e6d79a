//! Vulkan's validation layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drivers::workspace::Workspace;

use super::store::{Store, write};

/// Vulkan's validation layer, which writes what it finds into a file.
pub(super) struct Layer {
    folder: PathBuf,
    pub(super) package: String,
    settings: PathBuf,
    log: PathBuf,
}

impl Layer {
    pub(super) fn set_up(workspace: &Workspace, store: &Store) -> Result<Self> {
        let (folder, package) = drivers::validation_layer(workspace)?;
        let settings = store.root.join("validation/vk_layer_settings.txt");
        let log = store.log("validation-layer.log");
        // It says at `info` that it is there, and what it checks.
        write(
            &settings,
            &format!(
                "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
                 khronos_validation.log_filename = {}\n\
                 khronos_validation.report_flags = error,warn,info\n\
                 khronos_validation.validate_sync = true\n\
                 khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT\n",
                log.display()
            ),
        )?;
        write(&log, "")?;
        Ok(Self { folder, package, settings, log })
    }

    pub(super) fn apply(&self, command: &mut Command) {
        command
            .env("VK_LAYER_PATH", &self.folder)
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_LAYER_SETTINGS_PATH", &self.settings)
            .env("WGPU_VALIDATION", "1");
    }

    /// What it objected to, each once. It is an error if it doesn't say that it was there and checked synchronisation.
    pub(super) fn messages(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.log)
            .with_context(|| format!("reading {}", self.log.display()))?;
        messages(&text).with_context(|| {
            format!("the layer wasn't there: see {}", Path::new(&self.log).display())
        })
    }
}

fn messages(log: &str) -> Result<Vec<String>> {
    ensure!(log.contains("Khronos Validation Layer Active"), "it doesn't say that it is active");
    ensure!(
        log.contains("SYNCHRONIZATION_VALIDATION") || log.contains("validate_sync"),
        "it doesn't say that it checks synchronisation"
    );
    let mut found: Vec<String> = log
        .lines()
        .filter(|line| {
            ["Validation Error:", "Validation Warning:", "Validation Performance Warning:"]
                .iter()
                .any(|start| line.contains(start))
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_silent_is_not_there() {
        assert!(messages("").is_err());
        let there = "Validation Information: Khronos Validation Layer Active: Current Enables: \
                     VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT.\n";
        assert_eq!(messages(there).unwrap(), [""; 0]);
        let found = format!("{there}Validation Error: [ X ] a\nValidation Error: [ X ] a\n");
        assert_eq!(messages(&found).unwrap(), ["Validation Error: [ X ] a"]);
    }
}
