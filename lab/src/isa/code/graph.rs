//! Blocks and loops of machine code.

use std::collections::{BTreeSet, HashMap};

use super::lines::{Counts, Line};

/// Instructions of which all are executed or none.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) counts: Counts,
    /// The blocks that it goes on with.
    pub(super) next: Vec<usize>,
}

/// Blocks that are executed again and again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) head: usize,
    pub(super) blocks: BTreeSet<usize>,
}

/// The blocks, in the order of the code.
pub(super) fn blocks(lines: &[Line]) -> Vec<Block> {
    let mut blocks = vec![Block::default()];
    let mut labels = HashMap::new();
    // Behind each block.
    let mut jumps: Vec<(&[String], bool)> = Vec::new();
    let mut is_empty = true;
    for line in lines {
        match line {
            Line::Label(name) => {
                if !is_empty {
                    jumps.push((&[], true));
                    blocks.push(Block::default());
                    is_empty = true;
                }
                labels.insert(name.as_str(), blocks.len() - 1);
            }
            Line::Instruction(counts) => {
                let last = blocks.len() - 1;
                blocks[last].counts += *counts;
                is_empty = false;
            }
            Line::Jump { to, falls } => {
                jumps.push((to, *falls));
                blocks.push(Block::default());
                is_empty = true;
            }
        }
    }
    for (at, (to, falls)) in jumps.into_iter().enumerate() {
        let places = to.iter().filter_map(|name| labels.get(name.as_str()).copied());
        blocks[at].next = places.chain(falls.then_some(at + 1)).collect();
    }
    blocks
}

/// Every loop, outer ones before those inside of them. The code is structured: a loop begins with its first block in the
/// order of the code, to which later ones jump back.
pub(super) fn loops(blocks: &[Block]) -> Vec<Loop> {
    let mut before = vec![Vec::new(); blocks.len()];
    for (at, block) in blocks.iter().enumerate() {
        for &next in &block.next {
            before[next].push(at);
        }
    }
    let mut loops: Vec<Loop> = Vec::new();
    for head in 0..blocks.len() {
        let mut found: BTreeSet<usize> =
            before[head].iter().copied().filter(|&at| at >= head).collect();
        if found.is_empty() {
            continue;
        }
        let mut todo: Vec<usize> = found.iter().copied().collect();
        found.insert(head);
        while let Some(at) = todo.pop() {
            if at == head {
                continue;
            }
            for &earlier in before[at].iter().filter(|&&earlier| earlier >= head) {
                if found.insert(earlier) {
                    todo.push(earlier);
                }
            }
        }
        loops.push(Loop { head, blocks: found });
    }
    loops.sort_by_key(|one| std::cmp::Reverse(one.blocks.len()));
    loops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_found() {
        let label = |name: &str| Line::Label(name.to_owned());
        let jump = |to: &str, falls| Line::Jump { to: vec![to.to_owned()], falls };
        let one = || Line::Instruction(Counts::ONE);
        let lines = [
            one(),
            label("outer"),
            one(),
            jump("end", true),
            label("inner"),
            one(),
            one(),
            jump("inner", true),
            one(),
            jump("outer", false),
            label("end"),
            one(),
        ];
        let blocks = blocks(&lines);
        let next: Vec<_> = blocks.iter().map(|block| block.next.clone()).collect();
        assert_eq!(next, [vec![1], vec![4, 2], vec![2, 3], vec![1], vec![]]);
        assert_eq!(blocks[2].counts.instructions, 2);
        let found = loops(&blocks);
        assert_eq!(found[0], Loop { head: 1, blocks: [1, 2, 3].into() });
        assert_eq!(found[1], Loop { head: 2, blocks: [2].into() });
    }
}
