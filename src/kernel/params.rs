//! The uniform block of every kernel: shaders/common/problem.wgsl's `Params`.

use bytemuck::{Pod, Zeroable};

use crate::error::Result;
use crate::mask::layout::MaskLayout;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::sequences::KeySequences;
use crate::tensor::shape::Strides;

/// The problem's sizes, laid out as WGSL has them; a test compares the two by reflection.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) q_strides: [u32; 4],
    pub(crate) k_strides: [u32; 4],
    pub(crate) v_strides: [u32; 4],
    pub(crate) o_strides: [u32; 4],
    pub(crate) bias_strides: [u32; 4],
    pub(crate) dout_strides: [u32; 4],
    pub(crate) dq_strides: [u32; 4],
    pub(crate) dk_strides: [u32; 4],
    pub(crate) dv_strides: [u32; 4],
    pub(crate) new_k_strides: [u32; 4],
    pub(crate) new_v_strides: [u32; 4],
    pub(crate) rotated_q_strides: [u32; 4],
    pub(crate) batch: u32,
    pub(crate) num_heads: u32,
    pub(crate) group_size: u32,
    pub(crate) seq_len_q: u32,
    pub(crate) seq_len_kv: u32,
    pub(crate) head_dim: u32,
    pub(crate) head_dim_v: u32,
    pub(crate) q_blocks: u32,
    pub(crate) scale_sign: f32,
    pub(crate) scale_abs: f32,
    pub(crate) softmax_scale: f32,
    pub(crate) softmax_scale_log2: f32,
    pub(crate) softcap: f32,
    pub(crate) negative_infinity: f32,
    pub(crate) output_mode: u32,
    pub(crate) mask_batch: u32,
    pub(crate) mask_heads: u32,
    pub(crate) tile_map_rows: u32,
    pub(crate) tile_map_row_words: u32,
    pub(crate) q_rows: u32,
    pub(crate) kv_rows: u32,
    pub(crate) block_size: u32,
    pub(crate) blocks: u32,
    pub(crate) blocks_per_sequence: u32,
    pub(crate) part_strides: [u32; 4],
    pub(crate) stats_stride: u32,
    pub(crate) num_splits: u32,
    pub(crate) first_workgroup: u32,
    pub(crate) end_workgroup: u32,
    pub(crate) q_base: u32,
    pub(crate) k_base: u32,
    pub(crate) v_base: u32,
    pub(crate) o_base: u32,
    pub(crate) bias_base: u32,
    pub(crate) dout_base: u32,
    pub(crate) dq_base: u32,
    pub(crate) dk_base: u32,
    pub(crate) dv_base: u32,
    pub(crate) new_k_base: u32,
    pub(crate) new_v_base: u32,
    pub(crate) rotated_q_base: u32,
    pub(crate) part_base: u32,
    pub(crate) lse_base: u32,
    pub(crate) output_base: u32,
    pub(crate) cells_first_workgroup: u32,
    pub(crate) cells_end_workgroup: u32,
    pub(crate) slice: u32,
    pub(crate) index_block: u32,
    pub(crate) index_count: u32,
    pub(crate) index_heads: u32,
    pub(crate) first_row: u32,
    pub(crate) end_row: u32,
    pub(crate) first_head: u32,
    pub(crate) end_head: u32,
    pub(crate) windows_follow: u32,
    pub(crate) first_split: u32,
    pub(crate) padding: u32,
    pub(crate) first_own_row: u32,
    pub(crate) end_own_row: u32,
    pub(crate) padding_behind: [u32; 2],
}

impl Params {
    /// The parameters of a validated problem for tiles of `block_q` rows.
    ///
    /// # Errors
    /// A size or a stride that is beyond what the kernels' 32-bit indices reach.
    pub(crate) fn new(problem: &Resolved, mask: &MaskLayout, block_q: usize) -> Result<Self> {
        let shape = &problem.shape;
        let tensors = problem.strides;
        let scale = problem.scale;
        let softmax_scale = if problem.score_text.clone().modifies() { 1.0 } else { scale.abs() };
        let [block_size, blocks, blocks_per_sequence] = match shape.sequences.kv {
            KeySequences::Paged { block_size, blocks, blocks_per_sequence } => {
                [block_size, blocks, blocks_per_sequence]
            }
            _ => [1, 1, 0],
        };
        let [tile_map_rows, tile_map_row_words] = mask.tile_map.unwrap_or_default();
        Ok(Self {
            q_strides: strides("q", tensors.q)?,
            k_strides: strides("k", problem.k.indexing.strides)?,
            v_strides: strides("v", problem.v.indexing.strides)?,
            o_strides: strides("o", tensors.o)?,
            bias_strides: match problem.score.bias {
                true => strides("bias", problem.data.bias.element_strides(shape))?,
                false => [0; 4],
            },
            batch: size("batch", shape.batch)?,
            num_heads: size("num_heads", shape.num_heads)?,
            group_size: size("num_heads", shape.group_size())?,
            seq_len_q: size("seq_len_q", shape.seq_len_q)?,
            seq_len_kv: size("seq_len_kv", shape.seq_len_kv)?,
            head_dim: size("head_dim", shape.head_dim)?,
            head_dim_v: size("head_dim_v", shape.head_dim_v)?,
            q_blocks: size("seq_len_q", shape.seq_len_q.div_ceil(block_q))?,
            scale_sign: 1f32.copysign(scale),
            scale_abs: scale.abs(),
            softmax_scale,
            softmax_scale_log2: (f64::from(softmax_scale) * std::f64::consts::LOG2_E) as f32,
            softcap: problem.score.softcap.unwrap_or_default(),
            negative_infinity: f32::NEG_INFINITY,
            mask_batch: size("batch", mask.broadcast[0])?,
            mask_heads: size("num_heads", mask.broadcast[1])?,
            tile_map_rows: size("tile map", tile_map_rows)?,
            tile_map_row_words: size("tile map", tile_map_row_words)?,
            q_rows: size("packed queries", shape.q_rows()[1])?,
            kv_rows: size("packed keys", shape.kv_rows()[1])?,
            block_size: size("block_size", block_size)?,
            blocks: size("blocks", blocks)?,
            blocks_per_sequence: size("blocks_per_sequence", blocks_per_sequence)?,
            num_splits: 1,
            ..Self::zeroed()
        })
    }

    /// The same for the backward pass, whose tensors have strides of their own.
    ///
    /// # Errors
    /// A stride that is beyond what the kernels' 32-bit indices reach.
    pub(crate) fn with_gradients(self, gradients: &GradientStrides) -> Result<Self> {
        Ok(Self {
            dout_strides: strides("dout", gradients.dout)?,
            dq_strides: strides("dq", gradients.dq)?,
            dk_strides: strides("dk", gradients.dk)?,
            dv_strides: strides("dv", gradients.dv)?,
            ..self
        })
    }
}

fn size(name: &str, value: usize) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| crate::error::Error::operand(name, format!("at most {}", u32::MAX), value))
}

pub(crate) fn strides(name: &str, strides: Strides) -> Result<[u32; 4]> {
    let name = format!("{name}'s stride");
    let [batch, head, seq, dim] = strides.to_array();
    Ok([size(&name, batch)?, size(&name, head)?, size(&name, seq)?, size(&name, dim)?])
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::Params;

    /// Every field of shaders/common/problem.wgsl lies where Rust has it.
    #[test]
    fn layout_equals_wgsl() {
        let text = include_str!("../../shaders/common/problem.wgsl").replace("{{OWN}}", "");
        let block = "\n@group(0) @binding(0) var<uniform> params: Params;\n";
        let module = naga::front::wgsl::parse_str(&(text + block)).unwrap();
        let (_, params) =
            module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
        let naga::TypeInner::Struct { members, span } = &params.inner else {
            panic!("Params isn't a struct");
        };
        let offsets: Vec<(&str, usize)> = (members.iter())
            .filter(|member| !member.name.as_deref().unwrap().starts_with("padding"))
            .map(|member| (member.name.as_deref().unwrap(), member.offset as usize))
            .collect();
        macro_rules! fields {
            ($($name:ident),*) => { vec![$((stringify!($name), offset_of!(Params, $name))),*] };
        }
        let expected = fields!(
            q_strides,
            k_strides,
            v_strides,
            o_strides,
            bias_strides,
            dout_strides,
            dq_strides,
            dk_strides,
            dv_strides,
            new_k_strides,
            new_v_strides,
            rotated_q_strides,
            batch,
            num_heads,
            group_size,
            seq_len_q,
            seq_len_kv,
            head_dim,
            head_dim_v,
            q_blocks,
            scale_sign,
            scale_abs,
            softmax_scale,
            softmax_scale_log2,
            softcap,
            negative_infinity,
            output_mode,
            mask_batch,
            mask_heads,
            tile_map_rows,
            tile_map_row_words,
            q_rows,
            kv_rows,
            block_size,
            blocks,
            blocks_per_sequence,
            part_strides,
            stats_stride,
            num_splits,
            first_workgroup,
            end_workgroup,
            q_base,
            k_base,
            v_base,
            o_base,
            bias_base,
            dout_base,
            dq_base,
            dk_base,
            dv_base,
            new_k_base,
            new_v_base,
            rotated_q_base,
            part_base,
            lse_base,
            output_base,
            cells_first_workgroup,
            cells_end_workgroup,
            slice,
            index_block,
            index_count,
            index_heads,
            first_row,
            end_row,
            first_head,
            end_head,
            windows_follow,
            first_split,
            first_own_row,
            end_own_row
        );
        assert_eq!(offsets, expected);
        assert_eq!(*span as usize, size_of::<Params>());
    }
}
