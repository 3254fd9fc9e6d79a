//! The corpus, without libFuzzer: what fuzzing once reached is reached in every run of the tests.

use std::path::Path;

use fuzz_targets::{Heap, TARGETS, heap};

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
