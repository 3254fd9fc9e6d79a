// block_indices, i32 [batch, index_heads, blocks of queries, index_count]: of the blocks of keys that a block of queries may
// list those whose pooled keys have the largest products with its pooled query, from the lowest block to the highest, then
// -1. Of equal products the lower block comes first.
//
//   for each run of WORKGROUP_SIZE blocks of keys:
//       a product per invocation, behind the list so far
//       rank = how many of list and run come first      a pass over them for each
//       the first index_count are the list              in the other half of the memory
//
// A workgroup has a block of queries. Elements of `orders` and `listed_blocks` are written by one invocation each: those of a
// run behind the list, read by all after the barrier that follows; then those of the other half, each at its own rank, read
// after the barrier of the next run or the last one.

// needs bindings: output, params, pooled_k, pooled_q
// needs common/problem: EXPONENT_BITS, SIGN_BIT, linear_workgroup
// needs constants: CAPACITY, CAUSAL, KEEP_FIRST, KEEP_OWN, WORKGROUP_SIZE
// needs sequences/: kv_len, q_len
// needs sequences/positions: own_position
// offers pick_blocks

const HALF: u32 = CAPACITY + WORKGROUP_SIZE;
// Before every product, and the own block before the first one: what stays in a list however short it is.
const OWN: u32 = 0xffffffffu;
const FIRST: u32 = 0xfffffffeu;
// Behind every product: what isn't a number.
const LAST: u32 = 0u;

var<workgroup> orders: array<u32, 2u * HALF>;
var<workgroup> listed_blocks: array<u32, 2u * HALF>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn pick_blocks(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let head_index = index / params.q_blocks;
    let head = head_index % params.index_heads;
    let b = head_index / params.index_heads;
    let num_kv_heads = params.num_heads / params.group_size;
    let h_kv = head * num_kv_heads / params.index_heads;

    // The blocks of keys, and those of the own positions: [x, y).
    let size = params.index_block;
    let key_blocks = (kv_len(b) + size - 1u) / size;
    let q0 = index % params.q_blocks * size;
    var own = vec2<u32>(0u);
    var allowed = 0u;
    if (q0 < q_len(b)) {
        let last = own_position(b, min(q0 + size, q_len(b)) - 1u);
        if (last >= 0) {
            own = vec2<u32>(u32(max(own_position(b, q0), 0)) / size, u32(last) / size + 1u);
        }
        allowed = select(key_blocks, own.y, CAUSAL);
    }

    var half = 0u;
    var listed = 0u;
    for (var first = 0u; first < allowed; first += WORKGROUP_SIZE) {
        let added = min(allowed - first, WORKGROUP_SIZE);
        if (invocation < added) {
            let block = first + invocation;
            var order = order_of(product(index, b * num_kv_heads + h_kv, block));
            if (KEEP_FIRST && block == 0u) {
                order = FIRST;
            }
            if (KEEP_OWN && block >= own.x && block < own.y) {
                order = OWN;
            }
            orders[half + listed + invocation] = order;
            listed_blocks[half + listed + invocation] = block;
        }
        workgroupBarrier();
        let count = listed + added;
        let other = HALF - half;
        for (var at = invocation; at < count; at += WORKGROUP_SIZE) {
            let rank = rank_of(half, half + at, count);
            if (rank < params.index_count) {
                orders[other + rank] = orders[half + at];
                listed_blocks[other + rank] = listed_blocks[half + at];
            }
        }
        half = other;
        listed = min(count, params.index_count);
    }
    workgroupBarrier();

    let list = index * params.index_count - params.output_base;
    for (var at = invocation; at < params.index_count; at += WORKGROUP_SIZE) {
        if (at < listed) {
            let block = listed_blocks[half + at];
            var place = 0u;
            for (var i = 0u; i < listed; i += 1u) {
                place += select(0u, 1u, listed_blocks[half + i] < block);
            }
            output[list + place] = block;
        } else {
            output[list + at] = 0xffffffffu;
        }
    }
}

// Of the pooled query of a block of queries and the pooled key of a block of keys, in the sign of the scale.
fn product(row: u32, kv_head: u32, block: u32) -> f32 {
    let vectors = (params.head_dim + 3u) / 4u;
    let rows = (params.seq_len_kv + params.index_block - 1u) / params.index_block;
    let q_at = row * vectors - params.q_base / 4u;
    let k_at = (kv_head * rows + block) * vectors - params.k_base / 4u;
    var sum = 0.0;
    for (var i = 0u; i < vectors; i += 1u) {
        let x = pooled_q[q_at + i];
        let y = pooled_k[k_at + i];
        sum = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum))));
    }
    return sum * params.scale_sign;
}

// Larger the larger x is; both zeros are the same.
fn order_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & ~SIGN_BIT) > EXPONENT_BITS) {
        return LAST;
    }
    if ((bits & ~SIGN_BIT) == 0u) {
        return SIGN_BIT;
    }
    return select(bits | SIGN_BIT, ~bits, (bits & SIGN_BIT) != 0u);
}

// How many of the `count` blocks of a half come before the one at `own`.
fn rank_of(half: u32, own: u32, count: u32) -> u32 {
    let order = orders[own];
    let block = listed_blocks[own];
    var rank = 0u;
    for (var i = half; i < half + count; i += 1u) {
        let other = orders[i];
        rank += select(0u, 1u, other > order || (other == order && listed_blocks[i] < block));
    }
    return rank;
}
