//! The look-ahead mask, drawn as matrices: each token sees itself and what came before it, never what comes after.
//!
//! It is the first mask that one meets in a decoder. As a matrix to be added to the scores it holds 0 where a token may
//! look and −∞ where it may not; it fills the triangle above the diagonal. Here the device makes it, in both of its
//! forms, for a sentence of three tokens and for one of five.

mod common;

use anyhow::Result;
use common::print_matrix;
use wgpu_attention::plan::MaskFormat;
use wgpu_attention::{AuxData, Mask, Problem, Session, Shape};

const INF: f32 = f32::INFINITY;

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    three_tokens(&attention)?;
    five_tokens(&attention)
}

fn three_tokens(attention: &Session) -> Result<()> {
    let tokens = ["I", "love", "you"];
    let additive = matrix(attention, &Mask::causal(), 3, MaskFormat::Additive)?;
    print_matrix("What is added to the scores of \"I love you\":", &tokens, &tokens, &additive);
    #[rustfmt::skip]
    assert_eq!(additive, [
        0.0, -INF, -INF,
        0.0,  0.0, -INF,
        0.0,  0.0,  0.0,
    ]);

    let keep = matrix(attention, &Mask::causal(), 3, MaskFormat::Keep)?;
    println!(
        "\nThe same for \"I am fine\", one row per step, `.` where it looks and `X` where it can't:\n"
    );
    for (t, row) in keep.chunks(3).enumerate() {
        let cells = row.iter().map(|&keep| if keep == 1.0 { "  ." } else { "  X" });
        let sees = match t {
            0 => "itself only".to_owned(),
            _ => format!("tokens 1 to {}", t + 1),
        };
        println!("  t={}:{}   token {} sees {sees}", t + 1, cells.collect::<String>(), t + 1);
    }
    Ok(())
}

fn five_tokens(attention: &Session) -> Result<()> {
    let tokens = ["A", "B", "C", "D", "E"];
    let additive = matrix(attention, &Mask::causal(), 5, MaskFormat::Additive)?;
    print_matrix("What is added to the scores of five tokens:", &tokens, &tokens, &additive);

    for (title, mask) in [("Without a mask", Mask::All), ("With the causal mask", Mask::causal())] {
        println!("\n{title} (`{mask}`):\n");
        let keep = matrix(attention, &mask, 5, MaskFormat::Keep)?;
        for (position, (token, row)) in tokens.iter().zip(keep.chunks(5)).enumerate() {
            let seen: Vec<_> =
                tokens.iter().zip(row).filter(|(_, keep)| **keep == 1.0).map(|(t, _)| *t).collect();
            println!("  Token {token}: looks at [{}]", seen.join(", "));
            let expected = if mask == Mask::All { &tokens } else { &tokens[..=position] };
            assert_eq!(seen, expected);
        }
    }
    Ok(())
}

/// The mask of a sequence's attention to itself, `[seq_len, seq_len]`, made on the device.
fn matrix(
    attention: &Session,
    mask: &Mask,
    seq_len: usize,
    format: MaskFormat,
) -> Result<Vec<f32>> {
    // One sequence, one head; the mask doesn't care how long the heads' vectors are.
    let problem = Problem::new(Shape::new(1, 1, seq_len, 1)).mask(mask.clone());
    Ok(attention.materialize_blocking(&problem, &AuxData::new(), format)?.values)
}
