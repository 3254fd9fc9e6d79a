//! The page's tests: `lab/web/tests`, which Node.js runs in headless Chromium.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use drivers::workspace::{Workspace, output, run_to_end};
use drivers::{Choice, Chromium, Unavailable};

use super::build::Site;

/// What the command line computes natively, to be compared with what the page shows: a name, a layer's file, a mask.
const EXPECTED: [(&str, &str, &str); 2] = [
    ("padded", "minilm-layer0", "key_lengths"),
    ("tokens", "minilm-layer3", "token_padding & !strided(3) | global(1)"),
];

/// Installs what the tests need, computes what they expect, and runs them.
pub(crate) fn run(
    workspace: &Workspace,
    choice: Choice,
    site: &Site,
    filter: Option<&str>,
    write: bool,
) -> Result<ExitCode> {
    if !drivers::is_in_path("npm") {
        return Err(Unavailable("the page's tests need Node.js, `node` and `npm`".into()).into());
    }
    let chromium = drivers::chromium(workspace)?;
    let folder = workspace.target().join("web/tests");
    install(&workspace.root().join("lab/web/tests"), &folder)?;
    expected(workspace, choice, &folder)?;

    let profile = folder.join("profile");
    let mut node = Command::new("node");
    node.current_dir(&folder).arg("run.mjs");
    node.env("WEB_HOST", &site.host).env("WEB_SITE", &site.folder);
    node.env("WEB_CHROMIUM", &chromium.program);
    let arguments = Chromium::arguments(&profile);
    // Playwright has a folder of its own for the profile.
    let arguments = arguments.iter().filter(|argument| !argument.starts_with("--user-data-dir"));
    node.env("WEB_ARGUMENTS", arguments.cloned().collect::<Vec<_>>().join(" "));
    node.env("HOME", &folder).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
    if write {
        node.env("WEB_PICTURES", workspace.root().join("docs/page"));
    }
    if let Some(filter) = filter {
        node.arg(filter);
    }
    run_to_end(&mut node)
}

/// The tests and their packages, in a folder below the target folder: the sources stay as they are.
fn install(sources: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let lock = fs::read(sources.join("package-lock.json")).context("reading package-lock.json")?;
    let installed = fs::read(folder.join("node_modules/.installed")).unwrap_or_default();
    for entry in fs::read_dir(sources).with_context(|| format!("reading {}", sources.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    if lock != installed {
        let mut npm = Command::new("npm");
        npm.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        output(&mut npm)?;
        fs::write(folder.join("node_modules/.installed"), lock)?;
    }
    Ok(())
}

/// Weights by the command line, on the device.
fn expected(workspace: &Workspace, choice: Choice, folder: &Path) -> Result<()> {
    let device = drivers::select(workspace, choice)?;
    for (name, layer, mask) in EXPECTED {
        let mut cargo = workspace.cargo("run");
        cargo.args(["--quiet", "--all-features", "--bin", "wgpu-attention", "--", "run"]);
        cargo.arg(workspace.root().join("data").join(layer).with_extension("safetensors"));
        cargo.args(["--mask", mask, "--outputs", "scores,weights", "--out"]);
        cargo.arg(folder.join(name).with_extension("safetensors"));
        device.apply(&mut cargo);
        // The kernels run once.
        drivers::leave_unoptimised(&mut cargo);
        output(&mut cargo)?;
        let about = format!("{{\"layer\":\"{layer}\",\"mask\":\"{mask}\"}}");
        fs::write(folder.join(name).with_extension("expected.json"), about)?;
    }
    Ok(())
}
