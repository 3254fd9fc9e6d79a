// offers write_{{TENSOR}}4

fn write_{{TENSOR}}4(at: u32, x: vec4<f32>) {
    {{TENSOR}}[at] = vec2<u32>({{HALF}}_pack(x.xy), {{HALF}}_pack(x.zw));
}
