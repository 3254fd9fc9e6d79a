//! Dropout on the weights (Srivastava et al. 2014), after the softmax: its numbers, and which cells it drops.
//!
//! A cell's bits are a hash of the seed and the cell's place, so that every kernel drops the same cells, whichever order it
//! visits them in, and the backward pass finds them again. `shaders/score/dropout.wgsl` is the same in WGSL.

/// Which weights dropout sets to 0: a function of the seed and the cell, the same in every kernel and on the CPU.
///
/// ```
/// use wgpu_attention::reference::Dropout;
/// let dropout = Dropout::new(0.25, 42);
/// let factor = dropout.factor([0, 3, 17, 5]);
/// assert!(factor == 0.0 || factor == 1.0 / 0.75);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    p: f32,
    seed: [u32; 2],
}

impl Dropout {
    /// Dropout of a share `p` of the weights, as [`Problem::dropout`](crate::Problem::dropout) and
    /// [`AuxData::dropout_seed`](crate::AuxData::dropout_seed) have it.
    pub const fn new(p: f32, seed: u64) -> Self {
        Self { p, seed: [seed as u32, (seed >> 32) as u32] }
    }

    /// What the weight of the cell `[b, h, q_idx, kv_idx]` is multiplied with: 0, or 1 / (1 - p). Positions are those of the
    /// sequence itself.
    pub fn factor(&self, cell: [usize; 4]) -> f64 {
        if bits(self.seed, cell.map(|at| at as u32)) < threshold(self.p) {
            return 0.0;
        }
        1.0 / (1.0 - f64::from(self.p))
    }
}

/// Cells whose bits are below this are dropped: p in units of 2^-32.
pub(crate) fn threshold(p: f32) -> u32 {
    // At most 2^32 - 2^8, since p is below 1.
    (f64::from(p) * f64::from(1u32 << 31) * 2.0) as u32
}

/// What the other weights are multiplied with.
pub(crate) fn scale(p: f32) -> f32 {
    (1.0 / (1.0 - f64::from(p))) as f32
}

/// A cell's 32 bits: a state of two words takes in the row's numbers one after the other, then two more rounds take in the key.
///
/// Two rounds with a word of the state each: rows whose states share a word, of which there are some among 2^16, still have
/// nothing in common.
fn bits([low, high]: [u32; 2], [b, h, q_idx, kv_idx]: [u32; 4]) -> u32 {
    let first = mixed(low);
    let start = [first, mixed(high.wrapping_add(first))];
    let [x, y] = [b, h, q_idx].into_iter().fold(start, |[x, y], word| {
        let x = mixed(x ^ word);
        [x, mixed(y.wrapping_add(x))]
    });
    mixed(mixed(kv_idx ^ x).wrapping_add(y))
}

/// A permutation of 32 bits in which each bit of the result depends on every bit: lowbias32, with the constants of least bias
/// that are known (0.107; <https://github.com/skeeto/hash-prospector>).
const fn mixed(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    let x = (x ^ (x >> 15)).wrapping_mul(0xd35a_2d97);
    x ^ (x >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of independent signs, the mean of n products is 0 with a deviation of 1 / sqrt(n): five of these are rare among some
    /// hundred means.
    const DEVIATIONS: f64 = 5.0;

    /// 1 where a cell is kept, -1 where it is dropped, of half of them.
    fn sign(seed: u64, cell: [usize; 4]) -> f64 {
        if Dropout::new(0.5, seed).factor(cell) == 0.0 { -1.0 } else { 1.0 }
    }

    /// Some 260,000 cells, in each direction the first ones.
    fn cells() -> impl Iterator<Item = [usize; 4]> {
        (0..1 << 18).map(|at| [at & 3, at >> 2 & 15, at >> 6 & 63, at >> 12])
    }

    #[test]
    fn a_share_of_p_is_dropped_and_the_mean_stays() {
        let count = cells().count() as f64;
        for (seed, p) in (0..).zip([0.01, 0.1, 0.25, 0.5, 0.9, 0.999]) {
            let dropout = Dropout::new(p, seed);
            let kept = cells().filter(|&cell| dropout.factor(cell) != 0.0).count() as f64;
            let p = f64::from(p);
            let deviation = (p * (1.0 - p) / count).sqrt();
            assert!((kept / count - (1.0 - p)).abs() < DEVIATIONS * deviation, "{p}: {kept}");
            let mean = cells().map(|cell| dropout.factor(cell)).sum::<f64>() / count;
            assert!((mean - 1.0).abs() < DEVIATIONS * deviation / (1.0 - p), "{p}: {mean}");
        }
        assert!(cells().all(|cell| Dropout::new(0.0, 7).factor(cell) == 1.0));
        assert_eq!(threshold(1.0f32.next_down()), u32::MAX - 255);
    }

    #[test]
    fn neighbours_are_independent_along_every_axis_and_seed() {
        let count = cells().count() as f64;
        let check = |what: String, other: &dyn Fn([usize; 4]) -> f64| {
            let mean = cells().map(|cell| sign(1, cell) * other(cell)).sum::<f64>() / count;
            assert!(mean.abs() < DEVIATIONS / count.sqrt(), "{what}: {mean}");
        };
        for distance in [1, 2, 3, 4, 8, 16, 32, 64, 256, 1 << 10, 1 << 16, 1 << 20] {
            for axis in 0..4 {
                check(format!("axis {axis}, {distance}"), &|mut cell| {
                    cell[axis] += distance;
                    sign(1, cell)
                });
            }
            check(format!("seed {distance}"), &|cell| sign(1 + distance as u64, cell));
            check(format!("seed {distance} 2^32"), &|cell| {
                sign(1 + ((distance as u64) << 32), cell)
            });
        }
        // The same numbers in other places, and sums that stay the same.
        for swap in [[0, 1], [1, 2], [2, 3], [1, 3], [0, 3]] {
            let moved = |mut cell: [usize; 4]| {
                cell.swap(swap[0], swap[1]);
                cell
            };
            let differ = |cell: [usize; 4]| moved(cell) != cell;
            let mean = |cell| if differ(cell) { sign(1, moved(cell)) } else { 0.0 };
            check(format!("{swap:?} swapped"), &mean);
        }
        check("along the diagonal".to_owned(), &|[b, h, q_idx, kv_idx]| {
            sign(1, [b, h, q_idx + 1, kv_idx + 1])
        });
        check("the seed instead of the batch".to_owned(), &|[b, h, q_idx, kv_idx]| {
            sign(2, [b + 1, h, q_idx, kv_idx])
        });
    }

    #[test]
    fn every_row_and_column_drops_its_share() {
        // 64 rows of 4,096 keys, then 64 keys of 4,096 rows.
        for along_keys in [true, false] {
            for line in 0..64 {
                let cell = |at| if along_keys { [1, 2, line, at] } else { [1, 2, at, line] };
                let sum: f64 = (0..4096).map(|at| sign(3, cell(at))).sum();
                assert!(sum.abs() < DEVIATIONS * 64.0, "{line}: {sum}");
            }
        }
    }

    #[test]
    fn bytes_of_the_bits_are_even() {
        // Chi-squared with 255 degrees of freedom, whose deviation is 22.6.
        for shift in [0, 8, 16, 24] {
            let mut counts = [0.0; 256];
            for cell in cells() {
                let bits = bits([5, 6], cell.map(|at| at as u32));
                counts[(bits >> shift & 255) as usize] += 1.0;
            }
            let expected = cells().count() as f64 / 256.0;
            let chi2: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            assert!((chi2 - 255.0).abs() < DEVIATIONS * 22.6, "{shift}: {chi2}");
        }
    }
}
