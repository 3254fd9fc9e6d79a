//! RADV's compiler, for every family of AMD's GPUs that it can pretend.

use std::collections::BTreeMap;

use anyhow::Result;
use drivers::workspace::Workspace;

use super::column::{Cell, Column};
use crate::isa;

/// Compiles the kernels that `cargo xtask isa` reports on, for all families.
pub(super) fn run(workspace: &Workspace) -> Result<Column> {
    let compiled = isa::compile_everywhere(workspace)?;
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut count = 0;
    for (family, result) in &compiled.families {
        match result {
            Ok(kernels) => {
                for (kernel, spilled) in kernels {
                    count += 1;
                    // Behind the comma is what its tiles are for.
                    let name = kernel.split(',').next().unwrap_or_default();
                    let cell = cells.entry(name.to_owned()).or_insert(Cell::Compiled(0));
                    match cell {
                        Cell::Compiled(so_far) => *so_far += 1,
                        Cell::Right(_) | Cell::Refused(_) | Cell::Failed(_) => {}
                    }
                    if *spilled {
                        failures.push(format!("{kernel} on {family}: registers spill"));
                    }
                }
            }
            Err(error) => failures.push(format!("{family}: {error:#}")),
        }
    }
    Ok(Column {
        title: "RADV".to_owned(),
        summary: format!(
            "{}; {count} kernels, compiled for {} families, {} of which spill registers",
            compiled.package,
            compiled.families.len(),
            failures.len()
        ),
        cells,
        failures,
        run: None,
    })
}
