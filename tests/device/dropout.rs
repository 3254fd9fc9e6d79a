//! Dropout on the weights: every kernel drops the cells that the reference says, forward and backward.

use wgpu::util::DeviceExt as _;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::{PlanOptions, ScoreTensor};
use wgpu_attention::reference::{self, Dropout};
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxData, AuxTensor, Dtype, Layout, Mask, Problem,
    RunOptions, ScoreModifiers, Shape,
};

use crate::fixture::{
    ATTENTION, Operands, SCORES, ScoreData, kernels, masks_of_this_run, run, serving,
};
use crate::matrix::{WITH_MATRICES, has_matrices};
use crate::operands::{DROPOUT_SEED, stored};
use crate::sequences::{Batch, FORMS, LENGTHS};
use crate::tolerance::{WEIGHTS_ERROR, assert_close, naive_modified};

fn check(problem: &Problem, operands: &Operands, kernels: &[ForwardKernel]) {
    let (mask, data) = (problem.get_mask(), ScoreData::default());
    let inputs = operands.inputs();
    let truth = reference::attention(problem, &inputs).unwrap();
    let none = ScoreModifiers::default();
    let naive = naive_modified(problem, mask, &inputs, &none, &data, Dtype::F32);
    for &kernel in kernels {
        let output = run(problem, operands, kernel);
        let what = format!("{kernel}, {mask}, {:?}", problem.shape());
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

#[test]
fn every_mask_in_every_kernel() {
    for (seed, mask) in (0..).zip(masks_of_this_run()) {
        let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
        let problem = Problem::new(shape).mask(mask.parse().unwrap()).dropout(0.3);
        // As for gradients: the best kernel takes every mask, the others one in five.
        let kernels = kernels(&problem);
        let kernels = if seed % 5 == 1 { &kernels[..] } else { &kernels[..1] };
        check(&problem, &Operands::random(&shape, seed), kernels);
    }
}

#[test]
fn any_share_on_awkward_sizes() {
    for (seed, p) in (0..).zip([1e-4, 0.1, 0.5, 0.95]) {
        for (seq_len_q, seq_len_kv, head_dim) in
            [(1, 1, 3), (65, 33, 64), (113, 127, 17), (1, 203, 128)]
        {
            let shape = Shape::new(2, 2, seq_len_q, head_dim).seq_len_kv(seq_len_kv);
            let problem = Problem::new(shape).mask(Mask::causal()).dropout(p);
            check(&problem, &Operands::random(&shape, seed), &kernels(&problem));
        }
    }
}

#[test]
fn long_rows_in_segments() {
    let shape = Shape::new(1, 1, 33, 8).seq_len_kv(4200);
    let problem = Problem::new(shape).mask(Mask::causal()).dropout(0.3);
    check(&problem, &Operands::random(&shape, 7), &kernels(&problem));
}

/// Kernels that split the keys, at sizes at which the naive computation's largest error isn't luck.
#[test]
fn few_queries_in_every_decode_kernel() {
    for (seed, (seq_len_q, mask)) in
        (0..).zip([(1, "all"), (3, "causal & key_lengths"), (16, "causal")])
    {
        let shape = Shape::new(3, 8, seq_len_q, 64).seq_len_kv(403).num_kv_heads(2);
        let problem = Problem::new(shape).mask(mask.parse().unwrap()).dropout(0.25);
        let kernels = serving(&problem, true);
        let operands = Operands::random(&shape, seed);
        check(&problem, &operands, &kernels);
        // One split and many drop the same cells.
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        for (kernel, splits) in kernels.iter().flat_map(|&kernel| [(kernel, 1), (kernel, 5)]) {
            let options = RunOptions::default().kernel(kernel).num_splits(splits);
            let output = ATTENTION.run_blocking(&problem, &operands.inputs(), &options).unwrap();
            for (x, y) in output.o.iter().zip(&truth.o) {
                assert!((f64::from(*x) - y).abs() < WEIGHTS_ERROR, "{kernel}, {splits}: {x}, {y}");
            }
        }
    }
}

#[test]
fn with_every_modifier() {
    let score = SCORES[4];
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).score(score).dropout(0.3);
    let data = ScoreData::random(&shape, 3);
    let mut operands = Operands::random(&shape, 3);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs).unwrap();
    let naive = naive_modified(&problem, &mask, &inputs, &score, &data, Dtype::F32);
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        assert_close(&format!("o of {kernel}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {kernel}"), &output.lse, &naive.lse, &truth.lse);
    }
}

/// Weights are those without dropout, each times 0 or 1 / (1 - p).
#[test]
fn weights_are_zero_or_larger() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
    let operands = Operands::random(&shape, 4);
    let weights = |p: f32| {
        let problem = Problem::new(shape).mask(Mask::KeyLengths).dropout(p);
        let options = RunOptions::default().tensors([ScoreTensor::Weights]);
        ATTENTION.run_blocking(&problem, &operands.inputs(), &options).unwrap().tensors.remove(0)
    };
    let (plain, dropped) = (weights(0.0), weights(0.3));
    let dropout = Dropout::new(0.3, DROPOUT_SEED);
    for (at, (plain, dropped)) in plain.iter().zip(&dropped).enumerate() {
        let [kv_idx, q_idx, h, b] = [at % 70, at / 70 % 37, at / 70 / 37 % 4, at / 70 / 37 / 4];
        let factor = dropout.factor([b, h, q_idx, kv_idx]) as f32;
        assert_eq!(plain * factor, *dropped, "{at}");
    }
}

/// Values that are all alike tell the sums of weights; of one sign, nothing cancels.
#[test]
fn values_all_alike_and_of_one_sign() {
    let shape = Shape::new(1, 2, 70, 20);
    let problem = Problem::new(shape).mask(Mask::causal()).dropout(0.5);
    let mut operands = Operands::random(&shape, 5);
    operands.v = vec![3.0; operands.v.len()];
    check(&problem, &operands, &kernels(&problem));
    operands.v = operands.q.iter().map(|x| x.abs()).collect();
    check(&problem, &operands, &kernels(&problem));
}

/// f16 doesn't hold a weight times 1 / (1 - p): kernels that store weights in f16 leave the factor for the end.
#[test]
fn weights_of_16_bits_hold() {
    let shape = Shape::new(1, 2, 70, 64);
    let dtypes = Dtypes::all(Dtype::F16).o(Dtype::F32);
    let operands = stored(Operands::random(&shape, 6), dtypes);
    for p in [0.3, 0.998] {
        // Even weights, so that those that are left are numbers of f16.
        let problem = Problem::new(shape).mask(Mask::causal()).dtypes(dtypes).scale(0.01);
        let problem = problem.dropout(p);
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        let largest = truth.o.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let matrix = has_matrices().then_some((&*WITH_MATRICES, ForwardKernel::Matrix));
        let others = kernels(&problem).into_iter().map(|kernel| (&*ATTENTION, kernel));
        for (session, kernel) in others.chain(matrix) {
            let options = RunOptions::default().kernel(kernel);
            let output = session.run_blocking(&problem, &operands.inputs(), &options).unwrap();
            for (x, y) in output.o.iter().zip(&truth.o) {
                let error = (f64::from(*x) - y).abs();
                assert!(error <= 2e-3 * largest, "{kernel}, {p}: {x} instead of {y}");
            }
        }
    }
}

/// Sequences that are packed, padded or in caches drop the cells of the sequence's own positions.
#[test]
fn every_form_of_sequences_drops_the_same() {
    let mask = "causal & window(19,inf) | global(2)";
    let mut first: Option<Vec<Vec<f32>>> = None;
    for (at, &(q, kv)) in FORMS.iter().enumerate() {
        let batch = Batch::new(q, kv, [Layout::Bhsd, Layout::Bshd][at % 2]);
        let (operands, problem) = (batch.operands(), batch.problem(mask).dropout(0.3));
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        for kernel in kernels(&problem) {
            let output = run(&problem, &operands, kernel);
            let of =
                |b| -> Vec<usize> { batch.q_elements(b).into_iter().map(|(_, at)| at).collect() };
            for (b, at) in (0..LENGTHS.len()).flat_map(|b| of(b).into_iter().map(move |at| (b, at)))
            {
                let (x, y) = (f64::from(output.o[at]), truth.o[at]);
                assert!((x - y).abs() < WEIGHTS_ERROR, "{kernel}, {kv:?}, {b}: {x} instead of {y}");
            }
        }
        // The same bits in one kernel: in which, doesn't depend on the form.
        let output = run(&problem, &operands, ForwardKernel::Tiled);
        let own: Vec<Vec<f32>> = (0..LENGTHS.len())
            .map(|b| batch.q_elements(b).into_iter().map(|(_, at)| output.o[at]).collect())
            .collect();
        let is_same = *first.get_or_insert_with(|| own.clone()) == own;
        assert!(is_same, "{q:?}, {kv:?}");
    }
}

/// What stands behind a mask reaches no output, and what is kept does, whether its weight is dropped or not.
#[test]
fn hostile_values_stay_behind_the_mask() {
    let shape = Shape::new(1, 2, 37, 20);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap()).dropout(0.4);
    let mut clean = Operands::random(&shape, 8);
    clean.mask = clean.mask.key_lengths([30]);
    for kernel in kernels(&problem) {
        let expected = run(&problem, &clean, kernel);
        for value in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut hostile = Operands { mask: clean.mask.clone(), ..Operands::random(&shape, 8) };
            for h in 0..2 {
                for row in 30..37 {
                    hostile.k[(h * 37 + row) * 20..][..20].fill(value);
                    hostile.v[(h * 37 + row) * 20..][..20].fill(value);
                }
            }
            assert_eq!(run(&problem, &hostile, kernel), expected, "{kernel}, {value}");
        }
        let mut kept = Operands { mask: clean.mask.clone(), ..Operands::random(&shape, 8) };
        kept.v[5 * 20 + 3] = f32::INFINITY;
        let o = run(&problem, &kept, kernel).o;
        for row in 0..37 {
            let is_infinite = o[row * 20 + 3] == f32::INFINITY;
            assert_eq!(is_infinite, row >= 5, "{kernel}, row {row}");
        }
    }
}

/// A plan drops other weights with each seed in its buffer, and none of its own.
#[test]
fn one_plan_takes_any_seed() {
    let shape = Shape::new(1, 2, 37, 20);
    let problem = Problem::new(shape).mask(Mask::causal()).dropout(0.3);
    let operands = Operands::random(&shape, 9);
    let device = ATTENTION.device();
    let options = PlanOptions::default();
    let plan = AttentionPlan::new(ATTENTION.kernels(), &problem, &options).unwrap();
    let buffer = |bytes: &[u8]| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
        })
    };
    let [q, k, v] =
        [&operands.q, &operands.k, &operands.v].map(|values| buffer(bytemuck::cast_slice(values)));
    let (o, seed) = (buffer(&[0; 4 * 2 * 37 * 20]), buffer(&[0; 8]));
    for step in [1u64, 2, 1 << 40] {
        ATTENTION.queue().write_buffer(&seed, 0, bytemuck::bytes_of(&step));
        let mut encoder = device.create_command_encoder(&Default::default());
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: AuxBuffers::new().with(AuxTensor::DropoutSeed, seed.slice(..)),
            o: o.slice(..),
            lse: None,
        };
        plan.encode(&mut encoder, &buffers).unwrap();
        ATTENTION.queue().submit([encoder.finish()]);
        let found = ATTENTION.read_blocking(&o, 2 * 37 * 20).unwrap();
        let data = AuxData::new().dropout_seed(step);
        let truth = reference::attention(&problem, &operands.inputs().aux(&data)).unwrap();
        for (x, y) in found.iter().zip(&truth.o) {
            assert!((f64::from(*x) - y).abs() < WEIGHTS_ERROR, "seed {step}: {x} instead of {y}");
        }
    }
}

/// Over many seeds, the outputs' mean is the output without dropout.
#[test]
fn the_mean_over_seeds_is_the_output() {
    const SEEDS: u64 = 256;
    let shape = Shape::new(1, 2, 9, 4).seq_len_kv(17);
    let problem = Problem::new(shape).scale(0.1);
    let operands = Operands::random(&shape, 10);
    let run = |problem: &Problem, seed| {
        let data = AuxData::new().dropout_seed(seed);
        let inputs = operands.inputs().aux(&data);
        ATTENTION.run_blocking(problem, &inputs, &RunOptions::default()).unwrap().o
    };
    let expected = run(&problem, 0);
    let dropping = problem.dropout(0.3);
    let mut mean = vec![0.0; expected.len()];
    for seed in 0..SEEDS {
        for (mean, x) in mean.iter_mut().zip(run(&dropping, seed)) {
            *mean += f64::from(x) / SEEDS as f64;
        }
    }
    // A value below 8 has a deviation of at most 8 sqrt(0.3 / 0.7), were its row to keep one key alone.
    let deviation = 8.0 * (0.3f64 / 0.7).sqrt() / (SEEDS as f64).sqrt();
    for (mean, expected) in mean.iter().zip(&expected) {
        assert!((mean - f64::from(*expected)).abs() < 4.0 * deviation, "{mean}, {expected}");
    }
}

#[test]
fn bad_shares_and_seeds() {
    let shape = Shape::new(1, 2, 5, 8);
    let operands = Operands::random(&shape, 1);
    let refusal = |p: f32, data: &AuxData| {
        let inputs = operands.inputs().aux(data);
        let problem = Problem::new(shape).dropout(p);
        ATTENTION.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap_err().to_string()
    };
    for p in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
        let text = refusal(p, &AuxData::new());
        assert!(text.starts_with("dropout: expected a number from 0 to below 1"), "{text}");
    }
    assert!(refusal(0.5, &AuxData::new()).starts_with("dropout_seed: expected data"));
    let short = AuxData::new().ints(AuxTensor::DropoutSeed, [1]);
    let text = refusal(0.5, &short);
    assert!(text.contains("dropout_seed: expected 2 elements"), "{text}");
    // Without dropout, no seed is read.
    let problem = Problem::new(shape).dropout(0.0);
    assert_eq!(problem.aux_tensors(), []);
}
