//! Where things are written: looked at before anything is done.

use std::path::Path;

use wgpu_attention::Layout;

use crate::call::{failure, stdout, words};
use crate::scratch::{Scratch, everything};

/// No device is looked for where the place is wrong already.
const NO_DEVICE: [&str; 2] = ["--device", "nosuchdevice"];

#[test]
fn an_input_is_not_written_over() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let before = std::fs::read(&scratch.input).unwrap();
    let keep = scratch.path("keep.wgsl");
    std::fs::write(&keep, "fn keep() {}").unwrap();
    let folder = scratch.folder.path();
    let mut same = vec![scratch.input.clone(), folder.join(".").join("in.safetensors")];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&scratch.input, scratch.path("link")).unwrap();
        same.push(scratch.path("link"));
    }
    let run = |out: &Path, options: &[&str]| {
        let (input, out) = (scratch.input.display().to_string(), out.display().to_string());
        failure([&["run", &input, "--out", &out], &NO_DEVICE[..], options].concat(), 1)
    };
    for out in &same {
        let message = run(out, &[]);
        assert!(message.contains("this is the input") && message.contains("--out"), "{message}");
    }
    let message = run(&keep, &["--wgsl-mask", &keep.display().to_string()]);
    assert!(message.contains("this is the input"), "{message}");
    assert_eq!(std::fs::read(&scratch.input).unwrap(), before);
    assert_eq!(std::fs::read(&keep).unwrap(), b"fn keep() {}");

    let picture = scratch.path("mask.png");
    std::fs::rename(&scratch.input, &picture).unwrap();
    let shown = picture.display().to_string();
    let arguments = ["mask", "key_lengths", "--seq", "5", "--data", &shown, "--png", &shown];
    assert!(failure(arguments, 1).contains("this is the input"));
    let arguments =
        ["bench", "--shape", "1,1,1,4,4,4", "--quick", "--plot", &shown, "--report", &shown];
    assert!(failure(arguments, 1).contains("--plot names the same file"));
    assert_eq!(std::fs::read(&picture).unwrap(), before);
}

#[test]
fn places_are_looked_at_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let commands = |place: &str| {
        [
            format!("mask causal --seq 3 --png {place}"),
            format!("bench --shape 1,1,1,4,4,4 --quick --plot {place}"),
        ]
    };
    for (place, part) in [
        (path("x.jpg"), "expected a name that ends in .png or .svg"),
        (path("x"), "expected a name that ends in .png or .svg"),
        (path("new/x.png"), "there is no folder"),
        (path(".png"), "expected a name"),
    ] {
        for command in commands(&place) {
            let message = failure(words(&command).into_iter().chain(NO_DEVICE), 1);
            assert!(message.contains(part) && message.contains(&place), "{message}");
        }
    }
    for (command, part) in [
        (format!("tune --shape 1,1,1,4,4,4 --out {}", path("new/p.json")), "there is no folder"),
        (format!("tune --shape 1,1,1,4,4,4 --out {}", path("")), "this is a folder"),
        (
            format!("bench --shape 1,1,1,4,4,4 --report {}", path("new/r.jsonl")),
            "there is no folder",
        ),
        (format!("run nowhere --out {}", path("new/o")), "there is no folder"),
        #[cfg(target_os = "linux")]
        ("run nowhere --out /proc/o".to_owned(), "--out /proc/o can't be written"),
        #[cfg(target_os = "linux")]
        ("mask causal --seq 3 --png /proc/x.png".to_owned(), "--png /proc/x.png can't be written"),
    ] {
        let message = failure(words(&command).into_iter().chain(NO_DEVICE), 1);
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "something is left over");
}

#[test]
#[cfg(unix)]
fn what_is_no_file_can_be_written_to() {
    stdout(words("mask causal --seq 3 --quiet"));
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let input = scratch.input.display().to_string();
    let text = stdout(["run", &input, "--out", "/dev/null"]);
    assert!(text.starts_with("/dev/null: o [2, 4, 3, 7]\n"), "{text}");
}
