// The mask as a tensor, [batch|1, heads|1, seq_len_q, seq_len_kv].
//
//   bits      u32 [.., ceil(seq_len_kv / 32)]: bit kv_idx % 32 of word kv_idx / 32 is set where kept
//   keep      f32: 1 where kept, else 0
//   additive  f32: 0 where kept, else -inf
//
// Cells beyond the ends of a sequence aren't kept. One invocation per 32 keys of a row; params.output_mode says which form.

// needs bindings: output, params
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs generated: mask_keep
// needs sequences/: kv_len, q_len
// offers materialize

const BITS: u32 = 0u;
const KEEP: u32 = 1u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn materialize(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row_words = (params.seq_len_kv + 31u) / 32u;
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    let row = index / row_words;
    if (number >= params.end_workgroup || row >= params.mask_batch * params.mask_heads * params.seq_len_q) {
        return;
    }
    let q_idx = row % params.seq_len_q;
    let h = row / params.seq_len_q % params.mask_heads;
    let b = row / params.seq_len_q / params.mask_heads;
    let first = index % row_words * 32u;

    var bits = 0u;
    for (var i = 0u; i < min(32u, params.seq_len_kv - first); i += 1u) {
        let inside = q_idx < q_len(b) && first + i < kv_len(b);
        let keep = inside && mask_keep(b, h, q_idx, first + i);
        bits |= select(0u, 1u << i, keep);
        if (params.output_mode != BITS) {
            let x = select(
                select(params.negative_infinity, 0.0, keep),
                select(0.0, 1.0, keep),
                params.output_mode == KEEP,
            );
            output[row * params.seq_len_kv + first + i - params.output_base] = bitcast<u32>(x);
        }
    }
    if (params.output_mode == BITS) {
        output[index - params.output_base] = bits;
    }
}
