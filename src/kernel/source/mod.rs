//! A kernel's WGSL text: a generated prelude, fragments from shaders/ chosen by the key, and the mask's functions.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::mask::emit::MaskText;
use crate::mask::slots::{
    BLOCK_TABLES_SLOT, FAULT_SLOT, KV_FIRST_SLOT, KV_SEQUENCES_SLOT, LENGTHS_SLOT,
    Q_SEQUENCES_SLOT, SINKS_SLOT,
};
use crate::mask::tile::ClassedBy;
use crate::tensor::dtype::{Dtype, Dtypes, GradientDtypes};
use crate::tensor::sequences::{KeyForm, QueryForm, SequenceForms};

use super::binding::Binding;
use super::key::{
    BackwardForm, BackwardPass, ForwardConfig, ForwardForm, KernelKey, Parts, PickConfig,
    PooledSide, RowAccess, RowFormat, RowLength, SumSteps, Windowed,
};

/// Invocations in a workgroup of the kernels that have no tiles.
pub(crate) const WORKGROUP_SIZE: u32 = 64;

/// Rows that an invocation of the kernel for dbias has at a time.
pub(crate) const BIAS_ROWS: usize = 8;

/// In how many columns a workgroup of the kernel for what score functions read sums up each element.
pub(crate) const SUM_COLUMNS: usize = 16;

/// Keys of a segment, and queries: no running sum has more terms, but those of sums. A running sum in f32 of n equal terms
/// may be off by n 2^-26 of itself, 6e-5 for so many.
pub(crate) const SEGMENT: usize = 4096;

/// As long as there are keys: no sequence has as many.
const LONGEST_SEGMENT: usize = 1 << 30;

/// Bytes that a CPU's cache loads at once.
const CACHE_LINE: usize = 64;

/// Bytes that the second-level cache of a CPU's core holds, on most.
const SECOND_LEVEL_CACHE: usize = 1 << 20;

macro_rules! shader {
    ($name:literal) => {
        $crate::kernel::source::template::Part {
            file: concat!("shaders/", $name, ".wgsl"),
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        }
    };
}

mod backward;
#[cfg(test)]
mod interfaces;
mod matrix;
mod rows;
mod score;
mod template;
mod tile;

use template::{Fill, Part};

/// What browsers want in front of a kernel that uses subgroups. Branches on votes are the same for a whole subgroup, which
/// Chromium's analysis of uniformity doesn't see.
pub(super) const BROWSER_SUBGROUPS: &str =
    "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";

/// The whole text of a kernel, each part under the name of its file.
///
/// # Errors
/// Where a placeholder of a file isn't filled in.
pub(crate) fn wgsl(key: &KernelKey) -> Result<String> {
    let by_bounds = key.mask().classed_by == ClassedBy::Bounds;
    let (dropout, windows) = (key.dropout(), key.windows());
    let loops_over_queries =
        matches!(key, KernelKey::Backward { pass: BackwardPass::DkDv { .. }, .. });
    let mut source =
        Source { dropout, by_bounds, windows, loops_over_queries, ..Source::default() };
    source.title("generated: kernel::source");
    if needs_subgroups(key) {
        source.line("// Subgroups are enabled by the pipeline's device. Browsers also need:");
        for line in BROWSER_SUBGROUPS.lines() {
            source.line(&format!("//     {line}"));
        }
    }
    if let Some(size) = key.matrix_size() {
        source.matrices(size);
    }
    source.constants(key);
    if key.mask().sequences != SequenceForms::default() {
        source.constant("Q_SEQUENCES_SLOT", Q_SEQUENCES_SLOT);
        source.constant("KV_SEQUENCES_SLOT", KV_SEQUENCES_SLOT);
        source.constant("KV_FIRST_SLOT", KV_FIRST_SLOT);
        source.constant("BLOCK_TABLES_SLOT", BLOCK_TABLES_SLOT);
        source.constant("LENGTHS_SLOT", LENGTHS_SLOT);
    }
    for (index, binding) in key.bindings().into_iter().enumerate() {
        source.binding(index, binding, rows_of(key), gradients_of(key));
    }
    source.part(&shader!("common/problem"));
    source.part(&shader!("mask/words"));
    source.sequences(key.mask().sequences);
    source.part(&shader!("mask/algebra"));
    source.title("generated: mask::emit");
    source.line(&key.mask().functions);
    match key {
        KernelKey::Forward { config, score, mask } => {
            source.part(&tile_class(mask));
            source.bound_keys(mask.sequences.kv);
            source.part(&match config.form.packed_rows() {
                Some(_) => shader!("decode/row_block"),
                None => shader!("common/query_block"),
            });
            let length = row_length(config.head_dim, "HEAD_DIM", "params.head_dim");
            let RowFormat { access, dtypes } = config.rows;
            source.rows(access, dtypes.q, "q", length);
            let v_length = row_length(config.head_dim_v, "HEAD_DIM_V", "params.head_dim_v");
            source.rows(access, dtypes.k, "k", length);
            source.rows(access, dtypes.v, "v", v_length);
            if let ForwardForm::Decode { k_run, v_run, .. } = config.form {
                source.runs(access, dtypes.k, "k", ("K_RUN", k_run), length);
                source.runs(access, dtypes.v, "v", ("V_RUN", v_run), v_length);
            }
            if config.form.is_split() {
                source.written_rows(RowAccess::Vec4, Dtype::F32, "part", PADDED_LENGTH);
            } else {
                source.written_rows(access, dtypes.o, "o", v_length);
            }
            source.score(score, dtypes.bias);
            source.dropout(match config.form {
                ForwardForm::Tiled { .. } => Some(shader!("tile/dropout")),
                ForwardForm::Matrix { .. } => Some(shader!("matrix/dropout")),
                ForwardForm::Broadcast { .. } => Some(shader!("cpu/dropout")),
                ForwardForm::Decode { .. } | ForwardForm::DecodeLanes { .. } => None,
            });
            source.part(&shader!("common/online_softmax"));
            source.part(&row_end(score.sinks));
            source.part(&shader!("common/nonfinite"));
            source.part(&shader!("common/nonfinite_sums"));
            source.template(&shader!("common/nonfinite_keys"), &[Fill::Tensor("v")]);
            if config.form.packed_rows().is_some() {
                if let ForwardForm::DecodeLanes { .. } = config.form {
                    source.fetches_keys(dtypes);
                }
                source.part(&if config.form.is_split() {
                    shader!("decode/part")
                } else {
                    shader!("decode/whole")
                });
                source.part(&shader!("decode/nonfinite"));
            } else {
                if config.folds {
                    source.title("generated: kernel::source");
                    // Only windows are folded in 16 bits: each rounds once more.
                    let is_f32 = dtypes.o == Dtype::F32;
                    source.constant("SEGMENT", if is_f32 { SEGMENT } else { LONGEST_SEGMENT });
                    source.flag("O_HOLDS_MEANS", !is_f32);
                    source.part(&shader!("segments/folded"));
                } else {
                    source.part(&shader!("segments/one"));
                }
                if let ForwardForm::Broadcast { sum_steps, .. } = config.form {
                    source.part(&shader!("cpu/broadcast/broadcast"));
                    source.fetches_keys(dtypes);
                    source.lane_part(&shader!("cpu/broadcast/products"), "k", "kv", "HEAD_DIM");
                    source.sums(sum_steps, "v", "kv", "HEAD_DIM_V");
                } else {
                    source.part(&shader!("forward/output"));
                    if let ForwardForm::Matrix { size, subgroups, .. } = config.form {
                        source.lanes(size, subgroups);
                        source.matrix_rows("k", "HEAD_DIM");
                        source.staged_rows(["q", "k"], "q", "HEAD_DIM");
                        source.staged_rows(["k", "k"], "kv", "HEAD_DIM");
                        source.turned("v", "HEAD_DIM_V");
                        source.staged_tile("v", "kv", "HEAD_DIM_V", [false, true]);
                    } else {
                        source.tile();
                        source.product(["q", "k"], ["q", "kv"]);
                        source.sum("v", "kv", "O_SLICE");
                        source.part(&shader!("tile/softmax"));
                    }
                }
            }
            match config.form {
                ForwardForm::Broadcast { .. } => source.part(&shader!("cpu/forward_broadcast")),
                ForwardForm::Tiled { .. } => source.part(&shader!("forward/tiled")),
                ForwardForm::Matrix { size, .. } => {
                    let inner = Fill::Each("INNER", config.head_dim.capacity / size);
                    let outputs = Fill::Each("OUTPUT", config.head_dim_v.capacity / size);
                    source.template(&shader!("forward/matrix"), &[inner, outputs]);
                }
                ForwardForm::DecodeLanes { .. } => {
                    source.part(&shader!("cpu/forward_decode_lanes"))
                }
                ForwardForm::Decode { .. } => source.part(&shader!("forward/decode")),
            }
        }
        KernelKey::Backward { pass, config, score, mask } => {
            source.backward(*pass, config, score, mask);
        }
        KernelKey::Append { config, .. } => source.append(config),
        KernelKey::Merge { rows: RowFormat { access, dtypes }, parts, sinks, .. } => {
            let length = "params.head_dim_v";
            let part_length = match parts {
                Parts::Splits => PADDED_LENGTH,
                Parts::Results(_) => length,
            };
            source.rows(parts.access(), Dtype::F32, "part", part_length);
            source.written_rows(*access, dtypes.o, "o", length);
            source.title("generated: kernel::source");
            source.constant("SINKS_SLOT", SINKS_SLOT);
            source.part(&shader!("common/online_softmax"));
            source.part(&row_end(*sinks));
            source.part(&match parts {
                Parts::Splits => shader!("merge/splits"),
                Parts::Results(_) => shader!("merge/results"),
            });
            source.part(&shader!("common/nonfinite"));
            source.part(&shader!("common/nonfinite_sums"));
            source.part(&shader!("merge/merge"));
        }
        KernelKey::Inspect { rows: RowFormat { access, dtypes }, score, .. } => {
            source.rows(*access, dtypes.q, "q", "params.head_dim");
            source.rows(*access, dtypes.k, "k", "params.head_dim");
            source.score(score, dtypes.bias);
            source.part(&shader!("inspect/scores"));
        }
        KernelKey::Weights { sinks, .. } => {
            source.title("generated: kernel::source");
            source.constant("SINKS_SLOT", SINKS_SLOT);
            source.part(&shader!("common/online_softmax"));
            source.part(&row_end(*sinks));
            source.dropout(None);
            source.part(&shader!("inspect/weights"));
        }
        KernelKey::Materialize { .. } => source.part(&shader!("inspect/mask")),
        KernelKey::RowsAlone { node, mask } => {
            let node = &mask.rows_alone[*node];
            source.title("generated: kernel::source");
            source.line(&format!(
                "const SLOT: u32 = {}u;\n\n\
                 fn row_keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{\n    return {};\n}}\n",
                node.slot, node.inner_keep
            ));
            source.part(&shader!("mask_tables/rows_alone"));
        }
        KernelKey::BlockBits { slot, .. } => {
            source.constant("SLOT", *slot);
            source.part(&shader!("mask_tables/block_bits"));
        }
        KernelKey::SequencesCheck { appends, .. } => {
            source.constant("FAULT_SLOT", FAULT_SLOT);
            source.part(&match appends {
                true => shader!("cache/capacity"),
                false => shader!("sequences/nothing_added"),
            });
            source.part(&shader!("sequences/check"));
        }
        KernelKey::TileMap { .. } => source.part(&shader!("mask_tables/tile_map")),
        KernelKey::Bounds { .. } => source.part(&shader!("mask_tables/bounds")),
        KernelKey::TileClasses { mask, .. } => {
            source.part(&tile_class(mask));
            source.part(&shader!("inspect/tile_classes"));
        }
        KernelKey::ScorePoints { score, slope, .. } => source.score_points(score, *slope),
        KernelKey::PoolBlocks { rows, of, .. } => source.pool(*rows, *of),
        KernelKey::PickBlocks { .. } => source.part(&shader!("block_index/pick")),
    }
    match source.fault {
        Some(message) => Err(Error::Device { during: "the composition of a kernel", message }),
        None => Ok(source.text),
    }
}

/// Where the classes of tiles come from.
const fn tile_class(mask: &MaskText) -> Part {
    match mask.classed_by {
        ClassedBy::ClosedForms => shader!("mask_tables/tile_class_closed"),
        ClassedBy::Map => shader!("mask_tables/tile_class_map"),
        ClassedBy::Bounds => shader!("mask_tables/tile_class_bounds"),
    }
}

/// How a row ends.
const fn row_end(sinks: bool) -> Part {
    if sinks { shader!("score/sinks") } else { shader!("score/no_sinks") }
}

/// How the kernel reads rows, which decides its bindings' types.
fn rows_of(key: &KernelKey) -> RowFormat {
    match key {
        KernelKey::Forward { config, .. } => config.rows,
        KernelKey::Backward { pass: BackwardPass::Pages { access, .. }, config, .. } => {
            RowFormat { access: *access, ..config.rows }
        }
        KernelKey::Backward { config, .. } => config.rows,
        KernelKey::Inspect { rows, .. }
        | KernelKey::Merge { rows, .. }
        | KernelKey::PoolBlocks { rows, .. } => *rows,
        KernelKey::Append { config, .. } => {
            let dtypes = Dtypes { k: config.cache, v: config.cache, ..Dtypes::from(config.tokens) };
            RowFormat { access: config.access, dtypes }
        }
        _ => RowFormat { access: RowAccess::Scalar, dtypes: Dtypes::default() },
    }
}

/// The types of the gradients that the kernel writes.
fn gradients_of(key: &KernelKey) -> GradientDtypes {
    match key {
        KernelKey::Backward { pass: BackwardPass::Pages { dtype, .. }, .. } => {
            GradientDtypes::from(*dtype)
        }
        KernelKey::Backward { config, .. } => config.gradients,
        _ => GradientDtypes::default(),
    }
}

pub(super) const fn needs_subgroups(key: &KernelKey) -> bool {
    match key {
        KernelKey::Forward { config, .. } => {
            matches!(config.form, ForwardForm::Broadcast { .. } | ForwardForm::DecodeLanes { .. })
        }
        KernelKey::Backward {
            pass: BackwardPass::Dq { .. } | BackwardPass::DkDv { .. },
            config,
            ..
        } => {
            matches!(config.form, BackwardForm::Broadcast { .. })
        }
        _ => false,
    }
}

/// The length of a row of what a split found: whole vectors, whatever the output's rows are.
const PADDED_LENGTH: &str = "((params.head_dim_v + 3u) / 4u * 4u)";

/// A row's length as an expression: the constant where that's what it is, so that no check is left.
const fn row_length(
    length: RowLength,
    constant: &'static str,
    parameter: &'static str,
) -> &'static str {
    if length.exact { constant } else { parameter }
}

/// A kernel's text while it is put together.
#[derive(Default)]
struct Source {
    text: String,
    /// The first slot of the dropout's, if there is dropout.
    dropout: Option<usize>,
    /// Whether bounds of the mask's data class tiles.
    by_bounds: bool,
    /// Of which rows dispatches have windows, and whether it is queries that workgroups loop over.
    windows: Windowed,
    loops_over_queries: bool,
    /// The first placeholder that wasn't filled in.
    fault: Option<String>,
}

impl Source {
    /// Where queries and keys lie.
    fn sequences(&mut self, forms: SequenceForms) {
        self.part(&match forms.q {
            QueryForm::Uniform => shader!("sequences/q_uniform"),
            QueryForm::Packed => shader!("sequences/q_packed"),
            QueryForm::LeftPadded => shader!("sequences/q_left_padded"),
        });
        self.part(&match forms.kv {
            KeyForm::Uniform => shader!("sequences/kv_uniform"),
            KeyForm::Packed => shader!("sequences/kv_packed"),
            KeyForm::Cached => shader!("sequences/kv_cached"),
            KeyForm::Ring => shader!("sequences/kv_ring"),
            KeyForm::Paged => shader!("sequences/kv_paged"),
        });
        self.part(&match forms == SequenceForms::default() {
            true => shader!("sequences/lengths_uniform"),
            false => shader!("sequences/lengths_checked"),
        });
        self.part(&shader!("sequences/positions"));
        if self.windows.own {
            self.part(&shader!("sequences/own_rows"));
        }
    }

    /// Which keys a dispatch binds.
    fn bound_keys(&mut self, form: KeyForm) {
        if self.windows.looped {
            self.part(&shader!("segments/between_windows"));
        }
        self.part(&match (self.windows.looped, form) {
            (false, _) => shader!("segments/whole"),
            (true, KeyForm::Uniform | KeyForm::Packed | KeyForm::Cached) => {
                shader!("segments/window")
            }
            (true, KeyForm::Ring | KeyForm::Paged) => shader!("segments/window_scattered"),
        });
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn title(&mut self, name: &str) {
        self.line(&format!("\n// ---- {name} ----"));
    }

    fn part(&mut self, part: &Part) {
        self.template(part, &[]);
    }

    /// A part with its placeholders filled in.
    fn template(&mut self, part: &Part, values: &[Fill<'_>]) {
        self.title(part.file);
        let (drops, Windowed { own, looped }) = (self.dropout.is_some(), self.windows);
        let lines = [
            Fill::Where("DROPOUT", drops),
            Fill::Where("PLAIN", !drops),
            Fill::Where("BOUNDS", self.by_bounds),
            Fill::Where("OWN", own),
            Fill::Where("WINDOW", looped && !self.loops_over_queries),
            Fill::Where("QUERY_WINDOW", looped && self.loops_over_queries),
        ];
        match part.fill(&[values, &lines].concat()) {
            Ok(text) => self.line(&text),
            Err(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
    }

    /// What a lane's rows do with rows of `tensor`, which lie as `side` says.
    fn lane_part(&mut self, part: &Part, tensor: &str, side: &str, capacity: &str) {
        self.template(part, &[Fill::Tensor(tensor), Fill::Side(side), Fill::Capacity(capacity)]);
    }

    /// `add_TENSOR` for rows of `tensor`, so many at once.
    fn sums(&mut self, at_once: SumSteps, tensor: &str, side: &str, capacity: &str) {
        let mut sums = |kind: &str, rows: usize| {
            let of = [Fill::Tensor(tensor), Fill::Side(side), Fill::Capacity(capacity)];
            let values = [&of[..], &[Fill::Kind(kind), Fill::AtOnce(rows)]].concat();
            self.template(&shader!("cpu/broadcast/sums"), &values);
        };
        match at_once.partial {
            None => sums("", at_once.full),
            Some(partial) => {
                sums("full_", at_once.full);
                sums("partial_", partial);
                self.lane_part(&shader!("cpu/broadcast/add"), tensor, side, capacity);
            }
        }
    }

    /// `fetch_keys`.
    fn fetches_keys(&mut self, dtypes: Dtypes) {
        self.part(&shader!("cpu/prefetch/line"));
        for (tensor, dtype, capacity) in
            [("k", dtypes.k, "HEAD_DIM"), ("v", dtypes.v, "HEAD_DIM_V")]
        {
            let of = [Fill::Tensor(tensor), Fill::Side("kv"), Fill::Capacity(capacity)];
            let values = [&of[..], &[Fill::Line(CACHE_LINE / dtype.size())]].concat();
            self.template(&shader!("cpu/prefetch/rows"), &values);
        }
        self.part(&shader!("cpu/prefetch/keys"));
    }

    /// Pooled rows of blocks.
    fn pool(&mut self, RowFormat { access, dtypes }: RowFormat, of: PooledSide) {
        let (tensor, side, dtype, heads) = match of {
            PooledSide::Queries => ("q", "q", dtypes.q, "params.num_heads / params.index_heads"),
            PooledSide::Keys { .. } => ("k", "kv", dtypes.k, "1u"),
        };
        self.rows(access, dtype, tensor, "params.head_dim");
        self.title("generated: kernel::source");
        self.line(&format!("fn pooled_heads() -> u32 {{\n    return {heads};\n}}\n"));
        self.template(&shader!("block_index/pool"), &[Fill::Tensor(tensor), Fill::Side(side)]);
    }

    /// A part that several others need, where it isn't there yet.
    fn once(&mut self, part: &Part) {
        if !self.text.contains(part.text) {
            self.part(part);
        }
    }

    fn constants(&mut self, key: &KernelKey) {
        match key {
            KernelKey::Forward { config, .. } => self.forward_constants(config),
            KernelKey::Backward { pass, config, .. } => self.backward_constants(*pass, config),
            KernelKey::TileMap { grid, parts, .. } => {
                self.constant("BLOCK_Q", grid.block_q);
                self.constant("BLOCK_KV", grid.block_kv);
                self.constant("PARTS", *parts);
            }
            KernelKey::TileClasses { grid, .. } => {
                self.constant("BLOCK_Q", grid.block_q);
                self.constant("BLOCK_KV", grid.block_kv);
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
            }
            KernelKey::PoolBlocks { of, .. } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                self.flag("MAXIMUM", *of == PooledSide::Keys { maximum: true });
            }
            KernelKey::PickBlocks { config, .. } => {
                let PickConfig { capacity, keep_first, keep_own, causal } = *config;
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                self.constant("CAPACITY", capacity);
                self.flag("KEEP_FIRST", keep_first);
                self.flag("KEEP_OWN", keep_own);
                self.flag("CAUSAL", causal);
            }
            _ => self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize),
        }
    }

    fn forward_constants(&mut self, config: &ForwardConfig) {
        self.constant("BLOCK_Q", config.grid.block_q);
        self.constant("BLOCK_KV", config.grid.block_kv);
        self.constant("HEAD_DIM", config.head_dim.capacity);
        self.constant("HEAD_DIM_V", config.head_dim_v.capacity);
        match config.form {
            ForwardForm::Broadcast { subgroup_size, rows, .. } => {
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", rows);
                let Dtypes { k, v, .. } = config.rows.dtypes;
                let key =
                    config.head_dim.capacity * k.size() + config.head_dim_v.capacity * v.size();
                self.constant("CACHED_KEYS", SECOND_LEVEL_CACHE / key);
            }
            ForwardForm::Tiled { threads_per_row, chunk, v_keys, o_slice } => {
                self.line("const OWN_BLOCK: u32 = BLOCK_Q;\nconst OTHER_BLOCK: u32 = BLOCK_KV;");
                self.flag("SLICED", config.form.dispatches(config.head_dim_v) > 1);
                self.constant("O_SLICE", o_slice);
                self.line("const LONGEST_SLICE: u32 = O_SLICE;");
                self.constant("THREADS_PER_ROW", threads_per_row);
                self.constant("CHUNK", chunk);
                self.constant("STAGED_ROWS", v_keys);
            }
            ForwardForm::Matrix { size, part, subgroups, votes } => {
                self.line("const OWN_BLOCK: u32 = BLOCK_Q;\nconst OTHER_BLOCK: u32 = BLOCK_KV;");
                self.matrix_constants(config.grid.block_q, size, part, subgroups, votes);
            }
            ForwardForm::DecodeLanes { subgroup_size, rows, .. } => {
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", rows);
            }
            ForwardForm::Decode { invocations, threads_per_row, rows, k_run, v_run, .. } => {
                self.constant("INVOCATIONS", invocations);
                self.constant("THREADS_PER_ROW", threads_per_row);
                self.constant("ROWS", rows);
                self.flag("COUNTS_RUNS", config.head_dim.capacity > 256);
                self.constant("K_RUN", k_run);
                self.constant("V_RUN", v_run);
            }
        }
    }

    fn constant(&mut self, name: &str, value: usize) {
        self.line(&format!("const {name}: u32 = {value}u;"));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.line(&format!("const {name}: bool = {value};"));
    }

    fn binding(
        &mut self,
        index: usize,
        binding: Binding,
        rows: RowFormat,
        gradients: GradientDtypes,
    ) {
        let RowFormat { access, dtypes } = rows;
        let row = |access: RowAccess, dtype: Dtype| match (access, dtype) {
            (_, Dtype::I8 | Dtype::I4) => "u32",
            (RowAccess::Scalar, Dtype::F32) => "f32",
            (RowAccess::Vec4, Dtype::F32) => "vec4<f32>",
            (RowAccess::Wide, Dtype::F32) => "vec2<u64>",
            (RowAccess::Scalar, _) => "u32",
            (RowAccess::Vec4, _) => "vec2<u32>",
            (RowAccess::Wide, _) => "u64",
        };
        let read = |dtype: Dtype| row(access, dtype);
        let written = |dtype: Dtype| match (access, dtype) {
            (RowAccess::Scalar, Dtype::F16 | Dtype::Bf16) => "atomic<u32>",
            _ => row(access.written(), dtype),
        };
        let dbias = if gradients.dbias == Dtype::F32 { "f32" } else { "atomic<u32>" };
        let cache = "the cache's rows, at cache_place";
        let pooled = "[batch, heads, blocks, head_dim up to a multiple of 4]";
        let bias = if dtypes.bias == Dtype::F32 { "f32" } else { "u32" };
        let (shape, name, element) = match binding {
            Binding::Params => ("the problem's sizes", "params", "Params"),
            Binding::Mask | Binding::MaskTables => {
                ("slots, then the mask's data: see shaders/mask/words.wgsl", "mask_words", "u32")
            }
            Binding::Q => ("[batch, num_heads, seq_len_q, head_dim]", "q", read(dtypes.q)),
            Binding::K => ("[batch, num_kv_heads, seq_len_kv, head_dim]", "k", read(dtypes.k)),
            Binding::V => ("[batch, num_kv_heads, seq_len_kv, head_dim_v]", "v", read(dtypes.v)),
            Binding::O => ("[batch, num_heads, seq_len_q, head_dim_v]", "o", written(dtypes.o)),
            Binding::OIn => ("[batch, num_heads, seq_len_q, head_dim_v]", "o", read(dtypes.o)),
            Binding::Dout => ("[batch, num_heads, seq_len_q, head_dim_v]", "dout", read(dtypes.o)),
            Binding::Dlse => ("[batch, num_heads, seq_len_q]", "dlse", "f32"),
            Binding::RowTermsOut | Binding::RowTerms => {
                ("lse, delta, norm: [batch, num_heads, seq_len_q]", "row_terms", "vec4<f32>")
            }
            Binding::CellsOut | Binding::Cells => (
                "p, then ds: [workgroups, tiles of keys, groups of rows, 2, rows, keys]",
                "score_cache",
                "f32",
            ),
            Binding::Dq => ("[batch, num_heads, seq_len_q, head_dim]", "dq", written(gradients.dq)),
            Binding::Dk => {
                ("[batch, num_kv_heads, seq_len_kv, head_dim]", "dk", written(gradients.dk))
            }
            Binding::Dv => {
                ("[batch, num_kv_heads, seq_len_kv, head_dim_v]", "dv", written(gradients.dv))
            }
            Binding::Dbias => ("[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]", "dbias", dbias),
            Binding::Dsinks => ("[num_heads]", "dsinks", "f32"),
            Binding::KeyGradients => (
                "dk or dv of each sequence, [batch, num_kv_heads, seq_len_kv, dim]",
                "key_gradients",
                "f32",
            ),
            Binding::CustomShares | Binding::CustomSharesIn => (
                "sums of the buffers' elements: [workgroups, elements, SUM_COLUMNS]",
                "custom_shares",
                "f32",
            ),
            Binding::Dcustom => ("[elements of a buffer]", "dcustom", "f32"),
            Binding::DalibiSlopes => ("[batch|1, num_heads]", "dalibi_slopes", "f32"),
            Binding::Bias => ("[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]", "bias", bias),
            Binding::LseOut | Binding::LseIn => ("[batch, num_heads, seq_len_q]", "lse", "f32"),
            Binding::Rotary => ("the rotary embedding's angles", "rotary", "Rotary"),
            Binding::RotatedQ => {
                ("[batch, num_heads, seq_len_q, head_dim]", "rotated_q", written(dtypes.q))
            }
            Binding::NewK => {
                ("[batch, num_kv_heads, seq_len_q, head_dim]", "new_k", read(dtypes.q))
            }
            Binding::NewV => {
                ("[batch, num_kv_heads, seq_len_q, head_dim_v]", "new_v", read(dtypes.q))
            }
            Binding::CacheK => (cache, "k", written(dtypes.k)),
            Binding::CacheV => (cache, "v", written(dtypes.v)),
            Binding::CacheLengths => ("[batch], then the fault", "cache_lengths", "atomic<u32>"),
            Binding::Part => {
                ("[num_splits, batch, num_heads, seq_len_q, head_dim_v]", "part", "vec4<f32>")
            }
            Binding::Stats | Binding::StatsIn => {
                ("[num_splits, batch, num_heads, seq_len_q]: m, l", "stats", "vec2<f32>")
            }
            Binding::SegmentStats => {
                ("[batch, num_heads, seq_len_q]: m, l of the segments so far", "stats", "vec2<f32>")
            }
            Binding::PartIn(access) => (
                "[parts, batch, num_heads, seq_len_q, head_dim_v]",
                "part",
                if access == RowAccess::Vec4 { "vec4<f32>" } else { "f32" },
            ),
            Binding::LsesIn => ("[parts, batch, num_heads, seq_len_q]: lse", "stats", "f32"),
            Binding::Scores => ("[batch, num_heads, seq_len_q, seq_len_kv]", "output", "f32"),
            Binding::MaskTensor => {
                ("[batch|1, num_heads|1, seq_len_q, seq_len_kv], or its bits", "output", "u32")
            }
            Binding::ScorePoints => ("[points]", "points", "ScorePoint"),
            Binding::ScoreValues => ("[points]: score_mod, score_mod_grad", "values", "vec2<f32>"),
            Binding::Pooled => (pooled, "pooled", "vec4<f32>"),
            Binding::PooledQ => (pooled, "pooled_q", "vec4<f32>"),
            Binding::PooledK => (pooled, "pooled_k", "vec4<f32>"),
            Binding::BlockIndices => {
                ("[batch, index_heads, blocks of queries, index_count]", "output", "u32")
            }
        };
        let declaration = match binding {
            _ if binding.is_uniform() => format!("var<uniform> {name}: {element};"),
            _ if binding.is_written() => {
                format!("var<storage, read_write> {name}: array<{element}>;")
            }
            _ => format!("var<storage, read> {name}: array<{element}>;"),
        };
        // Writing to a String can't fail.
        let _ = write!(self.text, "\n// {shape}\n@group(0) @binding({index}) {declaration}\n");
    }
}

#[cfg(test)]
mod tests;
