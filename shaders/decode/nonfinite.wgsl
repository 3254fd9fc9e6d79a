// Gives an ended row back the values that aren't finite among the split's keys that it keeps; `l` is the sum of its weights.

// needs common/nonfinite_keys: kept_nonfinite_v4
// needs common/nonfinite_sums: with_kept_nonfinite
// needs decode/: end_row4, ended_row4
// needs decode/row_block: Row, RowBlock
// offers add_kept_nonfinite

fn add_kept_nonfinite(block: RowBlock, row: Row, d: u32, l: f32) {
    let kept = kept_nonfinite_v4(block.b, row.h, row.q_idx, d, block.keys);
    end_row4(block, row, d, with_kept_nonfinite(ended_row4(block, row, d), kept, l));
}
