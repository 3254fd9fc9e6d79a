//! What the program tells of itself: devices, kernels' texts, help.

use wgpu_attention::kernel::ForwardKernel;

use crate::call::{failure, program, records, stdout, words};

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
    let nothing = failure(words("kernels nosuch"), 1);
    assert!(
        nothing.contains("no kernel has `nosuch` in its name; there are append, "),
        "{nothing}"
    );
}

/// To a terminal, only what a filter asks for.
#[test]
#[cfg(target_os = "linux")]
fn kernels_are_not_poured_on_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let other = std::fs::OpenOptions::new().write(true).open(name.to_str().unwrap()).unwrap();
    let output = program().arg("kernels").stdout(other).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("too many for a terminal") && stderr.contains("forward tiled"),
        "{stderr}"
    );
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(["completions", shell]);
        for part in ["kv-heads", "completions"] {
            assert!(text.contains(part), "{shell} lacks {part}");
        }
        let has_values = ["bash", "zsh", "fish"].contains(&shell);
        assert!(!has_values || text.contains("decode_lanes"), "{shell} lacks values");
    }
    failure(words("completions tcsh"), 2);
}

#[test]
fn devices_are_listed_with_their_kernels() {
    let text = stdout(["devices"]);
    assert!(text.starts_with("0: "), "{text}");
    let parts = ["type:", "backend:", "driver:", "features:", "max_storage_buffer_binding_size"];
    for part in parts.into_iter().chain(["\n  prefill:  `", "\n  decode:   `"]) {
        assert!(text.contains(part), "{part} isn't in\n{text}");
    }
    assert!(!text.contains("could serve too"), "{text}");
    let long = stdout(["devices", "--verbose"]);
    for part in ["  decode of head_dim 64:\n    kernel `", "\n    `tiled` could serve too\n"] {
        assert!(long.contains(part), "{part} isn't in\n{long}");
    }
    let names = stdout(["devices", "--quiet"]);
    let records = records(&stdout(["devices", "--json"]));
    assert_eq!(names.lines().count(), records.len());
    for (name, record) in names.lines().zip(&records) {
        assert_eq!(name, format!("{}: {}", record["index"], record["name"].as_str().unwrap()));
        let kernels = record["kernels"].as_array().unwrap();
        assert_eq!(kernels.len(), 10);
        assert!(kernels.iter().all(|kernel| kernel["tiles"][0].as_u64() > Some(0)), "{record}");
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
    for command in ["run", "wgsl", "bench"] {
        let text = stdout([command, "--help"]);
        for kernel in ForwardKernel::ALL {
            assert!(text.contains(kernel.name()), "{kernel} isn't in\n{text}");
        }
    }
    assert!(stdout(words("devices --help")).contains("EXAMPLE"));
    assert!(stdout(words("kernels --help")).contains("EXAMPLES"));
    assert!(stdout(["--version"]).starts_with("wgpu-attention "));
}
