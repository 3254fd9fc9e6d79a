//! Whether the device computes what the f64 reference does, kernel by kernel, and the same bits each time.

use serde_json::{Value, json};
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::{BackwardOptions, MaskFormat};
use wgpu_attention::{
    AuxData, Dtype, Error, Inputs, Mask, Problem, RunOptions, Session, Shape, Upstream, reference,
};
use wgpu_attention_tools::measure::uniform;

/// A problem is run so often: a race shows as other bits.
const RUNS: usize = 20;

/// Off every tile, with grouped heads; several workgroups and tiles.
const SIZES: [[usize; 6]; 4] = [
    // batch, heads, kv heads, queries, keys, head_dim
    [2, 4, 2, 129, 203, 64],
    [1, 2, 1, 300, 300, 128],
    [1, 2, 2, 37, 65, 20],
    [1, 1, 1, 70, 129, 256],
];

const DECODE_SIZES: [[usize; 6]; 3] =
    [[2, 8, 2, 1, 1203, 64], [1, 4, 4, 5, 700, 128], [1, 8, 1, 16, 333, 80]];

const MASKS: [&str; 4] = ["all", "causal & key_lengths", "window(40,3) | global(2)", "documents"];

type Work = dyn Fn(&Session) -> Result<Found, Error>;

/// One thing that is checked.
pub(super) struct Check {
    name: String,
    work: Box<Work>,
}

/// The largest error of a result, in the largest element, and what is allowed.
struct Found {
    error: f64,
    allowed: f64,
    same_bits: bool,
}

impl Check {
    /// What is being checked, in words.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs it; the record says `right`, `wrong`, or `refused` with the reason.
    pub(super) fn run(&self, session: &Session) -> Value {
        match (self.work)(session) {
            Ok(found) => {
                let right = found.error <= found.allowed && found.same_bits;
                json!({
                    "check": self.name,
                    "result": if right { "right" } else { "wrong" },
                    "error": found.error,
                    "allowed": found.allowed,
                    "same_bits": found.same_bits,
                })
            }
            Err(Error::KernelRefused { reason, .. }) => {
                json!({ "check": self.name, "result": "refused", "why": reason })
            }
            Err(error) => {
                json!({ "check": self.name, "result": "failed", "why": error.to_string() })
            }
        }
    }
}

/// Every check, `matrix` where the session's device has cooperative matrices.
pub(super) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    for kernel in ForwardKernel::ALL {
        let sizes: &[_] = if kernel.is_decode() { &DECODE_SIZES } else { &SIZES };
        let dtypes: &[_] = match kernel {
            ForwardKernel::Matrix => &[Dtype::F16],
            _ => &[Dtype::F32, Dtype::F16, Dtype::Bf16],
        };
        for (at, &sizes) in sizes.iter().enumerate() {
            for (of, &dtype) in dtypes.iter().enumerate() {
                // Pairs instead of the product: each size and each type meets several masks.
                for turn in 0..2 {
                    checks.push(forward(kernel, sizes, dtype, MASKS[(at + of + 2 * turn) % 4]));
                }
            }
        }
    }
    for kernel in BackwardKernel::ALL {
        for (at, &sizes) in SIZES.iter().enumerate() {
            let dtype = match kernel {
                BackwardKernel::Matrix => Dtype::F16,
                _ => Dtype::F32,
            };
            checks.push(backward(kernel, sizes, dtype, MASKS[at]));
        }
    }
    checks.extend(MASKS.map(materialized));
    checks
}

fn problem(
    [batch, heads, kv_heads, queries, keys, head_dim]: [usize; 6],
    mask: &str,
) -> Result<(Problem, AuxData), Error> {
    let shape = Shape::new(batch, heads, queries, head_dim).num_kv_heads(kv_heads).seq_len_kv(keys);
    let mask: Mask = mask.parse()?;
    let lengths = (0..batch).map(|b| (keys - b * keys / 3) as i32);
    let ids = |len: usize| (0..batch * len).map(move |at| ((at % len) / 50) as i32);
    let data = AuxData::new().key_lengths(lengths).document_ids_q_kv(ids(queries), ids(keys));
    Ok((Problem::new(shape).mask(mask), data))
}

/// q, k and v in [-1, 1), and dout.
fn operands(problem: &Problem) -> Result<[Vec<f32>; 4], Error> {
    let [q, k, v, o] = problem.spans()?;
    Ok([(1, q), (2, k), (3, v), (4, o)].map(|(seed, len)| uniform(seed, len)))
}

/// Numbers as they are stored.
fn stored(values: &[f32], dtype: Dtype) -> Vec<f32> {
    values.iter().map(|&x| round(x, dtype)).collect()
}

fn forward(kernel: ForwardKernel, sizes: [usize; 6], dtype: Dtype, mask: &'static str) -> Check {
    let work = move |session: &Session| {
        let (problem, data) = problem(sizes, mask)?;
        let problem = problem.dtypes(dtype);
        let [q, k, v, _] = operands(&problem)?.map(|values| stored(&values, dtype));
        let inputs = Inputs::new(&q, &k, &v).aux(&data);
        let options = RunOptions::default().lse(true).kernel(kernel);
        let first = session.run_blocking(&problem, &inputs, &options)?;
        let mut same_bits = true;
        for _ in 1..RUNS {
            let again = session.run_blocking(&problem, &inputs, &options)?;
            same_bits &= bits(&again.o) == bits(&first.o) && bits(&again.lse) == bits(&first.lse);
        }
        let truth = reference::attention(&problem, &inputs)?;
        Ok(Found { error: error(&first.o, &truth.o), allowed: allowed(dtype), same_bits })
    };
    Check { name: format!("{kernel}, {dtype}, {mask}, {sizes:?}"), work: Box::new(work) }
}

fn backward(kernel: BackwardKernel, sizes: [usize; 6], dtype: Dtype, mask: &'static str) -> Check {
    let work = move |session: &Session| {
        let (problem, data) = problem(sizes, mask)?;
        let problem = problem.dtypes(dtype);
        let [q, k, v, dout] = operands(&problem)?.map(|values| stored(&values, dtype));
        let inputs = Inputs::new(&q, &k, &v).aux(&data);
        let upstream = Upstream::new(&dout);
        let options = BackwardOptions::default().kernel(kernel);
        let run = || session.gradients_blocking(&problem, &inputs, &upstream, &options);
        let first = run()?;
        let mut same_bits = true;
        for _ in 1..RUNS {
            let again = run()?;
            same_bits &= bits(&again.dq) == bits(&first.dq)
                && bits(&again.dk) == bits(&first.dk)
                && bits(&again.dv) == bits(&first.dv);
        }
        let truth = reference::gradients(&problem, &inputs, &upstream)?;
        let errors =
            [error(&first.dq, &truth.dq), error(&first.dk, &truth.dk), error(&first.dv, &truth.dv)];
        let error = errors.into_iter().fold(0.0, f64::max);
        Ok(Found { error, allowed: 10.0 * allowed(dtype), same_bits })
    };
    let of = match kernel {
        BackwardKernel::Matrix => "matrix, backward".to_owned(),
        _ => format!("backward {kernel}"),
    };
    Check { name: format!("{of}, {mask}, {sizes:?}"), work: Box::new(work) }
}

/// The mask as a tensor, against the evaluator.
fn materialized(mask: &'static str) -> Check {
    let work = move |session: &Session| {
        let (problem, data) = problem(SIZES[0], mask)?;
        let found = session.materialize_blocking(&problem, &data, MaskFormat::Keep)?;
        let evaluator = Evaluator::new(problem.get_mask(), &data, problem.shape())?;
        let [_, heads, rows, keys] = found.dims;
        let wrong = found.values.iter().enumerate().filter(|&(at, &value)| {
            let (plane, row, key) = (at / keys / rows, at / keys % rows, at % keys);
            (value != 0.0) != evaluator.keep(plane / heads, plane % heads, row, key)
        });
        Ok(Found { error: wrong.count() as f64, allowed: 0.0, same_bits: true })
    };
    Check { name: format!("the mask `{mask}` as a tensor"), work: Box::new(work) }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The number that a device stores.
fn round(x: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => half::f16::from_f32(x).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// The largest error in the largest element; infinite where one isn't finite.
fn error(found: &[f32], truth: &[f64]) -> f64 {
    let largest = truth.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let worst = found.iter().zip(truth).map(|(&x, &y)| (f64::from(x) - y).abs());
    worst.fold(0.0, |most, error| if error.is_nan() { f64::INFINITY } else { most.max(error) })
        / largest
}

/// Of the largest element: sums of some hundred terms in f32, and the rounding of what is stored; `matrix` rounds the weights, too.
fn allowed(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 2e-3,
        Dtype::Bf16 => 1e-2,
        _ => 1e-5,
    }
}
