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

mod sequences;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};

use crate::custom::{Custom, CustomType};
use crate::dtype::{Dtype as Stored, Dtypes};
use crate::error::{Error, Result};
use crate::mask::{Mask, MaskData, MaskInput};
use crate::problem::{Inputs, Problem};
use crate::shape::{Layout, Shape};
use sequences::Batch;

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
/// let attention = wgpu_attention::Attention::open_blocking(&Default::default())?;
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

/// q, k and v of one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Operands {
    /// The sizes, whatever the layout.
    pub shape: Shape,
    /// How q, k and v lie.
    pub layout: Layout,
    /// `[batch, num_heads, seq_len_q, head_dim]` in the layout's order
    pub q: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]` in the layout's order
    pub k: Vec<f32>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]` in the layout's order
    pub v: Vec<f32>,
    /// The types that they had, and the bias if there is one; o has q's.
    pub dtypes: Dtypes,
}

impl Operands {
    /// Attention over these tensors, stored on the device in the types that they had.
    pub fn problem(&self, mask: Mask) -> Problem {
        Problem::new(self.shape).layout(self.layout).mask(mask).dtypes(self.dtypes)
    }

    /// The tensors as a call takes them.
    pub fn inputs<'a>(&'a self, mask: &'a MaskData) -> Inputs<'a> {
        Inputs { q: &self.q, k: &self.k, v: &self.v, mask }
    }

    /// The sizes of o as it lies in memory: `[batch, num_heads, seq_len_q, head_dim_v]` in the layout's order.
    pub fn o_dims(&self) -> [usize; 4] {
        reorder(self.shape.o_dims(), self.layout)
    }

    /// The sizes of lse: `[batch, num_heads, seq_len_q]`, or `[1, num_heads, total]` where queries are packed.
    pub const fn lse_dims(&self) -> [usize; 3] {
        let [batch, rows] = self.shape.q_rows();
        [batch, self.shape.num_heads, rows]
    }
}

/// From `[batch, heads, seq, dim]` to the layout's order, and back.
const fn reorder([batch, heads, seq, dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhsd => [batch, heads, seq, dim],
        Layout::Bshd => [batch, seq, heads, dim],
    }
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

    /// q, k and v.
    ///
    /// # Errors
    /// [`Error::File`] where one isn't there; [`Error::Operand`] where one has another type, other than 4
    /// dimensions, or sizes that don't go with the others', and where the sizes make no problem ([`Shape::validate`]).
    pub fn operands(&self, layout: Layout) -> Result<Operands> {
        let [q, k, v] = ["q", "k", "v"].map(|name| self.read_f32(name));
        let (q, k, v) = (q?, k?, v?);
        let [q_batch, num_heads, q_rows, head_dim] = sizes("q", &q.dims, layout)?;
        let [k_batch, num_kv_heads, k_rows, k_dim] = sizes("k", &k.dims, layout)?;
        let Batch { batch, seq_len_q, seq_len_kv, sequences } =
            self.batch([q_batch, q_rows], [k_batch, k_rows])?;
        let batch_fits = k_batch == q_batch || !sequences.are_uniform();
        if k_dim != head_dim || !batch_fits {
            return Err(Error::operand(
                "k",
                named_sizes(
                    [Ok(q_batch), Err("num_kv_heads"), Err("seq_len_kv"), Ok(head_dim)],
                    layout,
                ) + &format!(", as q is {:?}", q.dims),
                format!("{:?}", k.dims),
            ));
        }
        let [v_batch, v_heads, v_seq, head_dim_v] = sizes("v", &v.dims, layout)?;
        if [v_batch, v_heads, v_seq] != [k_batch, num_kv_heads, k_rows] {
            return Err(Error::operand(
                "v",
                named_sizes([Ok(k_batch), Ok(num_kv_heads), Ok(k_rows), Err("head_dim_v")], layout)
                    + &format!(", as k is {:?}", k.dims),
                format!("{:?}", v.dims),
            ));
        }
        let shape = Shape::new(batch, num_heads, seq_len_q, head_dim)
            .seq_kv(seq_len_kv)
            .kv_heads(num_kv_heads)
            .dim_v(head_dim_v)
            .sequences(sequences);
        shape.validate()?;
        let [q_type, k_type, v_type, bias_type] =
            ["q", "k", "v", "bias"].map(|name| self.dtype(name).unwrap_or_default());
        let dtypes = Dtypes { q: q_type, k: k_type, v: v_type, o: q_type, bias: bias_type };
        Ok(Operands { shape, layout, q: q.values, k: k.values, v: v.values, dtypes })
    }

    /// What `mask` names. For `token_padding`, `pad_id` goes before the metadata's.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor isn't there; [`Error::Operand`] where it has another type or sizes that don't
    /// go with `shape`, and where no pad id is known. Lengths beyond `seq_len_kv` are refused by the call that uses
    /// the data.
    pub fn mask_data(&self, mask: &Mask, shape: &Shape, pad_id: Option<i32>) -> Result<MaskData> {
        self.input_data(&mask.inputs(), shape, pad_id)
    }

    /// As [`TensorFile::mask_data`], for all that a problem with score modifiers reads: [`Problem::inputs`].
    ///
    /// # Errors
    /// As [`TensorFile::mask_data`].
    pub fn input_data(
        &self,
        inputs: &[MaskInput],
        shape: &Shape,
        pad_id: Option<i32>,
    ) -> Result<MaskData> {
        let per_head = [("num_heads", shape.num_heads)];
        let per_sequence = [("batch", shape.batch)];
        // Sizes of a tensor without elements may be anything.
        let starts = [("batch + 1", shape.batch.saturating_add(1))];
        let per_query = [("batch", shape.batch), ("seq_len_q", shape.seq_len_q)];
        let per_key = [("batch", shape.batch), ("seq_len_kv", shape.seq_len_kv)];
        let ints = |input: MaskInput, sizes: &[(&str, usize)]| {
            let name = self.source(input);
            let tensor = self.read_i32(name)?;
            check_sizes(name, &tensor.dims, sizes)?;
            Ok::<_, Error>(tensor.values)
        };
        let floats = |input: MaskInput| {
            let tensor = self.read_f32(input.name())?;
            check_sizes(input.name(), &tensor.dims, &per_head)?;
            Ok::<_, Error>(tensor.values)
        };
        inputs.iter().try_fold(MaskData::new(), |data, &input| {
            Ok(match input {
                MaskInput::KeyLengths => data.key_lengths(ints(input, &per_sequence)?),
                MaskInput::PrefixLengths => data.prefix_lengths(ints(input, &per_sequence)?),
                MaskInput::KeyPadding => {
                    let tensor = self.read_bool(input.name())?;
                    check_sizes(input.name(), &tensor.dims, &per_key)?;
                    data.key_padding(tensor.values)
                }
                MaskInput::TokenIds => data.token_ids(ints(input, &per_key)?, self.pad_id(pad_id)?),
                // It comes with the token ids.
                MaskInput::PadId => data,
                MaskInput::DocumentIdsQ => data.document_ids_q_kv(
                    ints(MaskInput::DocumentIdsQ, &per_query)?,
                    ints(MaskInput::DocumentIdsKv, &per_key)?,
                ),
                // They come with the queries'.
                MaskInput::DocumentIdsKv => data,
                MaskInput::BlockIdsQ => data.block_ids_q_kv(
                    ints(MaskInput::BlockIdsQ, &per_query)?,
                    ints(MaskInput::BlockIdsKv, &per_key)?,
                ),
                MaskInput::BlockIdsKv => data,
                MaskInput::TreeParents => data.tree_parents(ints(input, &per_query)?),
                MaskInput::BucketIds => {
                    let tensor = self.read_i32(input.name())?;
                    let expected = "[batch, num_heads or 1, rounds, seq_len_kv]";
                    data.bucket_ids(
                        four_sizes(input.name(), &tensor.dims, expected)?,
                        tensor.values,
                    )
                }
                MaskInput::ColumnRanges => {
                    let tensor = self.read_i32(input.name())?;
                    let expected = "[batch, num_heads or 1, seq_len_kv, 1, 2 or 4]";
                    let sizes = four_sizes(input.name(), &tensor.dims, expected)?;
                    data.column_ranges(sizes, tensor.values)
                }
                MaskInput::Bias => {
                    let tensor = self.read_f32(input.name())?;
                    data.bias(broadcast_sizes(input.name(), &tensor.dims)?, tensor.values)
                }
                MaskInput::AlibiSlopes => data.alibi_slopes(floats(input)?),
                MaskInput::Sinks => data.sinks(floats(input)?),
                MaskInput::QStarts => data.q_starts(ints(input, &starts)?),
                MaskInput::KvStarts => data.kv_starts(ints(input, &starts)?),
                MaskInput::QLengths => data.q_lengths(ints(input, &per_sequence)?),
                MaskInput::KvLengths => data.kv_lengths(ints(input, &per_sequence)?),
                MaskInput::KvFirst => data.kv_first(ints(input, &per_sequence)?),
                // Its row's length is checked with the rest.
                MaskInput::BlockTables => data.block_tables(self.read_i32(input.name())?.values),
                MaskInput::Dense => {
                    let tensor = self.read_bool(input.name())?;
                    data.dense(broadcast_sizes(input.name(), &tensor.dims)?, tensor.values)
                }
            })
        })
    }

    /// A custom function with the tensors of this file that its text names for buffers: f32, i32, or u8 and bool as u32 of
    /// 0 and 1.
    ///
    /// # Errors
    /// [`Error::Operand`] where such a tensor has another type or no elements.
    pub fn with_buffers(&self, custom: Custom) -> Result<Custom> {
        let named = custom.names();
        let tensors = self.names().into_iter().filter(|name| named.contains(name));
        tensors.filter(|name| !["q", "k", "v"].contains(&name.as_str())).try_fold(
            custom,
            |custom, name| {
                let (info, _) = self.tensor(&name)?;
                let element = match info.dtype {
                    Dtype::F32 => CustomType::F32,
                    Dtype::I32 => CustomType::I32,
                    Dtype::U8 | Dtype::BOOL => CustomType::U32,
                    other => return Err(wrong_type(&name, "f32, i32, u8 or bool", other)),
                };
                let len = info.shape.iter().product();
                custom.buffer(name, element, len)
            },
        )
    }

    /// `data` with what a custom function of [`TensorFile::with_buffers`] reads.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor isn't there, [`Error::Operand`] where it has another type.
    pub fn custom_data(&self, custom: &Custom, data: MaskData) -> Result<MaskData> {
        custom.buffers().iter().try_fold(data, |data, buffer| {
            let name = &buffer.name;
            Ok(match buffer.element {
                CustomType::F32 => data.custom_f32(name, self.read_f32(name)?.values),
                CustomType::I32 => data.custom_i32(name, self.read_i32(name)?.values),
                CustomType::U32 => {
                    data.custom_u32(name, self.read_bool(name)?.values.into_iter().map(u32::from))
                }
            })
        })
    }

    /// The sizes for looking at `mask` without any q, k or v: as many sequences and heads as what the mask names
    /// has, one where it names nothing. `head_dim` is 1.
    ///
    /// # Errors
    /// As [`TensorFile::mask_data`], which gets the rest of the checks.
    pub fn mask_shape(&self, mask: &Mask, seq_len_q: usize, seq_len_kv: usize) -> Result<Shape> {
        let (mut batch, mut heads) = (None, 1);
        for input in mask.inputs() {
            let Some(dims) = self.dims(self.source(input)) else {
                continue;
            };
            let sizes = match input {
                MaskInput::Dense => broadcast_sizes(input.name(), dims)?,
                MaskInput::BucketIds | MaskInput::ColumnRanges => {
                    four_sizes(input.name(), dims, "four dimensions")?
                }
                _ => {
                    batch = batch.or_else(|| dims.first().copied());
                    continue;
                }
            };
            batch = batch.or(Some(sizes[0]));
            heads = heads.max(sizes[1]);
        }
        Ok(Shape::new(batch.unwrap_or(1), heads, seq_len_q, 1).seq_kv(seq_len_kv))
    }

    /// The tensor that holds an input: queries and keys may have their document ids in common.
    fn source(&self, input: MaskInput) -> &'static str {
        match input {
            MaskInput::DocumentIdsQ | MaskInput::DocumentIdsKv
                if self.dims(input.name()).is_none() =>
            {
                "document_ids"
            }
            MaskInput::BlockIdsQ | MaskInput::BlockIdsKv if self.dims(input.name()).is_none() => {
                "block_ids"
            }
            _ => input.name(),
        }
    }

    fn pad_id(&self, given: Option<i32>) -> Result<i32> {
        let expected = "the token id of padding, given or in the file's metadata";
        match (given, self.metadata("pad_id")) {
            (Some(given), _) => Ok(given),
            (None, Some(text)) => text
                .trim()
                .parse()
                .map_err(|_| Error::operand("pad_id", expected, format!("`{text}`"))),
            (None, None) => Err(Error::operand("pad_id", expected, "none")),
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

/// `[batch, heads, seq, dim]` of a tensor that lies in `layout`.
fn sizes(name: &str, dims: &[usize], layout: Layout) -> Result<[usize; 4]> {
    let order = match layout {
        Layout::Bhsd => "[batch, heads, seq, dim]",
        Layout::Bshd => "[batch, seq, heads, dim]",
    };
    let sizes: [usize; 4] = (dims.try_into())
        .map_err(|_| Error::operand(name, format!("4 dimensions, {order}"), format!("{dims:?}")))?;
    Ok(reorder(sizes, layout))
}

/// Sizes `[batch, heads, seq, dim]` in the layout's order, with names for those that may be anything.
fn named_sizes(sizes: [Result<usize, &str>; 4], layout: Layout) -> String {
    let [batch, heads, seq, dim] =
        sizes.map(|size| size.map_or_else(str::to_owned, |size| size.to_string()));
    match layout {
        Layout::Bhsd => format!("[{batch}, {heads}, {seq}, {dim}]"),
        Layout::Bshd => format!("[{batch}, {seq}, {heads}, {dim}]"),
    }
}

fn check_sizes(name: &str, dims: &[usize], expected: &[(&str, usize)]) -> Result<()> {
    if dims.iter().eq(expected.iter().map(|(_, size)| size)) {
        return Ok(());
    }
    let expected: Vec<_> = expected.iter().map(|(name, size)| format!("{name} = {size}")).collect();
    Err(Error::operand(name, format!("[{}]", expected.join(", ")), format!("{dims:?}")))
}

/// The sizes of a tensor of four dimensions.
fn four_sizes(name: &str, dims: &[usize], expected: &str) -> Result<[usize; 4]> {
    dims.try_into().map_err(|_| Error::operand(name, expected, format!("{dims:?}")))
}

/// The sizes of a tensor that broadcasts, with 1 for those that are missing in front.
fn broadcast_sizes(name: &str, dims: &[usize]) -> Result<[usize; 4]> {
    let mut sizes = [1; 4];
    let Some(missing) = sizes.len().checked_sub(dims.len()) else {
        return Err(Error::operand(name, "at most 4 dimensions", format!("{dims:?}")));
    };
    sizes[missing..].copy_from_slice(dims);
    Ok(sizes)
}

/// Collects named tensors, then writes them to a file.
///
/// ```
/// use wgpu_attention::files::{TensorFile, TensorWriter};
/// let bytes = TensorWriter::new()
///     .f32("q", &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])
///     .i32("key_lengths", &[1], &[2])
///     .metadata("pad_id", "0")
///     .to_bytes()?;
/// let file = TensorFile::from_bytes("memory", bytes)?;
/// assert_eq!(file.read_f32("q")?.values, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TensorWriter {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl TensorWriter {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor of f32, in place of one that has this name.
    #[must_use]
    pub fn f32(self, name: impl Into<String>, dims: &[usize], values: &[f32]) -> Self {
        self.add(name, Dtype::F32, dims, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    /// Adds a tensor of the given type, the values rounded to it, in place of one that has this name.
    #[must_use]
    pub fn floats(
        self,
        name: impl Into<String>,
        dims: &[usize],
        values: &[f32],
        dtype: Stored,
    ) -> Self {
        let halves =
            |bits: fn(f32) -> u16| values.iter().flat_map(move |&value| bits(value).to_le_bytes());
        match dtype {
            // Rows of 8 bits are a cache's own; the format has no such type.
            Stored::F32 | Stored::I8 => self.f32(name, dims, values),
            Stored::F16 => {
                self.add(name, Dtype::F16, dims, halves(|x| half::f16::from_f32(x).to_bits()))
            }
            Stored::Bf16 => {
                self.add(name, Dtype::BF16, dims, halves(|x| half::bf16::from_f32(x).to_bits()))
            }
        }
    }

    /// Adds a tensor of i32, in place of one that has this name.
    #[must_use]
    pub fn i32(self, name: impl Into<String>, dims: &[usize], values: &[i32]) -> Self {
        self.add(name, Dtype::I32, dims, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    /// Adds a tensor of u8, in place of one that has this name.
    #[must_use]
    pub fn u8(self, name: impl Into<String>, dims: &[usize], values: &[u8]) -> Self {
        self.add(name, Dtype::U8, dims, values.iter().copied())
    }

    /// Adds a tensor of bool, in place of one that has this name.
    #[must_use]
    pub fn bool(self, name: impl Into<String>, dims: &[usize], values: &[bool]) -> Self {
        self.add(name, Dtype::BOOL, dims, values.iter().map(|&value| u8::from(value)))
    }

    /// Adds an entry to the metadata.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    fn add(
        mut self,
        name: impl Into<String>,
        dtype: Dtype,
        dims: &[usize],
        bytes: impl Iterator<Item = u8>,
    ) -> Self {
        self.tensors.insert(name.into(), (dtype, dims.to_vec(), bytes.collect()));
        self
    }

    /// The file's contents.
    ///
    /// # Errors
    /// [`Error::Operand`] where a tensor has other than as many elements as its sizes say.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let views = (self.tensors.iter())
            .map(|(name, (dtype, dims, bytes))| {
                let view = TensorView::new(*dtype, dims.clone(), bytes);
                let refused = |_| {
                    Error::operand(
                        name,
                        format!("as many elements of {dtype} as its sizes {dims:?} say"),
                        format!("{} bytes", bytes.len()),
                    )
                };
                Ok((name, view.map_err(refused)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        safetensors::serialize(views, metadata)
            .map_err(|error| Error::operand("tensors", "a header that can be written", error))
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// As [`TensorWriter::to_bytes`], and [`Error::File`] where it can't be written; what was there before is there
    /// still then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        write_whole(path, &bytes).map_err(|error| file_error(path.display(), error))
    }
}

/// Writes beside the place and moves there, so that nobody sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A link stays one, and its target is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    // A pipe or a device can't be replaced, only written to.
    if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, bytes);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; this one becomes the result, with the rights that new files have.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(writer: &TensorWriter) -> TensorFile {
        TensorFile::from_bytes("test", writer.to_bytes().unwrap()).unwrap()
    }

    fn ramp(len: usize) -> Vec<f32> {
        (0..len).map(|i| i as f32).collect()
    }

    /// q, k and v of sizes `[batch, heads, seq, dim]` that are all different.
    fn qkv(q: [usize; 4], k: [usize; 4], v: [usize; 4]) -> TensorWriter {
        [("q", q), ("k", k), ("v", v)]
            .into_iter()
            .fold(TensorWriter::new(), |writer, (name, dims)| {
                writer.f32(name, &dims, &ramp(dims.iter().product()))
            })
    }

    #[test]
    fn operands_in_both_layouts() {
        let shape = Shape::new(2, 4, 3, 8).kv_heads(2).seq_kv(5).dim_v(6);
        let bhsd = file(&qkv([2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 6]));
        let operands = bhsd.operands(Layout::Bhsd).unwrap();
        assert_eq!((operands.shape, operands.o_dims()), (shape, [2, 4, 3, 6]));
        assert_eq!(operands.v, ramp(2 * 2 * 5 * 6));
        let bshd = file(&qkv([2, 3, 4, 8], [2, 5, 2, 8], [2, 5, 2, 6]));
        let operands = bshd.operands(Layout::Bshd).unwrap();
        assert_eq!((operands.shape, operands.o_dims()), (shape, [2, 3, 4, 6]));
    }

    #[test]
    fn sizes_of_tensors_without_elements_do_not_overflow() {
        let file = file(&TensorWriter::new().i32("key_lengths", &[usize::MAX, 0], &[]));
        let shape = file.mask_shape(&Mask::KeyLengths, 4, 5).unwrap();
        assert_eq!(shape.batch, usize::MAX);
        let refused = file.mask_data(&Mask::KeyLengths, &shape, None).unwrap_err().to_string();
        assert!(refused.starts_with("key_lengths: expected [batch = "), "{refused}");
    }

    #[test]
    fn operands_that_do_not_fit_are_named() {
        let message =
            |writer: &TensorWriter| file(writer).operands(Layout::Bhsd).unwrap_err().to_string();
        assert_eq!(
            message(&qkv([2, 4, 3, 8], [2, 4, 3, 7], [2, 4, 3, 8])),
            "k: expected [2, num_kv_heads, seq_len_kv, 8], as q is [2, 4, 3, 8], found [2, 4, 3, 7]"
        );
        assert_eq!(
            message(&qkv([2, 4, 3, 8], [2, 4, 3, 8], [2, 4, 2, 8])),
            "v: expected [2, 4, 3, head_dim_v], as k is [2, 4, 3, 8], found [2, 4, 2, 8]"
        );
        assert_eq!(
            message(&qkv([2, 4, 3, 8], [2, 3, 3, 8], [2, 3, 3, 8])),
            "num_heads: expected a multiple of num_kv_heads = 3, found 4"
        );
        assert_eq!(
            message(&qkv([1; 4], [1; 4], [1; 4]).f32("q", &[2, 3], &ramp(6))),
            "q: expected 4 dimensions, [batch, heads, seq, dim], found [2, 3]"
        );
        assert_eq!(
            message(&qkv([1; 4], [1; 4], [1; 4]).i32("v", &[1; 4], &[1])),
            "v: expected elements of f32, f16 or bf16, found i32"
        );
        assert_eq!(
            message(&TensorWriter::new().f32("q", &[1; 4], &[1.0]).f32("keys", &[1; 4], &[1.0])),
            "test: there is no tensor `k`; there is keys, q"
        );
    }

    #[test]
    fn mask_data_by_name() {
        let shape = Shape::new(2, 3, 2, 4).seq_kv(3);
        let file = file(
            &TensorWriter::new()
                .i32("key_lengths", &[2], &[3, 1])
                .i32("prefix_lengths", &[2], &[0, 2])
                .u8("key_padding", &[2, 3], &[1, 2, 0, 1, 0, 0])
                .i32("token_ids", &[2, 3], &[5, 6, 0, 7, 0, 0])
                .i32("document_ids_q", &[2, 2], &[0, 1, 0, 0])
                .i32("document_ids", &[2, 3], &[0, 0, 1, 0, 0, 1])
                .bool("dense", &[3, 1, 3], &[true; 9])
                .metadata("pad_id", "0"),
        );
        let data = |mask: &str| file.mask_data(&mask.parse().unwrap(), &shape, None).unwrap();
        assert_eq!(
            data("key_lengths & prefix"),
            MaskData::new().key_lengths([3, 1]).prefix_lengths([0, 2])
        );
        assert_eq!(
            data("key_padding"),
            MaskData::new().key_padding([true, true, false, true, false, false])
        );
        assert_eq!(data("token_padding"), MaskData::new().token_ids([5, 6, 0, 7, 0, 0], 0));
        // The keys' own ids aren't there, so what queries and keys have in common serves.
        assert_eq!(
            data("documents"),
            MaskData::new().document_ids_q_kv([0, 1, 0, 0], [0, 0, 1, 0, 0, 1])
        );
        assert_eq!(data("dense"), MaskData::new().dense([1, 3, 1, 3], [true; 9]));
        let seen = file.mask_shape(&"dense & key_lengths".parse().unwrap(), 2, 3).unwrap();
        assert_eq!(seen, Shape::new(2, 3, 2, 1).seq_kv(3));
    }

    #[test]
    fn mask_data_that_does_not_fit_is_named() {
        let shape = Shape::new(2, 1, 3, 4);
        let check = |mask: &str, writer: &TensorWriter, expected: &str| {
            let error = file(writer).mask_data(&mask.parse().unwrap(), &shape, None).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let writer = TensorWriter::new();
        check("key_lengths", &writer, "test: there is no tensor `key_lengths`; there is nothing");
        check(
            "key_padding",
            &writer.clone().u8("key_padding", &[3, 2], &[1; 6]),
            "key_padding: expected [batch = 2, seq_len_kv = 3], found [3, 2]",
        );
        check(
            "key_lengths",
            &writer.clone().f32("key_lengths", &[2], &[1.0; 2]),
            "key_lengths: expected elements of i32, found f32",
        );
        let ids = writer.clone().i32("token_ids", &[2, 3], &[1; 6]);
        let expected = "the token id of padding, given or in the file's metadata";
        check("token_padding", &ids, &format!("pad_id: expected {expected}, found none"));
        check(
            "token_padding",
            &ids.metadata("pad_id", "none"),
            &format!("pad_id: expected {expected}, found `none`"),
        );
        check(
            "dense",
            &writer.u8("dense", &[1; 5], &[1]),
            "dense: expected at most 4 dimensions, found [1, 1, 1, 1, 1]",
        );
    }

    #[test]
    fn i64_is_taken_where_it_fits() {
        let bytes = |value: i64| {
            let data = value.to_le_bytes();
            let view = TensorView::new(Dtype::I64, vec![1], &data).unwrap();
            safetensors::serialize([("ids", view)], None).unwrap()
        };
        let read = |value| TensorFile::from_bytes("test", bytes(value)).unwrap().read_i32("ids");
        assert_eq!(read(-7).unwrap().values, [-7]);
        assert_eq!(
            read(1 << 40).unwrap_err().to_string(),
            "ids[0]: expected a value within i32, found 1099511627776"
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = qkv([1; 4], [1; 4], [1; 4]).to_bytes().unwrap();
        for length in 0..whole.len() {
            let error = TensorFile::from_bytes("cut", whole[..length].to_vec()).unwrap_err();
            let Error::File { path, message } = error else { panic!("{error:?}") };
            assert_eq!(path, "cut");
            assert!(message.contains("truncated") || message.contains("header"), "{message}");
        }
        let longer = [whole.as_slice(), b"more"].concat();
        let error = TensorFile::from_bytes("longer", longer).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        for (at, byte) in
            (0..whole.len()).flat_map(|at| [0, 0x22, 0x39, 0xff].map(|byte| (at, byte)))
        {
            let mut changed = whole.clone();
            changed[at] = byte;
            // Whether it is refused or read as something else: nothing may panic.
            if let Ok(file) = TensorFile::from_bytes("changed", changed) {
                let _ = file.operands(Layout::Bhsd);
            }
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let refused = |header: &str| {
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
            TensorFile::from_bytes("hostile", bytes).unwrap_err();
        };
        let info = |dims: &str, end: &str| {
            format!(r#"{{"q":{{"dtype":"F32","shape":{dims},"data_offsets":[0,{end}]}}}}"#)
        };
        refused(&info("[18446744073709551615, 18446744073709551615]", "4"));
        refused(&info("[4611686018427387903]", "18446744073709551612"));
        refused(&info("[-1]", "4"));
        refused(&info("[1]", "4"));
        refused(&"[".repeat(100_000));
        refused("");
        // Tensors whose sizes only just don't overflow, one by one, and do so together.
        let part = usize::MAX / 8;
        let parts: Vec<_> = (0..9)
            .map(|i| {
                let (start, end) = (part.wrapping_mul(i), part.wrapping_mul(i + 1));
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[{part}],"data_offsets":[{start},{end}]}}"#
                )
            })
            .collect();
        refused(&format!("{{{}}}", parts[..8].join(",")));
        refused(&format!("{{{}}}", parts.join(",")));
        TensorFile::from_bytes("huge", u64::MAX.to_le_bytes().to_vec()).unwrap_err();
    }

    #[test]
    fn saving_replaces_a_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        for value in [1.0, 2.0] {
            TensorWriter::new().f32("o", &[1], &[value]).save(&path).unwrap();
            assert_eq!(TensorFile::open(&path).unwrap().read_f32("o").unwrap().values, [value]);
        }
        TensorWriter::new().f32("o", &[2], &[3.0]).save(&path).unwrap_err();
        assert_eq!(TensorFile::open(&path).unwrap().read_f32("o").unwrap().values, [2.0]);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        let error = TensorWriter::new().save(folder.path().join("missing/out")).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
}
