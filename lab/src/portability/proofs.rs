//! Which device tests prove which kernel.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::column::Cell;
use super::run::Run;

/// Which tests prove a kernel: those whose names start like this. The first column has the names of `wgpu-attention
/// kernels`.
const PROOFS: [(&str, &[&str]); 32] = [
    ("append", &["cache::"]),
    ("backward bias", &["backward::"]),
    ("backward custom", &["backward::custom::"]),
    ("backward custom sums", &["backward::custom::"]),
    ("backward dkdv broadcast", &["kernels::backward_broadcast", "backward::"]),
    ("backward dkdv matrix", &["kernels::backward_matrix", "backward::matrix::"]),
    ("backward dkdv tiled", &["kernels::backward_tiled", "backward::"]),
    ("backward dq broadcast", &["kernels::backward_broadcast", "backward::"]),
    ("backward dq matrix", &["kernels::backward_matrix", "backward::matrix::"]),
    ("backward dq tiled", &["kernels::backward_tiled", "backward::"]),
    ("backward pages", &["backward::sequences::"]),
    ("backward sinks", &["backward::"]),
    ("backward slopes", &["backward::"]),
    ("backward terms", &["kernels::backward_tiled", "backward::"]),
    ("block bits", &["block_index::", "leaves::"]),
    ("bounds", &["bounds::"]),
    ("forward broadcast", &["kernels::forward_broadcast", "forward::", "scores::", "dtypes::"]),
    ("forward decode", &["kernels::forward_decode", "decode::"]),
    ("forward decode_lanes", &["kernels::forward_decode_lanes", "decode::"]),
    ("forward matrix", &["kernels::forward_matrix", "matrix::"]),
    ("forward tiled", &["kernels::forward_tiled", "forward::", "scores::", "dtypes::"]),
    ("inspect", &["inspect::"]),
    ("materialize", &["masks::"]),
    ("merge", &["merge::", "decode::"]),
    ("pick blocks", &["block_index::"]),
    ("pool blocks", &["block_index::"]),
    ("rows alone", &["masks::"]),
    ("score points", &["backward::scores::"]),
    ("sequences check", &["sequences::"]),
    ("tile classes", &["masks::"]),
    ("tile map", &["masks::"]),
    ("weights", &["inspect::", "edges::"]),
];

/// Fails where a kernel that is compiled is missing in the table of proofs, or none is where the table has one.
pub(super) fn check<'a>(kernels: impl Iterator<Item = &'a str>) -> Result<()> {
    let compiled: BTreeSet<&str> = kernels.collect();
    let proved: BTreeSet<&str> = PROOFS.iter().map(|(kernel, _)| *kernel).collect();
    let apart: Vec<&&str> = compiled.symmetric_difference(&proved).collect();
    ensure!(apart.is_empty(), "PROOFS of {} and the kernels differ in {apart:?}", file!());
    Ok(())
}

/// What became of the kernels; where some tests weren't run, of those that some test proves.
pub(super) fn cells(run: &Run, whole: bool) -> BTreeMap<String, Cell> {
    let cell = |(kernel, starts): &(&str, &[&str])| {
        let cell = match found(run, starts) {
            None if whole => Cell::Failed("no test ran".to_owned()),
            None => return None,
            Some(cell) => cell,
        };
        Some(((*kernel).to_owned(), cell))
    };
    PROOFS.iter().filter_map(cell).collect()
}

fn found(run: &Run, starts: &[&str]) -> Option<Cell> {
    if let Some(reason) = starts.iter().find_map(|name| run.refusals.get(*name)) {
        return Some(Cell::Refused(reason.clone()));
    }
    let proves = |name: &str| {
        let of = |start: &str| name == start || start.ends_with("::") && name.starts_with(start);
        starts.iter().any(|start| of(start))
    };
    let proofs: Vec<_> = run.tests.iter().filter(|(name, _)| proves(name)).collect();
    match proofs.iter().find(|(_, passed)| !**passed) {
        Some((name, _)) => Some(Cell::Failed(format!("test {name}"))),
        None if proofs.is_empty() => None,
        None => Some(Cell::Right(proofs.len())),
    }
}
