//! Every operation's gradients against finite differences.
//!
//! The loss is `Σ r · y` with random numbers r, so that r is y's gradient. A few elements of every input are moved a
//! little both ways; the slope of the loss, summed in f64, has to be what the backward pass says.

use anyhow::{Result, ensure};
use wgpu_attention::{AuxTensor, Layout, Mask, Problem, Shape};

use super::common::normal;
use super::tape::{Tape, Tensor};
use operators::Gpu;

/// How far an element is moved. Operations in f32 lose about 1e-7 / STEP of a slope, curvature about STEP².
const STEP: f32 = 1e-2;
/// The largest difference, as a share of the largest slope.
const TOLERANCE: f64 = 5e-3;
/// Elements tried per input.
const ELEMENTS: usize = 12;

/// Checks them all and prints the largest difference of each.
pub(crate) fn check(gpu: &Gpu) -> Result<()> {
    let tensor =
        |seed, rows: usize, columns| Tensor::new(gpu, rows, columns, &normal(seed, rows * columns));
    let (x, y) = (tensor(1, 20, 12), tensor(2, 20, 12));
    let (w, gain) = (tensor(3, 12, 24), tensor(4, 1, 12));
    let tokens: Vec<i32> = (0..20).map(|row| row * row % 7).collect();
    let tokens = gpu.upload(&tokens);
    let table = tensor(5, 9, 12);

    check_one(gpu, "linear", &[&x, &w], |tape| tape.linear(&x, &w))?;
    check_one(gpu, "embed", &[&table], |tape| tape.embed(&table, &tokens, 20))?;
    check_one(gpu, "norm", &[&x, &gain], |tape| tape.norm(&x, &gain))?;
    check_one(gpu, "gelu", &[&x], |tape| tape.gelu(&x))?;
    check_one(gpu, "add", &[&x, &y], |tape| tape.add(&x, &y))?;
    check_one(gpu, "rotate", &[&x], |tape| tape.rotate(&x, &tokens, 3))?;
    check_one(gpu, "add, twice", &[&x, &y], |tape| {
        let sum = tape.add(&x, &y)?;
        tape.add(&sum, &x)
    })?;

    // 2 sequences, 3 heads of 4; the second sequence keeps 7 of its 10 keys.
    let (q, k, v) = (tensor(6, 20, 12), tensor(7, 20, 12), tensor(8, 20, 12));
    let shape = Shape::new(2, 3, 10, 4);
    let problem = Problem::new(shape).layout(Layout::Bshd).mask(Mask::causal() & Mask::KeyLengths);
    let mask = vec![(AuxTensor::KeyLengths, gpu.upload(&[10, 7]))];
    check_one(gpu, "attention", &[&q, &k, &v], |tape| {
        tape.attention(&problem, [&q, &k, &v], &mask)
    })?;
    check_cross_entropy(gpu)
}

/// An operation's way back from random gradients of its result.
fn check_one(
    gpu: &Gpu,
    name: &str,
    inputs: &[&Tensor],
    build: impl FnOnce(&mut Tape<'_>) -> Result<Tensor>,
) -> Result<()> {
    let mut tape = Tape::for_training(gpu);
    let y = build(&mut tape)?;
    let r = normal(99, y.len());
    let loss = || -> Result<f64> {
        tape.run()?;
        let values = gpu.read(&y.values, y.len())?;
        Ok(values.iter().zip(&r).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum())
    };
    loss()?;
    let mut encoder = gpu.encoder();
    tape.encode_zero_gradients(&mut encoder);
    gpu.submit(encoder);
    gpu.write(&y.gradient, &r);
    let mut encoder = gpu.encoder();
    tape.encode_backward(&mut encoder)?;
    gpu.submit(encoder);
    compare(gpu, name, inputs, loss)
}

fn check_cross_entropy(gpu: &Gpu) -> Result<()> {
    let logits = Tensor::new(gpu, 6, 8, &normal(9, 48));
    let targets = gpu.upload(&[0, 3, 7, 2, 5, 1]);
    // The fifth row is padding.
    let weights = gpu.upload(&[0.2_f32, 0.2, 0.2, 0.2, 0.0, 0.2]);
    let mut tape = Tape::for_training(gpu);
    let losses = tape.cross_entropy(&logits, &targets, &weights)?;
    let mut encoder = gpu.encoder();
    tape.encode(&mut encoder)?;
    tape.encode_zero_gradients(&mut encoder);
    tape.encode_backward(&mut encoder)?;
    gpu.submit(encoder);
    let padding = &gpu.read(&logits.gradient, 48)?[32..40];
    ensure!(padding == [0.0; 8], "cross_entropy: padding has gradients {padding:?}");
    compare(gpu, "cross_entropy", &[&logits], || {
        tape.run()?;
        Ok(gpu.read(&losses, 6)?.iter().map(|loss| f64::from(*loss)).sum())
    })
}

/// The gradients that are in the inputs against the slopes of `loss`.
fn compare(
    gpu: &Gpu,
    name: &str,
    inputs: &[&Tensor],
    loss: impl Fn() -> Result<f64>,
) -> Result<()> {
    let mut largest = 0.0_f64;
    let mut worst = 0.0_f64;
    for input in inputs {
        let values = gpu.read(&input.values, input.len())?;
        let gradient = gpu.read(&input.gradient, input.len())?;
        for element in (0..input.len()).step_by((input.len() / ELEMENTS).max(1) | 1) {
            let at = |offset: f32| -> Result<(f64, f64)> {
                let mut moved = values.clone();
                moved[element] += offset;
                gpu.write(&input.values, &moved);
                Ok((loss()?, f64::from(moved[element])))
            };
            let (above, below) = (at(STEP)?, at(-STEP)?);
            gpu.write(&input.values, &values);
            let slope = (above.0 - below.0) / (above.1 - below.1);
            let difference = (slope - f64::from(gradient[element])).abs();
            ensure!(difference.is_finite(), "{name}: element {element} isn't finite");
            largest = largest.max(slope.abs());
            worst = worst.max(difference);
        }
    }
    println!("  {name:<14} largest slope {largest:>8.4}, largest difference {worst:.1e}");
    ensure!(largest > 0.0, "{name}: nothing depends on its inputs");
    ensure!(worst <= TOLERANCE * largest, "{name}: the gradient differs by {worst:.1e}");
    Ok(())
}
