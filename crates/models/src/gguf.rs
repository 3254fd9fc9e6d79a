//! Reading GGUF, the file format of llama.cpp: numbers and texts by key, tensors by name.
//!
//! Written here since the readers on crates.io panic on files that were cut off.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use operators::{Format, Gpu, Matrix};

/// A file in memory, its header checked.
#[derive(Debug)]
pub struct Gguf {
    bytes: Vec<u8>,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    List(Vec<Self>),
}

#[derive(Debug, Clone)]
struct Tensor {
    /// Of a matrix, rows come first.
    dims: Vec<usize>,
    kind: u32,
    start: usize,
}

impl Gguf {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read, isn't GGUF of version 2 or 3, or was cut off.
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
        ensure!(reader.take(4)? == b"GGUF", "this is no GGUF file: it doesn't begin with `GGUF`");
        let version = reader.u32()?;
        ensure!((2..=3).contains(&version), "GGUF of version {version}, where 2 and 3 are known");
        let [tensor_count, value_count] = [reader.u64()?, reader.u64()?];
        let mut values = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            values.insert(key, reader.value(kind)?);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let dims = reader.u32()?;
            ensure!((1..=4).contains(&dims), "{name}: {dims} dimensions");
            let mut dims = (0..dims).map(|_| reader.u64()).collect::<Result<Vec<_>>>()?;
            dims.reverse();
            let (kind, start) = (reader.u32()?, reader.u64()?);
            tensors.insert(name, Tensor { dims, kind, start });
        }
        let alignment = match values.get("general.alignment") {
            Some(Value::Number(number)) if *number >= 1.0 => *number as usize,
            _ => 32,
        };
        let data = reader.at.checked_next_multiple_of(alignment).context("a huge alignment")?;
        for (name, tensor) in &mut tensors {
            let start = tensor.start.checked_add(data);
            tensor.start = start.filter(|&start| start <= bytes.len()).with_context(|| {
                format!("{name} lies behind the file's {} bytes: was it cut off?", bytes.len())
            })?;
        }
        Ok(Self { bytes, values, tensors })
    }

    /// A number, or a flag as 0 or 1.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.value(key)? {
            Value::Number(number) => Ok(*number),
            _ => bail!("{key} is no number"),
        }
    }

    /// A size.
    ///
    /// # Errors
    /// As [`Gguf::number`], and where it is no whole number above 0.
    pub fn size(&self, key: &str) -> Result<usize> {
        let number = self.number(key)?;
        ensure!(number >= 1.0 && number.fract() == 0.0, "{key} is {number}, which is no size");
        Ok(number as usize)
    }

    /// A text.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.value(key)? {
            Value::Text(text) => Ok(text),
            _ => bail!("{key} is no text"),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let mut texts = Vec::new();
        for value in self.list(key)? {
            match value {
                Value::Text(text) => texts.push(text.as_str()),
                _ => bail!("{key} is no list of texts"),
            }
        }
        Ok(texts)
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let number = |value: &Value| match value {
            Value::Number(number) => Ok(*number),
            _ => bail!("{key} is no list of numbers"),
        };
        self.list(key)?.iter().map(number).collect()
    }

    /// A tensor's sizes, the rows of a matrix first.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn dims(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.dims)
    }

    /// Uploads a matrix as it is stored.
    ///
    /// # Errors
    /// Where there is none of that name, it has other sizes, or is stored in a way that operators don't read.
    pub fn matrix(&self, gpu: &Gpu, name: &str, sizes: [usize; 2]) -> Result<Matrix> {
        let tensor = self.tensor(name)?;
        ensure!(
            tensor.dims == sizes,
            "{name}: sizes {:?}, where {sizes:?} is expected",
            tensor.dims
        );
        let format = match tensor.kind {
            0 => Format::F32,
            1 => Format::F16,
            3 => Format::Q4_1,
            8 => Format::Q8_0,
            kind => bail!(
                "{name} is stored as GGML's type {kind}, where F32 (0), F16 (1), Q4_1 (3) and Q8_0 (8) can be read"
            ),
        };
        let [weights, bytes] = format.block();
        let bytes = self.data(name, tensor, sizes[0] * (sizes[1] / weights) * bytes)?;
        Matrix::new(gpu, name, format, sizes, bytes)
    }

    /// Uploads a row of f32.
    ///
    /// # Errors
    /// Where there is none of that name, or it has another size or type.
    pub fn row(&self, gpu: &Gpu, name: &str, size: usize) -> Result<wgpu::Buffer> {
        let tensor = self.tensor(name)?;
        ensure!(
            tensor.dims == [size] && tensor.kind == 0,
            "{name}: sizes {:?} of GGML's type {}, where [{size}] of F32 (0) is expected",
            tensor.dims,
            tensor.kind
        );
        Ok(gpu.upload(self.data(name, tensor, size * 4)?))
    }

    fn data(&self, name: &str, tensor: &Tensor, bytes: usize) -> Result<&[u8]> {
        let data = self.bytes[tensor.start..].get(..bytes);
        data.with_context(|| format!("{name} goes beyond the file's end: was it cut off?"))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the file has no tensor {name}"))
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.values.get(key).with_context(|| format!("the file says nothing of {key}"))
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        match self.value(key)? {
            Value::List(list) => Ok(list),
            _ => bail!("{key} is no list"),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..count).context("the file was cut off")?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?))?)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let text = std::str::from_utf8(self.take(length)?).context("a text that isn't UTF-8")?;
        Ok(text.to_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(Value::Number(match kind {
            0 | 7 => f64::from(self.array::<1>()?[0]),
            1 => f64::from(i8::from_le_bytes(self.array()?)),
            2 => f64::from(u16::from_le_bytes(self.array()?)),
            3 => f64::from(i16::from_le_bytes(self.array()?)),
            4 => f64::from(self.u32()?),
            5 => f64::from(i32::from_le_bytes(self.array()?)),
            6 => f64::from(f32::from_le_bytes(self.array()?)),
            8 => return Ok(Value::Text(self.text()?)),
            9 => {
                let kind = self.u32()?;
                ensure!(kind != 9, "lists of lists aren't known");
                let count = self.u64()?;
                return Ok(Value::List(
                    (0..count).map(|_| self.value(kind)).collect::<Result<_>>()?,
                ));
            }
            10 => u64::from_le_bytes(self.array()?) as f64,
            11 => i64::from_le_bytes(self.array()?) as f64,
            12 => f64::from_le_bytes(self.array()?),
            _ => bail!("a value of the unknown kind {kind}"),
        }))
    }
}
