//! Intel's code as the driver's compiler prints it: labels, jumps to labels, and below each message to a unit what it says. A
//! condition jumps where no invocation of the subgroup meets it, and loops are left through their last instruction.

use super::lines::{Counts, Lines};

pub(super) fn read(code: &mut Lines, text: &str) {
    if text.starts_with("Native code") {
        return code.open();
    }
    if text.starts_with("NIR") {
        code.is_open = false;
    }
    // The compiler's summary stands before the code.
    if !code.is_open || text.starts_with("SIMD") {
        return;
    }
    if let Some(label) = text.strip_prefix("LABEL") {
        return code.label(label.trim_end_matches(':'));
    }
    if let Some((unit, message)) = text.trim_start().split_once(" MsgDesc: ") {
        return code.instruction(message_counts(unit, message));
    }
    // `(+f0.0) break(8) JIP:  LABEL65        UIP:  LABEL65             { align1 1Q };`
    let (condition, text) = match text.strip_prefix('(').and_then(|text| text.split_once(") ")) {
        Some((condition, text)) => (Some(condition), text),
        None => (None, text),
    };
    let Some((name, rest)) = text.split_once('(').filter(|_| !text.starts_with(' ')) else {
        return;
    };
    code.instruction(counts(name, rest));
    let mut targets = rest
        .split("LABEL")
        .skip(1)
        .map(|text| text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    match name {
        "if" => code.jump(targets.next(), true),
        "else" => code.jump(targets.next(), false),
        // The invocations that go on with the next turn wait at the loop's end for the others.
        "break" | "continue" => code.jump(targets.last(), condition.is_some()),
        "while" => code.jump(targets.next(), true),
        _ => {}
    }
}

fn counts(name: &str, rest: &str) -> Counts {
    // Of a subgroup that takes several instructions, its first invocations' counts for them all.
    let is_first = rest.contains(" 1Q") || rest.contains(" 1H") || rest.contains(" 1N");
    match name.split('.').next().unwrap_or_default() {
        "sync nop" | "sync allrd" | "sync allwr" | "sync bar" | "nop" => Counts::default(),
        // Of integers, too; those of floats have a type for each operand, at whose end it stands.
        "mad" | "mul" | "mac" if is_first && is_float(rest) => Counts::product(1),
        "math exp" if is_first => Counts::exponential(),
        _ => Counts::ONE,
    }
}

/// Whether the result is: `8)          g108<1>F        g93<8,8,1>F …`.
fn is_float(rest: &str) -> bool {
    let result = rest.split_whitespace().nth(1).unwrap_or_default();
    result.ends_with(">F") || result.ends_with(">HF")
}

/// What is read of storage buffers. Apart from the instruction itself, which was counted.
fn message_counts(unit: &str, text: &str) -> Counts {
    let Counts { loads, load_bytes, .. } = match unit {
        // `untyped surface read, Surface = 5, SIMD8, Mask = 0x8`: the components that aren't read. 254 is workgroup memory.
        "hdc1" if text.contains("untyped surface read") && !text.contains("Surface = 254") => {
            let mask = text.split("Mask = 0x").nth(1).and_then(|mask| mask.chars().next());
            let skipped = mask.and_then(|digit| digit.to_digit(16)).map_or(0, u32::count_ones);
            Counts::load(4 * u64::from(4 - skipped))
        }
        // `( load, a32, d32, V4, …`: the bits of a component, and how many. A transposed one reads for the subgroup as a whole.
        "ugm"
            if text.contains("( load") && text.contains(" bti ") && !text.contains("transpose") =>
        {
            let word = |at: usize| text.split(", ").nth(at).unwrap_or_default();
            let bits = word(2).trim_start_matches('d').split('u').next().unwrap_or_default();
            let components = word(3).trim_start_matches('V');
            Counts::load(number(bits) / 8 * number(components))
        }
        _ => Counts::default(),
    };
    Counts { loads, load_bytes, ..Counts::NONE }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::code::lines::Line;

    #[test]
    fn code_is_read() {
        let mut code = Lines::default();
        let text = "Native code for unnamed compute shader (null)\n\
            SIMD8 shader: 9 instructions. 1 loops. Non-SSA regs (after NIR): 193.\n   START B0 (42 cycles)\n\
            sync nop(1)                     null<0,1,0>UB                   { align1 WE_all 1N @3 };\n\
            LABEL9:\n\
            (+f0.0) break(8) JIP:  LABEL65        UIP:  LABEL66             { align1 1Q };\n\
            send(8)         g63UD           g5UD            nullUD          0x04146efd                0x00000000\n   \
            hdc1 MsgDesc: (untyped surface read, Surface = 5, SIMD8, Mask = 0xc)  mlen 1 ex_mlen 0 rlen 2 { align1 1Q $8 };\n   \
            ugm MsgDesc: ( load, a32, d16u32, V4, L1STATE_L3MOCS dst_len = 4, src1_len = 0 bti )  BTI 2  { align1 1Q $1 };\n   \
            hdc1 MsgDesc: (untyped surface read, Surface = 254, SIMD8, Mask = 0x0)  mlen 1 { align1 1Q $8 };\n\
            mad(8)          g1<1>F          g2<8,8,1>F      g3<8,8,1>F      g4<8,8,1>F { align1 1Q @1 };\n\
            mad(8)          g1<1>UD         0x0320UW        g125<8,8,1>UW   0x0004UW { align1 1Q };\n\
            mad(8)          g5<1>F          g2<8,8,1>F      g3<8,8,1>F      g4<8,8,1>F { align1 2Q };\n\
            math exp(8)     g9<1>F          g94<8,8,1>F     null<8,8,1>F    { align1 1Q @5 $0 };\n\
            while(8)        JIP:  LABEL9                                    { align1 1Q };\n   END B0\n";
        text.lines().for_each(|line| read(&mut code, line));
        let jump = |to: &str, falls| Line::Jump { to: vec![to.to_owned()], falls };
        let jumps: Vec<Line> =
            code.lines.iter().filter(|line| matches!(line, Line::Jump { .. })).cloned().collect();
        assert_eq!(jumps, [jump("66", true), jump("9", true)]);
        let mut sum = Counts::default();
        for line in &code.lines {
            if let Line::Instruction(counts) = line {
                sum += *counts;
            }
        }
        let expected = Counts {
            instructions: 7,
            products: 1,
            loads: 2,
            load_bytes: 8 + 8,
            exponentials: 1,
            ..Counts::NONE
        };
        assert_eq!(sum, expected);
    }
}
