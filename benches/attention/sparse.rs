//! Whether work follows the mask: the time under a sparse mask against the time without one, and what the tile map costs.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, Evaluator, Kernels, Mask, MaskBuffers, MaskData, MaskInput,
    Problem, Shape,
};

use crate::HEAD_DIM;
use crate::arguments::Arguments;
use crate::clock::Clock;
use crate::forward::{median, output, uniform, upload};

const SEQ_LEN: usize = 4096;
const DOCUMENTS: usize = 16;
/// The side of the blocks of the block-sparse mask, and the share of them that is kept.
const BLOCK: usize = 64;
const KEPT_BLOCKS: f64 = 0.1;
/// The time's share may be so many times the share of cells that are kept.
const EXPECTED: f64 = 1.5;

/// A mask over one sequence of one head.
pub(crate) struct Case {
    what: &'static str,
    mask: Mask,
    data: MaskData,
    /// The same as words for the device.
    words: Vec<(MaskInput, Vec<u32>)>,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("sparse {} T={SEQ_LEN}", self.what)
    }
}

pub(crate) fn cases() -> [Case; 3] {
    [window(), documents(), blocks()]
}

fn window() -> Case {
    let mask = Mask::window(255, 0) & Mask::causal();
    Case { what: "window(255,0) & causal", mask, data: MaskData::new(), words: Vec::new() }
}

/// Of uneven lengths, which begin anywhere in a tile.
fn documents() -> Case {
    let ids: Vec<i32> = (0..SEQ_LEN)
        .map(|at| {
            let starts =
                (1..DOCUMENTS).map(|document| document * SEQ_LEN / DOCUMENTS + document * 37 % 101);
            starts.filter(|&start| start <= at).count() as i32
        })
        .collect();
    let words: Vec<u32> = ids.iter().map(|id| id.cast_unsigned()).collect();
    Case {
        what: "16 documents & causal",
        mask: Mask::Documents & Mask::causal(),
        data: MaskData::new().document_ids(ids),
        words: vec![(MaskInput::DocumentIdsQ, words.clone()), (MaskInput::DocumentIdsKv, words)],
    }
}

/// A tenth of the blocks, at random.
fn blocks() -> Case {
    let across = SEQ_LEN / BLOCK;
    let threshold = 2.0 * KEPT_BLOCKS as f32 - 1.0;
    let kept: Vec<bool> =
        uniform(9, across * across).into_iter().map(|number| number < threshold).collect();
    let keep = move |cell: usize| kept[cell / SEQ_LEN / BLOCK * across + cell % SEQ_LEN / BLOCK];
    let word =
        |index: usize| (0..32).fold(0, |word, bit| word | u32::from(keep(index * 32 + bit)) << bit);
    let words = (0..SEQ_LEN * SEQ_LEN / 32).map(word).collect();
    Case {
        what: "dense, 10% of its blocks",
        mask: Mask::Dense,
        data: MaskData::new().dense([1, 1, SEQ_LEN, SEQ_LEN], (0..SEQ_LEN * SEQ_LEN).map(keep)),
        words: vec![(MaskInput::Dense, words)],
    }
}

/// A line of the report.
pub(crate) struct Line {
    name: String,
    kept: f64,
    full: Duration,
    masked: Duration,
    map: Duration,
    rounds: usize,
}

pub(crate) fn print_heading(progress: &ProgressBar) {
    progress.suspend(|| {
        println!(
            "\nf32, batch 1, 1 head, head_dim {HEAD_DIM}; medians; the mask's tables reused, and what making them adds\n"
        );
        println!(
            "{:<40}{:>9}{:>14}{:>14}{:>9}{:>8}{:>10}{:>14}{:>8}",
            "", "kept", "without mask", "with", "time", "ratio", "expected", "tables", "rounds"
        );
    });
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [full, masked, map] =
            [self.full, self.masked, self.map].map(|time| time.as_secs_f64() * 1e3);
        let ratio = masked / full / self.kept;
        write!(
            f,
            "{:<40}{:>8.2}%{full:>11.2} ms{masked:>11.2} ms{:>8.2}%{ratio:>8.2}{:>10}{map:>11.2} ms{:>8}{}",
            self.name,
            100.0 * self.kept,
            100.0 * masked / full,
            format!("< {EXPECTED}"),
            self.rounds,
            if ratio <= EXPECTED { "" } else { "   slower than expected" },
        )
    }
}

/// Lets the full mask, the sparse one with its tables reused, and the sparse one with its tables made anew run in turns.
pub(crate) fn run(
    case: &Case,
    device: &wgpu::Device,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let shape = Shape::new(1, 1, SEQ_LEN, HEAD_DIM);
    let len = shape.q_len()?;
    let [q, k, v] = [1, 2, 3].map(|seed| upload(device, &uniform(seed, len)));
    let o = output(device, len);
    let words: Vec<_> =
        case.words.iter().map(|(input, words)| (*input, upload(device, words))).collect();
    let mask = words.iter().fold(MaskBuffers::new(), |buffers, (input, buffer)| {
        buffers.with(*input, buffer.slice(..))
    });
    let buffers = AttentionBuffers {
        q: q.slice(..),
        k: k.slice(..),
        v: v.slice(..),
        mask,
        o: o.slice(..),
        lse: None,
    };
    let kernels = Kernels::new(device);
    let plan = |mask: Mask| {
        let problem = Problem::new(shape).mask(mask).data_shape(case.data.shape());
        AttentionPlan::with_kernel(&kernels, &problem, arguments.kernel)
    };
    let (full, masked) = (plan(Mask::All)?, plan(case.mask.clone())?);
    let time_full = || clock.time(|encoder| Ok(full.encode(encoder, &buffers)?));
    let time_reusing = || clock.time(|encoder| Ok(masked.encode_reusing_mask(encoder, &buffers)?));
    let time_anew = || clock.time(|encoder| Ok(masked.encode(encoder, &buffers)?));

    // The first of each isn't counted, and makes the tables that are reused.
    time_full()?;
    time_anew()?;
    time_reusing()?;
    let (least, most, budget) = if arguments.quick { (3, 3, 0.0) } else { (5, 31, 10.0) };
    let [mut full_times, mut reusing, mut anew] = [const { Vec::new() }; 3];
    let start = Instant::now();
    while full_times.len() < least
        || (full_times.len() < most && start.elapsed().as_secs_f64() < budget)
    {
        full_times.push(time_full()?);
        reusing.push(time_reusing()?);
        anew.push(time_anew()?);
        progress.set_message(format!("{}, round {}", case.name(), full_times.len()));
    }
    let rounds = full_times.len();
    let masked = median(reusing);
    let map = median(anew).saturating_sub(masked);
    let kept = kept_share(case, &shape)?;
    Ok(Line { name: case.name(), kept, full: median(full_times), masked, map, rounds })
}

/// The share of all cells that the mask keeps.
fn kept_share(case: &Case, shape: &Shape) -> Result<f64> {
    let evaluator = Evaluator::new(&case.mask, &case.data, shape)?;
    let cells = (0..SEQ_LEN * SEQ_LEN)
        .filter(|cell| evaluator.keep(0, 0, cell / SEQ_LEN, cell % SEQ_LEN))
        .count();
    Ok(cells as f64 / (SEQ_LEN * SEQ_LEN) as f64)
}
