//! A kernel's WGSL text: a generated prelude, fragments from shaders/ chosen by the key, and the mask's functions.

use std::fmt::Write as _;

use crate::dtype::{Dtype, Dtypes, GradientDtypes};
use crate::mask::emit::{
    ALIBI_SLOT, BLOCK_TABLES_SLOT, FAULT_SLOT, KV_FIRST_SLOT, KV_SEQUENCES_SLOT, MaskText,
    Q_SEQUENCES_SLOT, SINKS_SLOT,
};
use crate::score::ScoreText;
use crate::sequences::{KeyForm, QueryForm, SequenceForms};

use super::key::{
    AppendConfig, BackwardConfig, BackwardForm, BackwardPass, Binding, ForwardConfig, ForwardForm,
    KernelKey, Pairing, Parts, RowAccess, RowFormat, RowLength,
};

/// Invocations in a workgroup of the kernels that have no tiles.
pub(crate) const WORKGROUP_SIZE: u32 = 64;

macro_rules! shader {
    ($name:literal) => {
        Part {
            file: concat!("shaders/", $name, ".wgsl"),
            text: include_str!(concat!("../../shaders/", $name, ".wgsl")),
        }
    };
}

/// A file of shaders/.
struct Part {
    file: &'static str,
    text: &'static str,
}

/// What browsers want in front of a kernel that uses subgroups. Branches on votes are the same for a whole subgroup, which
/// Chromium's analysis of uniformity doesn't see.
pub(super) const BROWSER_SUBGROUPS: &str =
    "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";

/// The whole text of a kernel, each part under the name of its file.
pub(crate) fn wgsl(key: &KernelKey) -> String {
    let mut source = Source(String::new());
    source.title("generated: kernel::source");
    if needs_subgroups(key) {
        source.line("// Subgroups are enabled by the pipeline's device. Browsers also need:");
        for line in BROWSER_SUBGROUPS.lines() {
            source.line(&format!("//     {line}"));
        }
    }
    if let KernelKey::Forward {
        config: ForwardConfig { form: ForwardForm::Matrix { size, .. }, .. },
        ..
    } = key
    {
        source.matrices(*size);
    }
    source.constants(key);
    if key.mask().sequences != SequenceForms::default() {
        source.constant("Q_SEQUENCES_SLOT", Q_SEQUENCES_SLOT);
        source.constant("KV_SEQUENCES_SLOT", KV_SEQUENCES_SLOT);
        source.constant("KV_FIRST_SLOT", KV_FIRST_SLOT);
        source.constant("BLOCK_TABLES_SLOT", BLOCK_TABLES_SLOT);
    }
    for (index, binding) in key.bindings().into_iter().enumerate() {
        source.binding(index, binding, rows_of(key), gradients_of(key));
    }
    source.part(&shader!("problem"));
    source.part(&shader!("mask/words"));
    source.sequences(key.mask().sequences);
    source.part(&shader!("mask/algebra"));
    source.title("generated: mask::emit");
    source.line(&key.mask().functions);
    match key {
        KernelKey::Forward { config, score, mask } => {
            source.part(&tile_class(mask));
            source.part(&match config.form.packed_rows() {
                Some(_) => shader!("decode/row_block"),
                None => shader!("query_block"),
            });
            let length = row_length(config.head_dim, "HEAD_DIM", "params.head_dim");
            let RowFormat { access, dtypes } = config.rows;
            source.rows(access, dtypes.q, "q", length);
            source.rows(access, dtypes.k, "k", length);
            let v_length = row_length(config.head_dim_v, "HEAD_DIM_V", "params.head_dim_v");
            source.rows(access, dtypes.v, "v", v_length);
            if config.form.is_split() {
                source.written_rows(RowAccess::Vec4, Dtype::F32, "part", PADDED_LENGTH);
            } else {
                source.written_rows(access, dtypes.o, "o", v_length);
            }
            source.score(score, dtypes.bias);
            source.part(&shader!("online_softmax"));
            source.part(&row_end(score.sinks));
            source.part(&shader!("nonfinite"));
            if config.form.packed_rows().is_some() {
                source.part(&if config.form.is_split() {
                    shader!("decode/part")
                } else {
                    shader!("decode/whole")
                });
            } else {
                source.template(&shader!("nonfinite_keys"), &[("TENSOR", "v")]);
                if let ForwardForm::Broadcast { .. } = config.form {
                    source.part(&shader!("broadcast/broadcast"));
                    source.lane_products("k", "kv", "HEAD_DIM");
                    source.lane_sums("v", "kv", "HEAD_DIM_V");
                } else {
                    source.part(&shader!("turns"));
                    source.part(&shader!("row_tile"));
                }
            }
            source.part(&match config.form {
                ForwardForm::Broadcast { .. } => shader!("forward_broadcast"),
                ForwardForm::Tiled { .. } => shader!("forward_tiled"),
                ForwardForm::Matrix { .. } => shader!("forward_matrix"),
                ForwardForm::DecodeLanes { .. } => shader!("forward_decode_lanes"),
                ForwardForm::Decode { .. } => shader!("forward_decode"),
            });
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
            source.part(&shader!("online_softmax"));
            source.part(&row_end(*sinks));
            source.part(&match parts {
                Parts::Splits => shader!("merge/splits"),
                Parts::Results(_) => shader!("merge/results"),
            });
            source.part(&shader!("merge/merge"));
        }
        KernelKey::Inspect { rows: RowFormat { access, dtypes }, score, .. } => {
            source.rows(*access, dtypes.q, "q", "params.head_dim");
            source.rows(*access, dtypes.k, "k", "params.head_dim");
            source.score(score, dtypes.bias);
            source.part(&shader!("inspect"));
        }
        KernelKey::Materialize { .. } => source.part(&shader!("materialize")),
        KernelKey::RowsAlone { node, mask } => {
            let node = &mask.rows_alone[*node];
            source.title("generated: kernel::source");
            source.line(&format!(
                "const SLOT: u32 = {}u;\n\n\
                 fn row_keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{\n    return {};\n}}\n",
                node.slot, node.inner_keep
            ));
            source.part(&shader!("rows_alone"));
        }
        KernelKey::SequencesCheck { .. } => {
            source.constant("FAULT_SLOT", FAULT_SLOT);
            source.part(&shader!("sequences_check"));
        }
        KernelKey::TileMap { .. } => source.part(&shader!("tile_map")),
        KernelKey::TileClasses { mask, .. } => {
            source.part(&tile_class(mask));
            source.part(&shader!("tile_classes"));
        }
        KernelKey::ScorePoints { score, .. } => source.score_points(score),
    }
    source.0
}

/// Where the classes of tiles come from.
const fn tile_class(mask: &MaskText) -> Part {
    if mask.needs_tile_map { shader!("tile_class_map") } else { shader!("tile_class_closed") }
}

/// How a row ends.
const fn row_end(sinks: bool) -> Part {
    if sinks { shader!("score/sinks") } else { shader!("score/no_sinks") }
}

/// How the kernel reads rows, which decides its bindings' types.
fn rows_of(key: &KernelKey) -> RowFormat {
    match key {
        KernelKey::Forward { config, .. } => config.rows,
        KernelKey::Backward { config, .. } => config.rows,
        KernelKey::Inspect { rows, .. } | KernelKey::Merge { rows, .. } => *rows,
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
            pass: BackwardPass::Rows { .. } | BackwardPass::Columns { .. },
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

/// What the crate's own modifiers do to a product, as WGSL that leaves it in `score`.
fn modifiers(score: &ScoreText) -> String {
    let mut body = "    var score = product * params.scale_abs;\n".to_owned();
    if score.softcap {
        body += "    score = softcap_score(score);\n";
    }
    if score.bias {
        body += "    score = bias_score(score, b, h, q_idx, kv_idx);\n";
    }
    if score.alibi {
        body += "    score = alibi_score(score, b, h, q_idx, kv_idx);\n";
    }
    body
}

struct Source(String);

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
        self.part(&shader!("sequences"));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn title(&mut self, name: &str) {
        self.line(&format!("\n// ---- {name} ----"));
    }

    fn part(&mut self, part: &Part) {
        self.template(part, &[]);
    }

    /// A part with its placeholders filled in.
    fn template(&mut self, part: &Part, values: &[(&str, &str)]) {
        self.title(part.file);
        let filled = (values.iter())
            .fold(part.text.to_owned(), |text, (name, value)| text.replace(name, value));
        self.line(&filled);
    }

    /// The products of a lane's rows with rows of `tensor`, which lie as `side` says.
    fn lane_products(&mut self, tensor: &str, side: &str, length: &str) {
        let values = [("TENSOR", tensor), ("SIDE", side), ("LENGTH", length)];
        self.template(&shader!("broadcast/products"), &values);
    }

    /// The sums of rows of `tensor`, weighted for each of a lane's rows.
    fn lane_sums(&mut self, tensor: &str, side: &str, length: &str) {
        let values = [("TENSOR", tensor), ("SIDE", side), ("LENGTH", length)];
        self.template(&shader!("broadcast/sums"), &values);
    }

    /// The parts of the kernel that appends to a cache.
    fn append(&mut self, config: &AppendConfig) {
        self.constant("PARTS", config.parts);
        self.line(&format!("const ROTATES_Q: bool = {};", config.rotates_q));
        if let Some(pairing) = config.pairing {
            self.part(&shader!("append/rotary"));
            self.part(&match pairing {
                Pairing::Half => shader!("append/pairs_half"),
                Pairing::Interleaved => shader!("append/pairs_interleaved"),
            });
        }
        let turned = config.pairing.is_some();
        for (from, to, length, turned) in
            [("new_k", "k", "params.head_dim", turned), ("new_v", "v", "params.head_dim_v", false)]
        {
            self.incoming(config, from, length, turned);
            self.appended(config, config.cache, from, to, length);
        }
        if config.rotates_q {
            self.incoming(config, "q", "params.head_dim", true);
            self.appended(config, config.tokens, "q", "rotated_q", "params.head_dim");
        } else {
            self.title("generated: kernel::source");
            self.line(
                "fn append_rotated_q(part: u32, to: vec2<u32>, place: vec2<u32>, h: u32, position: u32) {}",
            );
        }
        self.part(&shader!("append/append"));
    }

    /// `incoming_TENSOR4`: rows of the new tokens.
    fn incoming(&mut self, config: &AppendConfig, tensor: &str, length: &str, turned: bool) {
        self.rows(config.access, config.tokens, tensor, length);
        let rows =
            if turned { shader!("append/turned_rows") } else { shader!("append/plain_rows") };
        self.template(&rows, &[("TENSOR", tensor)]);
    }

    /// `append_TENSOR`: rows from one tensor to another.
    fn appended(
        &mut self,
        config: &AppendConfig,
        dtype: Dtype,
        from: &str,
        to: &str,
        length: &str,
    ) {
        let store = if dtype == Dtype::I8 {
            shader!("append/store_row_i8")
        } else {
            self.written_rows(config.access, dtype, to, length);
            shader!("append/store_row")
        };
        self.template(&store, &[("FROM", from), ("TENSOR", to), ("ROW_LENGTH", length)]);
    }

    /// `load_TENSOR4` for a tensor of that type.
    fn rows(&mut self, access: RowAccess, dtype: Dtype, tensor: &str, length: &str) {
        if dtype == Dtype::I8 {
            let values = [("TENSOR", tensor), ("ROW_LENGTH", length)];
            return self.template(&shader!("rows/load_i8"), &values);
        }
        self.reads(access, dtype, tensor, false);
        // A length that is a constant is all that there is room for.
        let load = match access {
            RowAccess::Scalar => shader!("rows/load_scalar"),
            RowAccess::Vec4 if length.starts_with("HEAD_DIM") => shader!("rows/load_vec4_whole"),
            RowAccess::Vec4 => shader!("rows/load_vec4"),
        };
        self.template(&load, &[("TENSOR", tensor), ("ROW_LENGTH", length)]);
    }

    /// The same for a tensor that is written: `store_TENSOR4`, and `load_TENSOR4` to read it back.
    fn written_rows(&mut self, access: RowAccess, dtype: Dtype, tensor: &str, length: &str) {
        self.reads(access, dtype, tensor, true);
        let (load, store, write) = match (access, dtype) {
            (RowAccess::Scalar, Dtype::F32) => (
                shader!("rows/load_scalar"),
                shader!("rows/store_scalar"),
                shader!("rows/f32_scalar_write"),
            ),
            (RowAccess::Scalar, _) => (
                shader!("rows/load_scalar"),
                shader!("rows/store_scalar"),
                shader!("rows/half_scalar_write"),
            ),
            (RowAccess::Vec4, Dtype::F32) => (
                shader!("rows/load_vec4"),
                shader!("rows/store_vec4"),
                shader!("rows/f32_vec4_write"),
            ),
            (RowAccess::Vec4, _) => (
                shader!("rows/load_vec4"),
                shader!("rows/store_vec4"),
                shader!("rows/half_vec4_write"),
            ),
        };
        for part in [write, load, store] {
            let values = [("HALF", dtype.name()), ("TENSOR", tensor), ("ROW_LENGTH", length)];
            self.template(&part, &values);
        }
    }

    /// `read_TENSOR` or `read_TENSOR4`: elements as f32.
    fn reads(&mut self, access: RowAccess, dtype: Dtype, tensor: &str, atomic: bool) {
        match dtype {
            Dtype::F32 | Dtype::I8 => {}
            Dtype::F16 => self.once(&shader!("rows/f16")),
            Dtype::Bf16 => self.once(&shader!("rows/bf16")),
        }
        let read = match (access, dtype) {
            (RowAccess::Scalar, Dtype::F32) => shader!("rows/f32_scalar"),
            (RowAccess::Scalar, _) => shader!("rows/half_scalar"),
            (RowAccess::Vec4, Dtype::F32) => shader!("rows/f32_vec4"),
            (RowAccess::Vec4, _) => shader!("rows/half_vec4"),
        };
        let word = if atomic { "atomicLoad(&TENSOR[at / 2u])" } else { "TENSOR[at / 2u]" };
        let values = [("HALF_WORD", word), ("HALF", dtype.name()), ("TENSOR", tensor)];
        self.template(&read, &values);
    }

    /// A part that several others need, where it isn't there yet.
    fn once(&mut self, part: &Part) {
        if !self.0.contains(part.text) {
            self.part(part);
        }
    }

    /// The parts of the score modifiers, and `modified_score`, which applies them in their order.
    fn score(&mut self, score: &ScoreText, bias: Dtype) {
        if score.softcap {
            self.part(&shader!("score/softcap"));
        }
        if score.bias {
            self.reads(RowAccess::Scalar, bias, "bias", false);
            self.part(&shader!("score/bias"));
        }
        if score.alibi {
            self.part(&shader!("score/alibi"));
        }
        let mut body = modifiers(score);
        if let Some((text, name)) = &score.custom {
            self.line(text);
            body += &format!("    score = {name}(score, b, h, q_idx, kv_idx);\n");
        }
        self.title("generated: kernel::source");
        self.constant("ALIBI_SLOT", ALIBI_SLOT);
        self.constant("SINKS_SLOT", SINKS_SLOT);
        self.line(&format!(
            "const MODIFIED: bool = {};\n\n\
             fn modified_score(product: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{\n\
             {body}    return score;\n}}\n",
            score.modifies()
        ));
    }

    /// The user's function and its derivative at single points, nothing else.
    fn score_points(&mut self, score: &ScoreText) {
        let Some((text, name)) = &score.custom else { return };
        self.line(text);
        let gradient = score.custom_gradient.as_deref().unwrap_or_default();
        let values = [("SCORE_MOD", name.as_str()), ("SCORE_GRADIENT", gradient)];
        self.template(&shader!("score/points"), &values);
    }

    /// `score_gradient`: a modified score's gradient, taken back to where the bias is added and to the scaled product.
    fn score_gradient(&mut self, score: &ScoreText) {
        let mut body =
            "    let scaled = product * params.scale_abs;\n    var upstream = gradient;\n"
                .to_owned();
        if let Some(name) = &score.custom_gradient {
            body += &modifiers(score);
            body += &format!("    upstream = {name}(upstream, score, b, h, q_idx, kv_idx);\n");
        }
        body += "    let of_bias = upstream;\n";
        if score.softcap {
            body += "    upstream *= softcap_slope(scaled);\n";
        }
        self.title("generated: kernel::source");
        self.line(&format!(
            "fn score_gradient(gradient: f32, product: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> vec2<f32> {{\n\
             {body}    return vec2<f32>(upstream, of_bias);\n}}\n"
        ));
    }

    /// The kernels of the backward pass.
    fn backward(
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
            return self.part(&shader!("backward/sinks"));
        }
        self.rows(access, dtypes.q, "q", length);
        self.rows(access, dtypes.k, "k", length);
        self.rows(access, dtypes.v, "v", v_length);
        self.rows(access, dtypes.o, "dout", v_length);
        self.score(score, dtypes.bias);
        self.score_gradient(score);
        self.part(&shader!("backward/cell"));
        match pass {
            BackwardPass::Rows { dq, normalizes } => {
                self.part(&tile_class(mask));
                self.part(&shader!("query_block"));
                self.gradient_rows(dq, access, config.gradients.dq, "dq", length);
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
                self.part(&shader!("nonfinite"));
                self.template(&shader!("nonfinite_keys"), &[("TENSOR", "k")]);
                match config.form {
                    BackwardForm::Broadcast { .. } => {
                        self.part(&shader!("broadcast/broadcast"));
                        self.lane_products("k", "kv", "HEAD_DIM");
                        self.lane_products("v", "kv", "HEAD_DIM_V");
                        self.lane_sums("k", "kv", "HEAD_DIM");
                        self.part(&shader!("backward/rows_broadcast"));
                    }
                    BackwardForm::Tiled { .. } => {
                        self.part(&shader!("turns"));
                        self.part(&shader!("backward/tiled"));
                        self.product(["q", "k"], ["q", "kv"]);
                        self.product(["dout", "v"], ["q", "kv"]);
                        self.sum("k", "kv", "HEAD_DIM");
                        self.part(&shader!("backward/rows_tiled"));
                    }
                }
            }
            BackwardPass::Columns { dk, dv } => {
                self.part(&tile_class(mask));
                self.part(&shader!("backward/key_block"));
                self.gradient_rows(dk, access, config.gradients.dk, "dk", length);
                self.gradient_rows(dv, access, config.gradients.dv, "dv", v_length);
                self.part(&shader!("nonfinite"));
                for tensor in ["q", "dout"] {
                    self.template(&shader!("backward/nonfinite_queries"), &[("TENSOR", tensor)]);
                }
                match config.form {
                    BackwardForm::Broadcast { .. } => {
                        self.part(&shader!("broadcast/broadcast"));
                        self.lane_products("q", "q", "HEAD_DIM");
                        self.lane_products("dout", "q", "HEAD_DIM_V");
                        self.lane_sums("dout", "q", "HEAD_DIM_V");
                        self.lane_sums("q", "q", "HEAD_DIM");
                        self.part(&shader!("backward/columns_broadcast"));
                    }
                    BackwardForm::Tiled { .. } => {
                        self.part(&shader!("turns"));
                        self.part(&shader!("backward/tiled"));
                        self.product(["k", "q"], ["kv", "q"]);
                        self.product(["v", "dout"], ["kv", "q"]);
                        self.sum("q", "q", "HEAD_DIM");
                        self.sum("dout", "q", "HEAD_DIM_V");
                        self.part(&shader!("backward/columns_tiled"));
                    }
                }
            }
            _ => {
                let dtype = config.gradients.dbias;
                let write = match dtype {
                    // `BackwardPlan` refuses 8 bits.
                    Dtype::F32 | Dtype::I8 => shader!("rows/f32_scalar_write"),
                    Dtype::F16 => {
                        self.once(&shader!("rows/f16"));
                        shader!("rows/half_scalar_write")
                    }
                    Dtype::Bf16 => {
                        self.once(&shader!("rows/bf16"));
                        shader!("rows/half_scalar_write")
                    }
                };
                self.template(&write, &[("HALF", dtype.name()), ("TENSOR", "dbias")]);
                self.part(&shader!("backward/bias"));
            }
        }
    }

    /// `product_NEAR_FAR` of the tiled backward kernels; each tensor's rows are queries or keys.
    fn product(&mut self, [near, far]: [&str; 2], [near_rows, far_rows]: [&str; 2]) {
        let values = [
            ("NEAR_TENSOR", near),
            ("FAR_TENSOR", far),
            ("NEAR_ROWS", near_rows),
            ("FAR_ROWS", far_rows),
        ];
        self.template(&shader!("backward/tiled_product"), &values);
    }

    /// `add_FAR` of the tiled backward kernels.
    fn sum(&mut self, far: &str, far_rows: &str, capacity: &str) {
        let values = [("FAR_TENSOR", far), ("FAR_ROWS", far_rows), ("CAPACITY", capacity)];
        self.template(&shader!("backward/tiled_sum"), &values);
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
            self.template(&shader!("rows/discard"), &[("TENSOR", tensor)]);
        }
    }

    fn backward_constants(&mut self, pass: BackwardPass, config: &BackwardConfig) {
        let grid = match pass {
            BackwardPass::Terms { .. } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                // As lse of a row that keeps nothing: it makes every weight 0, and its products stay finite.
                self.line("const NOTHING_KEPT: f32 = 1.0e38;");
                return self.row_lengths(config);
            }
            BackwardPass::Sinks => {
                return self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
            }
            BackwardPass::Bias { shared_by_rows } => {
                self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize);
                self.flag("BIAS_SHARED_BY_ROWS", shared_by_rows);
                return self.row_lengths(config);
            }
            BackwardPass::Rows { .. } => config.rows_grid,
            BackwardPass::Columns { dk, dv } => {
                self.flag("WRITE_DK", dk);
                self.flag("WRITE_DV", dv);
                config.columns_grid
            }
        };
        self.constant("BLOCK_Q", grid.block_q);
        self.constant("BLOCK_KV", grid.block_kv);
        self.row_lengths(config);
        match config.form {
            BackwardForm::Broadcast { subgroup_size, rows, step } => {
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", rows);
                self.constant("STEP", step);
                // There are twice as many sums as in the forward pass: half of each fits the instruction cache.
                self.constant("SUM_STEP", subgroup_size / 2);
            }
            BackwardForm::Tiled { columns, chunk, staged_rows } => {
                let [own, other] = match pass {
                    BackwardPass::Columns { .. } => ["BLOCK_KV", "BLOCK_Q"],
                    _ => ["BLOCK_Q", "BLOCK_KV"],
                };
                self.line(&format!(
                    "const OWN_BLOCK: u32 = {own};\nconst OTHER_BLOCK: u32 = {other};"
                ));
                self.constant("COLUMNS", columns);
                self.constant("CHUNK", chunk);
                self.constant("STAGED_ROWS", staged_rows);
            }
        }
    }

    fn row_lengths(&mut self, config: &BackwardConfig) {
        self.constant("HEAD_DIM", config.head_dim.capacity);
        self.constant("HEAD_DIM_V", config.head_dim_v.capacity);
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
            _ => self.constant("WORKGROUP_SIZE", WORKGROUP_SIZE as usize),
        }
    }

    fn forward_constants(&mut self, config: &ForwardConfig) {
        self.constant("BLOCK_Q", config.grid.block_q);
        self.constant("BLOCK_KV", config.grid.block_kv);
        self.constant("HEAD_DIM", config.head_dim.capacity);
        self.constant("HEAD_DIM_V", config.head_dim_v.capacity);
        match config.form {
            ForwardForm::Broadcast { subgroup_size, rows, step } => {
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", rows);
                self.constant("STEP", step);
                self.constant("SUM_STEP", subgroup_size);
            }
            ForwardForm::Tiled { columns, chunk, v_keys } => {
                self.constant("COLUMNS", columns);
                self.constant("CHUNK", chunk);
                self.constant("V_KEYS", v_keys);
            }
            ForwardForm::Matrix { columns, size } => {
                self.constant("COLUMNS", columns);
                self.constant("MATRIX", size);
            }
            ForwardForm::DecodeLanes { subgroup_size, rows, .. } => {
                self.constant("SUBGROUP_SIZE", subgroup_size);
                self.constant("ROWS", rows);
            }
            ForwardForm::Decode { invocations, columns, rows, .. } => {
                self.constant("INVOCATIONS", invocations);
                self.constant("COLUMNS", columns);
                self.constant("ROWS", rows);
                self.constant("K_RUN", config.rows.run(config.rows.dtypes.k));
                self.constant("V_RUN", config.rows.run(config.rows.dtypes.v));
            }
        }
    }

    /// The types of cooperative matrices, and what enables them; it comes before every declaration.
    fn matrices(&mut self, size: usize) {
        self.line("enable f16;\nenable wgpu_cooperative_matrix;\n");
        for (name, scalar, role) in
            [("Left", "f16", "A"), ("Right", "f16", "B"), ("Sum", "f32", "C")]
        {
            self.line(&format!("alias {name} = coop_mat{size}x{size}<{scalar}, {role}>;"));
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
        let row = |dtype: Dtype| match (access, dtype) {
            (_, Dtype::I8) => "u32",
            (RowAccess::Scalar, Dtype::F32) => "f32",
            (RowAccess::Vec4, Dtype::F32) => "vec4<f32>",
            (RowAccess::Scalar, _) => "u32",
            (RowAccess::Vec4, _) => "vec2<u32>",
        };
        let written = |dtype: Dtype| match (access, dtype) {
            (RowAccess::Scalar, Dtype::F16 | Dtype::Bf16) => "atomic<u32>",
            _ => row(dtype),
        };
        let dbias = if gradients.dbias == Dtype::F32 { "f32" } else { "atomic<u32>" };
        let cache = "the cache's rows, at cache_place";
        let bias = if dtypes.bias == Dtype::F32 { "f32" } else { "u32" };
        let (shape, name, element) = match binding {
            Binding::Params => ("the problem's sizes", "params", "Params"),
            Binding::Mask | Binding::MaskTables => {
                ("slots, then the mask's data: see shaders/mask/words.wgsl", "mask_words", "u32")
            }
            Binding::Q => ("[batch, num_heads, seq_len_q, head_dim]", "q", row(dtypes.q)),
            Binding::K => ("[batch, num_kv_heads, seq_len_kv, head_dim]", "k", row(dtypes.k)),
            Binding::V => ("[batch, num_kv_heads, seq_len_kv, head_dim_v]", "v", row(dtypes.v)),
            Binding::O => ("[batch, num_heads, seq_len_q, head_dim_v]", "o", written(dtypes.o)),
            Binding::OIn => ("[batch, num_heads, seq_len_q, head_dim_v]", "o", row(dtypes.o)),
            Binding::Dout => ("[batch, num_heads, seq_len_q, head_dim_v]", "dout", row(dtypes.o)),
            Binding::Dlse => ("[batch, num_heads, seq_len_q]", "dlse", "f32"),
            Binding::RowTermsOut | Binding::RowTerms => {
                ("lse, delta, norm: [batch, num_heads, seq_len_q]", "row_terms", "vec4<f32>")
            }
            Binding::Dq => ("[batch, num_heads, seq_len_q, head_dim]", "dq", written(gradients.dq)),
            Binding::Dk => {
                ("[batch, num_kv_heads, seq_len_kv, head_dim]", "dk", written(gradients.dk))
            }
            Binding::Dv => {
                ("[batch, num_kv_heads, seq_len_kv, head_dim_v]", "dv", written(gradients.dv))
            }
            Binding::Dbias => ("[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]", "dbias", dbias),
            Binding::Dsinks => ("[num_heads]", "dsinks", "f32"),
            Binding::Bias => ("[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]", "bias", bias),
            Binding::LseOut | Binding::LseIn => ("[batch, num_heads, seq_len_q]", "lse", "f32"),
            Binding::Rotary => ("the rotary embedding's angles", "rotary", "Rotary"),
            Binding::RotatedQ => {
                ("[batch, num_heads, seq_len_q, head_dim]", "rotated_q", written(dtypes.q))
            }
            Binding::NewK => ("[batch, num_kv_heads, seq_len_q, head_dim]", "new_k", row(dtypes.q)),
            Binding::NewV => {
                ("[batch, num_kv_heads, seq_len_q, head_dim_v]", "new_v", row(dtypes.q))
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
        };
        let declaration = match binding {
            _ if binding.is_uniform() => format!("var<uniform> {name}: {element};"),
            _ if binding.is_written() => {
                format!("var<storage, read_write> {name}: array<{element}>;")
            }
            _ => format!("var<storage, read> {name}: array<{element}>;"),
        };
        // Writing to a String can't fail.
        let _ = write!(self.0, "\n// {shape}\n@group(0) @binding({index}) {declaration}\n");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernel::catalog::{
        MASKS, SEQUENCES_MASK, appends, keys, one_of_each, sequence_forms,
    };
    use crate::kernel::limits::Needs;
    use crate::kernel::pipeline::Kernels;
    use crate::kernel::tiles::{DeviceTraits, candidates, variants};
    use crate::mask::Mask;
    use crate::problem::Problem;
    use crate::shape::Shape;

    /// The kernels that append to caches, of every type and in every way.
    #[test]
    fn every_append_is_valid() {
        let (device, _queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let kernels = Kernels::new(&device);
        for key in appends() {
            let text = wgsl(&key);
            kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert!(["TENSOR", "ROW_LENGTH", "FROM"].iter().all(|name| !text.contains(name)));
        }
    }

    /// With every feature and limit that some kernel needs.
    fn noop_device() -> wgpu::Device {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: wgpu::Features::SUBGROUP
                | wgpu::Features::SHADER_F16
                | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            required_limits: wgpu::Limits {
                max_compute_workgroup_storage_size: 32 << 10,
                ..wgpu::Limits::defaults()
            },
            // SAFETY: the noop backend runs nothing.
            #[expect(unsafe_code)]
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        wgpu::Device::noop(&descriptor).0
    }

    /// Without a GPU: wgpu's noop backend takes each text through naga's validation and every pipeline check.
    #[test]
    fn every_kernel_is_valid() {
        let kernels = Kernels::new(&noop_device());
        let mut count = 0;
        for mask in MASKS {
            let mask: Mask = mask.parse().unwrap();
            for key in keys(&Arc::new(MaskText::new(&mask, SequenceForms::default()))) {
                let text = wgsl(&key);
                kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
                count += 1;
            }
        }
        // Some keys come twice.
        assert!(kernels.compiled() > count / 3);
    }

    /// What plans compare with a device's limits is what the texts declare.
    #[test]
    fn every_kernel_needs_what_its_text_declares() {
        let mask: Mask = "documents & self_only_if_alone(causal)".parse().unwrap();
        let mask = Arc::new(MaskText::new(&mask, SequenceForms::default()));
        for key in keys(&mask) {
            let module = naga::front::wgsl::parse_str(&wgsl(&key)).unwrap();
            let entry = &module.entry_points[0];
            let of = |space: fn(naga::AddressSpace) -> bool| {
                let variables = module.global_variables.iter().map(|(_, variable)| variable);
                variables.filter(move |variable| space(variable.space)).collect::<Vec<_>>()
            };
            let storage = of(|space| matches!(space, naga::AddressSpace::Storage { .. }));
            let shared = of(|space| space == naga::AddressSpace::WorkGroup).into_iter();
            let size = |variable: &naga::GlobalVariable| {
                module.types[variable.ty].inner.size(module.to_ctx()) as usize
            };
            let declared = Needs {
                storage_buffers: storage.len(),
                invocations: entry.workgroup_size.iter().product::<u32>() as usize,
                workgroup_bytes: shared.map(size).sum(),
            };
            assert_eq!(Needs::of(&key), declared, "{key:?}");
            // The choice of kernels goes by what the largest of them needs.
            let chosen_by = match &key {
                KernelKey::Forward { config, score, .. } => Needs::of_forward(config, score.bias),
                KernelKey::Backward { config, .. } => Needs::of_backward(config),
                _ => continue,
            };
            assert!(chosen_by.storage_buffers >= declared.storage_buffers, "{key:?}");
            assert!(chosen_by.invocations >= declared.invocations, "{key:?}");
            assert!(chosen_by.workgroup_bytes >= declared.workgroup_bytes, "{key:?}");
        }
    }

    /// Every way in which queries and keys may lie, in one kernel of each name.
    #[test]
    fn every_form_of_sequences_is_valid() {
        let kernels = Kernels::new(&noop_device());
        let mask: Mask = SEQUENCES_MASK.parse().unwrap();
        for forms in sequence_forms() {
            for key in one_of_each(&Arc::new(MaskText::new(&mask, forms))) {
                let text = wgsl(&key);
                kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
            }
        }
    }

    /// What the tuner tries, under one mask: masks and tiles are composed apart.
    #[test]
    fn every_variant_is_valid() {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: wgpu::Features::SUBGROUP,
            ..Default::default()
        };
        let (device, _queue) = wgpu::Device::noop(&descriptor);
        let kernels = Kernels::new(&device);
        let traits = DeviceTraits {
            is_cpu: true,
            fixed_subgroup_size: Some(8),
            largest_subgroup: 8,
            matrix: Ok(8),
            limits: wgpu::Limits::defaults(),
            most_work: u64::MAX,
        };
        let mask = Arc::new(MaskText::new(&Mask::causal(), Default::default()));
        for head_dim in [16, 32, 64, 128, 192, 256] {
            let problem = Problem::new(Shape::new(1, 1, 1, head_dim));
            let forms = candidates(&problem, &traits, None).into_iter();
            let tables = forms.filter_map(|(_, form)| form.ok());
            for config in tables.flat_map(|config| variants(config, &traits)) {
                let (score, mask) = (ScoreText::default(), Arc::clone(&mask));
                let key = KernelKey::Forward { config, score, mask };
                let text = wgsl(&key);
                kernels.pipeline(key).unwrap_or_else(|error| panic!("{error}\n{text}"));
            }
        }
        assert!(kernels.compiled() > 5);
    }

    /// A stranger who reads a kernel's text finds where each part comes from.
    #[test]
    fn every_part_is_under_the_name_of_its_file() {
        let mask: Mask = "causal & documents".parse().unwrap();
        for key in keys(&Arc::new(MaskText::new(&mask, SequenceForms::default()))) {
            let text = wgsl(&key);
            assert!(text.contains("// ---- shaders/problem.wgsl ----"));
            assert!(text.contains("// ---- shaders/mask/causal.wgsl ----"));
            assert!(
                !text.contains("TENSOR") && !text.contains("ROW_LENGTH"),
                "a placeholder is left"
            );
        }
    }
}
