//! The loop over operations: arithmetic, copies and control flow.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Dispatch, Frame, Mask, Memory, Stop, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::math::Scalar;
use crate::program::{INVALID, Length, Op, Root, Undefined};

/// How many operations there are between two looks at the clock.
const CLOCK: u32 = 1 << 12;

impl Subgroup {
    /// Goes on to the next barrier or the end.
    pub(super) fn run(&mut self, dispatch: &Dispatch<'_>, memory: &mut Memory) -> Stop {
        let mut count = 0u32;
        let width = u64::from(dispatch.program.width);
        let stop = loop {
            if count % CLOCK == CLOCK - 1 {
                if Instant::now() > dispatch.deadline {
                    dispatch.is_late.store(true, Ordering::Relaxed);
                }
                if dispatch.is_late.load(Ordering::Relaxed) {
                    break Stop::Late;
                }
            }
            count = count.wrapping_add(1);
            if count == u32::MAX {
                dispatch.operations.fetch_add(u64::from(count) * width, Ordering::Relaxed);
                count = 0;
            }
            if let Some(stop) = self.step(dispatch, memory) {
                break stop;
            }
        };
        dispatch.operations.fetch_add(u64::from(count) * width, Ordering::Relaxed);
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
                        dispatch.found(FindingKind::Shift, self.at(), who, None, || {
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
                    dispatch.found(FindingKind::DivergentBarrier, self.at(), who, None, || {
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
                self.frames.push(Frame::Call { back: self.pc, returned: 0 });
                self.pc = dispatch.program.functions[function as usize];
            }
            Op::Return { depth } => {
                let mask = self.mask;
                if let Frame::Call { returned, .. } = self.frame(depth) {
                    *returned |= mask;
                }
                self.mask = 0;
            }
            Op::FunctionEnd => {
                if let Some(Frame::Call { back, returned }) = self.frames.pop() {
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

    fn put(&mut self, to: u32, from: u32, n: u32, carry: bool) {
        if self.mask == self.full {
            self.rows.copy(to, from, n);
        } else {
            for row in 0..n {
                for lane in lanes(self.mask) {
                    self.rows.set(to + row, lane, self.rows.get(from + row, lane));
                }
            }
        }
        for row in 0..n as usize {
            let from = if carry { self.defined[from as usize + row] } else { Mask::MAX };
            let defined = &mut self.defined[to as usize + row];
            *defined = *defined & !self.mask | from & self.mask;
        }
    }

    fn length(&self, dispatch: &Dispatch<'_>, length: Length) -> u32 {
        match length {
            Length::Fixed(length) => length,
            Length::Bound { buffer, offset, stride } => {
                let size = dispatch.buffers[buffer as usize].size;
                (size.saturating_sub(u64::from(offset)) / u64::from(stride.max(1))) as u32
            }
        }
    }

    fn report_undefined(&self, dispatch: &Dispatch<'_>, memory: &Memory, start: u32, n: u32) {
        for row in start..start + n {
            let missing = self.mask & !self.defined[row as usize];
            if missing != 0 {
                let lane = missing.trailing_zeros() as usize;
                let who = self.who(memory, lane);
                dispatch.found(FindingKind::Uninitialized, self.at(), who, None, || {
                    (dispatch.describe_row(row).0, 0, "nothing was written to this variable".into())
                });
            }
        }
    }

    fn extract(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        [to, from, index, length, n]: [u32; 5],
        signed: bool,
        carry: bool,
    ) {
        for lane in lanes(self.mask) {
            let at = self.rows.get(index, lane);
            if at >= length {
                let who = self.who(memory, lane);
                dispatch.found(FindingKind::OutOfBounds, self.at(), who, None, || {
                    (String::new(), 0, index_words(at, length, signed))
                });
            }
            for row in 0..n {
                let source = from + at.min(length - 1) * n + row;
                let word = if at >= length { 0 } else { self.rows.get(source, lane) };
                self.rows.set(to + row, lane, word);
                let bit = self.defined[source as usize] & 1 << lane;
                if carry {
                    let defined = &mut self.defined[(to + row) as usize];
                    *defined = *defined & !(1 << lane) | bit;
                } else if bit == 0 {
                    let who = self.who(memory, lane);
                    dispatch.found(FindingKind::Uninitialized, self.at(), who, None, || {
                        (String::new(), 0, format!("nothing was written to element {at}"))
                    });
                }
            }
        }
    }

    fn check_division(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        scalar: Scalar,
        a: u32,
        b: u32,
        n: u32,
    ) {
        let words = scalar.words();
        let bits = |row: u32, lane: usize| {
            let low = u64::from(self.rows.get(row, lane));
            if words == 2 { low | u64::from(self.rows.get(row + 1, lane)) << 32 } else { low }
        };
        let all = u64::MAX >> (64 - scalar.bytes() * 8);
        for c in 0..n {
            for lane in lanes(self.mask) {
                let [x, y] = [a, b].map(|row| bits(row + c * words, lane) & all);
                let overflows = scalar.is_signed() && y == all && x == all / 2 + 1;
                if y == 0 || overflows {
                    let who = self.who(memory, lane);
                    dispatch.found(FindingKind::Division, self.at(), who, None, || {
                        let [x, y] = [x, y].map(|value| scalar.text(value));
                        (String::new(), 0, format!("{x} by {y} in {}", scalar.name()))
                    });
                }
            }
        }
    }

    fn look_for_nan(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        scalar: Scalar,
        to: u32,
        from: &[u32],
        n: u32,
    ) {
        let words = scalar.words();
        for c in 0..n {
            let row = to + c * words;
            // Of 64 bits the high words decide.
            let high = |row: u32| row + words - 1;
            let (most, infinite) = match scalar {
                Scalar::F16 => (0x7fff, 0x7c00),
                Scalar::F32 => (0x7fff_ffff, 0x7f80_0000),
                _ => (0x7fff_ffff, 0x7ff0_0000),
            };
            let mut found = 0;
            for cell in self.rows.rows(high(row), 1) {
                found |= u32::from(cell.get() & most > infinite);
            }
            if found == 0 {
                continue;
            }
            let is_finite =
                |row: u32, lane: usize| self.rows.get(high(row), lane) & most < infinite;
            let is_new = |lane: &usize| {
                self.rows.get(high(row), *lane) & most > infinite
                    && from.iter().all(|from| is_finite(from + c * words, *lane))
            };
            for lane in lanes(self.mask).filter(is_new) {
                let who = self.who(memory, lane);
                dispatch.found(FindingKind::NotANumber, self.at(), who, None, || {
                    let operands: Vec<_> = from
                        .iter()
                        .map(|from| {
                            let row = from + c * words;
                            let low = u64::from(self.rows.get(row, lane));
                            let bits = match words {
                                2 => low | u64::from(self.rows.get(row + 1, lane)) << 32,
                                _ => low,
                            };
                            scalar.text(bits)
                        })
                        .collect();
                    (String::new(), 0, format!("from {}", operands.join(", ")))
                });
            }
        }
    }

    fn gather(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        to: u32,
        place: crate::program::Place,
        n: u32,
        undefined: Undefined,
    ) {
        let Root::Local(start, _) = place.root else { return };
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else {
                (to..to + n).for_each(|row| self.rows.set(row, lane, 0));
                continue;
            };
            for row in 0..n {
                let from = start + at + row;
                self.rows.set(to + row, lane, self.rows.get(from, lane));
                let bit = self.defined[from as usize] & 1 << lane;
                match undefined {
                    Undefined::Carry => {
                        let defined = &mut self.defined[(to + row) as usize];
                        *defined = *defined & !(1 << lane) | bit;
                    }
                    Undefined::Report if bit == 0 => {
                        let who = self.who(memory, lane);
                        dispatch.found(FindingKind::Uninitialized, self.at(), who, None, || {
                            let detail = "nothing was written to this variable";
                            (dispatch.describe_row(from).0, 0, detail.into())
                        });
                    }
                    Undefined::Report => {}
                }
            }
        }
    }

    fn scatter(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        place: crate::program::Place,
        from: u32,
        n: u32,
        carry: bool,
    ) {
        let Root::Local(start, _) = place.root else { return };
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else { continue };
            for row in 0..n {
                let to = start + at + row;
                self.rows.set(to, lane, self.rows.get(from + row, lane));
                let from = if carry { self.defined[(from + row) as usize] } else { Mask::MAX };
                let defined = &mut self.defined[to as usize];
                *defined = *defined & !(1 << lane) | from & 1 << lane;
            }
        }
    }

    /// A lane's offset into what the place points into; a finding where there is none.
    pub(super) fn address(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        place: crate::program::Place,
        lane: usize,
    ) -> Option<u32> {
        let Some(rows) = place.rows else { return Some(place.offset) };
        let offset = self.rows.get(rows, lane);
        if offset != INVALID {
            return Some(offset + place.offset);
        }
        let who = self.who(memory, lane);
        dispatch.found(FindingKind::OutOfBounds, self.at(), who, None, || {
            let [index, length] = [1, 2].map(|part| self.rows.get(rows + part, lane));
            let (name, _) = dispatch.describe(place.root, 0);
            let variable = name.split(['[', '.']).next().unwrap_or_default().to_owned();
            let signed = length >> 31 != 0;
            (variable, 0, index_words(index, length & !(1 << 31), signed))
        });
        None
    }
}

fn index_words(index: u32, length: u32, signed: bool) -> String {
    match signed {
        true => format!("index {} of {length}", index as i32),
        false => format!("index {index} of {length}"),
    }
}
