//! What one step over the keys takes.
//!
//! A step is one turn of the innermost loop that has exponentials and most of the products. Counted is the way through it
//! that has all products, and of these the shortest: that of FULL tiles, which evaluate no mask. Loops inside of it are
//! counted as often as it takes to complete the step's products: half of them are q kᵀ, and half p v, which comes behind.

use std::collections::BTreeMap;

use serde::Serialize;

use super::graph::{Block, Loop, blocks, loops};
use super::lines::{Counts, Line};

/// One step over the keys, of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    pub(crate) instructions: u64,
    /// The multiplications of both products.
    pub(crate) products: u64,
    /// Reads of storage buffers, and their bytes.
    pub(crate) loads: u64,
    pub(crate) load_bytes: u64,
    /// Loops on the way whose turns aren't known. They are counted once.
    pub(crate) unknown_loops: u64,
}

/// What is known of a step before its code is read, of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// The multiplications of both products.
    pub(crate) products: u64,
    /// The turns of a loop inside of a loop, in q kᵀ and in p v.
    pub(crate) inner_turns: [u64; 2],
}

/// A block with fewer products than this has none of q kᵀ and p v.
const LEAST_PRODUCTS: u64 = 8;

/// The kernel's step, if it has one.
pub(super) fn step(lines: &[Line], known: Option<Known>) -> Option<Step> {
    let blocks = blocks(lines);
    let loops = loops(&blocks);
    let all: Vec<Counts> = loops.iter().map(|one| total(&blocks, one)).collect();
    let most = all.iter().map(Counts::all_products).max()?;
    let has_step =
        |counts: &Counts| counts.exponentials > 0 && 2 * counts.all_products() > most.max(1);
    let at = all.iter().rposition(has_step)?;
    let way = Ways { blocks: &blocks, loops: &loops }.through(at, known);
    let Way { key, counts, unknown_loops } = way;
    let products = match known {
        Some(known) => known.products,
        None if counts.matrix_products > 0 => counts.matrix_products,
        None => tile(counts)?.products(),
    };
    let Counts { instructions, loads, load_bytes, .. } = counts;
    (key > 0).then_some(Step { instructions, products, loads, load_bytes, unknown_loops })
}

/// The rows, keys and components that an invocation has in a step without loops inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    rows: u64,
    keys: u64,
    components: u64,
}

impl Tile {
    const fn products(self) -> u64 {
        2 * self.rows * self.keys * self.components
    }
}

/// The tile that a step has by its multiplications: besides the products' there are one for each component of o, which is
/// rescaled, one for each exponential's base, and one for each row's sum; and an exponential for each score and each row.
fn tile(counts: Counts) -> Option<Tile> {
    let powers = || (0..8).map(|n| 1 << n);
    let tiles = powers().flat_map(|rows| {
        powers()
            .flat_map(move |keys| powers().map(move |components| Tile { rows, keys, components }))
    });
    let mut fits = tiles.filter(|tile| {
        let Tile { rows, keys, components } = *tile;
        rows * (keys + 1) == counts.exponentials
            && tile.products() + rows * (components + keys + 2) == counts.products
    });
    fits.next()
}

fn total(blocks: &[Block], one: &Loop) -> Counts {
    one.blocks.iter().fold(Counts::default(), |mut sum, &at| {
        sum += blocks[at].counts;
        sum
    })
}

/// What was counted on a way, and the products in blocks that have many.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    key: u64,
    counts: Counts,
    unknown_loops: u64,
}

impl Way {
    fn of(block: &Block) -> Self {
        let counts = block.counts;
        let products = counts.all_products();
        let key = if products < LEAST_PRODUCTS { 0 } else { products };
        Self { key, counts, unknown_loops: 0 }
    }

    fn then(mut self, next: Self) -> Self {
        self.key += next.key;
        self.counts += next.counts;
        self.unknown_loops += next.unknown_loops;
        self
    }

    fn times(self, turns: u64) -> Self {
        Self { key: self.key * turns, counts: self.counts * turns, ..self }
    }

    fn is_better_than(&self, other: &Self) -> bool {
        self.key > other.key
            || (self.key == other.key && self.counts.instructions < other.counts.instructions)
    }
}

struct Ways<'a> {
    blocks: &'a [Block],
    loops: &'a [Loop],
}

impl Ways<'_> {
    /// The way through one turn of the step's loop.
    fn through(&self, at: usize, known: Option<Known>) -> Way {
        let mut children = self.children(at);
        children.sort_by_key(|&child| self.loops[child].head);
        let alone = |child: usize| self.inner(child, known.map(|known| known.inner_turns[1])).key;
        // The first with products has those of q kᵀ.
        let first = children.iter().copied().find(|&child| alone(child) > 0);
        let mut ways = BTreeMap::new();
        for child in children {
            let product = usize::from(Some(child) != first);
            ways.insert(child, self.inner(child, known.map(|known| known.inner_turns[product])));
        }
        let in_loops: u64 = ways.values().map(|way| way.key).sum();
        let of_first = first.map_or(0, |first| ways[&first].key);
        let loops = ways.values().filter(|way| way.key > 0).count();
        let straight = self.shortest(at, &ways).key.saturating_sub(in_loops);
        for (child, way) in &mut ways {
            // Products, and how many of them the loops that share them have in a turn.
            let shared = known.map(|Known { products, .. }| match loops {
                1 if straight < products / 4 => (products, in_loops),
                _ if straight >= products / 4 => (products / 2, in_loops),
                _ if first == Some(*child) => (products / 2, of_first),
                _ => (products / 2, in_loops - of_first),
            });
            match shared {
                Some((products, per_turn)) if way.key > 0 => {
                    *way = way.times(products.div_ceil(per_turn));
                }
                _ => way.unknown_loops += 1,
            }
        }
        self.shortest(at, &ways)
    }

    /// The way through one turn of a loop inside, where loops with products take `turns`.
    fn inner(&self, at: usize, turns: Option<u64>) -> Way {
        let children = self.children(at).into_iter();
        let ways = children.map(|child| {
            let mut way = self.inner(child, turns);
            match turns {
                Some(turns) if way.key > 0 => way = way.times(turns),
                _ => way.unknown_loops += 1,
            }
            (child, way)
        });
        self.shortest(at, &ways.collect())
    }

    /// The loops inside of one, but for those inside of these.
    fn children(&self, at: usize) -> Vec<usize> {
        let is_in = |inner: usize, outer: usize| {
            inner != outer && self.loops[inner].blocks.is_subset(&self.loops[outer].blocks)
        };
        let inside: Vec<usize> = (0..self.loops.len()).filter(|&other| is_in(other, at)).collect();
        let is_child = |one: &usize| !inside.iter().any(|&other| is_in(*one, other));
        inside.iter().copied().filter(is_child).collect()
    }

    /// Of the ways through one turn the one with most products, and of these the shortest. Loops inside take what `inside`
    /// says.
    fn shortest(&self, at: usize, inside: &BTreeMap<usize, Way>) -> Way {
        let this = &self.loops[at];
        // A loop inside counts as one block, its first.
        let node_of = |block: usize| {
            let loops = inside.keys().find(|&&child| self.loops[child].blocks.contains(&block));
            loops.map_or(block, |&child| self.loops[child].head)
        };
        let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &block in &this.blocks {
            let node = node_of(block);
            let leaving = self.blocks[block].next.iter().copied().filter(|to| {
                *to == this.head || (this.blocks.contains(to) && node_of(*to) != node)
            });
            next.entry(node).or_default().extend(leaving);
        }
        let costs: BTreeMap<usize, Way> = next
            .keys()
            .map(|&node| {
                let child = inside.iter().find(|(child, _)| self.loops[**child].head == node);
                (node, child.map_or_else(|| Way::of(&self.blocks[node]), |(_, way)| *way))
            })
            .collect();
        let start = node_of(this.head);
        let mut best = BTreeMap::from([(start, costs[&start])]);
        let mut end: Option<Way> = None;
        for (node, next) in next {
            let Some(&way) = best.get(&node) else { continue };
            for to in next {
                if to == this.head {
                    if end.is_none_or(|end| way.is_better_than(&end)) {
                        end = Some(way);
                    }
                    continue;
                }
                let to = node_of(to);
                let longer = way.then(costs[&to]);
                if best.get(&to).is_none_or(|way| longer.is_better_than(way)) {
                    best.insert(to, longer);
                }
            }
        }
        end.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str, counts: Counts, to: &[&str], falls: bool) -> [Line; 3] {
        let to = to.iter().map(|name| (*name).to_owned()).collect();
        [Line::Label(label.to_owned()), Line::Instruction(counts), Line::Jump { to, falls }]
    }

    const fn counts(instructions: u64, products: u64) -> Counts {
        Counts { instructions, products, ..Counts::NONE }
    }

    /// 64 products: 32 in a loop of 8, 32 straight on.
    #[test]
    fn the_shortest_way_with_all_products_is_counted() {
        let exponentials = Counts { exponentials: 4, ..counts(4, 0) };
        let lines = [
            block("start", counts(9, 0), &[], true),
            block("step", counts(1, 0), &["skip"], true),
            block("product", counts(10, 8), &["product"], true),
            // What only PARTIAL tiles do, with a loop of its own.
            block("weights", exponentials, &["sum"], true),
            block("mask", counts(50, 2), &["mask"], true),
            block("sum", counts(40, 32), &[], true),
            block("skip", counts(2, 0), &["step"], true),
            block("end", counts(100, 90), &[], false),
        ]
        .concat();
        let known = Known { products: 64, inner_turns: [1, 1] };
        let step = step(&lines, Some(known)).unwrap();
        assert_eq!((step.instructions, step.products), (1 + 4 * 10 + 4 + 40 + 2, 64));
        assert_eq!(step.unknown_loops, 0, "the mask's loop isn't on the way");
    }

    #[test]
    fn tiles_follow_from_multiplications() {
        let (rows, keys, components) = (8, 2, 8);
        let products = 2 * rows * keys * components + rows * (components + keys + 2);
        let all = Counts { exponentials: rows * (keys + 1), ..counts(0, products) };
        assert_eq!(tile(all), Some(Tile { rows, keys, components }));
        assert_eq!(tile(counts(0, 7)), None);
    }

    #[test]
    fn code_without_a_loop_has_no_step() {
        assert_eq!(step(&block("start", counts(9, 9), &[], false), None), None);
    }
}
