// Adds a tile's weights and gradients of scores to a lane's rows of dv and dk: those that are kept. Whether a row that keeps
// one of the keys has numbers that aren't finite, which were left out.

// needs backward/: gradient_place
// needs backward/key_block: KeyBlock, key_kept
// needs backward/nonfinite_queries: kept_nonfinite_dout4, kept_nonfinite_q4
// needs bindings: params
// needs constants: HEAD_DIM, HEAD_DIM_V, ROWS, SUBGROUP_SIZE, WRITE_DK, WRITE_DV
// needs cpu/broadcast/: add_dout, add_q
// needs cpu/fold: fold_dk, fold_dv
// needs mask/algebra: PARTIAL
// needs rows/: load_dk4, load_dv4, store_dk4, store_dv4
// offers add_columns, end_columns

fn add_columns(
    block: KeyBlock,
    h: u32,
    q0: u32,
    kind: u32,
    lane: u32,
    p: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    ds: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    dk_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>>,
    dv_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>>,
) -> bool {
    // Bit j of kept[r]: query q0 + j keeps key r.
    var kept: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        kept[r] = 0u;
    }
    if (kind == PARTIAL) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let key = block.kv0 + r * SUBGROUP_SIZE + lane;
            for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                let keep = key_kept(block, h, q0 + j, key);
                kept[r] |= select(0u, 1u << j, keep);
                (*p)[r][j] = select(0.0, (*p)[r][j], keep);
                (*ds)[r][j] = select(0.0, (*ds)[r][j], keep);
            }
        }
    }
    var nonfinite_rows = 0u;
    if (WRITE_DV) {
        nonfinite_rows |= add_dout(dv_rows, p, block.b, h, q0, block.q_len - 1u, kind, lane);
    }
    if (WRITE_DK) {
        nonfinite_rows |= add_q(dk_rows, ds, block.b, h, q0, block.q_len - 1u, kind, lane);
    }
    var keeps_nonfinite = false;
    for (var r = 0u; r < ROWS; r += 1u) {
        keeps_nonfinite |= (kept[r] & nonfinite_rows) != 0u;
    }
    return keeps_nonfinite;
}

// Writes a lane's rows of dk and dv, on top of what was folded before if `goes_on`. What isn't finite and was left out of the sums is added at the end.
fn end_columns(
    block: KeyBlock,
    lane: u32,
    dk_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>>,
    dv_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>>,
    goes_on: bool,
    dk_scale: f32,
    keeps_nonfinite: bool,
) {
    for (var r = 0u; r < ROWS; r += 1u) {
        let key = block.kv0 + r * SUBGROUP_SIZE + lane;
        if (key < block.kv_len) {
            let place = gradient_place(block.b, key);
            fold_dk(place, block.h_kv, (*dk_rows)[r], goes_on, dk_scale);
            fold_dv(place, block.h_kv, (*dv_rows)[r], goes_on, 1.0);
        }
    }
    // A loop of its own: see cpu/forward_broadcast.wgsl.
    if (keeps_nonfinite) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let key = block.kv0 + r * SUBGROUP_SIZE + lane;
            if (key < block.kv_len) {
                let place = gradient_place(block.b, key);
                for (var d = 0u; d < params.head_dim; d += 4u) {
                    let x = load_dk4(place.x, block.h_kv, place.y, d) + kept_nonfinite_q4(block.b, block.h_kv, key, d);
                    store_dk4(place.x, block.h_kv, place.y, d, x);
                }
                for (var d = 0u; d < params.head_dim_v; d += 4u) {
                    let x = load_dv4(place.x, block.h_kv, place.y, d) + kept_nonfinite_dout4(block.b, block.h_kv, key, d);
                    store_dv4(place.x, block.h_kv, place.y, d, x);
                }
            }
        }
    }
}
