//! A plan's mask buffer: the slots, the caller's data, and the tables that small kernels make from them on the device.

use std::sync::Arc;

use super::buffers::{MaskBuffers, Operand, check_binding_size};
use super::{Dispatch, begin_pass, bind, filled_buffer, params_buffer};
use crate::error::Result;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::tile_map_parts;
use crate::mask::MaskInput;
use crate::mask::emit::{FAULT_SLOT, MaskLayout, MaskText, TileGrid};
use crate::problem::Problem;

/// The mask buffer of one plan.
#[derive(Debug)]
pub(crate) struct MaskTables {
    pub(crate) text: Arc<MaskText>,
    pub(crate) layout: MaskLayout,
    pub(crate) buffer: wgpu::Buffer,
    /// What fills in the tables, in order.
    makers: Vec<(Dispatch, wgpu::BindGroup)>,
}

impl MaskTables {
    /// Makes the buffer and the kernels that fill it; with the tile map that kernels over `grid` need.
    pub(crate) fn new(
        kernels: &Kernels,
        problem: &Problem,
        grid: Option<TileGrid>,
    ) -> Result<Self> {
        for (custom, usage) in problem.customs() {
            kernels.check_custom(custom, usage)?;
        }
        let text = Arc::new(MaskText::new(&problem.mask, problem.shape.sequences.forms()));
        let layout = MaskLayout::new(
            &problem.mask,
            &copied_inputs(problem),
            problem.score_mod.as_ref(),
            &problem.shape,
            &problem.data,
            grid,
        )?;
        let bytes = layout.words as u64 * 4;
        check_binding_size(kernels, "the mask's data", bytes)?;

        let device = kernels.device();
        let buffer = crate::device::scoped(device, "allocating the mask's buffer", || {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("attention mask"),
                size: bytes,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            });
            let head = (layout.head.len() * 4) as u64;
            let filled = buffer.get_mapped_range_mut(..head).map(|mut range| {
                range.copy_from_slice(bytemuck::cast_slice(&layout.head));
            });
            buffer.unmap();
            filled.map(|()| buffer)
        })?
        .map_err(|error| crate::error::Error::Device {
            during: "filling the mask's buffer",
            message: error.to_string(),
        })?;

        let mut tables = Self { text, layout, buffer, makers: Vec::new() };
        tables.add_makers(kernels, problem, grid)?;
        Ok(tables)
    }

    fn add_makers(
        &mut self,
        kernels: &Kernels,
        problem: &Problem,
        grid: Option<TileGrid>,
    ) -> Result<()> {
        let [batch, heads] = self.layout.broadcast;
        let rows = batch * heads * problem.shape.seq_len_q;
        let mut makers: Vec<(KernelKey, usize)> = (0..self.text.rows_alone.len())
            .map(|node| {
                let mask = Arc::clone(&self.text);
                let key = KernelKey::RowsAlone { node, mask };
                (key, rows.div_ceil(WORKGROUP_SIZE as usize))
            })
            .collect();
        if !problem.shape.sequences.are_uniform() {
            makers.insert(0, (KernelKey::SequencesCheck { mask: Arc::clone(&self.text) }, 1));
        }
        if let (Some(grid), Some([map_rows, row_words])) = (grid, self.layout.tile_map) {
            let mask = Arc::clone(&self.text);
            let parts = tile_map_parts(kernels.traits());
            let key = KernelKey::TileMap { grid, parts, mask };
            makers.push((key, batch * heads * map_rows * row_words));
        }
        if makers.is_empty() {
            return Ok(());
        }
        // The makers look at whole rows and tiles of the map; blocks of queries mean nothing to them.
        let params = params_buffer(kernels.device(), &Params::new(problem, &self.layout, 1)?);
        for (key, workgroups) in makers {
            let dispatch = Dispatch::new(kernels, kernels.pipeline(key)?, workgroups)?;
            let bind_group = bind(
                kernels.device(),
                &dispatch.pipeline,
                &[params.as_entire_binding(), self.buffer.as_entire_binding()],
            );
            self.makers.push((dispatch, bind_group));
        }
        Ok(())
    }

    /// The mask's inputs among the caller's buffers, checked.
    pub(crate) fn operands<'a>(&'a self, data: &MaskBuffers<'a>) -> Result<Vec<Operand<'a>>> {
        (self.layout.inputs.iter())
            .map(|(input, _, words)| {
                let operand = Operand::new(input.as_str(), data.get(input)?, *words);
                operand.check(wgpu::BufferUsages::COPY_SRC, wgpu::COPY_BUFFER_ALIGNMENT)?;
                Ok(operand)
            })
            .collect()
    }

    /// Records the copy of the caller's data and the making of the tables.
    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder, operands: &[Operand<'_>]) {
        for (operand, (_, at, _)) in operands.iter().zip(&self.layout.inputs) {
            if operand.bytes > 0 {
                encoder.copy_buffer_to_buffer(
                    operand.slice.buffer(),
                    operand.slice.offset(),
                    &self.buffer,
                    *at as u64 * 4,
                    operand.bytes,
                );
            }
        }
        if self.makers.is_empty() {
            return;
        }
        let mut pass = begin_pass(encoder, "mask tables");
        for (dispatch, bind_group) in &self.makers {
            dispatch.encode(&mut pass, bind_group);
        }
    }

    /// Records the copy of what `sequences_check` found to `destination`, of one word.
    pub(crate) fn copy_fault(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        destination: wgpu::BufferSlice<'_>,
    ) -> Result<()> {
        let operand = Operand::new("destination", destination, 1);
        operand.check(wgpu::BufferUsages::COPY_DST, wgpu::COPY_BUFFER_ALIGNMENT)?;
        let (buffer, at) = (destination.buffer(), destination.offset());
        encoder.copy_buffer_to_buffer(&self.buffer, FAULT_SLOT as u64 * 4, buffer, at, 4);
        Ok(())
    }

    /// Records that what `sequences_check` found is forgotten.
    pub(crate) fn clear_fault(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(&self.buffer, FAULT_SLOT as u64 * 4, Some(4));
    }

    /// A buffer to bind where a tensor has no elements.
    pub(crate) fn empty_buffer(kernels: &Kernels) -> wgpu::Buffer {
        filled_buffer(kernels.device(), "empty tensor", &[0; 16], wgpu::BufferUsages::STORAGE)
    }
}

/// What is copied to the mask buffer: all that the problem reads but the bias, which is as large as it is.
fn copied_inputs(problem: &Problem) -> Vec<MaskInput> {
    problem.inputs().into_iter().filter(|&input| input != MaskInput::Bias).collect()
}
