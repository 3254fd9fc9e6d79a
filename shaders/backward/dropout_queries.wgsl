// Which of the weights of four neighbouring queries of a key are kept. They stay as they are: dv has the factor 1 / (1 - p) at the
// end. Queries beyond the last one are taken for it, as by `cell_of`'s callers, so that compilers compute each row's state once.

// needs score/dropout: dropout_keeps, dropout_row
// offers kept_by_dropout

fn kept_by_dropout(b: u32, h: u32, q_idx: u32, q_last: u32, kv_idx: u32) -> vec4<bool> {
    return vec4<bool>(
        dropout_keeps(dropout_row(b, h, min(q_idx, q_last)), kv_idx),
        dropout_keeps(dropout_row(b, h, min(q_idx + 1u, q_last)), kv_idx),
        dropout_keeps(dropout_row(b, h, min(q_idx + 2u, q_last)), kv_idx),
        dropout_keeps(dropout_row(b, h, min(q_idx + 3u, q_last)), kv_idx),
    );
}
