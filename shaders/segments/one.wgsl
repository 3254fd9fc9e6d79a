// A row's keys are one segment: its end is o and lse.

// needs bindings: lse
// needs common/nonfinite_sums: scaled
// needs common/online_softmax: LOWEST
// needs common/query_block: QueryBlock
// needs score/: row_end
// needs sequences/positions: lse_index
// offers SegmentEnd, await_stats, first_segment, folded_o4, is_last_segment, next_segment, segment_end, segment_stats

struct SegmentEnd {
    // What the row's sums are multiplied with.
    norm: f32,
    // The sum of its weights.
    l: f32,
}

fn first_segment(hull: vec2<u32>) -> vec2<u32> {
    return hull;
}

fn is_last_segment(keys: vec2<u32>, hull: vec2<u32>) -> bool {
    return true;
}

fn next_segment(keys: vec2<u32>, hull: vec2<u32>) -> vec2<u32> {
    return keys;
}

fn await_stats() {
}

fn segment_stats(block: QueryBlock, keys: vec2<u32>, row: u32) -> vec2<f32> {
    return vec2<f32>(LOWEST, 0.0);
}

fn segment_end(
    block: QueryBlock,
    keys: vec2<u32>,
    row: u32,
    m: f32,
    l: f32,
    before: vec2<f32>,
    writes: bool,
) -> SegmentEnd {
    let end = row_end(block.h, m, l);
    if (writes) {
        lse[lse_index(block.b, block.h, row)] = end.lse;
    }
    return SegmentEnd(end.norm, l);
}

fn folded_o4(
    block: QueryBlock,
    keys: vec2<u32>,
    place: vec2<u32>,
    d: u32,
    o_part: vec4<f32>,
    end: SegmentEnd,
) -> vec4<f32> {
    return scaled(o_part, end.norm);
}
