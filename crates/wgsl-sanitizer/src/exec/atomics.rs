//! Atomic operations, and loads that must be uniform.

use super::{Dispatch, Memory, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::lanes::{H, Int, Num, Rows};
use crate::math::{Scalar, with_type};
use crate::program::{AtomicOp, Place, Root};
use crate::race::Means;

#[expect(clippy::too_many_arguments, reason = "an operation's own fields")]
impl Subgroup {
    pub(super) fn atomic(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        op: AtomicOp,
        place: Place,
        scalar: Scalar,
        value: u32,
        result: Option<u32>,
    ) {
        let words = scalar.words();
        let bits = |subgroup: &Self, row: u32, lane: usize| {
            let low = u64::from(subgroup.rows.get(row, lane));
            match words {
                2 => low | u64::from(subgroup.rows.get(row + 1, lane)) << 32,
                _ => low,
            }
        };
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else { continue };
            let operand = bits(self, value, lane);
            let compare = match op {
                AtomicOp::CompareExchange(row) => Some(bits(self, row, lane)),
                _ => None,
            };
            let new = |old: u64| match compare {
                Some(compare) => (compare == old).then_some(operand),
                None => Some(applied(op, scalar, old, operand)),
            };
            let old = match place.root {
                Root::Shared(start) => {
                    let cell = (start + at) as usize;
                    let mut old = 0;
                    for part in 0..words {
                        let cell = cell + part as usize;
                        let word =
                            self.read_cell(dispatch, memory, cell, lane, Means::AtomicChange);
                        old |= u64::from(word) << (32 * part);
                        if !memory.defined[cell] {
                            self.report_undefined_cell(dispatch, memory, cell, lane);
                        }
                    }
                    if let Some(new) = new(old) {
                        for part in 0..words {
                            let word = (new >> (32 * part)) as u32;
                            let cell = cell + part as usize;
                            self.write_cell(
                                dispatch,
                                memory,
                                cell,
                                lane,
                                Means::AtomicChange,
                                word,
                                true,
                            );
                        }
                    }
                    old
                }
                Root::Buffer(number) => {
                    let bound = &dispatch.buffers[number as usize];
                    let mut shadow = bound.lock();
                    let of = (place.root, bound);
                    let slice = shadow.as_mut().map(|shadow| &mut shadow[..]);
                    let (old, is_defined) = self.read_leaf(
                        dispatch,
                        memory,
                        of,
                        slice,
                        at,
                        scalar,
                        lane,
                        Means::AtomicChange,
                    );
                    if !is_defined {
                        self.report_undefined_leaf(dispatch, memory, place.root, at, lane);
                    }
                    if let Some(new) = new(old) {
                        let slice = shadow.as_mut().map(|shadow| &mut shadow[..]);
                        let how = (lane, Means::AtomicChange, true);
                        self.write_leaf(dispatch, memory, of, slice, at, scalar, new, how);
                    }
                    old
                }
                Root::Local(..) => 0,
            };
            if let Some(row) = result {
                for part in 0..words {
                    self.rows.set(row + part, lane, (old >> (32 * part)) as u32);
                }
                if let Some(compare) = compare {
                    self.rows.set(row + words, lane, u32::from(compare == old));
                }
            }
        }
    }

    /// Whether all lanes have the same pointer, and all subgroups.
    pub(super) fn check_uniform(&self, dispatch: &Dispatch<'_>, memory: &mut Memory, place: Place) {
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else { continue };
            let expected = *memory.uniform.get_or_insert(at);
            if at != expected {
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::NotUniform, who, None, || {
                    let name = |at| dispatch.describe(place.root, at).0;
                    let detail = format!("another invocation loads `{}`", name(expected));
                    (name(at), u64::from(at), detail)
                });
            }
        }
    }
}

/// What an atomic operation leaves.
fn applied(op: AtomicOp, scalar: Scalar, old: u64, value: u64) -> u64 {
    let as_lane = |bits: u64| {
        let rows = Rows::new(2, 1);
        rows.set(0, 0, bits as u32);
        rows.set(1, 0, (bits >> 32) as u32);
        rows
    };
    fn number<T: Num>(op: AtomicOp, a: &Rows, b: &Rows) -> Option<()> {
        let (x, y): (T, T) = (a.value(0, 0), b.value(0, 0));
        let new = match op {
            AtomicOp::Add => x.add(y),
            AtomicOp::Subtract => x.sub(y),
            AtomicOp::Min => x.least(y),
            AtomicOp::Max => x.greatest(y),
            AtomicOp::Exchange => y,
            _ => return None,
        };
        a.put(0, 0, new);
        Some(())
    }
    fn integer<T: Int>(op: AtomicOp, a: &Rows, b: &Rows) -> Option<()> {
        let (x, y): (T, T) = (a.value(0, 0), b.value(0, 0));
        let new = match op {
            AtomicOp::And => x.and(y),
            AtomicOp::Or => x.or(y),
            AtomicOp::Xor => x.xor(y),
            _ => return None,
        };
        a.put(0, 0, new);
        Some(())
    }
    let (a, b) = (as_lane(old), as_lane(value));
    let _ = with_type!(numbers, scalar, number(op, &a, &b))
        .or_else(|| with_type!(integers, scalar, integer(op, &a, &b)));
    u64::from(a.get(0, 0)) | u64::from(a.get(1, 0)) << 32
}
