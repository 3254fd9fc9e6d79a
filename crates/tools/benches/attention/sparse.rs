//! Whether work follows the mask: the time under a sparse mask against the time without one, and what the tile map costs.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionPlan, AuxData, Mask, Problem, Session, Shape};
use wgpu_attention_tools::measure::{Clock, Workload, in_turns, uniform};

use crate::arguments::Arguments;
use crate::{HEAD_DIM, verdict};

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
    data: AuxData,
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
    Case { what: "window(255,0) & causal", mask, data: AuxData::new() }
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
    Case {
        what: "16 documents & causal",
        mask: Mask::Documents & Mask::causal(),
        data: AuxData::new().document_ids(ids),
    }
}

/// A tenth of the blocks, at random.
fn blocks() -> Case {
    let across = SEQ_LEN / BLOCK;
    let threshold = 2.0 * KEPT_BLOCKS as f32 - 1.0;
    let kept: Vec<bool> =
        uniform(9, across * across).into_iter().map(|number| number < threshold).collect();
    let keep = move |cell: usize| kept[cell / SEQ_LEN / BLOCK * across + cell % SEQ_LEN / BLOCK];
    Case {
        what: "dense, 10% of its blocks",
        mask: Mask::Dense,
        data: AuxData::new().dense([1, 1, SEQ_LEN, SEQ_LEN], (0..SEQ_LEN * SEQ_LEN).map(keep)),
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
            verdict(ratio <= EXPECTED),
        )
    }
}

/// Lets the full mask, the sparse one with its tables reused, and the sparse one with its tables made anew run in turns.
pub(crate) fn run(
    case: &Case,
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let shape = Shape::new(1, 1, SEQ_LEN, HEAD_DIM);
    let work = |mask: &Mask, data: &AuxData| {
        Workload::new(attention, &Problem::new(shape).mask(mask.clone()), data)
    };
    let (full, masked) = (work(&Mask::All, &AuxData::new())?, work(&case.mask, &case.data)?);
    let plan = |work: &Workload| {
        AttentionPlan::new(
            attention.kernels(),
            work.problem(),
            &PlanOptions::default().kernel(arguments.kernel),
        )
    };
    let (full_plan, masked_plan) = (plan(&full)?, plan(&masked)?);
    // The first one that makes the tables lets the next reuse them.
    let samples = in_turns(
        clock,
        arguments.effort(),
        &[
            &|encoder| full.encode(&full_plan, encoder),
            &|encoder| masked.encode(&masked_plan, encoder),
            &|encoder| masked.encode_reusing_mask(&masked_plan, encoder),
        ],
        |round| progress.set_message(format!("{}, round {round}", case.name())),
    )?;
    let reusing = samples[2].busy();
    Ok(Line {
        name: case.name(),
        kept: masked.kept_cells() / full.kept_cells(),
        full: samples[0].busy(),
        masked: reusing,
        map: samples[1].busy().saturating_sub(reusing),
        rounds: samples[0].rounds(),
    })
}
