//! Random tensors, and the masks and modifiers that they are tried with; in the browser, too (`lab/web`).

// What `SmallRng` is on 64-bit machines: a browser has the same numbers.
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{AuxData, Inputs, ScoreModifiers, Shape};

/// Every leaf and operator; first what has closed forms for tiles, then what needs a tile map.
pub(crate) const MASKS: &[&str] = &[
    "all",
    "causal",
    "window(9,2)",
    "key_lengths",
    "prefix | causal",
    "not_self",
    "chunk(24) & causal",
    "dilated(5,3) | global(2)",
    "strided(4) & causal",
    "causal & key_lengths",
    "!causal",
    "key_padding",
    "token_padding",
    "documents",
    "self_only_if_alone(causal & documents)",
    "dense",
    "block_bidirectional | causal",
    "buckets & causal",
    "column_ranges & causal",
    "(window(inf,3) | prefix) & !documents & key_lengths",
    "per_head(causal, documents & causal)",
];

/// The seed of dropout in every mask's data.
pub(crate) const DROPOUT_SEED: u64 = 0x1234_5678_9abc_def0;

/// Random operands of a shape, with data for every mask.
#[derive(Clone)]
pub(crate) struct Operands {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) mask: AuxData,
}

impl Operands {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut tensor = |len: usize| (0..len).map(|_| rng.random_range(-8.0..8.0)).collect();
        Self {
            q: tensor(shape.q_len().unwrap()),
            k: tensor(shape.k_len().unwrap()),
            v: tensor(shape.v_len().unwrap()),
            mask: mask_data(shape, seed),
        }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs::new(&self.q, &self.k, &self.v).aux(&self.mask)
    }
}

/// Operands as they are once they are stored.
pub(crate) fn stored(mut operands: Operands, dtypes: Dtypes) -> Operands {
    for (values, dtype) in
        [(&mut operands.q, dtypes.q), (&mut operands.k, dtypes.k), (&mut operands.v, dtypes.v)]
    {
        for x in values {
            *x = dtype.round(*x);
        }
    }
    operands
}

/// Data for every mask and for dropout: lengths from 0 to all, documents in runs, padding and dense bits at random.
pub(crate) fn mask_data(shape: &Shape, seed: u64) -> AuxData {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x6d61_736b);
    let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
    let length = |rng: &mut Xoshiro256PlusPlus| rng.random_range(0..=seq_len_kv) as i32;
    let key_lengths: Vec<i32> = (0..batch).map(|_| length(&mut rng)).collect();
    let prefix_lengths: Vec<i32> = (0..batch).map(|_| length(&mut rng) / 2).collect();
    let keys = batch * seq_len_kv;
    let columns: Vec<i32> = (0..batch * num_heads * seq_len_kv)
        .flat_map(|_| {
            let start = rng.random_range(0..=seq_len_q) as i32;
            [start, rng.random_range(start..=seq_len_q as i32)]
        })
        .collect();
    let parents: Vec<i32> = (0..batch)
        .flat_map(|_| 0..seq_len_q as i32)
        .map(|own| if own == 0 { -1 } else { rng.random_range(-1..own) })
        .collect();
    AuxData::new()
        .dropout_seed(DROPOUT_SEED)
        .key_lengths(key_lengths)
        .prefix_lengths(prefix_lengths)
        .key_padding((0..keys).map(|_| rng.random_bool(0.8)).collect::<Vec<_>>())
        .token_ids((0..keys).map(|_| rng.random_range(-2..6)).collect::<Vec<_>>(), -2)
        .document_ids_q_kv(runs(&mut rng, batch, seq_len_q), runs(&mut rng, batch, seq_len_kv))
        .block_ids_q_kv(
            runs(&mut rng, batch, seq_len_q).into_iter().map(|id| id % 3 - 1),
            runs(&mut rng, batch, seq_len_kv).into_iter().map(|id| id % 3 - 1),
        )
        .bucket_ids(
            [batch, 1, 2, seq_len_kv],
            (0..2 * keys).map(|_| rng.random_range(0..8)).collect::<Vec<_>>(),
        )
        .column_ranges([batch, num_heads, seq_len_kv, 2], columns)
        .tree_parents(parents)
        .dense(
            [batch, num_heads, seq_len_q, seq_len_kv],
            (0..batch * num_heads * seq_len_q * seq_len_kv)
                .map(|_| rng.next_u32().is_multiple_of(3))
                .collect::<Vec<_>>(),
        )
}

/// Every modifier of scores alone, then all together.
pub(crate) const SCORES: [ScoreModifiers; 5] = [
    ScoreModifiers::new().softcap(20.0),
    ScoreModifiers::new().bias(true),
    ScoreModifiers::new().alibi(true),
    ScoreModifiers::new().sinks(true),
    ScoreModifiers::new().softcap(50.0).bias(true).alibi(true).sinks(true),
];

/// Data of the score modifiers.
#[derive(Debug, Default)]
pub(crate) struct ScoreData {
    /// `[batch, num_heads, seq_len_q, seq_len_kv]`
    pub(crate) bias: Vec<f32>,
    /// `[num_heads]`
    pub(crate) slopes: Vec<f32>,
    /// `[num_heads]`
    pub(crate) sinks: Vec<f32>,
}

impl ScoreData {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7363_6f72);
        let mut tensor = |len: usize, range: std::ops::Range<f32>| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(range.clone())).collect()
        };
        Self {
            bias: tensor(shape.scores_len().unwrap(), -4.0..4.0),
            slopes: tensor(shape.num_heads, 0.0..1.0),
            sinks: tensor(shape.num_heads, -4.0..40.0),
        }
    }

    /// The same, added to a mask's data.
    pub(crate) fn add_to(&self, shape: &Shape, data: AuxData) -> AuxData {
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
        data.bias([batch, num_heads, seq_len_q, seq_len_kv], self.bias.iter().copied())
            .alibi_slopes(self.slopes.iter().copied())
            .sinks(self.sinks.iter().copied())
    }
}

/// Ids that rise now and then, for each sequence anew.
fn runs(rng: &mut Xoshiro256PlusPlus, batch: usize, seq_len: usize) -> Vec<i32> {
    let mut ids = Vec::new();
    for _ in 0..batch {
        let mut id = 0;
        for _ in 0..seq_len {
            id += i32::from(rng.random_bool(0.06));
            ids.push(id);
        }
    }
    ids
}
