//! A mask over a few sequences: what it keeps, scores before and after it, weights, tiles, and what leaks without it.

mod data;
mod numbers;
mod sequences;

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use wgpu_attention::mask::{Evaluator, TileClass, TileGrid};
use wgpu_attention::plan::{ScoreTensor, TileOptions};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{
    AuxData, Inputs, Mask, Problem, Result, RunOptions, Session, Shape, reference,
};

use data::Item;
use numbers::Number;
pub(crate) use numbers::numbers;
pub(crate) use sequences::{Sequences, Source, operand};

/// What is to be shown.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Request {
    mask: String,
    /// The function that `wgsl` stands for.
    #[serde(default)]
    wgsl: Option<String>,
    pub(crate) source: Source,
    /// So many of the last tokens are queries; all of them if 0.
    #[serde(default)]
    queries: usize,
    sequence: usize,
    head: usize,
    #[serde(default)]
    data: BTreeMap<String, Vec<i32>>,
    /// Tokens on a side of the tiles that are shown.
    tile: usize,
}

impl Request {
    /// The first head of the first sequence, in tiles of 4.
    pub(crate) fn new(mask: &str, source: Source) -> Self {
        let (mask, data) = (mask.to_owned(), BTreeMap::new());
        Self { mask, wgsl: None, source, queries: 0, sequence: 0, head: 0, data, tile: 4 }
    }

    pub(crate) fn at(self, sequence: usize, head: usize) -> Self {
        Self { sequence, head, ..self }
    }

    pub(crate) fn last_queries(self, queries: usize) -> Self {
        Self { queries, ..self }
    }
}

/// What a text stands for, before anything is computed.
#[derive(Debug, Serialize)]
pub(crate) struct Outline {
    /// The mask as it prints.
    mask: String,
    numbers: Vec<Number>,
    items: Vec<Item>,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    scale: f32,
    tokens: Vec<Vec<String>>,
    lengths: Vec<usize>,
    /// Whether only the device knows what the mask keeps.
    device_alone: bool,
}

/// A request, checked.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) problem: Problem,
    data: AuxData,
    sequences: Rc<Sequences>,
    pub(crate) outline: Outline,
    sequence: usize,
    head: usize,
    grid: TileGrid,
}

/// What was computed of one head of one sequence.
#[derive(Debug)]
pub(crate) struct Picture {
    /// `[seq_len_q, seq_len_kv]`, as the two after it.
    pub(crate) scores: Vec<f32>,
    pub(crate) masked: Vec<f32>,
    pub(crate) weights: Vec<f32>,
    /// The weights without the mask.
    pub(crate) unmasked: Vec<f32>,
    /// A word per tile: `[rows of tiles, tiles in a row]`.
    pub(crate) tiles: Vec<u8>,
    pub(crate) summary: Summary,
}

/// Its numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    grid: [usize; 2],
    /// Of the kernel that serves the problem on this device.
    own_grid: Option<[usize; 2]>,
    /// Tiles that are skipped, partial, full.
    classes: [usize; 3],
    kept: usize,
    /// Of each query, the weight that masked keys get without the mask.
    leaks: Vec<f32>,
    /// Its mean over the sequence's own tokens that keep a key.
    leak: f32,
    /// How far o moves without the mask, relative to its norm.
    change: f32,
}

impl View {
    /// # Errors
    /// Where the mask doesn't parse, or something doesn't fit.
    pub(crate) fn new(request: &Request, sequences: Rc<Sequences>) -> Result<Self> {
        let mask: Mask = match &request.wgsl {
            Some(text) => Mask::parse_with(&request.mask, WgslFunction::new(text.as_str())?)?,
            None => request.mask.parse()?,
        };
        let keys = sequences.shape.seq_len_kv;
        let queries = match request.queries {
            0 => keys,
            queries => queries.min(keys),
        };
        let shape = sequences.shape.seq_len_q(queries).seq_len_kv(keys);
        for (name, most, found) in
            [("sequence", shape.batch, request.sequence), ("head", shape.num_heads, request.head)]
        {
            if found >= most {
                return Err(operand(name, format!("below {most}"), found));
            }
        }
        let (items, data) = data::items(&mask, &shape, &sequences, &request.data);
        let problem = Problem::new(shape).mask(mask.clone()).aux_shape(data.shape());
        problem.validate()?;
        let outline = Outline {
            mask: mask.to_string(),
            numbers: numbers(&request.mask),
            items,
            batch: shape.batch,
            heads: shape.num_heads,
            queries,
            keys,
            head_dim: shape.head_dim,
            scale: problem.get_scale(),
            tokens: sequences.tokens.clone(),
            lengths: sequences.lengths.clone(),
            device_alone: has_wgsl(&mask),
        };
        let side = request.tile.clamp(1, 64);
        let grid = TileGrid { block_q: side, block_kv: side };
        let (sequence, head) = (request.sequence, request.head);
        Ok(Self { problem, data, sequences, outline, sequence, head, grid })
    }

    /// 1 where the mask keeps a cell, `[seq_len_q, seq_len_kv]`; nothing where only the device knows.
    ///
    /// # Errors
    /// Where the data doesn't fit.
    pub(crate) fn keep(&self) -> Result<Vec<u8>> {
        if self.outline.device_alone {
            return Ok(Vec::new());
        }
        let mask: Mask = self.outline.mask.parse()?;
        let evaluator = Evaluator::new(&mask, &self.data, self.problem.shape())?;
        let Shape { seq_len_q, seq_len_kv, .. } = *self.problem.shape();
        let keep =
            |at: usize| evaluator.keep(self.sequence, self.head, at / seq_len_kv, at % seq_len_kv);
        Ok((0..seq_len_q * seq_len_kv).map(|at| u8::from(keep(at))).collect())
    }

    /// Everything else: on the device, or without one by the reference.
    ///
    /// # Errors
    /// What the device reported, or that a mask needs one.
    pub(crate) async fn picture(&self, session: Option<&Session>) -> Result<Picture> {
        let q = self.sequences.last_queries(self.outline.queries);
        let Sequences { k, v, .. } = &*self.sequences;
        let inputs = Inputs::new(&q, k, v).aux(&self.data);
        let bare = Problem::new(*self.problem.shape());
        let nothing = AuxData::new();
        let without = Inputs::new(&q, k, v).aux(&nothing);
        let own = self.tensors(session, &self.problem, &inputs, &ScoreTensor::ALL).await?;
        let free = self.tensors(session, &bare, &without, &[ScoreTensor::Weights]).await?;
        let [scores, masked, weights] = [0, 1, 2].map(|at| self.cells(&own.1[at]));
        let unmasked = self.cells(&free.1[0]);
        let keep: Vec<bool> = masked.iter().map(|&score| score != f32::NEG_INFINITY).collect();
        let (tiles, grid_of_kernel) = self.tiles(session, &keep).await?;
        let summary = self.summary(&keep, &unmasked, &tiles, grid_of_kernel, [&own.0, &free.0]);
        Ok(Picture { scores, masked, weights, unmasked, tiles, summary })
    }

    /// o and the tensors that are asked for, of all heads.
    async fn tensors(
        &self,
        session: Option<&Session>,
        problem: &Problem,
        inputs: &Inputs<'_>,
        kinds: &[ScoreTensor],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        if let Some(session) = session {
            let options = RunOptions::default().tensors(kinds);
            let output = session.run(problem, inputs, &options).await?;
            return Ok((output.o, output.tensors));
        }
        let truth = reference::attention(problem, inputs)?;
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let tensors = kinds.iter().map(|kind| match kind {
            ScoreTensor::Scores => narrow(&truth.scores),
            ScoreTensor::MaskedScores => narrow(&truth.masked_scores),
            _ => narrow(&truth.weights),
        });
        Ok((narrow(&truth.o), tensors.collect()))
    }

    /// The chosen head's part of a tensor of cells.
    fn cells(&self, values: &[f32]) -> Vec<f32> {
        let count = self.outline.queries * self.outline.keys;
        values[(self.sequence * self.outline.heads + self.head) * count..][..count].to_vec()
    }

    /// The classes of the chosen head's tiles, and the size of the kernel's own.
    async fn tiles(
        &self,
        session: Option<&Session>,
        keep: &[bool],
    ) -> Result<(Vec<u8>, Option<[usize; 2]>)> {
        let Outline { queries, keys, .. } = self.outline;
        let TileGrid { block_q, block_kv } = self.grid;
        let Some(session) = session else {
            let class = |y: usize, x: usize| {
                let rows = y * block_q..queries.min((y + 1) * block_q);
                let columns = x * block_kv..keys.min((x + 1) * block_kv);
                let cells = rows.len() * columns.len();
                let kept = rows
                    .flat_map(|row| columns.clone().map(move |column| keep[row * keys + column]))
                    .filter(|&kept| kept)
                    .count();
                match kept {
                    0 => 0,
                    kept if kept == cells => 2,
                    _ => 1,
                }
            };
            let [rows, columns] = [queries.div_ceil(block_q), keys.div_ceil(block_kv)];
            return Ok((
                (0..rows * columns).map(|at| class(at / columns, at % columns)).collect(),
                None,
            ));
        };
        let options = TileOptions::default().grid(self.grid);
        let tiles = session.tile_classes(&self.problem, &self.data, &options).await?;
        let own = session.tile_classes(&self.problem, &self.data, &Default::default()).await?.grid;
        let [batch, heads, rows, columns] = tiles.dims;
        let plane = self.sequence % batch * heads + self.head % heads;
        let classes = &tiles.classes[plane * rows * columns..][..rows * columns];
        let word = |class: &TileClass| match class {
            TileClass::Skip => 0,
            TileClass::Partial => 1,
            TileClass::Full => 2,
        };
        Ok((classes.iter().map(word).collect(), Some([own.block_q, own.block_kv])))
    }

    fn summary(
        &self,
        keep: &[bool],
        unmasked: &[f32],
        tiles: &[u8],
        own_grid: Option<[usize; 2]>,
        [o, free]: [&[f32]; 2],
    ) -> Summary {
        let Outline { queries, keys, head_dim, .. } = self.outline;
        let rows = || keep.chunks(keys).zip(unmasked.chunks(keys));
        let leaks: Vec<f32> = rows()
            .map(|(keep, weights)| {
                (keep.iter().zip(weights))
                    .filter(|(keep, _)| !**keep)
                    .map(|(_, weight)| weight)
                    .sum()
            })
            .collect();
        let length = self.sequences.lengths[self.sequence];
        // Padding's own rows mean nothing, and a row that keeps no key has nothing to compare with.
        let counts: Vec<usize> = (0..queries)
            .filter(|query| query + keys - queries < length)
            .filter(|query| keep[query * keys..][..keys].contains(&true))
            .collect();
        let mean =
            counts.iter().map(|&query| leaks[query]).sum::<f32>() / counts.len().max(1) as f32;
        let first = (self.sequence * self.outline.heads + self.head) * queries * head_dim;
        let row =
            |values: &[f32], query: usize| values[first + query * head_dim..][..head_dim].to_vec();
        let norm = |values: Vec<f32>| values.iter().map(|x| x * x).sum::<f32>();
        let (mut moved, mut whole) = (0.0, 0.0);
        for &query in &counts {
            let (own, other) = (row(o, query), row(free, query));
            moved += norm(own.iter().zip(&other).map(|(x, y)| x - y).collect());
            whole += norm(own);
        }
        let class = |class: u8| tiles.iter().filter(|&&tile| tile == class).count();
        Summary {
            grid: [self.grid.block_q, self.grid.block_kv],
            own_grid,
            classes: [class(0), class(1), class(2)],
            kept: keep.iter().filter(|&&keep| keep).count(),
            leaks,
            leak: mean,
            change: if whole > 0.0 { (moved / whole).sqrt() } else { 0.0 },
        }
    }
}

fn has_wgsl(mask: &Mask) -> bool {
    match mask {
        Mask::Wgsl(_) => true,
        Mask::And(a, b) | Mask::Or(a, b) => has_wgsl(a) || has_wgsl(b),
        Mask::Not(a) | Mask::SelfOnlyIfAlone(a) => has_wgsl(a),
        Mask::PerHead(masks) => masks.iter().any(has_wgsl),
        _ => false,
    }
}
