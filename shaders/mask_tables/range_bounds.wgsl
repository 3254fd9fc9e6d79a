// What leaves class tiles by, where there is no tile map: bounds of blocks of words, which mask_tables/bounds.wgsl has made.
//
// A block of the lowest level has BOUNDED_WORDS words, one of the next JOINED_BLOCKS of these, and so on until a level has no
// more than JOINED_BLOCKS blocks. A tensor may have several numbers for each key, so a block has bounds apart for each LANES-th
// of its words: [least, greatest] of the words 0, LANES, ..., of the words 1, LANES + 1, ...
//
// The first two slots say where the table begins and how many words it is about. Tensors begin at multiples of BOUNDED_WORDS.

// needs bindings: mask_words
// needs mask/words: slot_i32
// offers BOUNDED_WORDS, JOINED_BLOCKS, LANES, NO_WORDS, bounds_of, joined_range, lowest_level, next_level, words_range

const BOUNDED_WORDS: u32 = 32u;
const JOINED_BLOCKS: u32 = 8u;
const LANES: u32 = 4u;
// Levels are filled up to whole workgroups of mask_tables/bounds.wgsl.
const BLOCKS_OF_WORKGROUP: u32 = 64u;
const NO_WORDS: vec2<i32> = vec2<i32>(0x7fffffff, -0x7fffffff - 1);

struct BoundsLevel {
    // Its first block, numbered through all levels.
    first: u32,
    blocks: u32,
    // The words of a block.
    size: u32,
}

fn lowest_level() -> BoundsLevel {
    return BoundsLevel(0u, (mask_words[1] + BOUNDED_WORDS - 1u) / BOUNDED_WORDS, BOUNDED_WORDS);
}

fn next_level(level: BoundsLevel) -> BoundsLevel {
    let filled_up = (level.blocks + BLOCKS_OF_WORKGROUP - 1u) / BLOCKS_OF_WORKGROUP * BLOCKS_OF_WORKGROUP;
    let blocks = (level.blocks + JOINED_BLOCKS - 1u) / JOINED_BLOCKS;
    return BoundsLevel(level.first + filled_up, blocks, level.size * JOINED_BLOCKS);
}

fn joined_range(a: vec2<i32>, b: vec2<i32>) -> vec2<i32> {
    return vec2<i32>(min(a.x, b.x), max(a.y, b.y));
}

// Where the bounds of a block lie.
fn bounds_of(block: u32, lane: u32) -> u32 {
    return mask_words[0] + (block * LANES + lane) * 2u;
}

// The least and the greatest of the words first, first + step, ... before end, as signed numbers: `step` divides LANES. Exact
// for up to BOUNDED_WORDS * JOINED_BLOCKS words, so that a tile's class doesn't depend on what lies beside it; of more, whole
// blocks of the largest level with none larger than what is asked for, so that few are read.
fn words_range(first: u32, end: u32, step: u32) -> vec2<i32> {
    var level = lowest_level();
    while (level.size * JOINED_BLOCKS < end - first && level.blocks > JOINED_BLOCKS) {
        level = next_level(level);
    }
    var range = NO_WORDS;
    var block = first / level.size;
    var end_block = (end + level.size - 1u) / level.size;
    if (level.size == BOUNDED_WORDS) {
        // The words outside whole blocks.
        block = (first + BOUNDED_WORDS - 1u) / BOUNDED_WORDS;
        end_block = end / BOUNDED_WORDS;
        for (var at = first; at < min(end, block * BOUNDED_WORDS); at += step) {
            range = joined_range(range, vec2<i32>(slot_i32(at)));
        }
        for (var at = max(block, end_block) * BOUNDED_WORDS + first % step; at < end; at += step) {
            range = joined_range(range, vec2<i32>(slot_i32(at)));
        }
    }
    for (; block < end_block; block += 1u) {
        for (var lane = first % step; lane < LANES; lane += step) {
            let at = bounds_of(level.first + block, lane);
            range = joined_range(range, vec2<i32>(slot_i32(at), slot_i32(at + 1u)));
        }
    }
    return range;
}
