//! What the models' layers are made of.

use anyhow::{Result, ensure};
use operators::{Dispatch, Format, Gpu, Matrix, Norm, Rows, Then};
use wgpu_attention_tools::files::TensorFile;

/// A matrix with a bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<wgpu::Buffer>,
}

impl Linear {
    /// `y = x Wᵀ + b`, and what `then` says.
    pub(crate) fn dispatch(
        &self,
        gpu: &Gpu,
        x: &Rows,
        y: &Rows,
        then: Then<'_>,
    ) -> Result<Dispatch> {
        gpu.product(x, &self.weight, y, Then { bias: self.bias.as_ref(), ..then })
    }
}

/// GELU of the sums.
pub(crate) const GELU: Then<'_> = Then { bias: None, gelu: true, accumulate: false };

/// The sums are added to what is there: the residual stream.
pub(crate) const ADD: Then<'_> = Then { bias: None, gelu: false, accumulate: true };

/// Layers' weights in a safetensors file.
pub(crate) struct Tensors<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) file: &'a TensorFile,
}

impl Tensors<'_> {
    /// The values of a tensor of these sizes.
    pub(crate) fn values(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.file.read_f32(name)?;
        ensure!(tensor.dims == dims, "{name}: sizes {:?}, where {dims:?} is expected", tensor.dims);
        Ok(tensor.values)
    }

    pub(crate) fn matrix(&self, name: &str, sizes: [usize; 2]) -> Result<Matrix> {
        let values = self.values(name, &sizes)?;
        Matrix::new(self.gpu, name, Format::F32, sizes, bytemuck::cast_slice(&values))
    }

    pub(crate) fn row(&self, name: &str, size: usize) -> Result<wgpu::Buffer> {
        Ok(self.gpu.upload(&self.values(name, &[size])?))
    }

    /// `NAME.weight` and `NAME.bias`.
    pub(crate) fn linear(&self, name: &str, sizes: [usize; 2]) -> Result<Linear> {
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), sizes)?,
            bias: Some(self.row(&format!("{name}.bias"), sizes[0])?),
        })
    }

    /// A layer norm.
    pub(crate) fn norm(&self, name: &str, size: usize, epsilon: f32) -> Result<Norm> {
        Ok(Norm {
            gain: self.row(&format!("{name}.weight"), size)?,
            shift: Some(self.row(&format!("{name}.bias"), size)?),
            epsilon,
        })
    }
}
