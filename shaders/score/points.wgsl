// The user's score_mod and its derivative at single points, which the host compares: see src/gradient_check.rs.
//
// One invocation per point.

// needs bindings: params, points, values
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// offers ScorePoint, score_points

struct ScorePoint {
    b: u32,
    h: u32,
    q_idx: u32,
    kv_idx: u32,
    score: f32,
    grad: f32,
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn score_points(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    if (number >= params.end_workgroup || index >= arrayLength(&points)) {
        return;
    }
    let at = points[index];
    values[index] = vec2<f32>(
        {{SCORE_MOD}}(at.score, at.b, at.h, at.q_idx, at.kv_idx),
        {{SCORE_GRADIENT}}(at.grad, at.score, at.b, at.h, at.q_idx, at.kv_idx),
    );
}
