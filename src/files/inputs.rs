//! What masks, score modifiers and functions of the user's own read, by the names of a file's tensors.

use safetensors::tensor::Dtype;

use super::sizes::{broadcast_sizes, check_sizes, four_sizes};
use super::{TensorFile, wrong_type};
use crate::custom::{Custom, CustomType};
use crate::error::{Error, Result};
use crate::mask::{Mask, MaskData, MaskInput};
use crate::shape::Shape;

impl TensorFile {
    /// What `mask` names. For `token_padding`, `pad_id` goes before the metadata's.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor isn't there; [`Error::Operand`] where it has another type or sizes that don't
    /// go with `shape`, and where no pad id is known. Lengths beyond `seq_len_kv` are refused by the call that uses
    /// the data.
    pub fn mask_data(&self, mask: &Mask, shape: &Shape, pad_id: Option<i32>) -> Result<MaskData> {
        self.input_data(&mask.inputs(), shape, pad_id)
    }

    /// As [`TensorFile::mask_data`], for all that a problem with score modifiers reads: [`crate::Problem::inputs`].
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
}
