// Pooled rows of {{TENSOR}}, f32 [batch, index_heads, blocks, head_dim up to a multiple of 4]: of the rows of each block the
// mean, or with MAXIMUM the largest of each component, where NaN counts as least; summed over the heads that pooled_heads
// says. A block that the sequence ends before is zeros.
//
// One invocation per vector of four components.

// needs bindings: params, pooled
// needs common/problem: linear_workgroup
// needs constants: MAXIMUM, WORKGROUP_SIZE
// needs generated: pooled_heads
// needs rows/: load_{{TENSOR}}4
// offers pool_blocks

@compute @workgroup_size(WORKGROUP_SIZE)
fn pool_blocks(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    let vectors = (params.head_dim + 3u) / 4u;
    let blocks = (params.seq_len_{{SIDE}} + params.index_block - 1u) / params.index_block;
    let d = index % vectors * 4u;
    let block = index / vectors % blocks;
    let head = index / vectors / blocks % params.index_heads;
    let b = index / vectors / blocks / params.index_heads;
    if (number >= params.end_workgroup || b >= params.batch) {
        return;
    }
    let first = block * params.index_block;
    let end = min(first + params.index_block, {{SIDE}}_len(b));
    var sum = vec4<f32>(0.0);
    if (first < end) {
        for (var h = head * pooled_heads(); h < (head + 1u) * pooled_heads(); h += 1u) {
            var pooled_row = vec4<f32>(select(0.0, params.negative_infinity, MAXIMUM));
            for (var row = first; row < end; row += 1u) {
                let place = {{SIDE}}_place(b, row);
                let x = load_{{TENSOR}}4(place.x, h, place.y, d);
                if (MAXIMUM) {
                    pooled_row = select(pooled_row, x, x > pooled_row);
                } else {
                    pooled_row += x;
                }
            }
            sum += select(pooled_row / f32(end - first), pooled_row, MAXIMUM);
        }
    }
    pooled[index - params.o_base / 4u] = sum;
}
