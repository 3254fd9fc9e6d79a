//! Every kernel that some device may choose: what the tests validate on wgpu's noop backend, and what `cargo xtask
//! portability` hands to other compilers.

use std::collections::HashSet;
use std::sync::Arc;

use super::key::{
    AppendConfig, BackwardConfig, BackwardForm, BackwardKernel, BackwardPass, ForwardConfig,
    ForwardForm, ForwardKernel, KernelKey, Pairing, Parts, PickConfig, PointSlope, PooledSide,
    RowAccess, RowFormat, Windowed,
};
use super::source::{BROWSER_SUBGROUPS, SEGMENT, needs_subgroups, wgsl};
use super::tiles::{DeviceTraits, Splitting, backward_candidates, candidates};
use crate::custom::{WgslBuffer, WgslFunction};
use crate::mask::Mask;
use crate::mask::emit::MaskText;
use crate::mask::tile::{ClassedBy, TileGrid};
use crate::problem::{GradientStrides, Problem, Resolved, TensorStrides};
use crate::score::ScoreText;
use crate::tensor::dtype::{Dtype, Dtypes};
use crate::tensor::sequences::{KeyForm, QueryForm, SequenceForms};
use crate::tensor::shape::Shape;

/// A kernel's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelText {
    /// The kernel's name, the same for all of its forms.
    pub kernel: String,
    /// What else the text depends on.
    pub form: String,
    /// The name of its entry point.
    pub entry_point: &'static str,
    /// What wgpu compiles.
    pub wgsl: String,
    /// What browsers want in front of it.
    pub browser_prelude: &'static str,
    /// Whether it uses cooperative matrices, which only wgpu has under this name.
    pub matrices: bool,
}

impl KernelText {
    /// Of a kernel of cooperative matrices, the SPIR-V with ordered memory that Vulkan gets instead of the WGSL.
    ///
    /// # Errors
    /// What wgpu's compiler objects to.
    #[cfg(all(feature = "spirv", not(target_family = "wasm")))]
    pub fn ordered_spirv(&self) -> Option<Result<Vec<u32>, String>> {
        self.matrices.then(|| super::spirv::compile(&self.wgsl, self.entry_point, true))
    }
}

/// Every kernel that some device may choose: all tiles, types, sequences and score modifiers under one mask, and each
/// kernel once under each of the other masks, since masks and tiles are composed apart.
pub fn kernel_texts() -> Vec<KernelText> {
    composed().into_iter().map(|(text, _)| text).collect()
}

/// The same, each with the first key of those that have this text.
fn composed() -> Vec<(KernelText, KernelKey)> {
    let mut seen = HashSet::new();
    let text = |(mask, key): (String, KernelKey)| {
        // A text that isn't whole fails as a kernel wherever it is compiled.
        let wgsl = wgsl(&key).unwrap_or_else(|error| error.to_string());
        let text = seen.insert(wgsl.clone()).then(|| KernelText {
            kernel: name(&key),
            form: format!("mask `{mask}`, {}", form(&key)),
            entry_point: key.entry_point(),
            browser_prelude: if needs_subgroups(&key) { BROWSER_SUBGROUPS } else { "" },
            matrices: name(&key).ends_with(" matrix"),
            wgsl,
        });
        Some((text?, key))
    };
    kernel_keys().into_iter().filter_map(text).collect()
}

/// The catalog, composed once for all tests: it takes seconds.
#[cfg(test)]
pub(crate) static CATALOG: std::sync::LazyLock<Vec<(KernelText, KernelKey)>> =
    std::sync::LazyLock::new(composed);

/// Their keys, each with its mask. Several may have the same text.
fn kernel_keys() -> Vec<(String, KernelKey)> {
    let mut found = Vec::new();
    let mut add = |mask: &str, keys: Vec<KernelKey>| {
        found.extend(keys.into_iter().map(|key| (mask.to_owned(), key)));
    };
    // Its tiles are read from the tile map; the others' are classed by closed forms too.
    let main = "documents & dense & not_self";
    add(main, keys(&mask_text(main, SequenceForms::default())));
    for mask in masks() {
        let text = Arc::new(MaskText::new(&mask, SequenceForms::default()));
        add(&mask.to_string(), one_of_each(&text));
    }
    for forms in sequence_forms() {
        add(SEQUENCES_MASK, one_of_each(&mask_text(SEQUENCES_MASK, forms)));
    }
    for mask in masks().into_iter().filter(Mask::has_bounds) {
        let text = MaskText::classed(&mask, SequenceForms::default(), ClassedBy::Bounds);
        add(&format!("{mask}, by bounds"), one_of_each(&Arc::new(text)));
    }
    add("all", appends());
    for forms in sequence_forms() {
        add("all", block_indexes(&mask_text("all", forms)));
        if forms.kv == KeyForm::Paged {
            add("all", pages(&mask_text("all", forms)));
        }
    }
    let problem = own_functions();
    let mask = Arc::new(MaskText::new(&problem.mask, SequenceForms::default()));
    add("wgsl", one_of_each(&mask));
    if let Ok(score) = problem.score_text_with_gradient() {
        let forms: Vec<_> =
            [SequenceForms::default()].into_iter().chain(sequence_forms()).collect();
        let learned = backward_configs().into_iter().zip(forms.iter().cycle()).enumerate();
        let learned = learned.map(|(at, (config, &forms))| {
            let pass = BackwardPass::Custom { rows: CUSTOM_ROWS[at % 2] };
            let score = ScoreText { bias: at % 3 == 0, ..score.clone() };
            let mask = Arc::new(MaskText::new(&problem.mask, forms));
            KernelKey::Backward { pass, config, score, mask }
        });
        add("wgsl", learned.collect());
        let slopes =
            [PointSlope::Score, PointSlope::Buffer(0), PointSlope::Element(0)].map(|slope| {
                let (score, mask) = (score.clone(), Arc::clone(&mask));
                KernelKey::ScorePoints { score, slope, mask }
            });
        add("wgsl", slopes.to_vec());
    }
    found
}

/// A problem with user-defined functions, each of which reads a buffer.
fn own_functions() -> Problem {
    let keep = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return kv_idx <= q_idx + reach(h); }";
    let score_mod = "
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score * slope(h);
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad * slope(h);
        }
        fn slope_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return h; }
        fn slope_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return grad * score;
        }";
    let custom = |text: &str, name: &str, of| WgslFunction::new(text)?.buffer(name, of, 4);
    let problem = Problem::new(Shape::new(1, 4, 1, 16));
    // The texts are constants, which a test reads.
    match (custom(keep, "reach", WgslBuffer::U32), custom(score_mod, "slope", WgslBuffer::F32)) {
        (Ok(keep), Ok(score_mod)) => problem.mask(Mask::Wgsl(keep)).score_mod(score_mod),
        _ => problem,
    }
}

fn mask_text(mask: &str, forms: SequenceForms) -> Arc<MaskText> {
    // The masks are constants, which a test parses.
    Arc::new(MaskText::new(&mask.parse().unwrap_or(Mask::All), forms))
}

/// One kernel of each name, and one that has windows.
pub(crate) fn one_of_each(mask: &Arc<MaskText>) -> Vec<KernelKey> {
    let mut names = HashSet::new();
    let is_new = |key: &KernelKey| names.insert((name(key), key.windows()));
    keys(mask).into_iter().rev().filter(is_new).collect()
}

/// The kernel's name: its entry point's, and how it works where there are several ways.
fn name(key: &KernelKey) -> String {
    match key {
        KernelKey::Forward { config, .. } => {
            let kernel = match config.form {
                ForwardForm::Broadcast { .. } => ForwardKernel::Broadcast,
                ForwardForm::Tiled { .. } => ForwardKernel::Tiled,
                ForwardForm::Matrix { .. } => ForwardKernel::Matrix,
                ForwardForm::DecodeLanes { .. } => ForwardKernel::DecodeLanes,
                ForwardForm::Decode { .. } => ForwardKernel::Decode,
            };
            format!("forward {kernel}")
        }
        KernelKey::Backward { pass, config, .. } => {
            let kernel = match config.form {
                BackwardForm::Broadcast { .. } => BackwardKernel::Broadcast,
                BackwardForm::Tiled { .. } => BackwardKernel::Tiled,
                BackwardForm::Matrix { .. } => BackwardKernel::Matrix,
            };
            match pass {
                BackwardPass::Dq { .. } => format!("backward dq {kernel}"),
                BackwardPass::DkDv { .. } => format!("backward dkdv {kernel}"),
                _ => key.entry_point().replace('_', " "),
            }
        }
        _ => key.entry_point().replace('_', " "),
    }
}

/// What else a kernel's text depends on, but for the mask.
fn form(key: &KernelKey) -> String {
    match key {
        KernelKey::Forward { config, score, .. } => format!("{config:?}, {score:?}"),
        KernelKey::Backward { pass, config, score, .. } => {
            format!("{pass:?}, {config:?}, {score:?}")
        }
        KernelKey::Merge { rows, parts, sinks, .. } => {
            format!("{rows:?}, {parts:?}, sinks: {sinks}")
        }
        KernelKey::Append { config, mask } => format!("{config:?}, {:?}", mask.sequences),
        KernelKey::Inspect { rows, score, .. } => format!("{rows:?}, {score:?}"),
        KernelKey::Weights { sinks, dropout, .. } => {
            format!("sinks: {sinks}, dropout: {}", dropout.is_some())
        }
        KernelKey::ScorePoints { score, slope, .. } => format!("{slope:?}, {score:?}"),
        KernelKey::PoolBlocks { rows, of, mask } => {
            format!("{rows:?}, {of:?}, {:?}", mask.sequences)
        }
        KernelKey::PickBlocks { config, mask } => format!("{config:?}, {:?}", mask.sequences),
        KernelKey::RowsAlone { node, .. } => format!("node {node}"),
        KernelKey::BlockBits { slot, .. } => format!("slot {slot}"),
        KernelKey::TileMap { grid, parts, .. } => format!("{grid:?}, parts: {parts}"),
        KernelKey::TileClasses { grid, .. } => format!("{grid:?}"),
        KernelKey::Bounds { mask } => format!("{:?}", mask.sequences),
        KernelKey::Materialize { mask } => format!("{:?}", mask.sequences),
        KernelKey::SequencesCheck { appends, mask } => {
            format!("{:?}, appends: {appends}", mask.sequences)
        }
    }
}

/// The operators that join no leaves of every kind.
const OPERATORS: &[&str] = &[
    "causal & !window(3,0)",
    "per_head(causal, window(2,0) & prefix)",
    "self_only_if_alone(causal & self_only_if_alone(dense))",
];

/// Every operator, and every leaf: those of LEAVES, a few in each mask, as their samples have them.
fn masks() -> Vec<Mask> {
    let samples: Vec<Mask> = (Mask::leaves())
        .filter_map(|leaf| leaf.samples().into_iter().next())
        .map(|sample| sample.mask)
        .collect();
    let joined = samples.chunks(LEAVES_OF_A_MASK).filter_map(|leaves| {
        // `a & b | c & d | e`
        let pairs = leaves.chunks(2).filter_map(|pair| pair.iter().cloned().reduce(|a, b| a & b));
        pairs.reduce(|a, b| a | b)
    });
    // The operators are constants, which a test parses.
    OPERATORS.iter().filter_map(|mask| mask.parse().ok()).chain([Mask::All]).chain(joined).collect()
}

/// More than two, so that a mask has several fragments; few, so that one leaf's error is found in a short text.
const LEAVES_OF_A_MASK: usize = 5;

/// Every kernel that any device may choose for a mask but those that append and those that are for a function of the
/// user's own: their tiles and types, the score modifiers.
fn keys(mask: &Arc<MaskText>) -> Vec<KernelKey> {
    let mut keys = vec![KernelKey::Materialize { mask: Arc::clone(mask) }];
    for parts in [Parts::Splits, Parts::Results(RowAccess::Scalar), Parts::Results(RowAccess::Vec4)]
    {
        for (access, o) in [(RowAccess::Scalar, Dtype::F16), (RowAccess::Vec4, Dtype::F32)] {
            let rows = RowFormat { access, dtypes: Dtypes { o, ..Dtypes::default() } };
            let sinks = parts == Parts::Splits;
            keys.push(KernelKey::Merge { rows, parts, sinks, mask: Arc::clone(mask) });
        }
    }
    let grid = TileGrid { block_q: 3, block_kv: 5 };
    keys.push(KernelKey::TileMap { grid, parts: 4, mask: Arc::clone(mask) });
    if mask.classed_by == ClassedBy::Bounds {
        keys.push(KernelKey::Bounds { mask: Arc::clone(mask) });
    }
    keys.push(KernelKey::TileClasses { grid, mask: Arc::clone(mask) });
    for config in configs() {
        for score in scores() {
            let rows = RowFormat { access: config.rows.access.written(), ..config.rows };
            let score = ScoreText { dropout: None, ..score };
            keys.push(KernelKey::Inspect { rows, score, mask: Arc::clone(mask) });
        }
    }
    for (sinks, dropout) in [(false, None), (true, DROPOUT_SLOT)] {
        keys.push(KernelKey::Weights { sinks, dropout, mask: Arc::clone(mask) });
    }
    if mask.sequences != SequenceForms::default() {
        keys.push(KernelKey::SequencesCheck { appends: false, mask: Arc::clone(mask) });
    }
    for &slot in &mask.block_bits {
        keys.push(KernelKey::BlockBits { slot, mask: Arc::clone(mask) });
    }
    for node in 0..mask.rows_alone.len() {
        keys.push(KernelKey::RowsAlone { node, mask: Arc::clone(mask) });
    }
    for config in configs() {
        for score in scores() {
            keys.push(KernelKey::Forward { config, score, mask: Arc::clone(mask) });
        }
    }
    for config in backward_configs() {
        for score in scores() {
            for pass in PASSES {
                // One binding too many, or too many registers: the plan takes the two halves.
                let halved = (score.bias || config.form.makes_apart())
                    && pass == (BackwardPass::DkDv { dk: true, dv: true });
                // Nothing to write: no plan asks for it.
                let idle = !config.form.has_cells()
                    && pass == (BackwardPass::Dq { dq: false, normalizes: false, slopes: false });
                if halved || idle {
                    continue;
                }
                // Cells beside a bias would be one binding too many as well: the table has no such kernel.
                let score =
                    ScoreText { bias: score.bias && !config.form.has_cells(), ..score.clone() };
                let mask = Arc::clone(mask);
                keys.push(KernelKey::Backward { pass, config, score, mask });
            }
        }
    }
    keys
}

/// The kernels that append to caches, of every type and in every way, and those that look whether there is room.
pub(crate) fn appends() -> Vec<KernelKey> {
    let types = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8, Dtype::I4];
    let pairings = [None, Some(Pairing::Half), Some(Pairing::Interleaved)];
    let q = [QueryForm::Uniform, QueryForm::Packed, QueryForm::LeftPadded];
    let kv = [KeyForm::Cached, KeyForm::Ring, KeyForm::Paged];
    let of = |(at, cache): (usize, Dtype)| {
        let config = AppendConfig {
            access: if at % 5 < 2 { RowAccess::Vec4 } else { RowAccess::Scalar },
            tokens: types[at / 4 % 3],
            cache,
            parts: 3,
            pairing: pairings[at % 3],
            hadamard: at % 4 == 2,
            rotates_q: at % 3 != 0 && at.is_multiple_of(2),
            values: at % 7 < 5 || cache == Dtype::I8,
            windows: at % 8 >= 6,
        };
        let forms = SequenceForms { q: q[at / 2 % 3], kv: kv[at / 3 % 3] };
        let mask = Arc::new(MaskText::new(&Mask::All, forms));
        let check = KernelKey::SequencesCheck { appends: true, mask: Arc::clone(&mask) };
        [check, KernelKey::Append { config, mask }]
    };
    types.into_iter().cycle().take(24).enumerate().flat_map(of).collect()
}

/// The kernels that make a pool's gradients of those of each sequence.
fn pages(mask: &Arc<MaskText>) -> Vec<KernelKey> {
    let configs = backward_configs().into_iter().take(1);
    let of = |config| {
        PAGES.map(|pass| {
            let (score, mask) = (ScoreText::default(), Arc::clone(mask));
            KernelKey::Backward { pass, config, score, mask }
        })
    };
    configs.flat_map(of).collect()
}

/// The kernels that pick the lists of `block_sparse`: of each type with either way to read rows, and of each option both.
fn block_indexes(mask: &Arc<MaskText>) -> Vec<KernelKey> {
    let mut keys = Vec::new();
    for (at, dtype) in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8].into_iter().enumerate() {
        for access in [RowAccess::Scalar, RowAccess::Vec4] {
            let of = PooledSide::Keys { maximum: at % 2 == 0 };
            let rows = RowFormat { access, dtypes: Dtypes { k: dtype, ..Dtypes::default() } };
            keys.push(KernelKey::PoolBlocks { rows, of, mask: Arc::clone(mask) });
            if dtype != Dtype::I8 {
                let rows = RowFormat { access, dtypes: dtype.into() };
                let of = PooledSide::Queries;
                keys.push(KernelKey::PoolBlocks { rows, of, mask: Arc::clone(mask) });
            }
        }
    }
    for (capacity, flag) in [(64, false), (512, true)] {
        let config =
            PickConfig { capacity, keep_first: flag, keep_own: !flag, causal: capacity == 512 };
        keys.push(KernelKey::PickBlocks { config, mask: Arc::clone(mask) });
    }
    keys
}

/// A mask that asks for places, tables and the tile map.
pub(crate) const SEQUENCES_MASK: &str = "self_only_if_alone(causal & documents) | buckets";

/// Every way in which queries and keys may lie.
pub(crate) fn sequence_forms() -> impl Iterator<Item = SequenceForms> {
    let q = [QueryForm::Uniform, QueryForm::Packed, QueryForm::LeftPadded];
    let kv = [KeyForm::Uniform, KeyForm::Packed, KeyForm::Cached, KeyForm::Ring, KeyForm::Paged];
    q.into_iter().flat_map(move |q| kv.map(|kv| SequenceForms { q, kv }))
}

/// Rows of workgroups of the kernel for what score functions read.
const CUSTOM_ROWS: [usize; 2] = [8, 64];

const PASSES: [BackwardPass; 19] = [
    BackwardPass::Terms { has_dlse: false },
    BackwardPass::Terms { has_dlse: true },
    BackwardPass::Dq { dq: true, normalizes: true, slopes: false },
    BackwardPass::Dq { dq: true, normalizes: false, slopes: false },
    BackwardPass::Dq { dq: false, normalizes: true, slopes: false },
    BackwardPass::Dq { dq: false, normalizes: false, slopes: false },
    BackwardPass::Dq { dq: true, normalizes: true, slopes: true },
    BackwardPass::Dq { dq: false, normalizes: false, slopes: true },
    BackwardPass::DkDv { dk: true, dv: true },
    BackwardPass::DkDv { dk: true, dv: false },
    BackwardPass::DkDv { dk: false, dv: true },
    BackwardPass::Bias { shared_by_rows: false, shared_by_keys: false },
    BackwardPass::Bias { shared_by_rows: false, shared_by_keys: true },
    BackwardPass::Bias { shared_by_rows: true, shared_by_keys: false },
    BackwardPass::Bias { shared_by_rows: true, shared_by_keys: true },
    BackwardPass::Sinks,
    BackwardPass::Slopes { of_sequences: false },
    BackwardPass::Slopes { of_sequences: true },
    BackwardPass::CustomSums,
];

/// The passes that paged caches alone have.
const PAGES: [BackwardPass; 4] = [
    BackwardPass::Pages { values: false, dtype: Dtype::F32, access: RowAccess::Vec4 },
    BackwardPass::Pages { values: true, dtype: Dtype::F32, access: RowAccess::Scalar },
    BackwardPass::Pages { values: true, dtype: Dtype::F16, access: RowAccess::Vec4 },
    BackwardPass::Pages { values: false, dtype: Dtype::Bf16, access: RowAccess::Scalar },
];

/// Every form of the backward kernels' table; each size with one type, of the tensors and of the gradients.
fn backward_configs() -> Vec<BackwardConfig> {
    let mut configs = Vec::new();
    for (device, head_dim) in devices().into_iter().zip([16, 33, 64, 100].into_iter().cycle()) {
        for head_dim in [head_dim, 3, 128, 255, 576] {
            let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][head_dim % 3];
            // Long rows of one length in f32 and of one in f16, whose sums are folded.
            let is_long = [3, 64].contains(&head_dim);
            let rows = if is_long { SEGMENT + 1 } else { 1 };
            let gradients = if is_long { Dtype::F32 } else { dtype };
            let shape = Shape::new(1, 1, rows, head_dim).head_dim_v(head_dim.min(512));
            let problem = Problem::new(shape).dtypes(dtype);
            // The sizes are ones that are served, as a test sees.
            let Ok(problem) = Resolved::new(problem) else { continue };
            let TensorStrides { q, k, v, o } = problem.strides;
            let options = GradientStrides { dout: o, dq: q, dk: k, dv: v };
            let forms = backward_candidates(&problem, &options, gradients.into(), &device);
            for config in forms.into_iter().filter_map(|(_, form)| form.ok()) {
                // Of those, those for windows, too.
                let windows = [Windowed { own: true, looped: true }; 2];
                let in_windows = is_long.then(|| config.of_windows(windows));
                for config in [Some(config), in_windows].into_iter().flatten() {
                    if !configs.contains(&config) {
                        configs.push(config);
                    }
                }
            }
        }
    }
    configs
}

/// Devices of every subgroup size, that have all that some kernel needs, one of them within WebGPU's baseline.
fn devices() -> [DeviceTraits; 4] {
    let sizes = [(4, 255, 16), (8, 64, 32), (16, 192, 32), (32, 128, 32)];
    sizes.map(|(subgroup_size, registers, workgroup_kib)| DeviceTraits {
        registers,
        // One with larger ones, too.
        subgroups: (subgroup_size, if subgroup_size == 16 { 64 } else { subgroup_size }),
        reads_wide: subgroup_size == 8 || subgroup_size == 32,
        matrix: Ok(if subgroup_size == 8 { 8 } else { 16 }),
        limits: wgpu::Limits {
            max_compute_workgroup_storage_size: workgroup_kib << 10,
            ..wgpu::Limits::defaults()
        },
        ..DeviceTraits::with_everything(subgroup_size)
    })
}

/// Neither score modifiers nor dropout, and all of them.
fn scores() -> [ScoreText; 2] {
    let all = ScoreText {
        softcap: true,
        bias: true,
        alibi: true,
        sinks: true,
        dropout: DROPOUT_SLOT,
        ..ScoreText::default()
    };
    [ScoreText::default(), all]
}

/// Some slot of dropout's numbers: their place is a constant of the text.
const DROPOUT_SLOT: Option<usize> = Some(13);

/// Every form of the tile table: all capacities, subgroup sizes and ways to read rows.
fn configs() -> Vec<ForwardConfig> {
    let mut configs = Vec::new();
    for device in devices() {
        for head_dim in [3, 16, 17, 33, 64, 65, 100, 128, 192, 200, 255, 256, 400, 576] {
            // Each type at some of the lengths: the length and the type are composed apart.
            let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][head_dim % 3];
            let [f32, dtype] = [Dtype::F32, dtype].map(Dtypes::from);
            // Quantized rows with runs of 16 bytes and without.
            let quantized = match head_dim {
                33 | 64 => Some(Dtype::I8),
                65 | 128 => Some(Dtype::I4),
                _ => None,
            };
            let quantized = quantized.map(|dtype| (1, Dtypes::default().k(dtype).v(dtype)));
            // One query and many: the kernels that pack rows, and blocks of either size.
            let cases = [(1, f32), (1, dtype), (99, f32), (99, dtype)];
            for (seq_len_q, dtypes) in cases.into_iter().chain(quantized) {
                // Long rows of one length, whose sums are folded.
                let keys = if head_dim == 64 { SEGMENT + 1 } else { seq_len_q };
                let shape = Shape::new(1, 1, seq_len_q, head_dim).seq_len_kv(keys);
                let shape = shape.head_dim_v(head_dim.min(512));
                let Ok(problem) = Resolved::new(Problem::new(shape).dtypes(dtypes)) else {
                    continue;
                };
                for num_splits in [1, 2] {
                    let forms =
                        candidates(&problem, &device, Splitting::Given(num_splits)).into_iter();
                    for config in forms.filter_map(|(_, form)| form.ok()) {
                        // Of the long rows, those for windows, too.
                        let own = config.form.packed_rows().is_none();
                        let windows = Windowed { own, looped: true };
                        let in_windows = (head_dim == 64).then(|| config.of_windows(windows));
                        for config in [Some(config), in_windows].into_iter().flatten() {
                            if !configs.contains(&config) {
                                configs.push(config);
                            }
                        }
                    }
                }
            }
        }
    }
    configs
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::super::key::{KernelKind, PassKind};
    use super::*;

    #[test]
    fn every_mask_parses_and_every_kernel_is_there() {
        for mask in OPERATORS.iter().chain([&SEQUENCES_MASK]) {
            mask.parse::<Mask>().unwrap();
        }
        let masks = masks();
        for leaf in Mask::leaves() {
            let is_in = |mask: &Mask| mask.to_string().contains(leaf.name());
            assert!(masks.iter().any(is_in), "{}", leaf.name());
        }
        let count = |name: &str| CATALOG.iter().filter(|(text, _)| text.kernel == name).count();
        for kernel in ForwardKernel::ALL {
            assert!(count(&format!("forward {kernel}")) > masks.len(), "{kernel}");
        }
        for kernel in BackwardKernel::ALL {
            for pass in ["dq", "dkdv"] {
                assert!(count(&format!("backward {pass} {kernel}")) > masks.len(), "{kernel}");
            }
        }
        let single = ["block bits"];
        for (KernelText { kernel, .. }, _) in &*CATALOG {
            assert!(count(kernel) > 1 || single.contains(&kernel.as_str()), "{kernel}");
        }
    }

    /// Every pass of the backward pass with all of its flags.
    fn passes() -> Vec<BackwardPass> {
        const FLAG: [bool; 2] = [false, true];
        // Of two gradients, a pass makes at least one.
        const ONE_OR_BOTH: [[bool; 2]; 3] = [[false, true], [true, false], [true, true]];
        let of_kind = |kind: &PassKind| match kind {
            PassKind::Terms => FLAG.map(|has_dlse| BackwardPass::Terms { has_dlse }).to_vec(),
            PassKind::Dq => ONE_OR_BOTH
                .map(|[dq, normalizes]| BackwardPass::Dq { dq, normalizes, slopes: false })
                .into_iter()
                .chain([BackwardPass::Dq { dq: true, normalizes: true, slopes: true }])
                .collect(),
            PassKind::DkDv => ONE_OR_BOTH.map(|[dk, dv]| BackwardPass::DkDv { dk, dv }).to_vec(),
            PassKind::Bias => FLAG
                .iter()
                .flat_map(|&shared_by_rows| {
                    FLAG.map(|shared_by_keys| BackwardPass::Bias { shared_by_rows, shared_by_keys })
                })
                .collect(),
            PassKind::Sinks => vec![BackwardPass::Sinks],
            PassKind::Pages => PAGES.to_vec(),
            PassKind::Custom => CUSTOM_ROWS.map(|rows| BackwardPass::Custom { rows }).to_vec(),
            PassKind::CustomSums => vec![BackwardPass::CustomSums],
            PassKind::Slopes => {
                FLAG.map(|of_sequences| BackwardPass::Slopes { of_sequences }).to_vec()
            }
        };
        PassKind::VARIANTS.iter().flat_map(of_kind).collect()
    }

    /// Whoever adds a kernel or a pass of the backward pass adds it to the catalog, too.
    #[test]
    fn no_kernel_and_no_pass_is_forgotten() {
        let keys = kernel_keys();
        for kind in KernelKind::VARIANTS {
            assert!(keys.iter().any(|(_, key)| KernelKind::from(key) == *kind), "{kind:?}");
        }
        for wanted in passes() {
            let has_it = |(_, key): &(String, KernelKey)| matches!(key, KernelKey::Backward { pass, .. } if *pass == wanted);
            assert!(keys.iter().any(has_it), "{wanted:?}");
        }
    }
}
