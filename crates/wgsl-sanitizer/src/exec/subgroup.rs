//! Operations across the lanes of a subgroup.

use naga::{CollectiveOperation, SubgroupOperation};

use super::{Dispatch, Memory, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::lanes::{H, Int, Lane, Num, Rows};
use crate::math::{Scalar, with_type};
use crate::program::Gather;

impl Subgroup {
    #[expect(clippy::too_many_arguments, reason = "an operation's own fields")]
    pub(super) fn move_lanes(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        mode: Gather,
        to: u32,
        from: u32,
        index: u32,
        n: u32,
    ) {
        let first = self.mask.trailing_zeros() as usize;
        let index_of = |lane: usize| self.rows.get(index, lane) as usize;
        if matches!(mode, Gather::Broadcast | Gather::QuadBroadcast) {
            let differs = |lane: &usize| index_of(*lane) != index_of(first);
            if let Some(lane) = lanes(self.mask).find(differs) {
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::NotUniform, who, None, || {
                    let [own, other] = [lane, first].map(index_of);
                    (String::new(), 0, format!("lane {own}, where lane {first} has {other}"))
                });
            }
        }
        for lane in lanes(self.mask) {
            let source = match mode {
                Gather::First => first,
                Gather::Broadcast | Gather::Shuffle => index_of(lane),
                Gather::Down => lane.saturating_add(index_of(lane)),
                Gather::Up => lane.wrapping_sub(index_of(lane)),
                Gather::Xor => lane ^ index_of(lane),
                Gather::QuadBroadcast => (lane & !3).saturating_add(index_of(lane)),
                Gather::QuadSwap(bits) => lane ^ bits as usize,
            };
            let is_active = source < 128 && self.mask >> source & 1 != 0;
            if !is_active {
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::InactiveLane, who, None, || {
                    let width = self.rows.width;
                    let words = match source < width {
                        true => format!("lane {source} isn't active"),
                        false => format!("lane {} of {width}", source as isize),
                    };
                    (String::new(), 0, words)
                });
            }
            for row in 0..n {
                let word = if is_active { self.rows.get(from + row, source) } else { 0 };
                self.rows.set(to + row, lane, word);
            }
        }
    }

    pub(super) fn collective(
        &self,
        op: SubgroupOperation,
        scan: CollectiveOperation,
        scalar: Scalar,
        to: u32,
        from: u32,
        n: u32,
    ) {
        if scalar == Scalar::Bool {
            for c in 0..n {
                let of = |lane: usize| self.rows.get(from + c, lane) != 0;
                let value = match op {
                    SubgroupOperation::All | SubgroupOperation::And => lanes(self.mask).all(of),
                    SubgroupOperation::Xor => {
                        lanes(self.mask).filter(|lane| of(*lane)).count() % 2 == 1
                    }
                    _ => lanes(self.mask).any(of),
                };
                self.rows.fill(to + c, u32::from(value));
            }
            return;
        }
        let of = (&self.rows, self.mask, op, scan, [to, from, n]);
        let _ = with_type!(numbers, scalar, numbers(of))
            .or_else(|| with_type!(integers, scalar, integers(of)));
    }
}

type Operands<'a> = (&'a Rows, super::Mask, SubgroupOperation, CollectiveOperation, [u32; 3]);

fn numbers<T: Num>(of: Operands<'_>) -> Option<()> {
    match of.2 {
        SubgroupOperation::Add => over_lanes(of, T::ZERO, T::add),
        SubgroupOperation::Mul => over_lanes(of, T::ONE, T::mul),
        SubgroupOperation::Min => over_lanes(of, T::ZERO, T::least),
        SubgroupOperation::Max => over_lanes(of, T::ZERO, T::greatest),
        _ => return None,
    }
    Some(())
}

fn integers<T: Int>(of: Operands<'_>) -> Option<()> {
    match of.2 {
        SubgroupOperation::And => over_lanes(of, T::ZERO.not(), T::and),
        SubgroupOperation::Or => over_lanes(of, T::ZERO, T::or),
        SubgroupOperation::Xor => over_lanes(of, T::ZERO, T::xor),
        _ => return None,
    }
    Some(())
}

/// From the first active lane to the last; only sums and products are scanned, for which `neutral` counts.
fn over_lanes<T: Lane>(
    (rows, mask, _, scan, [to, from, n]): Operands<'_>,
    neutral: T,
    f: impl Fn(T, T) -> T,
) {
    for c in 0..n {
        let at = c * T::WORDS as u32;
        let mut sum: Option<T> = None;
        for lane in lanes(mask) {
            let value = rows.value(from + at, lane);
            let before = sum.unwrap_or(neutral);
            let after = sum.map_or(value, |sum| f(sum, value));
            sum = Some(after);
            match scan {
                CollectiveOperation::ExclusiveScan => rows.put(to + at, lane, before),
                _ => rows.put(to + at, lane, after),
            }
        }
        if let (CollectiveOperation::Reduce, Some(sum)) = (scan, sum) {
            lanes(mask).for_each(|lane| rows.put(to + at, lane, sum));
        }
    }
}
