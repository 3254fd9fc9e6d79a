// Rows of {{TENSOR}} times the Hadamard matrix of 32 rows, 32 components at a time: what is large in one component is spread over
// 32, which 4 bits keep better. A product of a query and a key that were both multiplied so is what it was.

// needs cache/: turned_{{TENSOR}}4
// offers incoming_{{TENSOR}}4

fn incoming_{{TENSOR}}4(place: vec2<u32>, h: u32, d: u32, position: u32) -> vec4<f32> {
    // Rows 4 i to 4 i + 3 of the matrix are those of the matrix of 4 rows again and again, with a sign for each.
    let i = d / 4u % 8u;
    var sum = vec4<f32>(0.0);
    for (var j = 0u; j < 8u; j += 1u) {
        let x = turned_{{TENSOR}}4(place, h, d - 4u * i + 4u * j, position);
        sum += select(x, -x, countOneBits(i & j) % 2u == 1u);
    }
    let sums = sum.xz + sum.yw;
    let differences = sum.xz - sum.yw;
    let columns = vec4<f32>(sums.x, differences.x, sums.x, differences.x) + vec4<f32>(sums.y, differences.y, -sums.y, -differences.y);
    return columns * 0.17677669529663687;
}
