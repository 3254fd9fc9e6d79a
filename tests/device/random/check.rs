//! A random problem on a device, against f64.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::reference::ReferenceGradients;
use wgpu_attention::{Error, Inputs, RunOptions, Session, Upstream, reference};

use super::draw::{Drawn, Modifiers};
use super::learned::Learned;
use crate::fixture::{ATTENTION, limited_with};
use crate::tolerance::error_of;

/// What became of a problem.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The kernels that computed it rightly.
    pub(crate) kernels: Vec<String>,
    /// What was refused, in words.
    pub(crate) refused: Vec<String>,
    /// The bytes that a binding needs for what was refused last, where that was it.
    needs: Option<u64>,
}

impl Outcome {
    /// The next larger binding to try: what was needed, or twice as much.
    pub(super) fn larger(&mut self, bytes: u64) -> u64 {
        let needed = self.needs.take().map(|needed| needed.next_multiple_of(4));
        needed.filter(|&needed| needed > bytes).unwrap_or(2 * bytes)
    }
}

/// The gradients in f64, and those of a score function's buffers, each with what it may be off by.
struct Truth {
    o: Vec<f64>,
    lse: Vec<f64>,
    gradients: ReferenceGradients,
    custom: BTreeMap<String, Vec<(f64, f64)>>,
}

/// The problem's results in f64: a score function by a bias that has what it adds, and by queries times its factor.
fn truth(drawn: &Drawn, error: f64) -> Truth {
    let (operands, upstream) = (&drawn.operands, drawn.upstream.of_o_and_lse());
    let Some(learned) = &drawn.learned else {
        let forward = reference::attention(&drawn.plain, &operands.inputs()).unwrap();
        let gradients = reference::gradients(&drawn.plain, &operands.inputs(), &upstream).unwrap();
        return Truth { o: forward.o, lse: forward.lse, gradients, custom: BTreeMap::new() };
    };
    let shape = *drawn.plain.shape();
    let dims = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv];
    let (score, data) = (drawn.plain.get_score(), &operands.mask);
    let cells: Vec<[usize; 4]> = (0..dims[0] * dims[1] * dims[2] * dims[3])
        .map(|at| {
            let [_, heads, rows, keys] = dims;
            [at / (heads * rows * keys), at / (rows * keys) % heads, at / keys % rows, at % keys]
        })
        .collect();
    let inside = |&[b, _, q_idx, kv_idx]: &[usize; 4]| {
        q_idx < drawn.places.q[b].len() && kv_idx < drawn.places.kv[b].len()
    };
    let distance = |[b, _, q_idx, kv_idx]: [usize; 4]| {
        let own = q_idx as f64 + drawn.places.kv[b].len() as f64 - drawn.places.q[b].len() as f64;
        (own - kv_idx as f64).abs()
    };
    let Modifiers { bias_dims: bias_sizes, bias, slopes, .. } = &drawn.modifiers;
    let bias_place = |cell: [usize; 4]| {
        bias_sizes
            .iter()
            .zip(cell)
            .fold(0, |at, (size, i)| at * size + if *size == 1 { 0 } else { i })
    };
    let slope_place = |[b, h, ..]: [usize; 4]| {
        let of_b = if slopes.len() > shape.num_heads { b } else { 0 };
        of_b * shape.num_heads + h
    };
    // What the modifiers add before the function.
    let before = |cell: [usize; 4]| {
        let of_bias = if score.bias { f64::from(bias[bias_place(cell)]) } else { 0.0 };
        let slope = if score.alibi { f64::from(slopes[slope_place(cell)]) } else { 0.0 };
        of_bias - slope * distance(cell)
    };
    let added = cells.iter().map(|&cell| match inside(&cell) {
        true => (f64::from(learned.factor(cell)) * before(cell) + learned.added(cell)) as f32,
        false => 0.0,
    });
    let mut q = operands.q.clone();
    let rows = cells.iter().filter(|cell| cell[3] == 0 && inside(cell));
    let components = rows.flat_map(|cell| (0..shape.head_dim).map(move |d| (cell, d)));
    let factors: Vec<(usize, f32)> = components
        .map(|(&[b, h, q_idx, _], d)| {
            (drawn.q_place(b, h, q_idx, d), learned.factor([b, h, q_idx, 0]))
        })
        .collect();
    factors.iter().for_each(|&(at, factor)| q[at] *= factor);
    let data = data.clone().bias(dims, added);
    let as_bias = score.bias(true).alibi(false);
    let problem = drawn.plain.clone().score(as_bias).aux_shape(data.shape());
    let inputs = Inputs::new(&q, &operands.k, &operands.v).aux(&data);
    let forward = reference::attention(&problem, &inputs).unwrap();
    let of_cells = reference::gradients(&problem, &inputs, &upstream).unwrap();

    let mut gradients = of_cells.clone();
    gradients.dbias = Vec::new();
    factors.iter().for_each(|&(at, factor)| gradients.dq[at] *= f64::from(factor));
    if score.bias {
        gradients.dbias = vec![0.0; bias_sizes.iter().product()];
    }
    gradients.dalibi_slopes = vec![0.0; slopes.len()];
    let buffers = learned.buffers();
    let mut custom: Vec<Vec<(f64, f64)>> =
        buffers.iter().map(|(_, values)| vec![(0.0, 0.0); values.len()]).collect();
    for (at, &cell) in cells.iter().enumerate() {
        let (ds, weight) = (of_cells.dbias[at], forward.weights[at]);
        if ds == 0.0 && weight == 0.0 {
            continue;
        }
        let factor = f64::from(learned.factor(cell));
        if score.bias {
            gradients.dbias[bias_place(cell)] += factor * ds;
        }
        if score.alibi {
            gradients.dalibi_slopes[slope_place(cell)] -= factor * ds * distance(cell);
        }
        let before = forward.scores[at] / factor + before(cell);
        for (sums, (element, derivative)) in
            custom.iter_mut().zip(learned.derivatives(cell, before))
        {
            sums[element].0 += ds * derivative;
            sums[element].1 += error * (ds.abs() + weight) * derivative.abs();
        }
    }
    let custom = buffers.into_iter().map(|(name, _)| name).zip(custom).collect();
    Truth { o: forward.o, lse: forward.lse, gradients, custom }
}

pub(super) fn assert_near(what: &str, found: &[f32], truth: &[f64], error: f64) {
    let finite = truth.iter().map(|x| x.abs()).filter(|x| x.is_finite());
    let allowed = error * finite.fold(1.0, f64::max);
    assert_eq!(found.len(), truth.len(), "{what}");
    for (at, (&x, &y)) in found.iter().zip(truth).enumerate() {
        let x = f64::from(x);
        let right = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= allowed;
        assert!(right, "{what}[{at}]: {x} instead of {y}, allowed are {allowed:.1e}");
    }
}

/// Computes the problem of a seed by one of the kernels that serve, and its gradients.
pub(crate) fn check(seed: u64) -> Outcome {
    let mut drawn = Drawn::random(seed);
    let error = error_of(drawn.problem.get_dtypes().o);
    let back_error = error.max(error_of(drawn.gradients));
    let truth = truth(&drawn, error);
    let mut outcome = Outcome::default();
    let mut forward = ForwardKernel::ALL;
    forward.shuffle(&mut drawn.rng);
    let mut backward = BackwardKernel::ALL;
    backward.shuffle(&mut drawn.rng);

    let spans = drawn.problem.spans().unwrap();
    let largest = *spans.iter().max().unwrap() as u64 * 4;
    // More until it is enough.
    let mut binding = drawn.windows.map(|windows| {
        let bytes = (largest / windows).max(64).next_multiple_of(4);
        bytes + *[0, 4].get(drawn.rng.random_range(0..2)).unwrap()
    });
    let [mut has_run, mut has_gradients] = [false; 2];
    while !(has_run && has_gradients) {
        let session = session(&drawn.options, binding);
        let session = session.as_ref().unwrap_or(&ATTENTION);
        if !has_run {
            has_run = run(session, &drawn, &forward, &truth, error, &mut outcome);
        }
        if !has_gradients {
            has_gradients = run_back(session, &drawn, &backward, &truth, back_error, &mut outcome);
        }
        match &mut binding {
            None => break,
            Some(bytes) if *bytes > 64 << 20 => break,
            Some(bytes) => *bytes = outcome.larger(*bytes),
        }
    }
    assert!(has_run, "seed {seed}: no kernel serves {:?}", drawn.problem);
    assert!(has_gradients, "seed {seed}: no kernel gives gradients of {:?}", drawn.problem);
    outcome
}

/// A device with these options that binds so many bytes; none if both are as they are anyway.
pub(super) fn session(options: &KernelOptions, binding: Option<u64>) -> Option<Session> {
    let is_default = binding.is_none()
        && options.largest_tile_map.is_none()
        && options.most_work.is_none()
        && options.registers.is_none();
    (!is_default).then(|| {
        limited_with(options.clone(), |limits| {
            if let Some(bytes) = binding {
                limits.max_storage_buffer_binding_size = bytes;
            }
        })
    })
}

/// Whether another device, or another kernel, might do.
fn is_for_the_device(error: &Error) -> bool {
    match error {
        Error::KernelRefused { .. } | Error::Limit { .. } => true,
        Error::Operand { expected, .. } => {
            ["elements in all buffers of score_mod", "keys that the device binds in one piece"]
                .iter()
                .any(|words| expected.contains(words))
        }
        _ => false,
    }
}

pub(super) fn refusal<T>(result: Result<T, Error>, what: &str, outcome: &mut Outcome) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if is_for_the_device(&error) => {
            if let Error::Limit { needed, limit: "max_storage_buffer_binding_size", .. } = error {
                outcome.needs = Some(needed);
            }
            outcome.refused.push(error.to_string());
            None
        }
        Err(error) => panic!("{error}: {what}"),
    }
}

fn run(
    session: &Session,
    drawn: &Drawn,
    kernels: &[ForwardKernel],
    truth: &Truth,
    error: f64,
    outcome: &mut Outcome,
) -> bool {
    let Drawn { problem, operands, .. } = drawn;
    for &kernel in kernels {
        let options = RunOptions::default()
            .lse(true)
            .kernel(kernel)
            .batch_invariant(drawn.batch_invariant)
            .num_splits(drawn.num_splits.filter(|_| kernel.is_decode()));
        let what = format!("{kernel}, {}", describe(drawn));
        let found = session.run_blocking(problem, &operands.inputs(), &options);
        if let Some(found) = refusal(found, &what, outcome) {
            assert_near(&format!("o of {what}"), &found.o, &truth.o, error);
            assert_near(&format!("lse of {what}"), &found.lse, &truth.lse, error);
            outcome.kernels.push(kernel.to_string());
            return true;
        }
    }
    false
}

fn run_back(
    session: &Session,
    drawn: &Drawn,
    kernels: &[BackwardKernel],
    truth: &Truth,
    error: f64,
    outcome: &mut Outcome,
) -> bool {
    let Drawn { problem, operands, upstream, .. } = drawn;
    for &kernel in kernels {
        let options = BackwardOptions::default()
            .kernel(kernel)
            .dtypes(drawn.gradients)
            .partial_keys(drawn.partial_keys);
        let what = format!("{kernel}, {}", describe(drawn));
        let upstream: Upstream<'_> = upstream.of_o_and_lse();
        let found = session.gradients_blocking(problem, &operands.inputs(), &upstream, &options);
        let Some(found) = refusal(found, &what, outcome) else { continue };
        let of = &truth.gradients;
        for (name, found, truth) in [
            ("dq", &found.dq, &of.dq),
            ("dk", &found.dk, &of.dk),
            ("dv", &found.dv, &of.dv),
            ("dbias", &found.dbias, &of.dbias),
            ("dsinks", &found.dsinks, &of.dsinks),
            ("dalibi_slopes", &found.dalibi_slopes, &of.dalibi_slopes),
        ] {
            assert_near(&format!("{name} of {what}"), found, truth, 2.0 * error);
        }
        assert_eq!(
            found.dcustom.keys().collect::<Vec<_>>(),
            truth.custom.keys().collect::<Vec<_>>(),
            "{what}"
        );
        for (name, truth) in &truth.custom {
            for (at, (&x, &(y, allowed))) in found.dcustom[name].iter().zip(truth).enumerate() {
                let off = (f64::from(x) - y).abs();
                assert!(
                    off <= allowed + 1e-7,
                    "d{name} of {what}[{at}]: {x} instead of {y}, allowed are {allowed:.1e}"
                );
            }
        }
        outcome.kernels.push(kernel.to_string());
        return true;
    }
    false
}

fn describe(drawn: &Drawn) -> String {
    let function = drawn.learned.as_ref().map(Learned::function);
    format!("{:?}, {function:?}, {:?} windows, {:?}", drawn.plain, drawn.windows, drawn.options)
}
