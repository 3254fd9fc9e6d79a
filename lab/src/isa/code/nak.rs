//! NVIDIA's code as NAK prints it, after each of its passes: the last is the machine's. Blocks name those that follow.

use super::lines::{Counts, Lines};

pub(super) fn read(code: &mut Lines, text: &str) {
    if text.starts_with("NAK IR") {
        code.open();
    } else if text.starts_with("Stage:") {
        code.is_open = false;
    } else if !code.is_open {
    } else if text.starts_with("block") {
        // `block.u 3 L5 [2, 237] -> {`
        code.label(text.split(' ').nth(1).unwrap_or_default());
    } else if let Some(next) = text.strip_prefix("} -> [") {
        let next = next.trim_end_matches(']').split(", ").filter(|name| !name.is_empty());
        code.jump(next, false);
    } else {
        // `@!p0  r0 = imad r0 c[0x0][0x708] r1  // delay=5`
        let text = text.split("//").next().unwrap_or_default();
        let text = text.rsplit("= ").next().unwrap_or_default();
        let mut words = text.split_whitespace().skip_while(|word| word.starts_with('@'));
        if let Some(name) = words.next() {
            code.instruction(counts(name));
        }
    }
}

fn counts(name: &str) -> Counts {
    let mut parts = name.split('.');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("nop", _) => Counts::default(),
        ("ffma" | "fmul", _) => Counts::product(1),
        // Two at a time.
        ("hfma2" | "hmul2", _) => Counts::product(2),
        // A product of matrices, 16 x 8 x 8 or 16 x 8 x 16, by 32 invocations.
        ("hmma", Some(size)) => Counts::matrix(if size.ends_with("k8") { 32 } else { 64 }),
        ("mufu", Some("exp2")) => Counts::exponential(),
        ("ld", Some("global")) => Counts::load(name.rsplit(".b").next().map_or(0, bytes)),
        _ => Counts::ONE,
    }
}

fn bytes(bits: &str) -> u64 {
    bits.parse::<u64>().unwrap_or(0) / 8
}
