//! What the examples share: the same numbers on every run, and matrices on the screen.

// Each example compiles this module for itself and uses only a part of it.
#![allow(dead_code)]

/// Standard normal numbers, the same for the same seed on every machine.
pub(crate) fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    // The sum of twelve uniform numbers has variance 1 and is all but normal.
    let mut next = || (0..12).map(|_| uniform(&mut state)).sum::<f64>() - 6.0;
    (0..len).map(|_| next() as f32).collect()
}

/// A number in [0, 1) by SplitMix64 (Steele, Lea and Flood, 2014).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as f64 / 2f64.powi(64)
}

/// Prints a matrix between the names of its rows and columns. What is exactly zero is printed without decimals, so that
/// it can be told from what is merely small; a matrix of whole numbers needs none at all.
pub(crate) fn print_matrix(title: &str, rows: &[&str], columns: &[&str], values: &[f32]) {
    assert_eq!(values.len(), rows.len() * columns.len(), "{title}: a value for each cell");
    let longest = |names: &[&str]| names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let (margin, width) = (longest(rows), longest(columns).max(6) + 1);
    let is_whole = |value: &f32| value.is_infinite() || value.fract() == 0.0;
    let all_whole = values.iter().all(is_whole);
    println!("\n{title}\n");
    print!("  {:margin$}", "");
    columns.iter().for_each(|name| print!("{name:>width$}"));
    println!();
    for (name, row) in rows.iter().zip(values.chunks(columns.len())) {
        print!("  {name:<margin$}");
        for &value in row {
            let decimals = if all_whole || value == 0.0 { 0 } else { 2 };
            print!("{value:>width$.decimals$}");
        }
        println!();
    }
}

/// The largest absolute difference between two tensors; infinite where a NaN is involved.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "tensors of the same size");
    let difference = |(a, b): (&f32, &f32)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { difference }
    };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}
