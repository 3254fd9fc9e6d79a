//! Files of tensors, and what is in them that nothing reads.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{Error, Mask, did_you_mean};
use wgpu_attention_tools::files::TensorFile;

/// Names that stand for others.
#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    /// Read TENSOR instead of the tensor NAME, as in bias=attn_mask or key_lengths=seq_lens. Can be repeated.
    #[arg(long = "tensor", value_name = "NAME=TENSOR", value_parser = parse_name)]
    tensors: Vec<(String, String)>,
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, tensor)) if !name.is_empty() && !tensor.is_empty() => {
            Ok((name.to_owned(), tensor.to_owned()))
        }
        _ => Err("expected NAME=TENSOR, such as bias=attn_mask".to_owned()),
    }
}

impl Names {
    /// A file in which they stand for its tensors.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<TensorFile> {
        let mut file = TensorFile::open(path)?;
        for (name, tensor) in &self.tensors {
            file = file.with_name(name, tensor)?;
        }
        Ok(file)
    }

    /// The same where there may be no file.
    pub(crate) fn open_some(&self, path: Option<&Path>) -> anyhow::Result<Option<TensorFile>> {
        match (path, self.tensors.first()) {
            (Some(path), _) => self.open(path).map(Some),
            (None, None) => Ok(None),
            (None, Some((name, tensor))) => {
                bail!("--tensor {name}={tensor}: there is no file; give it with --data")
            }
        }
    }
}

/// What is read beside q, k, v and what masks read.
const OTHERS: [&str; 15] = [
    "q",
    "k",
    "v",
    "dout",
    "dlse",
    "bias",
    "alibi_slopes",
    "sinks",
    "dropout_seed",
    "q_starts",
    "kv_starts",
    "q_lengths",
    "kv_lengths",
    "kv_first",
    "block_tables",
];

/// Other programs' names of tensors, the names here, and the mask that reads them, if it's a mask.
const FOREIGN: [(&str, &str, &str); 14] = [
    ("query", "q", ""),
    ("key", "k", ""),
    ("value", "v", ""),
    ("cu_seqlens_q", "q_starts", ""),
    ("cu_seqlens_k", "kv_starts", ""),
    ("cache_seqlens", "kv_lengths", ""),
    ("block_table", "block_tables", ""),
    ("attn_bias", "bias", ""),
    ("position_bias", "bias", ""),
    ("s_aux", "sinks", ""),
    ("seq_lens", "key_lengths", "key_lengths"),
    ("lengths", "key_lengths", "key_lengths"),
    ("input_ids", "token_ids", "token_padding"),
    ("grad_output", "dout", ""),
];

/// What is written: a file that has it was written by a run.
const RESULTS: [&str; 11] = [
    "o",
    "lse",
    "scores",
    "masked_scores",
    "weights",
    "dq",
    "dk",
    "dv",
    "dbias",
    "dsinks",
    "dalibi_slopes",
];

/// What reads the file's tensors.
pub(crate) struct Readers<'a> {
    /// What the problem reads, by the names in the file.
    pub(crate) sources: Vec<String>,
    /// The user-defined functions.
    pub(crate) functions: &'a [&'a WgslFunction],
    /// Whether gradients are asked for.
    pub(crate) gradients: bool,
}

/// A line for each tensor that nothing reads but something could, and one for all the others.
pub(crate) fn unused(file: &TensorFile, readers: &Readers<'_>) -> Vec<String> {
    let functions = readers.functions.iter().flat_map(|function| function.names());
    let operands = if readers.gradients { &OTHERS[..5] } else { &OTHERS[..3] };
    let used: BTreeSet<String> = (readers.sources.iter().cloned())
        .chain(functions.map(|name| file.stored_name(&name).to_owned()))
        .chain(operands.iter().map(|name| file.stored_name(name).to_owned()))
        .chain(RESULTS.map(str::to_owned))
        .collect();
    let (mut lines, mut others) = (Vec::new(), Vec::new());
    for name in file.names().into_iter().filter(|name| !used.contains(name)) {
        match advice(file, &name) {
            Some(advice) => lines.push(format!("`{name}` is not used: {advice}")),
            None => others.push(format!("`{name}`")),
        }
    }
    if !others.is_empty() {
        lines.push(format!("not used: {}", others.join(", ")));
    }
    lines
}

/// The leaf that reads a tensor, as it is written.
fn reader(file: &TensorFile, name: &str) -> Option<String> {
    // Leaves with data of their own read names with a number.
    let (base, number) = match name.rsplit_once('_') {
        Some((base, number)) if number.parse::<u32>().is_ok_and(|number| number > 1) => {
            (base, Some(number))
        }
        _ => (name, None),
    };
    let flat = file.dims(name).is_some_and(|dims| dims.len() <= 2);
    let leaf = Mask::leaves().find(|leaf| {
        let is_its = leaf.tensor_names().iter().any(|tensor| tensor == base);
        is_its && (base != "attention_mask" || flat == (leaf.name() == "key_padding"))
    })?;
    Some(match number {
        Some(number) => format!("'{}(data={number})'", leaf.name()),
        None => leaf.name().to_owned(),
    })
}

/// What would read a tensor.
fn advice(file: &TensorFile, name: &str) -> Option<String> {
    if let Some(mask) = reader(file, name) {
        return Some(match mask == "dense" && is_added(file, name) {
            true => added(name),
            false => format!("--mask {mask} would read it"),
        });
    }
    match name {
        "dout" | "dlse" => return Some("--outputs dq,dk,dv would read it".to_owned()),
        "kv_first" => return Some("it is read beside kv_lengths".to_owned()),
        "key_padding_mask" => {
            return Some(
                "where nn.MultiheadAttention's is True the key is masked, while --mask key_padding keeps the keys whose \
                 key_padding isn't 0; store its opposite by that name"
                    .to_owned(),
            );
        }
        _ => {}
    }
    if let Some((_, own, mask)) = FOREIGN.iter().find(|(foreign, ..)| *foreign == name) {
        let mask = if mask.is_empty() { String::new() } else { format!(" --mask {mask}") };
        return Some(format!("--tensor {own}={name}{mask} would read it as `{own}`"));
    }
    let leaves: Vec<String> = Mask::leaves().flat_map(|leaf| leaf.tensor_names()).collect();
    let known = leaves.iter().map(String::as_str).chain(OTHERS);
    let meant = did_you_mean(name, known);
    (!meant.is_empty()).then(|| format!("nothing reads this name{meant}"))
}

/// Whether a tensor holds floats that aren't flags.
fn is_added(file: &TensorFile, name: &str) -> bool {
    file.dtype(name).is_some() && file.read_bool(name).is_err()
}

fn added(name: &str) -> String {
    format!(
        "its floats aren't flags but what is added to the scores; --tensor bias={name} adds them"
    )
}

/// An error about a file's tensors, with what to do about it where that is an option.
pub(crate) fn explained(file: &TensorFile, error: Error) -> anyhow::Error {
    let advice = match &error {
        Error::Operand { operand, .. }
            if reader(file, operand).is_some_and(|leaf| leaf == "dense")
                && is_added(file, operand) =>
        {
            Some(added(file.stored_name(operand)))
        }
        Error::Operand { operand, expected, .. }
            if expected.starts_with("4 dimensions")
                && file.dims(operand).is_some_and(|dims| dims.len() == 3) =>
        {
            Some("for [batch, seq, heads * dim] give --heads N".to_owned())
        }
        Error::File { .. } if file.dims("q").is_none() && file.dims("query").is_some() => {
            Some("--tensor q=query --tensor k=key --tensor v=value would read those".to_owned())
        }
        _ => None,
    };
    match advice {
        Some(advice) => anyhow::anyhow!("{error}; {advice}"),
        None => error.into(),
    }
}
