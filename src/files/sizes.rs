//! Tensors' sizes, and what is said where they are others.

use crate::error::{Error, Result};
use crate::tensor::shape::Layout;

/// From `[batch, heads, seq, dim]` to the layout's order, and back.
pub(super) const fn reorder([batch, heads, seq, dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhsd => [batch, heads, seq, dim],
        Layout::Bshd => [batch, seq, heads, dim],
    }
}
/// `[batch, heads, seq, dim]` of a tensor that lies in `layout`.
pub(super) fn sizes(name: &str, dims: &[usize], layout: Layout) -> Result<[usize; 4]> {
    let order = match layout {
        Layout::Bhsd => "[batch, heads, seq, dim]",
        Layout::Bshd => "[batch, seq, heads, dim]",
    };
    let sizes: [usize; 4] = (dims.try_into())
        .map_err(|_| Error::operand(name, format!("4 dimensions, {order}"), format!("{dims:?}")))?;
    Ok(reorder(sizes, layout))
}

/// Sizes `[batch, heads, seq, dim]` in the layout's order, with names for those that may be anything.
pub(super) fn named_sizes(sizes: [Result<usize, &str>; 4], layout: Layout) -> String {
    let [batch, heads, seq, dim] =
        sizes.map(|size| size.map_or_else(str::to_owned, |size| size.to_string()));
    match layout {
        Layout::Bhsd => format!("[{batch}, {heads}, {seq}, {dim}]"),
        Layout::Bshd => format!("[{batch}, {seq}, {heads}, {dim}]"),
    }
}

pub(super) fn check_sizes(name: &str, dims: &[usize], expected: &[(&str, usize)]) -> Result<()> {
    if dims.iter().eq(expected.iter().map(|(_, size)| size)) {
        return Ok(());
    }
    let expected: Vec<_> = expected.iter().map(|(name, size)| format!("{name} = {size}")).collect();
    Err(Error::operand(name, format!("[{}]", expected.join(", ")), format!("{dims:?}")))
}

/// The sizes of a tensor that broadcasts, with 1 for those that are missing in front.
pub(super) fn broadcast_sizes(name: &str, dims: &[usize]) -> Result<[usize; 4]> {
    let mut sizes = [1; 4];
    let Some(missing) = sizes.len().checked_sub(dims.len()) else {
        return Err(Error::operand(name, "at most 4 dimensions", format!("{dims:?}")));
    };
    sizes[missing..].copy_from_slice(dims);
    Ok(sizes)
}
