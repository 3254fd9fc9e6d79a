//! Whether the derivative that a user wrote for a score function is one: by differences, on the device that will run it.

use std::ops::Range;
use std::sync::Arc;

use crate::auxiliary::AuxData;
use crate::custom::CustomUse;
use crate::error::{Error, Result};
use crate::kernel::key::PointSlope;
use crate::plan::score_points::{ScorePoint, ScorePointsPlan};
use crate::problem::{Problem, Resolved};
use crate::session::Session;
use crate::tensor::sequences::Sequences;
use crate::tensor::shape::Shape;

/// Differences are taken over 2^-3 to 2^-10: of a score, 1 is what makes a weight e times as large.
const STEPS: Range<i32> = 3..11;
/// A cell's points: the score itself, then above and below it by each step.
const POINTS: usize = 1 + 2 * STEPS.end.abs_diff(STEPS.start) as usize;
/// What a function's value may be off by, in roundings of f32.
const ROUNDINGS: f64 = 8.0;
/// The most cells: their points are in memory.
const MOST_CELLS: usize = 1 << 20;
/// Slopes below this share of the largest one are as good as 0.
const SMALL: f64 = 1e-3;

/// How [`Session::check_score_mod_grad`] looks at a derivative.
///
/// ```
/// use wgpu_attention::wgsl::GradientCheck;
/// let wide = GradientCheck::default().scores(-50.0..50.0);
/// assert_eq!(wide.cells, 1024);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GradientCheck {
    /// The scores to take slopes at, before the function; −8 to 8 unless said otherwise
    pub scores: Range<f32>,
    /// How many cells `(b, h, q_idx, kv_idx)` to look at, 1 to 1,048,576, each with a score and an upstream gradient of its own
    pub cells: usize,
    /// The relative error to allow, beyond what differences of f32 leave open; 0.01 unless said otherwise
    pub tolerance: f64,
}

impl GradientCheck {
    setters! {
        scores: Range<f32>,
        cells: usize,
        tolerance: f64,
    }
}

impl Default for GradientCheck {
    fn default() -> Self {
        Self { scores: -8.0..8.0, cells: 1024, tolerance: 0.01 }
    }
}

/// What [`Session::check_score_mod_grad`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GradientReport {
    /// How many cells were compared, for each derivative: all but those where the function isn't finite
    pub compared: usize,
    /// The cell with the largest error
    pub worst: GradientCell,
}

/// A cell of a [`GradientReport`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GradientCell {
    /// Batch index
    pub b: usize,
    /// Query head
    pub h: usize,
    /// The query's index in its sequence
    pub q_idx: usize,
    /// The key's
    pub kv_idx: usize,
    /// The score that the function got
    pub score: f32,
    /// The upstream gradient that the derivative got
    pub grad: f32,
    /// `grad` times the slope by differences
    pub expected: f64,
    /// What the derivative returned
    pub found: f32,
    /// The relative error, beyond what differences of f32 leave open
    pub error: f64,
}

impl Session {
    /// Compares a problem's `score_mod_grad` with differences of its `score_mod`, both on the device, at scores and cells
    /// drawn from the problem's shape (always the same ones). Of the problem, the shape, the function and its buffers count.
    /// Likewise for each buffer that has a gradient: its `NAME_grad`, with all elements moved at once, and its `NAME_index`, with
    /// each moved by a step of its own.
    ///
    /// Slopes are taken over eight steps, of which the one decides that its neighbours and the slopes on both sides agree with
    /// best; in a kink any slope between those of the two sides is right. Where the function isn't finite (a mask in disguise),
    /// nothing is compared.
    ///
    /// ```no_run
    /// use wgpu_attention::{Session, AuxData, Problem, Shape};
    /// use wgpu_attention::wgsl::{WgslFunction, GradientCheck};
    /// let attention = Session::open_blocking(&Default::default())?;
    /// let score_mod = WgslFunction::new("
    ///     fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return score * abs(score); }
    ///     fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    ///         return grad * 2.0 * abs(score);
    ///     }")?;
    /// let problem = Problem::new(Shape::new(1, 8, 128, 64)).score_mod(score_mod);
    /// let report =
    ///     attention.check_score_mod_grad_blocking(&problem, &AuxData::new(), &GradientCheck::default())?;
    /// assert!(report.worst.error < 0.01);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Operand`] that names the worst cell, what was expected there and what was found, where the error is above the
    /// tolerance; where the problem has no function, the function no derivative or the shape no cell; and as
    /// [`Session::gradients`].
    pub async fn check_score_mod_grad(
        &self,
        problem: &Problem,
        data: &AuxData,
        check: &GradientCheck,
    ) -> Result<GradientReport> {
        let Some(score_mod) = &problem.score_mod else {
            return Err(Error::operand("score_mod", "a function to check", "none"));
        };
        let shape = Shape { sequences: Sequences::default(), ..problem.shape };
        let problem = Resolved::new(Problem::new(shape).score_mod(score_mod.clone()))?;
        let cells = cells(&shape, check)?;
        let points: Vec<ScorePoint> = cells.iter().flat_map(points_of).collect();

        let plan = ScorePointsPlan::new(self.kernels(), &problem, PointSlope::Score, points.len())?;
        let values = self.score_points(&plan, &problem, data, &points).await?;
        let at: Vec<_> = points.iter().map(|point| f64::from(point.score)).collect();
        let mut report = judge("score_mod_grad", &cells, &at, &values, check.tolerance)?;
        let at: Vec<_> = cells.iter().flat_map(|_| offsets().map(f64::from)).collect();
        for (number, (_, buffer)) in score_mod.learned().enumerate() {
            let [gradient, index] = [CustomUse::ElementGradient, CustomUse::ElementIndex]
                .map(|usage| usage(Arc::clone(&buffer.name)).function());
            for (slope, function) in
                [(PointSlope::Buffer(number), gradient), (PointSlope::Element(number), index)]
            {
                let plan = ScorePointsPlan::new(self.kernels(), &problem, slope, cells.len())?;
                let mut values = vec![0.0; 2 * at.len()];
                for (point, offset) in offsets().enumerate() {
                    let moved = data.custom_words(buffer)?.iter().enumerate().map(|(i, &word)| {
                        let own = match slope {
                            PointSlope::Element(_) => weight(i),
                            _ => 1.0,
                        };
                        f32::from_bits(word) + offset * own
                    });
                    let moved = data.clone().custom_f32(&buffer.name, moved);
                    let found = self.score_points(&plan, &problem, &moved, &cells).await?;
                    for (cell, pair) in found.chunks(2).enumerate() {
                        values[2 * (cell * POINTS + point)..][..2].copy_from_slice(pair);
                    }
                }
                let own = judge(&function, &cells, &at, &values, check.tolerance)?;
                report.compared += own.compared;
                if own.worst.error > report.worst.error {
                    report.worst = own.worst;
                }
            }
        }
        Ok(report)
    }

    /// What a plan's function and derivative return at each of `points`.
    async fn score_points(
        &self,
        plan: &ScorePointsPlan,
        problem: &Problem,
        data: &AuxData,
        points: &[ScorePoint],
    ) -> Result<Vec<f32>> {
        let uploads = self.upload_aux(problem, data)?;
        let uploaded = self.filled("points", bytemuck::cast_slice(points))?;
        let output = self.allocate("values", points.len() * 2)?;
        self.submit(1, |encoder, _| {
            plan.encode(encoder, &uploads.buffers(), uploaded.slice(..), output.slice(..))
        })?;
        self.read(&output, points.len() * 2).await
    }

    /// [`Session::check_score_mod_grad`], waiting for it. Errors likewise.
    #[cfg(not(target_family = "wasm"))]
    pub fn check_score_mod_grad_blocking(
        &self,
        problem: &Problem,
        data: &AuxData,
        check: &GradientCheck,
    ) -> Result<GradientReport> {
        pollster::block_on(self.check_score_mod_grad(problem, data, check))
    }
}

/// Cells spread over the shape, with their scores and upstream gradients of 0.5 to 2 of either sign.
fn cells(shape: &Shape, check: &GradientCheck) -> Result<Vec<ScorePoint>> {
    let Range { start, end } = check.scores;
    if !(start.is_finite() && end.is_finite() && start <= end) {
        return Err(Error::operand(
            "scores",
            "a range of finite numbers",
            format!("{start}..{end}"),
        ));
    }
    if !(check.tolerance.is_finite() && check.tolerance >= 0.0) {
        return Err(Error::operand("tolerance", "a finite number from 0 on", check.tolerance));
    }
    let sizes = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv];
    if !(1..=MOST_CELLS).contains(&check.cells) || sizes.contains(&0) {
        let found = format!("{} cells of [batch, heads, seq_q, seq_kv] = {sizes:?}", check.cells);
        return Err(Error::operand("cells", format!("1 to {MOST_CELLS} to look at"), found));
    }
    // splitmix64 (Steele, Lea and Flood 2014)
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let cell = |_| {
        let [b, h, q_idx, kv_idx] = sizes.map(|size| (next() % size as u64) as u32);
        let mut unit = || (next() >> 40) as f32 / (1u32 << 24) as f32;
        let score = start + (end - start) * unit();
        let grad = if unit() < 0.5 { -1.0 } else { 1.0 } * (0.5 + 1.5 * unit());
        ScorePoint { b, h, q_idx, kv_idx, score, grad }
    };
    Ok((0..check.cells).map(cell).collect())
}

/// How far a cell's points are from the first.
fn offsets() -> impl Iterator<Item = f32> {
    let around = STEPS.map(|step| (-step as f32).exp2()).flat_map(|step| [step, -step]);
    std::iter::once(0.0).chain(around)
}

/// A cell's points.
fn points_of(cell: &ScorePoint) -> impl Iterator<Item = ScorePoint> + use<> {
    let cell = *cell;
    offsets().map(move |offset| ScorePoint { score: cell.score + offset, ..cell })
}

/// What tells an element's share in a score from another's: exact in f32, as in `kernel::source`.
const fn weight(element: usize) -> f32 {
    (((element as u32).wrapping_mul(0x9e37_79b1) >> 24) + 1) as f32 / 256.0
}

/// A slope by differences, and how far off it may be.
#[derive(Debug, Clone, Copy)]
struct Slope {
    slope: f64,
    doubt: f64,
}

/// The slope of `values` at the first of `places`, where the function is finite.
fn slope(places: &[f64], values: &[f64]) -> Option<Slope> {
    let at = |i: usize| places[i];
    let largest = values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let between = |i: usize, j: usize| (values[i] - values[j]) / (at(i) - at(j));
    let slopes: Vec<f64> = (1..places.len()).step_by(2).map(|i| between(i, i + 1)).collect();
    let candidates = slopes.iter().enumerate().map(|(step, &slope)| {
        let (above, below) = (1 + 2 * step, 2 + 2 * step);
        let sides = (between(above, 0) - between(0, below)).abs() / 2.0;
        let neighbour = slopes[if step + 1 < slopes.len() { step + 1 } else { step - 1 }];
        let rounding = ROUNDINGS * f64::from(f32::EPSILON) * largest / (at(above) - at(below));
        Slope { slope, doubt: sides + (slope - neighbour).abs() + rounding }
    });
    let finite = candidates.filter(|slope| slope.slope.is_finite() && slope.doubt.is_finite());
    finite.min_by(|a, b| a.doubt.total_cmp(&b.doubt))
}

/// Compares the derivative of every cell with the slope of the function: `values` has both, at `places` around the cell's own.
fn judge(
    derivative: &str,
    cells: &[ScorePoint],
    places: &[f64],
    values: &[f32],
    tolerance: f64,
) -> Result<GradientReport> {
    let around = places.chunks(POINTS).zip(values.chunks(2 * POINTS));
    let cells: Vec<(ScorePoint, f32, Slope)> = (cells.iter().zip(around))
        .filter_map(|(&cell, (places, values))| {
            let function: Vec<f64> = values.iter().step_by(2).map(|&x| f64::from(x)).collect();
            slope(places, &function).map(|slope| (cell, values[1], slope))
        })
        .collect();
    let steepest = cells.iter().fold(0.0, |most: f64, (_, _, slope)| most.max(slope.slope.abs()));
    let compared = cells.iter().map(|&(cell, found, Slope { slope, doubt })| {
        let ScorePoint { b, h, q_idx, kv_idx, score, grad } = cell;
        let own = f64::from(found) / f64::from(grad);
        let scale = slope.abs().max(own.abs()).max(SMALL * steepest);
        let beyond = ((own - slope).abs() - doubt).max(0.0);
        let error = match beyond / scale {
            // Both are 0.
            _ if scale == 0.0 => 0.0,
            error if own.is_finite() => error,
            _ => f64::INFINITY,
        };
        let [b, h, q_idx, kv_idx] = [b, h, q_idx, kv_idx].map(|index| index as usize);
        let expected = f64::from(grad) * slope;
        GradientCell { b, h, q_idx, kv_idx, score, grad, expected, found, error }
    });
    let worst = compared.max_by(|a, b| a.error.total_cmp(&b.error));
    let Some(worst) = worst else {
        return Err(Error::operand(
            "score_mod",
            "a finite number at some of the scores",
            "none in any cell",
        ));
    };
    if worst.error > tolerance {
        let GradientCell { b, h, q_idx, kv_idx, score, grad, expected, found, error } = worst;
        return Err(Error::operand(
            derivative,
            format!(
                "{expected:.6e} in cell ({b}, {h}, {q_idx}, {kv_idx}) for score {score} and grad {grad}, by differences of \
                 `score_mod`"
            ),
            format!("{found:.6e}, a relative error of {error:.1e}; allowed are {tolerance:.1e}"),
        ));
    }
    Ok(GradientReport { compared: cells.len(), worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges `gradient` as the derivative of `function`, both in f32 as a device would.
    fn judged(
        function: impl Fn(f32) -> f32,
        gradient: impl Fn(f32, f32) -> f32,
        scores: Range<f32>,
    ) -> Result<GradientReport> {
        let check = GradientCheck { scores, ..GradientCheck::default() };
        let cells = cells(&Shape::new(2, 3, 5, 1).seq_len_kv(7), &check).unwrap();
        let points: Vec<_> = cells.iter().flat_map(points_of).collect();
        let values = points.iter().flat_map(|x| [function(x.score), gradient(x.grad, x.score)]);
        let places: Vec<_> = points.iter().map(|x| f64::from(x.score)).collect();
        let values: Vec<_> = values.collect();
        judge("score_mod_grad", &cells, &places, &values, check.tolerance)
    }

    #[test]
    fn right_derivatives_pass() {
        let kinked = |x: f32| x.abs().min(3.0);
        for scores in [-8.0..8.0, -0.01..0.01, 100.0..1000.0] {
            judged(|x| x, |grad, _| grad, scores.clone()).unwrap();
            judged(|_| 7.0, |_, _| 0.0, scores.clone()).unwrap();
            judged(|x| x * x, |grad, x| grad * 2.0 * x, scores.clone()).unwrap();
            judged(|x| 1e-4 * x.sin(), |grad, x| grad * 1e-4 * x.cos(), scores.clone()).unwrap();
            judged(
                |x| 20.0 * (x / 20.0).tanh() - 500.0,
                |grad, x| grad * (1.0 - (x / 20.0).tanh().powi(2)),
                scores.clone(),
            )
            .unwrap();
            let slope = |grad: f32, x: f32| if x.abs() < 3.0 { grad * x.signum() } else { 0.0 };
            judged(kinked, slope, scores).unwrap();
        }
        let steep = |x: f32| (30.0 * x).tanh();
        judged(steep, |grad, x| grad * 30.0 * (1.0 - steep(x).powi(2)), -1.0..1.0).unwrap();
        // A mask in disguise: what is finite counts.
        let masked = |x: f32| if x < 0.0 { f32::NEG_INFINITY } else { 2.0 * x };
        let report = judged(masked, |grad, _| 2.0 * grad, -8.0..8.0).unwrap();
        assert!((400..600).contains(&report.compared), "{report:?}");
    }

    #[test]
    fn wrong_derivatives_are_caught() {
        let square = |x: f32| x * x;
        let mut caught = Vec::new();
        let gradients: [fn(f32, f32) -> f32; 7] = [
            |grad, x| grad * x,
            |grad, x| -grad * 2.0 * x,
            |_, x| 2.0 * x,
            |grad, x| grad * 2.0 * x.abs(),
            |grad, x| grad * 2.05 * x,
            |grad, x| if x > 7.9 { f32::NAN } else { grad * 2.0 * x },
            |_, _| 0.0,
        ];
        for gradient in gradients {
            let error = judged(square, gradient, -8.0..8.0).unwrap_err().to_string();
            assert!(
                error.contains("score_mod_grad: expected") && error.contains("cell ("),
                "{error}"
            );
            caught.push(error);
        }
        assert!(judged(|_| 7.0, |grad, _| 0.1 * grad, -8.0..8.0).is_err());
        assert!(judged(|_| f32::NAN, |_, _| 0.0, -8.0..8.0).is_err());
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let shape = Shape::new(1, 1, 2, 2);
        let check = GradientCheck::default;
        for (shape, check) in [
            (shape, GradientCheck { scores: 0.0..f32::NAN, ..check() }),
            (shape, GradientCheck { cells: 0, ..check() }),
            (shape, GradientCheck { tolerance: f64::NAN, ..check() }),
            (Shape::new(1, 1, 0, 2), check()),
        ] {
            assert!(cells(&shape, &check).is_err(), "{check:?}");
        }
    }
}
