// Some leaf of this mask has no closed form: the classes were found by tile_map.wgsl, 2 bits each, 16 to a word.

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    let row = mask_words[0] + b * mask_words[1] + h * mask_words[2] + tile.q0 / BLOCK_Q * mask_words[3];
    let column = tile.kv0 / BLOCK_KV;
    return (mask_words[row + column / 16u] >> (column % 16u * 2u)) & 3u;
}
