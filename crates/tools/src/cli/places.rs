//! The files that a command is going to write, looked at before it does anything.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A file to write, and the option that names it.
pub(crate) struct Place<'a> {
    option: &'static str,
    path: &'a Path,
    /// Whether the file is written beside its place and moved there.
    is_moved: bool,
}

impl<'a> Place<'a> {
    pub(crate) fn new(option: &'static str, path: &'a Path) -> Self {
        Self { option, path, is_moved: false }
    }

    /// The same for a file that is written beside its place and moved there.
    pub(crate) fn moved(self) -> Self {
        Self { is_moved: true, ..self }
    }

    /// The same for a picture, whose name says what kind of one.
    ///
    /// # Errors
    /// Where it says none that there is.
    pub(crate) fn picture(option: &'static str, path: &'a Path) -> anyhow::Result<Self> {
        let kind = path.extension().and_then(|extension| extension.to_str());
        match kind.map(str::to_lowercase).as_deref() {
            Some("png" | "svg") => Ok(Self::new(option, path)),
            _ if is_special(path) => Ok(Self::new(option, path)),
            _ => bail!("{option} {}: expected a name that ends in .png or .svg", path.display()),
        }
    }

    /// # Errors
    /// Where nothing can be written there.
    fn check(&self) -> anyhow::Result<()> {
        let Self { option, path, is_moved } = self;
        let shown = path.display();
        if path.is_dir() {
            bail!("{option} {shown}: this is a folder; name a file in it");
        }
        // Opening it would wait for its reader.
        if is_special(path) {
            return Ok(());
        }
        let path = real(path);
        let folder = folder(&path);
        if !folder.is_dir() {
            bail!("{option} {shown}: there is no folder {}; make it first", folder.display());
        }
        let written = match path.exists() {
            true => fs::OpenOptions::new().append(true).open(&path).map(drop),
            false => Ok(()),
        };
        let beside = || match path.exists() && !is_moved {
            true => Ok(()),
            false => tempfile::tempfile_in(&folder).map(drop),
        };
        written
            .and_then(|()| beside())
            .with_context(|| format!("{option} {shown} can't be written"))
    }
}

/// Whether it's a pipe or a device.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !(found.is_file() || found.is_dir()))
}

/// Whether every place can be written to, none is an input, and none is named twice. Nothing is written.
///
/// # Errors
/// What is wrong with the first place where something is.
pub(crate) fn check(places: &[Place<'_>], inputs: &[Option<&Path>]) -> anyhow::Result<()> {
    for (at, place) in places.iter().enumerate() {
        let Place { option, path, .. } = place;
        let own = real(path);
        if let Some(input) = inputs.iter().flatten().find(|input| real(input) == own) {
            bail!(
                "{option} {}: this is the input {}; write to another file",
                path.display(),
                input.display()
            );
        }
        if let Some(other) = places[..at].iter().find(|other| real(other.path) == own) {
            bail!("{option} {}: {} names the same file", path.display(), other.option);
        }
        place.check()?;
    }
    Ok(())
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A path without links; of a file that isn't there yet, its folder's.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = folder(path).canonicalize().unwrap_or_else(|_| folder(path));
        folder.join(path.file_name().unwrap_or_default())
    })
}
