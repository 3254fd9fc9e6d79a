//! The test that modules import one way: docs/ARCHITECTURE.md draws the same order.

use std::path::{Path, PathBuf};

/// From what knows nothing to what knows everything; a module imports only from rows above its own.
const LAYERS: &[&[&str]] = &[
    &["error", "setters", "suggest"],
    &["tensor", "score", "custom"],
    &["auxiliary"],
    &["mask"],
    &["problem"],
    &["reference", "device", "profile"],
    &["readback", "kernel"],
    &["plan"],
    &["cache"],
    &["session"],
    &["onnx", "gradient_check"],
];

/// Modules that compute on the CPU alone.
const WITHOUT_WGPU: &[&str] =
    &["error", "suggest", "tensor", "score", "custom", "auxiliary", "mask", "problem", "reference"];

/// A file of those modules that holds the device's side all the same: the reference doesn't use it.
const OF_THE_DEVICE: &str = "auxiliary/buffers.rs";

#[test]
fn modules_import_one_way() {
    for (module, path) in source_files() {
        let rank = rank_of(&module);
        let text = code(&path);
        for import in imports(&text) {
            assert!(
                import == module || rank_of(&import) < rank,
                "{}: `{module}` imports `{import}`, which isn't below it",
                path.display()
            );
        }
    }
}

#[test]
fn the_reference_never_sees_wgpu() {
    for (module, path) in source_files() {
        if WITHOUT_WGPU.contains(&module.as_str()) && !path.ends_with(OF_THE_DEVICE) {
            assert!(!code(&path).contains("wgpu::"), "{} uses wgpu", path.display());
        }
    }
}

#[test]
fn nothing_opens_a_socket() {
    for (_, path) in source_files() {
        assert!(!code(&path).contains("std::net"), "{} uses the network", path.display());
    }
}

fn rank_of(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("`{module}` has no place in LAYERS"))
}

/// The file's lines that aren't comments, up to its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What follows each `crate::`, but for what lib.rs itself exports.
fn imports(text: &str) -> Vec<String> {
    let name = |rest: &str| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
    };
    let found = text.split("crate::").skip(1).filter_map(name);
    found.filter(|name| name.starts_with(char::is_lowercase)).collect()
}

/// Every file of src/ that belongs to a module, with the module's name.
fn source_files() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = path.strip_prefix(&root).unwrap().components().next().unwrap();
            let module = module.as_os_str().to_string_lossy().replace(".rs", "");
            match module.as_str() {
                "bin" | "lib" | "architecture" => {}
                _ if path.is_dir() => folders.push(path),
                _ => files.push((module, path)),
            }
        }
    }
    assert!(files.len() > 15, "the source files weren't found");
    files
}
