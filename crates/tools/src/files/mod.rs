//! Tensor files (safetensors): reading operands and what masks name, and writing results.
//!
//! | tensor | type | sizes |
//! |---|---|---|
//! | `q`, `k`, `v` | floats | `[batch, heads, seq, dim]`, `[batch, seq, heads, dim]`, or `[batch, seq, heads * dim]` |
//! | `key_lengths`, `prefix_lengths` | integers | `[batch]` |
//! | `key_padding`, or `attention_mask` | flags | `[batch, seq_len_kv]`, not 0 where the key is kept |
//! | `token_ids` | integers | `[batch, seq_len_kv]` |
//! | `document_ids`, or `document_ids_q` and `document_ids_kv` | integers | `[batch, seq_len]` |
//! | `q_starts`, `kv_starts` | integers | `[batch + 1]`: packed sequences (`cu_seqlens`), of tensors with a batch of 1 |
//! | `q_lengths` | integers | `[batch]`: left-padded queries |
//! | `kv_lengths`, `kv_first` | integers | `[batch]`: keys in a cache, and the padding before them |
//! | `block_tables` | integers | `[batch, blocks_per_sequence]`: keys in blocks, `[blocks, heads, block_size, dim]`, with `kv_lengths` |
//! | `dense`, or `attn_mask`, or `attention_mask` of more dimensions | flags | broadcasts to `[batch, num_heads, seq_len_q, seq_len_kv]`, not 0 where the cell is kept |
//! | `bias` | floats | broadcasts likewise |
//! | `alibi_slopes` | floats | `[num_heads]` or `[batch, num_heads]` |
//! | `sinks` | floats | `[num_heads]` |
//! | `dropout_seed` | integers | `[2]`, the lower 32 bits first |
//!
//! Floats are f32, f16 or bf16. Integers are of any type whose values fit i32, or bool. Flags are bool, integers, or floats
//! that are all 0 or 1. What broadcasts may have 1 in place of any size, and fewer dimensions, of which the first are
//! missing. Of the metadata, `pad_id` is the token id that stands for padding, and `tokens` holds each sequence's tokens as
//! JSON.

mod inputs;
mod operands;
mod sequences;
mod sizes;
mod writer;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

pub use operands::Operands;
use wgpu_attention::Dtype as Stored;
use wgpu_attention::did_you_mean;
use wgpu_attention::{Error, Result};
pub use writer::TensorWriter;

/// The bytes before a safetensors header: its length.
const PREFIX: usize = 8;

/// A file of named tensors in memory, its header checked.
///
/// ```no_run
/// use wgpu_attention::{Layout, Mask};
/// use wgpu_attention_tools::files::TensorFile;
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
    /// Names that stand for others, and these.
    given_names: BTreeMap<String, String>,
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
            Ok((header, data)) => {
                Ok(Self { path, header, bytes, data, given_names: BTreeMap::new() })
            }
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
        self.info(name).map(|info| info.shape.as_slice())
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
        match self.info(name)?.dtype {
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

    /// A tensor of integers that all fit i32, or of bool.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't there, [`Error::Operand`] where it has another type or an element doesn't fit.
    pub fn read_i32(&self, name: &str) -> Result<Tensor<i32>> {
        self.read_integers(name, "i32")
    }

    /// A tensor of integers that all fit u32, or of bool.
    fn read_u32(&self, name: &str) -> Result<Tensor<u32>> {
        self.read_integers(name, "u32")
    }

    fn read_integers<T>(&self, name: &str, target: &str) -> Result<Tensor<T>>
    where
        T: TryFrom<i8> + TryFrom<u8> + TryFrom<i16> + TryFrom<u16> + TryFrom<i32> + TryFrom<u32>,
        T: TryFrom<i64> + TryFrom<u64>,
    {
        let (info, bytes) = self.tensor(name)?;
        let within = Within { name, target };
        let values = match info.dtype {
            Dtype::BOOL => within.all(bytes, |[byte]| u8::from(byte != 0)),
            Dtype::U8 => within.all(bytes, u8::from_le_bytes),
            Dtype::I8 => within.all(bytes, i8::from_le_bytes),
            Dtype::I16 => within.all(bytes, i16::from_le_bytes),
            Dtype::U16 => within.all(bytes, u16::from_le_bytes),
            Dtype::I32 => within.all(bytes, i32::from_le_bytes),
            Dtype::U32 => within.all(bytes, u32::from_le_bytes),
            Dtype::I64 => within.all(bytes, i64::from_le_bytes),
            Dtype::U64 => within.all(bytes, u64::from_le_bytes),
            other => return Err(wrong_type(name, "an integer type or bool", other)),
        };
        Ok(tensor(info, values?))
    }

    /// A tensor of flags: bool or integers, true where they aren't 0, or floats that are all 0 or 1.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't there, [`Error::Operand`] where it has another type or floats of other values. Floats
    /// that are all 0 are refused too: as flags they keep nothing, added to scores they keep everything.
    pub fn read_bool(&self, name: &str) -> Result<Tensor<bool>> {
        const EXPECTED: &str = "bool, an integer type, or floats of 0 and 1";
        let (info, bytes) = self.tensor(name)?;
        let size = match info.dtype {
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => 1,
            Dtype::I16 | Dtype::U16 => 2,
            Dtype::I32 | Dtype::U32 => 4,
            Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => {
                let values = self.read_f32(name)?.values;
                if let Some(other) = values.iter().find(|&&x| x != 0.0 && x != 1.0) {
                    let found = format!("{} with {other}", type_name(info.dtype));
                    return Err(Error::operand(name, format!("elements of {EXPECTED}"), found));
                }
                if !values.is_empty() && !values.contains(&1.0) {
                    let found = format!("{} of 0 alone", type_name(info.dtype));
                    return Err(Error::operand(name, format!("elements of {EXPECTED}"), found));
                }
                return Ok(tensor(info, values.iter().map(|&x| x != 0.0).collect()));
            }
            other => return Err(wrong_type(name, EXPECTED, other)),
        };
        let flags = bytes.chunks_exact(size).map(|element| element.iter().any(|&byte| byte != 0));
        Ok(tensor(info, flags.collect()))
    }

    /// The same file, in which `name` stands for the tensor that is stored as `stored`.
    ///
    /// ```
    /// use wgpu_attention_tools::files::{TensorFile, TensorWriter};
    /// let bytes = TensorWriter::new().i32("seq_lens", &[2], &[7, 4]).to_bytes()?;
    /// let file = TensorFile::from_bytes("memory", bytes)?.with_name("key_lengths", "seq_lens")?;
    /// assert_eq!(file.read_i32("key_lengths")?.values, [7, 4]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::File`] where there is no such tensor.
    pub fn with_name(mut self, name: impl Into<String>, stored: &str) -> Result<Self> {
        self.tensor(stored)?;
        self.given_names.insert(name.into(), stored.to_owned());
        Ok(self)
    }

    /// The name by which a tensor is stored.
    pub fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.given_names.get(name).map_or(name, String::as_str)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(self.stored_name(name))
    }

    fn tensor(&self, name: &str) -> Result<(&TensorInfo, &[u8])> {
        let found = self.info(name).and_then(|info| {
            let (start, end) = info.data_offsets;
            Some((info, self.bytes.get(self.data..)?.get(start..end)?))
        });
        found.ok_or_else(|| {
            let names = self.names();
            let meant = did_you_mean(name, names.iter().map(String::as_str));
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            Error::File {
                path: self.path.clone(),
                message: format!("there is no tensor `{name}`{meant}; there is {names}"),
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

/// Elements that have to fit another type of integers.
struct Within<'a> {
    /// The tensor's name.
    name: &'a str,
    /// The type's name.
    target: &'a str,
}

impl Within<'_> {
    fn all<const N: usize, S: Copy + Display, T: TryFrom<S>>(
        &self,
        bytes: &[u8],
        convert: fn([u8; N]) -> S,
    ) -> Result<Vec<T>> {
        let fit = |(index, value): (usize, S)| {
            let Self { name, target } = self;
            let refused = |_| {
                Error::operand(
                    format!("{name}[{index}]"),
                    format!("a value within {target}"),
                    value,
                )
            };
            T::try_from(value).map_err(refused)
        };
        elements_of(bytes, convert).into_iter().enumerate().map(fit).collect()
    }
}

fn wrong_type(name: &str, expected: &str, found: Dtype) -> Error {
    let found = match found {
        Dtype::F64 => "f64; store it as f32 (in NumPy, `.astype(\"float32\")`)".to_owned(),
        other => type_name(other),
    };
    Error::operand(name, format!("elements of {expected}"), found)
}

fn type_name(dtype: Dtype) -> String {
    dtype.to_string().to_lowercase()
}

#[cfg(test)]
mod tests;
