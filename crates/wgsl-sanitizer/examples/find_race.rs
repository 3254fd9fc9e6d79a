//! Two sums of an array by one workgroup: one with a barrier too few, and one that is right.
//!
//! `cargo run --example find_race`

use wgsl_sanitizer::{Binding, Buffer, Error, Options, Shader};

const SUM: &str = "
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: f32;
var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    var part = 0.0;
    for (var at = i; at < arrayLength(&values); at += 64u) { part += values[at]; }
    parts[i] = part;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (i < half) { parts[i] += parts[i + half]; }
        BARRIER
    }
    if (i == 0u) { sum = parts[0]; }
}";

fn main() -> Result<(), Error> {
    let values: Vec<u8> = (0..1000).flat_map(|value| (value as f32).to_ne_bytes()).collect();
    for barrier in ["", "workgroupBarrier();"] {
        let shader = Shader::from_wgsl(&SUM.replace("BARRIER", barrier))?;
        for subgroup_size in [8, 32, 64] {
            let kernel = shader.kernel("main", &[], subgroup_size)?;
            let (values, sum) = (Buffer::from_slice(&values), Buffer::new(4));
            let bindings = [Binding::whole(0, 0, &values), Binding::whole(0, 1, &sum)];
            let report = kernel.dispatch([1, 1, 1], &bindings, &Options::default())?;
            let bytes = sum.to_vec();
            let found = f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            println!(
                "{subgroup_size} invocations in step, `{barrier}`: the sum is {found}\n{report}\n"
            );
        }
    }
    Ok(())
}
