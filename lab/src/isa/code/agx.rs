//! Apple's code as the driver's compiler prints it, three times: the last time registers are assigned. Blocks name those
//! that follow. Then comes the machine's code, which isn't read, and the same of what runs once before all invocations.

use super::lines::{Counts, Lines};

pub(super) fn read(code: &mut Lines, text: &str) {
    if text.starts_with("shader: ") {
        // Of the next kernel.
        code.lines.clear();
        code.is_open = true;
    } else if !code.is_open {
    } else if text.trim_start().starts_with("0: ") {
        // The machine's code.
        code.is_open = false;
    } else if text == "block0 {" {
        code.open();
        code.label("block0");
    } else if let Some(label) = text.strip_suffix(" {").filter(|name| name.starts_with("block")) {
        code.label(label);
    } else if let Some(next) = text.strip_prefix("} -> ") {
        let next = next.split("from").next().unwrap_or_default();
        code.jump(next.split_whitespace(), false);
    } else if text == "}" {
        code.jump([], false);
    } else if let Some(text) = text.strip_prefix("   ").filter(|text| !text.starts_with(' ')) {
        let (to, text) = text.split_once(" = ").unwrap_or(("", text));
        code.instruction(counts(to, text));
    }
}

fn counts(to: &str, text: &str) -> Counts {
    let name = text.split_whitespace().next().unwrap_or_default();
    match name {
        // Copies that are part of other instructions, and notes for the compiler.
        "phi" | "split" | "collect" | "begin_cf" | "logical_end" | "wait" | "nop" => {
            Counts::default()
        }
        "ffma" | "fmul" | "hfma" | "hmul" => Counts::product(1),
        "exp2" => Counts::exponential(),
        "device_load" => {
            let half = to.ends_with('l') || to.ends_with('h');
            let components = text
                .split(", ")
                .find(|word| !word.is_empty() && word.chars().all(|c| "xyzw".contains(c)));
            Counts::load(components.map_or(0, str::len) as u64 * if half { 2 } else { 4 })
        }
        _ => Counts::ONE,
    }
}
