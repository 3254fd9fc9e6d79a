//! The gradients of the buffers that a user's score function reads, against those of a bias that has its values.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::{BackwardBuffers, GradientBuffers};
use wgpu_attention::wgsl::{GradientCheck, WgslBuffer, WgslFunction};
use wgpu_attention::{
    AuxBuffers, AuxData, BackwardPlan, Error, Mask, Problem, ScoreModifiers, Shape, Upstream,
    reference,
};

use super::{RandomUpstream, bits, kernels, run};
use crate::bad_input::assert_says;
use crate::fixture::{ATTENTION, Operands};

/// A table by head and distance, a factor of each row, a slope of each head, a vector of each sequence's keys, and what isn't learned.
const TEXT: &str = "
fn gap(q_idx: u32, kv_idx: u32) -> u32 { return u32(clamp(i32(kv_idx) - i32(q_idx) + 20, 0, 40)); }
fn table_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return h * 41u + gap(q_idx, kv_idx); }
fn table_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
fn warmth_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return (b * 4u + h) * 37u + q_idx; }
fn warmth_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad * score; }
fn tilt_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return h; }
fn tilt_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad * f32(kv_idx) / 64.0; }
fn of_key_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return b * 70u + kv_idx; }
fn of_key_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return 0.5 * grad; }
fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    let learned = table(table_index(b, h, q_idx, kv_idx)) + tilt(h) * f32(kv_idx) / 64.0 + 0.5 * of_key(b * 70u + kv_idx);
    return score * warmth(warmth_index(b, h, q_idx, kv_idx)) + (learned + still(q_idx));
}
fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    return grad * warmth(warmth_index(b, h, q_idx, kv_idx));
}";

/// The factor of a row: a power of two, so that queries times these are exact.
fn warmth(row: usize) -> f32 {
    [0.5, 1.0, 2.0, 0.25, 1.0][row % 5]
}

const BUFFERS: [(&str, usize); 5] =
    [("table", 4 * 41), ("still", 37), ("warmth", ROWS), ("tilt", 4), ("of_key", 140)];
/// Those that have a gradient, in the order of their numbers in the tests.
const LEARNED: [(&str, usize); 4] = [BUFFERS[0], BUFFERS[2], BUFFERS[3], BUFFERS[4]];
const ROWS: usize = 2 * 4 * 37;
const DIMS: [usize; 4] = [2, 4, 37, 70];

fn shape() -> Shape {
    Shape::new(DIMS[0], DIMS[1], DIMS[2], 20).seq_len_kv(DIMS[3]).num_kv_heads(2)
}

fn function(text: &str) -> WgslFunction {
    BUFFERS.into_iter().fold(WgslFunction::new(text).unwrap(), |function, (name, len)| {
        function.buffer(name, WgslBuffer::F32, len).unwrap()
    })
}

/// Multiples of 1/16.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|at| ((at * 37 + seed * 11) % 61) as f32 / 16.0 - 2.0).collect()
}

fn values() -> [Vec<f32>; 5] {
    let [table, still, _, tilt, of_key] = BUFFERS.map(|(name, len)| numbers(len, name.len()));
    [table, still, (0..ROWS).map(warmth).collect(), tilt, of_key]
}

fn with_values(data: AuxData) -> AuxData {
    let named = BUFFERS.into_iter().zip(values());
    named.fold(data, |data, ((name, _), values)| data.custom_f32(name, values))
}

/// [b, h, q_idx, kv_idx] of each cell.
fn cells() -> impl Iterator<Item = [usize; 4]> {
    let [_, heads, rows, keys] = DIMS;
    (0..DIMS.iter().product::<usize>()).map(move |at| {
        [at / (heads * rows * keys), at / (rows * keys) % heads, at / keys % rows, at % keys]
    })
}

/// Products of queries and keys that f32 holds, so that all kernels, in whichever order they add up, see the same scores.
fn exact(operands: Operands) -> Operands {
    let eighths = |values: Vec<f32>| values.into_iter().map(|x| (x * 8.0).round() / 8.0).collect();
    Operands { q: eighths(operands.q), k: eighths(operands.k), ..operands }
}

/// As near as sums over all cells are: within 1e-5 of the largest.
fn assert_near(what: &str, found: &[f32], truth: &[f64]) {
    let most = truth.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert_eq!(found.len(), truth.len(), "{what}");
    for (at, (x, y)) in found.iter().zip(truth).enumerate() {
        let error = (f64::from(*x) - y).abs();
        assert!(error <= 1e-5 * most, "{what}[{at}]: {x} instead of {y}, of at most {most}");
    }
}

#[test]
fn elements_have_the_sum_of_the_cells_that_read_them() {
    for (seed, mask, biased, dropout) in [
        (0, "causal & key_lengths", false, 0.0),
        (1, "all", true, 0.3),
        (2, "window(9,3)", false, 0.0),
    ] {
        let mask: Mask = mask.parse().unwrap();
        let score = ScoreModifiers::default().bias(biased);
        let problem = |score| {
            Problem::new(shape()).mask(mask.clone()).score(score).scale(0.25).dropout(dropout)
        };
        let [table, still, _, tilt, of_key] = values();
        let bias = if biased { numbers(cells().count(), 4) } else { vec![0.0; cells().count()] };
        // The elements that a cell reads, and its derivatives with respect to them but for the score's factor.
        let row = |[b, h, q, _]: [usize; 4]| (b * 4 + h) * 37 + q;
        let place = |[_, h, q, kv]: [usize; 4]| h * 41 + (kv + 20).saturating_sub(q).min(40);

        let mut own = exact(Operands::random(&shape(), seed));
        own.mask = with_values(own.mask);
        if biased {
            own.mask = own.mask.bias(DIMS, bias.iter().copied());
        }
        // The same scores by a bias, and by queries that are multiplied with the factor.
        let mut known = own.clone();
        for (at, x) in known.q.iter_mut().enumerate() {
            *x *= warmth(at / 20);
        }
        let of_cell = |(cell @ [b, h, q, kv], bias): ([usize; 4], &f32)| {
            let learned = table[place(cell)] + tilt[h] * kv as f32 / 64.0;
            warmth(row(cell)) * bias + learned + 0.5 * of_key[b * 70 + kv] + still[q]
        };
        let added: Vec<f32> = cells().zip(&bias).map(of_cell).collect();
        known.mask = known.mask.bias(DIMS, added);
        let as_bias = problem(ScoreModifiers::default().bias(true));
        let upstream = RandomUpstream::random(&shape(), seed);
        let (upstream, inputs) = (upstream.of_o_and_lse(), known.inputs());
        let of_cells = reference::gradients(&as_bias, &inputs, &upstream).unwrap().dbias;
        let scores = reference::attention(&as_bias, &inputs).unwrap().scores;
        let mut truth = LEARNED.map(|(_, len)| vec![0.0; len]);
        for (at, cell @ [b, h, _, kv]) in cells().enumerate() {
            let score = scores[at] / f64::from(warmth(row(cell))) + f64::from(bias[at]);
            let (row, tilted) = (row(cell), kv as f64 / 64.0);
            let shares = [(place(cell), 1.0), (row, score), (h, tilted), (b * 70 + kv, 0.5)];
            for (of_buffer, (element, factor)) in truth.iter_mut().zip(shares) {
                of_buffer[element] += of_cells[at] * factor;
            }
        }
        let own_problem = problem(score).score_mod(function(TEXT));
        for kernel in kernels(&own_problem) {
            let [found, again] = [(); 2].map(|()| run(&own_problem, &own, &upstream, kernel));
            assert_eq!(found.dcustom.len(), LEARNED.len());
            for (buffer, (name, _)) in LEARNED.into_iter().enumerate() {
                let what = format!("d{name} by {kernel}, {mask}");
                let gradient = &found.dcustom[name];
                assert_near(&what, gradient, &truth[buffer]);
                assert_eq!(bits(gradient), bits(&again.dcustom[name]), "{what}");
            }
        }
    }
}

/// More sums than there is memory for at a time; cells spread over a long buffer, some beyond its end; NaN behind the mask.
#[test]
fn long_buffers_are_summed_in_chunks() {
    const LEN: usize = 100_000;
    let shape = Shape::new(3, 4, 19, 8).seq_len_kv(45);
    let text = "
        fn far_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 {
            return (b * 7919u + h * 104729u + q_idx * 1299709u + kv_idx / 2u * 15485863u) % 110000u;
        }
        fn far_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score + far(far_index(b, h, q_idx, kv_idx));
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }";
    let function = WgslFunction::new(text).unwrap().buffer("far", WgslBuffer::F32, LEN).unwrap();
    let mask: Mask = "key_lengths".parse().unwrap();
    let mut own = exact(Operands::random(&shape, 3));
    own.mask = own.mask.key_lengths([45, 0, 30]);
    let hidden = 2 * 4 * 45 * 8..;
    for head in own.k[hidden.clone()].chunks_mut(45 * 8).chain(own.v[hidden].chunks_mut(45 * 8)) {
        head[30 * 8..].fill(f32::NAN);
    }
    let values = numbers(LEN, 5);
    let [heads, rows, keys] = [4, 19, 45];
    let element = |at: usize| {
        let [b, h] = [at / (heads * rows * keys), at / (rows * keys) % heads];
        let [q_idx, kv_idx] = [at / keys % rows, at % keys];
        let far = b * 7919 + h * 104_729 + q_idx * 1_299_709 + kv_idx / 2 * 15_485_863;
        (far as u32 % 110_000).min(LEN as u32 - 1) as usize
    };
    let bias = (0..3 * heads * rows * keys).map(|at| values[element(at)]);
    let mut known = own.clone();
    known.mask = known.mask.bias([3, heads, rows, keys], bias);
    own.mask = own.mask.custom_f32("far", values);
    let problem = Problem::new(shape).mask(mask.clone());
    let added = ScoreModifiers::default().bias(true);
    let upstream = RandomUpstream::random(&shape, 3);
    let (as_bias, inputs) = (problem.clone().score(added), known.inputs());
    let cells = reference::gradients(&as_bias, &inputs, &upstream.of_o()).unwrap().dbias;
    let mut truth = vec![0.0; LEN];
    cells.iter().enumerate().for_each(|(at, cell)| truth[element(at)] += cell);
    assert!(truth[LEN - 1] != 0.0, "some cells are beyond the end");

    let problem = problem.score_mod(function);
    let plan = BackwardPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    // 12 heads; a workgroup's sums are 6.4 MB.
    assert!((40 << 20..70 << 20).contains(&plan.scratch_bytes()), "{}", plan.scratch_bytes());
    let found = run(&problem, &own, &upstream.of_o(), plan.kernel());
    assert_near("dfar", &found.dcustom["far"], &truth);
}

/// Weights alone, of a loss that is the sum of lse: numbers of one sign, of which most go to the last element of a buffer that ends
/// before the keys do. A row's add up to 1.
#[test]
fn long_sums_of_one_sign() {
    let shape = Shape::new(1, 4, 600, 20).num_kv_heads(2);
    let problem = Problem::new(shape).score_mod(function(TEXT));
    let mut operands = Operands::random(&shape, 2);
    operands.mask = with_values(operands.mask);
    let (dout, dlse) = (vec![0.0; shape.o_len().unwrap()], vec![0.7; shape.lse_len().unwrap()]);
    let upstream = Upstream::new(&dout).dlse(&dlse);
    let found = run(&problem, &operands, &upstream, BackwardKernel::Tiled);
    let rows = 2_400.0 * f64::from(0.7f32);
    for (name, expected) in [("table", rows), ("of_key", rows / 2.0)] {
        let gradient = &found.dcustom[name];
        let sum: f64 = gradient.iter().map(|&x| f64::from(x)).sum();
        assert!((sum - expected).abs() <= 1e-5 * expected, "d{name}: {sum}, not {expected}");
        assert!(gradient.iter().all(|&x| x >= 0.0));
    }
    assert!(f64::from(found.dcustom["of_key"][139]) > 0.5 * rows / 2.0);
}

/// What isn't there, isn't learned, or is described by half.
#[test]
fn gradients_that_are_not_there_are_refused() {
    let device = ATTENTION.kernels().device();
    let buffer = |size| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let label = None;
        device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let (input, output) = (buffer(1 << 16), buffer(1 << 12));
    let problem = Problem::new(shape()).score_mod(function(TEXT));
    let plan = BackwardPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
    let encode = |dcustom: &[(&str, wgpu::BufferSlice<'_>)]| -> Result<(), Error> {
        let a = input.slice(..);
        let aux = BUFFERS.iter().fold(AuxBuffers::new(), |aux, (name, _)| aux.with_custom(name, a));
        let gradients = GradientBuffers::default().dcustom(dcustom);
        let buffers =
            BackwardBuffers { q: a, k: a, v: a, o: a, lse: a, dout: a, dlse: None, aux, gradients };
        plan.encode(&mut device.create_command_encoder(&Default::default()), &buffers)
    };
    let slice = output.slice(..);
    encode(&[("table", slice)]).unwrap();
    assert_says(
        &encode(&[("tabel", slice)]).unwrap_err(),
        &["dcustom:", "that score_mod reads", "`tabel`"],
    );
    assert_says(
        &encode(&[("still", slice)]).unwrap_err(),
        &[
            "dcustom:",
            "`fn still_grad(grad: f32, score: f32, b: u32",
            "`fn still_index(b: u32",
            "`still`",
        ],
    );
    assert_says(
        &encode(&[("table", output.slice(..652))]).unwrap_err(),
        &["dtable:", "656 bytes", "652 bytes"],
    );
    let halves = [("warmth", output.slice(..16)), ("warmth", output.slice(256..))];
    assert_says(&encode(&halves).unwrap_err(), &["dcustom:", "each buffer once", "`warmth` twice"]);
    let over = [("table", slice), ("warmth", output.slice(256..))];
    assert_says(&encode(&over).unwrap_err(), &["dwarmth:", "apart from dtable's"]);

    let learned = "
        fn big_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return 0u; }
        fn big_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return score + big(0u); }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }";
    let refused = |text: &str, len| {
        let function =
            WgslFunction::new(text).unwrap().buffer("big", WgslBuffer::F32, len).unwrap();
        let problem = Problem::new(shape()).score_mod(function);
        BackwardPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap_err()
    };
    let error = refused(learned, (1 << 20) + 1);
    assert_says(&error, &["dbig: expected at most 1048576 elements", "1048577"]);
    let error = refused(&learned.replace("big_index", "big_indexes"), 4);
    assert_says(&error, &["expected `fn big_index(b: u32, h: u32", "`big_indexes`"]);
}

/// Which element and which derivative, right and wrong.
#[test]
fn indices_and_derivatives_are_checked_by_differences() {
    let data = with_values(AuxData::new());
    let check = |text: &str| {
        let problem = Problem::new(shape()).score_mod(function(text));
        ATTENTION.check_score_mod_grad_blocking(&problem, &data, &GradientCheck::default())
    };
    let report = check(TEXT).unwrap();
    // score_mod_grad, and two for each buffer.
    assert_eq!(report.compared, (1 + 2 * LEARNED.len()) * 1024, "{report:?}");
    for (right, wrong, function) in [
        ("{ return grad * score; }", "{ return score; }", "warmth_grad"),
        ("{ return 0.5 * grad; }", "{ return grad; }", "of_key_grad"),
        ("{ return h; }", "{ return h + q_idx % 2u; }", "tilt_index"),
    ] {
        let error = check(&TEXT.replacen(right, wrong, 1)).unwrap_err();
        assert_says(
            &error,
            &[&format!("{function}: expected"), "in cell (", "differences of `score_mod`"],
        );
    }
}

/// Where there's nothing to sum, gradients are 0, whatever the buffers held.
#[test]
fn without_cells_gradients_are_zeros() {
    for shape in [Shape::new(0, 4, 37, 20), Shape::new(2, 4, 0, 20), shape().seq_len_kv(0)] {
        let problem = Problem::new(shape).score_mod(function(TEXT));
        let mut operands = Operands::random(&shape, 1);
        operands.mask = with_values(operands.mask);
        let upstream = RandomUpstream::random(&shape, 1);
        let found = run(&problem, &operands, &upstream.of_o(), BackwardKernel::Tiled);
        assert_eq!(found.dcustom["table"], [0.0; 164]);
        assert_eq!(found.dcustom["tilt"], [0.0; 4]);
    }
}
