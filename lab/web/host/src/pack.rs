//! From the page's compiled code and its files to a folder that any file server serves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wasm_bindgen_cli_support::Bindgen;

/// `NAME=PATH`.
pub(crate) fn extra(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

/// Makes the site.
pub(crate) fn pack(
    wasm: &Path,
    files: &Path,
    extra: &[(String, PathBuf)],
    site: &Path,
) -> Result<()> {
    if site.exists() {
        fs::remove_dir_all(site).with_context(|| format!("removing {}", site.display()))?;
    }
    copy(files, site)?;
    for (name, path) in extra {
        copy(path, &site.join(name))?;
    }
    // Splits the code into what browsers load: a module of JavaScript and one of WebAssembly.
    let mut bindgen = Bindgen::new();
    bindgen.input_path(wasm).out_name("page").typescript(true).web(true)?;
    bindgen.remove_name_section(true).remove_producers_section(true);
    bindgen.generate(site).with_context(|| format!("packing {}", wasm.display()))?;
    Ok(())
}

/// Copies a file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
