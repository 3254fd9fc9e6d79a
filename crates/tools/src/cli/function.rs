//! User-defined functions, from files.

use std::path::Path;

use anyhow::Context as _;
use wgpu_attention::Mask;
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention_tools::files::TensorFile;

/// A function from a file; the tensors that it names are its buffers.
pub(crate) fn read(path: &Path, tensors: Option<&TensorFile>) -> anyhow::Result<WgslFunction> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    let custom = WgslFunction::new(text).with_context(shown)?.labeled(shown());
    match tensors {
        Some(tensors) => tensors.with_buffers(custom).with_context(shown),
        None => Ok(custom),
    }
}

/// A mask's text, in which `wgsl` stands for the function that is given.
pub(crate) fn mask(text: &str, function: Option<&WgslFunction>) -> anyhow::Result<Mask> {
    Ok(match function {
        Some(function) => Mask::parse_with(text, function.clone())?,
        None => text.parse()?,
    })
}
