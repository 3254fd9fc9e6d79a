//! The workspace, and how cargo is called in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The folders of the programs that use this crate.
const PROGRAMS: [&str; 2] = ["lab", "xtask"];

/// The workspace that this program belongs to.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the workspace's Cargo.toml.
    root: PathBuf,
    /// Where cargo builds, as cargo itself settles it from its options, configuration and environment.
    target: PathBuf,
    /// The target triple that programs are built for.
    host: String,
    /// The names of all packages' integration tests, but those that run only when they are named.
    tests: Vec<String>,
}

impl Workspace {
    /// Asks cargo and rustc.
    pub fn locate() -> Result<Self> {
        // At run time cargo names the folder as it is now; a program started by hand knows where it was built.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .filter(|folder| PROGRAMS.iter().any(|name| folder.ends_with(name)))
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        ensure!(
            package.join("Cargo.toml").is_file(),
            "no Cargo.toml in {}: start this as `cargo xtask` inside the project",
            package.display()
        );

        let mut metadata = cargo_in(&package, "metadata");
        metadata.args(["--no-deps", "--format-version", "1"]);
        let metadata: Value = serde_json::from_str(&output(&mut metadata)?)
            .context("`cargo metadata` printed something that isn't JSON")?;
        let folder = |name: &str| {
            let path = metadata[name].as_str().map(PathBuf::from);
            path.with_context(|| format!("`cargo metadata` named no {name}"))
        };

        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let version = output(rustc.arg("-vV"))?;
        let host = host_triple(&version).context("`rustc -vV` named no host")?;

        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
            host: host.to_owned(),
            tests: tests(&metadata),
        })
    }

    /// The workspace's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo builds; what the tasks download goes there too, so that `cargo clean` removes it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The names of all packages' integration tests, but those that run only when they are named.
    pub fn tests(&self) -> &[String] {
        &self.tests
    }

    /// A call of `cargo <subcommand>` on this workspace, in the caller's folder, so that relative paths among the
    /// arguments of a program that is run keep their meaning.
    pub fn cargo(&self, subcommand: &str) -> Command {
        cargo_in(&self.root, subcommand)
    }

    /// The variable that makes cargo start programs through another one.
    pub fn runner_variable(&self) -> String {
        runner_variable(&self.host)
    }
}

/// The file of this program. A shell that was set up by `cargo xtask driver` starts even this program through `ld.so`,
/// and then that is what the system calls the current executable; the first argument is the program all the same.
pub fn own_program() -> Result<PathBuf> {
    let current = std::env::current_exe()?;
    let is_loader =
        current.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"));
    if is_loader {
        let first =
            std::env::args_os().next().context("this program was started without a name")?;
        return Ok(Path::new(&first).canonicalize()?);
    }
    Ok(current)
}

/// A cargo command for the workspace in a folder.
pub fn cargo_in(root: &Path, subcommand: &str) -> Command {
    // Cargo tells the programs it runs which cargo it is: `cargo +nightly xtask` stays on nightly.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).arg("--manifest-path").arg(root.join("Cargo.toml"));
    command
}

/// The names of the integration tests in what `cargo metadata` printed.
fn tests(metadata: &Value) -> Vec<String> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    list(metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        // Those that say `test = false` run when they are named.
        .filter(|target| target["test"] != false)
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect()
}

fn host_triple(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

fn runner_variable(triple: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"))
}

/// Runs a command, and gives its own exit code.
pub fn run_to_end(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("`{}` could not be started", describe(command)))?;
    // A program that a signal ended has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// What a command prints; its standard error goes to ours.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{}` could not be started", describe(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", describe(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that isn't UTF-8", describe(command)))
}

/// Builds, and gives the file that came of the target with this name.
pub fn artifact(cargo: &mut Command, name: &str, extension: &str) -> Result<PathBuf> {
    let mut files = artifacts(cargo, &[name], extension)?;
    Ok(files.remove(0))
}

/// Builds, and gives the files that came of the targets with these names, in their order.
pub fn artifacts(cargo: &mut Command, names: &[&str], extension: &str) -> Result<Vec<PathBuf>> {
    let messages = output(cargo.args(["--quiet", "--message-format", "json-render-diagnostics"]))?;
    let built: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .collect();
    let file = |&name: &&str| {
        built
            .iter()
            .filter(|message| message["target"]["name"] == name)
            .flat_map(|message| message["filenames"].as_array().into_iter().flatten())
            .filter_map(|file| file.as_str().map(PathBuf::from))
            .find(|file| file.extension().unwrap_or_default() == Path::new(extension))
            .with_context(|| format!("`{}` built no {name}", describe(cargo)))
    };
    names.iter().map(file).collect()
}

/// A command as one would type it, without the options that only say which workspace.
pub fn describe(command: &Command) -> String {
    let mut words = vec![
        Path::new(command.get_program())
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    ];
    let mut args = command.get_args();
    while let Some(arg) = args.next() {
        if arg == "--manifest-path" {
            args.next();
        } else {
            words.push(quoted(arg));
        }
    }
    words.join(" ")
}

/// A word as a POSIX shell takes it literally.
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_variable_follows_the_triple() {
        assert_eq!(
            runner_variable("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
        assert_eq!(
            runner_variable("aarch64-unknown-linux-gnu"),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn host_is_read_from_the_version() {
        let version =
            "rustc 1.95.0\nbinary: rustc\nhost: aarch64-unknown-linux-gnu\nrelease: 1.95.0\n";
        assert_eq!(host_triple(version), Some("aarch64-unknown-linux-gnu"));
        assert_eq!(host_triple("rustc 1.95.0"), None);
    }

    #[test]
    fn commands_are_described_without_the_workspace() {
        let mut command = cargo_in(Path::new("/some/where"), "test");
        command.args(["--all-features", "a filter", "it's"]);
        let text = describe(&command);
        assert!(text.ends_with(r"test --all-features 'a filter' 'it'\''s'"), "{text}");
        assert!(!text.contains("/some/where"), "{text}");
    }
}
