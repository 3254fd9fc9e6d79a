//! `--sanitize`: what is wrong in a user-defined function is told by its own lines.

use wgpu_attention::Layout;
use wgpu_attention_tools::files::TensorWriter;

use crate::call::{call, failure, words};
use crate::scratch::{Scratch, plain};

const KEEP: &str = "// Keys of the same sign.
fn sign_of(at: u32) -> f32 {
    return key_signs(at + 1u);
}
fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let width = kv_idx / q_idx;
    return sign_of(q_idx) * sign_of(kv_idx) > 0.0 && width < 9u;
}
";

#[test]
fn faults_of_a_mask_have_its_lines_and_arguments() {
    let signs = TensorWriter::new().f32("key_signs", &[12], &[1.0; 12]);
    let scratch = Scratch::new(&signs);
    let keep = scratch.path("keep.wgsl");
    std::fs::write(&keep, KEEP).unwrap();
    let shown = keep.display().to_string();
    let arguments = |options: &str| {
        let files =
            ["mask", "wgsl", "--wgsl-mask", &shown, "--data", scratch.input.to_str().unwrap()];
        files.into_iter().chain(options.split(' ')).map(str::to_owned).collect::<Vec<_>>()
    };
    let message = failure(arguments("--seq 12 --sanitize"), 1);
    assert!(message.starts_with("error: --sanitize: 2 faults were found\n"), "{message}");
    for expected in [
        format!(
            "\n{shown}:6: integer division without a result: 0 by 0 in u32\n  let width = kv_idx / q_idx;\n"
        ),
        "\n  in keep(b: 0, h: 0, q_idx: 0, kv_idx: 0)\n  by invocation 0 (subgroup 0, lane 0)"
            .to_owned(),
        format!(
            "\n{shown}:3: index 12 is beyond the end of key_signs, whose last element is read instead\n"
        ),
        "\n  in sign_of(at: 11)\n  in keep(b: 0, h: 0, q_idx: 11, kv_idx: ".to_owned(),
    ] {
        assert!(message.contains(&expected), "no `{expected}` in {message}");
    }
    // The same function, put right.
    let right = KEEP.replace("at + 1u", "at").replace("/ q_idx", "/ (q_idx + 1u)");
    std::fs::write(&keep, right).unwrap();
    let output = call(arguments("--seq 12 --format keep --sanitize=8"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("--sanitize: nothing was found"), "{stderr}");
    assert!(
        output.stdout.starts_with(b"[[1 1 1 "),
        "{:?}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn faults_of_scores_keep_the_output_from_being_written() {
    let scratch = Scratch::new(&plain(Layout::Bhsd));
    let score = scratch.path("score.wgsl");
    let text = |shift: &str| {
        format!(
            "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{\n    return score * f32(1u << ({shift}));\n}}"
        )
    };
    std::fs::write(&score, text("kv_idx * 9u")).unwrap();
    let options = ["--wgsl-score", score.to_str().unwrap(), "--sanitize"];
    let message = scratch.refused(&options);
    let expected = format!("{}:2: shift too far: by 36 of a value of 32 bits\n", score.display());
    assert!(message.contains(&expected), "{message}");
    std::fs::write(&score, text("kv_idx")).unwrap();
    scratch.run(&options);
}

#[test]
fn large_problems_are_refused_by_their_sizes() {
    let message = failure(words("mask causal --seq 4000 --sanitize"), 1);
    assert!(message.contains("16000000 cells") && message.contains("smaller --seq"), "{message}");
    let shape = [1, 1, 2000, 64];
    let operand = vec![0.0; 2000 * 64];
    let writer = ["q", "k", "v"]
        .into_iter()
        .fold(TensorWriter::new(), |writer, name| writer.f32(name, &shape, &operand));
    let message = Scratch::new(&writer).refused(&["--sanitize"]);
    assert!(
        message.contains("512000000 multiply-adds") && message.contains("fewer heads"),
        "{message}"
    );
}
