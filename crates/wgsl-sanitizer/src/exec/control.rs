//! The loop over operations: arithmetic, copies and control flow.

use std::sync::atomic::Ordering;

use super::{Dispatch, Frame, Mask, Memory, Stop, Subgroup, Words, lanes};
use crate::finding::{Call, FindingKind};
use crate::math::Scalar;
use crate::program::{INVALID, Op, Undefined};
use crate::race::Access;

/// How many operations there are between two looks at the limits.
const LOOK: u64 = 1 << 12;

impl Subgroup {
    /// Goes on to the next barrier or the end.
    pub(super) fn run(&mut self, dispatch: &Dispatch<'_>, memory: &mut Memory) -> Stop {
        let width = u64::from(dispatch.program.width);
        let mut count = 0;
        let stop = loop {
            if count == LOOK {
                dispatch.operations.fetch_add(count * width, Ordering::Relaxed);
                count = 0;
                if dispatch.is_over() {
                    break Stop::Late;
                }
            }
            count += 1;
            if let Some(stop) = self.step(dispatch, memory) {
                break stop;
            }
        };
        dispatch.operations.fetch_add(count * width, Ordering::Relaxed);
        stop
    }

    /// The operation that is executed.
    pub(super) fn at(&self) -> u32 {
        self.pc - 1
    }

    /// An invocation, for findings.
    pub(super) fn who(&self, memory: &Memory, lane: usize) -> (u32, u32) {
        (memory.group, self.index * self.rows.width as u32 + lane as u32)
    }

    /// Notes a finding at the operation that is executed.
    pub(super) fn found(
        &self,
        dispatch: &Dispatch<'_>,
        kind: FindingKind,
        who: (u32, u32),
        other: Option<(Access, bool)>,
        words: impl FnOnce() -> Words,
    ) {
        dispatch.found(kind, self.at(), self, who, other, words);
    }

    /// The calls that lead to where the subgroup is, the last one first: where they return to, and which function it is.
    /// That of the entry point isn't one.
    pub(super) fn callers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.frames.iter().rev().filter_map(|frame| match frame {
            Frame::Call { back, function, .. } if *function != 0 => Some((*back, *function)),
            _ => None,
        })
    }

    /// The same with the arguments that a lane passed.
    pub(super) fn calls(&self, dispatch: &Dispatch<'_>, lane: u32) -> Vec<Call> {
        let lane = lane as usize;
        let call = |(back, function): (u32, u32)| {
            let function = &dispatch.program.functions[function as usize];
            let value = |(name, row, scalar): &(String, u32, Scalar)| {
                let mut bits = u64::from(self.rows.get(*row, lane));
                if scalar.words() == 2 {
                    bits |= u64::from(self.rows.get(row + 1, lane)) << 32;
                }
                (name.clone(), scalar.text(bits))
            };
            Call {
                function: function.name.clone(),
                arguments: function.arguments.iter().map(value).collect(),
                at: dispatch.location(back - 1),
            }
        };
        self.callers().map(call).collect()
    }

    fn step(&mut self, dispatch: &Dispatch<'_>, memory: &mut Memory) -> Option<Stop> {
        let op = dispatch.program.ops[self.pc as usize];
        dispatch.executed[self.pc as usize].store(true, Ordering::Relaxed);
        self.pc += 1;
        match op {
            Op::Map1 { kernel, at, n, float } => {
                kernel(&self.rows, at, n);
                if let Some(scalar) = float {
                    self.look_for_nan(dispatch, memory, scalar, at[0], &at[1..], n);
                }
            }
            Op::Map2 { kernel, at, n, float } => {
                kernel(&self.rows, at, n);
                if let Some(scalar) = float {
                    self.look_for_nan(dispatch, memory, scalar, at[0], &at[1..], n);
                }
            }
            Op::Map3 { kernel, at, n, float } => {
                kernel(&self.rows, at, n);
                if let Some(scalar) = float {
                    self.look_for_nan(dispatch, memory, scalar, at[0], &at[1..], n);
                }
            }
            Op::Copy { to, from, n, carry } => {
                self.rows.copy(to, from, n);
                if carry {
                    let from = from as usize;
                    self.defined.copy_within(from..from + n as usize, to as usize);
                }
            }
            Op::Put { to, from, n, carry } => self.put(to, from, n, carry),
            Op::Undefine { to, n } => {
                for row in to..to + n {
                    for lane in lanes(self.mask) {
                        self.rows.set(row, lane, 0);
                    }
                    let defined = &mut self.defined[row as usize];
                    match dispatch.options.uninitialized_variables {
                        true => *defined &= !self.mask,
                        false => *defined |= self.mask,
                    }
                }
            }
            Op::LoadRows { to, from, n, undefined } => {
                self.rows.copy(to, from, n);
                match undefined {
                    Undefined::Report => self.report_undefined(dispatch, memory, from, n),
                    Undefined::Carry => {
                        let from = from as usize;
                        self.defined.copy_within(from..from + n as usize, to as usize);
                    }
                }
            }
            Op::Defined { row, n } => self.report_undefined(dispatch, memory, row, n),
            Op::Gather { to, place, n, undefined } => {
                self.gather(dispatch, memory, to, place, n, undefined);
            }
            Op::Scatter { place, from, n, carry } => {
                self.scatter(dispatch, memory, place, from, n, carry);
            }
            Op::Index { to, base, index, signed, length, stride } => {
                let length = self.length(dispatch, length);
                for lane in lanes(self.mask) {
                    let before = match base {
                        Some(base) => self.rows.get(base, lane),
                        None => 0,
                    };
                    if before == INVALID {
                        for part in 0..3 {
                            let old = self.rows.get(base.unwrap_or(to) + part, lane);
                            self.rows.set(to + part, lane, old);
                        }
                        continue;
                    }
                    let index = self.rows.get(index, lane);
                    // A negative index is beyond every length as an unsigned one.
                    if index >= length {
                        self.rows.set(to, lane, INVALID);
                        self.rows.set(to + 1, lane, index);
                        self.rows.set(to + 2, lane, if signed { length | 1 << 31 } else { length });
                    } else {
                        self.rows.set(to, lane, before + index * stride);
                    }
                }
            }
            Op::Pointer { to, place } => {
                for lane in lanes(self.mask) {
                    let base = place.rows.map_or(0, |rows| self.rows.get(rows, lane));
                    if base == INVALID {
                        for part in 0..3 {
                            let old = self.rows.get(place.rows.unwrap_or(to) + part, lane);
                            self.rows.set(to + part, lane, old);
                        }
                    } else {
                        self.rows.set(to, lane, base + place.offset);
                    }
                }
            }
            Op::LoadShared { to, place, n, undefined, atomic } => {
                self.load_shared(dispatch, memory, to, place, n, undefined, atomic);
            }
            Op::StoreShared { place, from, n, carry, atomic } => {
                self.store_shared(dispatch, memory, place, from, n, carry, atomic);
            }
            Op::LoadBuffer { to, place, leaves, undefined, atomic } => {
                self.load_buffer(dispatch, memory, to, place, leaves, undefined, atomic);
            }
            Op::StoreBuffer { place, from, leaves, carry, atomic } => {
                self.store_buffer(dispatch, memory, place, from, leaves, carry, atomic);
            }
            Op::ArrayLength { to, length } => {
                let length = self.length(dispatch, length);
                self.rows.fill(to, length);
            }
            Op::Extract { to, from, index, signed, length, n, carry } => {
                self.extract(dispatch, memory, [to, from, index, length, n], signed, carry);
            }
            Op::CheckDivision { scalar, a, b, n } => {
                self.check_division(dispatch, memory, scalar, a, b, n);
            }
            Op::CheckShift { by, n, bits } => {
                for row in by..by + n {
                    let is_long = |lane: &usize| self.rows.get(row, *lane) >= bits;
                    for lane in lanes(self.mask).filter(is_long) {
                        let who = self.who(memory, lane);
                        self.found(dispatch, FindingKind::Shift, who, None, || {
                            let by = self.rows.get(row, lane);
                            (String::new(), 0, format!("by {by} of a value of {bits} bits"))
                        });
                    }
                }
            }
            Op::Atomic { op, place, scalar, value, result } => {
                self.atomic(dispatch, memory, op, place, scalar, value, result);
            }
            Op::Ballot { to, predicate } => {
                let mut ballot = self.mask;
                if let Some(row) = predicate {
                    for lane in lanes(self.mask).filter(|lane| self.rows.get(row, *lane) == 0) {
                        ballot &= !(1 << lane);
                    }
                }
                for word in 0..4 {
                    self.rows.fill(to + word, (ballot >> (32 * word)) as u32);
                }
            }
            Op::Move { mode, to, from, index, n } => {
                self.move_lanes(dispatch, memory, mode, to, from, index, n);
            }
            Op::Collective { op, scan, scalar, to, from, n } => {
                self.collective(op, scan, scalar, to, from, n);
            }
            Op::CoopLoad { to, matrix, access } => {
                if !self.is_whole(dispatch, memory) {
                    return Some(Stop::Fault);
                }
                self.coop_load(dispatch, memory, to, matrix, access);
            }
            Op::CoopStore { from, matrix, access } => {
                if !self.is_whole(dispatch, memory) {
                    return Some(Stop::Fault);
                }
                self.coop_store(dispatch, memory, from, matrix, access);
            }
            Op::CoopMultiplyAdd { to, a, b, c, left, right, sum } => {
                if !self.is_whole(dispatch, memory) {
                    return Some(Stop::Fault);
                }
                self.coop_multiply_add(to, [a, b, c], left, right, sum);
            }
            Op::Barrier { flags } => {
                if self.mask != self.full {
                    let lane = self.mask.trailing_zeros() as usize;
                    let who = self.who(memory, lane);
                    self.found(dispatch, FindingKind::DivergentBarrier, who, None, || {
                        let missing = self.full & !self.mask;
                        let (count, first) = (missing.count_ones(), missing.trailing_zeros());
                        let of = self.full.count_ones();
                        let detail = format!(
                            "{count} of the subgroup's {of} invocations aren't there, the first lane {first}"
                        );
                        (String::new(), 0, detail)
                    });
                    return Some(Stop::Fault);
                }
                if flags == naga::Barrier::SUB_GROUP {
                    self.step = self.step.wrapping_add(1);
                } else {
                    return Some(Stop::Barrier(flags));
                }
            }
            Op::Uniform { place } => self.check_uniform(dispatch, memory, place),

            Op::If { condition, otherwise } => {
                let taken = self.true_lanes(condition);
                self.frames.push(Frame::If { out: 0, otherwise: self.mask & !taken });
                self.mask = taken;
                if taken == 0 {
                    self.pc = otherwise;
                }
            }
            Op::Else { end } => {
                if let Some(Frame::If { out, otherwise }) = self.frames.last_mut() {
                    *out = self.mask;
                    self.mask = *otherwise;
                }
                if self.mask == 0 {
                    self.pc = end;
                }
            }
            Op::EndIf { skip } => {
                if let Some(Frame::If { out, .. }) = self.frames.pop() {
                    self.mask |= out;
                }
                if self.mask == 0 {
                    self.pc = skip;
                }
            }
            Op::LoopBegin => self.frames.push(Frame::Loop { broken: 0, continued: 0 }),
            Op::Continuing { exit } => {
                if let Some(Frame::Loop { continued, .. }) = self.frames.last_mut() {
                    self.mask |= *continued;
                    *continued = 0;
                }
                if self.mask == 0 {
                    self.pc = exit;
                }
            }
            Op::BreakIf { condition } => {
                let leaving = self.true_lanes(condition);
                if let Some(Frame::Loop { broken, .. }) = self.frames.last_mut() {
                    *broken |= leaving;
                    self.mask &= !leaving;
                }
            }
            Op::LoopBack { start } => {
                if self.mask != 0 {
                    self.pc = start;
                }
            }
            Op::LoopEnd { skip } => {
                if let Some(Frame::Loop { broken, .. }) = self.frames.pop() {
                    self.mask = broken;
                }
                if self.mask == 0 {
                    self.pc = skip;
                }
            }
            Op::Switch { selector, cases } => {
                let cases = &dispatch.program.switches[cases as usize];
                let mut rest = self.mask;
                let mut masks = vec![0; cases.len()];
                for (mask, case) in masks.iter_mut().zip(cases) {
                    if let Some(value) = case {
                        let is_it = |lane: &usize| self.rows.get(selector, *lane) == *value;
                        *mask = lanes(rest).filter(is_it).fold(0, |mask, lane| mask | 1 << lane);
                        rest &= !*mask;
                    }
                }
                if let Some(default) = cases.iter().position(Option::is_none) {
                    masks[default] = rest;
                }
                self.frames.push(Frame::Switch { broken: 0, cases: masks });
                self.mask = 0;
            }
            Op::Case { index, next } => {
                if let Some(Frame::Switch { cases, .. }) = self.frames.last() {
                    self.mask |= cases[index as usize];
                }
                if self.mask == 0 {
                    self.pc = next;
                }
            }
            Op::CaseEnd => {
                if let Some(Frame::Switch { broken, .. }) = self.frames.last_mut() {
                    *broken |= self.mask;
                }
                self.mask = 0;
            }
            Op::SwitchEnd { skip } => {
                if let Some(Frame::Switch { broken, .. }) = self.frames.pop() {
                    self.mask |= broken;
                }
                if self.mask == 0 {
                    self.pc = skip;
                }
            }
            Op::Break { depth } => {
                let mask = self.mask;
                if let Frame::Loop { broken, .. } | Frame::Switch { broken, .. } = self.frame(depth)
                {
                    *broken |= mask;
                }
                self.mask = 0;
            }
            Op::Continue { depth } => {
                let mask = self.mask;
                if let Frame::Loop { continued, .. } = self.frame(depth) {
                    *continued |= mask;
                }
                self.mask = 0;
            }
            Op::Call { function } => {
                self.frames.push(Frame::Call { back: self.pc, function, returned: 0 });
                self.pc = dispatch.program.functions[function as usize].start;
            }
            Op::Return { depth } => {
                let mask = self.mask;
                if let Frame::Call { returned, .. } = self.frame(depth) {
                    *returned |= mask;
                }
                self.mask = 0;
            }
            Op::FunctionEnd => {
                if let Some(Frame::Call { back, returned, .. }) = self.frames.pop() {
                    self.mask |= returned;
                    self.pc = back;
                }
            }
            Op::Jump { to } => self.pc = to,
            Op::Exit => return Some(Stop::Done),
        }
        None
    }

    /// The frame that many above the last.
    fn frame(&mut self, depth: u32) -> &mut Frame {
        let at = self.frames.len() - 1 - depth as usize;
        &mut self.frames[at]
    }

    fn true_lanes(&self, condition: u32) -> Mask {
        let is_true = |lane: &usize| self.rows.get(condition, *lane) != 0;
        lanes(self.mask).filter(is_true).fold(0, |mask, lane| mask | 1 << lane)
    }
}
