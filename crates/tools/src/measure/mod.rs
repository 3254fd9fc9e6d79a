//! How fast the device is, and how much of that a plan reaches.
//!
//! - [`Clock`] times commands: the device's own timestamps where it has them, the process's CPU time beside it.
//! - [`Peaks`] are the device's own rates: multiply-adds and copies with kernels that do nothing else.
//! - [`Loads`] is the rate at which the device loads given buffers, which is higher than that of copies: the bound of
//!   decoding.
//! - [`Workload`] is a problem with operands on the device; it knows what its result costs at least.
//! - [`BackwardWorkload`] has both passes of a problem.
//! - [`tune`] finds the fastest kernels and tiles, for a [`wgpu_attention::kernel::Profile`].
//! - [`in_turns`] lets contenders run one after the other, again and again, so that what else the machine does meets all.
//!
//! ```no_run
//! use wgpu_attention_tools::measure::{Clock, Effort, Peaks, Workload, in_turns};
//! use wgpu_attention::{Session, AttentionPlan, Mask, AuxData, Problem, Shape};
//! let attention = Session::open_blocking(&Default::default())?;
//! let clock = Clock::new(attention.device(), attention.queue())?;
//! let peaks = Peaks::measure(&clock)?;
//! let problem = Problem::new(Shape::new(1, 8, 1024, 64)).mask(Mask::causal());
//! let work = Workload::new(&attention, &problem, &AuxData::new())?;
//! let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default())?;
//! let samples = in_turns(&clock, Effort::default(), &[&|encoder| work.encode(&plan, encoder)], |_| ())?;
//! let share = peaks.least_time(work.operations(), work.bytes()) / samples[0].busy().as_secs_f64();
//! println!("{:.0}% of the device's peak", 100.0 * share);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

mod backward;
mod clock;
mod device;
mod loads;
mod peaks;
mod tune;
mod workload;

pub use backward::BackwardWorkload;
pub use clock::{Clock, Contender, Effort, Samples, Time, in_turns};
pub use loads::Loads;
pub use peaks::Peaks;
pub use tune::tune;
pub use workload::{Workload, uniform};
