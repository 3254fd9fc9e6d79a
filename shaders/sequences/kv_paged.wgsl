// Key p of sequence b lies in row p % block_size of block block_tables[b, p / block_size] of a pool that all share.
// kv_lengths: i32 [batch]; block_tables: i32 [batch, blocks_per_sequence]

fn cached_len(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_SEQUENCES_SLOT) + b], params.seq_len_kv);
}

fn table_entry(b: u32, block: u32) -> u32 {
    return mask_words[slot_u32(BLOCK_TABLES_SLOT) + b * params.blocks_per_sequence + block];
}

// Where the token at a position since the first one lies, or is to be written. An entry outside the pool is taken for
// the last block, so that nothing else is read.
fn cache_place(b: u32, position: u32) -> vec2<u32> {
    let entry = table_entry(b, position >> params.block_shift);
    return vec2<u32>(min(entry, params.blocks - 1u), position & ((1u << params.block_shift) - 1u));
}

// Whether the table leads somewhere: else nothing is to be written.
fn has_place(b: u32, position: u32) -> bool {
    return table_entry(b, position >> params.block_shift) < params.blocks;
}

fn most_cached() -> u32 {
    return params.seq_len_kv;
}

fn kv_len(b: u32) -> u32 {
    return cached_len(b);
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return cache_place(b, kv_idx);
}

fn kv_is_faulty(b: u32) -> bool {
    var faulty = mask_words[slot_u32(KV_SEQUENCES_SLOT) + b] > params.seq_len_kv;
    let blocks = (cached_len(b) + (1u << params.block_shift) - 1u) >> params.block_shift;
    for (var block = 0u; block < blocks; block += 1u) {
        faulty |= table_entry(b, block) >= params.blocks;
    }
    return faulty;
}
