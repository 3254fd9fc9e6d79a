//! The corpus, without libFuzzer: what fuzzing once reached is reached in every run of the tests.

use std::path::Path;

use fuzz_targets::{Heap, TARGETS, executed_functions, heap};

#[global_allocator]
static HEAP: Heap = heap();

/// Runs a target on every input of its folder.
fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(other, _)| *other == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut inputs: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        // Shown where the target panics.
        println!("{}", input.display());
        target(&std::fs::read(&input).unwrap());
    }
}

#[test]
fn mask_text() {
    replay("mask_text");
}

#[test]
fn mask_shape() {
    replay("mask_shape");
}

#[test]
fn tensors() {
    replay("tensors");
}

#[test]
fn tensor_headers() {
    replay("tensor_headers");
}

#[test]
fn wgsl() {
    replay("wgsl");
}

/// What compiles is executed, whatever it does.
#[test]
fn functions_are_executed() {
    let keep = |body: &str| {
        format!("fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{ {body} }}")
    };
    for body in [
        "return limit(kv_idx) / q_idx > u32(ids(7u)) << kv_idx;",
        "loop { if (limit(0u) > 3u) { break; } } return true;",
        "if (q_idx > 2u) { workgroupBarrier(); } return slopes(b) > 0.0;",
        "var x: array<u32, 2>; return x[q_idx] == 0u;",
    ] {
        assert_eq!(executed_functions(&keep(body)), 1, "{body}");
    }
    let score = "
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score * slopes(kv_idx);
        }";
    assert_eq!(executed_functions(score), 1);
    assert_eq!(executed_functions(&(keep("return true;") + score)), 2);
    assert_eq!(executed_functions(&keep("return 1u;")), 0);
}
