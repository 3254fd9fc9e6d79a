//! Where numbers are at their ends: long sums of equal terms, scores of any size, sinks and values that aren't finite. In
//! every kernel, forward and backward; random values hide most of it.

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::{BackwardOptions, ScoreTensor};
use wgpu_attention::reference::{self, ReferenceGradients};
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    AuxData, Dtype, Gradients, Inputs, Mask, Output, Problem, RunOptions, ScoreModifiers, Session,
    Shape, Upstream,
};

use crate::backward;
use crate::fixture::{ATTENTION, is_brief, serving};
use crate::matrix::{WITH_MATRICES, has_matrices};
use crate::tolerance::LONG_SUM;

/// Operands that are functions of the place, and the data of mask and scores.
struct Case {
    problem: Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    data: AuxData,
}

impl Case {
    fn new(
        problem: Problem,
        data: AuxData,
        q: impl Fn(usize) -> f32,
        k: impl Fn(usize) -> f32,
        v: impl Fn(usize) -> f32,
    ) -> Self {
        let problem = problem.aux_shape(data.shape());
        let shape = *problem.shape();
        Self {
            q: (0..shape.q_len().unwrap()).map(q).collect(),
            k: (0..shape.k_len().unwrap()).map(k).collect(),
            v: (0..shape.v_len().unwrap()).map(v).collect(),
            problem,
            data,
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs::new(&self.q, &self.k, &self.v).aux(&self.data)
    }

    fn truth(&self) -> reference::Reference {
        reference::attention(&self.problem, &self.inputs()).unwrap()
    }

    /// The outputs of every kernel that serves, `matrix` where the adapter has them and the numbers are ones of f16.
    fn outputs(&self) -> Outputs {
        [self.outputs_in_f32(), self.outputs_by_matrices()].concat()
    }

    fn outputs_in_f32(&self) -> Outputs {
        let mut kernels = serving(&self.problem, false);
        if self.problem.shape().seq_len_q <= 16 {
            kernels.extend(serving(&self.problem, true));
        }
        let output = |kernel| self.output(&ATTENTION, &self.problem, kernel);
        kernels.into_iter().map(output).collect()
    }

    fn outputs_by_matrices(&self) -> Outputs {
        let tensors = [&self.q, &self.k, &self.v];
        let in_f16 = |x: &f32| Dtype::F16.round(*x).to_bits() == x.to_bits();
        if !has_matrices() || !tensors.iter().all(|tensor| tensor.iter().all(in_f16)) {
            return Vec::new();
        }
        let f16 = Dtypes::default().q(Dtype::F16).k(Dtype::F16).v(Dtype::F16);
        let problem = self.problem.clone().dtypes(f16);
        vec![self.output(&WITH_MATRICES, &problem, ForwardKernel::Matrix)]
    }

    fn output(
        &self,
        attention: &Session,
        problem: &Problem,
        kernel: ForwardKernel,
    ) -> (ForwardKernel, Output) {
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        (kernel, attention.run_blocking(problem, &self.inputs(), &outputs).unwrap())
    }

    fn tensor(&self, tensor: ScoreTensor) -> Vec<f32> {
        let outputs = RunOptions::default().tensors(vec![tensor]);
        let output = ATTENTION.run_blocking(&self.problem, &self.inputs(), &outputs).unwrap();
        output.tensors.into_iter().next().unwrap()
    }

    /// The gradients of every kernel that serves, and the reference's.
    fn gradients(
        &self,
        dout: impl Fn(usize) -> f32,
    ) -> (Vec<(BackwardKernel, Gradients)>, ReferenceGradients) {
        let dout: Vec<f32> = (0..self.problem.shape().o_len().unwrap()).map(dout).collect();
        let upstream = Upstream::new(&dout);
        let truth = reference::gradients(&self.problem, &self.inputs(), &upstream).unwrap();
        let run = |kernel| {
            let options = BackwardOptions::default().kernel(kernel);
            let found = ATTENTION
                .gradients_blocking(&self.problem, &self.inputs(), &upstream, &options)
                .unwrap();
            (kernel, found)
        };
        (backward::kernels(&self.problem).into_iter().map(run).collect(), truth)
    }
}

/// A problem's outputs, each by another kernel.
type Outputs = Vec<(ForwardKernel, Output)>;

/// So many terms in one running sum are off by 5 times as much as is allowed.
const MANY_IN_BRIEF: usize = 32_768;

fn assert_within(what: &str, found: &[f32], truth: &[f64], allowed: f64) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (at, (&x, &y)) in found.iter().zip(truth).enumerate() {
        let same = f64::from(x) == y || (x.is_nan() && y.is_nan());
        let off = (f64::from(x) - y).abs();
        assert!(same || off <= allowed, "{what}[{at}]: {x} instead of {y}, off by {off:.2e}");
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).fold(0.0, f64::max)
}

/// A running sum of f32 stalls once it is large; so long rows are summed in segments.
#[test]
fn long_rows_of_equal_values_keep_their_digits() {
    // One key of score 0 among others of score -1, and all alike.
    let (many, most) = if is_brief() { (MANY_IN_BRIEF, 131_072) } else { (131_072, 1_048_576) };
    for (keys, rows, score) in [(many, 17, -1.0), (many, 5, 0.0), (most, 2, 0.0), (most, 17, 0.0)] {
        let problem = Problem::new(Shape::new(1, 1, rows, 4).seq_len_kv(keys)).scale(1.0);
        let values = [0.1, 0.7, 1.0 / 3.0, 5.3].map(|x| Dtype::F16.round(x));
        let case = Case::new(
            problem,
            AuxData::new(),
            |at| if at % 4 == 0 { 1.0 } else { 0.0 },
            |at| if at % 4 == 0 && at != 0 { score } else { 0.0 },
            |at| values[at % 4],
        );
        let lse = (1.0 + (keys - 1) as f64 * f64::from(score).exp()).ln();
        for (kernel, output) in case.outputs() {
            for (at, &o) in output.o.iter().enumerate() {
                let truth = f64::from(values[at % 4]);
                let off = (f64::from(o) - truth).abs() / truth;
                assert!(off <= LONG_SUM, "{kernel}, {keys} keys: o[{at}] is {o}, off by {off:.2e}");
            }
            let what = format!("lse of {kernel}, {keys} keys of score {score}");
            assert_within(&what, &output.lse, &vec![lse; rows], 2e-5);
        }
    }
}

/// The same of sums over keys (dq) and over queries (dk, dv, dbias, dsinks).
#[test]
fn long_sums_of_equal_gradients_keep_their_digits() {
    let n = if is_brief() { MANY_IN_BRIEF } else { 131_072 };
    // Rows of weights that are all alike; the keys of one half have gradients of the same sign, the others none.
    let keys = Case::new(
        Problem::new(Shape::new(1, 1, 3, 4).seq_len_kv(n)),
        AuxData::new(),
        |_| 0.0,
        |at| if at / 4 % 2 == 0 { 0.3 } else { 0.0 },
        |at| if at / 4 % 2 == 0 { 0.7 } else { 0.1 },
    );
    // Few keys, many queries, bias and sinks that all of them share.
    let score = ScoreModifiers::default().bias(true).sinks(true);
    let data = AuxData::new().bias([1, 1, 1, 5], [0.1, 0.2, 0.3, 0.4, 0.5]).sinks([0.3]);
    let queries = |score: ScoreModifiers, data: AuxData| {
        Case::new(
            Problem::new(Shape::new(1, 1, n, 4).seq_len_kv(5)).score(score),
            data,
            |_| 0.1,
            |at| 0.1 * (at / 4) as f32,
            |at| 0.1 + 0.2 * (at / 4) as f32,
        )
    };
    for case in [keys, queries(ScoreModifiers::default(), AuxData::new()), queries(score, data)] {
        let (found, truth) = case.gradients(|_| 0.1);
        for (kernel, found) in found {
            for (name, found, truth) in [
                ("dq", &found.dq, &truth.dq),
                ("dk", &found.dk, &truth.dk),
                ("dv", &found.dv, &truth.dv),
                ("dbias", &found.dbias, &truth.dbias),
                ("dsinks", &found.dsinks, &truth.dsinks),
            ] {
                let what = format!("{name} of {kernel}, {:?}", case.problem.shape());
                assert_within(&what, found, truth, LONG_SUM * largest(truth).max(1e-3));
            }
        }
    }
}

/// A sink of −∞, or of the lowest number, is none; with rows that keep nothing besides.
#[test]
fn sinks_of_minus_infinity_are_none() {
    let shape = Shape::new(1, 2, 4, 16).seq_len_kv(50);
    let score = ScoreModifiers::default().sinks(true);
    let keep = (0..4 * 50).map(|at| at / 50 != 2 && at % 3 != 0);
    for sinks in [[0.3, f32::NEG_INFINITY], [f32::NEG_INFINITY; 2], [f32::MIN, 0.5]] {
        let data = AuxData::new().dense([1, 1, 4, 50], keep.clone()).sinks(sinks);
        let case = Case::new(
            Problem::new(shape).mask(Mask::Dense).score(score),
            data,
            |at| (at % 7) as f32 * 0.25,
            |at| (at % 5) as f32 * 0.25,
            |at| (at % 11) as f32 * 0.25,
        );
        let truth = case.truth();
        for (kernel, output) in case.outputs() {
            let what = format!("{kernel}, sinks {sinks:?}");
            assert_within(&format!("o of {what}"), &output.o, &truth.o, 5e-3);
            let lse: Vec<f64> = truth.lse.iter().map(|&x| f64::from(x as f32)).collect();
            assert_within(&format!("lse of {what}"), &output.lse, &lse, 5e-3);
        }
        assert_within("weights", &case.tensor(ScoreTensor::Weights), &truth.weights, 1e-5);
        let (found, truth) = case.gradients(|at| (at % 3) as f32);
        for (kernel, found) in found {
            assert_within(&format!("dq of {kernel}"), &found.dq, &truth.dq, 1e-4);
            assert_within(&format!("dv of {kernel}"), &found.dv, &truth.dv, 1e-4);
            assert_within(&format!("dsinks of {kernel}"), &found.dsinks, &truth.dsinks, 1e-4);
        }
    }
}

/// Masks, and numbers that other libraries fill them with, up to the lowest, as row 3 of a bias.
fn rows_of_low_numbers(masks: &[&str]) -> Vec<(String, Case)> {
    let case = |mask: &str, fill: f32| {
        let bias = (0..12 * 40).map(|at| if at / 40 == 3 { fill } else { 0.0 });
        let score = ScoreModifiers::default().bias(true);
        let problem = Problem::new(Shape::new(1, 1, 12, 8).seq_len_kv(40)).score(score);
        let case = Case::new(
            problem.mask(mask.parse().unwrap()),
            AuxData::new().bias([1, 1, 12, 40], bias),
            |at| (at % 7) as f32 * 0.25,
            |at| (at % 5) as f32 * 0.25,
            |at| (at % 11) as f32 * 0.25,
        );
        (format!("{mask}, {fill}"), case)
    };
    masks.iter().flat_map(|mask| [f32::MIN, -1e9, -1e30].map(|fill| case(mask, fill))).collect()
}

const OF_LOW_NUMBERS: [&str; 3] = ["causal", "all", "!window(3,0)"];

/// Whether a cell is kept never depends on its score.
#[test]
fn kept_scores_of_the_lowest_number_are_kept() {
    kept_scores(&OF_LOW_NUMBERS, Case::outputs_in_f32);
}

#[test]
fn kept_scores_of_the_lowest_number_are_kept_by_matrices() {
    kept_scores(&OF_LOW_NUMBERS, Case::outputs_by_matrices);
}

fn kept_scores(masks: &[&str], outputs: fn(&Case) -> Outputs) {
    for (what, case) in rows_of_low_numbers(masks) {
        let truth = case.truth();
        // In f32 the row's scores are all alike, in f64 they may not be.
        let kept = |at: usize| truth.masked_scores[3 * 40 + at] != f64::NEG_INFINITY;
        let keys: Vec<usize> = (0..40).filter(|&at| kept(at)).collect();
        let mean = |values: &[f32], d: usize| {
            let sum: f64 = keys.iter().map(|key| f64::from(values[key * 8 + d])).sum();
            sum / keys.len() as f64
        };
        for (kernel, output) in outputs(&case) {
            for d in 0..8 {
                let (found, wanted) = (f64::from(output.o[3 * 8 + d]), mean(&case.v, d));
                let off = (found - wanted).abs();
                assert!(off < 1e-3, "{kernel}, {what}: {found} instead of {wanted}");
            }
        }
    }
}

#[test]
fn gradients_of_kept_scores_of_the_lowest_number_are_finite() {
    // What a mask's text does to a bias's is nothing: in a brief run, one mask takes all kernels.
    let masks = if is_brief() { &OF_LOW_NUMBERS[..1] } else { &OF_LOW_NUMBERS };
    for (what, case) in rows_of_low_numbers(masks) {
        let truth = case.truth();
        for (kernel, found) in case.gradients(|_| 1.0).0 {
            let nan = |values: &[f32]| values.iter().any(|x| !x.is_finite());
            assert!(!nan(&found.dq) && !nan(&found.dk), "{kernel}, {what}");
            let dv: f64 = found.dv.iter().map(|&x| f64::from(x)).sum();
            // Every row's weights add up to 1, for each of 8 components; where it keeps a key.
            let rows = (0..12).filter(|row| truth.lse[*row] != f64::NEG_INFINITY).count();
            assert!((dv - 8.0 * rows as f64).abs() < 1e-3, "{kernel}, {what}: dv {dv}");
        }
    }
}

/// exp(s − lse) is wrong where lse is large, since lse is rounded.
#[test]
fn weights_add_up_to_one_for_scores_of_any_size() {
    for keys in [1, 40, 1000] {
        for fill in [f32::MIN, f32::MAX / 2.0, -1e9, -1e4, 1e20, 0.0] {
            let bias = (0..20 * keys).map(|at| if at / keys == 3 { fill } else { 0.0 });
            let case = Case::new(
                Problem::new(Shape::new(1, 1, 20, 8).seq_len_kv(keys))
                    .score(ScoreModifiers::default().bias(true)),
                AuxData::new().bias([1, 1, 20, keys], bias),
                // Real scores near -2.2e4 in some rows.
                |at| if at / 8 % 2 == 0 { -88.0 } else { 0.1 },
                |at| 88.0 + (at % 9) as f32 * 0.1,
                |_| 1.0,
            );
            for (row, weights) in case.tensor(ScoreTensor::Weights).chunks(keys).enumerate() {
                let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
                let allowed = 1e-6 * (keys as f64).sqrt();
                assert!((sum - 1.0).abs() <= allowed, "{keys} keys, {fill}, row {row}: {sum}");
            }
        }
    }
}

#[test]
fn kept_infinities_whose_weight_is_zero_in_f32_reach_the_output() {
    kept_infinities(Case::outputs_in_f32);
}

#[test]
fn kept_infinities_whose_weight_is_zero_in_f32_reach_the_output_by_matrices() {
    kept_infinities(Case::outputs_by_matrices);
}

/// An infinity that a row keeps is in its output, whatever its weight: in tiles of either kind.
fn kept_infinities(outputs: fn(&Case) -> Outputs) {
    // Sizes of whole tiles, so that `all` has FULL ones; decode in one split and in three.
    for (rows, keys) in [(64, 128), (4, 384)] {
        for mask in ["all", "causal", "!not_self"] {
            let shape = Shape::new(1, 1, rows, 16).seq_len_kv(keys);
            let low = keys - rows;
            let case = Case::new(
                Problem::new(shape).mask(mask.parse().unwrap()).scale(1.0),
                AuxData::new(),
                |_| 4.0,
                // The key's score is -1000 or so, others are 0 and more.
                |at| if at / 16 == low { -16.0 } else { (at % 3) as f32 * 0.125 },
                |at| match at {
                    _ if at == low * 16 + 3 => f32::INFINITY,
                    _ if at == low * 16 + 5 => f32::NEG_INFINITY,
                    _ if at == low * 16 + 7 => f32::NAN,
                    _ => 0.5,
                },
            );
            let truth = case.truth();
            assert!(truth.o[3] == f64::INFINITY && truth.o[7].is_nan(), "{mask}");
            for (kernel, output) in outputs(&case) {
                assert_within(&format!("{kernel}, {mask}, {rows}"), &output.o, &truth.o, 1e-3);
            }
        }
    }
}

/// Gradients that depend on what isn't finite aren't finite, and the others are as they were.
#[test]
fn gradients_of_kept_infinities_are_not_finite() {
    for mask in ["all", "causal"] {
        let case = Case::new(
            Problem::new(Shape::new(1, 1, 64, 16)).mask(mask.parse().unwrap()).scale(1.0),
            AuxData::new(),
            |_| 1.0,
            |at| if at / 16 == 5 { -16.0 } else { 0.0 },
            |_| 0.5,
        );
        // Row 7 hands an infinity back, to the component 3 of the keys that it keeps; key 5's weight there is 0.
        let (found, _) = case.gradients(|at| if at == 7 * 16 + 3 { f32::INFINITY } else { 1.0 });
        for (kernel, found) in found {
            for key in 0..64 {
                let kept = mask == "all" || key <= 7;
                for d in 0..16 {
                    let dv = found.dv[key * 16 + d];
                    let what = format!("{kernel}, {mask}, key {key}, component {d}: {dv}");
                    assert_eq!(dv.is_finite(), !(kept && d == 3), "{what}");
                }
            }
        }
    }
}
