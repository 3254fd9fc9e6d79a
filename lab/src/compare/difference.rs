//! How far a result is from the right one.

/// How far a result is from the reference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    /// The largest one of an element.
    pub(crate) largest: f64,
    /// The norm of the difference over the norm of the reference.
    pub(crate) relative: f64,
}

/// Differences of elements, added up.
#[derive(Debug, Default)]
pub(super) struct Differences {
    largest: f64,
    difference_squares: f64,
    squares: f64,
}

impl Differences {
    pub(super) fn add(&mut self, found: f32, reference: f64) {
        let difference = f64::from(found) - reference;
        // A NaN, which no comparison finds, counts as infinitely wrong.
        let distance = if difference.is_nan() { f64::INFINITY } else { difference.abs() };
        self.largest = self.largest.max(distance);
        self.difference_squares += difference * difference;
        self.squares += reference * reference;
    }

    pub(super) fn result(&self) -> Difference {
        let relative = (self.difference_squares / self.squares).sqrt();
        Difference { largest: self.largest, relative }
    }
}

impl Difference {
    /// Whether the result is the right one, in f32 or with products in f16.
    pub(crate) fn is_right(&self) -> bool {
        self.relative < 2e-3 && self.largest < 2e-2
    }
}
