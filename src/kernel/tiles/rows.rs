//! What room a kernel has for rows, and how it reads them.

use super::device::DeviceTraits;
use crate::kernel::key::{RowAccess, RowFormat, RowLength};
use crate::kernel::source::SEGMENT;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::{Dtype, GradientDtypes};
use crate::tensor::shape::Strides;

/// Rows of the lengths that models have get kernels with just their row_capacity, others read zeros up to the next one.
pub(super) const CAPACITIES: [usize; 8] = [16, 32, 64, 80, 96, 128, 192, 256];

/// The smallest of `capacities` that `length` fits; few of them, so that few pipelines serve all lengths.
pub(super) fn row_capacity(length: usize, capacities: &[usize]) -> RowLength {
    let capacity = (capacities.iter().copied())
        .find(|&capacity| length <= capacity)
        .unwrap_or(crate::tensor::shape::MAX_HEAD_DIM);
    RowLength { capacity, exact: capacity == length }
}

/// Four elements at a time where every row starts at a multiple of that.
pub(crate) fn row_format(problem: &Resolved) -> RowFormat {
    let access = match forward_rows_are_aligned(problem) {
        true => RowAccess::Vec4,
        false => RowAccess::Scalar,
    };
    RowFormat { access, dtypes: problem.dtypes }
}

/// The same for kernels that are for CPUs.
pub(super) fn lane_row_format(format: RowFormat, device: &DeviceTraits) -> RowFormat {
    match format.access {
        RowAccess::Vec4 if device.reads_wide => RowFormat { access: RowAccess::Wide, ..format },
        _ => format,
    }
}

/// The same for the backward pass, whose own tensors count too.
pub(super) fn backward_row_format(problem: &Resolved, strides: &GradientStrides) -> RowFormat {
    let shape = &problem.shape;
    let aligned = forward_rows_are_aligned(problem)
        && are_aligned(&[
            (strides.dout, shape.head_dim_v),
            (strides.dq, shape.head_dim),
            (strides.dk, shape.head_dim),
            (strides.dv, shape.head_dim_v),
        ]);
    let access = if aligned { RowAccess::Vec4 } else { RowAccess::Scalar };
    RowFormat { access, dtypes: problem.dtypes }
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
    let rows_format = lane_row_format(row_format(problem), device);
    if rows_format.access == RowAccess::Scalar && widest > 64 {
        return Err(format!(
            "it serves rows whose length and strides aren't multiples of 4 up to head_dim 64, here it is {widest}: \
             longer ones would take seconds to compile"
        ));
    }
    Ok((subgroup_size, rows_format))
}

/// Whether a forward kernel's sums are folded, segment by segment: where there is more than one, and o holds f32.
pub(super) fn folds(problem: &Resolved) -> bool {
    problem.shape.seq_len_kv > SEGMENT && problem.dtypes.o == Dtype::F32
}

/// The same of dq.
pub(super) fn dq_folds(problem: &Resolved, gradients: GradientDtypes) -> bool {
    problem.shape.seq_len_kv > SEGMENT && gradients.dq == Dtype::F32
}

/// The same of dk and dv, whose sums are over the queries of a group's heads.
pub(super) fn dkdv_folds(problem: &Resolved, gradients: GradientDtypes) -> bool {
    let terms = problem.shape.seq_len_q.saturating_mul(problem.shape.group_size());
    terms > SEGMENT && [gradients.dk, gradients.dv] == [Dtype::F32; 2]
}

fn forward_rows_are_aligned(problem: &Resolved) -> bool {
    let (strides, shape) = (problem.strides, &problem.shape);
    are_aligned(&[
        (strides.q, shape.head_dim),
        (strides.k, shape.head_dim),
        (strides.v, shape.head_dim_v),
        (strides.o, shape.head_dim_v),
    ])
}

/// Whether every row of these tensors starts at a multiple of 4 elements and is as long.
fn are_aligned(tensors: &[(Strides, usize)]) -> bool {
    tensors.iter().all(|(strides, length)| {
        let [batch, head, seq, dim] = strides.to_array();
        dim == 1 && [batch, head, seq, *length].iter().all(|n| n.is_multiple_of(4))
    })
}
