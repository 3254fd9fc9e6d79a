//! `mask`: printed, drawn, with its tiles.

use wgpu_attention::mask::Evaluator;
use wgpu_attention::{Layout, Mask};

use crate::call::{MINILM, failure, records, stdout, words};
use crate::scratch::{SHAPE, Scratch, everything, mask_data};

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

#[test]
fn a_mask_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |name: &str| {
        let path = folder.path().join(name);
        let options = ["--data", MINILM, "--png", path.to_str().unwrap(), "--format", "keep"];
        stdout(words("mask token_padding --seq 27").into_iter().chain(options));
        std::fs::read(path).unwrap()
    };
    assert!(picture("mask.PNG").starts_with(b"\x89PNG"));
    let svg = String::from_utf8(picture("mask.svg")).unwrap();
    for text in ["token_padding", "query", "key", "batch 3", "loudly", "[PAD]"] {
        assert!(svg.contains(&format!(">{text}</text>")), "{text} isn't in the picture");
    }
}

/// The pictures of src/mask/compositions.rs, by their names.
#[test]
fn compositions_have_names() {
    let grid = |text: &str| {
        let drawn = stdout(["mask", text, "--seq", "6", "--format", "grid"]);
        drawn.lines().map(|line| words(line)[1..].concat()).collect::<Vec<_>>()
    };
    assert_eq!(
        grid("longformer(1, 1)"),
        ["......", "...XXX", "....XX", ".X...X", ".XX...", ".XXX.."]
    );
    let window = [".XXXXX", "..XXXX", "...XXX", "X...XX", "XX...X", "XXX..."];
    for text in ["sliding_window(3)", "gemma2(0, 3)", "gemma3(layer=4, window=3)"] {
        assert_eq!(grid(text), window, "{text}");
    }
    assert_eq!(
        grid("streaming_llm(2, 2) & !not_self | streaming_llm(window=2, sinks=2)"),
        [".XXXXX", "..XXXX", "...XXX", "....XX", "..X..X", "..XX.."]
    );
    assert_eq!(grid("llama4(3, 3)"), grid("causal"));
    let missing = failure(words("mask prefix_lm --seq 3"), 1);
    assert!(missing.contains("prefix_lengths is required by the mask"), "{missing}");
}

#[test]
fn heads_are_given_or_found() {
    let text = "per_head(causal, window(0,0))";
    let heads = |options: &str| {
        let options = format!("--seq 2 --json {options}");
        let records = records(&stdout(["mask", text].into_iter().chain(words(&options))));
        records.iter().map(|record| record["keep"].to_string()).collect::<Vec<_>>()
    };
    let (causal, own) = ("[[1,0],[1,1]]", "[[1,0],[0,1]]");
    assert_eq!(heads(""), [causal, own]);
    assert_eq!(heads("--heads 4"), [causal, causal, own, own]);
    let message = failure(["mask", text, "--seq", "2", "--heads", "3"], 1);
    assert!(message.contains("per_head: expected a number of masks that divides num_heads = 3"));
}

#[test]
fn a_mask_is_an_object_per_plane() {
    let record = records(&stdout(words("mask causal --seq 2 --seq-kv 3 --json")));
    let whole = serde_json::json!({ "batch": null, "head": null, "keep": [[1, 1, 0], [1, 1, 1]] });
    assert_eq!(record, [whole]);
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let line =
        format!("mask key_lengths --seq 3 --seq-kv 5 --json --data {}", scratch.input.display());
    let planes = records(&stdout(words(&line)));
    assert_eq!(planes[0]["batch"], 0);
    assert_eq!(planes[0]["keep"][2], serde_json::json!([1, 1, 1, 1, 0]));
    assert_eq!(planes[1]["keep"], serde_json::json!([0; 3].map(|_| [0; 5])));
    let line = "mask window(31,0) --seq 128 --tiles --block-q 16 --block-kv 16 --json";
    let tiles = serde_json::json!({
        "batch": null, "head": null, "block_q": 16, "block_kv": 16,
        "tiles": 64, "partial": 14, "full": 7, "ideal": 21,
    });
    assert_eq!(records(&stdout(words(line))), [tiles]);
    // A picture alone.
    let picture = scratch.path("mask.svg");
    let line = format!("mask causal --seq 3 --quiet --png {}", picture.display());
    assert_eq!(stdout(words(&line)), "");
    assert!(picture.exists());
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
    assert!(message.contains("blocks of 1 to"), "{message}");
    failure(words("mask causal --seq 3 --block-q 2"), 2);
    failure(words("mask causal --seq 3 --tiles --format keep"), 2);
}
