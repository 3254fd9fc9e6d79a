// Every leaf of this mask classes its tiles by a closed form.

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    return mask_tile_closed(b, h, tile);
}
