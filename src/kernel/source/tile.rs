//! Tiles that a workgroup's invocations share: the products and sums of the forward and the backward pass.

use super::{Fill, Source};

impl Source {
    /// How invocations share a tile, and what of it lies in workgroup memory.
    pub(super) fn tile(&mut self) {
        self.part(&shader!("tile/turns"));
        self.part(&shader!("tile/side"));
        self.part(&shader!("tile/rows"));
        self.part(&shader!("tile/staged"));
    }

    /// `product_NEAR_FAR`; each tensor's rows are queries or keys.
    pub(super) fn product(&mut self, [near, far]: [&str; 2], [near_side, far_side]: [&str; 2]) {
        let values = [
            Fill::NearTensor(near),
            Fill::FarTensor(far),
            Fill::NearSide(near_side),
            Fill::FarSide(far_side),
        ];
        self.template(&shader!("tile/product"), &values);
    }

    /// `add_FAR`.
    pub(super) fn sum(&mut self, far: &str, far_side: &str, slice: &str) {
        let values = [Fill::FarTensor(far), Fill::FarSide(far_side), Fill::Slice(slice)];
        self.template(&shader!("tile/sum"), &values);
    }
}
