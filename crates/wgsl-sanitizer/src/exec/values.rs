//! Values: copies under the mask of active lanes, dynamic indices, and what is checked of them.

use super::{Dispatch, Mask, Memory, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::math::Scalar;
use crate::program::{INVALID, Length, Place, Root, Undefined};

impl Subgroup {
    pub(super) fn put(&mut self, to: u32, from: u32, n: u32, carry: bool) {
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

    pub(super) fn length(&self, dispatch: &Dispatch<'_>, length: Length) -> u32 {
        match length {
            Length::Fixed(length) => length,
            Length::Bound { buffer, offset, stride } => {
                let size = dispatch.buffers[buffer as usize].size;
                (size.saturating_sub(u64::from(offset)) / u64::from(stride.max(1))) as u32
            }
        }
    }

    pub(super) fn report_undefined(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        start: u32,
        n: u32,
    ) {
        for row in start..start + n {
            let missing = self.mask & !self.defined[row as usize];
            if missing != 0 {
                let lane = missing.trailing_zeros() as usize;
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::Uninitialized, who, None, || {
                    (dispatch.describe_row(row).0, 0, "nothing was written to this variable".into())
                });
            }
        }
    }

    pub(super) fn extract(
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
                self.found(dispatch, FindingKind::OutOfBounds, who, None, || {
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
                    self.found(dispatch, FindingKind::Uninitialized, who, None, || {
                        (String::new(), 0, format!("nothing was written to element {at}"))
                    });
                }
            }
        }
    }

    pub(super) fn check_division(
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
                    self.found(dispatch, FindingKind::Division, who, None, || {
                        let [x, y] = [x, y].map(|value| scalar.text(value));
                        (String::new(), 0, format!("{x} by {y} in {}", scalar.name()))
                    });
                }
            }
        }
    }

    pub(super) fn look_for_nan(
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
                self.found(dispatch, FindingKind::NotANumber, who, None, || {
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

    pub(super) fn gather(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        to: u32,
        place: Place,
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
                        self.found(dispatch, FindingKind::Uninitialized, who, None, || {
                            let detail = "nothing was written to this variable";
                            (dispatch.describe_row(from).0, 0, detail.into())
                        });
                    }
                    Undefined::Report => {}
                }
            }
        }
    }

    pub(super) fn scatter(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        place: Place,
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
        place: Place,
        lane: usize,
    ) -> Option<u32> {
        let Some(rows) = place.rows else { return Some(place.offset) };
        let offset = self.rows.get(rows, lane);
        if offset != INVALID {
            return Some(offset + place.offset);
        }
        let who = self.who(memory, lane);
        self.found(dispatch, FindingKind::OutOfBounds, who, None, || {
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
