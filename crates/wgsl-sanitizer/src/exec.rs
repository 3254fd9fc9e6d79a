//! Execution: a workgroup's subgroups go on one after the other, each to the next barrier.

mod atomics;
mod control;
mod matrix;
mod memory;
mod subgroup;
mod values;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use naga::Span;

use crate::buffer::Buffer;
use crate::error::Error;
use crate::finding::{Finding, FindingKind, Invocation, Location, OtherAccess, Report};
use crate::lanes::Rows;
use crate::program::{Program, Root};
use crate::race::{Access, Shadow};
use crate::{Options, Order};

/// Of a finding: the place, its address, and what happened there.
type Words = (String, u64, String);

/// A bit for each lane.
pub(crate) type Mask = u128;

pub(crate) fn lanes(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lane)
    })
}

/// A buffer as a shader sees it.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// Of each granule, where the shader may write.
    pub(crate) shadow: Option<Mutex<Vec<Shadow>>>,
}

/// What all workgroups share.
pub(crate) struct Dispatch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) source: Option<&'a str>,
    pub(crate) options: &'a Options,
    pub(crate) workgroups: [u32; 3],
    pub(crate) buffers: Vec<Bound<'a>>,
    pub(crate) deadline: Instant,
    pub(crate) over: Mutex<Option<Error>>,
    pub(crate) is_over: AtomicBool,
    pub(crate) next: AtomicU32,
    pub(crate) operations: AtomicU64,
    /// Of each operation, whether it was executed.
    pub(crate) executed: Vec<AtomicBool>,
    /// By kind, operation, the other access's operation, and the operation behind the call.
    pub(crate) findings: Mutex<HashMap<(FindingKind, [u32; 3]), Finding>>,
}

/// Why a subgroup doesn't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// At a barrier.
    Barrier(naga::Barrier),
    Done,
    /// Nothing sensible can follow.
    Fault,
    Late,
}

/// Where lanes are put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Frame {
    If { out: Mask, otherwise: Mask },
    Loop { broken: Mask, continued: Mask },
    Switch { broken: Mask, cases: Vec<Mask> },
    Call { back: u32, function: u32, returned: Mask },
}

/// A subgroup's state.
struct Subgroup {
    rows: Rows,
    /// Of each row, the lanes whose value was written.
    defined: Vec<Mask>,
    index: u32,
    mask: Mask,
    full: Mask,
    pc: u32,
    frames: Vec<Frame>,
    /// Barriers of the subgroup so far.
    step: u16,
}

/// A workgroup's memory.
struct Memory {
    group: u32,
    id: [u32; 3],
    cells: Vec<u32>,
    defined: Vec<bool>,
    shadows: Vec<Shadow>,
    /// Barriers so far, from 1: of workgroup memory and of storage.
    epoch: u32,
    storage_epoch: u32,
    /// The address of a `workgroupUniformLoad` since the last barrier.
    uniform: Option<u32>,
}

impl<'a> Dispatch<'a> {
    /// Runs workgroups until none is left.
    pub(crate) fn work(&self) {
        let [x, y, z] = self.workgroups;
        let count = u64::from(x) * u64::from(y) * u64::from(z);
        let mut worker = Worker::new(self);
        loop {
            let group = self.next.fetch_add(1, Ordering::Relaxed);
            if u64::from(group) >= count || self.is_over.load(Ordering::Relaxed) {
                return;
            }
            worker.workgroup(group, [group % x, group / x % y, group / x / y]);
        }
    }

    /// Whether a limit is reached, which all workers then hear of.
    fn is_over(&self) -> bool {
        let Options { time_limit, operation_limit, .. } = *self.options;
        let error = if self.operations.load(Ordering::Relaxed) > operation_limit {
            Error::OperationLimit { limit: operation_limit }
        } else if Instant::now() > self.deadline {
            Error::TimeLimit { limit: time_limit }
        } else {
            return self.is_over.load(Ordering::Relaxed);
        };
        self.over.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.is_over.store(true, Ordering::Relaxed);
        true
    }

    pub(crate) fn report(self) -> Report {
        let findings = self.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut findings: Vec<_> = findings.into_values().collect();
        findings.sort_by(|a, b| (&a.at, a.kind, &a.place).cmp(&(&b.at, b.kind, &b.place)));
        let mut lines = BTreeSet::new();
        if let Some(source) = self.source {
            let starts = line_starts(source);
            for (span, executed) in self.program.spans.iter().zip(&self.executed) {
                let offset = span.to_range().map_or(usize::MAX, |range| range.start);
                if executed.load(Ordering::Relaxed) && offset < source.len() {
                    lines.insert(starts.partition_point(|start| *start <= offset) as u32);
                }
            }
        }
        let operations = self.operations.load(Ordering::Relaxed);
        Report { findings, operations, lines: lines.into_iter().collect() }
    }

    fn location(&self, at: u32) -> Location {
        let span = self.program.spans.get(at as usize).copied().unwrap_or(Span::UNDEFINED);
        let Some(source) = self.source.filter(|_| span.is_defined()) else {
            return Location::default();
        };
        let found = span.location(source);
        let text = source.lines().nth(found.line_number.saturating_sub(1) as usize);
        Location {
            line: found.line_number,
            column: found.line_position,
            text: text.unwrap_or_default().trim().to_owned(),
        }
    }

    fn invocation(&self, group: u32, local: u32) -> Invocation {
        let [x, y, _] = self.workgroups;
        let width = self.program.width;
        Invocation {
            workgroup: [group % x, group / x % y, group / x / y],
            local,
            subgroup: local / width,
            lane: local % width,
        }
    }

    /// Notes a finding, whose words are made when it is the first of its kind at its place.
    fn found(
        &self,
        kind: FindingKind,
        at: u32,
        subgroup: &Subgroup,
        (group, local): (u32, u32),
        other: Option<(Access, bool)>,
        words: impl FnOnce() -> Words,
    ) {
        let other_at = other.map_or(u32::MAX, |(access, _)| access.at());
        let caller = subgroup.callers().next().map_or(u32::MAX, |(back, _)| back);
        let key = (kind, [at, other_at, caller]);
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(finding) = findings.get_mut(&key) {
            finding.count += 1;
            return;
        }
        if findings.len() >= self.options.most_findings {
            return;
        }
        let (place, address, detail) = words();
        let finding = Finding {
            kind,
            at: self.location(at),
            invocation: self.invocation(group, local),
            calls: subgroup.calls(self, local % self.program.width),
            place,
            address,
            detail,
            other: other.map(|(access, is_write)| OtherAccess {
                at: self.location(access.at()),
                invocation: self.invocation(access.group, u32::from(access.local)),
                is_write,
            }),
            count: 1,
        };
        findings.insert(key, finding);
    }

    /// A place's name, and the type of what lies there.
    fn describe(&self, root: Root, offset: u32) -> (String, Option<crate::math::Scalar>) {
        match root {
            Root::Local(start, _) => self.describe_row(start + offset),
            Root::Shared(start) => {
                let at = start + offset;
                let holds = |shared: &&crate::program::SharedVariable| {
                    shared.start <= at && at < shared.start + shared.count
                };
                match self.program.shared.iter().find(holds) {
                    Some(shared) => shared.path.describe(&shared.name, at - shared.start),
                    None => (String::new(), None),
                }
            }
            Root::Buffer(buffer) => {
                let buffer = &self.program.buffers[buffer as usize];
                buffer.path.describe(&buffer.name, offset)
            }
        }
    }

    fn describe_row(&self, row: u32) -> (String, Option<crate::math::Scalar>) {
        let holds = |local: &&crate::program::LocalRows| {
            local.start <= row && row < local.start + local.count
        };
        match self.program.locals.iter().find(holds) {
            Some(local) => local.path.describe(&local.name, row - local.start),
            None => (String::new(), None),
        }
    }
}

/// What one thread runs workgroups with.
struct Worker<'d, 'a> {
    dispatch: &'d Dispatch<'a>,
    subgroups: Vec<Subgroup>,
    memory: Memory,
}

impl<'d, 'a> Worker<'d, 'a> {
    fn new(dispatch: &'d Dispatch<'a>) -> Self {
        let program = dispatch.program;
        let [x, y, z] = program.workgroup_size;
        let (size, width) = (x * y * z, program.width);
        let subgroups = (0..size.div_ceil(width)).map(|index| {
            let lanes = (size - index * width).min(width);
            let rows = Rows::new(program.rows, width as usize);
            for (row, word) in &program.constants {
                rows.fill(*row, *word);
            }
            let at = program.builtins;
            for axis in 0..3 {
                rows.fill(at.workgroups + axis, dispatch.workgroups[axis as usize]);
                rows.fill(at.workgroup_size + axis, program.workgroup_size[axis as usize]);
            }
            rows.fill(at.subgroups, size.div_ceil(width));
            rows.fill(at.subgroup, index);
            rows.fill(at.subgroup_size, width);
            for lane in 0..width {
                let local = index * width + lane;
                let id = [local % x, local / x % y, local / x / y];
                for axis in 0..3 {
                    rows.set(at.local + axis, lane as usize, id[axis as usize]);
                }
                rows.set(at.local_index, lane as usize, local);
                rows.set(at.lane, lane as usize, lane);
            }
            Subgroup {
                rows,
                defined: vec![Mask::MAX; program.rows as usize],
                index,
                mask: 0,
                full: if lanes == 128 { Mask::MAX } else { (1 << lanes) - 1 },
                pc: 0,
                frames: Vec::new(),
                step: 0,
            }
        });
        let cells = program.shared_cells as usize;
        Self {
            dispatch,
            subgroups: subgroups.collect(),
            memory: Memory {
                group: 0,
                id: [0; 3],
                cells: vec![0; cells],
                defined: vec![false; cells],
                shadows: vec![Shadow::default(); cells],
                epoch: 1,
                storage_epoch: 1,
                uniform: None,
            },
        }
    }

    fn workgroup(&mut self, group: u32, id: [u32; 3]) {
        let program = self.dispatch.program;
        let memory = &mut self.memory;
        memory.group = group;
        memory.id = id;
        memory.cells.fill(0);
        memory.defined.fill(self.dispatch.options.zero_workgroup_memory);
        memory.shadows.fill(Shadow::default());
        (memory.epoch, memory.storage_epoch, memory.uniform) = (1, 1, None);
        for subgroup in &mut self.subgroups {
            subgroup.pc = program.start;
            subgroup.mask = subgroup.full;
            subgroup.step = 0;
            subgroup.frames.clear();
            let at = program.builtins;
            for axis in 0..3 {
                let (own, size) = (id[axis as usize], program.workgroup_size[axis as usize]);
                subgroup.rows.fill(at.workgroup + axis, own);
                for lane in 0..program.width as usize {
                    let local = subgroup.rows.get(at.local + axis, lane);
                    subgroup.rows.set(at.global + axis, lane, own * size + local);
                }
            }
        }

        let mut stops = vec![Stop::Late; self.subgroups.len()];
        let mut order: Vec<usize> = (0..self.subgroups.len()).collect();
        if self.dispatch.options.order == Order::Backward {
            order.reverse();
        }
        let mut phase = 0u64;
        // A subgroup looks at the limits now and then between two barriers; a loop with a barrier, here.
        while phase == 0 || !self.dispatch.is_over() {
            if let Order::Random(seed) = self.dispatch.options.order {
                shuffle(&mut order, seed ^ u64::from(group) << 32 ^ phase);
            }
            phase += 1;
            for &index in &order {
                let subgroup = &mut self.subgroups[index];
                stops[index] = subgroup.run(self.dispatch, &mut self.memory);
                if matches!(stops[index], Stop::Fault | Stop::Late) {
                    return;
                }
            }
            match self.barrier(&stops) {
                Some(flags) => {
                    let memory = &mut self.memory;
                    memory.epoch += u32::from(flags.contains(naga::Barrier::WORK_GROUP));
                    memory.storage_epoch += u32::from(flags.contains(naga::Barrier::STORAGE));
                    memory.uniform = None;
                }
                None => return,
            }
        }
    }

    /// The barrier that all subgroups wait at; `None` where all are done, or not all are at the same.
    fn barrier(&self, stops: &[Stop]) -> Option<naga::Barrier> {
        let is_waiting = |stop: &Stop| matches!(stop, Stop::Barrier(_));
        let first = stops.iter().position(is_waiting)?;
        let calls = |subgroup: &Subgroup| {
            let calls = subgroup.frames.iter().filter_map(|frame| match frame {
                Frame::Call { back, .. } => Some(*back),
                _ => None,
            });
            calls.chain([subgroup.pc]).collect::<Vec<_>>()
        };
        let waiting = &self.subgroups[first];
        let differs = |index: &usize| {
            !is_waiting(&stops[*index]) || calls(&self.subgroups[*index]) != calls(waiting)
        };
        if let Some(other) = (0..stops.len()).find(differs) {
            let subgroup = &self.subgroups[other];
            let local = |subgroup: &Subgroup| subgroup.index * self.dispatch.program.width;
            let who = (self.memory.group, local(waiting));
            let words = || {
                let detail = match stops[other] {
                    Stop::Barrier(_) => {
                        format!(
                            "subgroup {other} waits at {}",
                            self.dispatch.location(subgroup.pc - 1)
                        )
                    }
                    _ => format!("subgroup {other} has ended"),
                };
                (String::new(), 0, format!("subgroup {first} waits here, {detail}"))
            };
            let kind = FindingKind::DivergentBarrier;
            self.dispatch.found(kind, waiting.pc - 1, waiting, who, None, words);
            return None;
        }
        match stops[first] {
            Stop::Barrier(flags) => Some(flags),
            _ => None,
        }
    }
}

/// Where each line begins.
fn line_starts(source: &str) -> Vec<usize> {
    let ends = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
}

/// Another order for each seed (xorshift64*).
fn shuffle(order: &mut [usize], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for last in (1..order.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        order.swap(last, random as usize % (last + 1));
    }
}
