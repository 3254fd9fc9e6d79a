//! An MPI to build and run programs with, and the libclang that Rust's bindings to it are made by.
//!
//! On systems with apt it is MPICH, from the packages of the system's own release: what is linked with the system's C
//! library needs one that fits it. Elsewhere it is whatever the system has.
//!
//! ```text
//! mpi/
//!   bin/mpicc           names these folders to whoever builds, and calls the system's C compiler
//!   bin/mpiexec.hydra   starts the ranks, by hydra_pmi_proxy beside it
//!   include/            mpi.h
//!   lib/                libmpich, libclang, and what these need but the C library
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::output;

use crate::closure::link;
use crate::host::{Recipe, is_in_path};
use crate::provision::{Provisioner, make_executable};
use crate::stamp::Stamp;

/// An MPI.
#[derive(Debug)]
pub struct Mpi {
    /// What it is.
    pub name: String,
    /// Where it was unpacked; nothing for the system's own.
    folder: Option<PathBuf>,
}

impl Mpi {
    /// The system's own, if it has one; else what is missing.
    pub(crate) fn of_the_system() -> Result<Self, String> {
        match ["mpicc", "mpiexec"].into_iter().find(|program| !is_in_path(program)) {
            None => Ok(Self { name: "the system's MPI".to_owned(), folder: None }),
            Some(missing) => Err(format!(
                "MPI is fetched by apt, which this system hasn't, and it has no {missing} of its own"
            )),
        }
    }

    /// What a build of the crate `mpi` finds it by.
    pub fn build_environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        // libclang comes without the headers that belong to the compiler itself.
        let own = output(Command::new("cc").arg("-print-file-name=include"))?;
        Ok(vec![
            ("MPICC", folder.join("bin/mpicc").into()),
            ("LIBCLANG_PATH", folder.join("lib").into()),
            ("LD_LIBRARY_PATH", folder.join("lib").into()),
            ("BINDGEN_EXTRA_CLANG_ARGS", format!("-isystem {}", own.trim()).into()),
        ])
    }

    /// Where the libraries are that a program needs at run time, if the system doesn't find them by itself.
    pub fn libraries(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join("lib"))
    }

    /// The start of a command that runs so many ranks on this machine, however few cores it has.
    pub fn launch(&self, ranks: usize) -> Command {
        let mut command = match &self.folder {
            Some(folder) => {
                let mut command = Command::new(folder.join("bin/mpiexec.hydra"));
                command
                    .args(["-launcher", "fork"])
                    .env("LD_LIBRARY_PATH", folder.join("lib"))
                    // All ranks are on one machine; over TCP, the first to end may wait for the others for ever.
                    .env("UCX_TLS", "self,sm");
                command
            }
            None => {
                let mut command = Command::new("mpiexec");
                // Open MPI otherwise refuses root, and more ranks than cores.
                command.envs([
                    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
                    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
                ]);
                command
            }
        };
        // Seconds: ranks that wait for each other end, too.
        command.env("MPIEXEC_TIMEOUT", "600").arg("-n").arg(ranks.to_string());
        command
    }
}

impl Provisioner {
    /// MPICH and libclang, ready to build and run with.
    pub(crate) fn mpi(&mut self) -> Result<Mpi> {
        let place = self.place("mpi");
        let stamp = match Stamp::read(&place) {
            Some(stamp) => stamp,
            None => self.fetch_mpi(&place).context("MPI could not be fetched")?,
        };
        Ok(Mpi { name: stamp.package, folder: Some(place) })
    }

    fn fetch_mpi(&mut self, place: &Path) -> Result<Stamp> {
        let packages = self.with_recipes(vec![Recipe::System], |apt| {
            let needed = ["mpich", "libmpich12", "libclang1"];
            let mut packages = apt.fetch_closure("packages of MPI", &needed)?;
            // Its own dependencies are compilers.
            packages.extend(apt.fetch_alone("headers of MPI", "libmpich-dev")?);
            Ok(packages)
        })?;
        let tree = self.unpack("MPI", &packages)?;

        let folder = self.partial("mpi")?;
        let (bin, lib) = (folder.join("bin"), folder.join("lib"));
        let programs = [tree.find("mpiexec.hydra", "")?, tree.find("hydra_pmi_proxy", "")?];
        let libraries = [tree.find("libmpich.so", ".12")?, tree.find("libclang-", ".so.1")?];
        tree.keep_needed(&[programs, libraries].concat(), &lib)?;
        fs::create_dir_all(&bin)?;
        for (files, to) in [(programs, &bin), (libraries, &lib)] {
            for file in files {
                link(file, &to.join(file.file_name().context("a file without a name")?))?;
            }
        }
        // By the name that linkers look for.
        link(libraries[0], &lib.join("libmpich.so"))?;
        let headers = tree.find("mpi.h", "")?.parent().context("a header in no folder")?;
        fs::rename(headers, folder.join("include"))?;
        fs::write(bin.join("mpicc"), MPICC)?;
        make_executable(&bin.join("mpicc"))?;
        self.settle("mpich", &packages, &folder, place)
    }
}

/// Its own `mpicc` knows only the folders that the package would be installed in.
const MPICC: &str = "\
#!/bin/sh
# The C compiler with the MPI beside this file. Made by `cargo xtask`.
here=${0%/*}/..
case $1 in
-show) echo \"cc -I$here/include -L$here/lib -lmpich\" ;;
*) exec cc -I\"$here/include\" \"$@\" ;;
esac
";
