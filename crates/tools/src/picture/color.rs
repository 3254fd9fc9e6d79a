//! From values to colours.

use super::Heatmap;

/// A colour's red, green and blue.
pub(super) type Rgb = [u8; 3];

/// What a cell is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ink {
    /// A step of the colour scale, 0 to 255.
    Scale(u8),
    /// −∞: hatched.
    Masked,
    /// NaN: a fault, so it stands out.
    NotANumber,
}

/// The colour of NaN, which the scale doesn't have.
pub(super) const NOT_A_NUMBER: Rgb = [0xe0, 0x1e, 0x37];

/// The step of a scale whose values are all the same.
const ONLY_STEP: u8 = 140;

/// The figure's colour scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) square_root: bool,
    /// Whether there's a finite value at all, a masked one, a NaN.
    pub(super) any: bool,
    pub(super) masked: bool,
    pub(super) not_a_number: bool,
    /// Whether every finite value is whole.
    pub(super) whole: bool,
}

impl Scale {
    pub(super) fn new(figure: &Heatmap) -> Self {
        let mut scale = Self {
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            square_root: figure.square_root,
            any: false,
            masked: false,
            not_a_number: false,
            whole: true,
        };
        for &value in figure.panels.iter().flat_map(|panel| &panel.values) {
            if value.is_finite() {
                scale.any = true;
                scale.low = scale.low.min(value);
                scale.high = scale.high.max(value);
                scale.whole &= value.fract() == 0.0;
            }
            scale.masked |= value == f32::NEG_INFINITY;
            scale.not_a_number |= value.is_nan();
        }
        if !scale.any {
            (scale.low, scale.high) = (0.0, 0.0);
        } else if scale.low > 0.0 && scale.high > scale.low {
            scale.low = 0.0;
        }
        if let Some((low, high)) = figure.range {
            (scale.low, scale.high) = (low, high);
        }
        scale
    }

    /// Whether there's but one value, so that no scale is needed to tell it.
    pub(super) fn is_single(&self) -> bool {
        self.low == self.high
    }

    pub(super) fn ink(&self, value: f32) -> Ink {
        if value.is_nan() {
            return Ink::NotANumber;
        }
        if value == f32::NEG_INFINITY {
            return Ink::Masked;
        }
        if self.is_single() {
            return Ink::Scale(ONLY_STEP);
        }
        Ink::Scale((self.place(f64::from(value)) * 255.0).round() as u8)
    }

    /// Where a value lies on the scale, from 0 to 1; in f64, for the distance of two f32 may be beyond f32.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = ((value - low) / (high - low)).clamp(0.0, 1.0);
        if self.square_root { part.sqrt() } else { part }
    }
}

/// The colour of a step of the scale: viridis, even to the eye and in grey, and told apart by the colour-blind.
pub(super) fn step(step: u8) -> Rgb {
    let color = colorous::VIRIDIS.eval_rational(usize::from(step), 256);
    [color.r, color.g, color.b]
}

/// Whether dark text is read better than white on this colour.
pub(super) fn takes_dark_text([r, g, b]: Rgb) -> bool {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b) > 150.0
}

/// `#rrggbb`
pub(super) fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}
