//! Weights as files store them.

use anyhow::{Result, ensure};

use crate::gpu::Gpu;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// GGUF's blocks of 32 weights of 4 bits with a scale and a minimum.
    Q4_1,
    /// GGUF's blocks of 32 weights of 8 bits with a scale.
    Q8_0,
}

impl Format {
    /// Neighbouring weights that are stored together, and the bytes that they take. Kernels read four at a time.
    pub const fn block(self) -> [usize; 2] {
        match self {
            Self::F32 => [4, 16],
            Self::F16 => [4, 8],
            Self::Q4_1 => [32, 20],
            Self::Q8_0 => [32, 34],
        }
    }

    /// The WGSL that reads them.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::F32 => include_str!("weights/f32.wgsl"),
            Self::F16 => include_str!("weights/f16.wgsl"),
            Self::Q4_1 => include_str!("weights/q4_1.wgsl"),
            Self::Q8_0 => include_str!("weights/q8_0.wgsl"),
        }
    }
}

/// Weights on the device, `[rows, columns]`, row by row: a row for each output of a product.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Outputs of a product, entries of a table.
    pub rows: usize,
    /// Inputs of a product.
    pub columns: usize,
    /// How they are stored.
    pub format: Format,
    /// The bytes, as a file has them.
    pub values: wgpu::Buffer,
}

impl Matrix {
    /// Uploads weights as they are stored. `name` is what messages call them.
    ///
    /// # Errors
    /// Where there are more or fewer bytes than the sizes need, or a row isn't whole blocks.
    pub fn new(
        gpu: &Gpu,
        name: &str,
        format: Format,
        [rows, columns]: [usize; 2],
        bytes: &[u8],
    ) -> Result<Self> {
        let [weights, size] = format.block();
        ensure!(
            columns > 0 && columns.is_multiple_of(weights),
            "{name}: rows of {columns} weights, where {format:?} stores {weights} together"
        );
        let expected = rows * (columns / weights) * size;
        ensure!(
            bytes.len() == expected,
            "{name}: {} bytes, where [{rows}, {columns}] of {format:?} take {expected}",
            bytes.len()
        );
        // Kernels may read a word more than there is.
        let mut words = bytes.to_vec();
        words.resize(bytes.len().next_multiple_of(4) + 4, 0);
        Ok(Self { rows, columns, format, values: gpu.upload(&words) })
    }
}
