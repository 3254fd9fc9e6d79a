//! Adreno's code as Turnip prints it: labels, jumps to labels, and marks of how often an instruction is repeated.

use super::lines::{Counts, Lines};

pub(super) fn read(code: &mut Lines, text: &str) {
    let Some(text) = text.strip_prefix("MESA: info: ") else { return };
    if text.starts_with("Native code") {
        return code.open();
    }
    if text.starts_with("NIR") || text.starts_with("; ") && text.contains(" instr, ") {
        code.is_open = false;
    }
    if !code.is_open || text.starts_with([';', '@', ' ']) {
        return;
    }
    if let Some(label) = text.strip_suffix(':').filter(|name| !name.contains(' ')) {
        return code.label(label);
    }
    // `(sy)(rpt3)mad.f32 r0.x, …`
    let (marks, text) = marks_of(text);
    let name = text.split_whitespace().next().unwrap_or_default();
    if name.is_empty() {
        return;
    }
    let times = 1 + marks.find("(rpt").map_or(0, |at| {
        marks[at + 4..].split(')').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    });
    code.instruction(counts(name, text) * times);
    let target = text.rsplit('#').next();
    match name {
        "jump" => code.jump(target, false),
        "br" | "braa" | "brao" | "ball" | "bany" | "getone" | "getlast" | "shps" => {
            code.jump(target, true);
        }
        "end" => code.jump([], false),
        _ => {}
    }
}

/// The marks before an instruction's name, and what follows.
fn marks_of(text: &str) -> (&str, &str) {
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix('(') {
        match inner.split_once(')') {
            Some((_, after)) => rest = after.trim_start(),
            None => break,
        }
    }
    text.split_at(text.len() - rest.len())
}

fn counts(name: &str, text: &str) -> Counts {
    match name {
        "nop" => Counts::default(),
        "mad.f32" | "mad.f16" | "mul.f" => Counts::product(1),
        "exp2" => Counts::exponential(),
        _ if name.starts_with("isam") => {
            // `isam.v.base0 (u32)(xyzw)r16.y, …`
            let components = text.split(['(', ')']).find(|part| part.starts_with('x'));
            let size = if text.contains("16)") { 2 } else { 4 };
            Counts::load(size * components.map_or(1, str::len) as u64)
        }
        _ if name.starts_with("ldib") || name.starts_with("ldg") => {
            // `ldib.b.untyped.1d.u32.4.imm.base0`
            let mut parts = name
                .split('.')
                .skip_while(|part| !part.starts_with(['u', 'f']) || *part == "untyped");
            let size = if parts.next().is_some_and(|kind| kind.ends_with("16")) { 2 } else { 4 };
            let components = parts.next().and_then(|n| n.parse().ok()).unwrap_or(1);
            Counts::load(size * components)
        }
        _ => Counts::ONE,
    }
}
