// A row from {{FROM}} to {{TENSOR}}, each group of 32 components by a scale and a zero point of its own: of three scales around a
// 15th of the group's range, zero included, the one with the least squared error. An invocation has the two groups that share a
// word. A group with a NaN, an infinity or a range of more than 1e36 reads as NaN.

// needs bindings: params
// needs cache/: incoming_{{FROM}}4
// needs common/problem: EXPONENT_BITS, element
// needs rows/i4: groups_of_{{TENSOR}}, words_of_{{TENSOR}}
// offers append_{{TENSOR}}

fn append_{{TENSOR}}(part: u32, to: vec2<u32>, place: vec2<u32>, h: u32, position: u32) {
    let d0 = part * 4u;
    if (d0 % 64u != 0u || d0 >= {{ROW_LENGTH}}) {
        return;
    }
    let row = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, to.x, h, to.y, 0u);
    var groups = store_group_of_{{TENSOR}}(row, place, h, d0, position);
    if (d0 + 32u < {{ROW_LENGTH}}) {
        groups |= store_group_of_{{TENSOR}}(row, place, h, d0 + 32u, position) << 16u;
    }
    {{TENSOR}}[groups_of_{{TENSOR}}(row, {{ROW_LENGTH}}) + d0 / 64u] = groups;
}

// The 32 components from d0 on; the result is their scale and zero point.
fn store_group_of_{{TENSOR}}(row: u32, place: vec2<u32>, h: u32, d0: u32, position: u32) -> u32 {
    let end = min(d0 + 32u, {{ROW_LENGTH}});
    var least = 0.0;
    var most = 0.0;
    var finite = true;
    for (var d = d0; d < end; d += 4u) {
        let x = incoming_{{FROM}}4(place, h, d, position);
        finite &= all((bitcast<vec4<u32>>(x) & vec4<u32>(EXPONENT_BITS)) != vec4<u32>(EXPONENT_BITS));
        least = min(least, min(min(x.x, x.y), min(x.z, x.w)));
        most = max(most, max(max(x.x, x.y), max(x.z, x.w)));
    }
    let range = most - least;
    finite &= range <= 1e36;
    // Scales below the normal numbers devices may take for zero.
    let is_zero = range < 2e-37;
    let scales = scales_of_{{TENSOR}}(select(range, 1.0, is_zero | !finite));
    let zeros = clamp(round(vec3<f32>(7.5) - (0.5 * least + 0.5 * most) / scales), vec3<f32>(0.0), vec3<f32>(15.0));

    var errors = vec3<f32>(0.0);
    for (var d = d0; d < end; d += 4u) {
        let x = incoming_{{FROM}}4(place, h, d, position);
        errors += error_of_{{TENSOR}}(x.x, scales, zeros) + error_of_{{TENSOR}}(x.y, scales, zeros)
            + error_of_{{TENSOR}}(x.z, scales, zeros) + error_of_{{TENSOR}}(x.w, scales, zeros);
    }
    var best = vec3<f32>(scales.y, zeros.y, errors.y);
    best = select(best, vec3<f32>(scales.x, zeros.x, errors.x), errors.x < best.z);
    best = select(best, vec3<f32>(scales.z, zeros.z, errors.z), errors.z < best.z);
    let scale = best.x;
    let zero = best.y;

    for (var word = d0; word < end; word += 8u) {
        var elements = 0u;
        for (var d = word; d < min(word + 8u, end); d += 4u) {
            let x = select(vec4<f32>(0.0), incoming_{{FROM}}4(place, h, d, position), finite & !is_zero);
            let four = vec4<u32>(clamp(round(x / scale) + zero, vec4<f32>(0.0), vec4<f32>(15.0)));
            elements |= (four.x | (four.y << 4u) | (four.z << 8u) | (four.w << 12u)) << (d % 8u * 4u);
        }
        {{TENSOR}}[words_of_{{TENSOR}}(row, {{ROW_LENGTH}}) + word / 8u] = elements;
    }
    let stored = (bitcast<u32>(scale) >> 15u) | u32(zero);
    return select(0xff80u, select(stored, 0u, is_zero), finite);
}

// Three scales for a range, of four bits of mantissa.
fn scales_of_{{TENSOR}}(range: f32) -> vec3<f32> {
    let bits = bitcast<vec3<u32>>(range / 15.0 * vec3<f32>(0.92, 1.0, 1.06));
    return bitcast<vec3<f32>>((bits + vec3<u32>(1u << 18u)) & vec3<u32>(0xfff80000u));
}

// The squared error of a component with each of them, in the middle one's units.
fn error_of_{{TENSOR}}(x: f32, scales: vec3<f32>, zeros: vec3<f32>) -> vec3<f32> {
    let wanted = x / scales;
    let error = (clamp(round(wanted) + zeros, vec3<f32>(0.0), vec3<f32>(15.0)) - zeros - wanted) * (scales / scales.y);
    return error * error;
}
