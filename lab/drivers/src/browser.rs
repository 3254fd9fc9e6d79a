//! Chromium, and what programs for it are built with: no drivers, but fetched like them.
//!
//! Chromium comes from the system's own release, on whose C library it runs. Rust's library for WebAssembly is built from
//! its source where the target isn't installed; that has to be of the compiler's own version.
//!
//! ```text
//! chromium/
//!   run          starts it
//!   chromium     and what it looks for beside itself, SwiftShader included
//!   lib/         what it needs but the C library
//! rust-src/
//!   library/     the workspace of Rust's library
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::closure::link;
use crate::host::Recipe;
use crate::provision::{Provisioner, make_executable};
use crate::stamp::Stamp;

/// A browser, ready to run.
#[derive(Debug)]
pub struct Chromium {
    /// The package it came in, and its version.
    pub package: String,
    /// The program that starts it.
    pub program: PathBuf,
}

impl Chromium {
    /// Arguments for pages that compute on SwiftShader and are seen by nobody, with all that it keeps in `profile`.
    pub fn arguments(profile: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "--headless=new",
            // Its own sandbox needs rights that containers don't give. The page is this project's own.
            "--no-sandbox",
            "--enable-unsafe-webgpu",
            "--use-webgpu-adapter=swiftshader",
            "--enable-features=Vulkan",
            // It is to talk to nobody but the page's server.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-quic",
            "--disable-sync",
            "--no-first-run",
            "--no-proxy-server",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments
    }
}

impl Provisioner {
    /// Chromium with the libraries that it needs.
    pub(crate) fn chromium(&mut self) -> Result<Chromium> {
        let place = self.place("chromium");
        let stamp = match Stamp::read(&place) {
            Some(stamp) => stamp,
            None => self.fetch_chromium(&place).context("Chromium could not be fetched")?,
        };
        Ok(Chromium { package: stamp.package, program: place.join("run") })
    }

    fn fetch_chromium(&mut self, place: &Path) -> Result<Stamp> {
        let packages = self.with_recipes(vec![Recipe::System], |apt| {
            apt.fetch_closure("packages of Chromium", &["chromium"])
        })?;
        let tree = self.unpack("Chromium", &packages)?;

        let folder = self.partial("chromium")?;
        let own = tree.find("v8_context_snapshot", ".bin")?;
        let own = own.parent().context("a file in no folder")?;
        // NSS looks for its modules by name while it runs.
        let modules = ["libsoftokn3", "libfreebl3", "libfreeblpriv3", "libnssckbi"]
            .map(|name| tree.find(name, ".so"))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let lib = folder.join("lib");
        let program = own.join("chromium");
        tree.keep_needed(&[&modules[..], &[&program]].concat(), &lib)?;
        for module in modules {
            link(module, &lib.join(module.file_name().context("a file without a name")?))?;
        }
        for entry in fs::read_dir(own).with_context(|| format!("reading {}", own.display()))? {
            let entry = entry?;
            let to = folder.join(entry.file_name());
            fs::rename(entry.path(), &to).with_context(|| format!("moving to {}", to.display()))?;
        }
        fs::write(folder.join("run"), RUN)?;
        make_executable(&folder.join("run"))?;
        self.settle("chromium", &packages, &folder, place)
    }

    /// The folder of Rust's library, in the source of this version.
    pub(crate) fn rust_library(&mut self, version: &str) -> Result<PathBuf> {
        let place = self.place("rust-src");
        let library = place.join("library");
        let wanted = format!("rust-src {version}");
        if Stamp::read(&place).is_some_and(|stamp| stamp.package.starts_with(&wanted)) {
            return Ok(library);
        }
        let recipes = self.host_recipes();
        let package = format!("rust-src={version}*");
        let packages = self
            .with_recipes(recipes, |apt| apt.fetch_alone("source of Rust's library", &package))?;
        let tree = self.unpack("the source of Rust's library", &packages)?;
        // The compiler's own workspace, around it, has a lock, too.
        let found = tree.folder_with("library", "Cargo.lock")?;
        let folder = self.partial("rust-src")?;
        fs::rename(found, folder.join("library")).context("keeping Rust's library")?;
        self.settle("rust-src", &packages, &folder, &place)?;
        Ok(library)
    }
}

/// The folder of its libraries is the only thing that it doesn't find beside itself.
const RUN: &str = "\
#!/bin/sh
# Starts Chromium with the libraries beside it. Made by `cargo xtask`.
here=${0%/*}
LD_LIBRARY_PATH=\"$here/lib\" exec \"$here/chromium\" \"$@\"
";
