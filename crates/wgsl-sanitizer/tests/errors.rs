//! What can't be run says why.

use std::time::Duration;

use wgsl_sanitizer::{Binding, Buffer, Error, Options, Shader};

fn refusal(text: &str) -> String {
    let shader = Shader::from_wgsl(text).unwrap();
    shader.kernel("main", &[], 8).unwrap_err().to_string()
}

#[test]
fn what_isnt_wgsl_is_refused_with_its_place() {
    let error = Shader::from_wgsl("fn main( {").unwrap_err();
    assert!(matches!(&error, Error::Parse(text) if text.contains("wgsl:1:")), "{error}");
    let error = Shader::from_wgsl("fn f() -> u32 { }").unwrap_err();
    assert!(matches!(&error, Error::Invalid(_)), "{error}");
}

#[test]
fn what_isnt_executed_is_named_with_its_line() {
    let text = "@group(0) @binding(0) var image: texture_2d<f32>;
        @compute @workgroup_size(1) fn main() {
            let x = textureLoad(image, vec2(0, 0), 0);
        }";
    assert_eq!(refusal(text), "textureLoad isn't supported (line 3)");
}

#[test]
fn an_unknown_entry_point_lists_those_there_are() {
    let shader = Shader::from_wgsl(
        "@compute @workgroup_size(1) fn a() {} @compute @workgroup_size(1) fn b() {}",
    );
    let shader = shader.unwrap();
    let error = shader.kernel("main", &[], 8).unwrap_err().to_string();
    assert_eq!(error, "there is no compute entry point `main`; there are: a, b");
}

#[test]
fn override_constants_need_values_that_exist() {
    let text = "override n: u32; @compute @workgroup_size(n) fn main() {}";
    assert_eq!(refusal(text), "override constant `n`: it needs a value");
    let shader = Shader::from_wgsl(text).unwrap();
    assert_eq!(shader.kernel("main", &[("n", 16.0)], 8).unwrap().workgroup_size(), [16, 1, 1]);
    let error = shader.kernel("main", &[("m", 16.0)], 8).unwrap_err().to_string();
    assert_eq!(error, "override constant `m`: the shader has none of this name");
}

#[test]
fn subgroup_sizes_have_a_range() {
    let shader = Shader::from_wgsl("@compute @workgroup_size(1) fn main() {}").unwrap();
    for size in [0, 129] {
        let error = shader.kernel("main", &[], size).unwrap_err().to_string();
        assert_eq!(error, format!("subgroup_size: expected 1 to 128, got {size}"));
    }
}

#[test]
fn bindings_must_be_there_and_large_enough() {
    let text = "@group(1) @binding(2) var<storage, read_write> data: array<vec4<f32>, 4>;
        @compute @workgroup_size(1) fn main() { data[0] = vec4<f32>(); }";
    let shader = Shader::from_wgsl(text).unwrap();
    let kernel = shader.kernel("main", &[], 8).unwrap();
    let run = |bindings: &[Binding<'_>]| {
        kernel.dispatch([1, 1, 1], bindings, &Options::default()).unwrap_err().to_string()
    };
    assert_eq!(run(&[]), "@group(1) @binding(2): `data` has no buffer");
    let small = Buffer::new(60);
    assert_eq!(
        run(&[Binding::whole(1, 2, &small)]),
        "@group(1) @binding(2): `data` needs 64 bytes, the binding has 60"
    );
    let beyond = Binding { range: 0..64, ..Binding::whole(1, 2, &small) };
    assert!(run(&[beyond]).contains("the bytes 0..64 of a buffer of 60"));
}

const ENDLESS: [&str; 2] = [
    "loop { data[0] = 1u; if (data[0] == 2u) { break; } }",
    // Where a subgroup never gets far between two barriers.
    "loop { workgroupBarrier(); if (workgroupUniformLoad(&flag) == 2u) { break; } }",
];

#[track_caller]
fn endless(body: &str, options: &Options) -> Error {
    let text = format!(
        "@group(0) @binding(0) var<storage, read_write> data: array<u32, 1>;
        var<workgroup> flag: u32;
        @compute @workgroup_size(1) fn main() {{ flag = 1u; {body} }}"
    );
    let kernel = Shader::from_wgsl(&text).unwrap().kernel("main", &[], 8).unwrap();
    let buffer = Buffer::new(4);
    kernel.dispatch([1, 1, 1], &[Binding::whole(0, 0, &buffer)], options).unwrap_err()
}

#[test]
fn an_endless_loop_ends_at_the_time_limit() {
    for body in ENDLESS {
        let limit = Duration::from_millis(50);
        let options = Options { time_limit: limit, ..Options::default() };
        assert_eq!(endless(body, &options), Error::TimeLimit { limit }, "{body}");
    }
}

#[test]
fn an_endless_loop_ends_at_the_limit_of_operations() {
    for body in ENDLESS {
        let options = Options { operation_limit: 100_000, ..Options::default() };
        let error = endless(body, &options);
        assert_eq!(error, Error::OperationLimit { limit: 100_000 }, "{body}");
    }
}
