//! How `--device` is written.

use wgpu_attention::DeviceOptions;
use wgpu_attention::device::AdapterChoice;

/// Behind the adapter, it asks for cooperative matrices.
const WITH_MATRICES: &str = "+matrices";

/// A number is an adapter's place in `devices`, everything else a part of a name, nothing the best one; `+matrices` behind it
/// asks for cooperative matrices.
pub(crate) fn parse(text: &str) -> DeviceOptions {
    let (adapter, matrices) = match text.strip_suffix(WITH_MATRICES) {
        Some(adapter) => (adapter, true),
        None => (text, false),
    };
    let choice = match adapter.parse() {
        Ok(index) => AdapterChoice::Index(index),
        Err(_) if adapter.is_empty() && matrices => AdapterChoice::Best,
        Err(_) => AdapterChoice::Name(adapter.to_owned()),
    };
    DeviceOptions::default().adapter(choice).matrices(matrices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_matrices() {
        let name = |part: &str| AdapterChoice::Name(part.to_owned());
        for (text, adapter, matrices) in [
            ("1", AdapterChoice::Index(1), false),
            ("1+matrices", AdapterChoice::Index(1), true),
            ("radeon", name("radeon"), false),
            ("radeon+matrices", name("radeon"), true),
            ("+matrices", AdapterChoice::Best, true),
            ("", name(""), false),
            ("-1", name("-1"), false),
        ] {
            let expected = DeviceOptions::default().adapter(adapter).matrices(matrices);
            assert_eq!(parse(text), expected, "`{text}`");
        }
    }
}
