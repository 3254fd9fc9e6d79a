//! wavo's attention kernel of cooperative matrices, from its own WGSL.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use wgpu_attention::Session;
use wgpu_attention::wgpu::{
    ComputePipelineDescriptor, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource,
};

/// The one length of rows that it's compiled for; it takes up to that.
const HEAD_DIM: usize = 64;

/// What is written otherwise: its sizes are a uniform buffer instead of immediates, which devices aren't opened with here. The
/// loops that stage tiles tell how many turns they have, and load without asking whether a row is there, so that the shortest way
/// through a step, which is what is counted, has them.
const CHANGES: [(&str, &str); 3] = [
    ("if (j < p.t && e % 16u < h4) {", "{"),
    ("var<immediate> p: Params;", "@group(0) @binding(3) var<uniform> p: Params;"),
    (
        "for (var e = lid; e < 1024u; e += 128u) {",
        "for (var i = 0u; i < 8u; i += 1u) {\nlet e = i * 128u + lid;",
    ),
];

/// Compiles the kernel.
pub(crate) fn compile(session: &Session, folder: &Path) -> Result<()> {
    let path = folder.join("src/gpu/flash_f16.wgsl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = CHANGES.iter().try_fold(text, |text, (from, to)| {
        ensure!(text.contains(from), "{} has no `{from}`", path.display());
        Ok(text.replace(from, to))
    })?;
    let device = session.device();
    eprintln!("### plan wavo matrix, prefill; {HEAD_DIM}; f16");
    let descriptor =
        ShaderModuleDescriptor { label: Some("wavo"), source: ShaderSource::Wgsl(text.into()) };
    // SAFETY: nothing executes it.
    #[expect(unsafe_code, reason = "wavo compiles it so")]
    let module = unsafe {
        device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked())
    };
    let _ = device.create_compute_pipeline(&ComputePipelineDescriptor {
        label: Some("wavo"),
        layout: None,
        module: &module,
        entry_point: Some("flash"),
        compilation_options: Default::default(),
        cache: None,
    });
    eprintln!("### end");
    Ok(())
}
