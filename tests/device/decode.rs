//! Few queries against many keys, with the keys in any number of splits: every mask, group size, head_dim, modifier and
//! type, and each step against the parallel pass.

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    AttentionPlan, AuxData, Dtype, Inputs, Mask, Output, Problem, RunOptions, ScoreModifiers,
    Shape, reference,
};

use crate::fixture::{ATTENTION, Operands, ScoreData, is_brief, masks_of_this_run, serving};
use crate::tolerance::{assert_close, naive, naive_modified};

/// None: as many as suit the device, 1 for short caches. 3 divides few numbers of tiles, 128 are more than there are tiles.
const SPLITS: [Option<usize>; 3] = [None, Some(3), Some(128)];

/// The decode kernels that serve `problem` here.
fn decode_kernels(problem: &Problem) -> Vec<ForwardKernel> {
    serving(problem, true)
}

fn run(
    problem: &Problem,
    operands: &Operands,
    kernel: ForwardKernel,
    num_splits: Option<usize>,
) -> Output {
    let outputs = RunOptions::default().lse(true).kernel(kernel).num_splits(num_splits);
    ATTENTION.run_blocking(problem, &operands.inputs(), &outputs).unwrap()
}

/// Compares o and lse of both kernels, in every number of splits, with the f64 reference.
fn check(shape: Shape, mask: &str, seed: u64) {
    check_splits(shape, mask, seed, &SPLITS);
}

fn check_splits(shape: Shape, mask: &str, seed: u64, splits: &[Option<usize>]) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &mask, &operands.inputs());
    for kernel in decode_kernels(&problem) {
        for &splits in splits {
            let output = run(&problem, &operands, kernel, splits);
            let what = format!("{kernel}, {splits:?} splits, {mask}, {shape:?}");
            assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
            assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
        }
    }
}

#[test]
fn every_mask_on_awkward_sizes() {
    for (at, mask) in masks_of_this_run().iter().enumerate() {
        // Whether the keys are split, and how many rows are packed, make further pipelines of each mask, and have little to do
        // with it; for head_dim see forward::every_mask_on_awkward_sizes. Few queries come in so many sequences more.
        let (splits, batch, many, head_dim): (&[_], _, _, _) =
            if at % 5 == 0 { (&SPLITS, 4, [16, 9], 20) } else { (&[Some(3)], 32, [2, 2], 12) };
        for (seed, (seq_len_q, seq_len_kv)) in
            (100 * at as u64..).zip([(2, 1), (2, 203), (many[0], 129), (many[1], 3), (many[0], 15)])
        {
            let shape =
                Shape::new(batch, 8, seq_len_q, head_dim).seq_len_kv(seq_len_kv).num_kv_heads(4);
            check_splits(shape, mask, seed, splits);
        }
    }
    // A tree is the last of the keys.
    check(Shape::new(2, 4, 13, 20).seq_len_kv(217).num_kv_heads(2), "tree", 7);
    check(Shape::new(1, 2, 16, 20).seq_len_kv(16).num_kv_heads(1), "tree & !window(2,0)", 8);
}

#[test]
fn every_group_size() {
    for (seed, (num_heads, num_kv_heads)) in (0..).zip([
        (8, 8),
        (8, 4),
        (9, 3),
        (8, 2),
        (5, 1),
        (12, 2),
        (7, 1),
        (8, 1),
        (9, 1),
        (32, 2),
    ]) {
        for (at, seq_len_q) in (0..).zip([1, 3, 15]) {
            // How many rows are packed makes a pipeline of each.
            if is_brief() && seed % 3 != at {
                continue;
            }
            let shape =
                Shape::new(4, num_heads, seq_len_q, 20).seq_len_kv(113).num_kv_heads(num_kv_heads);
            check(shape, "causal & key_lengths", seed);
        }
    }
}

#[test]
fn every_head_dim() {
    for (seed, head_dim) in (0..).zip([1, 4, 17, 32, 33, 64, 80, 128, 129, 200, 255, 256]) {
        let shape = Shape::new(4, 8, 2, head_dim).seq_len_kv(127).num_kv_heads(4);
        check_splits(shape, "causal & key_lengths", seed, &[Some(3)]);
    }
    for (seed, (head_dim, head_dim_v)) in (0..).zip([(64, 1), (1, 64), (24, 130), (256, 4)]) {
        let shape =
            Shape::new(4, 8, 2, head_dim).seq_len_kv(65).num_kv_heads(4).head_dim_v(head_dim_v);
        check_splits(shape, "causal & key_lengths", seed, &[Some(3)]);
    }
}

#[test]
fn long_caches() {
    check(Shape::new(1, 4, 1, 64).seq_len_kv(4097).num_kv_heads(1), "causal", 1);
    check(Shape::new(1, 4, 2, 20).seq_len_kv(1023).num_kv_heads(2), "window(100,0) & causal", 2);
}

#[test]
fn no_keys_and_no_queries() {
    for shape in [
        Shape::new(2, 2, 3, 8).seq_len_kv(0),
        Shape::new(2, 2, 0, 8).seq_len_kv(5),
        Shape::new(0, 2, 3, 8),
    ] {
        for mask in ["causal & key_lengths", "documents"] {
            check(shape, mask, 1);
        }
    }
}

#[test]
fn modifiers_and_types() {
    let all = ScoreModifiers::default().softcap(50.0).bias(true).alibi(true).sinks(true);
    let sinks = ScoreModifiers::default().sinks(true);
    let (f32, f16, bf16) = (Dtype::F32, Dtype::F16, Dtype::Bf16);
    let mixed = Dtypes::default().q(f32).k(f16).v(bf16).o(f32).bias(f32);
    for (seed, (score, dtypes, coarsest, scale)) in (0..).zip([
        (all, Dtypes::default(), f32, 0.2),
        (all, Dtypes::default(), f32, -0.2),
        (sinks, Dtypes::default(), f32, 0.2),
        (ScoreModifiers::default(), Dtype::F16.into(), f16, 0.2),
        (ScoreModifiers::default(), Dtype::Bf16.into(), bf16, 0.2),
        (sinks, mixed, bf16, 0.2),
    ]) {
        // Rows of odd lengths are read component by component, and those of 16 bits share words.
        for head_dim in if dtypes == mixed { vec![20, 9] } else { vec![20] } {
            let shape = Shape::new(4, 8, 2, head_dim).seq_len_kv(129).num_kv_heads(4);
            let mask: Mask = "causal & key_lengths".parse().unwrap();
            let problem =
                (Problem::new(shape).mask(mask.clone()).score(score)).scale(scale).dtypes(dtypes);
            let data = ScoreData::random(&shape, seed);
            let mut operands = Operands::random(&shape, seed);
            operands.mask = data.add_to(&shape, operands.mask);
            for (values, dtype) in [
                (&mut operands.q, dtypes.q),
                (&mut operands.k, dtypes.k),
                (&mut operands.v, dtypes.v),
            ] {
                values.iter_mut().for_each(|x| *x = dtype.round(*x));
            }
            let inputs = operands.inputs();
            let truth = reference::attention(&problem, &inputs).unwrap();
            let naive = naive_modified(&problem, &mask, &inputs, &score, &data, coarsest);
            for kernel in decode_kernels(&problem) {
                for splits in SPLITS {
                    let output = run(&problem, &operands, kernel, splits);
                    let what = format!("{kernel}, {splits:?} splits, {score:?}, {dtypes:?}");
                    assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
                    assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
                }
            }
        }
    }
}

/// The last query against the keys that there were by then, for every one of them.
#[test]
fn each_step_equals_its_row_of_the_parallel_pass() {
    let (seq, dim) = (69, 20);
    let shape = Shape::new(1, 4, seq, dim).num_kv_heads(2);
    for (seed, mask) in (0..).zip([
        "causal",
        "causal & window(9,0)",
        "causal & chunk(16)",
        "causal & (window(9,0) | global(2))",
        "causal & strided(3)",
    ]) {
        let mask: Mask = mask.parse().unwrap();
        let parallel = Problem::new(shape).mask(mask.clone());
        let operands = Operands::random(&shape, seed);
        let truth = reference::attention(&parallel, &operands.inputs()).unwrap();
        let naive = naive(&parallel, &mask, &operands.inputs());
        let rows = |values: &[f32], rows: std::ops::Range<usize>| -> Vec<f32> {
            let head = |head: &[f32]| head[rows.start * dim..rows.end * dim].to_vec();
            values.chunks(seq * dim).flat_map(head).collect()
        };
        let step = |t: usize| {
            Problem::new(Shape::new(1, 4, 1, dim).seq_len_kv(t + 1).num_kv_heads(2))
                .mask(mask.clone())
        };
        let kernels = decode_kernels(&step(0));
        let mut steps: Vec<(ForwardKernel, Option<usize>, Vec<f32>)> = Vec::new();
        for t in 0..seq {
            let step = step(t);
            let operands = Operands {
                q: rows(&operands.q, t..t + 1),
                k: rows(&operands.k, 0..t + 1),
                v: rows(&operands.v, 0..t + 1),
                mask: Default::default(),
            };
            for &kernel in &kernels {
                for splits in [Some(1), Some(3)] {
                    let found = run(&step, &operands, kernel, splits).o;
                    let at = steps.iter().position(|step| (step.0, step.1) == (kernel, splits));
                    let at = at.unwrap_or_else(|| {
                        steps.push((kernel, splits, vec![0.0; naive.o.len()]));
                        steps.len() - 1
                    });
                    for h in 0..4 {
                        let place = (h * seq + t) * dim;
                        steps[at].2[place..place + dim].copy_from_slice(&found[h * dim..][..dim]);
                    }
                }
            }
        }
        for (kernel, splits, o) in steps {
            let what = format!("o of {kernel}, {splits:?} splits, {mask}");
            assert_close(&what, &o, &naive.o, &truth.o);
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits_in_any_company() {
    let shape = Shape::new(2, 4, 3, 20).seq_len_kv(500).num_kv_heads(2);
    let operands = Operands::random(&shape, 4);
    let problem = Problem::new(shape).mask("documents | window(30,3)".parse().unwrap());
    for kernel in decode_kernels(&problem) {
        for splits in SPLITS {
            let first = run(&problem, &operands, kernel, splits);
            for _ in 0..3 {
                assert_eq!(first, run(&problem, &operands, kernel, splits), "{kernel}");
            }
        }
    }
}

#[test]
fn the_choice_and_its_refusals() {
    let kernels = ATTENTION.kernels();
    let few = Problem::new(Shape::new(1, 8, 1, 64).num_kv_heads(2).seq_len_kv(4096));
    let plan = AttentionPlan::new(kernels, &few, &Default::default()).unwrap();
    assert!(plan.kernel().is_decode(), "{}", plan.explain());
    assert!(plan.num_splits() > 1, "{}", plan.explain());
    assert!(plan.explain().contains(&format!("the keys in {} splits", plan.num_splits())));
    // 4000 sequences fill any device by themselves.
    let full = Problem::new(Shape::new(4000, 8, 1, 64).num_kv_heads(2).seq_len_kv(64));
    assert_eq!(AttentionPlan::new(kernels, &full, &Default::default()).unwrap().num_splits(), 1);

    let many = Problem::new(Shape::new(1, 2, 17, 64).seq_len_kv(4096));
    let plan = AttentionPlan::new(kernels, &many, &Default::default()).unwrap();
    assert!(!plan.kernel().is_decode() && plan.num_splits() == 1, "{}", plan.explain());
    let refusal = |problem: &Problem, kernel, splits| {
        AttentionPlan::new(
            kernels,
            problem,
            &PlanOptions::default().kernel(kernel).num_splits(splits),
        )
        .unwrap_err()
        .to_string()
    };
    let text = refusal(&many, Some(ForwardKernel::Decode), None);
    assert!(text.contains("up to 16 queries, here there are 17"), "{text}");
    let text = refusal(&few, Some(ForwardKernel::Tiled), Some(2));
    assert!(text.contains("it doesn't split the keys"), "{text}");
    for splits in [0, 256] {
        let text = refusal(&few, None, Some(splits));
        assert!(text.starts_with("num_splits: expected 1 to 255"), "{text}");
    }
}

/// What is masked never reaches an output, in whole caches and in split ones; what is kept does, in its own rows.
#[test]
fn hostile_contents() {
    let shape = Shape::new(2, 4, 5, 20).seq_len_kv(131).num_kv_heads(2);
    let problem = Problem::new(shape).mask("causal & key_lengths".parse().unwrap());
    let operands = |hostile: &dyn Fn(&mut Operands)| {
        let mut operands = Operands::random(&shape, 5);
        operands.mask = AuxData::new().key_lengths([131, 70]);
        hostile(&mut operands);
        operands
    };
    let clean = operands(&|_| ());
    // Beyond the second sequence's length; one component of a key that queries 2 to 4 of heads 0 and 1 keep; a whole key
    // that queries 3 and 4 keep.
    let behind = operands(&|operands| {
        for head in [2, 3] {
            operands.k[(head * 131 + 70) * 20..(head + 1) * 131 * 20].fill(f32::NAN);
            operands.v[(head * 131 + 70) * 20..(head + 1) * 131 * 20].fill(f32::INFINITY);
        }
    });
    let in_v = operands(&|operands| operands.v[128 * 20 + 3] = f32::NEG_INFINITY);
    let in_k = operands(&|operands| operands.k[129 * 20] = f32::NAN);
    for kernel in decode_kernels(&problem) {
        for splits in SPLITS {
            let expected = run(&problem, &clean, kernel, splits);
            assert_eq!(expected, run(&problem, &behind, kernel, splits), "{kernel}, {splits:?}");
            let [found_v, found_k] =
                [&in_v, &in_k].map(|operands| run(&problem, operands, kernel, splits));
            for row in 0..2 * 4 * 5 {
                let (head, q_idx) = (row / 5, row % 5);
                let what = format!("{kernel}, {splits:?} splits, row {row}");
                let shows = head < 2 && q_idx >= 3;
                assert_eq!(found_k.lse[row].is_nan(), shows, "lse of {what}");
                for at in row * 20..row * 20 + 20 {
                    let shows_v = head < 2 && q_idx >= 2 && at % 20 == 3;
                    assert_eq!(!found_v.o[at].is_finite(), shows_v, "o of {what}");
                    assert!(shows_v || found_v.o[at] == expected.o[at], "o of {what}");
                    assert_eq!(found_k.o[at].is_nan(), shows, "o of {what}");
                    assert!(shows || found_k.o[at] == expected.o[at], "o of {what}");
                }
            }
        }
    }
}

/// A sequence's bits, alone and at every place of batches of several sizes.
#[test]
fn batch_invariant_results() {
    let one = |seq_len_q| Shape::new(1, 4, seq_len_q, 20).seq_len_kv(1500).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let options = RunOptions::default().lse(true).batch_invariant(true);
    for (seed, seq_len_q) in [(1, 1), (2, 5), (3, 40)] {
        let alone: Vec<Operands> =
            (0..3).map(|b| Operands::random(&one(seq_len_q), 10 * seed + b)).collect();
        let lengths = [1500, 700, 33];
        let run = |order: &[usize]| {
            let join = |tensor: fn(&Operands) -> &[f32]| -> Vec<f32> {
                order.iter().flat_map(|&b| tensor(&alone[b]).to_vec()).collect()
            };
            let [q, k, v] = [join(|one| &one.q), join(|one| &one.k), join(|one| &one.v)];
            let aux =
                AuxData::new().key_lengths(order.iter().map(|&b| lengths[b]).collect::<Vec<i32>>());
            let problem = Problem::new(one(seq_len_q).batch(order.len())).mask(mask.clone());
            let output = ATTENTION
                .run_blocking(&problem, &Inputs::new(&q, &k, &v).aux(&aux), &options)
                .unwrap();
            let bits = |values: &[f32]| -> Vec<Vec<u32>> {
                (values.chunks(values.len() / order.len()))
                    .map(|one| one.iter().map(|x| x.to_bits()).collect())
                    .collect()
            };
            (bits(&output.o), bits(&output.lse))
        };
        let expected: Vec<_> = (0..3).map(|b| run(&[b])).collect();
        let many: Vec<usize> = (0..70).map(|at| at % 3).collect();
        for order in [&[0, 1, 2][..], &[2, 0], &many] {
            let (o, lse) = run(order);
            for (place, &b) in order.iter().enumerate() {
                assert_eq!(
                    o[place],
                    expected[b].0[0],
                    "o, {seq_len_q} queries, place {place} of {}",
                    order.len()
                );
                assert_eq!(lse[place], expected[b].1[0], "lse, {seq_len_q} queries, place {place}");
            }
        }
    }

    // Otherwise a small batch has more splits than a large one.
    let splits = |batch, options: &PlanOptions| {
        let problem = Problem::new(one(1).batch(batch));
        AttentionPlan::new(ATTENTION.kernels(), &problem, options).unwrap().num_splits()
    };
    assert_ne!(splits(1, &PlanOptions::default()), splits(70, &PlanOptions::default()));
    let invariant = PlanOptions::default().batch_invariant(true);
    assert_eq!([1, 70].map(|batch| splits(batch, &invariant)), [6, 6]);
}

/// Without splits, a token's bits are the same in a step of one token as in a step of many.
#[test]
fn steps_of_one_and_of_many_give_the_same_bits() {
    let whole = Shape::new(1, 4, 70, 20).num_kv_heads(2);
    let operands = Operands::random(&whole, 9);
    let mask: Mask = "causal".parse().unwrap();
    let problem = Problem::new(whole).mask(mask.clone());
    for kernel in serving(&problem, false) {
        let options = RunOptions::default().kernel(kernel).batch_invariant(true);
        let many = ATTENTION.run_blocking(&problem, &operands.inputs(), &options).unwrap();
        for token in [0, 31, 40, 69] {
            let rows = |values: &[f32], heads: usize, from: usize, to: usize| -> Vec<f32> {
                (0..heads)
                    .flat_map(|h| values[(h * 70 + from) * 20..(h * 70 + to) * 20].to_vec())
                    .collect()
            };
            let q = rows(&operands.q, 4, token, token + 1);
            let [k, v] = [&operands.k, &operands.v].map(|x| rows(x, 2, 0, token + 1));
            let shape = whole.seq_len_q(1).seq_len_kv(token + 1);
            let one = Problem::new(shape).mask(mask.clone());
            let one = ATTENTION.run_blocking(&one, &Inputs::new(&q, &k, &v), &options).unwrap();
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&one.o),
                bits(&rows(&many.o, 4, token, token + 1)),
                "{kernel}, token {token}"
            );
        }
    }
}
