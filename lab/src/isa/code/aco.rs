//! AMD's code as RADV prints it: labels, instructions behind a tab, jumps to labels.

use super::lines::{Counts, Lines};

pub(super) fn read(code: &mut Lines, text: &str) {
    if text == "BB0:" {
        code.open();
    } else if text.starts_with("***") {
        code.is_open = false;
    }
    if !code.is_open {
        return;
    }
    if let Some(label) = text.strip_suffix(':') {
        code.label(label);
    } else if let Some(text) = text.strip_prefix('\t') {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        code.instruction(counts(name, text));
        match name {
            "s_branch" => code.jump(words.next(), false),
            "s_endpgm" => code.jump([], false),
            _ if name.starts_with("s_cbranch") => code.jump(words.next(), true),
            _ => {}
        }
    }
}

/// What only waits, or tells the hardware how to schedule what follows.
const WAITING: [&str; 4] = ["s_waitcnt", "s_wait_", "s_delay_alu", "s_clause"];

fn counts(name: &str, text: &str) -> Counts {
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    if name == "s_nop" || starts(&WAITING) {
        Counts::default()
    } else if starts(&["v_wmma_f32_16x16x16"]) {
        // The sums of 32 invocations take 8 registers each, those of 64 take 4.
        Counts::matrix(if registers(text) == 8 { 128 } else { 64 })
    } else if starts(&["v_dual_"]) {
        // `v_dual_fmac_f32 … :: v_dual_mul_f32 …`
        let products = ["v_dual_fm", "v_dual_mul_f"].map(|name| text.matches(name).count() as u64);
        Counts::product(products[0] + products[1])
    } else if starts(&["v_pk_fma_f", "v_pk_mul_f", "v_dot2"]) {
        Counts::product(2)
    } else if starts(&[
        "v_fma_",
        "v_fmac_",
        "v_mac_f",
        "v_mad_f",
        "v_mad_mix",
        "v_mul_f",
        "v_fmam",
        "v_fmaa",
    ]) {
        Counts::product(1)
    } else if starts(&["v_exp_f"]) {
        Counts::exponential()
    } else if starts(&["buffer_load_", "global_load_"]) {
        Counts::load(bytes(name))
    } else {
        Counts::ONE
    }
}

/// `buffer_load_dwordx4`, `buffer_load_b128`, `buffer_load_ushort`.
fn bytes(name: &str) -> u64 {
    let kind = name.rsplit("load_").next().unwrap_or_default();
    match (kind.strip_prefix("dword"), kind.strip_prefix('b')) {
        (Some(""), _) => 4,
        (Some(times), _) => 4 * times.trim_start_matches('x').parse().unwrap_or(0),
        (_, Some(bits)) => bits.parse::<u64>().unwrap_or(0) / 8,
        _ if kind.contains("16") || kind.contains("short") => 2,
        _ => 1,
    }
}

/// How many registers the first operand has: `v[8:15]`.
fn registers(text: &str) -> u64 {
    let range = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')?.0.split_once(':'));
    let number = |text: &str| text.parse::<u64>().ok();
    range.and_then(|(first, last)| Some(number(last)? + 1 - number(first)?)).unwrap_or(1)
}
