//! What PyTorch gives on the CPU, recorded by tests/data/pytorch/make.py: every row of docs/pytorch.md.
//!
//! The files hold what PyTorch computes in f32 and in f64. The latter is the truth, the former the naive computation that
//! tolerances are measured in, so that a kernel may err twice as far as PyTorch itself does.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use wgpu_attention::auxiliary::AuxElement;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{AuxData, Inputs, Mask, Problem, RunOptions, ScoreModifiers, Shape, Upstream};

use crate::fixture::ATTENTION;
use crate::tolerance::{assert_close, assert_gradient_close};

/// A recorded call and what says the same here.
struct Case {
    name: &'static str,
    mask: &'static str,
    score: ScoreModifiers,
    scale: Option<f32>,
}

const PLAIN: ScoreModifiers = ScoreModifiers::new();
const BIAS: ScoreModifiers = PLAIN.bias(true);

const fn case(name: &'static str, mask: &'static str) -> Case {
    Case { name, mask, score: PLAIN, scale: None }
}

const fn scored(name: &'static str, mask: &'static str, score: ScoreModifiers) -> Case {
    Case { name, mask, score, scale: None }
}

const fn scaled(name: &'static str, mask: &'static str, scale: f32) -> Case {
    Case { name, mask, score: PLAIN, scale: Some(scale) }
}

const CASES: &[Case] = &[
    case("sdpa_full", "all"),
    case("sdpa_is_causal", "causal"),
    case("sdpa_is_causal_more_keys", "causal(upper_left)"),
    case("sdpa_causal_lower_right", "causal"),
    scaled("sdpa_scale", "all", 0.25),
    case("sdpa_enable_gqa", "causal"),
    case("sdpa_bool_mask", "dense"),
    case("sdpa_key_padding", "key_padding"),
    scored("sdpa_float_mask", "all", BIAS),
    case("flex_causal", "causal"),
    case("flex_sliding_window", "window(5,0)"),
    case("flex_prefix_lm", "prefix | causal"),
    case("flex_documents", "documents & causal"),
    case("flex_padding", "key_lengths"),
    case("flex_longformer", "dilated(3,2) | global(2)"),
    case("flex_per_head", "per_head(causal, window(3,3))"),
    case("flex_table", "dense"),
    scaled("flex_gqa", "causal", 0.5),
    scored("flex_alibi", "causal", PLAIN.alibi(true)),
    scored("flex_softcap", "causal", PLAIN.softcap(3.0)),
    scored("flex_bias", "all", BIAS),
    scored("flex_softcap_bias", "causal", BIAS.softcap(3.0)),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch")
}

/// A recorded call.
struct Recorded(Vec<u8>);

impl Recorded {
    fn open(name: &str) -> Self {
        Self(std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        words(&tensor).map(f32::from_bits).collect()
    }

    /// As recorded: in f32, and in f64 as a sum of two f32.
    fn result(&self, name: &str) -> (Vec<f32>, Vec<f64>) {
        let (high, low) = (self.f32(&format!("{name}_high")), self.f32(&format!("{name}_low")));
        let sum = |(high, low): (&f32, &f32)| f64::from(*high) + f64::from(*low);
        (self.f32(name), high.iter().zip(&low).map(sum).collect())
    }

    fn shape(&self) -> Shape {
        let tensors = self.tensors();
        let dims = |name| <[usize; 4]>::try_from(tensors.tensor(name).unwrap().shape()).unwrap();
        let ([batch, heads, rows, head_dim], [_, kv_heads, keys, _]) = (dims("q"), dims("k"));
        let head_dim_v = dims("v")[3];
        Shape::new(batch, heads, rows, head_dim)
            .num_kv_heads(kv_heads)
            .seq_len_kv(keys)
            .head_dim_v(head_dim_v)
    }

    /// All that the problem reads, by its own word on it.
    fn aux_data(&self, problem: &Problem) -> AuxData {
        let tensors = self.tensors();
        problem.aux_specs().iter().fold(AuxData::new(), |data, spec| {
            let name = spec.names().find(|name| self.has(name)).unwrap();
            let tensor = tensors.tensor(&name).unwrap();
            let flags = || tensor.data().iter().map(|&byte| byte != 0);
            let input = spec.tensor();
            let data = match spec.element() {
                AuxElement::I32 => data.ints(input, words(&tensor).map(u32::cast_signed)),
                AuxElement::F32 => data.floats(input, words(&tensor).map(f32::from_bits)),
                AuxElement::Flag => data.ints(input, flags().map(i32::from)),
                AuxElement::Bit => data.bits(input, flags()),
                other => panic!("{name}: {other:?}"),
            };
            if !spec.is_open() {
                return data;
            }
            let missing = spec.dims().len() - tensor.shape().len();
            data.sized(input, [&vec![1; missing], tensor.shape()].concat())
        })
    }
}

/// The elements of a tensor of 32-bit words.
fn words(tensor: &TensorView<'_>) -> impl Iterator<Item = u32> {
    tensor.data().as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes))
}

fn check(case: &Case) {
    let file = Recorded::open(case.name);
    let mask: Mask = case.mask.parse().unwrap();
    let problem = Problem::new(file.shape()).mask(mask).score(case.score);
    let problem = match case.scale {
        Some(scale) => problem.scale(scale),
        None => problem,
    };
    let data = file.aux_data(&problem);
    let problem = problem.aux_shape(data.shape());
    let (q, k, v) = (file.f32("q"), file.f32("k"), file.f32("v"));
    let inputs = Inputs::new(&q, &k, &v).aux(&data);
    // The best kernel alone: that they agree among themselves is tested elsewhere.
    let outputs = RunOptions::default().lse(true);
    let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
    compare(case, &file, "o", &output.o);
    if file.has("dout") {
        check_gradients(case, &file, &problem, &inputs);
    }
    if file.has("lse") {
        compare(case, &file, "lse", &output.lse);
    }
}

/// What autograd makes of dout, where it was recorded.
fn check_gradients(case: &Case, file: &Recorded, problem: &Problem, inputs: &Inputs<'_>) {
    let dout = file.f32("dout");
    let upstream = Upstream::new(&dout);
    let options = BackwardOptions::default();
    let found = ATTENTION.gradients_blocking(problem, inputs, &upstream, &options).unwrap();
    for (gradient, found) in
        [("dq", &found.dq), ("dk", &found.dk), ("dv", &found.dv), ("dbias", &found.dbias)]
    {
        assert_eq!(file.has(gradient), !found.is_empty(), "{gradient}");
        if !found.is_empty() {
            let (naive, truth) = file.result(gradient);
            assert_gradient_close(&format!("{gradient} of {}", case.name), found, &naive, &truth);
        }
    }
}

fn compare(case: &Case, file: &Recorded, name: &str, found: &[f32]) {
    let (naive, truth) = file.result(name);
    assert_close(&format!("{name} of {}", case.name), found, &naive, &truth);
}

#[test]
fn pytorch_agrees() {
    CASES.iter().for_each(check);
}

/// What PyTorch takes as a Python function, in WGSL: the page's last section.
#[test]
fn functions_of_ones_own_agree() {
    let keep = WgslFunction::new(
        "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return q_idx >= kv_idx; }",
    );
    let score_mod = WgslFunction::new(
        "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
             return score + (f32(kv_idx) - f32(q_idx)) * alibi_slopes(h);
         }",
    );
    for (name, scored) in [("flex_causal", false), ("flex_alibi", true)] {
        let file = Recorded::open(name);
        let mut problem = Problem::new(file.shape()).mask(Mask::Wgsl(keep.clone().unwrap()));
        let mut data = AuxData::new();
        if scored {
            let slopes = file.f32("alibi_slopes");
            let function = score_mod.clone().unwrap();
            let function = function.buffer("alibi_slopes", WgslBuffer::F32, slopes.len()).unwrap();
            data = data.custom_f32("alibi_slopes", slopes);
            problem = problem.score_mod(function);
        }
        let (q, k, v) = (file.f32("q"), file.f32("k"), file.f32("v"));
        let inputs = Inputs::new(&q, &k, &v).aux(&data);
        let outputs = RunOptions::default().lse(true);
        let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
        compare(&case(name, "wgsl"), &file, "o", &output.o);
        compare(&case(name, "wgsl"), &file, "lse", &output.lse);
    }
}

#[test]
fn every_recorded_call_is_checked_and_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pytorch.md");
    let page = std::fs::read_to_string(page).unwrap();
    for case in CASES {
        let row = page.lines().find(|line| line.contains(&format!("`{}`", case.name)));
        let row = row.unwrap_or_else(|| panic!("docs/pytorch.md lacks {}", case.name));
        // A table's cell can't hold a bar.
        let mask = case.mask.replace('|', "\\|");
        assert!(row.contains(&format!("`{mask}`")), "{row}");
    }
    let mut files: Vec<String> = (std::fs::read_dir(folder()).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".safetensors").map(str::to_owned))
        .collect();
    let mut names: Vec<_> = CASES.iter().map(|case| case.name.to_owned()).collect();
    files.sort();
    names.sort();
    assert_eq!(files, names);
}
