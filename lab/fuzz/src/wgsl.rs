use wgpu_attention::plan::{MaskFormat, MaskPlan, PlanOptions};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{AttentionPlan, AuxData, Inputs, Mask, Problem, RunOptions, Shape};

use super::device::{Sanitized, kernels, made_or_refused};

/// The buffers that a text may read, each of this many elements.
const BUFFERS: [(&str, WgslBuffer); 3] =
    [("slopes", WgslBuffer::F32), ("limit", WgslBuffer::U32), ("ids", WgslBuffer::I32)];
const ELEMENTS: usize = 3;

/// Any text as a user-defined function, for a mask and for scores: an error, or kernels that validate. What validates is
/// executed, within a bound of operations, and nothing is wrong in it but in the text's own lines.
pub fn wgsl(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        executed_functions(text);
    }
}

/// [`wgsl`] of a text; tells for how many of both uses it was executed.
pub fn executed_functions(text: &str) -> usize {
    let Ok(custom) = WgslFunction::new(text) else {
        return 0;
    };
    let mut count = 0;
    let custom = BUFFERS.into_iter().fold(custom, |custom, (name, element)| {
        custom.buffer(name, element, ELEMENTS).expect("names and lengths are right")
    });
    assert!(custom.names().iter().all(|name| text.contains(name.as_str())));
    let shape = Shape::new(1, 2, 5, 8);
    let kernels = kernels();
    let masked = Problem::new(shape).mask(Mask::causal() & Mask::Wgsl(custom.clone()));
    if made_or_refused(MaskPlan::new(&kernels, &masked, MaskFormat::Bits)).is_some() {
        let run =
            |on: &Sanitized| on.session.materialize_blocking(&masked, &aux(), MaskFormat::Keep);
        executed(text, "keep", |on| run(on).map(|_| ()));
        count += 1;
    }
    let scored = Problem::new(shape).score_mod(custom);
    if made_or_refused(AttentionPlan::new(&kernels, &scored, &PlanOptions::default())).is_some() {
        let operand: Vec<f32> = (0..80).map(|at| at as f32 / 16.0 - 2.0).collect();
        let aux = aux();
        let inputs = Inputs::new(&operand, &operand, &operand).aux(&aux);
        let run =
            |on: &Sanitized| on.session.run_blocking(&scored, &inputs, &RunOptions::default());
        executed(text, "score_mod", |on| run(on).map(|_| ()));
        count += 1;
    }
    count
}

fn aux() -> AuxData {
    AuxData::new()
        .custom_f32("slopes", [0.5, -1.0, f32::NAN])
        .custom_u32("limit", [0, 3, u32::MAX])
        .custom_i32("ids", [-1, 2, i32::MIN])
}

/// Runs something; what is wrong then is in the text of a user-defined function.
fn executed(text: &str, function: &str, run: impl Fn(&Sanitized) -> wgpu_attention::Result<()>) {
    let on = Sanitized::new();
    let result = run(&on);
    for dispatch in on.sanitizer.take() {
        let title = format!("// ---- the user's {function} ----");
        let above = dispatch.source.lines().position(|line| line == title);
        let own =
            above.map_or(0..0, |at| at as u32 + 2..at as u32 + 3 + text.lines().count() as u32);
        for found in dispatch.report.faults() {
            assert!(own.contains(&found.at.line), "outside of the function: {found}");
        }
    }
    // A function may take too long, and the device then says so; nothing else may go wrong.
    if let Some(error) = result.err().map(|error| error.to_string()).or(on.error()) {
        assert!(error.contains("the dispatch wasn't done after"), "{error}");
    }
}
