//! Which kernels and tiles are fastest on a device.

use wgpu_attention::kernel::Profile;
use wgpu_attention::{AttentionPlan, AuxData, Problem, Result, Session};

use super::clock::{Clock, Contender, Effort, Samples, in_turns};
use super::workload::Workload;

/// The results of two kernels may differ by so much, relative to the largest value; those that differ more aren't
/// chosen, however fast they are.
const AGREEMENT: f32 = 1e-2;

/// Times every kernel with every variant of its tiles that serves each problem, interleaved, and keeps what is fastest: by
/// [`super::Samples::busy`]. Plans whose [`wgpu_attention::Kernels`] have the profile use it. `progress` is told which of
/// the problems it is, and what is done.
///
/// # Errors
/// As [`Workload::new`], and [`wgpu_attention::Error::KernelRefused`] where no kernel serves a problem.
///
/// ```no_run
/// use wgpu_attention_tools::measure::{Effort, tune};
/// use wgpu_attention::{Session, Kernels, AuxData, Problem, Shape};
/// use wgpu_attention::kernel::KernelOptions;
/// let attention = Session::open_blocking(&Default::default())?;
/// let problem = Problem::new(Shape::new(1, 8, 1024, 64));
/// let profile = tune(&attention, &[(problem, AuxData::new())], Effort::default(), |_, _| ())?;
/// profile.save("profile.json")?;
/// let options = KernelOptions::default().profile(profile);
/// let kernels = Kernels::new(attention.device(), &options);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn tune(
    attention: &Session,
    problems: &[(Problem, AuxData)],
    effort: Effort,
    mut progress: impl FnMut(usize, &str),
) -> Result<Profile> {
    let clock = Clock::new(attention.device(), attention.queue())?;
    let mut profile = Profile::new(attention.device());
    for (at, (problem, data)) in problems.iter().enumerate() {
        let work = Workload::new(attention, problem, data)?;
        let candidates = AttentionPlan::candidates(attention.kernels(), work.problem())?;
        let mut plans = Vec::new();
        for (nth, plan) in candidates.enumerate() {
            let plan = plan?;
            progress(
                at,
                &format!("compiled variant {}: {}, {}", nth + 1, plan.kernel(), plan.tiles()),
            );
            plans.push(plan);
        }
        let plans = agreeing(attention, &clock, &work, plans)?;
        let records: Vec<_> =
            plans.iter().map(|plan| |encoder: &mut _| work.encode(plan, encoder)).collect();
        let contenders: Vec<Contender<'_>> =
            records.iter().map(|record| record as Contender<'_>).collect();
        let samples = in_turns(&clock, effort, &contenders, |round| {
            progress(at, &format!("{} variants, round {round}", plans.len()));
        })?;
        let times = plans.iter().zip(samples.iter().map(Samples::busy));
        profile = profile.measured(work.problem(), times);
    }
    Ok(profile)
}

/// Those whose results are the first one's, which is the table's own choice.
fn agreeing(
    attention: &Session,
    clock: &Clock,
    work: &Workload,
    plans: Vec<AttentionPlan>,
) -> Result<Vec<AttentionPlan>> {
    let mut first: Option<Vec<f32>> = None;
    let mut kept = Vec::new();
    for plan in plans {
        clock.time(|encoder| work.encode(&plan, encoder))?;
        let o = work.output(attention)?;
        let same = first.as_ref().is_none_or(|first| {
            let largest = first.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            // Written so that a NaN differs.
            first.iter().zip(&o).all(|(a, b)| (a - b).abs() <= AGREEMENT * largest)
        });
        first.get_or_insert(o);
        if same {
            kept.push(plan);
        }
    }
    Ok(kept)
}
