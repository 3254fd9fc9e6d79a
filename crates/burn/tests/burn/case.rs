//! A problem with numbers, as burn's tensors and as the reference takes it.

use burn::tensor::{Device, Tensor};
use wgpu_attention::reference::{self, Reference, ReferenceGradients};
use wgpu_attention::{AuxData, Inputs, Mask, Problem, ScoreModifiers, Shape, Upstream};
use wgpu_attention_burn::Options;

use crate::support::{Values, numbers, tensor};

/// A problem with its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) mask: Mask,
    /// What the mask and ALiBi read.
    pub(crate) data: AuxData,
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: Option<f32>,
    pub(crate) alibi: bool,
    /// The sizes of a bias.
    pub(crate) bias: Option<[usize; 4]>,
    pub(crate) sinks: bool,
    pub(crate) values: Values,
}

/// A case's operands.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) sinks: Vec<f32>,
    pub(crate) dout: Vec<f32>,
}

/// A case's operands as tensors.
#[derive(Debug, Clone)]
pub(crate) struct Tensors {
    pub(crate) q: Tensor<4>,
    pub(crate) k: Tensor<4>,
    pub(crate) v: Tensor<4>,
    pub(crate) bias: Option<Tensor<4>>,
    pub(crate) sinks: Option<Tensor<1>>,
    pub(crate) dout: Tensor<4>,
}

impl Case {
    pub(crate) fn new(shape: Shape, mask: Mask) -> Self {
        Self {
            shape,
            mask,
            data: AuxData::new(),
            scale: None,
            softcap: None,
            alibi: false,
            bias: None,
            sinks: false,
            values: Values::Random,
        }
    }

    pub(crate) fn data(self, data: AuxData) -> Self {
        Self { data, ..self }
    }

    pub(crate) fn values(self, values: Values) -> Self {
        Self { values, ..self }
    }

    pub(crate) fn numbers(&self) -> Numbers {
        let Shape { num_heads, .. } = self.shape;
        let fill = |len, seed| numbers(self.values, len, seed);
        let len = |dims: [usize; 4]| dims.iter().product::<usize>();
        Numbers {
            q: fill(len(self.shape.q_dims()), 1),
            k: fill(len(self.shape.k_dims()), 2),
            v: fill(len(self.shape.v_dims()), 3),
            bias: numbers(Values::Random, self.bias.map_or(0, len), 4),
            sinks: numbers(Values::Random, if self.sinks { num_heads } else { 0 }, 5),
            dout: numbers(Values::Random, len(self.shape.o_dims()), 6),
        }
    }

    /// The operands on a device; where it has autodiff, with gradients.
    pub(crate) fn tensors(&self, numbers: &Numbers, device: &Device) -> Tensors {
        let with = |numbers: &[f32], dims| {
            let tensor = tensor(numbers, dims, device);
            if device.is_autodiff() { tensor.require_grad() } else { tensor }
        };
        let sinks = || {
            let sinks = tensor(&numbers.sinks, [self.shape.num_heads], device);
            if device.is_autodiff() { sinks.require_grad() } else { sinks }
        };
        Tensors {
            q: with(&numbers.q, self.shape.q_dims()),
            k: with(&numbers.k, self.shape.k_dims()),
            v: with(&numbers.v, self.shape.v_dims()),
            bias: self.bias.map(|dims| with(&numbers.bias, dims)),
            sinks: self.sinks.then(sinks),
            dout: tensor(&numbers.dout, self.shape.o_dims(), device),
        }
    }

    pub(crate) fn options(&self, tensors: &Tensors) -> Options {
        Options::new(self.mask.clone())
            .aux(self.data.clone())
            .scale(self.scale)
            .softcap(self.softcap)
            .alibi(self.alibi)
            .bias(tensors.bias.clone())
            .sinks(tensors.sinks.clone())
    }

    /// The problem and the data for the reference.
    fn problem(&self, numbers: &Numbers) -> (Problem, AuxData) {
        let mut score =
            ScoreModifiers::default().bias(self.bias.is_some()).alibi(self.alibi).sinks(self.sinks);
        if let Some(softcap) = self.softcap {
            score = score.softcap(softcap);
        }
        let mut data = self.data.clone();
        if let Some(dims) = self.bias {
            data = data.bias(dims, numbers.bias.clone());
        }
        if self.sinks {
            data = data.sinks(numbers.sinks.clone());
        }
        let mut problem = Problem::new(self.shape).mask(self.mask.clone()).score(score);
        if let Some(scale) = self.scale {
            problem = problem.scale(scale);
        }
        (problem.aux_shape(data.shape()), data)
    }

    pub(crate) fn reference(&self, numbers: &Numbers) -> Reference {
        let (problem, data) = self.problem(numbers);
        let inputs = Inputs::new(&numbers.q, &numbers.k, &numbers.v).aux(&data);
        reference::attention(&problem, &inputs).expect("a valid case")
    }

    pub(crate) fn gradients(&self, numbers: &Numbers) -> ReferenceGradients {
        let (problem, data) = self.problem(numbers);
        let inputs = Inputs::new(&numbers.q, &numbers.k, &numbers.v).aux(&data);
        let upstream = Upstream::new(&numbers.dout);
        reference::gradients(&problem, &inputs, &upstream).expect("a valid case")
    }
}
