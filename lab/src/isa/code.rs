//! A kernel's machine code: blocks, the ways between them, and what their instructions are.

use std::collections::BTreeMap;
use std::ops::{AddAssign, RangeInclusive};

/// What instructions do, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mix {
    /// Vector operations that multiply and add; a dual-issued instruction is two operations.
    pub(crate) multiply_adds: usize,
    /// Those of them that do more than one multiply-add per lane: packed, dot products, matrices.
    pub(crate) packed: usize,
    /// Those of them that are matrix products.
    pub(crate) matrix: usize,
    /// Operations that were issued in pairs.
    pub(crate) dual: usize,
    /// The other vector arithmetic.
    pub(crate) vector: usize,
    /// Vector comparisons, which are among the other arithmetic.
    pub(crate) comparisons: usize,
    /// Reads and writes of workgroup memory.
    pub(crate) lds: usize,
    /// How many bytes these move per lane.
    pub(crate) lds_bytes: usize,
    /// Reads and writes of buffers, by lanes.
    pub(crate) memory: usize,
    /// Waiting: for memory, barriers.
    pub(crate) waits: usize,
    /// Everything else: scalar arithmetic and loads, branches, hints to the scheduler.
    pub(crate) scalar: usize,
}

impl Mix {
    /// The share of multiply-adds in the vector arithmetic.
    pub(crate) fn share_of_arithmetic(&self) -> f64 {
        ratio(self.multiply_adds, self.multiply_adds + self.vector)
    }

    /// The share of multiply-adds in all vector instructions, those that move data included.
    pub(crate) fn share_of_vector(&self) -> f64 {
        ratio(self.multiply_adds, self.multiply_adds + self.vector + self.lds + self.memory)
    }

    fn count(&mut self, line: &str) {
        let halves: Vec<&str> = line.split("::").map(str::trim).collect();
        for half in &halves {
            let name = half.split_whitespace().next().unwrap_or_default();
            self.count_operation(name);
        }
        if halves.len() == 2 {
            self.dual += 2;
        }
    }

    fn count_operation(&mut self, name: &str) {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if starts(&["v_"]) {
            let matrix = starts(&["v_wmma", "v_swmmac", "v_mfma"]);
            let packed = matrix || starts(&["v_pk_fma", "v_pk_mad", "v_dot"]);
            let single = ["v_fma", "v_mac", "v_mad_f", "v_mad_mix", "v_dual_fma"];
            // v_fma…, v_fmac…, v_fma_mix…; v_mad_u32_u24 and the like compute addresses.
            if packed || starts(&single) {
                self.multiply_adds += 1;
                self.packed += usize::from(packed);
                self.matrix += usize::from(matrix);
            } else {
                self.vector += 1;
                self.comparisons += usize::from(starts(&["v_cmp"]));
            }
        } else if starts(&["ds_"]) {
            self.lds += 1;
            self.lds_bytes += bytes_per_lane(name);
        } else if starts(&["buffer_", "global_", "flat_", "image_", "scratch_"]) {
            self.memory += 1;
        } else if starts(&["s_waitcnt", "s_wait_", "s_barrier"]) && !name.ends_with("_alu") {
            self.waits += 1;
        } else {
            self.scalar += 1;
        }
    }
}

impl AddAssign for Mix {
    fn add_assign(&mut self, other: Self) {
        self.multiply_adds += other.multiply_adds;
        self.packed += other.packed;
        self.matrix += other.matrix;
        self.dual += other.dual;
        self.vector += other.vector;
        self.comparisons += other.comparisons;
        self.lds += other.lds;
        self.lds_bytes += other.lds_bytes;
        self.memory += other.memory;
        self.waits += other.waits;
        self.scalar += other.scalar;
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What an instruction on workgroup memory moves per lane: `ds_read_b128`, `ds_load_2addr_b64`, `ds_load_u16` …
fn bytes_per_lane(name: &str) -> usize {
    let pairs = if name.contains("2addr") || name.contains("read2") || name.contains("write2") {
        2
    } else {
        1
    };
    let bits = name
        .split('_')
        .filter_map(|word| word.strip_prefix(['b', 'u', 'i'])?.parse::<usize>().ok())
        .next_back()
        .unwrap_or(32);
    pairs * bits / 8
}

/// A run of instructions that is entered at its start alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The number in the compiler's label.
    label: usize,
    mix: Mix,
    instructions: usize,
    /// Indices of the blocks that may follow.
    next: Vec<usize>,
}

/// A kernel's blocks, in the order in which the compiler laid them out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Code {
    blocks: Vec<Block>,
}

/// The products' part of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Products {
    /// The mix of the blocks that compute them.
    pub(crate) mix: Mix,
    /// How many blocks these are.
    pub(crate) blocks: usize,
    /// Vector comparisons on the shortest way through a step, which passes all products: what FULL tiles take.
    pub(crate) fewest_comparisons: usize,
    /// The same on the way with most comparisons.
    pub(crate) most_comparisons: usize,
}

impl Code {
    /// Reads the compiler's listing: labels `BB7:`, and an instruction per line with its encoding behind a semicolon.
    pub(crate) fn parse(listing: &str) -> Self {
        let mut blocks: Vec<Block> = Vec::new();
        // Labels that each block branches to, and whether it goes on into the next one.
        let mut branches: Vec<(Vec<usize>, bool)> = Vec::new();
        for line in listing.lines() {
            if let Some(label) = line.strip_prefix("BB").and_then(|rest| rest.strip_suffix(':')) {
                let Ok(label) = label.parse() else { continue };
                let mix = Mix::default();
                blocks.push(Block { label, mix, instructions: 0, next: Vec::new() });
                branches.push((Vec::new(), true));
                continue;
            }
            let (Some(block), Some((targets, falls))) = (blocks.last_mut(), branches.last_mut())
            else {
                continue;
            };
            let Some(text) = line.strip_prefix('\t') else { continue };
            let text = text.split(';').next().unwrap_or_default().trim();
            let Some(name) = text.split_whitespace().next() else { continue };
            block.instructions += 1;
            block.mix.count(text);
            if name.starts_with("s_cbranch") || name == "s_branch" {
                let target =
                    text.split_whitespace().last().and_then(|word| word.strip_prefix("BB"));
                targets.extend(target.and_then(|label| label.parse::<usize>().ok()));
            }
            if name == "s_branch" || name == "s_endpgm" {
                *falls = false;
            }
        }
        let places: BTreeMap<usize, usize> =
            blocks.iter().enumerate().map(|(at, block)| (block.label, at)).collect();
        let count = blocks.len();
        for (at, (block, (targets, falls))) in blocks.iter_mut().zip(branches).enumerate() {
            // A label that wasn't printed belongs to an empty block: what follows is the next one that was.
            block.next = targets
                .iter()
                .filter_map(|target| places.range(target..).next().map(|(_, &at)| at))
                .chain((falls && at + 1 < count).then_some(at + 1))
                .collect();
        }
        Self { blocks }
    }

    /// The loops: from the block that a later one goes back to, to the last that does.
    fn loops(&self) -> Vec<RangeInclusive<usize>> {
        let mut ends = BTreeMap::new();
        for (at, block) in self.blocks.iter().enumerate() {
            for &next in block.next.iter().filter(|&&next| next <= at) {
                ends.insert(next, at);
            }
        }
        ends.into_iter().map(|(start, end)| start..=end).collect()
    }

    /// The products of queries with keys and of weights with values: in the loops, the blocks with most multiply-adds.
    /// The compiler unrolls the innermost loops, so each is one block. `None` where nothing is multiplied in a loop.
    pub(crate) fn products(&self) -> Option<Products> {
        let loops = self.loops();
        // Beside matrix products, single multiply-adds are the softmax's.
        let has_matrices = self.blocks.iter().any(|block| block.mix.matrix > 0);
        let multiply_adds = |at: usize| {
            let mix = &self.blocks[at].mix;
            if has_matrices { mix.matrix } else { mix.multiply_adds }
        };
        let looped = |at: &usize| loops.iter().any(|inside| inside.contains(at));
        let most = (0..self.blocks.len()).filter(looped).map(multiply_adds).max()?;
        if most == 0 {
            return None;
        }
        let products: Vec<usize> = (0..self.blocks.len())
            .filter(looped)
            .filter(|&at| 8 * multiply_adds(at) >= most)
            .collect();
        let mut mix = Mix::default();
        for &at in &products {
            mix += self.blocks[at].mix;
        }
        // The loop over the tiles has all of them in it, and is the smallest that does.
        let tiles = loops
            .iter()
            .filter(|inside| products.iter().all(|at| inside.contains(at)))
            .min_by_key(|inside| inside.end() - inside.start());
        let ways = |worse: fn(Cost, Cost) -> Cost| match tiles {
            Some(tiles) => self.step(tiles, &loops, &products, worse),
            None => 0,
        };
        Some(Products {
            mix,
            blocks: products.len(),
            fewest_comparisons: ways(|a, b| if a.instructions <= b.instructions { a } else { b }),
            most_comparisons: ways(|a, b| if a.comparisons >= b.comparisons { a } else { b }),
        })
    }

    /// Comparisons on one way around the loop `tiles` that passes every block of `products`; of two ways to a block
    /// `choose` takes one. Loops inside are passed once, and left at their ends.
    fn step(
        &self,
        tiles: &RangeInclusive<usize>,
        loops: &[RangeInclusive<usize>],
        products: &[usize],
        choose: fn(Cost, Cost) -> Cost,
    ) -> usize {
        let start = *tiles.start();
        // A way that has passed the first n products when it comes to a block.
        let mut ways: BTreeMap<(usize, usize), Cost> =
            BTreeMap::from([((start, 0), Cost::default())]);
        let mut around: Option<Cost> = None;
        for at in tiles.clone() {
            for passed in 0..=products.len() {
                let Some(&way) = ways.get(&(at, passed)) else { continue };
                let passed = passed + usize::from(products.get(passed) == Some(&at));
                let block = &self.blocks[at];
                let way = Cost {
                    instructions: way.instructions + block.instructions,
                    comparisons: way.comparisons + block.mix.comparisons,
                };
                for &next in &block.next {
                    if next == start {
                        if passed == products.len() {
                            around = Some(around.map_or(way, |other| choose(way, other)));
                        }
                        continue;
                    }
                    let targets = match loops.iter().find(|inside| *inside.start() == next) {
                        Some(inside) if next <= at => self.exits(inside),
                        _ => vec![next],
                    };
                    for next in targets.into_iter().filter(|next| tiles.contains(next)) {
                        ways.entry((next, passed))
                            .and_modify(|other| *other = choose(way, *other))
                            .or_insert(way);
                    }
                }
            }
        }
        around.unwrap_or_default().comparisons
    }

    /// The blocks behind a loop that it is left for.
    fn exits(&self, inside: &RangeInclusive<usize>) -> Vec<usize> {
        let mut exits: Vec<usize> = inside
            .clone()
            .flat_map(|at| self.blocks[at].next.iter().copied())
            .filter(|next| next > inside.end())
            .collect();
        exits.sort_unstable();
        exits.dedup();
        exits
    }
}

/// What a way through blocks costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cost {
    instructions: usize,
    comparisons: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ACO prints it for navi31, shortened: a loop over tiles with two products, of which the first is in a loop of
    /// its own, and a predicate that is jumped over.
    const LISTING: &str = "\
BB0:
\ts_load_b128 s[8:11], s[2:3], null                           ; f4080201 f8000000
\ts_cbranch_scc0 BB12                                         ; bfa10c77
BB2:
\ts_cmp_ge_u32 s6, s1                                         ; bf090106
\ts_cbranch_scc1 BB11                                         ; bfa10c77
BB3:
\ts_cmp_ge_u32 s7, s1                                         ; bf090106
\ts_cbranch_scc1 BB5                                          ; bfa10c77
BB4:
\tds_load_b128 v[0:3], v9 offset:16                           ; dbfc0010
\tds_load_2addr_b64 v[4:7], v9 offset1:1                      ; d9dc0100
\ts_waitcnt lgkmcnt(0)                                        ; bf89fc07
\tv_fmac_f32_e32 v10, v0, v4                                  ; 56141300
\tv_dual_fmac_f32 v11, v1, v5 :: v_dual_mov_b32 v12, v13      ; ca02
\tv_fma_f32 v14, v2, v6, v14                                  ; d613
\ts_branch BB3                                                ; bfa0
BB5:
\ts_cmp_lg_u32 s9, 1                                          ; bf09
\ts_cbranch_scc1 BB7                                          ; bfa1
BB6:
\tv_cmp_ge_i32_e32 vcc, v20, v21                              ; 7d
\tv_cndmask_b32_e32 v10, v22, v10, vcc                        ; 02
BB7:
\tv_exp_f32_e32 v10, v10                                      ; 7e
\tv_mad_u32_u24 v1, v2, v3, v4                                ; d6
\ts_barrier                                                   ; bfbd
\tv_pk_fma_f16 v1, v2, v3, v1                                 ; cc0e
\tv_fma_mix_f32 v1, v2, v3, v1                                ; cc20
\tbuffer_load_b128 v[0:3], v9, s[4:7], 0 offen                ; e05c
\ts_branch BB2                                                ; bfa0
BB11:
\tv_cmp_eq_f32_e32 vcc, 0, v0                                 ; 7c
BB12:
\ts_endpgm                                                    ; bfb0
";

    #[test]
    fn instructions_are_told_apart() {
        let mut mix = Mix::default();
        for block in Code::parse(LISTING).blocks {
            mix += block.mix;
        }
        assert_eq!(
            mix,
            Mix {
                multiply_adds: 5,
                packed: 1,
                matrix: 0,
                dual: 2,
                vector: 6,
                comparisons: 2,
                lds: 2,
                lds_bytes: 32,
                memory: 1,
                waits: 2,
                scalar: 11,
            }
        );
        let mut matrix = Mix::default();
        matrix.count("v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]");
        assert_eq!((matrix.multiply_adds, matrix.packed, matrix.matrix), (1, 1, 1));
    }

    #[test]
    fn products_are_found_with_the_ways_around_the_predicate() {
        let products = Code::parse(LISTING).products().unwrap();
        assert_eq!(products.blocks, 2);
        assert_eq!(products.mix.multiply_adds, 5);
        // v_mov, v_exp and the address.
        assert_eq!(products.mix.vector, 3);
        assert_eq!((products.fewest_comparisons, products.most_comparisons), (0, 1));
    }

    #[test]
    fn a_predicate_in_the_way_is_seen() {
        let always = LISTING.replace("\ts_cbranch_scc1 BB7 ", "\ts_nop 0 ");
        assert_eq!(Code::parse(&always).products().unwrap().fewest_comparisons, 1);
    }

    #[test]
    fn code_without_loops_has_no_products() {
        let text = "BB0:\n\tv_fma_f32 v0, v1, v2, v3 ; 00\n\ts_endpgm ; 00\n";
        assert_eq!(Code::parse(text).products(), None);
        assert_eq!(Code::parse("").products(), None);
    }
}
