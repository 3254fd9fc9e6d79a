//! The crate built for browsers, in headless Chromium: `lab/web/page` compares what it computes there with the f64
//! reference, `lab/web/host` shows the page to the browser and prints what it posts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use drivers::Chromium;
use drivers::progress::Steps;
use drivers::workspace::{Workspace, describe};
use serde::Deserialize;

use super::column::{Cell, Column};
use super::store::{Store, write};
use crate::web;

/// Builds the page, runs it, all cases or those with one of `only` in their names, and makes a column of its lines.
pub(super) fn run(workspace: &Workspace, store: &Store, only: &[String]) -> Result<Column> {
    let chromium = drivers::chromium(workspace)?;
    let site = web::site(workspace)?;
    let folder = store.root.join("browser");
    let profile = folder.join("profile");
    // What a browser of another version has left there needn't suit this one.
    if profile.exists() {
        fs::remove_dir_all(&profile).with_context(|| format!("removing {}", profile.display()))?;
    }
    fs::create_dir_all(&profile).with_context(|| format!("making {}", profile.display()))?;
    let log = store.log("browser.log");
    write(&log, "")?;

    let mut command = site.host("show");
    for text in only {
        command.arg("--only").arg(text);
    }
    command.arg("--").arg(&chromium.program).args(Chromium::arguments(&profile));
    // Whatever else it keeps stays out of the user's own folder.
    command.env("HOME", &profile);
    command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
    let text = follow(&mut command, &log)?;
    write(&store.log("browser.jsonl"), &text)?;
    let mut column =
        column(&text, &chromium.package).with_context(|| format!("see {}", log.display()))?;
    if !only.is_empty() {
        column.summary += &format!(", only those named {}", only.join(", "));
    }
    Ok(column)
}

/// Runs the host with a bar that counts the cases, and gives their lines; what else is said goes to the log.
fn follow(command: &mut Command, log: &Path) -> Result<String> {
    let errors = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("`{}` could not be started", describe(command)))?;
    let lines = child.stdout.take().context("a child without its output")?;
    let total = |line: &str| serde_json::from_str::<Start>(line).ok().map(|start| start.cases);
    let text = Steps::new("the page in Chromium")
        .follow(lines, total, |line| line.contains("\"case\""))?;
    if !child.wait()?.success() {
        let said = fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = said.lines().filter(|line| !line.contains("dbus")).collect();
        bail!("the page broke off:\n{}", last[last.len().saturating_sub(12)..].join("\n"));
    }
    Ok(text)
}

/// The page's first line.
#[derive(Deserialize)]
struct Start {
    cases: u64,
    adapter: String,
}

/// A case's line.
#[derive(Deserialize)]
struct Line {
    case: String,
    kernels: Vec<String>,
    compared: usize,
    failed: Option<String>,
    refused: Option<String>,
}

fn column(text: &str, package: &str) -> Result<Column> {
    let mut lines = text.lines();
    let start: Start = serde_json::from_str(lines.next().context("the page said nothing")?)?;
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    let mut failures = Vec::new();
    let (mut cases, mut compared, mut done) = (0, 0, false);
    for line in lines {
        if line == "{\"done\":true}" {
            done = true;
            continue;
        }
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("the page posted {line}"))?;
        cases += 1;
        compared += line.compared;
        let cell = match (&line.failed, line.refused) {
            (Some(message), _) => Cell::Failed(format!("{}: {message}", line.case)),
            (None, Some(reason)) => Cell::Refused(reason),
            (None, None) => Cell::Right(1),
        };
        if let (Some(message), true) = (line.failed, line.kernels.is_empty()) {
            failures.push(format!("{}: {message}", line.case));
        }
        for kernel in line.kernels {
            let seen = cells.remove(&kernel);
            let all = seen.map_or(cell.clone(), |seen| together(seen, cell.clone()));
            cells.insert(kernel, all);
        }
    }
    ensure!(done && cases == start.cases, "the page ended after {cases} of {} cases", start.cases);
    Ok(Column {
        title: "Chromium".to_owned(),
        summary: format!(
            "{package}, headless, WebGPU on {}; {cases} cases, {compared} tensors compared",
            start.adapter
        ),
        cells,
        failures,
        run: None,
    })
}

/// What two cases say of a kernel.
fn together(one: Cell, other: Cell) -> Cell {
    match (one, other) {
        (failed @ Cell::Failed(_), _) | (_, failed @ Cell::Failed(_)) => failed,
        (Cell::Right(one), Cell::Right(other)) => Cell::Right(one + other),
        (one, other) if one == other => one,
        (one, other) => Cell::Failed(format!("{one:?} in one case, {other:?} in another")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"cases":4,"adapter":"google swiftshader"}
{"case":"forward tiled","kernels":["forward tiled"],"compared":12,"failed":null,"refused":null}
{"case":"forward broadcast","kernels":["forward broadcast"],"compared":0,"failed":null,"refused":"no subgroups"}
{"case":"decode","kernels":["forward tiled","merge"],"compared":3,"failed":null,"refused":null}
{"case":"lost","kernels":[],"compared":1,"failed":null,"refused":null}
{"done":true}
"#;

    #[test]
    fn lines_become_a_column() {
        let found = column(LINES, "chromium 1").unwrap();
        assert_eq!(found.cells["forward tiled"], Cell::Right(2));
        assert_eq!(found.cells["merge"], Cell::Right(1));
        assert_eq!(found.cells["forward broadcast"], Cell::Refused("no subgroups".into()));
        assert_eq!(found.failures(), [""; 0]);
        assert!(found.summary.contains("4 cases, 16 tensors"), "{}", found.summary);
    }

    #[test]
    fn what_is_wrong_is_told_of_its_kernels_or_alone() {
        let wrong = |case: &str| {
            let right = LINES.lines().find(|line| line.contains(case)).unwrap();
            LINES.replace(right, &right.replace(r#""failed":null"#, r#""failed":"o[3]""#))
        };
        let found = column(&wrong("\"decode"), "chromium 1").unwrap();
        assert_eq!(found.cells["forward tiled"], Cell::Failed("decode: o[3]".into()));
        assert_eq!(found.failures().len(), 2);
        let found = column(&wrong("\"lost"), "chromium 1").unwrap();
        assert_eq!(found.failures(), ["lost: o[3]"]);
    }

    #[test]
    fn a_page_that_stops_early_is_no_success() {
        assert!(column("", "chromium 1").is_err());
        assert!(column(LINES.strip_suffix("{\"done\":true}\n").unwrap(), "chromium 1").is_err());
        let short = LINES.replace(r#"{"cases":4"#, r#"{"cases":5"#);
        assert!(column(&short, "chromium 1").is_err());
        assert!(column(&LINES.replace("{\"done", "a panic\n{\"done"), "chromium 1").is_err());
    }
}
