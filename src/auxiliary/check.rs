//! Whether what was given is there, fits the problem, and holds what a kernel may go by.

use std::sync::Arc;

use super::data::AuxData;
use super::{AuxSpec, AuxTensor};
use crate::error::{Error, Result};
use crate::tensor::shape::{Shape, elements};

/// Looks at the values of a tensor.
pub(crate) type Check = Arc<dyn Fn(&Values<'_>) -> Result<()>>;

/// A tensor whose values are looked at: there are as many as its sizes say.
pub(crate) struct Values<'a> {
    pub(crate) input: AuxTensor,
    pub(crate) words: &'a [u32],
    pub(crate) sizes: &'a [usize],
    pub(crate) shape: &'a Shape,
    /// The rest of the data; what stands before this tensor in the list of the problem's has been checked.
    pub(crate) data: &'a AuxData,
}

impl AuxData {
    /// Whether what a problem reads ([`crate::Problem::aux_specs`]) is there, fits `shape`, and has values that kernels can
    /// go by.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first tensor that doesn't.
    pub fn check(&self, tensors: &[AuxSpec], shape: &Shape) -> Result<()> {
        for tensor in tensors {
            let (input, name) = (tensor.input, tensor.input.name());
            let Some(found) = self.len(input) else {
                return Err(Error::operand(name, "data, for the mask names it", "none"));
            };
            let sizes = tensor.sizes(self.sizes(input))?;
            let expected = elements(&name, &sizes)?;
            if found != expected {
                return Err(Error::operand(
                    name,
                    format!("{expected} elements ({sizes:?})"),
                    format!("{found} elements"),
                ));
            }
            let words = self.words(input);
            if let Some(check) = &tensor.check {
                check(&Values { input, words, sizes: &sizes, shape, data: self })?;
            }
        }
        Ok(())
    }
}

impl Values<'_> {
    /// The error about one value.
    pub(crate) fn wrong(&self, index: usize, expected: impl Into<String>) -> Error {
        let (input, expected) = (self.input, expected.into());
        Error::operand(format!("{input}[{index}]"), expected, self.words[index].cast_signed())
    }

    /// Lengths from 0 to `most`, which is called `limit`.
    pub(crate) fn lengths(&self, limit: &str, most: usize) -> Result<()> {
        self.each(|_, length| {
            let fits = usize::try_from(length).is_ok_and(|length| length <= most);
            (!fits).then(|| format!("0 to {limit} = {most}"))
        })
    }

    /// Refuses the first value for which `expected` says what it should have been.
    pub(crate) fn each(&self, expected: impl Fn(usize, i32) -> Option<String>) -> Result<()> {
        let wrong = |(at, word): (usize, &u32)| {
            expected(at, word.cast_signed()).map(|expected| self.wrong(at, expected))
        };
        self.words.iter().enumerate().find_map(wrong).map_or(Ok(()), Err)
    }
}
