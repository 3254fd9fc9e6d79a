//! Reading `model.bin` of CTranslate2, version 6: tensors by name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use half::f16;
use operators::{Format, Gpu, Matrix, Norm};

use crate::layers::Linear;

/// CTranslate2's numbers of types.
const F32: u8 = 0;
const F16: u8 = 4;

/// A file in memory, its tensors found.
#[derive(Debug)]
pub struct ModelFile {
    bytes: Vec<u8>,
    /// What kind of model it is, such as `WhisperSpec`.
    kind: String,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Tensor {
    dims: Vec<usize>,
    kind: u8,
    bytes: Range<usize>,
}

impl ModelFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read, is of another version, or was cut off.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Self::from_bytes(bytes).with_context(|| path.display().to_string())
    }

    /// Reads what a file holds.
    ///
    /// # Errors
    /// Where it isn't such a file, or was cut off.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let version = reader.u32()?;
        ensure!(version == 6, "version {version} of CTranslate2's files, where 6 is known");
        let kind = reader.text()?;
        reader.u32()?; // the revision of the kind
        let mut tensors = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let name = reader.text()?;
            let rank = reader.u8()?;
            let dims = (0..rank).map(|_| Ok(reader.u32()? as usize)).collect::<Result<_>>()?;
            let kind = reader.u8()?;
            let size = reader.u32()? as usize;
            let bytes = reader.skip(size).with_context(|| format!("in {name}"))?;
            tensors.insert(name, Tensor { dims, kind, bytes });
        }
        Ok(Self { bytes, kind, tensors })
    }

    /// What kind of model it is.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// How many of `PREFIX0`, `PREFIX1` … have a tensor of this ending.
    pub fn count(&self, prefix: &str, ending: &str) -> usize {
        let is_there =
            |number: &usize| self.tensors.contains_key(&format!("{prefix}{number}{ending}"));
        (0..).take_while(is_there).count()
    }

    /// A tensor's sizes.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn dims(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.dims)
    }

    /// A number that is stored as 16 bits.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn short(&self, name: &str) -> Result<usize> {
        match self.bytes[self.tensor(name)?.bytes.clone()] {
            [low, high] => Ok(u16::from_le_bytes([low, high]).into()),
            _ => bail!("{name} is no number of 16 bits"),
        }
    }

    /// The values of a tensor of these sizes.
    ///
    /// # Errors
    /// Where there is none of that name, or it has other sizes or no floats.
    pub fn values(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        ensure!(tensor.dims == dims, "{name}: sizes {:?}, where {dims:?} is expected", tensor.dims);
        let bytes = &self.bytes[tensor.bytes.clone()];
        let values: Vec<f32> = match tensor.kind {
            F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                .collect(),
            kind => bail!(
                "{name} is stored as CTranslate2's type {kind}, where f32 (0) and f16 (4) can be read"
            ),
        };
        ensure!(values.len() == dims.iter().product::<usize>(), "{name}: {} values", values.len());
        Ok(values)
    }

    /// Uploads f32 values.
    ///
    /// # Errors
    /// As [`ModelFile::values`].
    pub fn row(&self, gpu: &Gpu, name: &str, size: usize) -> Result<wgpu::Buffer> {
        Ok(gpu.upload(&self.values(name, &[size])?))
    }

    /// Uploads a matrix as it is stored.
    ///
    /// # Errors
    /// As [`ModelFile::values`].
    pub fn matrix(&self, gpu: &Gpu, name: &str, sizes: [usize; 2]) -> Result<Matrix> {
        self.rows_of_matrix(gpu, name, sizes, 0..sizes[0])
    }

    /// Uploads some rows of a matrix.
    fn rows_of_matrix(
        &self,
        gpu: &Gpu,
        name: &str,
        sizes: [usize; 2],
        rows: Range<usize>,
    ) -> Result<Matrix> {
        let tensor = self.tensor(name)?;
        ensure!(
            tensor.dims == sizes,
            "{name}: sizes {:?}, where {sizes:?} is expected",
            tensor.dims
        );
        let format = match tensor.kind {
            F32 => Format::F32,
            F16 => Format::F16,
            kind => bail!(
                "{name} is stored as CTranslate2's type {kind}, where f32 (0) and f16 (4) can be read"
            ),
        };
        let row = tensor.bytes.len() / sizes[0].max(1);
        let bytes = &self.bytes[tensor.bytes.clone()][rows.start * row..rows.end * row];
        Matrix::new(gpu, name, format, [rows.len(), sizes[1]], bytes)
    }

    /// `NAME/weight` and `NAME/bias`.
    ///
    /// # Errors
    /// As [`ModelFile::values`].
    pub(crate) fn linear(&self, gpu: &Gpu, name: &str, sizes: [usize; 2]) -> Result<Linear> {
        let [linear] = self.split_linear(gpu, name, sizes)?;
        Ok(linear)
    }

    /// The same where `N` matrices of these sizes stand one below the other.
    pub(crate) fn split_linear<const N: usize>(
        &self,
        gpu: &Gpu,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<[Linear; N]> {
        let (weight, bias) = (format!("{name}/weight"), format!("{name}/bias"));
        let biases = self.values(&bias, &[N * outputs])?;
        let parts = (0..N)
            .map(|part| {
                let rows = part * outputs..(part + 1) * outputs;
                Ok(Linear {
                    weight: self.rows_of_matrix(
                        gpu,
                        &weight,
                        [N * outputs, inputs],
                        rows.clone(),
                    )?,
                    bias: Some(gpu.upload(&biases[rows])),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        parts.try_into().ok().context("as many parts as were asked for")
    }

    /// `NAME/gamma` and `NAME/beta`.
    ///
    /// # Errors
    /// As [`ModelFile::values`].
    pub fn norm(&self, gpu: &Gpu, name: &str, size: usize) -> Result<Norm> {
        Ok(Norm {
            gain: self.row(gpu, &format!("{name}/gamma"), size)?,
            shift: Some(self.row(gpu, &format!("{name}/beta"), size)?),
            epsilon: 1e-5,
        })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the file has no tensor {name}"))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, count: usize) -> Result<Range<usize>> {
        let range = self.at..self.at.saturating_add(count);
        ensure!(range.end <= self.bytes.len(), "the file was cut off");
        self.at = range.end;
        Ok(range)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes[self.skip(1)?][0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes[self.skip(4)?].try_into()?))
    }

    /// Its length, with the zero at its end, comes first.
    fn text(&mut self) -> Result<String> {
        let length = u16::from_le_bytes(self.bytes[self.skip(2)?].try_into()?);
        let text = &self.bytes[self.skip(length.into())?];
        let text = std::str::from_utf8(text).context("a name that isn't UTF-8")?;
        Ok(text.trim_end_matches('\0').to_owned())
    }
}
