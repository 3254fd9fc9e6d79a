//! What the device reaches at most: the rate of loads of the buffers that another contender reads, and that of
//! multiply-adds.

use wgpu_attention_tools::measure::{Clock, Loads, Peaks, Samples};

/// Kernels over the buffers that another contender reads.
pub(crate) struct Roofline {
    loads: Loads,
    /// Operations per second.
    operations: f64,
}

/// The best rates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Bytes per second.
    pub(crate) load: f64,
    /// Operations per second, a multiplication and an addition counting two.
    pub(crate) fma: f64,
}

impl Rates {
    /// The least time for so many bytes and operations: the longer of the two.
    pub(crate) fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.load).max(operations / self.fma)
    }
}

impl Roofline {
    /// Loads are timed over `buffers`.
    ///
    /// # Errors
    /// What the device reported.
    pub(crate) fn new(
        device: &wgpu::Device,
        clock: &Clock,
        buffers: &[&wgpu::Buffer],
    ) -> wgpu_attention::Result<Self> {
        let whole: Vec<_> = buffers.iter().map(|buffer| (*buffer, buffer.size())).collect();
        let operations = Peaks::measure(clock)?.operations;
        Ok(Self { loads: Loads::new(device, &whole)?, operations })
    }

    /// Records each kernel that loads.
    pub(crate) fn contenders(
        &self,
    ) -> Vec<impl Fn(&mut wgpu::CommandEncoder) -> wgpu_attention::Result<()>> {
        self.loads.contenders()
    }

    /// The best form's rate, from the times of [`Roofline::contenders`], and that of multiply-adds.
    pub(crate) fn rates(&self, samples: &[Samples]) -> Rates {
        let load = self.loads.rate(samples).unwrap_or(0.0);
        Rates { load, fma: self.operations }
    }
}
