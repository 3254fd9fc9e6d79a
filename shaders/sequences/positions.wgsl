// Sequences: masks and tiles count queries and keys from each sequence's own first one, and tensors are read and
// written at the *places* that shaders/sequences/ gives, by one file for queries and one for keys:
//
//   q_len(b), kv_len(b)                      how many queries and keys sequence b has, at most seq_len_q, seq_len_kv
//   q_place(b, q_idx), kv_place(b, kv_idx)   (batch index, row) of a query that it has, and of a key
//
// The words that a caller gives may be wrong. `sequences_check` looks at all of them first (q_is_faulty, kv_is_faulty)
// and writes down what everything after it goes by: given_q_len and given_kv_len, or no queries and no keys for any
// sequence where anything is wrong, so that nothing is read or written then.

// needs bindings: params
// needs sequences/: kv_len, q_len, q_place
// offers diagonal, lse_index, own_position, row_index

// The position among the keys at which query 0 of a sequence stands: the last query stands at the last key.
fn diagonal(b: u32) -> i32 {
    return i32(kv_len(b)) - i32(q_len(b));
}

fn own_position(b: u32, q_idx: u32) -> i32 {
    return i32(q_idx) + diagonal(b);
}

// A query's number among the rows of all queries, [batch, num_heads, rows of queries].
fn row_index(b: u32, h: u32, q_idx: u32) -> u32 {
    let place = q_place(b, q_idx);
    return (place.x * params.num_heads + h) * params.q_rows + place.y;
}

// Where its entry lies in what is bound of lse, or of what else each row has one of.
fn lse_index(b: u32, h: u32, q_idx: u32) -> u32 {
    return row_index(b, h, q_idx) - params.lse_base;
}
