//! Runs every example as a user would and looks for what it has to show. Each checks its own claims and fails if one
//! doesn't hold, so what is left to see here is the exit code and that the key lines are printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use wgpu_attention::Mask;

/// Examples are built beside the command line's binary.
fn built_example(name: &str) -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_wgpu-attention")).parent().unwrap();
    let program = binaries.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} isn't built: run `cargo build --all-features --examples`, or all tests",
        program.display()
    );
    program
}

/// Where examples that write files may do so.
fn scratch_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A call of the program, through the runner that cargo was told to start programs with.
fn command(program: &Path) -> Command {
    match std::env::var_os("WGPU_ATTENTION_RUNNER").filter(|runner| !runner.is_empty()) {
        None => Command::new(program),
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
    }
}

/// Runs an example and looks for `expected` in what it prints.
#[track_caller]
fn check(name: &str, expected: &[&str]) {
    check_with(name, &[], expected);
}

/// The same with arguments.
#[track_caller]
fn check_with(name: &str, arguments: &[&str], expected: &[&str]) {
    let mut command = command(&built_example(name));
    let output = command.args(arguments).current_dir(scratch_folder(name)).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{printed}\n{errors}", output.status);
    for line in expected {
        assert!(printed.contains(line), "{name} doesn't print\n{line}\nbut\n{printed}\n{errors}");
    }
}

/// The page that is committed, docs/masks.md.
#[test]
fn every_leaf_is_in_the_gallery() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = std::fs::read_to_string(docs.join("masks.md")).unwrap();
    let leaves = Mask::leaves().map(|leaf| leaf.name().to_owned());
    for name in leaves.chain(["self_only_if_alone", "per_head", "wgsl"].map(str::to_owned)) {
        let found = [' ', '`', '('].iter().any(|end| page.contains(&format!("**`{name}{end}")));
        assert!(
            found,
            "docs/masks.md lacks {name}: run `cargo xtask gallery`, which draws its samples"
        );
    }
    for picture in page.split("<img src=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(docs.join(picture).is_file(), "docs/{picture} is missing");
    }
}

#[test]
fn gallery() {
    check("gallery", &["masks.md: "]);
    assert!(scratch_folder("gallery").join("docs/masks/longformer.png").is_file());
}

#[test]
fn causal_mask() {
    check(
        "causal_mask",
        &[
            "  love      0      0   -inf\n  you       0      0      0\n",
            "  t=2:  .  .  X   token 2 sees tokens 1 to 2\n",
            "  D      0      0      0      0   -inf\n",
            "  Token C: looks at [A, B, C, D, E]\n",
            "  Token C: looks at [A, B, C]\n",
        ],
    );
}

#[test]
fn padding_mask() {
    check(
        "padding_mask",
        &[
            "[1, 1, 1, 0, 0, 0]   Dogs bark loudly <PAD> <PAD> <PAD>\n",
            "[0, 0, 0, 1, 1, 1]   <PAD> <PAD> <PAD> Dogs bark loudly\n",
            "into padding goes 60% of its attention\n",
            "into padding goes 0% of its attention\n",
        ],
    );
}

#[test]
fn masked_softmax() {
    check(
        "masked_softmax",
        &[
            "  A  -0.85   -inf   -inf   -inf   -inf\n",
            "  A   1.00      0      0      0      0\n",
            "  A: share of the future                  90%             0%             0%\n",
        ],
    );
}

#[test]
fn causal_and_padding() {
    check(
        "causal_and_padding",
        &[
            "  [PAD]      1      1      0\n",
            "  [PAD]      0      0      0\n",
            "o = [0.0, 0.0, 0.0, 0.0], lse = -inf\n",
        ],
    );
}

#[test]
fn cross_attention() {
    check(
        "cross_attention",
        &[
            "the output is that of a clean batch, bit by bit",
            "Without the mask, 64 of 128 outputs are NaN.\n",
        ],
    );
}

#[test]
fn generate() {
    check(
        "generate",
        &[
            "96 tokens of 3 sequences, 4 layers\n",
            "each step against one pass over everything: logits differ by ",
            "made after the first step: 0 pipelines, 0 bind groups, 0 allocations of the driver in recording, \
             0 more alive at the end\n",
        ],
    );
}

#[test]
fn continuous_batching() {
    check(
        "continuous_batching",
        &[
            "20 requests in 6 places: 14 joined while others ran\n",
            "1542 tokens in 141 steps, 10.9 per step, ",
            "padded to the longest of each 6, there would be 2652 tokens\n",
            "at most 42 of 56 blocks of 16 in use",
            "each request against itself alone: outputs differ by ",
        ],
    );
}

#[test]
fn reformer() {
    check(
        "reformer",
        &[
            "q = k, `self_only_if_alone(causal)`:",
            "  the      1.00      0      0      0      0      0\n",
            "a token's attention to itself: 80% on average\n",
            "a token's attention to itself: 0% on average\n",
        ],
    );
}

#[test]
fn block_sparse() {
    let expected = ["what block 5 of 16 holds", "They pick the blocks [0, ", "% is on it."];
    check_with("block_sparse", &["--tokens", "1024", "--k", "4"], &expected);
}

#[test]
fn peeking() {
    check(
        "peeking",
        &[
            "  cats     -> <start> I love cats and dogs\n",
            "  cats     -> cats and dogs\n",
            "  dogs     6 keys, largest difference ",
        ],
    );
}

#[test]
fn encoder_decoder_layers() {
    check(
        "encoder_decoder_layers",
        &[
            "  source I        I love cats         <start> ich liebe\n",
            "  source <PAD>\n",
            "  target liebe                        liebe\n",
        ],
    );
}

#[test]
fn speculative_tree() {
    check(
        "speculative_tree",
        &[
            "drafts after 1000 tokens in the cache:\n  17 *\n",
            "mask `tree`",
            "12 drafts path by path: largest difference ",
            "4 tokens from one pass: ",
        ],
    );
}

#[test]
fn ring_attention() {
    check(
        "ring_attention",
        &["331 tokens on 2 devices, 169 kB sent: ", "331 tokens on 3 devices, 338 kB sent: "],
    );
}

#[test]
fn in_wgpu_app() {
    check("in_wgpu_app", &["the plan: kernel `", "frame 1: lengths [7, 33], largest error "]);
}

#[test]
fn minilm() {
    check(
        "minilm",
        &[
            "minilm-layer3: 4 sentences of [19, 6, 5, 27] tokens, padded to 27; 12 heads of 32\n",
            "  o, recorded  ",
            "  weights, reference in f64  ",
            "  dogs bark loudly.            6 + 21 x [PAD]      49.8 %         0 %\n",
            "20 pictures of the weights are in out",
        ],
    );
    for layer in [0, 3] {
        for picture in ["overview", "sentence2-with-mask", "sentence2-without-mask"] {
            let file = format!("out/minilm-layer{layer}-{picture}.png");
            let picture = std::fs::read(scratch_folder("minilm").join(&file)).expect(&file);
            assert!(picture.starts_with(b"\x89PNG"), "{file} isn't a picture");
        }
    }
}

#[test]
fn gradients_of_the_models_operations() {
    check_with(
        "train_gpt",
        &["--check-gradients"],
        &[
            "  linear  ",
            "  embed  ",
            "  norm  ",
            "  gelu  ",
            "  add  ",
            "  attention  ",
            "  cross_entropy  ",
        ],
    );
}

/// A few steps: the example fails if the loss doesn't fall.
#[test]
fn train_gpt() {
    check_with(
        "train_gpt",
        &["--steps", "10", "--sample", "4"],
        &["gpt: 820352 parameters, 10 steps of 4 pieces, seed 1: loss on unseen text 4.8"],
    );
    let model = std::fs::read(scratch_folder("train_gpt").join("out/train_gpt/gpt.safetensors"));
    assert!(model.unwrap().len() > 2 * 820_352, "16 bits for each parameter");
}

/// A few steps: not every number is right yet, but the causal mask's absence shows.
#[test]
fn translate() {
    check_with(
        "translate",
        &["--steps", "30", "--pairs", "64"],
        &[
            "64 numbers that training never saw, translated exactly:\n",
            "| no padding mask in the encoder | ",
            "| no padding mask in the cross-attention | ",
            "| trained without the decoder's causal mask | 0.0 % | 0.0 % | ",
        ],
    );
}
