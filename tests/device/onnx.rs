//! ONNX's conformance cases of the operator `Attention`, and what the operator refuses.
//!
//! docs/onnx.md has the table of the cases; `WRITE_DOCS=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use wgpu_attention::onnx::{
    AttnMask, Operator, OperatorInputs, OperatorOutputs, QkMatmulOutput, Tensor, Wanted,
};

use crate::fixture::ATTENTION;

const CASES: usize = 93;
const CASES_MARK: &str = "<!-- cases -->";

/// A case as ONNX has it.
struct Case {
    name: String,
    opset: u64,
    rtol: f64,
    atol: f64,
    attributes: serde_json::Map<String, Value>,
    inputs: BTreeMap<String, Stored>,
    outputs: BTreeMap<String, Stored>,
}

/// A tensor in the file's dtype, and as what the operator's mapping takes.
struct Stored {
    dtype: Dtype,
    dims: Vec<usize>,
    floats: Vec<f32>,
    bools: Vec<bool>,
    ints: Vec<i64>,
}

impl Stored {
    fn new(file: &SafeTensors<'_>, name: &str) -> Self {
        let view = file.tensor(name).unwrap();
        let bytes = view.data();
        let mut stored = Self {
            dtype: view.dtype(),
            dims: view.shape().to_vec(),
            floats: Vec::new(),
            bools: Vec::new(),
            ints: Vec::new(),
        };
        match view.dtype() {
            Dtype::F32 => stored.floats = elements(bytes, f32::from_le_bytes),
            Dtype::F16 => stored.floats = elements(bytes, |x| f16::from_le_bytes(x).to_f32()),
            Dtype::BF16 => stored.floats = elements(bytes, |x| bf16::from_le_bytes(x).to_f32()),
            Dtype::BOOL => stored.bools = elements(bytes, |[byte]| byte != 0),
            Dtype::I64 => stored.ints = elements(bytes, i64::from_le_bytes),
            other => panic!("{name} is {other:?}"),
        }
        stored
    }

    fn tensor(&self) -> Tensor<'_> {
        Tensor { dims: &self.dims, values: &self.floats }
    }

    fn attn_mask(&self) -> AttnMask<'_> {
        match self.dtype {
            Dtype::BOOL => AttnMask::Bool(Tensor { dims: &self.dims, values: &self.bools }),
            _ => AttnMask::Float(self.tensor()),
        }
    }

    /// What was computed in f32, in this tensor's dtype.
    fn narrowed(&self, value: f32) -> f32 {
        match self.dtype {
            Dtype::F16 => f16::from_f32(value).to_f32(),
            Dtype::BF16 => bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

fn elements<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| convert(chunk.try_into().unwrap())).collect()
}

/// Every case of tests/data/onnx/attention.safetensors, which make.py beside it writes.
fn cases() -> Vec<Case> {
    let bytes = std::fs::read(root().join("tests/data/onnx/attention.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let list: Vec<Value> =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["cases"]).unwrap();
    let case = |entry: &Value| {
        let name = entry["name"].as_str().unwrap();
        let tensors = |key: &str, side: &str| {
            let names = entry[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            names
                .map(|own| (own.to_owned(), Stored::new(&file, &format!("{name}/{side}/{own}"))))
                .collect()
        };
        Case {
            name: name.to_owned(),
            opset: entry["opset"].as_u64().unwrap(),
            rtol: entry["rtol"].as_f64().unwrap(),
            atol: entry["atol"].as_f64().unwrap(),
            attributes: entry["attributes"].as_object().unwrap().clone(),
            inputs: tensors("inputs", "in"),
            outputs: tensors("outputs", "out"),
        }
    };
    list.iter().map(case).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Case {
    fn int(&self, attribute: &str) -> Option<i64> {
        self.attributes.get(attribute).map(|value| value.as_i64().unwrap())
    }

    fn float(&self, attribute: &str) -> Option<f32> {
        self.attributes.get(attribute).map(|value| value.as_f64().unwrap() as f32)
    }

    /// A window, which ONNX writes as −1 where it is unbounded.
    fn window(&self, attribute: &str) -> Option<u32> {
        self.int(attribute).and_then(|size| (size != -1).then(|| size.try_into().unwrap()))
    }

    fn operator(&self) -> Operator {
        let known = [
            "is_causal",
            "scale",
            "softcap",
            "q_num_heads",
            "kv_num_heads",
            "left_window_size",
            "right_window_size",
            "softmax_precision",
            "qk_matmul_output_mode",
        ];
        for attribute in self.attributes.keys() {
            assert!(known.contains(&attribute.as_str()), "{}: {attribute}", self.name);
        }
        let heads = |attribute| self.int(attribute).map(|heads| heads.try_into().unwrap());
        Operator::default()
            .is_causal(self.int("is_causal") == Some(1))
            .scale(self.float("scale"))
            .softcap(self.float("softcap").unwrap_or_default())
            .q_num_heads(heads("q_num_heads"))
            .kv_num_heads(heads("kv_num_heads"))
            .left_window_size(self.window("left_window_size"))
            .right_window_size(self.window("right_window_size"))
            .softmax_precision(self.int("softmax_precision"))
            .qk_matmul_output_mode(
                QkMatmulOutput::try_from(self.int("qk_matmul_output_mode").unwrap_or_default())
                    .unwrap(),
            )
    }

    fn operator_inputs(&self) -> OperatorInputs<'_> {
        let known = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"];
        for input in self.inputs.keys() {
            assert!(known.contains(&input.as_str()), "{}: {input}", self.name);
        }
        let tensor = |name: &str| self.inputs.get(name).map(Stored::tensor);
        let [q, k, v] = ["Q", "K", "V"].map(|name| tensor(name).unwrap());
        let mut inputs = OperatorInputs::new(q, k, v)
            .attn_mask(self.inputs.get("attn_mask").map(Stored::attn_mask))
            .past(tensor("past_key").map(|key| [key, tensor("past_value").unwrap()]));
        inputs.nonpad_kv_seqlen = self.inputs.get("nonpad_kv_seqlen").map(|given| &given.ints[..]);
        inputs
    }

    /// Computes the case and compares every output that it has.
    fn run(&self) -> Result<(), String> {
        let wanted = Wanted::default()
            .present(self.outputs.contains_key("present_key"))
            .qk_matmul_output(self.outputs.contains_key("qk_matmul_output"));
        let found = self
            .operator()
            .run_blocking(&ATTENTION, &self.operator_inputs(), wanted)
            .map_err(|error| error.to_string())?;
        self.outputs.iter().try_for_each(|(name, expected)| self.compare(name, expected, &found))
    }

    /// As ONNX's runner compares, at its tolerance: 2 steps of bf16 where that is more than the case's own.
    fn compare(
        &self,
        name: &str,
        expected: &Stored,
        found: &OperatorOutputs,
    ) -> Result<(), String> {
        let found = match name {
            "Y" => Some(&found.y),
            "present_key" => found.present.as_ref().map(|present| &present[0]),
            "present_value" => found.present.as_ref().map(|present| &present[1]),
            "qk_matmul_output" => found.qk_matmul_output.as_ref(),
            _ => None,
        }
        .ok_or_else(|| format!("no {name}"))?;
        if (&found.dims, found.values.len()) != (&expected.dims, expected.floats.len()) {
            return Err(format!("{name} is {:?} instead of {:?}", found.dims, expected.dims));
        }
        let rtol = match expected.dtype {
            Dtype::BF16 => self.rtol.max(2f64.powi(-6)),
            _ => self.rtol,
        };
        for (at, (&found, &truth)) in found.values.iter().zip(&expected.floats).enumerate() {
            let narrowed = expected.narrowed(found);
            let error = (f64::from(narrowed) - f64::from(truth)).abs();
            let same = narrowed == truth || (narrowed.is_nan() && truth.is_nan());
            // An infinity is no tolerance for another number.
            let close = truth.is_finite() && error <= self.atol + rtol * f64::from(truth).abs();
            if !same && !close {
                return Err(format!("{name}[{at}] is {narrowed} instead of {truth}"));
            }
        }
        Ok(())
    }

    /// What the case is about, from its attributes and inputs.
    fn exercises(&self) -> String {
        let mut words = vec![format!("{}-D", self.inputs["Q"].dims.len())];
        let operator = self.operator();
        let call = operator.lower(&self.operator_inputs()).unwrap();
        let shape = call.problem.shape();
        match self.inputs["Q"].dtype {
            Dtype::F16 => words.push("f16".into()),
            Dtype::BF16 => words.push("bf16".into()),
            _ => {}
        }
        if shape.num_heads != shape.num_kv_heads {
            words.push(format!("GQA {}:{}", shape.num_heads, shape.num_kv_heads));
        }
        if shape.head_dim != shape.head_dim_v {
            words.push(format!("head sizes {} and {}", shape.head_dim, shape.head_dim_v));
        }
        words.extend(self.attributes.iter().filter_map(|(name, value)| match name.as_str() {
            "q_num_heads" | "kv_num_heads" => None,
            "is_causal" => Some("causal".to_owned()),
            "scale" | "softcap" => Some(format!("{name} {value}")),
            "left_window_size" => Some(format!("left window {value}")),
            "right_window_size" => Some(format!("right window {value}")),
            _ => Some(format!("`{name}` {value}")),
        }));
        if let Some(mask) = self.inputs.get("attn_mask") {
            words.push(mask_words(mask, shape.seq_len_kv));
        }
        if self.inputs.contains_key("past_key") {
            words.push("past and present".into());
        }
        if self.inputs.contains_key("nonpad_kv_seqlen") {
            words.push("`nonpad_kv_seqlen`".into());
        }
        if self.outputs.contains_key("qk_matmul_output") {
            words.push("`qk_matmul_output`".into());
        }
        words.join(", ")
    }
}

fn mask_words(mask: &Stored, keys: usize) -> String {
    let kind = if mask.dtype == Dtype::BOOL { "bool" } else { "float" };
    let none = if mask.floats.contains(&f32::NEG_INFINITY) { " with −∞" } else { "" };
    let short = if mask.dims.last().is_some_and(|&last| last < keys) { ", short" } else { "" };
    format!("{kind} mask {:?}{none}{short}", mask.dims)
}

#[test]
fn every_case_of_onnx() {
    let cases = cases();
    assert_eq!(cases.len(), CASES);
    let failures: Vec<String> = (cases.iter())
        .filter_map(|case| case.run().err().map(|error| format!("{}: {error}", case.name)))
        .collect();
    let passed = cases.len() - failures.len();
    println!("{passed} of {CASES} cases passed");
    assert!(failures.is_empty(), "{passed} of {CASES} passed; failed:\n{}", failures.join("\n"));
}

/// The table's rows say `passed` because [`every_case_of_onnx`] allows nothing else.
#[test]
fn the_table_in_the_docs_is_true() {
    let mut table = format!(
        "\n{CASES} of {CASES} pass.\n\n| case | opset | what it exercises | mask as lowered | result |\n\
         |---|---|---|---|---|\n"
    );
    for case in cases() {
        let mask = case.operator().lower(&case.operator_inputs()).unwrap().mask;
        // A mask's text has no `|` here, which would end the cell.
        writeln!(
            table,
            "| {} | {} | {} | `{mask}` | passed |",
            case.name.trim_start_matches("test_attention_"),
            case.opset,
            case.exercises(),
        )
        .unwrap();
    }
    let path = root().join("docs/onnx.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (text, _) = page.split_once(CASES_MARK).expect("the page has a mark");
    let expected = format!("{text}{CASES_MARK}\n{table}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        write(&path, &expected);
    } else {
        assert!(page == expected, "docs/onnx.md isn't what the cases say: run with WRITE_DOCS=1");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A call's error.
fn refused(operator: Operator, inputs: &OperatorInputs<'_>) -> String {
    operator.lower(inputs).unwrap_err().to_string()
}

#[test]
fn bad_calls() {
    let values = [0.5; 64];
    let tensor = |dims| Tensor { dims, values: &values };
    let (four, three) = (tensor(&[1, 2, 4, 8]), tensor(&[1, 4, 16]));
    let good = OperatorInputs::new(four, four, four);
    let plain = Operator::default();
    let mask =
        |dims, count| good.attn_mask(AttnMask::Float(Tensor { dims, values: &values[..count] }));
    for (operator, inputs, expected) in [
        (plain, OperatorInputs::new(three, three, three), "q_num_heads: expected a divisor"),
        (
            plain.q_num_heads(3).kv_num_heads(2),
            OperatorInputs::new(three, three, three),
            "q_num_heads: expected a divisor",
        ),
        (
            plain.q_num_heads(0).kv_num_heads(2),
            OperatorInputs::new(three, three, three),
            "q_num_heads: expected a divisor",
        ),
        (plain.q_num_heads(4), good, "q_num_heads: expected 2, found 4"),
        (plain, OperatorInputs::new(four, tensor(&[1, 2, 8, 4]), four), "K's head_size"),
        (plain, OperatorInputs::new(four, four, tensor(&[1, 4, 2, 8])), "V's heads"),
        (plain, OperatorInputs::new(four, tensor(&[64]), four), "K: expected 3 or 4 dimensions"),
        (plain, OperatorInputs::new(tensor(&[1, 2, 4, 7]), four, four), "Q: expected 56 elements"),
        (plain, mask(&[], 1), "attn_mask: expected sizes that broadcast"),
        (plain, mask(&[3, 4], 12), "attn_mask: expected sizes that broadcast"),
        (plain, mask(&[4, 5], 20), "attn_mask: expected sizes that broadcast"),
        (plain, mask(&[1, 1, 1, 1, 4], 4), "attn_mask: expected sizes that broadcast"),
        (plain, mask(&[4, 4], 15), "attn_mask: expected 16 elements"),
        (plain, good.nonpad_kv_seqlen(&[1, 2]), "nonpad_kv_seqlen: expected 1 elements"),
        (
            plain,
            good.nonpad_kv_seqlen(&[5]),
            "nonpad_kv_seqlen[0]: expected 0 to kv_sequence_length = 4, found 5",
        ),
        (plain, good.nonpad_kv_seqlen(&[-1]), "nonpad_kv_seqlen[0]: expected 0"),
        (
            plain,
            good.nonpad_kv_seqlen(&[1]).past([four, four]),
            "nonpad_kv_seqlen: expected no past_key",
        ),
        (
            plain,
            good.past([four, tensor(&[1, 4, 2, 8])]),
            "past_value: expected [1, 2, past_sequence_length, 8]",
        ),
        (plain.softmax_precision(7), good, "softmax_precision"),
    ] {
        let error = refused(operator, &inputs);
        assert!(error.starts_with(expected), "{error} instead of {expected}");
    }
    let error = QkMatmulOutput::try_from(4).unwrap_err().to_string();
    assert!(error.starts_with("qk_matmul_output_mode: expected 0 to 3"), "{error}");
    let nan = plain.softcap(f32::NAN);
    let error = nan.run_blocking(&ATTENTION, &good, Wanted::default()).unwrap_err().to_string();
    assert!(error.starts_with("softcap: expected a finite number"), "{error}");
}

#[test]
fn a_masked_score_of_infinity_does_no_harm() {
    // q . k overflows at the key that the float mask masks: −∞ + ∞ is none of the row's business.
    let (q, k, v) = ([1e20; 1], [1e20, 1e-20, 2e-20], [7.0, 1.0, 1.0]);
    let dims: &[usize] = &[1, 1, 1, 1];
    let keys: &[usize] = &[1, 1, 3, 1];
    let inputs = OperatorInputs::new(
        Tensor { dims, values: &q },
        Tensor { dims: keys, values: &k },
        Tensor { dims: keys, values: &v },
    )
    .attn_mask(AttnMask::Float(Tensor { dims: &[3], values: &[f32::NEG_INFINITY, 0.0, 0.0] }));
    let operator = Operator::default().qk_matmul_output_mode(QkMatmulOutput::Softmax);
    let wanted = Wanted::default().present(true).qk_matmul_output(true);
    let found = operator.run_blocking(&ATTENTION, &inputs, wanted).unwrap();
    assert!((found.y.values[0] - 1.0).abs() < 1e-6, "{:?}", found.y);
    let weights = found.qk_matmul_output.unwrap().values;
    assert_eq!(weights[0], 0.0);
    let [key, value] = found.present.unwrap();
    assert_eq!((&key.values[..], &value.values[..]), (&k[..], &v[..]));
}
