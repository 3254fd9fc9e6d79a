//! What a model learns, by name; from a seed or from a file, and back into one.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use wgpu_attention::Dtype;
use wgpu_attention_tools::files::{TensorFile, TensorWriter};

use super::common::normal;
use super::tape::Tensor;
use operators::Gpu;

/// The tensors that models share: the first that asks for a name makes it, whoever asks again gets the same.
pub(crate) struct Parameters<'g> {
    gpu: &'g Gpu,
    source: Source,
    tensors: BTreeMap<String, Tensor>,
}

enum Source {
    Seed(u64),
    File(TensorFile),
}

impl<'g> Parameters<'g> {
    /// Random ones, the same for the same seed.
    pub(crate) const fn random(gpu: &'g Gpu, seed: u64) -> Self {
        Self { gpu, source: Source::Seed(seed), tensors: BTreeMap::new() }
    }

    /// Those of a file that [`Parameters::save`] wrote.
    pub(crate) const fn from_file(gpu: &'g Gpu, file: TensorFile) -> Self {
        Self { gpu, source: Source::File(file), tensors: BTreeMap::new() }
    }

    pub(crate) const fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// A matrix of random numbers with this standard deviation.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        [rows, columns]: [usize; 2],
        deviation: f32,
    ) -> Result<Tensor> {
        self.get(name, [rows, columns], |seed| {
            normal(seed, rows * columns).iter().map(|value| value * deviation).collect()
        })
    }

    /// A row of ones.
    pub(crate) fn gain(&mut self, name: &str, columns: usize) -> Result<Tensor> {
        self.get(name, [1, columns], |_| vec![1.0; columns])
    }

    fn get(
        &mut self,
        name: &str,
        [rows, columns]: [usize; 2],
        make: impl FnOnce(u64) -> Vec<f32>,
    ) -> Result<Tensor> {
        if let Some(tensor) = self.tensors.get(name) {
            ensure!([tensor.rows, tensor.columns] == [rows, columns], "{name}: two sizes");
            return Ok(tensor.clone());
        }
        let values = match &self.source {
            Source::Seed(seed) => make((seed << 32) + self.tensors.len() as u64),
            Source::File(file) => {
                let stored = file.read_f32(name)?;
                ensure!(
                    stored.dims == [rows, columns],
                    "{name}: {:?} where the model has [{rows}, {columns}]",
                    stored.dims
                );
                stored.values
            }
        };
        let tensor = Tensor::new(self.gpu, rows, columns, &values);
        self.tensors.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many numbers they are.
    pub(crate) fn count(&self) -> usize {
        self.tensors.values().map(Tensor::len).sum()
    }

    /// Adds them to a file's tensors, rounded to f16: half the size, and finer than training left them.
    pub(crate) fn write(&self, mut writer: TensorWriter) -> Result<TensorWriter> {
        for (name, tensor) in self.iter() {
            let values = self.gpu.read(&tensor.values, tensor.len())?;
            writer = writer.floats(name, &[tensor.rows, tensor.columns], &values, Dtype::F16);
        }
        Ok(writer)
    }
}
