//! How the lanes of a CPU adapter's subgroup read rows.

use crate::kernel::key::{RowAccess, RowFormat};
use crate::kernel::tiles::{DeviceTraits, row_format};
use crate::problem::Resolved;

/// The longest rows that these kernels have in registers.
const LONGEST: usize = 256;

/// The format of rows for CPUs: 64 bits at a time where the device has such words.
pub(super) fn lane_row_format(format: RowFormat, device: &DeviceTraits) -> RowFormat {
    match format.access {
        RowAccess::Vec4 if device.reads_wide => RowFormat { access: RowAccess::Wide, ..format },
        _ => format,
    }
}

/// The subgroups' size and the format of rows for a kernel that is for CPUs, or why it can't serve.
pub(super) fn lanes(
    problem: &Resolved,
    device: &DeviceTraits,
) -> Result<(usize, RowFormat), String> {
    let subgroup_size = device.fixed_subgroup_size.clone()?;
    if !(4..=32).contains(&subgroup_size) {
        return Err(format!("it needs subgroups of 4 to 32 lanes, here they have {subgroup_size}"));
    }
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    if widest > LONGEST {
        return Err(format!(
            "it serves rows up to head_dim {LONGEST}, here it is {widest}: longer ones would take seconds to compile"
        ));
    }
    let rows_format = lane_row_format(row_format(problem), device);
    if rows_format.access == RowAccess::Scalar && widest > 64 {
        return Err(format!(
            "it serves rows whose length and strides aren't multiples of 4 up to head_dim 64, here it is {widest}: \
             longer ones would take seconds to compile"
        ));
    }
    Ok((subgroup_size, rows_format))
}
