#![no_main]

use wgpu_attention_fuzz::{Heap, heap};

#[global_allocator]
static HEAP: Heap = heap();

libfuzzer_sys::fuzz_target!(|data: &[u8]| wgpu_attention_fuzz::tensor_headers(data));
