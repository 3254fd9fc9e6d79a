// Strips of workgroup memory, by which matrices become rows and rows become matrices. Which invocation holds which element of a
// matrix is the device's affair, so that all that goes by rows passes through here.
//
// A strip belongs to one subgroup, whose barriers order it. Rows are longer than what they hold, for the banks' sake; what lies
// between is never read.
//
// naga holds every branch on a subgroup's number or vote to be divergent, and refuses loads and products of matrices in it, but
// looks into no function: so these stand in functions.
//
// Left, Right and Sum are the types of the matrices: MATRIX x MATRIX.

// needs constants: MATRIX, OWN_BLOCK, PART
// needs matrix/lanes: Lane
// offers PART4, P_ROW, S_ROW, p_strips, plus_product, rescaled, s_strips, store_in_strip, strip_matrix

const PART4: u32 = PART / 4u;
const S_ROW: u32 = PART4 + 1u;
const P_ROW: u32 = PART4 + 2u;

// [OWN_BLOCK, PART]: products; or MATRIX components of sums
var<workgroup> s_strips: array<vec4<f32>, OWN_BLOCK * S_ROW>;
// [OWN_BLOCK, PART]: what is multiplied with the rows of the other side
var<workgroup> p_strips: array<vec4<f16>, OWN_BLOCK * P_ROW>;

fn plus_product(left: Left, right: Right, sum: Sum) -> Sum {
    return coopMultiplyAdd(left, right, sum);
}

// To columns `column` and after of the strip of products.
fn store_in_strip(sum: Sum, lane: Lane, column: u32) {
    let at = lane.strip * MATRIX * S_ROW + column / 4u;
    coopStoreT(sum, &s_strips[at], S_ROW);
}

// Columns `column` and after of the other strip.
fn strip_matrix(lane: Lane, column: u32) -> Left {
    return coopLoadT<Left>(&p_strips[lane.strip * MATRIX * P_ROW + column / 4u], P_ROW);
}

// The strip's rows, each times its lanes' factor.
fn rescaled(sum: Sum, lane: Lane, factor: f32) -> Sum {
    subgroupBarrier();
    store_in_strip(sum, lane, 0u);
    subgroupBarrier();
    for (var c = lane.x; c < MATRIX / 4u; c += lane.lanes) {
        s_strips[lane.row * S_ROW + c] *= factor;
    }
    subgroupBarrier();
    return coopLoadT<Sum>(&s_strips[lane.strip * MATRIX * S_ROW], S_ROW);
}
