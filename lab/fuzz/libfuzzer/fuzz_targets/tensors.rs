#![no_main]

use fuzz_targets::{Heap, heap};

#[global_allocator]
static HEAP: Heap = heap();

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::tensors(data));
