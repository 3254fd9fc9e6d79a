//! How long the device takes for some commands.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

use wgpu_attention::{Error, Result, wgpu};

use super::device::{scoped, wait};

/// Times commands on the device's own clock where it has one, and by the wall's where not.
#[derive(Debug)]
pub struct Clock {
    device: wgpu::Device,
    queue: wgpu::Queue,
    timestamps: Option<Timestamps>,
}

#[derive(Debug)]
struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

/// Two timestamps of 8 bytes.
const BYTES: u64 = 16;

/// How long one run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// By the device's timestamps, or from submission to completion where it has none.
    pub device: Duration,
    /// Of all of the process's threads meanwhile: a CPU adapter's work is among it, a GPU's isn't.
    pub cpu: Duration,
    /// How long the device worked: `cpu` on a CPU adapter, where it doesn't count what other programs take, else `device`.
    pub busy: Duration,
}

impl Clock {
    /// A clock for commands of this device. Timestamps need `Features::TIMESTAMP_QUERY` and
    /// `TIMESTAMP_QUERY_INSIDE_ENCODERS`.
    ///
    /// # Errors
    /// Where the device can't allocate a few bytes.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self> {
        let needed =
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: BYTES,
                usage,
                mapped_at_creation: false,
            })
        };
        let timestamps = scoped(device, "allocating timestamps", || {
            device.features().contains(needed).then(|| Timestamps {
                queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
                staging: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            })
        })?;
        Ok(Self { device: device.clone(), queue: queue.clone(), timestamps })
    }

    /// A clock that goes by the wall, as a caller sees it: for comparisons with what has no timestamps.
    pub fn of_the_wall(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self { device: device.clone(), queue: queue.clone(), timestamps: None }
    }

    /// What [`Time::device`] is, in words.
    pub const fn name(&self) -> &'static str {
        match self.timestamps {
            Some(_) => "the device's timestamps",
            None => "wall time from submission to completion",
        }
    }

    pub(crate) const fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Submits what `record` records, waits for it, and returns how long it took.
    ///
    /// # Errors
    /// What `record` returns, or what the device reported.
    pub fn time(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<Time> {
        let (wall, cpu) = scoped(&self.device, "timing", || -> Result<_> {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            if let Some(Timestamps { queries, .. }) = &self.timestamps {
                encoder.write_timestamp(queries, 0);
            }
            record(&mut encoder)?;
            if let Some(Timestamps { queries, resolved, staging }) = &self.timestamps {
                encoder.write_timestamp(queries, 1);
                encoder.resolve_query_set(queries, 0..2, resolved, 0);
                encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, BYTES);
            }
            let commands = encoder.finish();
            let (wall, cpu) = (Instant::now(), ProcessTime::now());
            self.queue.submit([commands]);
            wait(&self.device, "timing")?;
            Ok((wall.elapsed(), cpu.elapsed()))
        })??;
        let device = match &self.timestamps {
            Some(timestamps) => self.read(&timestamps.staging)?,
            None => wall,
        };
        let is_cpu = self.device.adapter_info().device_type == wgpu::DeviceType::Cpu;
        Ok(Time { device, cpu, busy: if is_cpu { cpu } else { device } })
    }

    fn read(&self, staging: &wgpu::Buffer) -> Result<Duration> {
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        wait(&self.device, "reading timestamps")?;
        let range = staging.get_mapped_range(..).map_err(|error| Error::Device {
            during: "reading timestamps",
            message: error.to_string(),
        })?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&range);
        drop(range);
        staging.unmap();
        let period = f64::from(self.queue.get_timestamp_period());
        Ok(Duration::from_secs_f64(ticks[1].saturating_sub(ticks[0]) as f64 * period * 1e-9))
    }
}

/// How often contenders run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// At least so many rounds.
    pub least: usize,
    /// At most so many.
    pub most: usize,
    /// No further round is begun after so long.
    pub budget: Duration,
}

impl Effort {
    /// 3 rounds.
    pub const QUICK: Self = Self { least: 3, most: 3, budget: Duration::ZERO };
}

impl Default for Effort {
    /// 5 to 31 rounds, as many as go into 10 seconds.
    fn default() -> Self {
        Self { least: 5, most: 31, budget: Duration::from_secs(10) }
    }
}

/// The times of one contender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    times: Vec<Time>,
}

impl Samples {
    /// How many there are.
    pub const fn rounds(&self) -> usize {
        self.times.len()
    }

    /// The middle one of the device's times; 0 if there's none.
    pub fn median(&self) -> Duration {
        middle(self.times.iter().map(|time| time.device))
    }

    /// The shortest of the device's times; 0 if there's none.
    pub fn least(&self) -> Duration {
        self.times.iter().map(|time| time.device).min().unwrap_or_default()
    }

    /// The shortest of the times that the device worked; 0 if there's none.
    pub fn least_busy(&self) -> Duration {
        self.times.iter().map(|time| time.busy).min().unwrap_or_default()
    }

    /// The middle one of the CPU times; 0 if there's none.
    pub fn cpu(&self) -> Duration {
        middle(self.times.iter().map(|time| time.cpu))
    }

    /// The middle one of the times that the device worked; 0 if there's none.
    pub fn busy(&self) -> Duration {
        middle(self.times.iter().map(|time| time.busy))
    }
}

impl FromIterator<Time> for Samples {
    fn from_iter<T: IntoIterator<Item = Time>>(times: T) -> Self {
        Self { times: times.into_iter().collect() }
    }
}

fn middle(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Something that records commands.
pub type Contender<'a> = &'a dyn Fn(&mut wgpu::CommandEncoder) -> Result<()>;

/// Lets the contenders run in turns (A B A B …), after a first run of each that isn't counted: some drivers compile then.
/// `progress` is told the number of each round as it ends.
///
/// # Errors
/// As [`Clock::time`].
pub fn in_turns(
    clock: &Clock,
    effort: Effort,
    contenders: &[Contender<'_>],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Samples>> {
    for contender in contenders {
        clock.time(contender)?;
    }
    let mut samples = vec![Samples::default(); contenders.len()];
    let start = Instant::now();
    for round in 1..=effort.most.max(effort.least) {
        if round > effort.least && start.elapsed() >= effort.budget {
            break;
        }
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples.times.push(clock.time(contender)?);
        }
        progress(round);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_kind_of_time() {
        let ms = Duration::from_millis;
        let times = [(3, 30), (1, 50), (2, 40)].map(|(device, cpu)| Time {
            device: ms(device),
            cpu: ms(cpu),
            busy: ms(cpu),
        });
        let samples: Samples = times.into_iter().collect();
        assert_eq!((samples.median(), samples.least()), (ms(2), ms(1)));
        assert_eq!((samples.cpu(), samples.busy()), (ms(40), ms(40)));
        assert_eq!(Samples::default().median(), Duration::ZERO);
    }
}
