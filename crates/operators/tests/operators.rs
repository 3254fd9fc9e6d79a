//! Every operator against the same in f64 on the CPU, at odd sizes.

use anyhow::Result;
use operators::{Dispatch, Format, Gpu, Mailbox, Matrix, Norm, Picker, Rows, Then};
use wgpu_attention::half::f16;

/// Numbers around 1, the same each time.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn upload(gpu: &Gpu, rows: usize, columns: usize, values: &[f32]) -> Rows {
    Rows { rows, columns, values: gpu.upload(values) }
}

fn run(gpu: &Gpu, dispatches: &[Dispatch], y: &Rows) -> Vec<f32> {
    let mut encoder = gpu.encoder();
    Dispatch::encode_all(dispatches, &mut encoder);
    gpu.submit(encoder);
    gpu.read(&y.values, y.len()).unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64], allowed: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        assert!(difference <= allowed, "{what}, at {at}: {found}, expected {expected}");
    }
}

/// Random weights as a file has them, and what they stand for.
fn weights(format: Format, seed: u32, count: usize) -> (Vec<u8>, Vec<f64>) {
    let values = numbers(seed, count);
    let half = |value: f32| (f16::from_f32(value).to_le_bytes(), f16::from_f32(value).to_f64());
    match format {
        Format::F32 => (
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            values.iter().map(|&value| f64::from(value)).collect(),
        ),
        Format::F16 => {
            let halves = values.iter().map(|&value| half(value));
            let (bytes, values): (Vec<_>, Vec<_>) = halves.unzip();
            (bytes.concat(), values)
        }
        Format::Q4_1 => {
            let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
            for block in values.chunks(32) {
                let ((scale, s), (minimum, m)) = (half(0.1 + block[0].abs()), half(block[1]));
                bytes.extend([scale, minimum].concat());
                let bits: Vec<u8> = block.iter().map(|x| ((x + 1.0) * 8.0) as u8 & 15).collect();
                bytes.extend((0..16).map(|j| bits[j] | bits[j + 16] << 4));
                decoded.extend(bits.iter().map(|&bits| s * f64::from(bits) + m));
            }
            (bytes, decoded)
        }
        Format::Q8_0 => {
            let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
            for block in values.chunks(32) {
                let (scale, s) = half(0.01 + 0.01 * block[0].abs());
                bytes.extend(scale);
                for &value in block {
                    // −128 among them.
                    let byte = (value * 130.0).clamp(-128.0, 127.0) as i8;
                    bytes.extend(byte.to_le_bytes());
                    decoded.push(s * f64::from(byte));
                }
            }
            (bytes, decoded)
        }
    }
}

#[test]
fn products_in_every_format() -> Result<()> {
    let gpu = Gpu::open()?;
    for format in [Format::F32, Format::F16, Format::Q4_1, Format::Q8_0] {
        let narrow = format.block()[0];
        for (rows, columns, outputs) in [
            (1, 96, 5),
            (3, narrow, 65),
            (8, 32 * 19, 66),
            (9, 96, 3),
            (35, narrow, 130),
            (70, 96, 64),
        ] {
            let what = format!("{format:?} [{rows}, {columns}] to {outputs}");
            let (bytes, w) = weights(format, 1, outputs * columns);
            let (x, before) = (numbers(2, rows * columns), numbers(3, rows * outputs));
            let bias = numbers(4, outputs);
            let matrix = Matrix::new(&gpu, "w", format, [outputs, columns], &bytes)?;
            let sums: Vec<f64> = (x.chunks(columns))
                .flat_map(|x| {
                    w.chunks(columns).map(|w| x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum())
                })
                .collect();
            let rows_x = upload(&gpu, rows, columns, &x);
            let y = upload(&gpu, rows, outputs, &before);
            let allowed = 1e-6 * columns as f64;
            let bias_buffer = gpu.upload(&bias);

            let then = Then { bias: Some(&bias_buffer), accumulate: true, ..Then::default() };
            let found = run(&gpu, &[gpu.product(&rows_x, &matrix, &y, then)?], &y);
            let expected: Vec<f64> = (sums.iter().zip(&before).enumerate())
                .map(|(at, (sum, &before))| sum + f64::from(bias[at % outputs]) + f64::from(before))
                .collect();
            assert_close(&found, &expected, allowed, &what);

            let found = run(
                &gpu,
                &[gpu.product(&rows_x, &matrix, &y, Then { gelu: true, ..Then::default() })?],
                &y,
            );
            let expected: Vec<f64> =
                sums.iter().map(|&x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))).collect();
            assert_close(&found, &expected, allowed + 1e-6, &format!("{what}, GELU"));
        }
    }
    let (bytes, _) = weights(Format::Q4_1, 1, 64);
    for (sizes, part) in [([1, 64], "30 bytes, where"), ([2, 48], "stores 32 together")] {
        let error = Matrix::new(&gpu, "w", Format::Q4_1, sizes, &bytes[..30]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    Ok(())
}

#[test]
fn norms() -> Result<()> {
    let gpu = Gpu::open()?;
    for (rows, columns) in [(1, 4), (5, 300), (3, 576)] {
        // Far from zero, where the mean matters.
        let x: Vec<f32> = numbers(1, rows * columns).iter().map(|x| 10.0 + x).collect();
        let (gain, shift) = (numbers(2, columns), numbers(3, columns));
        let rows_x = upload(&gpu, rows, columns, &x);
        let y = Rows::zeros(&gpu, rows, columns);
        let inverse = gpu.zeros(rows);
        for centered in [false, true] {
            let norm = Norm {
                gain: gpu.upload(&gain),
                shift: centered.then(|| gpu.upload(&shift)),
                epsilon: 1e-5,
            };
            let found = run(&gpu, &[gpu.norm(&rows_x, &norm, &y, Some(&inverse))?], &y);
            let mut scales = Vec::new();
            let expected: Vec<f64> = (x.chunks(columns))
                .flat_map(|row| {
                    let row: Vec<f64> = row.iter().map(|&x| x.into()).collect();
                    let mean =
                        if centered { row.iter().sum::<f64>() / columns as f64 } else { 0.0 };
                    let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
                    let scale = 1.0 / (square / columns as f64 + 1e-5).sqrt();
                    scales.push(scale);
                    let shift = |at: usize| if centered { shift[at] } else { 0.0 };
                    row.iter()
                        .enumerate()
                        .map(|(at, x)| {
                            (x - mean) * scale * f64::from(gain[at]) + f64::from(shift(at))
                        })
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_close(&found, &expected, 2e-5, &format!("[{rows}, {columns}] {centered}"));
            assert_close(&gpu.read(&inverse, rows)?, &scales, 1e-5 * scales[0], "inverse");
        }
    }
    Ok(())
}

#[test]
fn tables_folds_and_means() -> Result<()> {
    let gpu = Gpu::open()?;
    let (bytes, table) = weights(Format::Q8_0, 1, 7 * 96);
    let matrix = Matrix::new(&gpu, "table", Format::Q8_0, [7, 96], &bytes)?;
    // The last is out of range, and counts as the last of the table.
    let tokens = [3u32, 0, 6, 99];
    let y = Rows::zeros(&gpu, 4, 96);
    let twice = [false, true].map(|more| gpu.embed(&matrix, &gpu.upload(&tokens), &y, more));
    let [once, more] = twice;
    let found = run(&gpu, &[once?, more?], &y);
    let expected: Vec<f64> = (tokens.iter())
        .flat_map(|&token| &table[token.min(6) as usize * 96..][..96])
        .map(|x| 2.0 * x)
        .collect();
    assert_close(&found, &expected, 1e-6, "embed");

    let x = numbers(2, 5 * 8);
    let rows_x = upload(&gpu, 5, 8, &x);
    let y = Rows::zeros(&gpu, 3, 24);
    let found = run(&gpu, &[gpu.unfold(&rows_x, 2, &y)?], &y);
    let row = |at: isize| match at {
        0..5 => x[at as usize * 8..][..8].to_vec(),
        _ => vec![0.0; 8],
    };
    let expected: Vec<f32> = [-1, 0, 1, 1, 2, 3, 3, 4, 5].into_iter().flat_map(row).collect();
    assert_eq!(found, expected, "unfold");

    // An empty range, and one that reaches beyond the rows.
    let ranges = [[1u32, 3], [4, 0], [3, 99]];
    let y = Rows::zeros(&gpu, 3, 8);
    let found = run(&gpu, &[gpu.pool(&rows_x, &gpu.upload(&ranges), &y)?], &y);
    let expected: Vec<f64> = [1..4, 4..4, 3..5]
        .into_iter()
        .flat_map(|range| {
            let sum = |column: usize| -> f64 {
                range.clone().map(|row| f64::from(x[row * 8 + column])).sum()
            };
            let sums: Vec<f64> = (0..8).map(sum).collect();
            let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            sums.into_iter().map(move |x| x / length)
        })
        .collect();
    assert_close(&found, &expected, 1e-6, "pool");

    let (a, b) = (numbers(3, 40), numbers(4, 40));
    let y = Rows::zeros(&gpu, 5, 8);
    let (rows_a, rows_b) = (upload(&gpu, 5, 8, &a), upload(&gpu, 5, 8, &b));
    let found = run(&gpu, &[gpu.silu_product(&rows_a, &rows_b, &y)?], &y);
    let pairs = || a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let expected: Vec<f64> = pairs().map(|(a, b)| a / (1.0 + (-a).exp()) * b).collect();
    assert_close(&found, &expected, 1e-6, "silu_product");
    let found = run(&gpu, &[gpu.add(&rows_a, &rows_b, &y)?], &y);
    assert_close(&found, &pairs().map(|(a, b)| a + b).collect::<Vec<_>>(), 1e-6, "add");
    Ok(())
}

#[test]
fn tokens_are_chosen() -> Result<()> {
    let gpu = Gpu::open()?;
    let columns = 1000;
    let mut logits = numbers(1, 3 * columns);
    // The first of equal ones; NaN is never chosen; the bias keeps one out.
    (logits[77], logits[900]) = (5.0, 5.0);
    (logits[columns + 3], logits[columns + 998]) = (f32::NAN, 2.0);
    (logits[2 * columns + 10], logits[2 * columns + 11]) = (9.0, 8.0);
    let mut bias = vec![0.0f32; columns];
    bias[10] = -1e30;
    let rows = upload(&gpu, 3, columns, &logits);
    let (tokens, bias) = (gpu.zeros(3), gpu.upload(&bias));
    let mailbox = Mailbox::new(&gpu, 3);
    let choose = |picker: &Picker| -> Result<Vec<u32>> {
        let dispatch = picker.dispatch(&gpu, &rows, &bias, &tokens)?;
        let mut encoder = gpu.encoder();
        dispatch.encode(&mut encoder);
        mailbox.encode(&mut encoder, &tokens);
        gpu.submit(encoder);
        mailbox.receive(&gpu)
    };
    assert_eq!(choose(&Picker::new(&gpu, 0.0))?, [77, 998, 11]);

    // By chance, two equal logits far above the others get half of the choices each.
    let picker = Picker::new(&gpu, 0.1);
    let mut count = 0;
    for seed in 0..200 {
        picker.reseed(&gpu, seed);
        let first = choose(&picker)?[0];
        assert!(first == 77 || first == 900, "{first}");
        count += u32::from(first == 77);
    }
    assert!((70..=130).contains(&count), "{count} of 200");
    Ok(())
}
