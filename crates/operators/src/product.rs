//! Products of rows with matrices of weights.

use anyhow::{Result, ensure};

use crate::gpu::{Dispatch, Gpu, WORKGROUP_SIZE};
use crate::matrix::Matrix;
use crate::rows::Rows;

/// Up to so many rows weights are read once and are what takes time; for more, tiles are shared in workgroup memory.
const FEW: usize = 8;
/// What kernels/product_tiled.wgsl has in a workgroup.
const TILE: [usize; 2] = [32, 64];
/// The same of kernels/product_few.wgsl: outputs.
const FEW_OUTPUTS: usize = 2 * (WORKGROUP_SIZE / 16);

/// What becomes of a product's sums, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Then<'a> {
    /// Is added: f32 `[outputs]`.
    pub bias: Option<&'a wgpu::Buffer>,
    /// GELU is applied, the exact form with erf.
    pub gelu: bool,
    /// The result is added to what is in y already.
    pub accumulate: bool,
}

impl Gpu {
    /// `y = x wᵀ`, and what `then` says.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn product(&self, x: &Rows, w: &Matrix, y: &Rows, then: Then<'_>) -> Result<Dispatch> {
        ensure!(
            x.rows == y.rows && x.columns == w.columns && y.columns == w.rows,
            "product: [{}, {}] times [{}, {}]ᵀ doesn't give [{}, {}]",
            x.rows,
            x.columns,
            w.rows,
            w.columns,
            y.rows,
            y.columns
        );
        let mut buffers = vec![&w.values, &x.values, &y.values];
        let bias = match then.bias {
            Some(bias) => {
                ensure!(bias.size() >= w.rows as u64 * 4, "product: a bias of {} outputs", w.rows);
                buffers.push(bias);
                "@group(0) @binding(4) var<storage, read> biases: array<f32>; // [outputs]\n\
                 fn bias_of(output: u32) -> f32 { return biases[output]; }"
            }
            None => "fn bias_of(output: u32) -> f32 { return 0.0; }",
        };
        let mut constants =
            format!("{bias}\n{}\n{}", w.format.text(), include_str!("kernels/epilogue.wgsl"),);
        let flags = usize::from(then.gelu) + 2 * usize::from(then.accumulate);
        let sizes = [x.rows, w.rows, w.columns / 4, flags].map(|size| size as u32);
        let (text, workgroups) = if x.rows <= FEW {
            let rows = x.rows.next_power_of_two();
            constants = format!("const ROWS: u32 = {rows}u;\n{constants}");
            (include_str!("kernels/product_few.wgsl"), [w.rows.div_ceil(FEW_OUTPUTS), 1])
        } else {
            let workgroups = [w.rows.div_ceil(TILE[1]), x.rows.div_ceil(TILE[0])];
            (include_str!("kernels/product_tiled.wgsl"), workgroups)
        };
        self.dispatch((&constants, text), &sizes, &buffers, workgroups)
    }
}
