//! The command line, as scripts use it: what it prints and writes, and how it fails.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use wgpu_attention::files::{TensorFile, TensorWriter};
use wgpu_attention::{
    Dtype, Evaluator, Inputs, Layout, Mask, MaskData, OutputGradients, Problem, Profile, Score,
    Shape, reference,
};

const MINILM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/minilm-layer0.safetensors");

/// The program, through the one that starts programs where a driver needs it.
fn program() -> Command {
    let binary = env!("CARGO_BIN_EXE_wgpu-attention");
    let mut command = match std::env::var_os("WGPU_ATTENTION_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(binary);
            command
        }
        None => Command::new(binary),
    };
    // What a driver or a log filter has to say isn't the program's own.
    command.env_remove("RUST_LOG");
    command
}

fn call<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    program().args(arguments).output().unwrap()
}

/// What a call prints that succeeds.
fn stdout<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = call(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a call says that fails in the way of this exit code.
fn failure<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, code: i32) -> String {
    let output = call(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Arguments as they are written on a command line, without quoting.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A folder with a file in it.
struct Scratch {
    folder: TempDir,
    input: PathBuf,
}

impl Scratch {
    fn new(contents: &TensorWriter) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.safetensors");
        contents.save(&input).unwrap();
        Self { folder, input }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `run IN --out OUT` with these options.
    fn run_arguments(&self, options: &[&str]) -> Vec<String> {
        let mut arguments = vec!["run".to_owned(), self.input.display().to_string()];
        arguments.extend(["--out".to_owned(), self.path("out").display().to_string()]);
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments
    }

    fn run(&self, options: &[&str]) -> TensorFile {
        let line = stdout(self.run_arguments(options));
        assert!(line.contains("kernel `") && line.contains(" ms") && line.lines().count() == 1);
        TensorFile::open(self.path("out")).unwrap()
    }

    /// The message of a run that fails and writes nothing.
    fn refused(&self, options: &[&str]) -> String {
        let message = failure(self.run_arguments(options), 1);
        assert!(!self.path("out").exists());
        message
    }
}

/// Numbers between −2 and 2 that look random, the same every time.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

fn assert_near(name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(found) == expected;
        assert!(
            same || (f64::from(found) - expected).abs() <= 1e-5,
            "{name}[{index}]: {found} instead of {expected}"
        );
    }
}

/// A small problem with grouped heads, more keys than queries, and everything that masks can name.
const SHAPE: Shape = Shape::new(2, 4, 3, 6).kv_heads(2).seq_kv(5).dim_v(7);

const KEY_LENGTHS: [i32; 2] = [4, 0];
const PREFIX_LENGTHS: [i32; 2] = [1, 2];
const KEY_PADDING: [u8; 10] = [1, 1, 1, 0, 0, 0, 1, 0, 1, 1];
const TOKEN_IDS: [i32; 10] = [7, 8, 9, -1, -1, 5, 6, -1, 4, 4];
const DOCUMENTS_Q: [i32; 6] = [0, 0, 1, 3, 2, 2];
const DOCUMENTS_KV: [i32; 10] = [0, 0, 1, 1, 2, 2, 2, 3, 3, 0];
/// `[num_heads, 1, seq_len_kv]`
const DENSE: [bool; 20] = {
    let mut cells = [false; 20];
    let mut index = 0;
    while index < 20 {
        cells[index] = index % 3 != 0;
        index += 1;
    }
    cells
};

fn mask_data() -> MaskData {
    MaskData::new()
        .key_lengths(KEY_LENGTHS)
        .prefix_lengths(PREFIX_LENGTHS)
        .key_padding(KEY_PADDING.map(|keep| keep != 0))
        .token_ids(TOKEN_IDS, -1)
        .document_ids_q_kv(DOCUMENTS_Q, DOCUMENTS_KV)
        .dense([1, 4, 1, 5], DENSE)
}

fn dims([batch, heads, seq, dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhsd => [batch, heads, seq, dim],
        Layout::Bshd => [batch, seq, heads, dim],
    }
}

fn operands(layout: Layout) -> [([usize; 4], Vec<f32>); 3] {
    let Shape {
        batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v, ..
    } = SHAPE;
    let sizes = [
        [batch, num_heads, seq_len_q, head_dim],
        [batch, num_kv_heads, seq_len_kv, head_dim],
        [batch, num_kv_heads, seq_len_kv, head_dim_v],
    ];
    let mut seed = 0;
    sizes.map(|sizes| {
        seed += 1;
        (dims(sizes, layout), noise(sizes.iter().product(), seed))
    })
}

fn everything(layout: Layout) -> TensorWriter {
    let [q, k, v] = operands(layout);
    TensorWriter::new()
        .f32("q", &q.0, &q.1)
        .f32("k", &k.0, &k.1)
        .f32("v", &v.0, &v.1)
        .i32("key_lengths", &[2], &KEY_LENGTHS)
        .i32("prefix_lengths", &[2], &PREFIX_LENGTHS)
        .u8("key_padding", &[2, 5], &KEY_PADDING)
        .i32("token_ids", &[2, 5], &TOKEN_IDS)
        .i32("document_ids_q", &[2, 3], &DOCUMENTS_Q)
        .i32("document_ids_kv", &[2, 5], &DOCUMENTS_KV)
        .bool("dense", &[4, 1, 5], &DENSE)
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
fn a_mask_is_printed_in_three_formats() {
    let additive = "[[  0.  -inf  -inf]\n [  0.    0.  -inf]\n [  0.    0.    0.]]\n";
    assert_eq!(stdout(words("mask causal --seq 3")), additive);
    assert_eq!(stdout(words("mask causal --seq 3 --format additive")), additive);
    let keep = "[[1 0 0]\n [1 1 0]\n [1 1 1]]\n";
    assert_eq!(stdout(words("mask causal --seq 3 --format keep")), keep);
    let grid = "t=1:  .  X  X\nt=2:  .  .  X\nt=3:  .  .  .\n";
    assert_eq!(stdout(words("mask causal --seq 3 --format grid")), grid);
}

#[test]
fn a_mask_may_have_other_keys_than_queries() {
    let text = stdout(words("mask causal --seq 2 --seq-kv 4 --format grid"));
    assert_eq!(text, "t=1:  .  .  .  X\nt=2:  .  .  .  .\n");
    let text = stdout(words("mask causal(upper_left) --seq 2 --seq-kv 4 --format grid"));
    assert_eq!(text, "t=1:  .  X  X  X\nt=2:  .  .  X  X\n");
    let text = stdout(words("mask all --seq 10 --seq-kv 1 --format grid"));
    assert!(text.starts_with("t=1:   .\n") && text.ends_with("t=10:  .\n"), "{text}");
    assert_eq!(stdout(words("mask causal --seq 0")), "[]\n");
}

/// Every mask that reads data, plane by plane, against the evaluator.
#[test]
fn a_mask_reads_its_data() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let data = mask_data();
    for (text, batch, heads) in [
        ("key_lengths", 2, 1),
        ("prefix | causal", 2, 1),
        ("key_padding & !not_self", 2, 1),
        ("token_padding", 2, 1),
        ("documents", 2, 1),
        ("dense", 1, 4),
        ("dense & key_lengths", 2, 4),
    ] {
        let input = scratch.input.to_str().unwrap();
        let printed = stdout(
            ["mask", text, "--data", input, "--pad-id", "-1", "--format", "keep"]
                .into_iter()
                .chain(words("--seq 3 --seq-kv 5")),
        );
        let mask: Mask = text.parse().unwrap();
        let evaluator = Evaluator::new(&mask, &data, &SHAPE).unwrap();
        let mut expected: Vec<String> = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                let heading = match (batch, heads) {
                    (2, 4) => format!("batch {b}, head {h}:"),
                    (2, _) => format!("batch {b}:"),
                    _ => format!("head {h}:"),
                };
                let row = |q: usize| {
                    let cells: Vec<_> = (0..5)
                        .map(|kv| if evaluator.keep(b, h, q, kv) { "1" } else { "0" })
                        .collect();
                    cells.join(" ")
                };
                let rows: Vec<_> = (0..3).map(row).collect();
                expected.push(format!("{heading}\n[[{}]]\n", rows.join("]\n [")));
            }
        }
        assert_eq!(printed, expected.join("\n"), "{text}");
    }
}

#[test]
fn a_mask_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |name: &str| {
        let path = folder.path().join("made/on/the/way").join(name);
        let options = ["--data", MINILM, "--png", path.to_str().unwrap(), "--format", "keep"];
        stdout(words("mask token_padding --seq 27").into_iter().chain(options));
        std::fs::read(path).unwrap()
    };
    assert!(picture("mask.png").starts_with(b"\x89PNG"));
    let svg = String::from_utf8(picture("mask.svg")).unwrap();
    for text in ["token_padding", "query", "key", "batch 3", "loudly", "[PAD]"] {
        assert!(svg.contains(&format!(">{text}</text>")), "{text} isn't in the picture");
    }
}

#[test]
fn tiles_are_counted() {
    // A window of 32 over tiles of 16: on the diagonal, and up to two before it.
    let text = stdout(words("mask window(31,0) --seq 128 --tiles --block-q 16 --block-kv 16"));
    assert_eq!(
        text,
        "64 tiles of 16 queries x 16 keys\n   visited   partial      full     ideal   visited/ideal\n     \
         32.8%     21.9%     10.9%     32.8%           1.000\n"
    );
    // The kernel's own tiles; the one size that is given, with a row of tiles that is cut off.
    assert!(stdout(words("mask causal --seq 100 --tiles")).contains(" keys\n"));
    let text = stdout(words("mask all --seq 100 --tiles --block-q 7"));
    assert!(text.contains(" tiles of 7 queries x ") && text.contains("100.0%      0.0%    100.0%"));
    assert!(stdout(words("mask causal --seq 0 --tiles")).starts_with("0 tiles of"));
}

#[test]
fn tiles_are_counted_for_each_sequence() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let input = scratch.input.to_str().unwrap();
    let svg = scratch.path("tiles.svg");
    let options = ["--data", input, "--png", svg.to_str().unwrap()];
    let line = "mask key_lengths --seq 3 --seq-kv 5 --tiles --block-q 3 --block-kv 4";
    let text = stdout(words(line).into_iter().chain(options));
    let lines: Vec<_> = text.lines().map(|line| words(line).join(" ")).collect();
    assert_eq!(lines[0], "2 tiles of 3 queries x 4 keys");
    assert_eq!(lines[2], "batch 0 50.0% 0.0% 50.0% 50.0% 1.000");
    // A sequence of which nothing is real.
    assert_eq!(lines[3], "batch 1 0.0% 0.0% 0.0% 0.0% 1.000");
    let svg = std::fs::read_to_string(svg).unwrap();
    for text in ["tiles of 3 × 4", "partial", "full", "not visited"] {
        assert!(svg.contains(&format!(">{text}</text>")), "{text} isn't in the picture");
    }
}

#[test]
fn tiles_of_no_size_are_refused() {
    let message = failure(words("mask causal --seq 3 --tiles --block-q 0"), 1);
    assert!(message.contains("at least 1"), "{message}");
    failure(words("mask causal --seq 3 --block-q 2"), 2);
    failure(words("mask causal --seq 3 --tiles --format keep"), 2);
}

/// The real model's tensors give what was recorded.
#[test]
fn a_run_gives_what_a_real_model_gave() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let options = ["--mask", "key_lengths", "--outputs", "o,lse,weights"];
    stdout(["run", MINILM, "--out", out.to_str().unwrap()].into_iter().chain(options));

    let (recorded, written) = (TensorFile::open(MINILM).unwrap(), TensorFile::open(out).unwrap());
    assert_eq!(written.names(), ["lse", "o", "weights"]);
    let (expected, found) = (recorded.read_f32("o").unwrap(), written.read_f32("o").unwrap());
    assert_eq!(found.dims, expected.dims);
    let expected: Vec<f64> = expected.values.into_iter().map(f64::from).collect();
    assert_near("o", &found.values, &expected);

    let operands = recorded.operands(Layout::Bhsd).unwrap();
    let data = recorded.mask_data(&Mask::KeyLengths, &operands.shape, None).unwrap();
    let problem = operands.problem(Mask::KeyLengths);
    let reference = reference::attention(&problem, &operands.inputs(&data)).unwrap();
    let lse = written.read_f32("lse").unwrap();
    assert_eq!(lse.dims, [4, 12, 27]);
    assert_near("lse", &lse.values, &reference.lse);
    let weights = written.read_f32("weights").unwrap();
    assert_eq!(weights.dims, [4, 12, 27, 27]);
    assert_near("weights", &weights.values, &reference.weights);
}

#[test]
fn every_output_in_both_layouts_is_the_reference() {
    let text = "dense & (causal | prefix) & token_padding";
    let options = ["--mask", text, "--pad-id", "-1", "--scale", "-0.5"];
    let options = [&options[..], &words("--outputs o,lse,scores,masked_scores,weights,o")].concat();
    for (layout, name) in [(Layout::Bhsd, "bhsd"), (Layout::Bshd, "bshd")] {
        let scratch = Scratch::new(&everything(layout));
        let written = scratch.run(&[&options[..], &["--layout", name]].concat());

        let [q, k, v] = operands(layout);
        let inputs = Inputs { q: &q.1, k: &k.1, v: &v.1, mask: &mask_data() };
        let mask = text.parse().unwrap();
        let problem = Problem::new(SHAPE).layout(layout).mask(mask).with_scale(-0.5);
        let reference = reference::attention(&problem, &inputs).unwrap();
        assert_eq!(written.names(), ["lse", "masked_scores", "o", "scores", "weights"]);
        let check = |name: &str, sizes: &[usize], expected: &[f64]| {
            let found = written.read_f32(name).unwrap();
            assert_eq!(found.dims, sizes, "{name}");
            assert_near(name, &found.values, expected);
        };
        check("o", &dims([2, 4, 3, 7], layout), &reference.o);
        check("lse", &[2, 4, 3], &reference.lse);
        check("scores", &[2, 4, 3, 5], &reference.scores);
        check("masked_scores", &[2, 4, 3, 5], &reference.masked_scores);
        check("weights", &[2, 4, 3, 5], &reference.weights);
    }
}

/// Score modifiers apply where the file has their data, and every mask finds its own.
#[test]
fn score_modifiers_and_every_mask_read_their_data() {
    let [q, k, v] = operands(Layout::Bhsd);
    let bias = noise(4 * 3 * 5, 9);
    let (slopes, sinks) = ([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, -1.0, 0.5]);
    let blocks = ([0, 0, -1, 1, 1, -1], [0, 0, 1, 1, -1, 2, 1, 1, 0, -1]);
    let buckets: Vec<i32> = (0..20).map(|at| at * 7 % 3).collect();
    let columns: Vec<i32> = (0..10).flat_map(|at| [at % 3, 3]).collect();
    let parents = [-1, 0, 0, -1, -1, 1];
    let writer = everything(Layout::Bhsd)
        .f32("bias", &[4, 3, 5], &bias)
        .f32("alibi_slopes", &[4], &slopes)
        .f32("sinks", &[4], &sinks)
        .i32("block_ids_q", &[2, 3], &blocks.0)
        .i32("block_ids_kv", &[2, 5], &blocks.1)
        .i32("bucket_ids", &[2, 1, 2, 5], &buckets)
        .i32("column_ranges", &[2, 1, 5, 2], &columns)
        .i32("tree_parents", &[2, 3], &parents);
    let scratch = Scratch::new(&writer);
    let data = mask_data()
        .bias([1, 4, 3, 5], bias)
        .alibi_slopes(slopes)
        .sinks(sinks)
        .block_ids_q_kv(blocks.0, blocks.1)
        .bucket_ids([2, 1, 2, 5], buckets)
        .column_ranges([2, 1, 5, 2], columns)
        .tree_parents(parents);
    let score = Score { softcap: Some(2.0), bias: true, alibi: true, sinks: true };
    for text in
        ["tree", "per_head(buckets, column_ranges | block_bidirectional)", "chunk(2) | global(1)"]
    {
        let options = ["--mask", text, "--softcap", "2", "--outputs", "o,lse,weights"];
        let written = scratch.run(&options);
        let problem = Problem::new(SHAPE).mask(text.parse().unwrap()).score(score);
        let inputs = Inputs::new(&q.1, &k.1, &v.1).mask(&data);
        let reference = reference::attention(&problem, &inputs).unwrap();
        assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);
        assert_near("lse", &written.read_f32("lse").unwrap().values, &reference.lse);
        assert_near("weights", &written.read_f32("weights").unwrap().values, &reference.weights);
    }
}

#[test]
fn functions_of_the_users_own() {
    let scratch =
        Scratch::new(&everything(Layout::Bhsd).f32("slopes", &[4], &[0.1, 0.2, 0.3, 0.4]));
    let write = |name: &str, text: &str| {
        std::fs::write(scratch.path(name), text).unwrap();
        scratch.path(name).display().to_string()
    };
    let keep = write(
        "keep.wgsl",
        "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {\n\
         return i32(kv_idx) < key_lengths(b); }",
    );
    let score = write(
        "score.wgsl",
        "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {\n\
         return score - slopes(h) * abs(f32(q_idx) + 2.0 - f32(kv_idx)); }",
    );
    let options = ["--mask", "causal & wgsl", "--wgsl-mask", &keep, "--wgsl-score", &score];
    let written = scratch.run(&options);
    let [q, k, v] = operands(Layout::Bhsd);
    let data = mask_data().alibi_slopes([0.1, 0.2, 0.3, 0.4]);
    let problem = Problem::new(SHAPE)
        .mask("causal & key_lengths".parse().unwrap())
        .score(Score { alibi: true, ..Score::default() });
    let inputs = Inputs::new(&q.1, &k.1, &v.1).mask(&data);
    let reference = reference::attention(&problem, &inputs).unwrap();
    assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);

    let input = scratch.input.display().to_string();
    let drawn = stdout([
        "mask",
        "wgsl",
        "--seq",
        "5",
        "--wgsl-mask",
        &keep,
        "--data",
        &input,
        "--format",
        "grid",
    ]);
    assert!(drawn.contains("t=1:  .  .  .  .  X"), "{drawn}");

    std::fs::remove_file(scratch.path("out")).unwrap();
    let wrong = write("wrong.wgsl", "fn keep() -> bool {\n return nothing; }");
    let message = scratch.refused(&["--wgsl-mask", &wrong]);
    assert!(message.contains("nothing") && message.contains("wgsl:2"), "{message}");
    let message = scratch.refused(&["--mask", "wgsl"]);
    assert!(message.contains("`wgsl` needs a function's text"), "{message}");
}

#[test]
fn tensors_of_16_bits_go_in_and_out() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let [q, k, v] = operands(Layout::Bhsd).map(|(sizes, values)| {
            let rounded: Vec<f32> = values.into_iter().map(|x| dtype.round(x)).collect();
            (sizes, rounded)
        });
        let writer = TensorWriter::new()
            .floats("q", &q.0, &q.1, dtype)
            .floats("k", &k.0, &k.1, dtype)
            .f32("v", &v.0, &v.1);
        let written = Scratch::new(&writer).run(&["--mask", "causal", "--outputs", "o,lse"]);
        assert_eq!(written.dtype("o"), Some(dtype));
        assert_eq!(written.dtype("lse"), Some(Dtype::F32));
        let problem = Problem::new(SHAPE).mask(Mask::causal());
        let reference = reference::attention(&problem, &Inputs::new(&q.1, &k.1, &v.1)).unwrap();
        assert_near("lse", &written.read_f32("lse").unwrap().values, &reference.lse);
        for (found, expected) in written.read_f32("o").unwrap().values.iter().zip(&reference.o) {
            assert!((f64::from(*found) - expected).abs() < 0.01, "{found} instead of {expected}");
        }
    }
}

#[test]
fn a_run_gives_gradients() {
    let shape = Shape::new(1, 2, 5, 4).seq_kv(6);
    let numbers = |seed: usize, len: usize| -> Vec<f32> {
        (0..len).map(|at| ((at * 37 + seed * 11) % 29) as f32 / 10.0 - 1.4).collect()
    };
    let (q, k, v) = (numbers(1, 40), numbers(2, 48), numbers(3, 48));
    let (bias, sinks) = (numbers(4, 60), numbers(5, 2));
    let (dout, dlse) = (numbers(6, 40), numbers(7, 10));
    let contents = TensorWriter::new()
        .f32("q", &[1, 2, 5, 4], &q)
        .f32("k", &[1, 2, 6, 4], &k)
        .f32("v", &[1, 2, 6, 4], &v)
        .f32("bias", &[1, 2, 5, 6], &bias)
        .f32("sinks", &[2], &sinks)
        .f32("dlse", &[1, 2, 5], &dlse);
    let options = words("--mask causal --outputs o,dq,dk,dv,dbias,dsinks,dq");
    let message = Scratch::new(&contents).refused(&options);
    assert!(message.contains("dout"), "{message}");
    let scratch = Scratch::new(&contents.f32("dout", &[1, 2, 5, 4], &dout));
    let written = scratch.run(&options);

    let data = MaskData::new().bias([1, 2, 5, 6], bias).sinks(sinks);
    let problem = Problem::new(shape)
        .mask(Mask::causal())
        .score(Score { bias: true, sinks: true, ..Score::default() })
        .data_shape(data.shape());
    let inputs = Inputs::new(&q, &k, &v).mask(&data);
    let upstream = OutputGradients::new(&dout).dlse(&dlse);
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    for (name, truth, dims) in [
        ("dq", &truth.dq, vec![1, 2, 5, 4]),
        ("dk", &truth.dk, vec![1, 2, 6, 4]),
        ("dv", &truth.dv, vec![1, 2, 6, 4]),
        ("dbias", &truth.dbias, vec![1, 2, 5, 6]),
        ("dsinks", &truth.dsinks, vec![2]),
    ] {
        let tensor = written.read_f32(name).unwrap();
        assert_eq!(tensor.dims, dims, "{name}");
        for (x, y) in tensor.values.iter().zip(truth) {
            assert!((f64::from(*x) - y).abs() < 1e-5, "{name}: {x} instead of {y}");
        }
    }
    let plain = TensorWriter::new()
        .f32("q", &[1, 2, 5, 4], &q)
        .f32("k", &[1, 2, 6, 4], &k)
        .f32("v", &[1, 2, 6, 4], &v)
        .f32("dout", &[1, 2, 5, 3], &dout[..30]);
    let message = Scratch::new(&plain).refused(&words("--outputs dsinks"));
    assert!(message.contains("dsinks: the file has no sinks"), "{message}");
    let message = Scratch::new(&plain).refused(&words("--outputs dv"));
    assert!(message.contains("dout: expected [1, 2, 5, 4], found [1, 2, 5, 3]"), "{message}");
}

#[test]
fn a_run_needs_no_options() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    // Something old is replaced.
    std::fs::write(scratch.path("out"), "old").unwrap();
    let written = scratch.run(&[]);
    assert_eq!(written.names(), ["o"]);
    let [q, k, v] = operands(Layout::Bhsd);
    let inputs = Inputs { q: &q.1, k: &k.1, v: &v.1, mask: &MaskData::new() };
    let reference = reference::attention(&Problem::new(SHAPE), &inputs).unwrap();
    assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);

    let forced = scratch.run(&["--kernel", "tiled", "--device", "0"]);
    assert_near("o", &forced.read_f32("o").unwrap().values, &reference.o);
}

#[test]
fn empty_tensors_are_no_error() {
    for (batch, seq_len_q) in [(0, 3), (2, 0)] {
        let values = vec![1.0; batch * 2 * 3 * 4];
        let contents = TensorWriter::new()
            .f32("q", &[batch, 2, seq_len_q, 4], &values[..batch * 2 * seq_len_q * 4])
            .f32("k", &[batch, 2, 3, 4], &values)
            .f32("v", &[batch, 2, 3, 4], &values);
        let written = Scratch::new(&contents).run(&["--outputs", "o,lse,weights"]);
        assert_eq!(written.dims("o"), Some(&[batch, 2, seq_len_q, 4][..]));
        assert_eq!(written.dims("weights"), Some(&[batch, 2, seq_len_q, 3][..]));
    }
}

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

/// One JSON object per line.
fn records(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_benchmark_prints_a_record_per_problem_and_kernel() {
    let text = stdout(words(
        "bench --shape 2,4,2,70,133,8 --shape 2,4,4,5,3,8,12 --mask key_lengths&causal \
         --key-lengths 3,0 --dtype f32 --dtype f16 --kernel tiled --quick --json",
    ));
    let records = records(&text);
    assert_eq!(records.len(), 4, "{text}");
    for record in &records {
        let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key}: {record}"));
        assert_eq!(record["kernel"], "tiled");
        assert!(record["device"].is_string());
        assert!(0.0 < number("ms_min") && number("ms_min") <= number("ms_median"), "{record}");
        assert!(number("cpu_ms") >= 0.0 && number("share_of_peak") >= 0.0, "{record}");
        assert!(number("peak_gflops") > 0.0 && number("copy_gbytes_per_s") > 0.0, "{record}");

        let sizes: [usize; 7] = serde_json::from_value(record["shape"].clone()).unwrap();
        let [batch, heads, _, seq_q, seq_kv, dim, dim_v] = sizes;
        let shape = Shape::new(batch, heads, seq_q, dim).seq_kv(seq_kv).dim_v(dim_v);
        let mask: Mask = record["mask"].as_str().unwrap().parse().unwrap();
        let data = MaskData::new().key_lengths([3, 0]);
        let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
        let cells = (0..batch * heads * seq_q * seq_kv).filter(|cell| {
            let (row, kv_idx) = (cell / seq_kv, cell % seq_kv);
            let (plane, q_idx) = (row / seq_q, row % seq_q);
            evaluator.keep(plane / heads, plane % heads, q_idx, kv_idx)
        });
        let kept = cells.count() as f64;
        assert_eq!(number("kept_cells"), kept);
        let gflops = 2.0 * kept * (dim + dim_v) as f64 / number("ms_median") * 1e-6;
        assert!((number("gflops") - gflops).abs() <= 1e-2 * gflops, "{gflops}: {record}");
    }
    let dtypes: Vec<_> = records.iter().map(|record| record["dtype"].as_str().unwrap()).collect();
    assert_eq!(dtypes, ["f32", "f16"].repeat(2));
}

#[test]
fn a_benchmark_is_drawn_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let [plot, report] = ["plot.png", "report.jsonl"].map(|name| folder.path().join(name));
    let mut arguments = words("bench --shape 1,1,1,16,16,16 --kernel all --quick");
    let paths = [&plot, &report].map(|path| path.display().to_string());
    arguments.extend(["--plot", &paths[0], "--report", &paths[1]]);
    let text = stdout(arguments);
    assert!(text.contains("peaks:  ") && text.contains("1, 1/1, 16x16 D=16 all f32"), "{text}");
    assert!(std::fs::read(&plot).unwrap().starts_with(b"\x89PNG"));
    let records = records(&std::fs::read_to_string(&report).unwrap());
    assert_eq!(records[0]["report"], 1);
    assert!(records[0]["driver"].is_string() && records[0]["subgroup_sizes"].is_array());
    let kernels: Vec<_> = records[1..].iter().map(|record| record["kernel"].as_str()).collect();
    assert!(kernels.contains(&Some("tiled")), "{kernels:?}");
}

#[test]
fn a_profile_is_written_and_gone_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    let mut arguments = words("tune --shape 1,2,2,40,40,8 --mask causal --quick --out");
    let shown = path.display().to_string();
    arguments.push(&shown);
    let text = stdout(arguments);
    assert!(
        text.contains("as the profile measured") && text.ends_with(&format!("{shown}\n")),
        "{text}"
    );
    let profile: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let choice = &profile["choices"][0];
    let measured = choice["measured"].as_array().unwrap();
    assert!(measured.len() > 1 && measured[0] == choice["best"], "{profile}");
    Profile::load(&path).unwrap();
}

#[test]
fn a_benchmark_that_can_not_be_run_says_why() {
    let missing = failure(words("bench --shape 1,1,1,4,4,4 --mask documents"), 1);
    assert!(missing.contains("document_ids_q") && missing.contains("--data"), "{missing}");
    let heads = failure(words("bench --shape 1,3,2,4,4,4"), 1);
    assert!(heads.contains("num_heads: expected a multiple of num_kv_heads = 2, found 3"));
    let kernel = failure(words("bench --shape 1,1,1,4,4,4 --kernel fastest"), 1);
    assert!(kernel.contains("expected one of broadcast, tiled"), "{kernel}");
    failure(words("bench --shape 1,1,1"), 2);
    failure(words("bench --mask causal"), 2);
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
            good().f32("key_padding", &[2, 5], &ones(10)),
            "--mask key_padding",
            "key_padding: expected elements of u8 or bool, found f32",
        ),
        (good().bool("dense", &[3, 5], &[true; 15]), "--mask dense", ""),
        (
            good().bool("dense", &[2, 5], &[true; 10]),
            "--mask dense",
            "dense: expected sizes that broadcast to [2, 4, 3, 5], found [1, 1, 2, 5]",
        ),
        (good(), "--scale NaN", "scale: expected a finite number, found NaN"),
        (good(), "--kernel fast", "kernel: expected one of"),
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
    let message = failure(words("run nowhere.safetensors --out out"), 1);
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

/// Sequences that lie one behind the other: what each gives alone, and no row more.
#[test]
fn run_takes_packed_sequences() {
    let starts = [0, 2, 2, 5];
    let run = |rows: std::ops::Range<usize>, packed: bool| {
        let dims = [1, rows.len(), 2, 4];
        let part = |seed| noise(5 * 2 * 4, seed)[rows.start * 8..rows.end * 8].to_vec();
        let writer = TensorWriter::new().f32("q", &dims, &part(1)).f32("k", &dims, &part(2)).f32(
            "v",
            &dims,
            &part(3),
        );
        let writer = match packed {
            true => writer.i32("q_starts", &[4], &starts).i32("kv_starts", &[4], &starts),
            false => writer,
        };
        let options = ["--layout", "bshd", "--mask", "causal", "--outputs", "o,lse"];
        let file = Scratch::new(&writer).run(&options);
        (file.read_f32("o").unwrap(), file.read_f32("lse").unwrap())
    };
    let (o, lse) = run(0..5, true);
    assert_eq!((&o.dims[..], &lse.dims[..]), (&[1, 5, 2, 4][..], &[1, 2, 5][..]));
    for rows in [0..2, 2..5] {
        let (alone, lse_alone) = run(rows.clone(), false);
        assert_eq!(o.values[rows.start * 8..rows.end * 8], alone.values);
        for h in 0..2 {
            let own = &lse_alone.values[h * rows.len()..][..rows.len()];
            assert_eq!(&lse.values[h * 5 + rows.start..h * 5 + rows.end], own);
        }
    }
}
