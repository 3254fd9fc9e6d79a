// {{TENSOR}} of a pool's rows, [blocks, num_kv_heads, block_size, dim]: the sum of what the keys have that lie there, sequence
// after sequence, in the order of their tables. Rows that no sequence has aren't written.
//
//   for each 32 WORKGROUP_SIZE entries of the block tables:
//       owners = which of them are this block          a word of 32 for each invocation
//       sum = sum + the row of each                    in order
//
// One invocation per vector of four components. Each word of `owners` is written by its invocation, read by all behind a
// barrier, and written again behind another.

// needs bindings: key_gradients, params
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs rows/: store_{{TENSOR}}4
// needs sequences/kv_paged: table_entry
// needs sequences/lengths_checked: kv_len
// offers backward_pages

var<workgroup> owners: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_pages(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    // [blocks, num_kv_heads, parts of a block]
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let length = {{ROW_LENGTH}};
    let vectors = (length + 3u) / 4u;
    let parts = (params.block_size * vectors + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let num_kv_heads = params.num_heads / params.group_size;
    let h = index / parts % num_kv_heads;
    let block = index / parts / num_kv_heads;
    let own = index % parts * WORKGROUP_SIZE + invocation;
    let row = own / vectors;
    let d = own % vectors * 4u;

    var sum = vec4<f32>(0.0);
    var is_used = false;
    let entries = params.batch * params.blocks_per_sequence;
    for (var first = 0u; first < entries; first += 32u * WORKGROUP_SIZE) {
        var bits = 0u;
        for (var i = 0u; i < 32u; i += 1u) {
            let entry = first + invocation * 32u + i;
            if (entry < entries && is_of_block(entry, block)) {
                bits |= 1u << i;
            }
        }
        owners[invocation] = bits;
        workgroupBarrier();
        for (var word = 0u; word < WORKGROUP_SIZE; word += 1u) {
            var rest = owners[word];
            while (rest != 0u) {
                let entry = first + word * 32u + firstTrailingBit(rest);
                rest &= rest - 1u;
                let b = entry / params.blocks_per_sequence;
                let kv_idx = entry % params.blocks_per_sequence * params.block_size + row;
                if (row < params.block_size && kv_idx < kv_len(b)) {
                    let at = ((b * num_kv_heads + h) * params.seq_len_kv + kv_idx) * length - params.part_base;
                    sum += vec4<f32>(
                        component(at, d, length),
                        component(at, d + 1u, length),
                        component(at, d + 2u, length),
                        component(at, d + 3u, length),
                    );
                    is_used = true;
                }
            }
        }
        workgroupBarrier();
    }
    if (is_used) {
        store_{{TENSOR}}4(block, h, row, d, sum);
    }
}

// Whether an entry of the block tables is one that its sequence uses, and this block.
fn is_of_block(entry: u32, block: u32) -> bool {
    let b = entry / params.blocks_per_sequence;
    let at = entry % params.blocks_per_sequence;
    return at * params.block_size < kv_len(b) && table_entry(b, at) == block;
}

fn component(row: u32, d: u32, length: u32) -> f32 {
    return select(0.0, key_gradients[row + min(d, length - 1u)], d < length);
}
