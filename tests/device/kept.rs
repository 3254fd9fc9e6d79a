//! What is kept between two starts of a program: compiled pipelines, and measurements.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{Kernels, Mask, Problem, RunOptions, Session, Shape, reference};

use crate::fixture::{ATTENTION, Operands};
use crate::tolerance::{assert_close, naive};

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

#[cfg(feature = "profiles")]
#[test]
fn every_candidate_is_right_and_plans_go_by_the_fastest() {
    use wgpu_attention::AttentionPlan;
    use wgpu_attention::kernel::Profile;

    let folder = Folder::new("profile");
    fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("profile.json");
    let problem = Problem::new(Shape::new(1, 2, 70, 32)).mask(Mask::causal());
    let operands = Operands::random(problem.shape(), 5);
    let uploaded = ATTENTION.upload(&problem, &operands.inputs()).unwrap();
    let plans: Vec<_> = AttentionPlan::candidates(ATTENTION.kernels(), &problem)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(plans.len() > 1);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &Mask::causal(), &operands.inputs());
    for plan in &plans {
        let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &uploaded.buffers()).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let o: Vec<f32> = ATTENTION.read_o_blocking(&uploaded).unwrap();
        let what = format!("{}, {}", plan.kernel(), plan.tiles());
        assert_close(&what, &o, &naive.o, &truth.o);
    }
    // As if the last one had been the fastest.
    let times = (plans.iter().zip(1u64..)).map(|(plan, at)| (plan, Duration::from_secs(100 - at)));
    let profile = Profile::new(ATTENTION.device()).measured(&problem, times);
    profile.save(&path).unwrap();
    assert_eq!(Profile::load(&path).unwrap(), profile);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let choice = &json["choices"][0];
    assert_eq!(choice["measured"].as_array().unwrap().len(), plans.len());
    let last = plans.last().unwrap();
    assert_eq!(choice["best"]["tiles"], last.tiles());

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
