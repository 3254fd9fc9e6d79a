//! What masks, score modifiers and user-defined functions read, by the names of a file's tensors.

use safetensors::tensor::Dtype;

use super::sizes::{broadcast_sizes, check_sizes};
use super::{TensorFile, wrong_type};
use wgpu_attention::Mask;
use wgpu_attention::Problem;
use wgpu_attention::Shape;
use wgpu_attention::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{Error, Result};

impl TensorFile {
    /// What `mask` names. For `token_padding`, `pad_id` goes before the metadata's.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor isn't there; [`Error::Operand`] where it has another type or sizes that don't
    /// go with `shape`, and where no pad id is known. Lengths beyond `seq_len_kv` are refused by the call that uses
    /// the data.
    pub fn mask_data(&self, mask: &Mask, shape: &Shape, pad_id: Option<i32>) -> Result<AuxData> {
        self.data_of(&mask.aux_specs(shape), pad_id)
    }

    /// As [`TensorFile::mask_data`], for all that a problem reads: [`Problem::aux_tensors`].
    ///
    /// # Errors
    /// As [`TensorFile::mask_data`].
    pub fn input_data(&self, problem: &Problem, pad_id: Option<i32>) -> Result<AuxData> {
        self.data_of(&problem.aux_specs(), pad_id)
    }

    fn data_of(&self, tensors: &[AuxSpec], pad_id: Option<i32>) -> Result<AuxData> {
        tensors.iter().try_fold(AuxData::new(), |data, tensor| self.read_into(data, tensor, pad_id))
    }

    /// `data` with one tensor.
    fn read_into(&self, data: AuxData, tensor: &AuxSpec, pad_id: Option<i32>) -> Result<AuxData> {
        let input = tensor.tensor();
        if input == AuxTensor::PadId.numbered(input.number()) {
            return Ok(data.ints(input, [self.pad_id(&input.name(), pad_id)?]));
        }
        let name = self.source(tensor);
        let (data, found) = match tensor.element() {
            AuxElement::I32 => {
                let read = self.read_i32(&name)?;
                (data.ints(input, read.values), read.dims)
            }
            AuxElement::F32 => {
                let read = self.read_f32(&name)?;
                (data.floats(input, read.values), read.dims)
            }
            AuxElement::Flag => {
                let read = self.read_bool(&name)?;
                (data.ints(input, read.values.into_iter().map(i32::from)), read.dims)
            }
            AuxElement::Bit => {
                let read = self.read_bool(&name)?;
                (data.bits(input, read.values), read.dims)
            }
            other => {
                let found = format!("a type that files don't have, {other:?}");
                return Err(Error::operand(name, "i32, f32 or flags", found));
            }
        };
        if tensor.is_open() {
            let sizes = open_sizes(tensor, &name, &found)?;
            return Ok(data.sized(input, sizes));
        }
        // A table's row length is checked with the rest of it.
        if input != AuxTensor::BlockTables {
            let named = |dim: &AuxDim| (dim.name, dim.sizes[0]);
            let expected: Vec<_> = tensor.dims().iter().map(named).collect();
            check_sizes(&name, &found, &expected)?;
        }
        Ok(data)
    }

    /// A user-defined function with the tensors of this file that its text names for buffers: floats as f32, signed integers as
    /// i32, unsigned integers and bool as u32.
    ///
    /// # Errors
    /// [`Error::Operand`] where such a tensor has another type or no elements.
    pub fn with_buffers(&self, custom: WgslFunction) -> Result<WgslFunction> {
        let mut names = custom.names();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !["q", "k", "v"].contains(&name.as_str()));
        names.into_iter().try_fold(custom, |custom, name| {
            let Some(info) = self.info(&name) else {
                return Ok(custom);
            };
            let element = match info.dtype {
                Dtype::F32 | Dtype::F16 | Dtype::BF16 => WgslBuffer::F32,
                Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => WgslBuffer::I32,
                Dtype::BOOL | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => WgslBuffer::U32,
                other => {
                    return Err(wrong_type(&name, "f32, f16, bf16, integers or bool", other));
                }
            };
            let len = info.shape.iter().product();
            custom.buffer(name, element, len)
        })
    }

    /// `data` with what a user-defined function of [`TensorFile::with_buffers`] reads.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor isn't there, [`Error::Operand`] where it has another type, or a value that the
    /// buffer's type doesn't have.
    pub fn custom_data(&self, custom: &WgslFunction, data: AuxData) -> Result<AuxData> {
        custom.buffer_sizes().try_fold(data, |data, (name, element, _)| {
            Ok(match element {
                WgslBuffer::F32 => data.custom_f32(name, self.read_f32(name)?.values),
                WgslBuffer::I32 => data.custom_i32(name, self.read_i32(name)?.values),
                WgslBuffer::U32 => data.custom_u32(name, self.read_u32(name)?.values),
                other => {
                    return Err(Error::operand(
                        name,
                        "a buffer of f32, i32 or u32",
                        format!("{other:?}"),
                    ));
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
        let unknown = Shape::new(1, 1, seq_len_q, 1).seq_len_kv(seq_len_kv);
        for tensor in mask.aux_specs(&unknown) {
            let name = self.source(&tensor);
            let Some(dims) = self.dims(&name) else {
                continue;
            };
            if !tensor.is_open() {
                batch = batch.or_else(|| dims.first().copied());
                continue;
            }
            let sizes = open_sizes(&tensor, &name, dims)?;
            let size_of = |symbol| {
                let is_it = |(dim, _): &(&AuxDim, &usize)| dim.symbol.starts_with(symbol);
                tensor.dims().iter().zip(&sizes).find(is_it).map(|(_, &size)| size)
            };
            batch = batch.or(size_of("B"));
            heads = heads.max(size_of("H").unwrap_or(1));
        }
        Ok(Shape::new(batch.unwrap_or(1), heads, seq_len_q, 1).seq_len_kv(seq_len_kv))
    }

    /// The names, in the file, of the tensors that a problem reads besides q, k and v: each its own, or one that other libraries
    /// give it.
    pub fn sources(&self, problem: &Problem) -> Vec<String> {
        let stored = |tensor: &AuxSpec| self.stored_name(&self.source(tensor)).to_owned();
        problem.aux_specs().iter().map(stored).collect()
    }

    /// The name of the file's tensor: queries and keys may have their ids in common. `attention_mask` holds keys where it has
    /// two dimensions, and cells where it has more.
    fn source(&self, tensor: &AuxSpec) -> String {
        let serves = |name: &String| {
            let cells = |dims: &[usize]| dims.len() > 2;
            self.dims(name).is_some_and(|dims| {
                !name.starts_with("attention_mask") || cells(dims) == tensor.broadcasts()
            })
        };
        let found = tensor.names().find(serves);
        found.unwrap_or_else(|| tensor.tensor().to_string())
    }

    fn pad_id(&self, name: &str, given: Option<i32>) -> Result<i32> {
        let expected = "the token id of padding, given or in the file's metadata";
        match (given, self.metadata(name)) {
            (Some(given), _) => Ok(given),
            (None, Some(text)) => {
                text.trim().parse().map_err(|_| Error::operand(name, expected, format!("`{text}`")))
            }
            (None, None) => Err(Error::operand(name, expected, "none")),
        }
    }
}

/// The sizes of a tensor whose shape the problem leaves open; they are checked with its values.
fn open_sizes(tensor: &AuxSpec, name: &str, dims: &[usize]) -> Result<Vec<usize>> {
    if tensor.broadcasts() {
        return broadcast_sizes(name, dims).map(Vec::from);
    }
    // Slopes that are the same for all sequences.
    if tensor.tensor() == AuxTensor::AlibiSlopes && dims.len() == 1 {
        return Ok(vec![1, dims[0]]);
    }
    match dims.len() == tensor.dims().len() {
        true => Ok(dims.to_vec()),
        false => {
            let names: Vec<&str> = tensor.dims().iter().map(|dim| dim.name).collect();
            let expected = format!("[{}]", names.join(", "));
            Err(Error::operand(name, expected, format!("{dims:?}")))
        }
    }
}
