// Rotary positions (Su and others, arXiv 2104.09864): component i of a head and its partner half a head further are turned
// by position * BASE^(-i / half). Turned back, the same for gradients: dx += R(-position) dy.
// An invocation has one pair.

struct Sizes {
    rows: u32,
    columns: u32,
    half: u32, // of a head
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> positions: array<i32>; // [rows]
@group(0) @binding(2) var<storage, read> x: array<f32>; // [rows, columns]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, columns]

const BASE: f32 = 1000.0;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pairs = sizes.columns / 2u;
    let row = id.x / pairs;
    if row >= sizes.rows {
        return;
    }
    let pair = id.x % pairs;
    let i = pair % sizes.half;
    let first = row * sizes.columns + pair / sizes.half * 2u * sizes.half + i;
    let second = first + sizes.half;
    let angle = f32(positions[row]) * pow(BASE, -f32(i) / f32(sizes.half));
    let c = cos(angle);
    let s = sin(angle);
    if BACKWARD {
        y[first] += c * x[first] + s * x[second];
        y[second] += c * x[second] - s * x[first];
    } else {
        y[first] = c * x[first] - s * x[second];
        y[second] = c * x[second] + s * x[first];
    }
}
