//! The kernels of the backward pass.

use super::{
    BIAS_ROWS, Fill, SEGMENT, SUM_COLUMNS, Source, WORKGROUP_SIZE, row_length, tile_class,
};
use crate::kernel::key::{
    BackwardConfig, BackwardForm, BackwardPass, RowAccess, RowFormat, Slices,
};
use crate::mask::emit::MaskText;
use crate::mask::slots::SINKS_SLOT;
use crate::score::ScoreText;
use crate::tensor::dtype::Dtype;
use crate::tensor::sequences::KeyForm;

impl Source {
    /// The kernels of the backward pass.
    pub(super) fn backward(
        &mut self,
        pass: BackwardPass,
        config: &BackwardConfig,
        score: &ScoreText,
        mask: &MaskText,
    ) {
        let RowFormat { access, dtypes } = config.rows;
        let length = row_length(config.head_dim, "HEAD_DIM", "params.head_dim");
        let v_length = row_length(config.head_dim_v, "HEAD_DIM_V", "params.head_dim_v");
        if let BackwardPass::Terms { has_dlse } = pass {
            self.title("generated: kernel::source");
            let dlse = if has_dlse { "dlse[row]" } else { "0.0" };
            self.line(&format!("fn dlse_of(row: u32) -> f32 {{\n    return {dlse};\n}}\n"));
            self.rows(access, dtypes.o, "o", v_length);
            self.rows(access, dtypes.o, "dout", v_length);
            return self.part(&shader!("backward/terms"));
        }
        if pass == BackwardPass::Sinks {
            self.constant("SINKS_SLOT", SINKS_SLOT);
            self.part(&shader!("backward/sink_weight"));
            self.part(&shader!("backward/row_sums"));
            return self.part(&shader!("backward/sinks"));
        }
        if let BackwardPass::Pages { values, dtype, access } = pass {
            let (tensor, length) =
                if values { ("dv", "params.head_dim_v") } else { ("dk", "params.head_dim") };
            self.written_rows(access, dtype, tensor, length);
            let values = [Fill::Tensor(tensor), Fill::RowLength(length)];
            return self.template(&shader!("backward/pages"), &values);
        }
        if let BackwardPass::Slopes { of_sequences } = pass {
            self.flag("SLOPES_OF_SEQUENCES", of_sequences);
            self.part(&shader!("backward/row_sums"));
            return self.part(&shader!("backward/slopes"));
        }
        if pass == BackwardPass::CustomSums {
            return self.part(&shader!("backward/custom_sums"));
        }
        self.rows(access, dtypes.q, "q", length);
        self.rows(access, dtypes.o, "dout", v_length);
        if !(config.form.has_cells() && matches!(pass, BackwardPass::DkDv { .. })) {
            self.rows(access, dtypes.k, "k", length);
            self.rows(access, dtypes.v, "v", v_length);
            self.score(score, dtypes.bias);
            match pass {
                BackwardPass::Custom { .. } => self.learned(score),
                _ => self.score_gradient(score),
            }
            self.dropout(match (pass, config.form) {
                (BackwardPass::Dq { .. }, BackwardForm::Broadcast { .. }) => {
                    Some(shader!("cpu/dropout"))
                }
                (BackwardPass::DkDv { .. }, BackwardForm::Tiled { .. }) => {
                    Some(shader!("backward/dropout"))
                }
                (BackwardPass::DkDv { .. }, BackwardForm::Matrix { .. }) => {
                    Some(shader!("backward/dropout_queries"))
                }
                _ => None,
            });
            self.part(&shader!("backward/cell"));
        }
        match pass {
            BackwardPass::Dq { dq, normalizes, slopes } => {
                self.flag("SUMS_SLOPES", slopes);
                self.part(&tile_class(mask));
                self.bound_keys(mask.sequences.kv);
                self.part(&shader!("common/query_block"));
                self.gradient_rows(dq, access, config.gradients.dq, "dq", length);
                self.folds(config.dq_folds);
                self.folded("dq", "q", ["HEAD_DIM", "DQ_SLICE", length], config.form);
                if normalizes {
                    self.part(&if score.sinks {
                        shader!("backward/sink_weight")
                    } else {
                        shader!("backward/no_sink_weight")
                    });
                }
                self.part(&if normalizes {
                    shader!("backward/norm")
                } else {
                    shader!("backward/no_norm")
                });
                self.part(&shader!("common/nonfinite"));
                self.template(&shader!("common/nonfinite_keys"), &[Fill::Tensor("k")]);
                match config.form {
                    BackwardForm::Broadcast { sum_steps, .. } => {
                        self.part(&shader!("cpu/broadcast/broadcast"));
                        self.lane_part(&shader!("cpu/broadcast/products"), "k", "kv", "HEAD_DIM");
                        self.lane_part(&shader!("cpu/broadcast/products"), "v", "kv", "HEAD_DIM_V");
                        self.sums(sum_steps, "k", "kv", "HEAD_DIM");
                        if config.form.has_cells() {
                            self.part(&shader!("cpu/score_cache"));
                            self.part(&shader!("cpu/write_score_cache"));
                        } else {
                            self.part(&shader!("cpu/no_score_cache"));
                        }
                        self.part(&shader!("cpu/dq_broadcast"));
                    }
                    BackwardForm::Tiled { .. } => {
                        self.tile();
                        self.product(["q", "k"], ["q", "kv"]);
                        self.product(["dout", "v"], ["q", "kv"]);
                        self.sum("k", "kv", "DQ_SLICE");
                        self.part(&shader!("backward/dq"));
                    }
                    BackwardForm::Matrix { size, subgroups, .. } => {
                        self.lanes(size, subgroups);
                        self.matrix_rows("k", "HEAD_DIM");
                        self.matrix_rows("v", "HEAD_DIM_V");
                        self.turned("k", "HEAD_DIM");
                        self.staged_rows(["q", "k"], "q", "HEAD_DIM");
                        self.staged_rows(["dout", "v"], "q", "HEAD_DIM_V");
                        self.staged_rows(["v", "v"], "kv", "HEAD_DIM_V");
                        self.staged_tile("k", "kv", "HEAD_DIM", [true, true]);
                        self.part(&shader!("backward/scaled_gradients"));
                        let inner = Fill::Each("INNER", config.head_dim.capacity / size);
                        let output = Fill::Each("OUTPUT", config.head_dim_v.capacity / size);
                        self.template(&shader!("backward/dq_matrix"), &[inner, output]);
                    }
                }
            }
            BackwardPass::DkDv { dk, dv } => {
                self.part(&tile_class(mask));
                self.part(&match config.dkdv_windows.looped {
                    true => shader!("backward/window"),
                    false => shader!("backward/whole"),
                });
                self.part(&shader!("backward/key_block"));
                self.gradient_rows(dk, access, config.gradients.dk, "dk", length);
                self.gradient_rows(dv, access, config.gradients.dv, "dv", v_length);
                self.folds(config.dkdv_folds);
                self.part(&match mask.sequences.kv {
                    KeyForm::Paged => shader!("backward/key_rows_apart"),
                    _ => shader!("backward/key_rows_own"),
                });
                self.folded("dk", "gradient", ["HEAD_DIM", "DK_SLICE", length], config.form);
                self.folded("dv", "gradient", ["HEAD_DIM_V", "DV_SLICE", v_length], config.form);
                self.part(&shader!("common/nonfinite"));
                for tensor in ["q", "dout"] {
                    self.template(&shader!("backward/nonfinite_queries"), &[Fill::Tensor(tensor)]);
                }
                match config.form {
                    BackwardForm::Broadcast { sum_steps, cells, .. } => {
                        self.part(&shader!("cpu/broadcast/broadcast"));
                        self.sums(sum_steps, "dout", "q", "HEAD_DIM_V");
                        self.sums(sum_steps, "q", "q", "HEAD_DIM");
                        self.part(&shader!("cpu/dkdv"));
                        if cells {
                            self.part(&shader!("cpu/prefetch/line"));
                            self.part(&shader!("cpu/score_cache"));
                            self.part(&shader!("cpu/dkdv_cached"));
                        } else {
                            self.lane_part(
                                &shader!("cpu/broadcast/products"),
                                "q",
                                "q",
                                "HEAD_DIM",
                            );
                            self.lane_part(
                                &shader!("cpu/broadcast/products"),
                                "dout",
                                "q",
                                "HEAD_DIM_V",
                            );
                            self.part(&shader!("cpu/dkdv_broadcast"));
                        }
                    }
                    BackwardForm::Tiled { .. } => {
                        self.tile();
                        self.product(["k", "q"], ["kv", "q"]);
                        self.product(["v", "dout"], ["kv", "q"]);
                        self.sum("q", "q", "DK_SLICE");
                        self.sum("dout", "q", "DV_SLICE");
                        self.part(&shader!("backward/dkdv"));
                    }
                    BackwardForm::Matrix { size, subgroups, .. } => {
                        self.lanes(size, subgroups);
                        self.matrix_rows("q", "HEAD_DIM");
                        self.staged_rows(["k", "q"], "kv", "HEAD_DIM");
                        if dk {
                            self.turned("q", "HEAD_DIM");
                            self.matrix_rows("dout", "HEAD_DIM_V");
                            self.staged_rows(["v", "dout"], "kv", "HEAD_DIM_V");
                        }
                        if dv {
                            self.turned("dout", "HEAD_DIM_V");
                        }
                        self.staged_tile("q", "q", "HEAD_DIM", [true, dk]);
                        self.staged_tile("dout", "q", "HEAD_DIM_V", [dk, dv]);
                        self.part(&shader!("backward/terms_tile"));
                        self.part(&shader!("backward/scaled_gradients"));
                        let [inner, output] =
                            [config.head_dim, config.head_dim_v].map(|row| row.capacity / size);
                        let [of_dk, of_dv] = [dk, dv].map(usize::from);
                        let values = [
                            Fill::Each("INNER", inner),
                            Fill::Each("DP", of_dk * output),
                            Fill::Each("DK", of_dk * inner),
                            Fill::Each("DV", of_dv * output),
                            Fill::Where("WITH_DP", dk),
                        ];
                        self.template(&shader!("backward/dkdv_matrix"), &values);
                    }
                }
            }
            BackwardPass::Terms { .. }
            | BackwardPass::Sinks
            | BackwardPass::Slopes { .. }
            | BackwardPass::CustomSums
            | BackwardPass::Pages { .. } => {}
            BackwardPass::Custom { .. } => self.part(&shader!("backward/custom")),
            BackwardPass::Bias { shared_by_keys, .. } => {
                let dtype = config.gradients.dbias;
                let write = match dtype {
                    // `BackwardPlan` refuses quantized rows.
                    Dtype::F32 | Dtype::I8 | Dtype::I4 => shader!("rows/f32_scalar_write"),
                    Dtype::F16 => {
                        self.once(&shader!("rows/f16"));
                        shader!("rows/half_scalar_write")
                    }
                    Dtype::Bf16 => {
                        self.once(&shader!("rows/bf16"));
                        shader!("rows/half_scalar_write")
                    }
                };
                self.template(&write, &[Fill::Half(dtype.name()), Fill::Tensor("dbias")]);
                self.part(&match shared_by_keys {
                    true => shader!("backward/bias_keys_shared"),
                    false => shader!("backward/bias_keys_own"),
                });
                self.part(&shader!("backward/bias"));
            }
        }
    }

    /// Whether sums are folded, and after how many terms.
    fn folds(&mut self, folds: bool) {
        self.title("generated: kernel::source");
        self.flag("FOLDS", folds);
        self.constant("SEGMENT", SEGMENT);
    }

    /// `fold_TENSOR`, for rows of `side`: of all that the kernel has room for, or of a slice.
    fn folded(
        &mut self,
        tensor: &str,
        side: &str,
        [capacity, slice, length]: [&str; 3],
        form: BackwardForm,
    ) {
        let part = match form {
            BackwardForm::Broadcast { .. } => shader!("cpu/fold"),
            BackwardForm::Tiled { .. } => shader!("backward/fold"),
            BackwardForm::Matrix { .. } => shader!("backward/fold_matrix"),
        };
        let sizes = [Fill::Capacity(capacity), Fill::Slice(slice), Fill::RowLength(length)];
        self.template(&part, &[&[Fill::Tensor(tensor), Fill::Side(side)], &sizes[..]].concat());
    }

    /// The rows of a gradient that is written, if it is.
    fn gradient_rows(
        &mut self,
        wanted: bool,
        access: RowAccess,
        dtype: Dtype,
        tensor: &str,
        length: &str,
    ) {
        if wanted {
            self.written_rows(access, dtype, tensor, length);
        } else {
            self.template(&shader!("rows/discard"), &[Fill::Tensor(tensor)]);
        }
    }

    pub(super) fn backward_constants(&mut self, pass: BackwardPass, config: &BackwardConfig) {
        let grid = match pass {
            BackwardPass::Terms { .. } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                // As lse of a row that keeps nothing: it makes every weight 0, and its products stay finite.
                self.line("const NOTHING_KEPT: f32 = 1.0e38;");
                return self.row_lengths(config);
            }
            BackwardPass::Sinks | BackwardPass::Slopes { .. } | BackwardPass::Pages { .. } => {
                return self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
            }
            BackwardPass::CustomSums => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                return self.constant("SUM_COLUMNS", SUM_COLUMNS);
            }
            BackwardPass::Custom { rows } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                self.constant("TILE_ROWS", BIAS_ROWS);
                self.constant("CUSTOM_ROWS", rows);
                self.constant("SEGMENT", SEGMENT);
                self.constant("SUM_COLUMNS", SUM_COLUMNS);
                return self.row_lengths(config);
            }
            BackwardPass::Bias { shared_by_rows, shared_by_keys } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                self.constant("TILE_ROWS", BIAS_ROWS);
                self.flag("BIAS_SHARED_BY_ROWS", shared_by_rows);
                self.flag("BIAS_SHARED_BY_KEYS", shared_by_keys);
                return self.row_lengths(config);
            }
            BackwardPass::Dq { .. } => config.dq_grid,
            BackwardPass::DkDv { dk, dv } => {
                self.flag("WRITE_DK", dk);
                self.flag("WRITE_DV", dv);
                config.dkdv_grid
            }
        };
        self.constant("BLOCK_Q", grid.block_q);
        self.constant("BLOCK_KV", grid.block_kv);
        self.row_lengths(config);
        match config.form {
            BackwardForm::Broadcast { subgroup_size, .. } => {
                let own = match pass {
                    BackwardPass::DkDv { .. } => grid.block_kv,
                    _ => grid.block_q,
                };
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", own / subgroup_size);
                self.constant("GROUPS", config.dq_grid.block_q / subgroup_size);
            }
            BackwardForm::Tiled { threads_per_row, chunk, staged_rows, slices } => {
                let Slices { dq, dk, dv } = slices;
                let [own, other] = match pass {
                    BackwardPass::DkDv { .. } => {
                        self.flag("SLICED", config.dkdv_dispatches() > 1);
                        self.constant("DK_SLICE", dk);
                        self.constant("DV_SLICE", dv);
                        ["BLOCK_KV", "BLOCK_Q"]
                    }
                    _ => {
                        self.flag("SLICED", config.dq_dispatches() > 1);
                        self.constant("DQ_SLICE", dq);
                        ["BLOCK_Q", "BLOCK_KV"]
                    }
                };
                self.constant("LONGEST_SLICE", slices.longest());
                self.line(&format!(
                    "const OWN_BLOCK: u32 = {own};\nconst OTHER_BLOCK: u32 = {other};"
                ));
                self.constant("THREADS_PER_ROW", threads_per_row);
                self.constant("CHUNK", chunk);
                self.constant("STAGED_ROWS", staged_rows);
            }
            BackwardForm::Matrix { size, part, subgroups, votes, .. } => {
                self.sides(pass);
                self.matrix_constants(config.dq_grid.block_q, size, part, subgroups, votes);
            }
        }
    }

    /// The rows of a workgroup's own side, and of a tile of the other.
    fn sides(&mut self, pass: BackwardPass) {
        let [own, other] = match pass {
            BackwardPass::DkDv { .. } => ["BLOCK_KV", "BLOCK_Q"],
            _ => ["BLOCK_Q", "BLOCK_KV"],
        };
        self.line(&format!("const OWN_BLOCK: u32 = {own};\nconst OTHER_BLOCK: u32 = {other};"));
    }

    fn row_lengths(&mut self, config: &BackwardConfig) {
        self.constant("HEAD_DIM", config.head_dim.capacity);
        self.constant("HEAD_DIM_V", config.head_dim_v.capacity);
    }
}
