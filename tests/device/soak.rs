//! Random calls one after another, each against the f64 reference, and memory that stays as it is: `cargo xtask soak`.
//!
//! Structures (masks, types, row lengths) come from small pools, so that calls share pipelines; sizes, lengths and numbers
//! are each call's own.

use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::{
    Dtype, Dtypes, KeySequences, Layout, Mask, MaskData, Problem, QuerySequences, Score, Sequences,
    Shape, reference,
};

use crate::dtypes::stored;
use crate::fixture::{ATTENTION, Operands, ScoreData, kernels, run};
use crate::tolerance::{assert_close, naive_modified};

/// How many calls, unless the environment says so.
const CALLS: u64 = 10_000;
const CALLS_VARIABLE: &str = "WGPU_ATTENTION_SOAK_CALLS";
const SEED_VARIABLE: &str = "WGPU_ATTENTION_SOAK_SEED";

const MASKS: [&str; 8] = [
    "all",
    "causal",
    "window(9,3)",
    "causal & key_lengths",
    "documents & causal",
    "prefix | causal",
    "dense",
    "!key_padding | global(2)",
];
/// Of sequences, whose data is made for each alone: positions decide.
const POSITIONS: [&str; 3] = ["all", "causal", "window(9,3)"];
const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
const DIMS: [usize; 3] = [8, 20, 64];
const FORMS: [KeySequences; 2] =
    [KeySequences::Packed { total: 0 }, KeySequences::Cached { left_padded: false }];
/// Combinations of those: each of `MASKS` once, each of `POSITIONS` in each form.
const STRUCTURES: usize = MASKS.len() + POSITIONS.len() * FORMS.len();

/// Elements `[heads, rows, dim]` of one sequence to where they lie: `at(h, row)` is the first element of a row.
fn lay(to: &mut [f32], from: &[f32], rows: usize, dim: usize, at: impl Fn(usize, usize) -> usize) {
    for (index, row) in from.chunks_exact(dim).enumerate() {
        to[at(index / rows, index % rows)..][..dim].copy_from_slice(row);
    }
}

/// The same back again.
fn gather(
    from: &[f32],
    heads: usize,
    rows: usize,
    dim: usize,
    at: impl Fn(usize, usize) -> usize,
) -> Vec<f32> {
    (0..heads * rows).flat_map(|i| from[at(i / rows, i % rows)..][..dim].iter().copied()).collect()
}

/// Compares o and lse of one dense `[batch, heads, seq, dim]` problem with the reference.
fn compare(
    what: &str,
    problem: &Problem,
    mask: &Mask,
    dtype: Dtype,
    operands: &Operands,
    found: [&[f32]; 2],
) {
    let inputs = operands.inputs();
    let truth = reference::attention(problem, &inputs).unwrap();
    let none = (Score::default(), ScoreData::default());
    let naive = naive_modified(problem, mask, &inputs, &none.0, &none.1, dtype);
    assert_close(&format!("o of {what}"), found[0], &naive.o, &truth.o);
    assert_close(&format!("lse of {what}"), found[1], &naive.lse, &truth.lse);
}

/// One call, made from a seed of its own.
fn call(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let structure = rng.random_range(0..STRUCTURES);
    let dtype = DTYPES[structure % DTYPES.len()];
    let dim = DIMS[structure / DTYPES.len() % DIMS.len()];
    let (form, mask) = match structure.checked_sub(MASKS.len()) {
        None => (None, MASKS[structure]),
        Some(at) => (Some(FORMS[at / POSITIONS.len()]), POSITIONS[at % POSITIONS.len()]),
    };
    let mask: Mask = mask.parse().unwrap();
    let layout = *[Layout::Bhsd, Layout::Bshd].choose(&mut rng).unwrap();
    let kv_heads = rng.random_range(1..=2);
    let heads = kv_heads * rng.random_range(1..=3);
    let batch = rng.random_range(1..=3);
    let length = |rng: &mut SmallRng| rng.random_range(1..=70usize);
    // Of each sequence: equal ones without a form.
    let lengths: Vec<(usize, usize)> = match form {
        None => vec![(length(&mut rng), length(&mut rng)); batch],
        Some(_) => (0..batch).map(|_| (length(&mut rng), length(&mut rng))).collect(),
    };
    let alone = |q_len: usize, kv_len: usize, batch: usize| {
        Shape::new(batch, heads, q_len, dim).seq_kv(kv_len).kv_heads(kv_heads)
    };
    let with = |shape: Shape| Problem::new(shape).mask(mask.clone()).dtypes(Dtypes::from(dtype));

    // What a row's place in its tensor is, for the sequence `b`: batches, rows and the first row of the sequence.
    let most = |of: fn(&(usize, usize)) -> usize| lengths.iter().map(of).max().unwrap();
    let (most_q, most_kv) = (most(|x| x.0), most(|x| x.1));
    let start =
        |b: usize, of: fn(&(usize, usize)) -> usize| lengths[..b].iter().map(of).sum::<usize>();
    let (q_total, kv_total) = (start(batch, |x| x.0), start(batch, |x| x.1));
    let q_packed = form.is_some();
    let kv_packed = matches!(form, Some(KeySequences::Packed { .. }));
    let place = |heads: usize, rows: usize, b: usize, first: usize, width: usize| {
        move |h: usize, row: usize| match layout {
            Layout::Bhsd => ((b * heads + h) * rows + first + row) * width,
            Layout::Bshd => ((b * rows + first + row) * heads + h) * width,
        }
    };
    let q_place = |b: usize| match q_packed {
        true => place(heads, q_total, 0, start(b, |x| x.0), dim),
        false => place(heads, most_q, b, 0, dim),
    };
    let kv_place = |b: usize| match kv_packed {
        true => place(kv_heads, kv_total, 0, start(b, |x| x.1), dim),
        false => place(kv_heads, most_kv, b, 0, dim),
    };
    let lse_place = |b: usize| {
        move |h: usize, row: usize| match q_packed {
            true => h * q_total + start(b, |x| x.0) + row,
            false => (b * heads + h) * most_q + row,
        }
    };

    let mut shape = alone(most_q, most_kv, batch);
    if let Some(kv) = form {
        let kv = if kv_packed { KeySequences::Packed { total: kv_total } } else { kv };
        shape = shape.sequences(Sequences { q: QuerySequences::Packed { total: q_total }, kv });
    }
    // A batch of equal sequences is one dense problem, for its data is; the others are one each.
    let dense: Vec<Operands> = match form {
        None => vec![stored(Operands::random(&shape, seed), dtype.into())],
        Some(_) => (0u64..)
            .zip(&lengths)
            .map(|(b, &(q_len, kv_len))| {
                stored(Operands::random(&alone(q_len, kv_len, 1), seed ^ (b + 1)), dtype.into())
            })
            .collect(),
    };
    let of_sequence = |values: &'static str, b: usize, heads: usize, rows: usize| -> Vec<f32> {
        let operands = if form.is_some() { &dense[b] } else { &dense[0] };
        let all = match values {
            "q" => &operands.q,
            "k" => &operands.k,
            _ => &operands.v,
        };
        let first = if form.is_some() { 0 } else { b * heads * rows * dim };
        all[first..][..heads * rows * dim].to_vec()
    };
    // NaN wherever no sequence lies.
    let mut laid = Operands {
        q: vec![f32::NAN; shape.q_len().unwrap()],
        k: vec![f32::NAN; shape.k_len().unwrap()],
        v: vec![f32::NAN; shape.v_len().unwrap()],
        mask: if form.is_some() { MaskData::new() } else { dense[0].mask.clone() },
    };
    for (b, &(q_len, kv_len)) in lengths.iter().enumerate() {
        lay(&mut laid.q, &of_sequence("q", b, heads, q_len), q_len, dim, q_place(b));
        lay(&mut laid.k, &of_sequence("k", b, kv_heads, kv_len), kv_len, dim, kv_place(b));
        lay(&mut laid.v, &of_sequence("v", b, kv_heads, kv_len), kv_len, dim, kv_place(b));
    }
    if form.is_some() {
        let starts = |of: fn(&(usize, usize)) -> usize| -> Vec<i32> {
            (0..=batch).map(|b| start(b, of) as i32).collect()
        };
        laid.mask = MaskData::new().q_starts(starts(|x| x.0));
        laid.mask = if kv_packed {
            laid.mask.kv_starts(starts(|x| x.1))
        } else {
            laid.mask.kv_lengths(lengths.iter().map(|x| x.1 as i32).collect::<Vec<_>>())
        };
    }

    let problem = with(shape).layout(layout);
    let serving = kernels(&problem);
    let kernel = *serving.choose(&mut rng).unwrap();
    let output = run(&problem, &laid, kernel);
    let what = format!("call {seed} ({kernel}, {mask}, {dtype:?}, {layout:?}, {shape:?})");
    let rows = |b: usize| {
        let q_len = lengths[b].0;
        let o = gather(&output.o, heads, q_len, dim, q_place(b));
        let lse = gather(&output.lse, heads, q_len, 1, lse_place(b));
        (o, lse)
    };
    if form.is_some() {
        for (b, &(q_len, kv_len)) in lengths.iter().enumerate() {
            let (o, lse) = rows(b);
            let problem = with(alone(q_len, kv_len, 1));
            compare(
                &format!("{what}, sequence {b}"),
                &problem,
                &mask,
                dtype,
                &dense[b],
                [&o, &lse],
            );
        }
    } else {
        let (o, lse): (Vec<_>, Vec<_>) = (0..batch).map(rows).unzip();
        let (o, lse) = (o.concat(), lse.concat());
        compare(&what, &with(shape), &mask, dtype, &dense[0], [&o, &lse]);
    }
}

/// The process's memory in MiB, where the system tells, and the driver's allocations that are alive.
fn memory() -> (Option<f64>, Option<usize>) {
    let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
    });
    // What calls are done with goes when the device is asked.
    ATTENTION.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let report = ATTENTION.device().generate_allocator_report();
    (resident, report.map(|report| report.allocations.len()))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn soak() {
    let calls = number(CALLS_VARIABLE).unwrap_or(CALLS);
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand_seed);
    println!("{calls} calls from seed {seed} ({SEED_VARIABLE} sets it)");
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta}").unwrap();
    let bar = ProgressBar::new(calls).with_style(style);
    // By then the pools' pipelines are compiled.
    let early = calls / 2;
    let mut before = None;
    for at in 0..calls {
        if at == early {
            before = Some((memory(), ATTENTION.kernels().compiled()));
        }
        call(seed.wrapping_add(at));
        bar.inc(1);
        if bar.is_hidden() && (at + 1) % 100 == 0 {
            println!("{} of {calls}", at + 1);
        }
    }
    bar.finish_and_clear();
    let (after, compiled) = (memory(), ATTENTION.kernels().compiled());
    let (before, compiled_before) = before.expect("half of the calls come before the others");
    let mib = |x: Option<f64>| x.map_or("?".to_owned(), |x| format!("{x:.0} MiB"));
    let live = |x: Option<usize>| x.map_or("?".to_owned(), |x| x.to_string());
    println!(
        "{calls} calls right; {compiled} pipelines, {compiled_before} of them after half of the calls"
    );
    println!("resident memory: {} after half of them, {} at the end", mib(before.0), mib(after.0));
    println!("the driver's live allocations: {} and {}", live(before.1), live(after.1));
    assert_eq!(before.1, after.1, "calls leave allocations behind");
}

/// Another one each time.
fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_micros() as u64
}
