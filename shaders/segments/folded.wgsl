// Rows with more keys than one running sum in f32 can hold: of n equal terms it may be off by n 2^-26 of itself. So the
// keys come in segments of SEGMENT, each with its own m, l and o, which are folded into those of the segments before:
//
//   M = max(m, m'),  L = l 2^((m - M) c) + l' 2^((m' - M) c),  O = o 2^((m - M) c) + o' 2^((m' - M) c)
//
// The sums so far lie in o, and M and L of each row in stats. An invocation reads and writes its own components of o; the
// stats are written by one invocation of a row and read by all of them behind a barrier.
//
// Where the keys come in windows, the segments of one go on from those of the window before. In 16 bits o holds means in
// between, O / L, since those types don't hold such sums.

// needs bindings: lse, params, stats
// needs common/nonfinite_sums: scaled
// needs common/online_softmax: LOWEST
// needs common/query_block: QueryBlock
// needs constants: BLOCK_KV, O_HOLDS_MEANS, SEGMENT
// needs rows/: load_o4
// needs score/: row_end
// needs segments/: follows_keys, precedes_keys
// needs sequences/positions: lse_index
// offers SegmentEnd, await_stats, first_segment, folded_o4, is_last_segment, next_segment, segment_end, segment_stats

struct SegmentEnd {
    // What the sums of this segment and of those before are multiplied with.
    norm: f32,
    norm_before: f32,
    // The sum of the row's weights so far.
    l: f32,
}

// A segment ends where a tile does.
fn first_segment(hull: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(hull.x, min(hull.x / BLOCK_KV * BLOCK_KV + SEGMENT, hull.y));
}

fn is_last_segment(keys: vec2<u32>, hull: vec2<u32>) -> bool {
    return keys.y >= hull.y;
}

fn next_segment(keys: vec2<u32>, hull: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(keys.y, min(keys.y + SEGMENT, hull.y));
}

// Orders the writes of stats before the reads of the next segment, and these before the next writes.
fn await_stats() {
    storageBarrier();
}

// Whether some segment precedes this one, in this dispatch or in one before.
fn follows_some(block: QueryBlock, keys: vec2<u32>) -> bool {
    return keys.x != block.hull.x || follows_keys();
}

// (m, l) of the segments before.
fn segment_stats(block: QueryBlock, keys: vec2<u32>, row: u32) -> vec2<f32> {
    let at = lse_index(block.b, block.h, min(row, block.q_len - 1u));
    return select(vec2<f32>(LOWEST, 0.0), stats[at], follows_some(block, keys));
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
    let most = max(m, before.x);
    let shrink = exp2((m - most) * params.softmax_scale_log2);
    let shrink_before = exp2((before.x - most) * params.softmax_scale_log2);
    let sum = fma(before.y, shrink_before, l * shrink);
    let before_in_o = select(shrink_before, before.y * shrink_before, O_HOLDS_MEANS);
    if (!is_last_segment(keys, block.hull) || precedes_keys()) {
        if (writes) {
            stats[lse_index(block.b, block.h, row)] = vec2<f32>(most, sum);
        }
        let norm = select(1.0, select(1.0 / sum, 0.0, sum == 0.0), O_HOLDS_MEANS);
        return SegmentEnd(shrink * norm, before_in_o * norm, sum);
    }
    let end = row_end(block.h, most, sum);
    if (writes) {
        lse[lse_index(block.b, block.h, row)] = end.lse;
    }
    return SegmentEnd(shrink * end.norm, before_in_o * end.norm, sum);
}

fn folded_o4(
    block: QueryBlock,
    keys: vec2<u32>,
    place: vec2<u32>,
    d: u32,
    o_part: vec4<f32>,
    end: SegmentEnd,
) -> vec4<f32> {
    var folded = scaled(o_part, end.norm);
    // Beyond the row's length there is nothing to read but what another invocation writes.
    if (follows_some(block, keys) && d < params.head_dim_v) {
        folded += scaled(load_o4(place.x, block.h, place.y, d), end.norm_before);
    }
    return folded;
}
