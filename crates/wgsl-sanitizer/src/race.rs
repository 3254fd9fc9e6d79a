//! Which accesses no barrier orders.

use crate::finding::FindingKind;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Plain,
    AtomicLoad,
    AtomicStore,
    /// Reads and writes at once.
    AtomicChange,
}

/// An access to a location.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Access {
    /// From 1; barriers of the workgroup count it up. 0: there was no access.
    pub(crate) epoch: u32,
    /// The workgroup's number.
    pub(crate) group: u32,
    /// The operation, and in the upper bits by what means.
    at: u32,
    pub(crate) local: u16,
    /// Barriers of the subgroup count it up.
    pub(crate) step: u16,
}

/// Bits of an operation's number.
const AT_BITS: u32 = 30;

impl Access {
    pub(crate) fn new(
        epoch: u32,
        group: u32,
        at: u32,
        local: u32,
        step: u16,
        means: Means,
    ) -> Self {
        let at = at | (means as u32) << AT_BITS;
        Self { epoch, group, at, local: local as u16, step }
    }

    pub(crate) fn at(self) -> u32 {
        self.at & ((1 << AT_BITS) - 1)
    }

    fn means(self) -> Means {
        match self.at >> AT_BITS {
            0 => Means::Plain,
            1 => Means::AtomicLoad,
            2 => Means::AtomicStore,
            _ => Means::AtomicChange,
        }
    }

    /// Whether a barrier lies between it and a later access, for all invocations that both concern.
    fn is_before(self, later: Self, width: u32) -> bool {
        let subgroup = |of: Self| u32::from(of.local) / width;
        self.group == later.group
            && (self.epoch != later.epoch
                || (self.step != later.step && subgroup(self) == subgroup(later)))
    }

    /// What is wrong with both, one of which writes.
    fn conflict(self, later: Self, width: u32) -> Option<FindingKind> {
        let is_own = self.group == later.group && self.local == later.local;
        if self.epoch == 0 || is_own || self.is_before(later, width) {
            return None;
        }
        match (self.means(), later.means()) {
            (Means::Plain, _) | (_, Means::Plain) => Some(FindingKind::Race),
            // Changes may come in any order: their sum, their maximum is the same.
            (Means::AtomicChange, Means::AtomicChange) => None,
            _ => Some(FindingKind::AtomicOrder),
        }
    }
}

/// An earlier access, whether it wrote, and what is wrong.
pub(crate) type Conflict = (Access, bool, FindingKind);

/// What was done to a location: its last write, and two reads by different invocations, which suffice to tell whether
/// a write conflicts with any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shadow {
    write: Access,
    reads: [Access; 2],
}

impl Shadow {
    /// Notes a read; returns the write that it conflicts with.
    #[inline]
    pub(crate) fn read(&mut self, access: Access, width: u32) -> Option<Conflict> {
        let conflict = self.write.conflict(access, width).map(|kind| (self.write, true, kind));
        let gives_way = |old: Access| {
            old.epoch == 0
                || (old.group == access.group
                    && (old.local == access.local || old.is_before(access, width)))
        };
        if let Some(old) = self.reads.iter_mut().find(|old| gives_way(**old)) {
            *old = access;
        }
        conflict
    }

    /// Notes a write; returns what it conflicts with.
    #[inline]
    pub(crate) fn write(&mut self, access: Access, width: u32) -> Option<Conflict> {
        let write = self.write.conflict(access, width).map(|kind| (self.write, true, kind));
        let conflict = write.or_else(|| {
            let mut reads = self.reads.into_iter();
            reads.find_map(|read| Some((read, false, read.conflict(access, width)?)))
        });
        *self = Self { write: access, reads: Default::default() };
        conflict
    }
}
