// The bounds of blocks of the mask buffer's words: mask_tables/range_bounds.wgsl has what they are.
//
// One invocation per block, numbered through all levels. A dispatch makes one level, which the next one reads.

// needs bindings: mask_words, params
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs mask/words: slot_i32
// needs mask_tables/range_bounds: BOUNDED_WORDS, JOINED_BLOCKS, LANES, NO_WORDS, bounds_of, joined_range, lowest_level, next_level
// offers bounds

@compute @workgroup_size(WORKGROUP_SIZE)
fn bounds(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    if (number >= params.end_workgroup) {
        return;
    }
    let index = number * WORKGROUP_SIZE + invocation;
    var below = lowest_level();
    var level = below;
    for (var next = next_level(level); index >= next.first; next = next_level(level)) {
        below = level;
        level = next;
    }
    let block = index - level.first;
    if (block >= level.blocks) {
        return;
    }
    let is_lowest = level.size == BOUNDED_WORDS;
    let end_word = min((block + 1u) * BOUNDED_WORDS, mask_words[1]);
    let end_child = min((block + 1u) * JOINED_BLOCKS, below.blocks);
    for (var lane = 0u; lane < LANES; lane += 1u) {
        var range = NO_WORDS;
        if (is_lowest) {
            for (var at = block * BOUNDED_WORDS + lane; at < end_word; at += LANES) {
                range = joined_range(range, vec2<i32>(slot_i32(at)));
            }
        } else {
            for (var child = block * JOINED_BLOCKS; child < end_child; child += 1u) {
                let at = bounds_of(below.first + child, lane);
                range = joined_range(range, vec2<i32>(slot_i32(at), slot_i32(at + 1u)));
            }
        }
        let at = bounds_of(index, lane);
        mask_words[at] = bitcast<u32>(range.x);
        mask_words[at + 1u] = bitcast<u32>(range.y);
    }
}
