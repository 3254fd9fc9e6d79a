// From sums to rows of o, four components at a time.

// needs common/nonfinite: is_nonfinite
// needs common/nonfinite_keys: kept_nonfinite_v4
// needs common/nonfinite_sums: with_kept_nonfinite
// needs common/query_block: QueryBlock
// needs rows/: load_o4, store_o4
// needs segments/: SegmentEnd, folded_o4
// offers add_kept_nonfinite, write_output

// Whether the sum isn't finite: then add_kept_nonfinite has to follow.
fn write_output(block: QueryBlock, keys: vec2<u32>, place: vec2<u32>, d: u32, sum: vec4<f32>, end: SegmentEnd) -> bool {
    store_o4(place.x, block.h, place.y, d, folded_o4(block, keys, place, d, sum, end));
    return any(is_nonfinite(sum));
}

// `l` is the sum of the row's weights.
fn add_kept_nonfinite(block: QueryBlock, keys: vec2<u32>, row: u32, place: vec2<u32>, d: u32, l: f32) {
    let kept = kept_nonfinite_v4(block.b, block.h, row, d, keys);
    let value = with_kept_nonfinite(load_o4(place.x, block.h, place.y, d), kept, l);
    store_o4(place.x, block.h, place.y, d, value);
}
