//! What room a kernel has for rows, and how it reads them.

use crate::kernel::key::{RowAccess, RowFormat, RowLength};
use crate::kernel::source::SEGMENT;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::{Dtype, GradientDtypes};
use crate::tensor::shape::Strides;

/// Rows of the lengths that models have get kernels with just their row_capacity, others read zeros up to the next one.
pub(in crate::kernel) const CAPACITIES: [usize; 11] =
    [16, 32, 64, 80, 96, 128, 192, 256, 384, 512, 576];

/// The smallest of `capacities` that `length` fits; few of them, so that few pipelines serve all lengths.
pub(in crate::kernel) fn row_capacity(length: usize, capacities: &[usize]) -> RowLength {
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

/// The same for the backward pass, whose own tensors count too.
pub(crate) fn backward_row_format(problem: &Resolved, strides: &GradientStrides) -> RowFormat {
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

/// Whether a forward kernel's sums are folded, segment by segment: where there is more than one, and o holds f32.
pub(in crate::kernel) fn folds(problem: &Resolved) -> bool {
    problem.shape.seq_len_kv > SEGMENT && problem.dtypes.o == Dtype::F32
}

/// The same of dq.
pub(in crate::kernel) fn dq_folds(problem: &Resolved, gradients: GradientDtypes) -> bool {
    problem.shape.seq_len_kv > SEGMENT && gradients.dq == Dtype::F32
}

/// The same of dk and dv, whose sums are over the queries of a group's heads.
pub(in crate::kernel) fn dkdv_folds(problem: &Resolved, gradients: GradientDtypes) -> bool {
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
