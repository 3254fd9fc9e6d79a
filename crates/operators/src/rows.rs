//! Activations, and the operators that look at each row, or each number, by itself.

use anyhow::{Result, ensure};

use crate::gpu::{Dispatch, Gpu, WORKGROUP_SIZE};
use crate::matrix::Matrix;

/// Numbers on the device, f32 `[rows, columns]`, row by row. Copies share them.
#[derive(Debug, Clone)]
pub struct Rows {
    /// How many rows.
    pub rows: usize,
    /// How many numbers each has: a multiple of 4.
    pub columns: usize,
    /// The numbers.
    pub values: wgpu::Buffer,
}

impl Rows {
    /// Zeros.
    pub fn zeros(gpu: &Gpu, rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: gpu.zeros(rows * columns) }
    }

    /// How many numbers there are.
    pub const fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    const fn quads(&self) -> usize {
        self.len() / 4
    }

    fn has_sizes_of(&self, other: &Self) -> bool {
        [self.rows, self.columns] == [other.rows, other.columns]
    }
}

/// What a norm multiplies with and adds.
#[derive(Debug, Clone)]
pub struct Norm {
    /// f32 `[columns]`
    pub gain: wgpu::Buffer,
    /// f32 `[columns]`: with it, the row's mean is taken off first (layer norm); without, it is an RMS norm.
    pub shift: Option<wgpu::Buffer>,
    /// Is added to the mean square.
    pub epsilon: f32,
}

impl Gpu {
    /// `y[row] = table[tokens[row]]`, or added to y; tokens are 32-bit integers, and one that is out of range counts as the
    /// last.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn embed(
        &self,
        table: &Matrix,
        tokens: &wgpu::Buffer,
        y: &Rows,
        accumulate: bool,
    ) -> Result<Dispatch> {
        ensure!(
            table.columns == y.columns && tokens.size() >= y.rows as u64 * 4,
            "embed: {} tokens from rows of {} don't give [{}, {}]",
            tokens.size() / 4,
            table.columns,
            y.rows,
            y.columns
        );
        let constants = format!("const ACCUMULATE: bool = {accumulate};\n{}", table.format.text());
        let sizes = [y.rows, table.rows, y.columns / 4];
        let buffers = [&table.values, tokens, &y.values];
        self.per_item((&constants, include_str!("kernels/embed.wgsl")), &sizes, &buffers, y.quads())
    }

    /// `y` is `x`, each row brought to a mean square of 1, times the gain. `inverse` gets 1 / root mean square of each row.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn norm(
        &self,
        x: &Rows,
        norm: &Norm,
        y: &Rows,
        inverse: Option<&wgpu::Buffer>,
    ) -> Result<Dispatch> {
        let bytes = x.columns as u64 * 4;
        ensure!(
            x.has_sizes_of(y)
                && [Some(&norm.gain), norm.shift.as_ref()]
                    .iter()
                    .flatten()
                    .all(|buffer| buffer.size() >= bytes),
            "norm: [{}, {}] to [{}, {}], with a gain of {}",
            x.rows,
            x.columns,
            y.rows,
            y.columns,
            norm.gain.size() / 4
        );
        let mut buffers = vec![&x.values, &norm.gain, &y.values];
        let mut constants = format!(
            "const CENTERED: bool = {};\nconst EPSILON: f32 = {:?};\n",
            norm.shift.is_some(),
            norm.epsilon
        );
        constants += match &norm.shift {
            Some(shift) => {
                buffers.push(shift);
                "@group(0) @binding(4) var<storage, read> shift: array<vec4<f32>>; // [columns4]\n\
                 fn shift_of(column: u32) -> vec4<f32> { return shift[column]; }\n"
            }
            None => "fn shift_of(column: u32) -> vec4<f32> { return vec4<f32>(); }\n",
        };
        match inverse {
            Some(inverse) => {
                buffers.push(inverse);
                constants += &format!(
                    "@group(0) @binding({}) var<storage, read_write> inverse: array<f32>; // [rows]\n\
                     fn keep_scale(row: u32, invocation: u32, scale: f32) {{\n    if invocation == 0u {{ inverse[row] = \
                     scale; }}\n}}\n",
                    buffers.len()
                );
            }
            None => constants += "fn keep_scale(row: u32, invocation: u32, scale: f32) {}\n",
        }
        let sizes = [x.rows, x.columns / 4].map(|size| size as u32);
        let text = include_str!("kernels/norm.wgsl");
        self.dispatch((&constants, text), &sizes, &buffers, [x.rows, 1])
    }

    /// `y = a + b`
    ///
    /// # Errors
    /// Where the sizes differ.
    pub fn add(&self, a: &Rows, b: &Rows, y: &Rows) -> Result<Dispatch> {
        self.of_two("add", include_str!("kernels/add.wgsl"), [a, b, y])
    }

    /// `y = silu(a) · b`, the gated activation of llama's feed-forward layer.
    ///
    /// # Errors
    /// Where the sizes differ.
    pub fn silu_product(&self, a: &Rows, b: &Rows, y: &Rows) -> Result<Dispatch> {
        self.of_two("silu_product", include_str!("kernels/silu_product.wgsl"), [a, b, y])
    }

    /// Each row of `y` is three neighbouring rows of `x` side by side, `stride` rows further each time and one row of zeros
    /// beyond the ends: a product with it is a convolution with a kernel of 3.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn unfold(&self, x: &Rows, stride: usize, y: &Rows) -> Result<Dispatch> {
        ensure!(
            y.columns == 3 * x.columns && stride > 0 && y.rows == x.rows.div_ceil(stride),
            "unfold: [{}, {}] with a stride of {stride} doesn't give [{}, {}]",
            x.rows,
            x.columns,
            y.rows,
            y.columns
        );
        let sizes = [y.rows, x.columns / 4, x.rows, stride];
        let text = include_str!("kernels/unfold.wgsl");
        self.per_item(("", text), &sizes, &[&x.values, &y.values], y.quads())
    }

    /// Each row of `y` is the mean of some rows of `x`, brought to length 1. `ranges` has the first row and the number of
    /// rows for each, 32-bit integers.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn pool(&self, x: &Rows, ranges: &wgpu::Buffer, y: &Rows) -> Result<Dispatch> {
        ensure!(
            x.columns == y.columns && ranges.size() >= y.rows as u64 * 8,
            "pool: rows of {} into {} rows of {}, with {} ranges",
            x.columns,
            y.rows,
            y.columns,
            ranges.size() / 8
        );
        let sizes = [y.rows, x.columns / 4, x.rows].map(|size| size as u32);
        let text = include_str!("kernels/pool.wgsl");
        self.dispatch(("", text), &sizes, &[&x.values, ranges, &y.values], [y.rows, 1])
    }

    /// `losses[row] = weights[row] (lse[row] − logits[row, labels[row]])`, the cross-entropy of each row; lse is written, too.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn cross_entropy(
        &self,
        logits: &Rows,
        [labels, weights, lse, losses]: [&wgpu::Buffer; 4],
    ) -> Result<Dispatch> {
        let per_row = [labels, weights, lse, losses];
        ensure!(
            per_row.iter().all(|buffer| buffer.size() >= logits.rows as u64 * 4),
            "cross_entropy: {} rows, and buffers for fewer",
            logits.rows
        );
        let sizes = [logits.rows, logits.columns];
        let buffers = [&logits.values, labels, weights, lse, losses];
        let text = include_str!("kernels/cross_entropy.wgsl");
        self.per_item(("", text), &sizes, &buffers, logits.rows)
    }

    fn of_two(&self, name: &str, text: &str, [a, b, y]: [&Rows; 3]) -> Result<Dispatch> {
        ensure!(
            a.has_sizes_of(b) && a.has_sizes_of(y),
            "{name}: [{}, {}], [{}, {}] and [{}, {}], where all three should be alike",
            a.rows,
            a.columns,
            b.rows,
            b.columns,
            y.rows,
            y.columns
        );
        self.per_item(("", text), &[a.quads()], &[&a.values, &b.values, &y.values], a.quads())
    }

    /// A kernel with an invocation for each item.
    fn per_item(
        &self,
        kernel: (&str, &str),
        sizes: &[usize],
        buffers: &[&wgpu::Buffer],
        items: usize,
    ) -> Result<Dispatch> {
        let sizes: Vec<u32> = sizes.iter().map(|&size| size as u32).collect();
        self.dispatch(kernel, &sizes, buffers, [items.div_ceil(WORKGROUP_SIZE), 1])
    }
}
