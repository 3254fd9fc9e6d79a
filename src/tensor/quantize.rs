//! What quantized rows stand for, worked out on the CPU as `shaders/cache/store_row_i8.wgsl` and `store_row_i4.wgsl` store them.

use super::dtype::Dtype;

impl Dtype {
    /// The numbers that rows of `length` components stand for once they are stored in this type: [`Dtype::round`] of each, and of
    /// [`Dtype::I8`] and [`Dtype::I4`], whose rows have scales, what a [`KvCache`](crate::KvCache) keeps of them. A device's
    /// division may be off by a rounding, so that a component that lies between two steps may become the other one.
    ///
    /// ```
    /// use wgpu_attention::Dtype;
    /// let row = [-127.0, 1.4, 0.6, 126.4];
    /// assert_eq!(Dtype::I8.round_rows(&row, 4), [-127.0, 1.0, 1.0, 126.0]);
    /// ```
    pub fn round_rows(self, values: &[f32], length: usize) -> Vec<f32> {
        let rows = values.chunks(length.max(1));
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => values.iter().map(|&x| self.round(x)).collect(),
            Self::I8 => rows.flat_map(of_8_bits).collect(),
            Self::I4 => rows.flat_map(|row| row.chunks(GROUP)).flat_map(of_4_bits).collect(),
        }
    }
}

/// Components with a scale and a zero point.
const GROUP: usize = 32;

fn of_8_bits(row: &[f32]) -> Vec<f32> {
    if row.iter().any(|x| !x.is_finite()) {
        return vec![f32::NAN; row.len()];
    }
    let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    if largest < f32::MIN_POSITIVE {
        return vec![0.0; row.len()];
    }
    let unit = largest * (1.0 / 127.0);
    row.iter().map(|x| (0.5 + 127.0 * (x / largest)).floor() * unit).collect()
}

fn of_4_bits(group: &[f32]) -> Vec<f32> {
    let [least, most] = group.iter().fold([0f32; 2], |[a, b], &x| [a.min(x), b.max(x)]);
    let range = most - least;
    if group.iter().any(|x| !x.is_finite()) || range > 1e36 {
        return vec![f32::NAN; group.len()];
    }
    if range < 2e-37 {
        return vec![0.0; group.len()];
    }
    let by = |factor: f32| {
        // Four bits of mantissa, the nearest.
        let bits = (range / 15.0 * factor).to_bits() + (1 << 18);
        let scale = f32::from_bits(bits & 0xfff8_0000);
        let zero = (7.5 - (0.5 * least + 0.5 * most) / scale).round_ties_even().clamp(0.0, 15.0);
        let step = |x: f32| ((x / scale).round_ties_even() + zero).clamp(0.0, 15.0) - zero;
        let error: f64 = group.iter().map(|&x| f64::from(step(x) * scale - x).powi(2)).sum();
        let stored: Vec<f32> = group.iter().map(|&x| step(x) * scale).collect();
        (error, stored)
    };
    // The middle one where two are as good.
    let tried = [by(1.0), by(0.92), by(1.06)];
    let best = tried.into_iter().reduce(|best, next| if next.0 < best.0 { next } else { best });
    best.map_or_else(Vec::new, |(_, stored)| stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_4_bits_take_at_most_29_percent_of_f16() {
        for length in [64, 128, 256] {
            let [own, f16] =
                [Dtype::I4, Dtype::F16].map(|dtype| dtype.row_elements(length) * dtype.size());
            assert!(own * 100 <= f16 * 29, "{length}: {own} and {f16} bytes");
        }
    }

    #[test]
    fn groups_of_4_bits_keep_what_they_can() {
        let row: Vec<f32> = (0..40).map(|i| (i % 16) as f32 * 0.5 - 3.0).collect();
        assert_eq!(Dtype::I4.round_rows(&row, 40), row);
        let alike = Dtype::I4.round_rows(&[-0.3; 70], 70);
        assert!(alike.iter().all(|x| (x / -0.3 - 1.0).abs() < 0.02), "{alike:?}");
        // What isn't finite takes its own group along, or of 8 bits its row.
        let mut row = vec![1.0; 64];
        row[40] = f32::INFINITY;
        let stored = Dtype::I4.round_rows(&row, 64);
        assert!(stored[..32].iter().all(|x| x.is_finite()));
        assert!(stored[32..].iter().all(|x| x.is_nan()));
        assert!(Dtype::I8.round_rows(&row, 64).iter().all(|x| x.is_nan()));
        assert_eq!(Dtype::I4.round_rows(&[1e-38, -1e-38], 2), [0.0; 2]);
        assert_eq!(Dtype::I8.round_rows(&[], 0), [0.0; 0]);
    }
}
