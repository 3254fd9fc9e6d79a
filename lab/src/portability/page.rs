//! docs/portability.md.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::ValueEnum as _;

use super::column::{Cell, Check, Column};

/// The page: what ran, the tables, and why kernels refuse.
pub(super) fn markdown(columns: &[(Check, Column)]) -> String {
    let (drivers, compilers): (Vec<_>, Vec<_>) =
        (columns.iter()).partition(|(check, _)| check.runs_tests() || *check == Check::Browser);
    include_str!("page.md")
        .replace("SUMMARIES\n", &summaries(columns))
        .replace("DRIVERS\n", &table(&drivers))
        .replace("COMPILERS\n", &table(&compilers))
        .replace("REASONS\n", &reasons(columns))
        .trim_end()
        .to_owned()
        + "\n"
}

fn summaries(columns: &[(Check, Column)]) -> String {
    let mut text = "| check | what | result |\n|---|---|---|\n".to_owned();
    for check in Check::value_variants() {
        let found = columns.iter().find(|(other, _)| other == check);
        let (summary, result) = match found.map(|(_, column)| (column, column.failures().len())) {
            None => ("–", "not run".to_owned()),
            Some((column, 0)) => (column.summary.as_str(), "ok".to_owned()),
            Some((column, count)) => (column.summary.as_str(), format!("**{count} failures**")),
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{}` | {summary} | {result} |", check.name());
    }
    text
}

fn table(columns: &[&(Check, Column)]) -> String {
    let titles: Vec<&str> = columns.iter().map(|(_, column)| column.title.as_str()).collect();
    let mut text =
        format!("| kernel | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    let kernels: BTreeSet<&String> =
        columns.iter().flat_map(|(_, column)| column.cells.keys()).collect();
    for kernel in kernels {
        let cells: Vec<String> = columns.iter().map(|(_, column)| cell(column, kernel)).collect();
        let _ = writeln!(text, "| `{kernel}` | {} |", cells.join(" | "));
    }
    text
}

fn cell(column: &Column, kernel: &str) -> String {
    match column.cells.get(kernel) {
        None => "–".to_owned(),
        Some(Cell::Right(tests)) => format!("right ({tests})"),
        Some(Cell::Compiled(texts)) => texts.to_string(),
        Some(Cell::Refused(_)) => "refused".to_owned(),
        Some(Cell::Failed(_)) => "**failed**".to_owned(),
    }
}

fn reasons(columns: &[(Check, Column)]) -> String {
    let mut text = String::new();
    for (_, column) in columns {
        for (kernel, cell) in &column.cells {
            match cell {
                Cell::Refused(reason) => {
                    let _ = writeln!(text, "- {}, `{kernel}`: {reason}.", column.title);
                }
                Cell::Failed(message) => {
                    let line = message.lines().next().unwrap_or_default();
                    let _ = writeln!(text, "- {}, `{kernel}`: **failed**, {line}.", column.title);
                }
                Cell::Right(_) | Cell::Compiled(_) => {}
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_page_has_every_cell_and_reason() {
        let column = |title: &str, cells: [Cell; 2]| Column {
            title: title.into(),
            summary: "versions".into(),
            cells: BTreeMap::from_iter(
                ["append".to_owned(), "merge".to_owned()].into_iter().zip(cells),
            ),
            failures: Vec::new(),
            run: None,
        };
        let page = markdown(&[
            (Check::Gl, column("GL", [Cell::Right(3), Cell::Refused("no subgroups".into())])),
            (
                Check::Tint,
                column("Tint", [Cell::Compiled(24), Cell::Failed("line 1\nline 2".into())]),
            ),
        ]);
        assert!(page.contains("| `append` | right (3) |\n| `merge` | refused |\n"), "{page}");
        assert!(page.contains("| `append` | 24 |\n| `merge` | **failed** |\n"), "{page}");
        assert!(page.contains("- GL, `merge`: no subgroups.\n"), "{page}");
        assert!(page.contains("- Tint, `merge`: **failed**, line 1.\n"), "{page}");
        assert!(page.contains("| `gpus` | – | not run |"), "{page}");
        assert!(page.contains("| `tint` | versions | **1 failures** |"), "{page}");
    }
}
