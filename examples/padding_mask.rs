//! The padding mask: sentences of different lengths share a batch, and nobody looks at what fills the short ones up.
//!
//! It is the one mask that an encoder has. The device makes it in the shape that people write down,
//! `[batch, 1, 1, seq]` with 1 for keep, and it doesn't matter how one says what is padding: by lengths, by a keep
//! tensor, by token ids and the id that stands for padding, or by a whole mask that one already has.

mod common;

use anyhow::Result;
use common::{normal, print_matrix};
use wgpu_attention::plan::{MaskFormat, ScoreTensor};
use wgpu_attention::{AuxData, Inputs, Mask, Problem, RunOptions, Session, Shape};

const PAD: &str = "<PAD>";
const PAD_ID: i32 = 0;
const SEQ: usize = 6;
const HEADS: usize = 2;
const HEAD_DIM: usize = 8;

type Batch = [[&'static str; SEQ]; 2];

const RIGHT_PADDED: Batch =
    [["The", "cat", "sat", "on", "the", "mat"], ["Dogs", "bark", "loudly", PAD, PAD, PAD]];
const LEFT_PADDED: Batch =
    [["The", "cat", "sat", "on", "the", "mat"], [PAD, PAD, PAD, "Dogs", "bark", "loudly"]];

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    keep_masks(&attention)?;
    effect_on_weights(&attention)
}

/// The same mask from four kinds of data.
fn keep_masks(attention: &Session) -> Result<()> {
    // One query stands for all of them, as the 1 in [batch, 1, 1, seq] says; heads share the mask anyway.
    let one_query = Shape::new(2, HEADS, 1, HEAD_DIM).seq_len_kv(SEQ);
    let make = |mask: Mask, data: AuxData| {
        attention.materialize_blocking(&Problem::new(one_query).mask(mask), &data, MaskFormat::Keep)
    };

    println!("Keep masks (1 = look, 0 = don't), made on the device from");
    let by_lengths = make(Mask::KeyLengths, AuxData::new().key_lengths([6, 3]))?;
    assert_eq!(by_lengths.dims, [2, 1, 1, SEQ]);
    assert_eq!(by_lengths.values, [1., 1., 1., 1., 1., 1., 1., 1., 1., 0., 0., 0.]);

    for (side, batch) in [("right", RIGHT_PADDED), ("left", LEFT_PADDED)] {
        let keep = batch.as_flattened().iter().map(|&token| token != PAD);
        let from_ids = make(Mask::TokenPadding, AuxData::new().token_ids(ids(&batch), PAD_ID))?;
        let from_flags = make(Mask::KeyPadding, AuxData::new().key_padding(keep.clone()))?;
        let from_dense = make(Mask::Dense, AuxData::new().dense([2, 1, 1, SEQ], keep))?;
        assert_eq!(from_ids, from_flags);
        assert_eq!(from_ids, from_dense);

        println!(
            "\n  token ids, or flags, or a dense mask; padding on the {side}; {:?}",
            from_ids.dims
        );
        for (sentence, row) in batch.iter().zip(from_ids.values.chunks(SEQ)) {
            let bits: Vec<_> = row.iter().map(|&keep| keep as u8).collect();
            println!("    {bits:?}   {}", sentence.join(" "));
        }
        if side == "right" {
            assert_eq!(from_ids, by_lengths);
            println!("    (lengths 6 and 3 say the same; on the left, lengths don't serve)");
        }
    }
    Ok(())
}

/// An id for each word of the batch: its place in the vocabulary, in which padding comes first.
fn ids(batch: &Batch) -> Vec<i32> {
    let vocabulary = [PAD, "The", "cat", "sat", "on", "the", "mat", "Dogs", "bark", "loudly"];
    let id = |token: &&str| vocabulary.iter().position(|word| word == token).unwrap_or(0) as i32;
    batch.as_flattened().iter().map(id).collect()
}

/// What the second sentence looks at, without the mask and with it.
fn effect_on_weights(attention: &Session) -> Result<()> {
    let shape = Shape::new(2, HEADS, SEQ, HEAD_DIM);
    let len = shape.q_len()?;
    let (q, k, v) = (normal(1, len), normal(2, len), normal(3, len));
    let lengths = AuxData::new().key_lengths([6, 3]);
    let outputs = RunOptions::default().tensors(vec![ScoreTensor::Weights]);
    let run = |mask: Mask, v: &[f32]| {
        let inputs = Inputs::new(&q, &k, v).aux(&lengths);
        attention.run_blocking(&Problem::new(shape).mask(mask), &inputs, &outputs)
    };

    // From [batch, heads, seq, seq], the second sentence's first head.
    let second = |weights: &[f32]| weights[HEADS * SEQ * SEQ..][..SEQ * SEQ].to_vec();
    let [_, dogs] = RIGHT_PADDED;
    for (title, mask) in [("Without a mask", Mask::All), ("With `key_lengths`", Mask::KeyLengths)] {
        let weights = second(&run(mask.clone(), &v)?.tensors[0]);
        // What padding itself would look at is of no interest: nobody reads its output.
        let rows = &weights[..3 * SEQ];
        print_matrix(&format!("{title}, the second sentence looks at:"), &dogs[..3], &dogs, rows);
        let leak = rows.chunks(SEQ).flat_map(|row| &row[3..]).fold(0.0, |sum, w| sum + w) / 3.0;
        println!("\n  into padding goes {:.0}% of its attention", 100.0 * leak);
        assert_eq!(leak == 0.0, mask == Mask::KeyLengths);
    }

    // One row of the mask serves all queries: it is broadcast, and never stored once per query.
    let broadcast = attention.materialize_blocking(
        &Problem::new(shape).mask(Mask::KeyLengths),
        &lengths,
        MaskFormat::Keep,
    )?;
    assert_eq!(broadcast.dims, [2, 1, SEQ, SEQ]);
    assert!(broadcast.values[SEQ * SEQ..].chunks(SEQ).all(|row| row == [1., 1., 1., 0., 0., 0.]));

    // Whatever stands in the padding, the result is the same to the last bit.
    let mut other = v.clone();
    for row in other.chunks_mut(SEQ * HEAD_DIM).skip(HEADS) {
        row[3 * HEAD_DIM..].fill(1e30);
    }
    assert_eq!(run(Mask::KeyLengths, &v)?.o, run(Mask::KeyLengths, &other)?.o);
    assert_ne!(run(Mask::All, &v)?.o, run(Mask::All, &other)?.o);
    println!(
        "\nWhat stands in the padding changes the output without the mask, and no bit of it with the mask."
    );
    Ok(())
}
