//! Machine code, as far as its steps are counted: what instructions do, and where they jump.
//!
//! Each compiler prints code in a form of its own, which [`nak`], [`aco`], [`agx`], [`ir3`] and [`brw`] read. From there on all
//! are the same: [`graph`] finds blocks and loops, [`step`] counts what one step over the keys takes.

mod aco;
mod agx;
mod brw;
mod graph;
mod ir3;
mod lines;
mod nak;
mod step;

use drivers::GpuDriver;

use lines::Lines;
pub(crate) use step::{Known, Step};

/// Takes the code from what a compiler prints of a kernel, line by line.
#[derive(Debug)]
pub(crate) struct Code {
    driver: GpuDriver,
    lines: Lines,
}

impl Code {
    pub(crate) fn new(driver: GpuDriver) -> Self {
        Self { driver, lines: Lines::default() }
    }

    pub(crate) fn line(&mut self, text: &str) {
        match self.driver {
            GpuDriver::Nvk => nak::read(&mut self.lines, text),
            GpuDriver::Radv => aco::read(&mut self.lines, text),
            GpuDriver::Honeykrisp => agx::read(&mut self.lines, text),
            GpuDriver::Turnip => ir3::read(&mut self.lines, text),
            GpuDriver::Anv => brw::read(&mut self.lines, text),
        }
    }

    /// The step over the keys, if the kernel has one.
    pub(crate) fn step(&self, known: Option<Known>) -> Option<Step> {
        step::step(&self.lines.lines, known)
    }
}
