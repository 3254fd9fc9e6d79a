//! ICD manifests: the small JSON files by which the Vulkan loader finds a driver's library.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Points a manifest at a library that lies at `library`, relative to the manifest.
///
/// The loader takes a path with a slash as relative to the manifest, and one without as a name to look for in the
/// system's folders. A relative one keeps working when the target folder is moved.
pub(crate) fn with_library(manifest: &str, library: &str) -> Result<String> {
    let mut manifest: Value =
        serde_json::from_str(manifest).context("the driver's ICD manifest isn't JSON")?;
    let icd = manifest
        .get_mut("ICD")
        .and_then(Value::as_object_mut)
        .context("the driver's ICD manifest has no object `ICD`")?;
    icd.insert("library_path".to_owned(), json!(format!("./{library}")));
    Ok(format!("{manifest:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_is_changed() {
        let manifest = r#"{"ICD": {"api_version": "1.4.354", "library_path": "libvulkan_lvp.so"},
                           "file_format_version": "1.0.1"}"#;
        let rewritten = with_library(manifest, "lib/libvulkan_lvp.so").unwrap();
        let rewritten: Value = serde_json::from_str(&rewritten).unwrap();
        assert_eq!(
            rewritten,
            json!({
                "ICD": {"api_version": "1.4.354", "library_path": "./lib/libvulkan_lvp.so"},
                "file_format_version": "1.0.1"
            })
        );
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(with_library("no json", "x.so").is_err());
        assert!(with_library(r#"{"file_format_version": "1.0.1"}"#, "x.so").is_err());
        assert!(with_library("[]", "x.so").is_err());
    }
}
