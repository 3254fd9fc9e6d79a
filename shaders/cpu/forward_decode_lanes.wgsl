// Flash decoding (Dao et al. 2023) for CPU adapters: a workgroup is one subgroup, a vector register, and has ROWS packed
// rows and one split of the keys. Loads by neighbouring lanes are fast there, loads of one value for all are not.
//
//   for each tile of keys of the split that the mask doesn't empty, SUBGROUP_SIZE keys at a time:
//       s    = q k^T                            quad: a key in turn; lane: components 4 (part + 4 i) ..
//       s    = LOWEST where the mask says so    lane: a key of its own, key_of(lane); in PARTIAL tiles only
//       m, l = online softmax                   m over all lanes, l each lane's own share
//       o    = o 2^((m - m') c) + p v           lane: components 4 (lane + i SUBGROUP_SIZE) ..; p is broadcast
//   o and lse, or this split's m, l and o
//
// Every key and value is read once, by one lane. No workgroup memory, no barriers.

// needs bindings: params
// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs common/nonfinite_sums: scaled
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs constants: BLOCK_KV, HEAD_DIM, HEAD_DIM_V, MODIFIED, ROWS, SUBGROUP_SIZE
// needs cpu/prefetch/keys: fetch_keys
// needs decode/: end_row, end_row4
// needs decode/nonfinite: add_kept_nonfinite
// needs decode/row_block: Row, cell_kept, is_empty, kv_tile_class, last_skipped, packed_row, row_block
// needs generated: modified_score
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_k4, load_q4, load_v4
// needs sequences/: kv_place, q_place
// {{DROPOUT}} needs score/dropout: dropout_factor, dropout_row
// offers forward

// Pieces of a key and of a value that a lane has.
const K_SLICES: u32 = (HEAD_DIM / 4u + 3u) / 4u;
const V_SLICES: u32 = (HEAD_DIM_V / 4u + SUBGROUP_SIZE - 1u) / SUBGROUP_SIZE;

// Four neighbouring lanes are a quad, whose lanes exchange numbers at the price of an addition.
const QUADS: u32 = SUBGROUP_SIZE / 4u;

// Keys whose values are added in one turn of a loop: such drivers merge all that a loop changes with what it was, each
// time round.
const TURN: u32 = 2u;

// The scores that a lane ends up with, and the weights that it gives, are those of this one of the keys at hand.
fn key_of(lane: u32) -> u32 {
    return lane % 4u * QUADS + lane / 4u;
}

fn lane_of(key: u32) -> u32 {
    return key % QUADS * 4u + key / QUADS;
}

// The n-th lane of each quad gets the sum of its quad's x[n].
fn quad_sums(x: array<f32, 4>, lane: u32) -> f32 {
    let odd = lane % 2u == 1u;
    let upper = lane % 4u >= 2u;
    let low = select(x[0], x[1], odd) + quadSwapX(select(x[1], x[0], odd));
    let high = select(x[2], x[3], odd) + quadSwapX(select(x[3], x[2], odd));
    return select(low, high, upper) + quadSwapY(select(high, low, upper));
}

// Component 4 (lane + i SUBGROUP_SIZE) of a value; the last ones again for lanes that have none.
fn value_slice(i: u32, lane: u32) -> u32 {
    let d = (i * SUBGROUP_SIZE + lane) * 4u;
    return select(d, min(d, HEAD_DIM_V - 4u), V_SLICES * SUBGROUP_SIZE * 4u > HEAD_DIM_V);
}

// o_rows[r] += p[r] v, for as many keys as there are lanes. `only_finite`: what isn't finite counts as 0, and the result says
// whether this lane had some.
fn add_values(
    o_rows: ptr<function, array<array<vec4<f32>, V_SLICES>, ROWS>>,
    p: ptr<function, array<f32, ROWS>>,
    b: u32,
    h_kv: u32,
    key0: u32,
    kv_last: u32,
    only_finite: bool,
    lane: u32,
) -> bool {
    var found = false;
    for (var j = 0u; j < SUBGROUP_SIZE; j += TURN) {
        for (var i = 0u; i < V_SLICES; i += 1u) {
            for (var n = 0u; n < TURN; n += 1u) {
                let place = kv_place(b, min(key0 + j + n, kv_last));
                var value = load_v4(place.x, h_kv, place.y, value_slice(i, lane));
                if (only_finite) {
                    found |= any(is_nonfinite(value));
                    value = without_nonfinite(value);
                }
                for (var r = 0u; r < ROWS; r += 1u) {
                    let weight = subgroupShuffle((*p)[r], lane_of(j + n));
                    (*o_rows)[r][i] = fma(vec4<f32>(weight), value, (*o_rows)[r][i]);
                }
            }
        }
    }
    return found;
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let block = row_block(index);
    if (is_empty(block)) {
        return;
    }
    let b = block.b;
    let h_kv = block.h_kv;
    let quad = lane / 4u;
    let part = lane % 4u;

    var rows: array<Row, ROWS>;
    var q_rows: array<array<vec4<f32>, K_SLICES>, ROWS>;
    var o_rows: array<array<vec4<f32>, V_SLICES>, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        rows[r] = packed_row(block, r);
        let place = q_place(b, rows[r].q_idx);
        for (var i = 0u; i < K_SLICES; i += 1u) {
            q_rows[r][i] = load_q4(place.x, rows[r].h, place.y, (i * 4u + part) * 4u) * params.scale_sign;
        }
        for (var i = 0u; i < V_SLICES; i += 1u) {
            o_rows[r][i] = vec4<f32>(0.0);
        }
        m[r] = LOWEST;
        l[r] = 0.0;
    }

    var found_nonfinite = false;
    for (var kv0 = block.keys.x; kv0 < block.keys.y; kv0 += BLOCK_KV) {
        let kind = kv_tile_class(block, kv0);
        if (kind == SKIP) {
            kv0 = last_skipped(block, kv0);
            continue;
        }
        let kv1 = min(kv0 + BLOCK_KV, block.keys.y);
        for (var key0 = kv0; key0 < kv1; key0 += SUBGROUP_SIZE) {
            let kv_last = block.kv_len - 1u;
            // Were it true, the end would look for numbers that aren't finite, and find none.
            found_nonfinite |= fetch_keys(b, h_kv, key0 + SUBGROUP_SIZE, block.bound.y - 1u);

            // The quads' keys in turn, and the lanes' shares of their scores.
            var shares: array<array<f32, 4>, ROWS>;
            for (var n = 0u; n < 4u; n += 1u) {
                let place = kv_place(b, min(key0 + n * QUADS + quad, kv_last));
                // Four sums a row, which wait for each other less than one, and round less.
                var s4: array<vec4<f32>, ROWS>;
                for (var r = 0u; r < ROWS; r += 1u) {
                    s4[r] = vec4<f32>(0.0);
                }
                for (var i = 0u; i < K_SLICES; i += 1u) {
                    let key = load_k4(place.x, h_kv, place.y, (i * 4u + part) * 4u);
                    for (var r = 0u; r < ROWS; r += 1u) {
                        s4[r] = fma(q_rows[r][i], key, s4[r]);
                    }
                }
                for (var r = 0u; r < ROWS; r += 1u) {
                    shares[r][n] = (s4[r].x + s4[r].y) + (s4[r].z + s4[r].w);
                }
            }

            let own_key = key0 + key_of(lane);
            var s: array<f32, ROWS>;
            for (var r = 0u; r < ROWS; r += 1u) {
                s[r] = quad_sums(shares[r], lane);
                var keep = true;
                if (MODIFIED) {
                    s[r] = modified_score(s[r], b, rows[r].h, rows[r].q_idx, min(own_key, kv_last));
                }
                if (kind == PARTIAL) {
                    keep = cell_kept(block, rows[r], own_key);
                    s[r] = select(LOWEST, s[r], keep);
                }
                let m_new = max(m[r], subgroupMax(s[r]));
                // As the maximum settles, most tiles have nothing to rescale.
                if (m_new != m[r]) {
                    let shrink = exp2((m[r] - m_new) * params.softmax_scale_log2);
                    l[r] *= shrink;
                    for (var i = 0u; i < V_SLICES; i += 1u) {
                        o_rows[r][i] *= shrink;
                    }
                    m[r] = m_new;
                }
                s[r] = select(0.0, exp2((s[r] - m_new) * params.softmax_scale_log2), keep);
                l[r] += s[r];
                {{DROPOUT}} s[r] *= dropout_factor(dropout_row(b, rows[r].h, rows[r].q_idx), own_key);
            }

            // Code of its own for each: a choice further inside would be made number by number, in FULL tiles too.
            if (kind == PARTIAL) {
                found_nonfinite |= add_values(&o_rows, &s, b, h_kv, key0, kv_last, true, lane);
            } else {
                found_nonfinite |= add_values(&o_rows, &s, b, h_kv, key0, kv_last, false, lane);
            }
        }
    }

    for (var r = 0u; r < ROWS; r += 1u) {
        l[r] = subgroupAdd(l[r]);
        if (block.r0 + r < block.r1) {
            let norm = end_row(block, rows[r], m[r], l[r], lane == 0u);
            for (var i = 0u; i < V_SLICES; i += 1u) {
                found_nonfinite |= any(is_nonfinite(o_rows[r][i]));
                end_row4(block, rows[r], (i * SUBGROUP_SIZE + lane) * 4u, scaled(o_rows[r][i], norm));
            }
        }
    }
    // A loop of its own: see cpu/forward_broadcast.wgsl.
    if (found_nonfinite) {
        for (var r = 0u; block.r0 + r < block.r1; r += 1u) {
            for (var d = lane * 4u; d < params.head_dim_v; d += SUBGROUP_SIZE * 4u) {
                add_kept_nonfinite(block, rows[r], d, l[r]);
            }
        }
    }
}
