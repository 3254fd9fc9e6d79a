//! Workgroup memory and buffers.

use std::sync::{MutexGuard, PoisonError};

use super::{Bound, Dispatch, Mask, Memory, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::math::Scalar;
use crate::program::{Leaf, Place, Root, Undefined};
use crate::race::{Access, Means, Shadow};

impl Bound<'_> {
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Vec<Shadow>>> {
        self.shadow.as_ref().map(|shadow| shadow.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[expect(clippy::too_many_arguments, reason = "an operation's own fields")]
impl Subgroup {
    fn access(&self, memory: &Memory, lane: usize, epoch: u32, means: Means) -> Access {
        let (group, local) = self.who(memory, lane);
        Access::new(epoch, group, self.at(), local, self.step, means)
    }

    /// The words of a cell for people.
    fn shared_words(
        dispatch: &Dispatch<'_>,
        cell: usize,
        words: &str,
        value: u32,
    ) -> (String, u64, String) {
        let (name, scalar) = dispatch.describe(Root::Shared(0), cell as u32);
        let value = scalar.map_or(String::new(), |scalar| scalar.text(u64::from(value)));
        (name, cell as u64, format!("{words} {value}"))
    }

    /// Notes a read of a cell and reports what is wrong with it.
    pub(super) fn read_cell(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        cell: usize,
        lane: usize,
        means: Means,
    ) -> u32 {
        let access = self.access(memory, lane, memory.epoch, means);
        let value = memory.cells[cell];
        if let Some((other, is_write, kind)) =
            memory.shadows[cell].read(access, dispatch.program.width)
        {
            let who = self.who(memory, lane);
            self.found(dispatch, kind, who, Some((other, is_write)), || {
                Self::shared_words(dispatch, cell, "reads", value)
            });
        }
        value
    }

    pub(super) fn report_undefined_cell(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        cell: usize,
        lane: usize,
    ) {
        let who = self.who(memory, lane);
        self.found(dispatch, FindingKind::Uninitialized, who, None, || {
            let (name, _) = dispatch.describe(Root::Shared(0), cell as u32);
            (name, cell as u64, "nothing was written to this workgroup memory".into())
        });
    }

    pub(super) fn write_cell(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        cell: usize,
        lane: usize,
        means: Means,
        value: u32,
        is_defined: bool,
    ) {
        let access = self.access(memory, lane, memory.epoch, means);
        if let Some((other, is_write, kind)) =
            memory.shadows[cell].write(access, dispatch.program.width)
        {
            let who = self.who(memory, lane);
            let old = memory.cells[cell];
            self.found(dispatch, kind, who, Some((other, is_write)), || {
                let words = match is_write && old == value {
                    true => "writes the same value",
                    false => "writes",
                };
                Self::shared_words(dispatch, cell, words, value)
            });
        }
        memory.cells[cell] = value;
        memory.defined[cell] = is_defined;
    }

    pub(super) fn load_shared(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        to: u32,
        place: Place,
        n: u32,
        undefined: Undefined,
        atomic: bool,
    ) {
        let Root::Shared(start) = place.root else { return };
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else {
                (to..to + n).for_each(|row| self.rows.set(row, lane, 0));
                continue;
            };
            for row in 0..n {
                let cell = (start + at + row) as usize;
                let value = self.read_cell(dispatch, memory, cell, lane, load_means(atomic));
                self.rows.set(to + row, lane, value);
                let is_defined = memory.defined[cell];
                match undefined {
                    Undefined::Carry => self.carry(to + row, lane, is_defined),
                    Undefined::Report if !is_defined => {
                        self.report_undefined_cell(dispatch, memory, cell, lane);
                    }
                    Undefined::Report => {}
                }
            }
        }
    }

    fn carry(&mut self, row: u32, lane: usize, is_defined: bool) {
        let defined = &mut self.defined[row as usize];
        *defined = *defined & !(1 << lane) | Mask::from(is_defined) << lane;
    }

    fn is_defined(&self, row: u32, lane: usize, carry: bool) -> bool {
        !carry || self.defined[row as usize] >> lane & 1 != 0
    }

    pub(super) fn store_shared(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        place: Place,
        from: u32,
        n: u32,
        carry: bool,
        atomic: bool,
    ) {
        let Root::Shared(start) = place.root else { return };
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, place, lane) else { continue };
            for row in 0..n {
                let cell = (start + at + row) as usize;
                let value = self.rows.get(from + row, lane);
                let is_defined = self.is_defined(from + row, lane, carry);
                self.write_cell(
                    dispatch,
                    memory,
                    cell,
                    lane,
                    store_means(atomic),
                    value,
                    is_defined,
                );
            }
        }
    }

    fn buffer_words(
        dispatch: &Dispatch<'_>,
        root: Root,
        at: u32,
        words: &str,
        value: Option<(Scalar, u64)>,
    ) -> (String, u64, String) {
        let (name, _) = dispatch.describe(root, at);
        let value = value.map_or(String::new(), |(scalar, bits)| format!(" {}", scalar.text(bits)));
        (name, u64::from(at), format!("{words}{value}"))
    }

    /// Whether a scalar lies within the binding; a finding where it doesn't.
    fn is_bound(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        root: Root,
        bound: &Bound<'_>,
        at: u32,
        bytes: u32,
        lane: usize,
    ) -> bool {
        let is_within = u64::from(at) + u64::from(bytes) <= bound.size;
        if !is_within {
            let who = self.who(memory, lane);
            self.found(dispatch, FindingKind::OutOfBounds, who, None, || {
                let words = format!("byte {at} of a binding of {} bytes", bound.size);
                Self::buffer_words(dispatch, root, at, &words, None)
            });
        }
        is_within
    }

    /// A scalar of a buffer: its bits, and whether it was written.
    pub(super) fn read_leaf(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        (root, bound): (Root, &Bound<'_>),
        shadow: Option<&mut [Shadow]>,
        at: u32,
        scalar: Scalar,
        lane: usize,
        means: Means,
    ) -> (u64, bool) {
        let bytes = scalar.bytes();
        if !self.is_bound(dispatch, memory, root, bound, at, bytes, lane) {
            return (0, true);
        }
        let address = bound.offset + u64::from(at);
        let value = match bytes {
            8 => {
                let [low, high] =
                    [0, 4].map(|part| u64::from(bound.buffer.load(address + part, 4)));
                low | high << 32
            }
            _ => u64::from(bound.buffer.load(address, bytes)),
        };
        if let Some(shadow) = shadow {
            let granule = dispatch.program.granule;
            let access = self.access(memory, lane, memory.storage_epoch, means);
            for part in (at / granule)..(at + bytes).div_ceil(granule) {
                if let Some((other, is_write, kind)) =
                    shadow[part as usize].read(access, dispatch.program.width)
                {
                    let who = self.who(memory, lane);
                    self.found(dispatch, kind, who, Some((other, is_write)), || {
                        Self::buffer_words(dispatch, root, at, "reads", Some((scalar, value)))
                    });
                    break;
                }
            }
        }
        let undefined = (0..bytes.div_ceil(4))
            .any(|part| bound.buffer.is_undefined(address + u64::from(part) * 4, bytes.min(4)));
        (value, !undefined)
    }

    pub(super) fn report_undefined_leaf(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        root: Root,
        at: u32,
        lane: usize,
    ) {
        let who = self.who(memory, lane);
        self.found(dispatch, FindingKind::Uninitialized, who, None, || {
            let words = format!("nothing was written to byte {at}");
            Self::buffer_words(dispatch, root, at, &words, None)
        });
    }

    pub(super) fn write_leaf(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        (root, bound): (Root, &Bound<'_>),
        shadow: Option<&mut [Shadow]>,
        at: u32,
        scalar: Scalar,
        value: u64,
        (lane, means, is_defined): (usize, Means, bool),
    ) {
        let bytes = scalar.bytes();
        if !self.is_bound(dispatch, memory, root, bound, at, bytes, lane) {
            return;
        }
        let address = bound.offset + u64::from(at);
        if let Some(shadow) = shadow {
            let granule = dispatch.program.granule;
            let access = self.access(memory, lane, memory.storage_epoch, means);
            for part in (at / granule)..(at + bytes).div_ceil(granule) {
                if let Some((other, is_write, kind)) =
                    shadow[part as usize].write(access, dispatch.program.width)
                {
                    let who = self.who(memory, lane);
                    self.found(dispatch, kind, who, Some((other, is_write)), || {
                        Self::buffer_words(dispatch, root, at, "writes", Some((scalar, value)))
                    });
                    break;
                }
            }
        }
        for part in 0..bytes.div_ceil(4) {
            let address = address + u64::from(part) * 4;
            if bound.buffer.is_protected(address, bytes.min(4)) {
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::ForbiddenWrite, who, None, || {
                    Self::buffer_words(dispatch, root, at, "writes", Some((scalar, value)))
                });
                continue;
            }
            let word = (value >> (32 * part)) as u32;
            bound.buffer.store(address, bytes.min(4), word, !is_defined);
        }
    }

    pub(super) fn load_buffer(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        to: u32,
        place: Place,
        leaves: u32,
        undefined: Undefined,
        atomic: bool,
    ) {
        let Root::Buffer(number) = place.root else { return };
        let bound = &dispatch.buffers[number as usize];
        let leaves = &dispatch.program.leaves[leaves as usize];
        let mut shadow = bound.lock();
        for lane in lanes(self.mask) {
            let base = self.address(dispatch, memory, place, lane);
            let mut row = to;
            for Leaf { offset, scalar } in leaves {
                let (value, is_defined) = match base {
                    Some(base) => {
                        let shadow = shadow.as_mut().map(|shadow| &mut shadow[..]);
                        let of = (place.root, bound);
                        self.read_leaf(
                            dispatch,
                            memory,
                            of,
                            shadow,
                            base + offset,
                            *scalar,
                            lane,
                            load_means(atomic),
                        )
                    }
                    None => (0, true),
                };
                for part in 0..scalar.words() {
                    self.rows.set(row + part, lane, (value >> (32 * part)) as u32);
                    if undefined == Undefined::Carry {
                        self.carry(row + part, lane, is_defined);
                    }
                }
                if !is_defined && undefined == Undefined::Report {
                    let at = base.unwrap_or(0) + offset;
                    self.report_undefined_leaf(dispatch, memory, place.root, at, lane);
                }
                row += scalar.words();
            }
        }
    }

    pub(super) fn store_buffer(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        place: Place,
        from: u32,
        leaves: u32,
        carry: bool,
        atomic: bool,
    ) {
        let Root::Buffer(number) = place.root else { return };
        let bound = &dispatch.buffers[number as usize];
        let leaves = &dispatch.program.leaves[leaves as usize];
        let mut shadow = bound.lock();
        for lane in lanes(self.mask) {
            let Some(base) = self.address(dispatch, memory, place, lane) else { continue };
            let mut row = from;
            for Leaf { offset, scalar } in leaves {
                let mut value = u64::from(self.rows.get(row, lane));
                if scalar.words() == 2 {
                    value |= u64::from(self.rows.get(row + 1, lane)) << 32;
                }
                let how = (lane, store_means(atomic), self.is_defined(row, lane, carry));
                let shadow = shadow.as_mut().map(|shadow| &mut shadow[..]);
                let of = (place.root, bound);
                self.write_leaf(dispatch, memory, of, shadow, base + offset, *scalar, value, how);
                row += scalar.words();
            }
        }
    }
}

fn load_means(atomic: bool) -> Means {
    if atomic { Means::AtomicLoad } else { Means::Plain }
}

fn store_means(atomic: bool) -> Means {
    if atomic { Means::AtomicStore } else { Means::Plain }
}
