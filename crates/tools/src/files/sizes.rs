//! Tensors' sizes, and what is said where they are others.

use wgpu_attention::Layout;
use wgpu_attention::{Error, Result};

/// From `[batch, heads, seq, dim]` to the layout's order, and back.
pub(super) const fn reorder([batch, heads, seq, dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhsd => [batch, heads, seq, dim],
        Layout::Bshd => [batch, seq, heads, dim],
    }
}

/// What a file's q, k and v are split by into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// By their dimensions, four in this order.
    Layout(Layout),
    /// By numbers of heads: they are `[batch, seq, heads * dim]`.
    Merged,
}

impl Split {
    /// Sizes `[batch, heads, seq, dim]` as the file has them.
    pub(super) fn dims(self, sizes: [usize; 4]) -> Vec<usize> {
        let [batch, heads, seq, dim] = sizes;
        match self {
            Self::Layout(layout) => reorder(sizes, layout).to_vec(),
            Self::Merged => vec![batch, seq, heads.saturating_mul(dim)],
        }
    }

    /// The same in words, with names for those that may be anything.
    pub(super) fn named(self, sizes: [Result<usize, &str>; 4]) -> String {
        let [batch, heads, seq, dim] =
            sizes.map(|size| size.map_or_else(str::to_owned, |size| size.to_string()));
        match self {
            Self::Layout(Layout::Bhsd) => format!("[{batch}, {heads}, {seq}, {dim}]"),
            Self::Layout(Layout::Bshd) => format!("[{batch}, {seq}, {heads}, {dim}]"),
            Self::Merged => format!("[{batch}, {seq}, {heads} * {dim}]"),
        }
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

/// `[batch, heads, seq, dim]` of a tensor of `[batch, seq, heads * dim]`.
pub(super) fn merged_sizes(name: &str, dims: &[usize], heads: (&str, usize)) -> Result<[usize; 4]> {
    let &[batch, seq, width] = dims else {
        let expected = format!("3 dimensions, [batch, seq, {} * dim]", heads.0);
        return Err(Error::operand(name, expected, format!("{dims:?}")));
    };
    if heads.1 == 0 || !width.is_multiple_of(heads.1) {
        let expected = format!("[batch, seq, a multiple of {} = {}]", heads.0, heads.1.max(1));
        return Err(Error::operand(name, expected, format!("{dims:?}")));
    }
    Ok([batch, heads.1, seq, width / heads.1])
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
