//! What is kept between two starts of a program: compiled pipelines, and measurements.

use std::fs;
use std::path::{Path, PathBuf};

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{Kernels, Mask, Problem, RunOptions, Session, Shape};

use crate::fixture::{ATTENTION, Operands};

/// A folder of one test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("wgpu-attention-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with(options: KernelOptions) -> Session {
    Session::from_kernels(&Kernels::new(ATTENTION.device(), &options), ATTENTION.queue())
}

#[test]
fn pipelines_are_kept_unless_they_are_damaged() {
    let folder = Folder::new("pipelines");
    let options = || KernelOptions::default().cache_dir(folder.0.clone());
    let problem = Problem::new(Shape::new(1, 1, 9, 16)).mask(Mask::causal());
    let operands = Operands::random(&problem.shape().clone(), 3);
    // What the cache was found to be, and o.
    let run = || {
        let attention = with(options());
        let output = attention.run_blocking(&problem, &operands.inputs(), &RunOptions::default());
        (attention.kernels().cache_status(), output.unwrap().o)
    };
    let (words, o) = run();
    if !ATTENTION.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
        assert!(words.contains("without Features::PIPELINE_CACHE"), "{words}");
        return;
    }
    assert!(words.contains("there is none yet"), "{words}");
    let files: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let whole = fs::read(file).unwrap();
    let (words, again) = run();
    assert!(words.ends_with(&format!("bytes from {}", file.display())), "{words}");
    assert_eq!(again, o);

    let mut flipped = whole.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 0x40;
    let cut = whole[..whole.len() / 2].to_vec();
    for damaged in [flipped, cut, b"something else".to_vec(), Vec::new()] {
        fs::write(file, damaged).unwrap();
        let (words, again) = run();
        assert!(words.starts_with("started afresh"), "{words}");
        assert_eq!(again, o);
        // It is whole again.
        assert!(run().0.contains("bytes from"));
    }
}

#[test]
fn pipelines_that_can_not_be_kept_are_no_error() {
    let folder = Folder::new("in-the-way");
    fs::write(&folder.0, "a file where the folder should be").unwrap();
    let attention = with(KernelOptions::default().cache_dir(folder.0.clone()));
    let problem = Problem::new(Shape::new(1, 1, 9, 16)).mask(Mask::causal());
    let operands = Operands::random(&problem.shape().clone(), 3);
    attention.run_blocking(&problem, &operands.inputs(), &RunOptions::default()).unwrap();
    if ATTENTION.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
        let error = attention.kernels().save_cache().unwrap_err().to_string();
        assert!(error.contains(&folder.0.display().to_string()), "{error}");
    }
    fs::remove_file(&folder.0).unwrap();
}

#[cfg(feature = "measure")]
#[test]
fn every_variant_is_right_and_plans_go_by_the_fastest() {
    use wgpu_attention::AuxData;
    use wgpu_attention::kernel::Profile;
    use wgpu_attention::measure::{Effort, tune};

    let folder = Folder::new("profile");
    fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("profile.json");
    let problem = Problem::new(Shape::new(1, 2, 70, 32)).mask(Mask::causal());
    let mut told = Vec::new();
    let measured = [(problem.clone(), AuxData::new())];
    let profile =
        tune(&ATTENTION, &measured, Effort::QUICK, |_, what| told.push(what.to_owned())).unwrap();
    profile.save(&path).unwrap();
    assert_eq!(Profile::load(&path).unwrap(), profile);
    let text = fs::read_to_string(&path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    // One whose result differs isn't among them.
    let compiled = told.iter().filter(|what| what.starts_with("compiling")).count();
    let choice = &json["choices"][0];
    assert!(compiled > 1, "{told:?}");
    assert_eq!(choice["measured"].as_array().unwrap().len(), compiled, "{text}");

    let explain = |path: &Path| {
        let profile = Some(Profile::load(path).unwrap());
        with(KernelOptions::default().profile(profile))
            .kernels()
            .explain(&problem, &Default::default())
            .unwrap()
    };
    let words = explain(&path);
    let best = choice["best"]["kernel"].as_str().unwrap();
    assert!(words.starts_with(&format!("kernel `{best}`")), "{words}");
    assert!(words.contains("as the profile measured"), "{words}");

    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        explain(&path)
    };
    let foreign = changed(&|json| json["device"]["driver_info"] = "another".into());
    assert!(foreign.contains("of another device or driver; using the default table"), "{foreign}");
    let silent = changed(&|json| json["choices"][0]["head_dim"] = 64.into());
    assert!(silent.contains("nothing like it"), "{silent}");
    let gone = changed(&|json| json["choices"][0]["best"]["tiles"] = "1 x 1".into());
    assert!(gone.contains("with 1 x 1 is unavailable on this device"), "{gone}");
}
