use wgpu_attention::plan::{MaskFormat, MaskPlan};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{AttentionPlan, Mask, Problem, Shape};

use super::device::{kernels, made_or_refused};

/// Any text as a user-defined function, for a mask and for scores: an error, or kernels that validate.
pub fn wgsl(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(custom) = WgslFunction::new(text) else {
        return;
    };
    let buffers =
        [("slopes", WgslBuffer::F32), ("limit", WgslBuffer::U32), ("ids", WgslBuffer::I32)];
    let custom = buffers.into_iter().fold(custom, |custom, (name, element)| {
        custom.buffer(name, element, 3).expect("names and lengths are right")
    });
    assert!(custom.names().iter().all(|name| text.contains(name.as_str())));
    let shape = Shape::new(1, 2, 5, 8);
    let kernels = kernels();
    let masked = Problem::new(shape).mask(Mask::causal() & Mask::Wgsl(custom.clone()));
    made_or_refused(MaskPlan::new(&kernels, &masked, MaskFormat::Bits));
    let scored = Problem::new(shape).score_mod(custom);
    made_or_refused(AttentionPlan::new(&kernels, &scored, &Default::default()));
}
