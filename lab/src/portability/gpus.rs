//! The compilers of Mesa's drivers, for GPUs of five vendors that aren't there.

use std::collections::BTreeMap;

use anyhow::Result;
use drivers::workspace::Workspace;

use super::column::{Cell, Column};
use crate::isa;

/// Compiles the kernels that `cargo xtask isa` reports on, for all GPUs.
pub(super) fn run(workspace: &Workspace) -> Result<Column> {
    let compiled = isa::compile_everywhere(workspace)?;
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    let mut failures = Vec::new();
    let (mut count, mut in_memory) = (0, 0);
    for (gpu, result) in &compiled.gpus {
        match result {
            Ok(kernels) => {
                for compiled in kernels {
                    count += 1;
                    in_memory += usize::from(compiled.stats.uses_memory());
                    // Behind the comma is what its tiles are for.
                    let name = compiled.kernel.split(',').next().unwrap_or_default();
                    let cell = cells.entry(name.to_owned()).or_insert(Cell::Compiled(0));
                    match cell {
                        Cell::Compiled(so_far) => *so_far += 1,
                        Cell::Right(_) | Cell::Refused(_) | Cell::Failed(_) => {}
                    }
                }
            }
            Err(error) => failures.push(format!("{}: {error:#}", gpu.name)),
        }
    }
    Ok(Column {
        title: "GPUs".to_owned(),
        summary: format!(
            "{}; {count} kernels, compiled for {} GPUs, {in_memory} of which have registers in memory",
            compiled.package,
            compiled.gpus.len(),
        ),
        cells,
        failures,
        run: None,
    })
}
