//! How the program fails.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use wgpu_attention::Layout;
use wgpu_attention_tools::files::TensorWriter;

use crate::call::{MINILM, call, failure, program, records, stdout, words};
use crate::scratch::{Scratch, everything};

#[test]
fn wrong_usage_is_told_apart() {
    for arguments in [
        "nothing",
        "mask causal",
        "mask causal --seq -1",
        "mask causal --seq 3 --format picture",
        "mask causal --seq 3 --pad-id 0",
        "run in.safetensors",
        "run in.safetensors --out out --outputs o,everything",
        "run in.safetensors --out out --layout sbhd",
        "run in.safetensors --out out --scale big",
        "run in.safetensors --out out --kernel fast",
        "run in.safetensors --out out --tensor bias",
        "run in.safetensors --out out --quiet --verbose",
        "wgsl",
        "wgsl --shape 1,2,3",
        "wgsl --shape 1,1,1,8,8,sixteen",
        "wgsl --shape 1,1,1,8,8,16,16,16",
    ] {
        failure(words(arguments), 2);
    }
    let nothing = call::<&str>([]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn a_wrong_mask_is_shown_with_its_column() {
    for (arguments, column, caret) in [
        (["mask", "causal & foo", "--seq", "3"], "column 10", "\n  causal & foo\n           ^\n"),
        (["mask", "causal &", "--seq", "3"], "column 9", "\n  causal &\n          ^\n"),
        (["wgsl", "--shape=1,1,1,8,8,16", "--mask", "(all"], "column 5", "\n  (all\n      ^\n"),
    ] {
        let message = failure(arguments, 1);
        assert!(message.contains(column) && message.contains(caret), "{message}");
    }
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    assert!(scratch.refused(&["--mask", "window(1)"]).contains("`right` is missing"));
}

#[test]
fn names_that_are_nearly_right_are_suggested() {
    for (mask, meant) in [
        ("caual", "causal"),
        ("Causal", "causal"),
        ("all & key_lenghts", "key_lengths"),
        ("key-padding", "key_padding"),
        ("sliding(3)", "sliding_window"),
        ("streamingllm(3,1)", "streaming_llm"),
        ("window(lefft=1, right=2)", "left"),
    ] {
        let message = failure(["mask", mask, "--seq", "3"], 1);
        assert!(message.contains(&format!("(did you mean `{meant}`?)")), "{message}");
    }
    let nothing = failure(words("mask foo --seq 3"), 1);
    assert!(!nothing.contains("did you mean"), "{nothing}");
    for (arguments, meant) in [
        ("run in --out o --ouputs o", "--outputs"),
        ("run in --out o --msk causal", "--mask"),
        ("run in --out o --outputs weigths", "'weights'"),
        ("run in --out o --kernel brodcast", "'broadcast'"),
        ("devises", "'devices'"),
    ] {
        let message = failure(words(arguments), 2);
        assert!(message.contains("tip: a similar") && message.contains(meant), "{message}");
    }
    let scratch = Scratch::new(&everything(Layout::Bhsd).i32("prefix_lenghts", &[2], &[1, 2]));
    let message =
        scratch.refused(&["--tensor", "prefix_lengths=prefix_lenght", "--mask", "prefix"]);
    assert!(message.contains("no tensor `prefix_lenght` (did you mean `prefix_leng"), "{message}");
}

/// A user's function is shown by its own file and line, whatever is wrong with it.
#[test]
fn what_is_wrong_in_a_function_is_shown_in_its_file() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let refused = |option: &str, text: &str| {
        let path = scratch.path("own.wgsl");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (scratch.refused(&[option, &path]), path)
    };
    let keep = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool";
    let score = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32";
    for (option, signature, text, place, part) in [
        ("--wgsl-mask", keep, "\nfn kep() {}", ":2:4", "2 │ fn kep() {}"),
        ("--wgsl-mask", keep, "// fn keep\nconst X = 1u;", "", "found no function `keep`"),
        (
            "--wgsl-mask",
            keep,
            "// é\n\nfn keep(b: u32, h: u32) -> bool { return true; }",
            ":3:4",
            "3 │ fn keep(b: u32, h: u32) -> bool",
        ),
        (
            "--wgsl-mask",
            keep,
            "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return 1.0; }",
            ":1:4",
            "found other types",
        ),
        ("--wgsl-mask", keep, "fn keep() -> bool {\n return nothing; }", ":2:9", "`nothing`"),
        ("--wgsl-score", score, "fn score(x: f32) -> f32 { return x; }", "", "`score_mod`"),
        ("--wgsl-score", score, "fn score_mod(x: f32) -> f32 { return x; }", ":1:4", "other types"),
    ] {
        let (message, path) = refused(option, text);
        assert!(message.contains(&format!("{path}: expected ")), "{message}");
        assert!(message.contains(signature) && message.contains(part), "{message}");
        assert!(place.is_empty() || message.contains(&format!("─ {path}{place}")), "{message}");
        assert!(!message.contains("call_it"), "{message}");
    }
}

/// The map of a mask's tiles is what is too large, not its data.
#[test]
fn a_tile_map_that_is_too_large_is_named() {
    let device = &records(&stdout(words("devices --json")))[0];
    let limit = device["max_storage_buffer_binding_size"].as_f64().unwrap();
    // 16 tiles to a word of 4 bytes, in tiles of up to 64 x 64.
    let seq = (limit.sqrt() * 128.0) as usize + 64;
    let ones = vec![1.0; seq];
    let dims = [1, 1, seq, 1];
    let writer = TensorWriter::new().f32("q", &dims, &ones).f32("k", &dims, &ones);
    let scratch = Scratch::new(&writer.f32("v", &dims, &ones));
    let keep = scratch.path("keep.wgsl");
    std::fs::write(&keep, "fn keep(b: u32, h: u32, q: u32, k: u32) -> bool { return true; }")
        .unwrap();
    let message =
        scratch.refused(&["--wgsl-mask", &keep.display().to_string(), "--kernel", "tiled"]);
    assert!(message.contains("the mask's tile map, with its data, (in bytes) needs"), "{message}");
    assert!(
        message.contains("max_storage_buffer_binding_size") && message.contains("or use a device")
    );
}

/// What the environment says is gone by, or said to be wrong.
#[test]
fn the_environment_is_gone_by() {
    let run = |name: &str, value: &str, options: &str| {
        let mut command = program();
        command.args(words("mask causal --seq 2")).args(words(options)).env(name, value);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for value in ["typo", "vulcan", "vulkan,typo"] {
        let (code, stderr) = run("WGPU_BACKEND", value, "");
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.starts_with("error: WGPU_BACKEND: there is no backend `"), "{stderr}");
        assert!(stderr.contains("there are vulkan, metal, dx12, gl"), "{stderr}");
    }
    let (code, stderr) = run("WGPU_ADAPTER_NAME", "nosuchdevice", "");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("error: WGPU_ADAPTER_NAME=nosuchdevice: there is no device"));
    let (code, stderr) = run("WGPU_ADAPTER_NAME", "nosuchdevice", "--device 0");
    assert_eq!(code, Some(0), "{stderr}");
    let expected = "warning: WGPU_ADAPTER_NAME=nosuchdevice is ignored, as --device is given\n";
    assert_eq!(stderr, expected);
    let device = records(&stdout(words("devices --json"))).remove(0);
    let name = device["name"].as_str().unwrap().to_uppercase();
    assert_eq!(run("WGPU_ADAPTER_NAME", &name, ""), (Some(0), String::new()));
    assert_eq!(run("WGPU_ADAPTER_NAME", "", ""), (Some(0), String::new()));
}

/// Drivers that wgpu looks for in vain are nobody's concern: EGL's, where there is no display.
#[test]
fn what_succeeds_writes_no_error() {
    let backends = std::env::var("WGPU_BACKEND").map_or("all".to_owned(), |own| own + ",gl");
    let mut command = program();
    command.args(words("mask causal --seq 2"));
    match backends.as_str() {
        "all" => command.env_remove("WGPU_BACKEND"),
        own => command.env("WGPU_BACKEND", own),
    };
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_mask_that_names_what_is_not_there() {
    let message = failure(words("mask causal&key_lengths --seq 3"), 1);
    assert!(message.contains("key_lengths") && message.contains("--data"), "{message}");
    let scratch = Scratch::new(&TensorWriter::new().f32("other", &[1], &[0.0]));
    let input = scratch.input.to_str().unwrap();
    let message = failure(["mask", "key_lengths", "--seq", "3", "--data", input], 1);
    assert!(message.contains("no tensor `key_lengths`; there is other"), "{message}");
    let message = scratch.refused(&[]);
    assert!(message.contains("in.safetensors: there is no tensor `q`"), "{message}");
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let message = scratch.refused(&["--mask", "token_padding"]);
    assert!(message.contains("pad_id"), "{message}");
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    let good = || everything(Layout::Bhsd);
    let ones = |len: usize| vec![1.0; len];
    for (contents, options, expected) in [
        (good().i32("q", &[1], &[1]), "", "q: expected elements of f32, f16 or bf16, found i32"),
        (good().f32("q", &[6], &ones(6)), "", "q: expected 4 dimensions"),
        (good().f32("k", &[2, 2, 5, 5], &ones(100)), "", "k: expected [2, num_kv_heads"),
        (good().f32("v", &[2, 2, 4, 7], &ones(112)), "", "v: expected [2, 2, 5, head_dim_v]"),
        (good().f32("q", &[2, 3, 3, 6], &ones(108)), "", "num_heads: expected a multiple"),
        (good().f32("q", &[2, 0, 3, 6], &[]), "", "num_heads: expected at least 1, found 0"),
        (good(), "--layout bshd", "expected"),
        (
            good().i32("key_lengths", &[2], &[4, 6]),
            "--mask key_lengths",
            "key_lengths[1]: expected 0 to seq_len_kv = 5, found 6",
        ),
        (
            good().i32("key_lengths", &[2], &[4, -1]),
            "--mask key_lengths",
            "key_lengths[1]: expected 0 to seq_len_kv = 5, found -1",
        ),
        (
            good().i32("key_lengths", &[3], &[1; 3]),
            "--mask key_lengths",
            "key_lengths: expected [batch = 2], found [3]",
        ),
        (
            good().i32("token_ids", &[5, 2], &[1; 10]),
            "--mask token_padding --pad-id 0",
            "token_ids: expected [batch = 2, seq_len_kv = 5], found [5, 2]",
        ),
        (
            good().f32("key_padding", &[2, 5], &[0.5; 10]),
            "--mask key_padding",
            "key_padding: expected elements of bool, an integer type, or floats of 0 and 1, found f32 with 0.5",
        ),
        (good().bool("dense", &[3, 5], &[true; 15]), "--mask dense", ""),
        (
            good().bool("dense", &[2, 5], &[true; 10]),
            "--mask dense",
            "dense: expected sizes that broadcast to [2, 4, 3, 5], found [1, 1, 2, 5]",
        ),
        (good(), "--scale NaN", "scale: expected a finite number, found NaN"),
        (good(), "--device nosuchdevice", "there is no device named like `nosuchdevice`"),
        (good(), "--device 999", "there is no device number 999"),
    ] {
        let scratch = Scratch::new(&contents);
        if expected.is_empty() {
            scratch.run(&words(options));
            continue;
        }
        let message = scratch.refused(&words(options));
        assert!(message.contains(expected), "`{expected}` isn't in {message}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let whole = std::fs::read(MINILM).unwrap();
    for (contents, expected) in [
        (&whole[..whole.len() - 1], "truncated"),
        (&whole[..600_000], "truncated"),
        (&whole[..100], "truncated"),
        (&whole[..3], "not a safetensors file"),
        (&whole[..0], "not a safetensors file"),
        (b"PK\x03\x04 something else entirely, but long enough", "not a safetensors file"),
    ] {
        let scratch = Scratch::new(&TensorWriter::new());
        std::fs::write(&scratch.input, contents).unwrap();
        let message = scratch.refused(&[]);
        assert!(message.contains("in.safetensors: ") && message.contains(expected), "{message}");
        let input = scratch.input.to_str().unwrap();
        failure(["mask", "key_lengths", "--seq", "3", "--data", input], 1);
    }
    let message = failure(words("run nowhere.safetensors --out nowhere-out.safetensors"), 1);
    assert!(message.contains("nowhere.safetensors"), "{message}");
}

#[test]
fn a_failed_run_leaves_what_was_there() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    std::fs::write(scratch.path("out"), "old").unwrap();
    failure(scratch.run_arguments(&["--scale", "inf"]), 1);
    assert_eq!(std::fs::read(scratch.path("out")).unwrap(), b"old");
    let out = scratch.path("no such folder/out");
    let arguments = ["run".as_ref(), scratch.input.as_path(), "--out".as_ref(), &out];
    let message = failure(arguments.map(Path::as_os_str), 1);
    assert!(message.contains("no such folder"), "{message}");
    let entries = scratch.folder.path().read_dir().unwrap().count();
    assert_eq!(entries, 2, "something is left over");
}

#[test]
fn a_problem_beyond_the_device_is_an_error() {
    for sizes in
        ["--seq 60000", "--seq 400000000", "--seq 4000000000", "--seq 1 --seq-kv 600000000"]
    {
        failure(words(&format!("mask causal {sizes}")), 1);
    }
}

#[test]
fn a_reader_may_leave_early() {
    let mut child = program()
        .args(words("mask causal --seq 1500"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"[[  0.  -i");
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Where no driver is found, the message says what to do.
#[test]
#[cfg(target_os = "linux")]
fn no_adapter_at_all() {
    for arguments in ["devices", "mask causal --seq 3", "wgsl --shape 1,1,1,8,8,16"] {
        let output = program()
            .args(words(arguments))
            .envs([("WGPU_BACKEND", "vulkan"), ("VK_DRIVER_FILES", "/dev/null")])
            .env("VK_ICD_FILENAMES", "/dev/null")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("no GPU adapter was found: install"), "{stderr}");
    }
}
