//! The GPUs that kernels are compiled for.

use super::code::Mix;

/// A family of AMD's GPUs, as RADV names it, and what bounds its kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Family {
    /// RADV's name; `-wave32` behind it, where RADV is told to compile for subgroups of 32.
    pub(crate) name: &'static str,
    /// What it's sold as.
    pub(crate) chips: &'static str,
    /// SIMDs that share a path to workgroup memory.
    simds: f64,
    /// Lanes of a subgroup.
    lanes: f64,
    /// Clocks that a SIMD issues a vector operation of a subgroup for.
    issue: f64,
    /// The same for a multiply-add in f32.
    multiply_add: f64,
}

/// Every family that the report has. On RDNA a SIMD has 32 lanes, RADV compiles compute kernels for subgroups of 64, and
/// RDNA 3 and 4 issue both halves of a multiply-add at once; with subgroups of 32 the compiler pairs operations. (AMD's instruction set guides and whitepapers.)
pub(crate) const FAMILIES: [Family; 7] = [
    Family { name: "polaris10", chips: "GCN 4: RX 480, RX 580", ..GCN },
    Family { name: "vega10", chips: "GCN 5: RX Vega 56 and 64", ..GCN },
    Family { name: "navi21", chips: "RDNA 2: RX 6800, RX 6900", ..RDNA },
    Family { name: "navi31", chips: "RDNA 3: RX 7900", multiply_add: 1.0, ..RDNA },
    Family { name: "navi31-wave32", chips: "the same with subgroups of 32", ..WAVE32 },
    Family { name: "gfx1151", chips: "RDNA 3.5: Ryzen AI Max", multiply_add: 1.0, ..RDNA },
    Family { name: "gfx1201", chips: "RDNA 4: RX 9070", multiply_add: 1.0, ..RDNA },
];

/// The rest of what RADV can pretend; nobody needs tables of them.
pub(crate) const OTHER_FAMILIES: [Family; 13] = [
    Family { name: "tahiti", chips: "GCN 1", ..GCN },
    Family { name: "hawaii", chips: "GCN 2", ..GCN },
    Family { name: "fiji", chips: "GCN 3", ..GCN },
    Family { name: "vega20", chips: "GCN 5", ..GCN },
    Family { name: "mi100", chips: "CDNA", ..GCN },
    Family { name: "raven", chips: "GCN 5", ..GCN },
    Family { name: "renoir", chips: "GCN 5", ..GCN },
    Family { name: "navi10", chips: "RDNA 1", ..RDNA },
    Family { name: "rembrandt", chips: "RDNA 2", ..RDNA },
    Family { name: "navi33", chips: "RDNA 3", multiply_add: 1.0, ..RDNA },
    Family { name: "phoenix", chips: "RDNA 3", multiply_add: 1.0, ..RDNA },
    Family { name: "gfx1150", chips: "RDNA 3.5", multiply_add: 1.0, ..RDNA },
    Family { name: "gfx1200", chips: "RDNA 4", multiply_add: 1.0, ..RDNA },
];

const GCN: Family =
    Family { name: "", chips: "", simds: 4.0, lanes: 64.0, issue: 4.0, multiply_add: 4.0 };
const RDNA: Family =
    Family { name: "", chips: "", simds: 2.0, lanes: 64.0, issue: 2.0, multiply_add: 2.0 };

const WAVE32: Family = Family { lanes: 32.0, issue: 1.0, multiply_add: 1.0, ..RDNA };

/// Bytes that a unit moves from or to its workgroup memory in a clock.
const LDS_BYTES_PER_CLOCK: f64 = 128.0;
/// Clocks of a product of 16 x 16 x 16 matrices in f16, whatever the subgroup.
const MATRIX_CLOCKS: f64 = 32.0;

impl Family {
    /// Whether RADV is told to compile for subgroups of 32; it does so for kernels that don't use subgroups.
    pub(crate) fn is_wave32(&self) -> bool {
        self.name.ends_with("-wave32")
    }

    /// RADV's name, and what else it is told.
    pub(crate) fn environment(&self) -> [(&'static str, &'static str); 2] {
        match self.name.strip_suffix("-wave32") {
            Some(chip) => [("RADV_FORCE_FAMILY", chip), ("RADV_PERFTEST", "cswave32")],
            None => [("RADV_FORCE_FAMILY", self.name), ("RADV_PERFTEST", "")],
        }
    }

    /// Clocks that a SIMD issues this arithmetic for.
    pub(crate) fn arithmetic_clocks(&self, mix: &Mix) -> f64 {
        let plain = mix.multiply_adds - mix.matrix;
        let pairs = mix.dual as f64 / 2.0;
        plain as f64 * self.multiply_add
            + self.matrix_clocks(mix)
            + (mix.vector as f64 - pairs) * self.issue
    }

    /// Those of them that are for matrix products.
    pub(crate) fn matrix_clocks(&self, mix: &Mix) -> f64 {
        mix.matrix as f64 * MATRIX_CLOCKS
    }

    /// Clocks for which these reads and writes, by every SIMD, take the path to workgroup memory.
    pub(crate) fn lds_clocks(&self, mix: &Mix) -> f64 {
        mix.lds_bytes as f64 * self.lanes / LDS_BYTES_PER_CLOCK * self.simds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_those_of_the_units() {
        // A 4 x 4 micro-tile over 4 components: 64 multiply-adds of 8 vectors of 16 bytes.
        let mix = Mix { multiply_adds: 64, lds: 8, lds_bytes: 128, ..Mix::default() };
        let [gcn, rdna3] = [&FAMILIES[0], &FAMILIES[3]];
        assert_eq!((gcn.arithmetic_clocks(&mix), gcn.lds_clocks(&mix)), (256.0, 256.0));
        assert_eq!((rdna3.arithmetic_clocks(&mix), rdna3.lds_clocks(&mix)), (64.0, 128.0));
        let paired = Mix { dual: 64, ..mix };
        let wave32 = &FAMILIES[4];
        assert_eq!((wave32.arithmetic_clocks(&paired), wave32.lds_clocks(&paired)), (32.0, 64.0));
        assert_eq!(wave32.environment()[0].1, "navi31");
    }
}
