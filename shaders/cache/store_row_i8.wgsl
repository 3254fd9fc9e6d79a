// A whole row from {{FROM}} to {{TENSOR}}: its largest magnitude, then its components in 127ths of that, rounded. So the error is
// at most 1/254 of the row's largest component. A row with a NaN or an infinity reads as NaN throughout.

// needs bindings: params
// needs cache/: incoming_{{FROM}}4
// needs common/problem: EXPONENT_BITS, NAN_BITS, element
// needs rows/i8: scale_of_{{TENSOR}}, words_of_{{TENSOR}}
// offers append_{{TENSOR}}

fn append_{{TENSOR}}(part: u32, to: vec2<u32>, place: vec2<u32>, h: u32, position: u32) {
    if (part != 0u) {
        return;
    }
    var largest = 0.0;
    var finite = true;
    for (var d = 0u; d < {{ROW_LENGTH}}; d += 4u) {
        let x = abs(incoming_{{FROM}}4(place, h, d, position));
        finite &= all((bitcast<vec4<u32>>(x) & vec4<u32>(EXPONENT_BITS)) != vec4<u32>(EXPONENT_BITS));
        largest = max(largest, max(max(x.x, x.y), max(x.z, x.w)));
    }
    // Below the normal numbers, devices may take anything for zero.
    let is_zero = largest < 1.1754944e-38;
    let row = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, to.x, h, to.y, 0u);
    {{TENSOR}}[scale_of_{{TENSOR}}(row, {{ROW_LENGTH}})] = select(NAN_BITS, select(bitcast<u32>(largest), 0u, is_zero), finite);
    for (var d = 0u; d < {{ROW_LENGTH}}; d += 4u) {
        let x = incoming_{{FROM}}4(place, h, d, position) / select(largest, 1.0, is_zero);
        {{TENSOR}}[words_of_{{TENSOR}}(row, {{ROW_LENGTH}}) + d / 4u] = pack4x8snorm(select(vec4<f32>(0.0), x, finite & !is_zero));
    }
}
