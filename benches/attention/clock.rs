//! How long the device takes for some commands.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Times commands on the device's own clock where it has one, and by the wall's where not.
pub(crate) struct Clock {
    device: wgpu::Device,
    queue: wgpu::Queue,
    timestamps: Option<Timestamps>,
}

struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

/// Two timestamps of 8 bytes.
const BYTES: u64 = 16;

impl Clock {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
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
        let timestamps = device.features().contains(needed).then(|| Timestamps {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            staging: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
        });
        Self { device: device.clone(), queue: queue.clone(), timestamps }
    }

    /// What the times are.
    pub(crate) fn name(&self) -> &'static str {
        match self.timestamps {
            Some(_) => "the device's timestamps",
            None => "wall time from submission to completion (the device has no timestamp queries)",
        }
    }

    /// Submits what `record` records, waits for it, and returns how long it took.
    pub(crate) fn time(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<Duration> {
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
        let start = Instant::now();
        self.queue.submit([commands]);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let wall = start.elapsed();
        match &self.timestamps {
            Some(timestamps) => self.read(&timestamps.staging),
            None => Ok(wall),
        }
    }

    fn read(&self, staging: &wgpu::Buffer) -> Result<Duration> {
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?);
        staging.unmap();
        let period = f64::from(self.queue.get_timestamp_period());
        Ok(Duration::from_secs_f64(ticks[1].saturating_sub(ticks[0]) as f64 * period * 1e-9))
    }
}
