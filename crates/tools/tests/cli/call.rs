//! Calls of the program.

use std::ffi::OsStr;
use std::process::{Command, Output};

pub(crate) const MINILM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/minilm-layer0.safetensors");

/// The program, through the one that starts programs where a driver needs it.
pub(crate) fn program() -> Command {
    let binary = env!("CARGO_BIN_EXE_wgpu-attention");
    let mut command = match std::env::var_os("WGPU_ATTENTION_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(binary);
            command
        }
        None => Command::new(binary),
    };
    // What a driver or a log filter has to say isn't the program's own.
    command.env_remove("RUST_LOG");
    command
}

pub(crate) fn call<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    program().args(arguments).output().unwrap()
}

/// What a call prints that succeeds.
pub(crate) fn stdout<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = call(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The warnings of a call that succeeds and says nothing else.
pub(crate) fn warnings<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Vec<String> {
    let output = call(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let warning =
        |line: &str| line.strip_prefix("warning: ").unwrap_or_else(|| panic!("{line}")).to_owned();
    stderr.lines().map(warning).collect()
}

/// What a call says that fails in the way of this exit code.
pub(crate) fn failure<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    code: i32,
) -> String {
    let output = call(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    // Warnings may come first.
    let error = stderr.lines().find(|line| !line.starts_with("warning: "));
    assert!(error.is_some_and(|line| line.starts_with("error: ")), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Arguments as they are written on a command line, without quoting.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// One JSON object per line.
pub(crate) fn records(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
