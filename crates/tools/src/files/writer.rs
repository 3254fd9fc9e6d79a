//! Tensors into a file.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::file_error;
use wgpu_attention::Dtype as Stored;
use wgpu_attention::{Error, Result};

/// Collects named tensors, then writes them to a file.
///
/// ```
/// use wgpu_attention_tools::files::{TensorFile, TensorWriter};
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
            Stored::F16 => {
                self.add(name, Dtype::F16, dims, halves(|x| half::f16::from_f32(x).to_bits()))
            }
            Stored::Bf16 => {
                self.add(name, Dtype::BF16, dims, halves(|x| half::bf16::from_f32(x).to_bits()))
            }
            // The format has no type of a cache's rows of 8 bits.
            _ => self.f32(name, dims, values),
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
