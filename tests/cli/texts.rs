//! What the program tells of itself: devices, kernels' texts, help.

use crate::call::{failure, records, stdout, words};

#[test]
fn wgsl_prints_a_whole_kernel() {
    let text = stdout(
        ["wgsl", "--mask", "causal & key_lengths"]
            .into_iter()
            .chain(words("--shape 2,8,2,100,120,64,32 --layout bshd --kernel tiled")),
    );
    let module = naga::front::wgsl::parse_str(&text).unwrap();
    assert_eq!(module.entry_points.len(), 1);
    let chosen = stdout(words("wgsl --shape 1,1,1,8,8,16"));
    assert!(chosen.contains("@compute") && !chosen.contains("\u{1b}"), "{chosen}");
}

#[test]
fn kernels_prints_every_text_of_a_name() {
    let texts = records(&stdout(words("kernels append")));
    assert!(texts.len() > 10);
    for text in &texts {
        assert_eq!([&text["kernel"], &text["entry_point"]], ["append"; 2]);
        assert!(text["wgsl"].as_str().unwrap().contains("fn append("));
    }
    assert_eq!(stdout(words("kernels nothing")), "");
}

#[test]
fn devices_are_listed_with_their_kernels() {
    let text = stdout(["devices"]);
    assert!(text.starts_with("0: "), "{text}");
    let parts = ["type:", "backend:", "driver:", "features:", "max_storage_buffer_binding_size"];
    for part in parts.into_iter().chain(["head_dim 64: kernel `", "head_dim 256: kernel `"]) {
        assert!(text.contains(part), "{part} isn't in\n{text}");
    }
}

#[test]
fn help_teaches() {
    let names = failure(words("mask nothing --seq 3"), 1);
    let names = names.split("there are ").nth(1).unwrap().lines().next().unwrap();
    assert!(names.split(", ").count() > 10, "{names}");
    for arguments in
        ["--help", "mask --help", "run --help", "wgsl --help", "bench --help", "tune --help"]
    {
        let text = stdout(words(arguments));
        assert!(text.contains("\n  wgpu-attention "), "no example in\n{text}");
        for name in names.split(", ") {
            assert!(text.contains(&format!("\n  {name}")), "{name} isn't in\n{text}");
        }
    }
    assert!(stdout(words("devices --help")).contains("EXAMPLE"));
    assert!(stdout(words("kernels --help")).contains("EXAMPLES"));
    assert!(stdout(["--version"]).starts_with("wgpu-attention "));
}
