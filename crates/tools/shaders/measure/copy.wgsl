// A copy and nothing else: 16 bytes to an invocation, neighbours beside each other.

// offers copy

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_words: array<vec4<f32>>;

const WORKGROUP_SIZE: u32 = 64u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn copy(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let index = id.y * workgroups.x * WORKGROUP_SIZE + id.x;
    if (index < arrayLength(&source)) {
        target_words[index] = source[index];
    }
}
