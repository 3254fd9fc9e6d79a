//! What identifies a pipeline: two problems with the same key share it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Error;
use crate::mask::emit::MaskText;
use crate::mask::tile::TileGrid;
use crate::score::ScoreText;
use crate::tensor::dtype::{Dtype, Dtypes, GradientDtypes};

/// A forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardKernel {
    /// A lane has query rows to itself, keys and values are broadcast through the subgroup: for CPU adapters.
    Broadcast,
    /// Tiles staged in workgroup memory, a register micro-tile per invocation: for every GPU.
    Tiled,
    /// Both products by cooperative matrices of f16, summed in f32: for devices that were opened with them
    /// ([`DeviceOptions::matrices`](crate::DeviceOptions::matrices)).
    Matrix,
    /// Few queries against many keys, the keys split over workgroups, a lane's loads its own: for CPU adapters.
    DecodeLanes,
    /// Few queries against many keys, the keys split over workgroups: for every GPU.
    Decode,
}

impl ForwardKernel {
    /// Every forward kernel, in the order in which they are considered.
    pub const ALL: [Self; 5] =
        [Self::Broadcast, Self::Tiled, Self::Matrix, Self::DecodeLanes, Self::Decode];

    /// The name on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Tiled => "tiled",
            Self::Matrix => "matrix",
            Self::DecodeLanes => "decode_lanes",
            Self::Decode => "decode",
        }
    }

    /// Whether the kernel splits the keys: it is for few queries.
    pub const fn is_decode(self) -> bool {
        matches!(self, Self::DecodeLanes | Self::Decode)
    }
}

impl fmt::Display for ForwardKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ForwardKernel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|kernel| kernel.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::operand("kernel", format!("one of {names}"), format!("`{name}`"))
        })
    }
}

/// How the backward pass is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackwardKernel {
    /// A lane has rows to itself, the other side is broadcast through the subgroup: for CPU adapters.
    Broadcast,
    /// Tiles staged in workgroup memory, a register micro-tile per invocation: for every GPU.
    Tiled,
    /// All products by cooperative matrices of f16, summed in f32, for tensors in f16 (but the gradients, which may be of any
    /// type): for devices that were opened with them ([`DeviceOptions::matrices`](crate::DeviceOptions::matrices)). Weights
    /// and gradients of scores are rounded to f16's 11 bits.
    Matrix,
}

impl BackwardKernel {
    /// Every form of the backward kernels, in the order in which they are considered.
    pub const ALL: [Self; 3] = [Self::Broadcast, Self::Tiled, Self::Matrix];

    /// The name on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Tiled => "tiled",
            Self::Matrix => "matrix",
        }
    }
}

impl fmt::Display for BackwardKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that the text of the backward kernels depends on but the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BackwardConfig {
    /// The tiles of the kernel that makes dq: its rows, and the keys of a step.
    pub(crate) dq_grid: TileGrid,
    /// The tiles of the kernel that makes dk and dv: the rows of a step, and its keys.
    pub(crate) dkdv_grid: TileGrid,
    pub(crate) head_dim: RowLength,
    pub(crate) head_dim_v: RowLength,
    pub(crate) rows: RowFormat,
    pub(crate) gradients: GradientDtypes,
    /// Whether dq is folded every [`SEGMENT`](super::source::SEGMENT) keys.
    pub(crate) dq_folds: bool,
    /// Whether dk and dv are folded every [`SEGMENT`](super::source::SEGMENT) queries.
    pub(crate) dkdv_folds: bool,
    /// Of which rows the dispatches that make dq bind windows, and those that make dk and dv.
    pub(crate) dq_windows: Windowed,
    pub(crate) dkdv_windows: Windowed,
    pub(crate) form: BackwardForm,
}

/// Of which rows dispatches bind windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Windowed {
    /// Those of the workgroups' own side.
    pub(crate) own: bool,
    /// Those that workgroups loop over.
    pub(crate) looped: bool,
}

/// How many rows are summed up at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SumSteps {
    pub(crate) full: usize,
    /// In PARTIAL tiles, where they have code of their own.
    pub(crate) partial: Option<usize>,
}

/// What is particular to each form of the backward kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BackwardForm {
    Broadcast {
        subgroup_size: usize,
        /// Rows of the other side that are summed up at a time.
        sum_steps: SumSteps,
        /// Whether dk and dv are made of the weights and gradients of scores that the kernel for dq leaves behind, a chunk
        /// of rows after the other, instead of computing them again.
        cells: bool,
    },
    Tiled {
        /// Invocations that share a row.
        threads_per_row: usize,
        /// Components that are staged at a time for the products.
        chunk: usize,
        /// Rows that are staged at a time for the sums.
        staged_rows: usize,
        slices: Slices,
    },
    Matrix {
        /// Rows and columns of a cooperative matrix.
        size: usize,
        /// Rows of a tile of the other side whose products are there at a time.
        part: usize,
        /// The least and the most lanes that a subgroup may have.
        subgroups: (usize, usize),
        /// Whether a subgroup rescales its sums only where it has to, instead of always.
        votes: bool,
        /// Whether dk and dv have a kernel each, since registers don't hold both.
        apart: bool,
    },
}

/// How many components of its rows a workgroup sums up: fewer than there are where registers don't hold all of them. Then there
/// is a dispatch for each slice, all of which compute the same products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slices {
    pub(crate) dq: usize,
    /// Of dk and dv at the same time.
    pub(crate) dk: usize,
    pub(crate) dv: usize,
}

impl Slices {
    pub(crate) fn longest(self) -> usize {
        self.dq.max(self.dk).max(self.dv)
    }
}

impl BackwardForm {
    /// Whether dk and dv are made of what the kernel for dq leaves behind.
    pub(crate) const fn has_cells(self) -> bool {
        matches!(self, Self::Broadcast { cells: true, .. })
    }

    /// Whether dk and dv have a kernel each, whatever is bound.
    pub(crate) const fn makes_apart(self) -> bool {
        matches!(self, Self::Matrix { apart: true, .. })
    }
}

impl BackwardConfig {
    /// The same kernels, those that make dq or those that make dk and dv for windows: each goes by what it reads itself then.
    pub(crate) fn of_windows(mut self, [dq_windows, dkdv_windows]: [Windowed; 2]) -> Self {
        if let BackwardForm::Broadcast { cells, .. } = &mut self.form {
            *cells &= [dq_windows, dkdv_windows] == [Windowed::default(); 2];
        }
        Self { dq_windows, dkdv_windows, ..self }
    }

    /// In how many dispatches all components of dq are made.
    pub(crate) const fn dq_dispatches(&self) -> usize {
        match self.form {
            BackwardForm::Broadcast { .. } | BackwardForm::Matrix { .. } => 1,
            BackwardForm::Tiled { slices, .. } => self.head_dim.capacity.div_ceil(slices.dq),
        }
    }

    /// The same of dk and dv.
    pub(crate) fn dkdv_dispatches(&self) -> usize {
        match self.form {
            BackwardForm::Broadcast { .. } | BackwardForm::Matrix { .. } => 1,
            BackwardForm::Tiled { slices: Slices { dk, dv, .. }, .. } => {
                let of_dk = self.head_dim.capacity.div_ceil(dk);
                of_dk.max(self.head_dim_v.capacity.div_ceil(dv))
            }
        }
    }
}

/// A kernel of the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(test, strum_discriminants(name(PassKind), derive(strum::VariantArray)))]
pub(crate) enum BackwardPass {
    /// lse and delta of each row.
    Terms { has_dlse: bool },
    /// dq, what makes each row's weights add up to 1, where they do, and its share of the gradient of ALiBi's slope.
    Dq { dq: bool, normalizes: bool, slopes: bool },
    /// dk, dv or both.
    DkDv { dk: bool, dv: bool },
    /// dbias.
    Bias { shared_by_rows: bool, shared_by_keys: bool },
    /// dsinks.
    Sinks,
    /// dalibi_slopes.
    Slopes { of_sequences: bool },
    /// Sums of the cells that read each element of a score function's buffers, over so many rows a workgroup.
    Custom { rows: usize },
    /// The gradient of such a buffer from these.
    CustomSums,
    /// dk or dv of a paged cache from those of each sequence.
    Pages { values: bool, dtype: Dtype, access: RowAccess },
}

/// Everything that a forward kernel's text depends on but the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ForwardConfig {
    pub(crate) grid: TileGrid,
    /// The row lengths that the kernel has room for: multiples of 4, at least the problem's own.
    pub(crate) head_dim: RowLength,
    pub(crate) head_dim_v: RowLength,
    pub(crate) rows: RowFormat,
    /// Whether the keys come in segments of [`SEGMENT`](super::source::SEGMENT), each folded into those before.
    pub(crate) folds: bool,
    /// Whether dispatches bind windows of the queries, and of the keys, one after the other.
    pub(crate) windows: Windowed,
    pub(crate) form: ForwardForm,
}

impl ForwardConfig {
    /// The same kernel for windows. Of the keys, what one leaves, the next goes on from; or each has splits of its own.
    pub(crate) const fn of_windows(self, windows: Windowed) -> Self {
        if !windows.looped {
            return Self { windows, ..self };
        }
        let folds = self.form.packed_rows().is_none();
        Self { folds, windows, form: self.form.splitting(), ..self }
    }

    /// The tiles in words that tell them from others of the same kernel. Profiles on disk hold these words, so that another
    /// wording needs another version of them (`crate::profile`), whatever the fields are called here.
    pub(crate) fn tiles(&self) -> String {
        let TileGrid { block_q, block_kv } = self.grid;
        let form = match self.form {
            ForwardForm::Broadcast { subgroup_size, rows, sum_steps } => {
                let SumSteps { full, partial } = sum_steps;
                let partial = partial.unwrap_or(full);
                format!(
                    "subgroup {subgroup_size}, rows per lane {rows}, keys per sum {full}, in partial tiles {partial}"
                )
            }
            ForwardForm::Tiled { threads_per_row, chunk, v_keys, o_slice } => {
                let slice = match self.form.dispatches(self.head_dim_v) {
                    1 => String::new(),
                    _ => format!(", summed components {o_slice}"),
                };
                format!(
                    "threads per row {threads_per_row}, staged components {chunk}, staged values {v_keys}{slice}"
                )
            }
            ForwardForm::Matrix { size, part, subgroups: (least, most), .. } => {
                format!("matrices {size}, keys per part {part}, subgroups {least} to {most}")
            }
            ForwardForm::DecodeLanes { subgroup_size, rows, split } => {
                format!("subgroup {subgroup_size}, packed rows {rows}, split {split}")
            }
            ForwardForm::Decode { invocations, threads_per_row, rows, k_run, v_run, split } => {
                format!(
                    "threads {invocations}, threads per key {threads_per_row}, packed rows {rows}, vectors per load {k_run} and {v_run}, \
                 split {split}"
                )
            }
        };
        format!("{block_q} queries x {block_kv} keys, {form}")
    }
}

/// What is particular to each forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ForwardForm {
    Broadcast {
        subgroup_size: usize,
        /// Query rows per lane.
        rows: usize,
        /// Keys whose values are summed up at a time.
        sum_steps: SumSteps,
    },
    Tiled {
        /// Invocations that share a row.
        threads_per_row: usize,
        /// Components of q and k that are staged at a time.
        chunk: usize,
        /// Rows of v that are staged at a time.
        v_keys: usize,
        /// Components of o that a workgroup sums up: see [`Slices`].
        o_slice: usize,
    },
    Matrix {
        /// Rows and columns of a cooperative matrix.
        size: usize,
        /// Keys of a tile whose scores are there at a time.
        part: usize,
        /// The least and the most lanes that a subgroup may have.
        subgroups: (usize, usize),
        /// Whether a subgroup rescales its sums only where it has to, instead of always.
        votes: bool,
    },
    DecodeLanes {
        subgroup_size: usize,
        /// Packed rows of a workgroup.
        rows: usize,
        /// Whether the keys are split, so that parts are written.
        split: bool,
    },
    Decode {
        invocations: usize,
        /// Invocations that share a key.
        threads_per_row: usize,
        /// Packed rows of a workgroup.
        rows: usize,
        /// How many neighbouring vectors of four components of a key one load of 16 bytes brings.
        k_run: usize,
        /// The same of a value.
        v_run: usize,
        /// Whether the keys are split, so that parts are written.
        split: bool,
    },
}

impl ForwardForm {
    /// The packed rows of a decode kernel's workgroup.
    pub(crate) const fn packed_rows(self) -> Option<usize> {
        match self {
            Self::DecodeLanes { rows, .. } | Self::Decode { rows, .. } => Some(rows),
            _ => None,
        }
    }

    /// In how many dispatches the kernel makes all components of o.
    pub(crate) const fn dispatches(self, head_dim_v: RowLength) -> usize {
        match self {
            Self::Tiled { o_slice, .. } => head_dim_v.capacity.div_ceil(o_slice),
            _ => 1,
        }
    }

    /// The same kernel, writing parts if it is one that splits the keys.
    pub(crate) const fn splitting(mut self) -> Self {
        if let Self::DecodeLanes { split, .. } | Self::Decode { split, .. } = &mut self {
            *split = true;
        }
        self
    }

    /// Whether parts are written, which a merge puts together.
    pub(crate) const fn is_split(self) -> bool {
        matches!(self, Self::DecodeLanes { split: true, .. } | Self::Decode { split: true, .. })
    }
}

/// A row's length: how much the kernel has room for, and whether that's what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowLength {
    pub(crate) capacity: usize,
    pub(crate) exact: bool,
}

/// How rows of q, k, v and o are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RowAccess {
    /// Any strides, component by component.
    Scalar,
    /// Lengths and strides that are multiples of 4: four components at a time.
    Vec4,
    /// The same, what is only read in words of 64 bits: some drivers fetch each lane's words one by one, of whatever size.
    Wide,
}

impl RowAccess {
    /// How rows are read and written where they are written.
    pub(crate) const fn written(self) -> Self {
        match self {
            Self::Scalar => Self::Scalar,
            Self::Vec4 | Self::Wide => Self::Vec4,
        }
    }
}

/// How rows are read and written, and the type that each tensor is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowFormat {
    pub(crate) access: RowAccess,
    pub(crate) dtypes: Dtypes,
}

/// What the text of the kernel that appends to a cache depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AppendConfig {
    pub(crate) access: RowAccess,
    /// The type of the new tokens' keys, values and queries.
    pub(crate) tokens: Dtype,
    /// The type of the cache's keys and values.
    pub(crate) cache: Dtype,
    /// Parts of a row, four components each.
    pub(crate) parts: usize,
    pub(crate) pairing: Option<Pairing>,
    /// Whether keys and queries are multiplied by a Hadamard matrix.
    pub(crate) hadamard: bool,
    pub(crate) rotates_q: bool,
    /// Whether the cache has values beside its keys.
    pub(crate) values: bool,
    /// Whether dispatches bind windows of the cache's rows.
    pub(crate) windows: bool,
}

/// Which components of a row a rotary embedding turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pairing {
    /// Components i and i + dim/2 (GPT-NeoX, Llama as Hugging Face has it).
    #[default]
    Half,
    /// Components 2i and 2i + 1 (RoFormer, GPT-J, Llama as Meta has it).
    Interleaved,
}

/// What a merge puts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Parts {
    /// The splits of one decode pass: sums, with the maximum and the sum of weights that they belong to.
    Splits,
    /// Whole results, with their lse; how their rows are read.
    Results(RowAccess),
}

impl Parts {
    /// How the rows of the parts are read.
    pub(crate) const fn access(self) -> RowAccess {
        match self {
            Self::Splits => RowAccess::Vec4,
            Self::Results(access) => access,
        }
    }
}

/// A kernel in full.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(test, strum_discriminants(name(KernelKind), derive(strum::VariantArray)))]
pub(crate) enum KernelKey {
    Forward {
        config: ForwardConfig,
        score: ScoreText,
        mask: Arc<MaskText>,
    },
    /// Puts parts together.
    Merge {
        rows: RowFormat,
        parts: Parts,
        sinks: bool,
        mask: Arc<MaskText>,
    },
    Backward {
        pass: BackwardPass,
        config: BackwardConfig,
        score: ScoreText,
        mask: Arc<MaskText>,
    },
    Append {
        config: AppendConfig,
        mask: Arc<MaskText>,
    },
    Inspect {
        rows: RowFormat,
        score: ScoreText,
        mask: Arc<MaskText>,
    },
    /// From masked scores to weights, in place.
    Weights {
        sinks: bool,
        /// The first slot of the dropout's, if there is dropout.
        dropout: Option<usize>,
        mask: Arc<MaskText>,
    },
    Materialize {
        mask: Arc<MaskText>,
    },
    /// The `node`th of the mask's `rows_alone`.
    RowsAlone {
        node: usize,
        mask: Arc<MaskText>,
    },
    /// The bits of lists of blocks.
    BlockBits {
        /// The leaf's first slot.
        slot: usize,
        mask: Arc<MaskText>,
    },
    /// Where sequences have lengths of their own.
    SequencesCheck {
        /// Whether the queries are tokens that the sequences' caches must have room for.
        appends: bool,
        mask: Arc<MaskText>,
    },
    TileMap {
        grid: TileGrid,
        /// Invocations that look at a tile's cells together.
        parts: usize,
        mask: Arc<MaskText>,
    },
    /// The bounds of blocks of the mask's data, of a mask that is classed by them.
    Bounds {
        mask: Arc<MaskText>,
    },
    TileClasses {
        grid: TileGrid,
        mask: Arc<MaskText>,
    },
    /// The user's score function and its derivative at single points.
    ScorePoints {
        score: ScoreText,
        slope: PointSlope,
        mask: Arc<MaskText>,
    },
    /// The pooled rows of blocks of queries or keys.
    PoolBlocks {
        rows: RowFormat,
        of: PooledSide,
        mask: Arc<MaskText>,
    },
    /// Which blocks of keys the blocks of queries list.
    PickBlocks {
        config: PickConfig,
        mask: Arc<MaskText>,
    },
}

/// Which derivative of a user's score function is evaluated at points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PointSlope {
    /// With respect to the score.
    Score,
    /// With respect to the elements of a buffer with a gradient, by its number.
    Buffer(usize),
    /// The same times a weight of the element.
    Element(usize),
}

/// Which rows are pooled, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PooledSide {
    /// To their mean; of how many heads the means are added up, the sizes say.
    Queries,
    Keys {
        /// To the largest of each component, not to the mean.
        maximum: bool,
    },
}

/// What the text depends on of the kernel that picks blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PickConfig {
    /// The blocks that it has room for in a list.
    pub(crate) capacity: usize,
    pub(crate) keep_first: bool,
    pub(crate) keep_own: bool,
    pub(crate) causal: bool,
}

impl KernelKey {
    /// The kernel's name: its entry point's, too.
    pub(crate) const fn entry_point(&self) -> &'static str {
        match self {
            Self::Forward { .. } => "forward",
            Self::Backward { pass, .. } => match pass {
                BackwardPass::Terms { .. } => "backward_terms",
                BackwardPass::Dq { .. } => "backward_dq",
                BackwardPass::DkDv { .. } => "backward_dkdv",
                BackwardPass::Bias { .. } => "backward_bias",
                BackwardPass::Sinks => "backward_sinks",
                BackwardPass::Slopes { .. } => "backward_slopes",
                BackwardPass::Custom { .. } => "backward_custom",
                BackwardPass::CustomSums => "backward_custom_sums",
                BackwardPass::Pages { .. } => "backward_pages",
            },
            Self::Append { .. } => "append",
            Self::Merge { .. } => "merge",
            Self::Inspect { .. } => "inspect",
            Self::Weights { .. } => "weights",
            Self::Materialize { .. } => "materialize",
            Self::RowsAlone { .. } => "rows_alone",
            Self::BlockBits { .. } => "block_bits",
            Self::SequencesCheck { .. } => "sequences_check",
            Self::TileMap { .. } => "tile_map",
            Self::Bounds { .. } => "bounds",
            Self::TileClasses { .. } => "tile_classes",
            Self::ScorePoints { .. } => "score_points",
            Self::PoolBlocks { .. } => "pool_blocks",
            Self::PickBlocks { .. } => "pick_blocks",
        }
    }

    pub(crate) const fn mask(&self) -> &Arc<MaskText> {
        match self {
            Self::Forward { mask, .. }
            | Self::Backward { mask, .. }
            | Self::Append { mask, .. }
            | Self::Merge { mask, .. }
            | Self::Inspect { mask, .. }
            | Self::Weights { mask, .. }
            | Self::Materialize { mask }
            | Self::RowsAlone { mask, .. }
            | Self::BlockBits { mask, .. }
            | Self::SequencesCheck { mask, .. }
            | Self::TileMap { mask, .. }
            | Self::Bounds { mask }
            | Self::TileClasses { mask, .. }
            | Self::ScorePoints { mask, .. }
            | Self::PoolBlocks { mask, .. }
            | Self::PickBlocks { mask, .. } => mask,
        }
    }

    /// What is done to the scores, where there are any.
    pub(super) const fn score(&self) -> Option<&ScoreText> {
        match self {
            Self::Forward { score, .. }
            | Self::Backward { score, .. }
            | Self::Inspect { score, .. }
            | Self::ScorePoints { score, .. } => Some(score),
            _ => None,
        }
    }

    /// The first slot of the dropout's, if it drops weights.
    pub(crate) const fn dropout(&self) -> Option<usize> {
        match self {
            Self::Forward { score, .. } | Self::Backward { score, .. } => score.dropout,
            Self::Weights { dropout, .. } => *dropout,
            Self::Append { .. }
            | Self::Merge { .. }
            | Self::Inspect { .. }
            | Self::Materialize { .. }
            | Self::RowsAlone { .. }
            | Self::BlockBits { .. }
            | Self::SequencesCheck { .. }
            | Self::TileMap { .. }
            | Self::Bounds { .. }
            | Self::TileClasses { .. }
            | Self::ScorePoints { .. }
            | Self::PoolBlocks { .. }
            | Self::PickBlocks { .. } => None,
        }
    }

    /// Of which rows dispatches bind windows.
    pub(crate) fn windows(&self) -> Windowed {
        match self {
            Self::Forward { config, .. } => config.windows,
            Self::Append { config, .. } => Windowed { own: false, looped: config.windows },
            Self::Backward { pass, config, .. } => match pass {
                BackwardPass::Terms { .. } => Windowed { looped: false, ..config.dq_windows },
                BackwardPass::Dq { .. } => config.dq_windows,
                BackwardPass::DkDv { .. } => config.dkdv_windows,
                _ => Windowed::default(),
            },
            _ => Windowed::default(),
        }
    }

    /// Rows and columns of the cooperative matrices that it multiplies, if it does.
    pub(crate) const fn matrix_size(&self) -> Option<usize> {
        match self {
            Self::Forward {
                config: ForwardConfig { form: ForwardForm::Matrix { size, .. }, .. },
                ..
            }
            | Self::Backward {
                pass: BackwardPass::Dq { .. } | BackwardPass::DkDv { .. },
                config: BackwardConfig { form: BackwardForm::Matrix { size, .. }, .. },
                ..
            } => Some(*size),
            _ => None,
        }
    }

    /// Whether some of the text is the user's own.
    pub(crate) fn is_custom(&self) -> bool {
        self.mask().custom || self.score().is_some_and(|score| score.custom.is_some())
    }
}
