//! What kernels are bound to.

use super::key::{
    AppendConfig, BackwardForm, BackwardPass, KernelKey, Parts, PooledSide, RowAccess,
};

/// What a kernel's binding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Binding {
    Params,
    /// The mask buffer, read.
    Mask,
    /// The mask buffer, as the kernels see it that fill in its tables.
    MaskTables,
    Q,
    K,
    V,
    O,
    Bias,
    LseOut,
    LseIn,
    /// m and l of each row over the segments of the keys so far.
    SegmentStats,
    /// What each split found: o, and m with l.
    Part,
    Stats,
    /// The same as a merge reads it, and the lse of whole results.
    PartIn(RowAccess),
    StatsIn,
    LsesIn,
    Scores,
    MaskTensor,
    /// o, read by the backward pass.
    OIn,
    Dout,
    Dlse,
    /// lse and delta of each row, as the kernel sees them that makes them.
    RowTermsOut,
    RowTerms,
    /// Weights and gradients of scores of a chunk of rows, as the kernel sees them that makes them.
    CellsOut,
    Cells,
    Dq,
    Dk,
    Dv,
    Dbias,
    Dsinks,
    DalibiSlopes,
    /// Sums of the elements that a score function reads, as the kernel sees them that makes them.
    CustomShares,
    CustomSharesIn,
    /// The gradient of a buffer that a score function reads.
    Dcustom,
    /// dk or dv of each sequence, where these share rows.
    KeyGradients,
    /// Of the rotary embedding.
    Rotary,
    RotatedQ,
    NewK,
    NewV,
    CacheK,
    CacheV,
    CacheLengths,
    /// Where a score function is asked for, and what it and its derivative say.
    ScorePoints,
    ScoreValues,
    /// Pooled rows, written; and as the kernel sees them that picks blocks.
    Pooled,
    PooledQ,
    PooledK,
    BlockIndices,
}

impl KernelKey {
    /// What the kernel is bound to, in the order of its binding numbers.
    pub(crate) fn bindings(&self) -> Vec<Binding> {
        if let Self::Append { config, .. } = self {
            return Binding::of_append(config);
        }
        let own: &[Binding] = match self {
            Self::Forward { config, .. } if config.form.is_split() => {
                &[Binding::Mask, Binding::Q, Binding::K, Binding::V, Binding::Part, Binding::Stats]
            }
            Self::Forward { config, .. } if config.folds => {
                use Binding::{K, LseOut, Mask, O, Q, SegmentStats, V};
                &[Mask, Q, K, V, O, LseOut, SegmentStats]
            }
            Self::Forward { .. } => {
                &[Binding::Mask, Binding::Q, Binding::K, Binding::V, Binding::O, Binding::LseOut]
            }
            Self::Backward { pass, config, .. } => pass.bindings(config.form),
            Self::Merge { parts, .. } => parts.bindings(),
            Self::Inspect { .. } => &[Binding::Mask, Binding::Q, Binding::K, Binding::Scores],
            Self::Weights { .. } => &[Binding::Mask, Binding::Scores],
            Self::Append { .. } => &[],
            Self::Materialize { .. } | Self::TileClasses { .. } => {
                &[Binding::Mask, Binding::MaskTensor]
            }
            Self::RowsAlone { .. }
            | Self::BlockBits { .. }
            | Self::SequencesCheck { .. }
            | Self::TileMap { .. }
            | Self::Bounds { .. } => &[Binding::MaskTables],
            Self::ScorePoints { .. } => {
                &[Binding::Mask, Binding::ScorePoints, Binding::ScoreValues]
            }
            Self::PoolBlocks { of: PooledSide::Queries, .. } => {
                &[Binding::Mask, Binding::Q, Binding::Pooled]
            }
            Self::PoolBlocks { of: PooledSide::Keys { .. }, .. } => {
                &[Binding::Mask, Binding::K, Binding::Pooled]
            }
            Self::PickBlocks { .. } => {
                use Binding::{BlockIndices, Mask, PooledK, PooledQ};
                &[Mask, PooledQ, PooledK, BlockIndices]
            }
        };
        let scored = !matches!(
            self,
            Self::Backward {
                pass: BackwardPass::Terms { .. }
                    | BackwardPass::Sinks
                    | BackwardPass::Slopes { .. }
                    | BackwardPass::CustomSums
                    | BackwardPass::Pages { .. },
                ..
            }
        );
        let bias = self.score().is_some_and(|score| score.bias && scored).then_some(Binding::Bias);
        [Binding::Params].iter().chain(own).copied().chain(bias).collect()
    }
}

impl Parts {
    /// What the merge is bound to besides the sizes.
    const fn bindings(self) -> &'static [Binding] {
        use Binding::{LseOut, LsesIn, Mask, O, PartIn, StatsIn};
        match self {
            Self::Splits => &[Mask, PartIn(RowAccess::Vec4), StatsIn, O, LseOut],
            Self::Results(RowAccess::Vec4 | RowAccess::Wide) => {
                &[Mask, PartIn(RowAccess::Vec4), LsesIn, O, LseOut]
            }
            Self::Results(RowAccess::Scalar) => {
                &[Mask, PartIn(RowAccess::Scalar), LsesIn, O, LseOut]
            }
        }
    }
}

impl BackwardPass {
    /// What the kernel is bound to besides the sizes and the bias: with these, at most 8 storage buffers.
    const fn bindings(self, form: BackwardForm) -> &'static [Binding] {
        use Binding::{
            Cells, CellsOut, CustomShares, CustomSharesIn, DalibiSlopes, Dbias, Dcustom, Dk, Dlse,
            Dout, Dq, Dsinks, Dv, K, KeyGradients, LseIn, Mask, OIn, Q, RowTerms, RowTermsOut, V,
        };
        if form.has_cells() {
            match self {
                Self::Dq { dq: true, .. } => {
                    return &[Mask, Q, K, V, Dout, RowTermsOut, CellsOut, Dq];
                }
                Self::Dq { dq: false, .. } => {
                    return &[Mask, Q, K, V, Dout, RowTermsOut, CellsOut];
                }
                Self::DkDv { dk: true, dv: true } => {
                    return &[Mask, Q, Dout, RowTerms, Cells, Dk, Dv];
                }
                Self::DkDv { dk: true, dv: false } => {
                    return &[Mask, Q, Dout, RowTerms, Cells, Dk];
                }
                Self::DkDv { dk: false, .. } => return &[Mask, Q, Dout, RowTerms, Cells, Dv],
                Self::Terms { .. }
                | Self::Bias { .. }
                | Self::Sinks
                | Self::Slopes { .. }
                | Self::Custom { .. }
                | Self::CustomSums
                | Self::Pages { .. } => {}
            }
        }
        match self {
            Self::Terms { has_dlse: false } => &[Mask, OIn, Dout, LseIn, RowTermsOut],
            Self::Terms { has_dlse: true } => &[Mask, OIn, Dout, LseIn, RowTermsOut, Dlse],
            Self::Dq { dq: true, .. } => &[Mask, Q, K, V, Dout, RowTermsOut, Dq],
            Self::Dq { dq: false, .. } => &[Mask, Q, K, V, Dout, RowTermsOut],
            Self::DkDv { dk: true, dv: true } => &[Mask, Q, K, V, Dout, RowTerms, Dk, Dv],
            Self::DkDv { dk: true, dv: false } => &[Mask, Q, K, V, Dout, RowTerms, Dk],
            Self::DkDv { dk: false, .. } => &[Mask, Q, K, V, Dout, RowTerms, Dv],
            Self::Bias { .. } => &[Mask, Q, K, V, Dout, RowTerms, Dbias],
            Self::Sinks => &[Mask, RowTerms, Dsinks],
            Self::Slopes { .. } => &[Mask, RowTerms, DalibiSlopes],
            Self::Custom { .. } => &[Mask, Q, K, V, Dout, RowTerms, CustomShares],
            Self::CustomSums => &[Mask, CustomSharesIn, Dcustom],
            Self::Pages { values: false, .. } => &[Mask, KeyGradients, Dk],
            Self::Pages { values: true, .. } => &[Mask, KeyGradients, Dv],
        }
    }
}

impl Binding {
    /// Whether kernels write to it.
    pub(crate) const fn is_written(self) -> bool {
        matches!(
            self,
            Self::MaskTables
                | Self::O
                | Self::LseOut
                | Self::Scores
                | Self::MaskTensor
                | Self::RowTermsOut
                | Self::CellsOut
                | Self::Dq
                | Self::Dk
                | Self::Dv
                | Self::Dbias
                | Self::Dsinks
                | Self::DalibiSlopes
                | Self::CustomShares
                | Self::Dcustom
                | Self::RotatedQ
                | Self::CacheK
                | Self::CacheV
                | Self::CacheLengths
                | Self::Part
                | Self::Stats
                | Self::SegmentStats
                | Self::ScoreValues
                | Self::Pooled
                | Self::BlockIndices
        )
    }

    /// Whether it is a uniform block.
    pub(crate) const fn is_uniform(self) -> bool {
        matches!(self, Self::Params | Self::Rotary)
    }

    fn of_append(config: &AppendConfig) -> Vec<Self> {
        let mut bindings = vec![Self::Params, Self::Mask];
        if config.pairing.is_some() {
            bindings.push(Self::Rotary);
        }
        if config.rotates_q {
            bindings.extend([Self::Q, Self::RotatedQ]);
        }
        bindings.push(Self::NewK);
        bindings.extend(config.values.then_some(Self::NewV));
        bindings.push(Self::CacheK);
        bindings.extend(config.values.then_some(Self::CacheV));
        bindings.push(Self::CacheLengths);
        bindings
    }
}
