// What leaves class tiles by, where it goes into a tile map: the words themselves.

// needs mask/words: slot_i32
// offers words_range

// The least and the greatest of the words first, first + step, ... before end, as signed numbers.
fn words_range(first: u32, end: u32, step: u32) -> vec2<i32> {
    var range = vec2<i32>(slot_i32(first));
    for (var at = first + step; at < end; at += step) {
        let word = slot_i32(at);
        range = vec2<i32>(min(range.x, word), max(range.y, word));
    }
    return range;
}
