//! Software drivers, fetched and unpacked below the target folder.
//!
//! ```text
//! <target>/drivers/
//!   lavapipe/
//!     run               starts a program on the unpacked C library
//!     lib/              the driver, the Vulkan loader, and what these need, the C library included
//!     icd.json          where the Vulkan loader finds the driver
//!     stamp.json        what it is; written last
//!   swiftshader/        a driver and its icd.json; its programs start through lavapipe/run
//!   lavapipe-RELEASE/   the same of older releases
//!   shims/              lib/ as lavapipe's, of drivers that compile for GPUs that aren't there: see [`Shims`]
//!   llvmpipe/           run and lib/ as lavapipe's, with Mesa's OpenGL on the CPU instead of Vulkan
//!   validation/         Vulkan's validation layer, for lavapipe's programs
//!   tools/              run and lib/ as lavapipe's, with programs that check SPIR-V and GLSL
//!   mpi/                no driver, but fetched like one: see [`Mpi`](crate::mpi::Mpi)
//!   chromium/           a browser, and what programs for it are built with: see [`browser`](crate::browser)
//!   rust-src/
//!   shader-cache/       shaders that lavapipe has compiled
//!   lock                held while the folders above change
//!   partial/            gone when the work is done
//! ```
//!
//! A driver is put together in `partial`, tried out there, and moved to its place as a whole: what has a stamp works.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::progress::Progress;
use crate::workspace::own_program;

use crate::apt::{Apt, Package};
use crate::closure::Tree;
use crate::host::{Host, Older, Recipe};
use crate::probe::Adapter;
use crate::program::Unavailable;
use crate::shims::{GpuDriver, Shims};
use crate::software::{Api, Software};
use crate::stamp::Stamp;
use crate::{icd, probe, software};

/// The work of getting drivers. While it lives, no other process changes them.
#[derive(Debug)]
pub(crate) struct Provisioner {
    drivers: PathBuf,
    host: Host,
    apt: Option<Apt>,
    _lock: File,
}

impl Provisioner {
    /// Waits for its turn to work in this folder.
    pub(crate) fn start(drivers: &Path) -> Result<Self> {
        fs::create_dir_all(drivers).with_context(|| format!("making {}", drivers.display()))?;
        let drivers = drivers.canonicalize()?;
        ensure!(
            !drivers.to_string_lossy().contains(char::is_whitespace),
            "the path {} has a space in it, at which cargo would split it; set CARGO_TARGET_DIR to a path without one",
            drivers.display()
        );
        let lock = File::create(drivers.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another process that fetches drivers …");
                lock.lock()?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", drivers.display()));
            }
        }
        Ok(Self { drivers, host: Host::detect(), apt: None, _lock: lock })
    }

    /// Whether SwiftShader can be had here; if not, why.
    pub(crate) fn has_swiftshader(&self) -> Result<(), String> {
        if self.host.is_debian() {
            Ok(())
        } else {
            Err("it is taken from Debian's package of Chromium, and this system isn't Debian"
                .into())
        }
    }

    /// Removes all drivers, so that they are fetched again.
    pub(crate) fn forget(&self) -> Result<()> {
        let older = [Older::Bookworm, Older::BookwormBackports].map(Older::name);
        let others = ["lavapipe", "swiftshader", "shims", "llvmpipe", "mpi", "validation", "tools"];
        let of_browsers = ["chromium", "rust-src"];
        for folder in others.iter().chain(&of_browsers).chain(&older) {
            remove(&self.drivers.join(folder))?;
        }
        Ok(())
    }

    /// lavapipe, ready to run.
    pub(crate) fn lavapipe(&mut self) -> Result<Software> {
        self.lavapipe_in("lavapipe", self.host.recipes())
    }

    /// An older lavapipe, ready to run.
    pub(crate) fn older_lavapipe(&mut self, older: Older) -> Result<Software> {
        self.lavapipe_in(older.name(), self.host.older_recipes(older))
    }

    fn lavapipe_in(&mut self, name: &str, recipes: Vec<Recipe>) -> Result<Software> {
        let folder = self.drivers.join(name);
        let stamp = match Stamp::read(&folder) {
            Some(stamp) => stamp,
            None => {
                let fetched = self.fetch_lavapipe(name, recipes, &folder);
                fetched.with_context(|| format!("{name} could not be fetched"))?
            }
        };
        Ok(self.vulkan("lavapipe", &folder, &folder, &stamp))
    }

    /// SwiftShader, ready to run. It comes with lavapipe, whose C library and Vulkan loader it uses.
    pub(crate) fn swiftshader(&mut self) -> Result<Software> {
        self.lavapipe()?;
        let folder = self.drivers.join("swiftshader");
        let stamp = match Stamp::read(&folder) {
            Some(stamp) => stamp,
            None => self.fetch_swiftshader(&folder).context("SwiftShader could not be fetched")?,
        };
        Ok(self.vulkan("SwiftShader", &folder, &self.drivers.join("lavapipe"), &stamp))
    }

    /// llvmpipe, Mesa's OpenGL for CPUs, ready to run.
    pub(crate) fn llvmpipe(&mut self) -> Result<Software> {
        let folder = self.drivers.join("llvmpipe");
        let stamp = match Stamp::read(&folder) {
            Some(stamp) => stamp,
            None => self.fetch_llvmpipe(&folder).context("llvmpipe could not be fetched")?,
        };
        Ok(self.egl(&folder, &stamp))
    }

    fn vulkan(
        &self,
        name: &'static str,
        folder: &Path,
        libraries: &Path,
        stamp: &Stamp,
    ) -> Software {
        Software {
            name,
            package: stamp.package.clone(),
            adapter: stamp.adapter.clone(),
            runner: libraries.join("run"),
            api: Api::Vulkan { manifest: folder.join("icd.json") },
            shader_cache: self.drivers.join("shader-cache"),
        }
    }

    fn egl(&self, folder: &Path, stamp: &Stamp) -> Software {
        Software {
            name: "llvmpipe",
            package: stamp.package.clone(),
            adapter: stamp.adapter.clone(),
            runner: folder.join("run"),
            api: Api::Gl { libraries: folder.join("lib"), vendor: folder.join("vendor.json") },
            shader_cache: self.drivers.join("shader-cache"),
        }
    }

    fn fetch_lavapipe(&mut self, name: &str, recipes: Vec<Recipe>, place: &Path) -> Result<Stamp> {
        let wanted = ["mesa-vulkan-drivers", "libvulkan1", "libc6"];
        let (packages, tree) = self.closure("lavapipe", recipes, &wanted)?;
        let folder = self.partial(name)?;
        let driver = tree.find("libvulkan_lvp", ".so")?;
        let loader = tree.find("libvulkan.so", ".1")?;
        keep_with_runner(&tree, &[driver, loader], &folder)?;
        let manifest = fs::read_to_string(tree.find("lvp_icd", ".json")?)?;
        fs::write(folder.join("icd.json"), icd::with_library(&manifest, "lib/libvulkan_lvp.so")?)?;
        let stamp = self.stamp("mesa-vulkan-drivers", &packages)?;
        self.complete(self.vulkan("lavapipe", &folder, &folder, &stamp), stamp, &folder, place)
    }

    fn fetch_llvmpipe(&mut self, place: &Path) -> Result<Stamp> {
        let wanted = ["libegl-mesa0", "libegl1", "libgles2", "libgl1-mesa-dri", "libc6"];
        let (packages, tree) = self.closure("llvmpipe", self.host.recipes(), &wanted)?;
        let folder = self.partial("llvmpipe")?;
        // The last is what EGL looks for by name while it runs.
        let files = [
            ("libEGL.so", ".1"),
            ("libEGL_mesa.so", ".0"),
            ("libGLESv2.so", ".2"),
            ("swrast_dri", ".so"),
        ];
        let libraries: Vec<&Path> =
            files.iter().map(|(start, end)| tree.find(start, end)).collect::<Result<_>>()?;
        keep_with_runner(&tree, &libraries, &folder)?;
        let vendor = serde_json::json!({
            "file_format_version": "1.0.0",
            "ICD": { "library_path": "libEGL_mesa.so.0" },
        });
        fs::write(folder.join("vendor.json"), format!("{vendor:#}\n"))?;
        let stamp = self.stamp("libgl1-mesa-dri", &packages)?;
        self.complete(self.egl(&folder, &stamp), stamp, &folder, place)
    }

    /// The folder of Vulkan's validation layer, for programs of lavapipe's, and the package that it came in.
    pub(crate) fn validation_layer(&mut self) -> Result<(PathBuf, String)> {
        self.lavapipe()?;
        let place = self.drivers.join("validation");
        if let Some(stamp) = Stamp::read(&place) {
            return Ok((place, stamp.package));
        }
        let name = "vulkan-validationlayers";
        let recipes = self.host.recipes();
        let (packages, tree) = self.closure("the validation layer", recipes, &[name, "libc6"])?;
        let folder = self.partial("validation")?;
        let library = "libVkLayer_khronos_validation.so";
        tree.keep(&[tree.find(library, "")?], &folder.join("lib"))?;
        let manifest = fs::read_to_string(tree.find("VkLayer_khronos_validation", ".json")?)?;
        let manifest = manifest.replace(&format!("\"{library}\""), &format!("\"./lib/{library}\""));
        ensure!(manifest.contains("./lib/"), "the layer's manifest doesn't name {library}");
        fs::write(folder.join("VkLayer_khronos_validation.json"), manifest)?;
        let stamp = self.settle(name, &packages, &folder, &place)?;
        Ok((place, stamp.package))
    }

    /// The folder with `run` and, in `lib`, glslangValidator and spirv-val.
    pub(crate) fn tools(&mut self) -> Result<PathBuf> {
        let place = self.drivers.join("tools");
        if Stamp::read(&place).is_some() {
            return Ok(place);
        }
        let wanted = ["glslang-tools", "spirv-tools", "libc6"];
        let (packages, tree) =
            self.closure("glslang and SPIR-V's tools", self.host.recipes(), &wanted)?;
        let folder = self.partial("tools")?;
        let programs = [tree.find("glslangValidator", "")?, tree.find("spirv-val", "")?];
        keep_with_runner(&tree, &programs, &folder)?;
        self.settle("glslang-tools", &packages, &folder, &place)?;
        Ok(place)
    }

    /// Packages with all that they need, unpacked.
    fn closure(
        &mut self,
        what: &str,
        recipes: Vec<Recipe>,
        wanted: &[&str],
    ) -> Result<(Vec<Package>, Tree)> {
        let label = format!("packages of {what}");
        let packages = self.with_recipes(recipes, |apt| apt.fetch_closure(&label, wanted))?;
        let tree = self.unpack(what, &packages)?;
        Ok((packages, tree))
    }

    /// The note of what was fetched last.
    fn stamp(&self, package: &str, packages: &[Package]) -> Result<Stamp> {
        let version = version_of(package, packages)?;
        let recipe = self.apt.as_ref().context("a driver from nowhere")?.recipe().name();
        Ok(Stamp { recipe, package: format!("{package} {version}"), adapter: None })
    }

    fn fetch_swiftshader(&mut self, place: &Path) -> Result<Stamp> {
        // From where lavapipe came: it has to fit that C library.
        let lavapipe = self.drivers.join("lavapipe");
        let origin = Stamp::read(&lavapipe).context("lavapipe has no stamp")?.recipe;
        let recipes =
            self.host.recipes().into_iter().filter(|recipe| recipe.name() == origin).collect();
        let packages = self.with_recipes(recipes, |apt| {
            apt.fetch_alone("package of SwiftShader", "chromium-common")
        })?;
        let tree = self.unpack("SwiftShader", &packages)?;

        let folder = self.partial("swiftshader")?;
        let library = "libvk_swiftshader.so";
        fs::rename(tree.find("libvk_swiftshader", ".so")?, folder.join(library))?;
        let manifest = fs::read_to_string(tree.find("vk_swiftshader_icd", ".json")?)?;
        fs::write(folder.join("icd.json"), icd::with_library(&manifest, library)?)?;

        let stamp = self.stamp("chromium-common", &packages)?;
        let software = self.vulkan("SwiftShader", &folder, &lavapipe, &stamp);
        self.complete(software, stamp, &folder, place)
    }

    /// Mesa's drivers for GPUs, ready to compile kernels for some that aren't there.
    pub(crate) fn shims(&mut self, intel_shim: PathBuf, print_shim: PathBuf) -> Result<Shims> {
        let folder = self.drivers.join("shims");
        // A folder of when there were fewer drivers is made again.
        let has_all =
            || GpuDriver::ALL.iter().all(|driver| folder.join(driver.manifest()).is_file());
        let stamp = match Stamp::read(&folder) {
            Some(stamp) if has_all() => stamp,
            _ if !self.host.is_debian() => {
                let words = "GPUs that aren't there come with Debian's package mesa-drm-shim, and this system isn't Debian";
                return Err(Unavailable(words.to_owned()).into());
            }
            _ => self.fetch_shims(&folder).context("Mesa's shims could not be fetched")?,
        };
        Ok(Shims { package: stamp.package, folder, intel_shim, print_shim })
    }

    fn fetch_shims(&mut self, place: &Path) -> Result<Stamp> {
        let wanted = ["mesa-vulkan-drivers", "mesa-drm-shim", "libvulkan1", "libc6"];
        let (packages, tree) = self.closure("Mesa's shims", self.host.recipes(), &wanted)?;
        let folder = self.partial("shims")?;
        let mut libraries = vec![tree.find("libvulkan.so", ".1")?];
        for driver in GpuDriver::ALL {
            libraries.push(tree.find(&driver.library(), "")?);
            if let Some(shim) = driver.packaged_shim() {
                libraries.push(tree.find(&shim, "")?);
            }
            let manifest =
                fs::read_to_string(tree.find(&format!("{}_icd", driver.name()), ".json")?)?;
            let library = format!("lib/{}", driver.library());
            fs::write(folder.join(driver.manifest()), icd::with_library(&manifest, &library)?)?;
        }
        keep_with_runner(&tree, &libraries, &folder)?;
        self.settle("mesa-vulkan-drivers", &packages, &folder, place)
    }

    /// Stamps what can't be tried out, and moves it to its place.
    pub(crate) fn settle(
        &self,
        package: &str,
        packages: &[Package],
        folder: &Path,
        place: &Path,
    ) -> Result<Stamp> {
        let stamp = self.stamp(package, packages)?;
        settle(&stamp, folder, place)?;
        Ok(stamp)
    }

    /// Where the newest drivers come from, best first.
    pub(crate) fn host_recipes(&self) -> Vec<Recipe> {
        self.host.recipes()
    }

    /// Where a finished folder is.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.drivers.join(name)
    }

    /// Downloads by the first of the recipes that works.
    pub(crate) fn with_recipes(
        &mut self,
        recipes: Vec<Recipe>,
        download: impl Fn(&Apt) -> Result<Vec<Package>>,
    ) -> Result<Vec<Package>> {
        Apt::ensure_available()?;
        let mut failure = None;
        for recipe in recipes {
            if let Some(error) = failure.take() {
                eprintln!("{error:#}\ntrying the system's own packages instead");
            }
            match self.apt(recipe).and_then(&download) {
                Ok(packages) => return Ok(packages),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("no recipe is known for this system")))
    }

    /// apt for this recipe; the one that is there, if it fits.
    fn apt(&mut self, recipe: Recipe) -> Result<&Apt> {
        let fits = self.apt.take().filter(|apt| apt.recipe() == recipe);
        let apt = match fits {
            Some(apt) => apt,
            None => Apt::create(&self.partial("apt")?, &self.host, recipe)?,
        };
        Ok(self.apt.insert(apt))
    }

    pub(crate) fn unpack(&self, name: &str, packages: &[Package]) -> Result<Tree> {
        let folder = self.partial("unpacked")?;
        let total = packages.iter().map(Package::size).sum();
        let progress = Progress::new(format!("unpacking {name}"), Some(total));
        let mut done = 0;
        for package in packages {
            package.unpack(&folder)?;
            done += package.size();
            progress.set(done);
        }
        progress.finish();
        Tree::scan(&folder)
    }

    /// Tries the driver in `folder` out, stamps it, and moves it to its place.
    fn complete(
        &self,
        software: Software,
        stamp: Stamp,
        folder: &Path,
        place: &Path,
    ) -> Result<Stamp> {
        let adapter = try_out(&software).context("the driver was unpacked, but doesn't work")?;
        eprintln!("{}: {adapter}", stamp.package);
        let stamp = Stamp { adapter: Some(adapter), ..stamp };
        settle(&stamp, folder, place)?;
        Ok(stamp)
    }

    /// An empty folder for work in progress; a former run that was interrupted may have left one.
    pub(crate) fn partial(&self, name: &str) -> Result<PathBuf> {
        let folder = self.drivers.join("partial").join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next run.
        let _ = remove(&self.drivers.join("partial"));
    }
}

/// The version of one of the packages.
fn version_of(package: &str, packages: &[Package]) -> Result<String> {
    packages
        .iter()
        .find(|candidate| candidate.name() == package)
        .map(Package::version)
        .with_context(|| format!("apt downloaded no {package}"))
}

/// Leaves the stamp in a finished folder and moves it to its place.
fn settle(stamp: &Stamp, folder: &Path, place: &Path) -> Result<()> {
    stamp.write(folder)?;
    remove(place)?;
    fs::rename(folder, place).with_context(|| format!("moving to {}", place.display()))
}

/// Runs this program on a driver, as [`probe::probed`] answers.
fn try_out(software: &Software) -> Result<Adapter> {
    let mut command = Command::new(&software.runner);
    command.arg(own_program()?).env(probe::VARIABLE, "1").stdin(Stdio::null());
    software::apply(&mut command, &software.environment());
    let done = command.output().context("the runner could not be started")?;
    ensure!(
        done.status.success(),
        "the probe failed ({}):\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    // A driver may print lines of its own.
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .rev()
        .find_map(|line| Adapter::from_json(&serde_json::from_str(line).ok()?))
        .context("the probe printed no adapter")
}

/// Keeps libraries in `folder/lib`, with the script that starts programs on them.
fn keep_with_runner(tree: &Tree, libraries: &[&Path], folder: &Path) -> Result<()> {
    let ld_so = tree.keep(libraries, &folder.join("lib"))?;
    let runner = folder.join("run");
    fs::write(&runner, runner_script(&ld_so))?;
    make_executable(&runner)
}

/// The script that starts a program on the unpacked C library.
///
/// The libraries are named to the loader alone and not in `LD_LIBRARY_PATH`, which the system's programs would inherit
/// when a test starts one; and these would not run with another C library than their loader's.
fn runner_script(ld_so: &str) -> String {
    format!(
        r#"#!/bin/sh
# Starts a program on the C library and the Vulkan loader beside this file. Made by `cargo xtask`.
here=${{0%/*}}
program=$1
shift
case $program in
*/*) ;;
*) program=$(command -v "$program") ;;
esac
exec "$here/lib/{ld_so}" --library-path "$here/lib" "$program" "$@"
"#
    )
}

#[cfg(unix)]
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
pub(crate) fn make_executable(_: &Path) -> Result<()> {
    anyhow::bail!("drivers are unpacked on Linux only")
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_finds_its_libraries_beside_itself() {
        let script = runner_script("ld-linux-x86-64.so.2");
        assert!(script.starts_with("#!/bin/sh\n"));
        assert!(script.contains("here=${0%/*}\n"), "{script}");
        assert!(
            script.ends_with(
                "exec \"$here/lib/ld-linux-x86-64.so.2\" --library-path \"$here/lib\" \"$program\" \"$@\"\n"
            ),
            "{script}"
        );
    }
}
