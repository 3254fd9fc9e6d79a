// New tokens to the end of each sequence's cache, at its own length, which moves on by as many; with a rotary embedding,
// keys are turned on the way by their positions, and so are the tokens' queries, to rotated_q.
//
//   new_k -> k                      at cache_place(b, cached_len(b) + token)
//   new_v -> v                      the same, where HAS_VALUES: else values are components of the keys
//   q -> rotated_q                  where ROTATES_Q
//   cache_lengths[b]                cached_len(b) + q_len(b)
//   cache_lengths[batch]            what was wrong so far: 0, or 3 b + append_fault(b) of the last such sequence
//
// Where the tokens of any sequence can't be added, `sequences_check` has left no sequence any, and nothing is written but
// the fault.
//
// A cache beyond a binding comes in windows of its rows: every dispatch has all tokens, and stores those in its window.
//
// One invocation per part of a row of [batch, query heads + kv heads of k + kv heads of v, seq_len_q, PARTS].

// needs bindings: cache_lengths, params
// needs cache/: append_k, append_rotated_q, append_v
// needs cache/capacity: NO_FAULT, append_fault
// needs common/problem: linear_workgroup
// needs constants: HAS_VALUES, PARTS, ROTATES_Q, WORKGROUP_SIZE
// needs sequences/: cache_place, cached_len, q_place
// needs sequences/lengths_checked: q_len
// {{WINDOW}} needs common/problem: element
// {{WINDOW}} needs generated: cache_row_stride
// offers append

@compute @workgroup_size(WORKGROUP_SIZE)
fn append(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    let kv_heads = params.num_heads / params.group_size;
    let query_heads = select(0u, params.num_heads, ROTATES_Q);
    let heads = query_heads + select(1u, 2u, HAS_VALUES) * kv_heads;
    let part = index % PARTS;
    let token = index / PARTS % params.seq_len_q;
    let head = index / PARTS / params.seq_len_q % heads;
    let b = index / PARTS / params.seq_len_q / heads;
    if (number >= params.end_workgroup || b >= params.batch) {
        return;
    }
    let tokens = q_len(b);
    let before = cached_len(b);
    if (head == 0u && token == 0u && part == 0u) {
        let fault = append_fault(b);
        if (fault != NO_FAULT) {
            atomicMax(&cache_lengths[params.batch], 3u * b + fault);
        } else if (tokens > 0u) {
            atomicStore(&cache_lengths[b], before + tokens);
        }
    }
    if (token >= tokens) {
        return;
    }
    let place = q_place(b, token);
    let position = before + token;
    if (head < query_heads) {
        append_rotated_q(part, place, place, head, position);
        return;
    }
    let to = cache_place(b, position);
    let h_kv = (head - query_heads) % kv_heads;
    {{WINDOW}} // The rows of all sequences and heads are numbered through as they lie in memory.
    {{WINDOW}} let row = element(params.k_strides, 0u, to.x, h_kv, to.y, 0u) / cache_row_stride();
    {{WINDOW}} if (row < params.first_row || row >= params.end_row) {
    {{WINDOW}}     return;
    {{WINDOW}} }
    if (head - query_heads < kv_heads) {
        append_k(part, to, place, h_kv, position);
    } else {
        append_v(part, to, place, h_kv, position);
    }
}
