//! Tensor files (safetensors): reading operands and what masks name, and writing results.
//!
//! | tensor | type | sizes |
//! |---|---|---|
//! | `q`, `k`, `v` | f32, f16 or bf16 | `[batch, heads, seq, dim]`, or `[batch, seq, heads, dim]` |
//! | `key_lengths`, `prefix_lengths` | i32 | `[batch]` |
//! | `key_padding` | u8 or bool | `[batch, seq_len_kv]`, not 0 where the key is kept |
//! | `token_ids` | i32 | `[batch, seq_len_kv]` |
//! | `document_ids`, or `document_ids_q` and `document_ids_kv` | i32 | `[batch, seq_len]` |
//! | `q_starts`, `kv_starts` | i32 | `[batch + 1]`: packed sequences (`cu_seqlens`), of tensors with a batch of 1 |
//! | `q_lengths` | i32 | `[batch]`: left-padded queries |
//! | `kv_lengths`, `kv_first` | i32 | `[batch]`: keys in a cache, and the padding before them |
//! | `block_tables` | i32 | `[batch, blocks_per_sequence]`: keys in blocks, `[blocks, heads, block_size, dim]`, with `kv_lengths` |
//! | `dense` | u8 or bool | broadcasts to `[batch, num_heads, seq_len_q, seq_len_kv]`; leading sizes may be missing |
//!
//! Where i32 is asked for, i64 is taken too as long as every element fits. Of the metadata, `pad_id` is the token id
//! that stands for padding, and `tokens` holds each sequence's tokens as JSON.

mod inputs;
mod operands;
mod sequences;
mod sizes;
mod writer;

use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::tensor::dtype::Dtype as Stored;
pub use operands::Operands;
pub use writer::TensorWriter;

/// The bytes before a safetensors header: its length.
const PREFIX: usize = 8;

/// A file of named tensors in memory, its header checked.
///
/// ```no_run
/// use wgpu_attention::{Layout, Mask, files::TensorFile};
/// let file = TensorFile::open("data/minilm-layer0.safetensors")?;
/// let operands = file.operands(Layout::Bhsd)?;
/// let mask = Mask::KeyLengths;
/// let data = file.mask_data(&mask, &operands.shape, None)?;
/// let problem = operands.problem(mask);
/// let attention = wgpu_attention::Session::open_blocking(&Default::default())?;
/// let output = attention.run_blocking(&problem, &operands.inputs(&data), &Default::default())?;
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TensorFile {
    path: String,
    header: Metadata,
    bytes: Vec<u8>,
    /// Where the tensors start.
    data: usize,
}

/// A tensor on the CPU, dense, its last dimension fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T> {
    /// The sizes.
    pub dims: Vec<usize>,
    /// The elements, as many as the product of the sizes.
    pub values: Vec<T>,
}

impl TensorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] where it can't be read or isn't a whole safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| file_error(path.display(), error))?;
        Self::from_bytes(path.display().to_string(), bytes)
    }

    /// Takes a file's contents; `name` stands for its path in errors.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't a whole safetensors file.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self> {
        let path = name.into();
        match parse_header(&bytes) {
            Ok((header, data)) => Ok(Self { path, header, bytes, data }),
            Err(message) => Err(Error::File { path, message }),
        }
    }

    /// The tensors' names, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    /// A tensor's sizes, where it is there.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// An entry of the metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Each sequence's tokens, where the metadata's `tokens` holds them: a JSON list of lists of strings.
    pub fn tokens(&self) -> Option<Vec<Vec<String>>> {
        serde_json::from_str(self.metadata("tokens")?).ok()
    }

    /// A tensor's type, where it is there and of floating point.
    pub fn dtype(&self, name: &str) -> Option<Stored> {
        match self.header.info(name)?.dtype {
            Dtype::F32 => Some(Stored::F32),
            Dtype::F16 => Some(Stored::F16),
            Dtype::BF16 => Some(Stored::Bf16),
            _ => None,
        }
    }

    /// A tensor of f32, or of f16 or bf16, every one of which f32 has.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't there, [`Error::Operand`] where it has another type.
    pub fn read_f32(&self, name: &str) -> Result<Tensor<f32>> {
        let (info, bytes) = self.tensor(name)?;
        match info.dtype {
            Dtype::F32 => Ok(tensor(info, elements_of(bytes, f32::from_le_bytes))),
            Dtype::F16 => {
                let half = |bytes| half::f16::from_le_bytes(bytes).to_f32();
                Ok(tensor(info, elements_of(bytes, half)))
            }
            Dtype::BF16 => {
                let half = |bytes| half::bf16::from_le_bytes(bytes).to_f32();
                Ok(tensor(info, elements_of(bytes, half)))
            }
            other => Err(wrong_type(name, "f32, f16 or bf16", other)),
        }
    }

    /// A tensor of i32, or of i64 whose elements all fit i32.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't there, [`Error::Operand`] where it has another type or an element doesn't fit.
    pub fn read_i32(&self, name: &str) -> Result<Tensor<i32>> {
        let (info, bytes) = self.tensor(name)?;
        let values = match info.dtype {
            Dtype::I32 => elements_of(bytes, i32::from_le_bytes),
            Dtype::I64 => elements_of(bytes, i64::from_le_bytes)
                .into_iter()
                .enumerate()
                .map(|(index, value)| {
                    i32::try_from(value).map_err(|_| {
                        Error::operand(format!("{name}[{index}]"), "a value within i32", value)
                    })
                })
                .collect::<Result<_>>()?,
            other => return Err(wrong_type(name, "i32", other)),
        };
        Ok(tensor(info, values))
    }

    /// A tensor of bool or u8, true where it isn't 0.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't there, [`Error::Operand`] where it has another type.
    pub fn read_bool(&self, name: &str) -> Result<Tensor<bool>> {
        let (info, bytes) = self.tensor(name)?;
        match info.dtype {
            Dtype::BOOL | Dtype::U8 => Ok(tensor(info, bytes.iter().map(|&b| b != 0).collect())),
            other => Err(wrong_type(name, "u8 or bool", other)),
        }
    }

    fn tensor(&self, name: &str) -> Result<(&TensorInfo, &[u8])> {
        let found = self.header.info(name).and_then(|info| {
            let (start, end) = info.data_offsets;
            Some((info, self.bytes.get(self.data..)?.get(start..end)?))
        });
        found.ok_or_else(|| {
            let names = match self.names() {
                names if names.is_empty() => "nothing".to_owned(),
                names => names.join(", "),
            };
            Error::File {
                path: self.path.clone(),
                message: format!("there is no tensor `{name}`; there is {names}"),
            }
        })
    }
}

/// The header, and where the tensors start. The crate's own reader tells less of what is wrong with a file.
fn parse_header(bytes: &[u8]) -> Result<(Metadata, usize), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(format!(
            "not a safetensors file: it has {} bytes, and the header's length alone takes {PREFIX}",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((header, data)) = header else {
        return Err(format!(
            "truncated, or not a safetensors file: its header takes {length} bytes, but {} follow",
            rest.len()
        ));
    };
    let header_end = PREFIX + header.len();
    let header: Metadata = serde_json::from_slice(header)
        .map_err(|error| format!("not a safetensors file: its header is invalid: {error}"))?;
    match header.data_len() {
        expected if expected == data.len() => Ok((header, header_end)),
        expected => Err(format!(
            "{}: its tensors take {expected} bytes, but {} follow the header",
            if data.len() < expected { "truncated" } else { "damaged" },
            data.len()
        )),
    }
}

fn elements_of<const N: usize, T>(bytes: &[u8], convert: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().copied().map(convert).collect()
}

fn tensor<T>(info: &TensorInfo, values: Vec<T>) -> Tensor<T> {
    Tensor { dims: info.shape.clone(), values }
}

fn file_error(path: impl ToString, error: impl ToString) -> Error {
    Error::File { path: path.to_string(), message: error.to_string() }
}

fn wrong_type(name: &str, expected: &str, found: Dtype) -> Error {
    Error::operand(name, format!("elements of {expected}"), found.to_string().to_lowercase())
}

#[cfg(test)]
mod tests;
