//! From unpacked packages to the few libraries that a driver needs.
//!
//! A driver from another release needs that release's C library, and a process can have only one. So the programs that
//! use the driver run on that C library as well: they are started through its dynamic loader, `ld.so`, which is told
//! where its libraries are. It can also list what a library needs, and that is all that's kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::output;

/// Libraries that a program may want although the driver doesn't. (The last three are stubs, for old programs.)
const FOR_PROGRAMS: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];

/// The C library's own ones, which a process has from where its loader is.
const OF_THE_C_LIBRARY: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libresolv.so.2", "librt.so.1"];

/// A folder with unpacked packages.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl Tree {
    /// Looks through the folder.
    pub(crate) fn scan(root: &Path) -> Result<Self> {
        let root = root.canonicalize()?;
        let mut files = Vec::new();
        walk(&root, &mut files)?;
        files.sort();
        Ok(Self { root, files })
    }

    /// The file whose name starts and ends like this.
    pub(crate) fn find(&self, start: &str, end: &str) -> Result<&Path> {
        self.files
            .iter()
            .find(|path| name(path).starts_with(start) && name(path).ends_with(end))
            .map(PathBuf::as_path)
            .with_context(|| format!("the packages have no file {start}…{end}"))
    }

    /// The folder of this name that has such a file.
    pub(crate) fn folder_with(&self, folder: &str, file: &str) -> Result<&Path> {
        self.files
            .iter()
            .filter(|path| name(path) == file)
            .find_map(|path| path.parent().filter(|parent| parent.ends_with(folder)))
            .with_context(|| format!("the packages have no file {folder}/{file}"))
    }

    /// Links the given libraries, all that they need, the C library and its loader into the folder `kept`, flat and each
    /// under the name by which the others look for it. Gives the loader's name.
    pub(crate) fn keep(&self, libraries: &[&Path], kept: &Path) -> Result<String> {
        let loader = self.loader()?;
        fs::create_dir_all(kept)?;
        link(loader, &kept.join(name(loader)))?;
        for path in libraries {
            link(path, &kept.join(name(path)))?;
            for (needed, path) in self.needed_by(path, loader)? {
                link(&path, &kept.join(needed))?;
            }
        }
        for wanted in FOR_PROGRAMS {
            if let Some(path) = self.files.iter().find(|path| name(path) == wanted) {
                link(path, &kept.join(wanted))?;
            }
        }
        Ok(name(loader))
    }

    /// Links all that the given libraries and programs need into the folder `kept`, but for the C library: for
    /// packages of the system's own release, which run on its own.
    pub(crate) fn keep_needed(&self, objects: &[&Path], kept: &Path) -> Result<()> {
        fs::create_dir_all(kept)?;
        for path in objects {
            for (needed, path) in self.needed_by(path, self.loader()?)? {
                if !OF_THE_C_LIBRARY.contains(&needed.as_str()) {
                    link(&path, &kept.join(needed))?;
                }
            }
        }
        Ok(())
    }

    fn loader(&self) -> Result<&Path> {
        self.files
            .iter()
            .find(|path| !path.is_symlink() && is_loader(&name(path)))
            .map(PathBuf::as_path)
            .context("the packages have no dynamic loader (ld-linux-*.so.*)")
    }

    /// What a library needs: names and files.
    fn needed_by(&self, library: &Path, loader: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut folders: Vec<&Path> = self
            .files
            .iter()
            .filter(|path| name(path).contains(".so"))
            .filter_map(|path| path.parent())
            .collect();
        folders.sort();
        folders.dedup();
        let mut list = Command::new(loader);
        list.arg("--library-path").arg(std::env::join_paths(folders)?).arg("--list").arg(library);
        let text = output(&mut list)?;
        let mut needed = Vec::new();
        for (name, path) in parse_list(&text) {
            let Some(path) = path else {
                bail!("{} needs {name}, which none of the packages has", library.display());
            };
            ensure!(
                path.starts_with(&self.root),
                "{} would take {name} from the system ({})",
                library.display(),
                path.display()
            );
            needed.push((name.to_owned(), path));
        }
        Ok(needed)
    }
}

/// The libraries in what `ld.so --list` prints; without a path if it isn't found. The loader itself, which is there by
/// its path, and the kernel's part, which is no file, are left out.
fn parse_list(text: &str) -> impl Iterator<Item = (&str, Option<PathBuf>)> {
    text.lines().filter_map(|line| {
        let (name, place) = line.trim().split_once(" => ")?;
        // `/path/of/library (0x00007f87ab400000)` or `not found`
        let path = place.rsplit_once(" (0x").map(|(path, _)| PathBuf::from(path));
        // Some drivers need the loader by name; it is kept anyway.
        (!is_loader(name)).then_some((name, path))
    })
}

/// The dynamic loader in a folder of libraries.
pub(crate) fn loader_in(folder: &Path) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| is_loader(&name(path)))
        .with_context(|| format!("{} has no dynamic loader", folder.display()))
}

fn is_loader(name: &str) -> bool {
    name.starts_with("ld-linux") && name.contains(".so")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Puts a file, not a symbolic link, under another name; without a copy where the file system can.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let from = from.canonicalize().with_context(|| format!("following {}", from.display()))?;
    fs::hard_link(&from, to)
        .or_else(|_| fs::copy(&from, to).map(|_| ()))
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let text = "\tlinux-vdso.so.1 (0x00007f87b41c1000)\n\
                    \tlibz.so.1 => /some where/libz.so.1 (0x00007f87b4199000)\n\
                    \tlibgone.so.2 => not found\n\
                    \tld-linux-aarch64.so.1 => /lib/ld-linux-aarch64.so.1 (0x00007f87b41c3000)\n\
                    \t/root/ld-linux-x86-64.so.2 (0x00007f87b41c3000)\n";
        let list: Vec<_> = parse_list(text).collect();
        assert_eq!(
            list,
            [("libz.so.1", Some("/some where/libz.so.1".into())), ("libgone.so.2", None)]
        );
    }
}
