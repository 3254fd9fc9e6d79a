//! Operations as they are recorded: forward in order, backward in reverse.
//!
//! A tape is built once for fixed sizes; after that a step of training is new contents for the inputs and one submit.
//! The gradients that operations pass back start at zero, and each operation adds to those of its inputs: a tensor that
//! is read twice gets both shares. Every sum has a fixed order, so a run with the same seed gives the same bits.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, ensure};
use wgpu_attention::KvCache;

use super::attention::Attended;
use operators::{Dispatch, Format, Gpu, Matrix, Norm, Rows, WORKGROUP_SIZE};

/// Rows of the product that an invocation of matmul.wgsl makes.
const MATMUL_ROWS: usize = 16;

/// A matrix on the device, f32, row by row, with room for its gradient. Copies share both.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: wgpu::Buffer,
    pub(crate) gradient: wgpu::Buffer,
}

impl Tensor {
    pub(crate) fn zeros(gpu: &Gpu, rows: usize, columns: usize) -> Self {
        let [values, gradient] = [0, 1].map(|_| gpu.zeros(rows * columns));
        Self { rows, columns, values, gradient }
    }

    pub(crate) fn new(gpu: &Gpu, rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "a value for each element");
        Self { values: gpu.upload(values), ..Self::zeros(gpu, rows, columns) }
    }

    pub(crate) const fn len(&self) -> usize {
        self.rows * self.columns
    }

    fn as_rows(&self) -> Rows {
        Rows { rows: self.rows, columns: self.columns, values: self.values.clone() }
    }
}

pub(super) type Step = Box<dyn Fn(&mut wgpu::CommandEncoder) -> Result<()>>;

/// The recorded operations.
pub(crate) struct Tape<'g> {
    pub(super) gpu: &'g Gpu,
    pub(super) training: bool,
    pub(super) forward: Vec<Step>,
    pub(super) backward: Vec<Step>,
    /// The gradients that [`Tape::encode_backward`] adds to.
    pub(super) gradients: Vec<wgpu::Buffer>,
    pub(super) attended: Vec<Attended>,
    pub(super) caches: Vec<Rc<RefCell<KvCache>>>,
}

impl<'g> Tape<'g> {
    /// A tape with a way back.
    pub(crate) const fn for_training(gpu: &'g Gpu) -> Self {
        Self::new(gpu, true)
    }

    /// A tape that only runs forward.
    pub(crate) const fn for_inference(gpu: &'g Gpu) -> Self {
        Self::new(gpu, false)
    }

    const fn new(gpu: &'g Gpu, training: bool) -> Self {
        Self {
            gpu,
            training,
            forward: Vec::new(),
            backward: Vec::new(),
            gradients: Vec::new(),
            attended: Vec::new(),
            caches: Vec::new(),
        }
    }

    pub(crate) const fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// Records the forward pass.
    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.forward.iter().try_for_each(|step| step(encoder))
    }

    /// Records that all gradients become zero.
    pub(crate) fn encode_zero_gradients(&self, encoder: &mut wgpu::CommandEncoder) {
        self.gradients.iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
    }

    /// Records the backward pass.
    pub(crate) fn encode_backward(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.backward.iter().rev().try_for_each(|step| step(encoder))
    }

    /// Runs the forward pass alone.
    pub(crate) fn run(&self) -> Result<()> {
        let mut encoder = self.gpu.encoder();
        self.encode(&mut encoder)?;
        self.gpu.submit(encoder);
        Ok(())
    }

    /// The rows of `table` that the tokens name (i32, one per row; what is out of range counts as the last).
    pub(crate) fn embed(
        &mut self,
        table: &Tensor,
        tokens: &wgpu::Buffer,
        rows: usize,
    ) -> Result<Tensor> {
        let y = Tensor::zeros(self.gpu, rows, table.columns);
        let sizes = [rows, table.rows, table.columns / 4].map(|size| size as u32);
        let entries = Matrix {
            rows: table.rows,
            columns: table.columns,
            format: Format::F32,
            values: table.values.clone(),
        };
        self.push_forward(self.gpu.embed(&entries, tokens, &y.as_rows(), false)?);
        self.backward(
            &[table],
            &[(
                include_str!("embed_backward.wgsl"),
                &sizes,
                &[&y.gradient, tokens, &table.gradient],
                table.len() / 4,
            )],
        )?;
        Ok(y)
    }

    /// `x w`
    pub(crate) fn linear(&mut self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        ensure!(
            x.columns == w.rows,
            "linear: {} columns meet a matrix of {} rows",
            x.columns,
            w.rows
        );
        let y = Tensor::zeros(self.gpu, x.rows, w.columns);
        let [rows, inner, columns] = [x.rows, x.columns, w.columns];
        let product = self.matmul(
            [false, false, false],
            [&x.values, &w.values, &y.values],
            [rows, columns, inner],
        )?;
        self.push_forward(product);
        if self.training {
            ensure!(rows.is_multiple_of(4), "linear: {rows} rows to train on, not a multiple of 4");
            // dx += dy wᵀ, dw += xᵀ dy
            let dx = self.matmul(
                [false, true, true],
                [&y.gradient, &w.values, &x.gradient],
                [rows, inner, columns],
            )?;
            let dw = self.matmul(
                [true, false, true],
                [&x.values, &y.gradient, &w.gradient],
                [inner, columns, rows],
            )?;
            self.push_backward(&[x, w], vec![dx, dw]);
        }
        Ok(y)
    }

    /// RMS norm: each row divided by the root of its mean square, times `gain` per column.
    pub(crate) fn norm(&mut self, x: &Tensor, gain: &Tensor) -> Result<Tensor> {
        let y = Tensor::zeros(self.gpu, x.rows, x.columns);
        // 1 / root mean square of each row, for the way back.
        let inverse = self.gpu.zeros(x.rows);
        let sizes = [x.rows, x.columns / 4].map(|size| size as u32);
        let norm = Norm { gain: gain.values.clone(), shift: None, epsilon: 1e-5 };
        self.push_forward(self.gpu.norm(&x.as_rows(), &norm, &y.as_rows(), Some(&inverse))?);
        self.backward(
            &[x, gain],
            &[
                (
                    include_str!("norm_backward.wgsl"),
                    &sizes,
                    &[&x.values, &gain.values, &inverse, &y.gradient, &x.gradient],
                    x.rows,
                ),
                (
                    include_str!("norm_backward_gain.wgsl"),
                    &sizes,
                    &[&x.values, &inverse, &y.gradient, &gain.gradient],
                    x.columns / 4,
                ),
            ],
        )?;
        Ok(y)
    }

    /// GELU, in the form with tanh.
    pub(crate) fn gelu(&mut self, x: &Tensor) -> Result<Tensor> {
        let y = Tensor::zeros(self.gpu, x.rows, x.columns);
        let quads = x.len() / 4;
        self.forward(include_str!("gelu.wgsl"), &[quads as u32], &[&x.values, &y.values], quads)?;
        self.backward(
            &[x],
            &[(
                include_str!("gelu_backward.wgsl"),
                &[quads as u32],
                &[&x.values, &y.gradient, &x.gradient],
                quads,
            )],
        )?;
        Ok(y)
    }

    /// `a + b`
    pub(crate) fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        ensure!([a.rows, a.columns] == [b.rows, b.columns], "add: two sizes");
        let y = Tensor::zeros(self.gpu, a.rows, a.columns);
        let quads = a.len() / 4;
        let sizes = [quads as u32];
        self.push_forward(self.gpu.add(&a.as_rows(), &b.as_rows(), &y.as_rows())?);
        let accumulate = include_str!("accumulate.wgsl");
        self.backward(
            &[a, b],
            &[
                (accumulate, &sizes, &[&y.gradient, &a.gradient], quads),
                (accumulate, &sizes, &[&y.gradient, &b.gradient], quads),
            ],
        )?;
        Ok(y)
    }

    /// Rotary positions: every head's pairs of components turned by their row's position (i32, one per row).
    pub(crate) fn rotate(
        &mut self,
        x: &Tensor,
        positions: &wgpu::Buffer,
        heads: usize,
    ) -> Result<Tensor> {
        let half = x.columns / heads / 2;
        ensure!(half * heads * 2 == x.columns, "rotate: heads of an even number of components");
        let y = Tensor::zeros(self.gpu, x.rows, x.columns);
        let sizes = [x.rows, x.columns, half].map(|size| size as u32);
        let text = include_str!("rotate.wgsl");
        let workgroups = [(x.len() / 2).div_ceil(WORKGROUP_SIZE), 1];
        let constants = |backward| format!("const BACKWARD: bool = {backward};");
        let turn = (constants(false), [positions, &x.values, &y.values]);
        let turn = self.gpu.dispatch((&turn.0, text), &sizes, &turn.1, workgroups)?;
        self.push_forward(turn);
        if self.training {
            let back = (constants(true), [positions, &y.gradient, &x.gradient]);
            let back = self.gpu.dispatch((&back.0, text), &sizes, &back.1, workgroups)?;
            self.push_backward(&[x], vec![back]);
        }
        Ok(y)
    }

    /// The loss of each row, `weight · −log softmax(logits)[target]`; the tape's loss is their sum. A row of weight 0,
    /// such as padding, counts for nothing.
    pub(crate) fn cross_entropy(
        &mut self,
        logits: &Tensor,
        targets: &wgpu::Buffer,
        weights: &wgpu::Buffer,
    ) -> Result<wgpu::Buffer> {
        let [losses, lse] = [0, 1].map(|_| self.gpu.zeros(logits.rows));
        let sizes = [logits.rows, logits.columns].map(|size| size as u32);
        let per_row = [targets, weights, &lse, &losses];
        self.push_forward(self.gpu.cross_entropy(&logits.as_rows(), per_row)?);
        self.backward(
            &[logits],
            &[(
                include_str!("cross_entropy_backward.wgsl"),
                &sizes,
                &[&logits.values, targets, weights, &lse, &logits.gradient],
                logits.len(),
            )],
        )?;
        Ok(losses)
    }

    fn matmul(
        &self,
        [a_transposed, b_transposed, accumulate]: [bool; 3],
        buffers: [&wgpu::Buffer; 3],
        [rows, columns, steps]: [usize; 3],
    ) -> Result<Dispatch> {
        ensure!(
            columns.is_multiple_of(4) && steps.is_multiple_of(4),
            "matmul: {columns} columns, {steps} steps: not multiples of 4"
        );
        let constants = format!(
            "const ROWS: u32 = {MATMUL_ROWS}u;\nconst A_TRANSPOSED: bool = {a_transposed};\n\
             const B_TRANSPOSED: bool = {b_transposed};\nconst ACCUMULATE: bool = {accumulate};"
        );
        let sizes = [rows, columns, steps].map(|size| size as u32);
        let workgroups = [(columns / 4).div_ceil(WORKGROUP_SIZE), rows.div_ceil(MATMUL_ROWS)];
        self.gpu.dispatch((&constants, include_str!("matmul.wgsl")), &sizes, &buffers, workgroups)
    }

    fn forward(
        &mut self,
        text: &str,
        sizes: &[u32],
        buffers: &[&wgpu::Buffer],
        invocations: usize,
    ) -> Result<()> {
        let dispatch = self.gpu.dispatch(
            ("", text),
            sizes,
            buffers,
            [invocations.div_ceil(WORKGROUP_SIZE), 1],
        )?;
        self.push_forward(dispatch);
        Ok(())
    }

    /// Kernels that add to the gradients of `inputs`: text, sizes, buffers, invocations.
    fn backward(
        &mut self,
        inputs: &[&Tensor],
        kernels: &[(&str, &[u32], &[&wgpu::Buffer], usize)],
    ) -> Result<()> {
        if !self.training {
            return Ok(());
        }
        let dispatches = kernels
            .iter()
            .map(|(text, sizes, buffers, invocations)| {
                let workgroups = [invocations.div_ceil(WORKGROUP_SIZE), 1];
                self.gpu.dispatch(("", text), sizes, buffers, workgroups)
            })
            .collect::<Result<_>>()?;
        self.push_backward(inputs, dispatches);
        Ok(())
    }

    fn push_forward(&mut self, dispatch: Dispatch) {
        self.forward.push(Box::new(move |encoder| {
            dispatch.encode(encoder);
            Ok(())
        }));
    }

    fn push_backward(&mut self, inputs: &[&Tensor], dispatches: Vec<Dispatch>) {
        for input in inputs {
            if !self.gradients.contains(&input.gradient) {
                self.gradients.push(input.gradient.clone());
            }
        }
        self.backward.push(Box::new(move |encoder| {
            dispatches.iter().for_each(|dispatch| dispatch.encode(encoder));
            Ok(())
        }));
    }
}
