//! apt, pointed at a folder of its own.
//!
//! apt knows how to find packages with all that they depend on and how to verify their signatures, and the machine's apt
//! knows which mirror is in reach. Given a state, a cache and a configuration of its own it does both without root, and
//! without a change to the system: it believes that nothing is installed, and only downloads.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::progress::Progress;
use crate::workspace::{describe, output};

use crate::host::{Host, Recipe, is_in_path};
use crate::sources;

/// Debian's own keys, for sources that name none.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt, whose lists of packages are up to date.
#[derive(Debug)]
pub(crate) struct Apt {
    root: PathBuf,
    recipe: Recipe,
}

/// A package that was downloaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Package {
    /// The package's file, `<name>_<version>_<architecture>.deb`.
    file: PathBuf,
    /// The file's size in bytes.
    size: u64,
}

impl Apt {
    /// Whether this system has apt and what belongs to it.
    pub(crate) fn ensure_available() -> Result<()> {
        for program in ["apt-get", "apt-config", "dpkg", "dpkg-deb"] {
            ensure!(is_in_path(program), "this system has no {program}, which fetches packages");
        }
        Ok(())
    }

    /// Sets up apt in the folder `root`, and fetches the lists of packages.
    pub(crate) fn create(root: &Path, host: &Host, recipe: Recipe) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
        let architecture = architecture.trim();
        let mut config = config(root, architecture);
        if let Recipe::Debian { suites } = recipe {
            let text = debian_sources(host, suites, architecture)?;
            fs::write(root.join("debian.sources"), text)?;
            config += &debian_config(root, suites.last().context("a recipe of no release")?);
        }
        fs::write(root.join("apt.conf"), config)?;

        let apt = Self { root: root.to_path_buf(), recipe };
        let progress = Progress::new("lists of packages", None);
        let mut update = apt.command("apt-get");
        // Otherwise apt calls it a success when a mirror can't be reached.
        update.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        match (apt.run(&mut update, &progress), recipe) {
            // The system's own sources may be many, and one that fails needn't matter.
            (Err(error), Recipe::System) => eprintln!("warning: {error}"),
            (result, _) => result?,
        }
        progress.finish();
        Ok(apt)
    }

    /// Where the packages come from.
    pub(crate) fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Downloads packages and all that they depend on.
    pub(crate) fn fetch_closure(&self, label: &str, packages: &[&str]) -> Result<Vec<Package>> {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--download-only"];
        arguments.extend(packages);
        self.fetch(label, &arguments)
    }

    /// Downloads one package, and nothing that it depends on.
    pub(crate) fn fetch_alone(&self, label: &str, package: &str) -> Result<Vec<Package>> {
        self.fetch(label, &["download", package])
    }

    fn fetch(&self, label: &str, arguments: &[&str]) -> Result<Vec<Package>> {
        let mut plan = self.command("apt-get");
        plan.args(["-qq", "--print-uris"]).args(arguments);
        let log = File::create(self.log())?;
        let plan_output = plan
            .stderr(log)
            .output()
            .with_context(|| format!("`{}` could not be started", describe(&plan)))?;
        if !plan_output.status.success() {
            return Err(self.failure(&plan));
        }
        let text = String::from_utf8_lossy(&plan_output.stdout);
        let packages: Vec<Package> = text
            .lines()
            .filter_map(parse_uri)
            .map(|(file, size)| Package { file: self.archives().join(file), size })
            .collect();
        ensure!(!packages.is_empty(), "apt would download nothing for `{}`", arguments.join(" "));

        let progress =
            Progress::new(label, Some(packages.iter().map(|package| package.size).sum()));
        self.run(self.command("apt-get").args(arguments), &progress)?;
        progress.finish();
        for package in &packages {
            ensure!(
                package.file.is_file(),
                "apt succeeded, but {} isn't there",
                package.file.display()
            );
        }
        Ok(packages)
    }

    /// A call of one of apt's programs, in the folder that it downloads to.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.archives())
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("--config-file")
            .arg(self.root.join("apt.conf"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command and follows the progress that it reports.
    fn run(&self, command: &mut Command, progress: &Progress) -> Result<()> {
        let mut child = command
            .args(["--quiet", "-o", "APT::Status-Fd=1"])
            .stdout(Stdio::piped())
            .stderr(File::create(self.log())?)
            .spawn()
            .with_context(|| format!("`{}` could not be started", describe(command)))?;
        let lines = BufReader::new(child.stdout.take().context("a child without its output")?);
        for line in lines.split(b'\n') {
            if let Some(percent) = parse_percent(&String::from_utf8_lossy(&line?)) {
                progress.set_percent(percent);
            }
        }
        if child.wait()?.success() { Ok(()) } else { Err(self.failure(command)) }
    }

    fn failure(&self, command: &Command) -> anyhow::Error {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
        anyhow::anyhow!("`{}` failed:\n  {last}", describe(command))
    }

    fn archives(&self) -> PathBuf {
        self.root.join("archives")
    }

    fn log(&self) -> PathBuf {
        self.root.join("log")
    }
}

impl Package {
    /// The package's name.
    pub(crate) fn name(&self) -> &str {
        self.part(0)
    }

    /// The package's version.
    pub(crate) fn version(&self) -> String {
        // The colon behind an epoch is written so in file names.
        self.part(1).replace("%3a", ":")
    }

    fn part(&self, index: usize) -> &str {
        let name = self.file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        name.split('_').nth(index).unwrap_or_default()
    }

    /// The file's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Unpacks the package's files below `folder`; none of its scripts run.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<()> {
        let mut command = Command::new("dpkg-deb");
        command.arg("--extract").arg(&self.file).arg(folder);
        let done = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("`{}` could not be started", describe(&command)))?;
        if !done.status.success() {
            bail!("`{}` failed:\n{}", describe(&command), String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

/// The sources of the wanted releases, at the system's own mirror.
fn debian_sources(host: &Host, suites: &[&str], architecture: &str) -> Result<String> {
    let places = output(Command::new("apt-config").args([
        "shell",
        "FILE",
        "Dir::Etc::sourcelist/f",
        "FOLDER",
        "Dir::Etc::sourceparts/d",
    ]))?;
    let place = |variable: &str| {
        places
            .lines()
            .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))
            .map(|value| PathBuf::from(value.trim_matches('\'')))
            .with_context(|| format!("`apt-config` named no {variable}"))
    };
    let sources = sources::read(&place("FILE")?, &place("FOLDER")?);
    let mirror = sources::mirror(&sources, host.codename()).with_context(|| {
        format!(
            "apt's sources ({}, {}) have no mirror of Debian {}",
            place("FILE").unwrap_or_default().display(),
            place("FOLDER").unwrap_or_default().display(),
            host.codename()
        )
    })?;
    let keyring = Path::new(DEBIAN_KEYRING);
    Ok(mirror.to_suites(suites, architecture, keyring.is_file().then_some(keyring)))
}

/// Settings that every private apt needs. They come after the system's own, which stay in force: proxies, certificates
/// and time-outs are needed here too.
fn config(root: &Path, architecture: &str) -> String {
    let root = root.display();
    format!(
        r#"Dir::State "{root}";
Dir::State::lists "lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Log "{root}";
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
Acquire::Languages "none";
Acquire::Retries "3";
// The system's hooks tidy up the system's own apt.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"#
    )
}

/// Settings for sources other than the system's: its preferences are meant for its own.
fn debian_config(root: &Path, preferred: &str) -> String {
    let root = root.display();
    format!(
        r#"Dir::Etc::sourcelist "{root}/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Default-Release "{preferred}";
"#
    )
}

/// The file's name and size in a line of `apt-get --print-uris`: `'URI' FILE SIZE HASH`.
fn parse_uri(line: &str) -> Option<(&str, u64)> {
    let (_, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// The percentage in a line of apt's machine-readable progress: `dlstatus:ITEM:PERCENT:TEXT`.
fn parse_percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_downloads_are_read() {
        let line = "'http://mirror.example/z/zlib1g_1.3%2breally1.3.1-1_amd64.deb' \
                    zlib1g_1%3a1.3+really1.3.1-1_amd64.deb 88892 MD5Sum:94f9";
        let (file, size) = parse_uri(line).unwrap();
        assert_eq!(size, 88_892);
        let package = Package { file: file.into(), size };
        assert_eq!(package.name(), "zlib1g");
        assert_eq!(package.version(), "1:1.3+really1.3.1-1");
        assert_eq!(
            parse_uri("'http://mirror.example/m.deb' m_26.1.6_amd64.deb 19718352 "),
            Some(("m_26.1.6_amd64.deb", 19_718_352))
        );
        assert_eq!(parse_uri("Reading package lists..."), None);
    }

    #[test]
    fn progress_is_read() {
        assert_eq!(parse_percent("dlstatus:5:14.8603:Retrieving file 5 of 6"), Some(14.8603));
        assert_eq!(parse_percent("Get:3 http://mirror.example trixie/main"), None);
        assert_eq!(parse_percent("dlstatus:x"), None);
    }

    #[test]
    fn everything_lies_in_the_private_folder() {
        let config =
            config(Path::new("/private"), "amd64") + &debian_config(Path::new("/private"), "b");
        for line in config.lines().filter(|line| line.starts_with("Dir::")) {
            let value = line.split('"').nth(1).unwrap();
            assert!(
                value.starts_with("/private") || value == "/dev/null" || !value.starts_with('/'),
                "{line}"
            );
        }
    }
}
