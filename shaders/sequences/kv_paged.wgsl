// Key p of sequence b lies in row p % block_size of block block_tables[b, p / block_size] of a pool that all share.
// kv_lengths: i32 [batch]; block_tables: i32 [batch, blocks_per_sequence]

// needs bindings: mask_words, params
// needs constants: BLOCK_TABLES_SLOT, KV_SEQUENCES_SLOT
// needs mask/words: slot_u32
// offers cache_place, cached_len, given_kv_len, has_places, kv_is_faulty, kv_place, most_cached, table_entry, window_row

fn cached_len(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_SEQUENCES_SLOT) + b], params.seq_len_kv);
}

fn table_entry(b: u32, block: u32) -> u32 {
    return mask_words[slot_u32(BLOCK_TABLES_SLOT) + b * params.blocks_per_sequence + block];
}

// Blocks of a power of two are found without a division, which takes tens of instructions.
fn block_of(position: u32) -> u32 {
    let size = params.block_size;
    if ((size & (size - 1u)) == 0u) {
        return position >> firstTrailingBit(size);
    }
    return position / size;
}

// Where the token at a position since the first one lies, or is to be written. An entry outside the pool is taken for
// the last block, so that nothing else is read.
fn cache_place(b: u32, position: u32) -> vec2<u32> {
    let block = block_of(position);
    return vec2<u32>(min(table_entry(b, block), params.blocks - 1u), position - block * params.block_size);
}

// Whether there is a row for each of the positions [from, to): a block in the pool.
fn has_places(b: u32, from_position: u32, to_position: u32) -> bool {
    var in_pool = true;
    for (var block = block_of(from_position); block * params.block_size < to_position; block += 1u) {
        in_pool &= table_entry(b, block) < params.blocks;
    }
    return in_pool;
}

fn most_cached() -> u32 {
    return params.seq_len_kv;
}

fn given_kv_len(b: u32) -> u32 {
    return cached_len(b);
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    var place = cache_place(b, kv_idx);
    {{WINDOW}} place.x = clamp(place.x, params.first_row, params.end_row - 1u);
    return place;
}

{{WINDOW}} // What windows are of: the block.
{{WINDOW}} fn window_row(b: u32, kv_idx: u32) -> u32 {
{{WINDOW}}     return cache_place(b, kv_idx).x;
{{WINDOW}} }

fn kv_is_faulty(b: u32) -> bool {
    return (mask_words[slot_u32(KV_SEQUENCES_SLOT) + b] > params.seq_len_kv) | !has_places(b, 0u, cached_len(b));
}
