// The problem's sizes and how its tensors lie in memory. Rust's side of it is `kernel::params::Params`.

// needs bindings: params
// offers EXPONENT_BITS, LOG2_E, NAN_BITS, Params, SIGN_BIT, element, linear_workgroup

struct Params {
    // Distances in elements between neighbours along [batch, head, seq, dim].
    q_strides: vec4<u32>,
    k_strides: vec4<u32>,
    v_strides: vec4<u32>,
    o_strides: vec4<u32>,
    bias_strides: vec4<u32>,
    // Of the backward pass alone.
    dout_strides: vec4<u32>,
    dq_strides: vec4<u32>,
    dk_strides: vec4<u32>,
    dv_strides: vec4<u32>,
    // Of the tokens that are appended to a cache.
    new_k_strides: vec4<u32>,
    new_v_strides: vec4<u32>,
    rotated_q_strides: vec4<u32>,
    batch: u32,
    num_heads: u32,
    // num_heads / num_kv_heads: query head h reads kv head h / group_size.
    group_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    head_dim: u32,
    head_dim_v: u32,
    // seq_len_q in blocks of BLOCK_Q rows; in decode kernels, the packed rows in blocks of ROWS.
    q_blocks: u32,
    // Scores are (q . k) * scale, and scale = scale_sign * scale_abs.
    scale_sign: f32,
    scale_abs: f32,
    // What the softmax's scores are multiplied with: scale_abs where they are products, 1 where they are modified.
    softmax_scale: f32,
    // The same times log2(e).
    softmax_scale_log2: f32,
    softcap: f32,
    // -inf as a value: as a constant, WGSL refuses it.
    negative_infinity: f32,
    // What inspect/scores.wgsl and inspect/mask.wgsl are to write.
    output_mode: u32,
    // [batch, heads] of a materialized mask, of its rows-alone flags and of its tile map: 1 where the same along them.
    mask_batch: u32,
    mask_heads: u32,
    // The rows and words of a row of the tile map.
    tile_map_rows: u32,
    tile_map_row_words: u32,
    // The rows of queries and of keys that a batch index has in memory.
    q_rows: u32,
    kv_rows: u32,
    // Of a paged cache: rows per block, blocks in all, entries per sequence in the block tables.
    block_size: u32,
    blocks: u32,
    blocks_per_sequence: u32,
    // Distances in elements between neighbours along [part, -, row, dim] of what the parts found.
    part_strides: vec4<u32>,
    // The distance in elements between the stats of neighbouring parts.
    stats_stride: u32,
    // In how many parts a decode kernel has the keys, or how many results are merged.
    num_splits: u32,
    // The workgroups of this dispatch, among all that the kernel has: a piece of them, from the first one to before the end.
    first_workgroup: u32,
    end_workgroup: u32,
    // Where each tensor's binding begins in the tensor, in elements, modulo 2^32: a piece binds what it reaches.
    q_base: u32,
    k_base: u32,
    v_base: u32,
    o_base: u32,
    bias_base: u32,
    dout_base: u32,
    dq_base: u32,
    dk_base: u32,
    dv_base: u32,
    new_k_base: u32,
    new_v_base: u32,
    rotated_q_base: u32,
    part_base: u32,
    // Of lse, dlse and the terms of rows.
    lse_base: u32,
    // Of the tensors that are written cell by cell.
    output_base: u32,
    // Of the workgroups that make dq, those whose cells are kept for dk and dv: the first one, and before the end.
    cells_first_workgroup: u32,
    cells_end_workgroup: u32,
    // Which slice of their components a dispatch sums up of rows that are too long for the registers.
    slice: u32,
    // Of the lists of block_sparse that are picked: queries and keys of a block, blocks of a list, heads.
    index_block: u32,
    index_count: u32,
    index_heads: u32,
    // Where a dispatch binds a window of what its workgroups loop over: its rows, or its blocks of a pool; of queries, the heads of
    // a group; and whether windows follow.
    first_row: u32,
    end_row: u32,
    first_head: u32,
    end_head: u32,
    windows_follow: u32,
    // Of a decode kernel's splits, which are numbered through over all windows, the window's first one.
    first_split: u32,
    // The block's size is a multiple of 16 bytes.
    padding_0: u32,
    {{OWN}} // Of the rows of the workgroups' own side, those at which the blocks begin that this dispatch is for.
    {{OWN}} first_own_row: u32,
    {{OWN}} end_own_row: u32,
    {{OWN}} padding_1: u32,
    {{OWN}} padding_2: u32,
}

const EXPONENT_BITS: u32 = 0x7f800000u;
const NAN_BITS: u32 = 0x7fc00000u;
const SIGN_BIT: u32 = 0x80000000u;
const LOG2_E: f32 = 1.4426950408889634;

// A dispatch of more workgroups than one dimension allows is laid out over x and y; those beyond the piece's end have
// nothing to do.
fn linear_workgroup(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return params.first_workgroup + workgroup.x + workgroup.y * workgroups.x;
}

// Where an element lies in its tensor's binding. In larger tensors than 32 bits count, sums wrap around, and the base
// takes them back: from the head's term, which all rows of a workgroup share, so that it costs loops nothing.
fn element(strides: vec4<u32>, base: u32, b: u32, h: u32, row: u32, d: u32) -> u32 {
    return b * strides.x + (h * strides.y - base) + row * strides.z + d * strides.w;
}
