// Writes a lane's rows of dk and dv. What isn't finite and was left out of the sums is added at the end.
fn end_columns(
    block: KeyBlock,
    lane: u32,
    dk_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>>,
    dv_rows: ptr<function, array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>>,
    dk_scale: f32,
    keeps_nonfinite: bool,
) {
    for (var r = 0u; r < ROWS; r += 1u) {
        let key = block.kv0 + r * SUBGROUP_SIZE + lane;
        if (key < block.kv_len) {
            let place = kv_place(block.b, key);
            for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
                store_dk4(place.x, block.h_kv, place.y, i * 4u, (*dk_rows)[r][i] * dk_scale);
            }
            for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
                store_dv4(place.x, block.h_kv, place.y, i * 4u, (*dv_rows)[r][i]);
            }
            if (keeps_nonfinite) {
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
