//! What wgpu finds: the adapters of the system, and a real try of one of them.

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// An adapter, as far as the tasks care.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Adapter {
    /// The device's name.
    name: String,
    /// The driver's name and version, in the driver's own words.
    driver: String,
    /// The API that reaches it.
    backend: String,
    /// Whether it is a GPU, not a program on the CPU.
    is_gpu: bool,
    /// The smallest and the largest subgroup.
    subgroups: (u32, u32),
}

impl Adapter {
    fn new(info: &wgpu::AdapterInfo) -> Self {
        use wgpu::DeviceType::{DiscreteGpu, IntegratedGpu, VirtualGpu};
        Self {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            backend: info.backend.to_string(),
            is_gpu: matches!(info.device_type, IntegratedGpu | DiscreteGpu | VirtualGpu),
            subgroups: (info.subgroup_min_size, info.subgroup_max_size),
        }
    }

    /// Whether it is a GPU, not a program on the CPU.
    pub(crate) fn is_gpu(&self) -> bool {
        self.is_gpu
    }

    /// The device's name and what kernels depend on most.
    pub(crate) fn brief(&self) -> String {
        match self.subgroups {
            (least, most) if least == most => format!("{}, subgroups of {least}", self.name),
            (least, most) => format!("{}, subgroups of {least} to {most}", self.name),
        }
    }

    /// As the probe prints it and the stamp keeps it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "driver": self.driver,
            "backend": self.backend,
            "is_gpu": self.is_gpu,
            "subgroups": [self.subgroups.0, self.subgroups.1],
        })
    }

    /// The opposite of [`to_json`](Self::to_json); `None` if something is missing.
    pub(crate) fn from_json(json: &Value) -> Option<Self> {
        let text = |key: &str| Some(json.get(key)?.as_str()?.to_owned());
        let size = |index: usize| u32::try_from(json.get("subgroups")?.get(index)?.as_u64()?).ok();
        Some(Self {
            name: text("name")?,
            driver: text("driver")?,
            backend: text("backend")?,
            is_gpu: json.get("is_gpu")?.as_bool()?,
            subgroups: (size(0)?, size(1)?),
        })
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, driver {}, {}", self.brief(), self.driver, self.backend)
    }
}

/// The adapters that the system offers as it is, GPUs first. None if it lacks even a Vulkan loader.
pub(crate) fn adapters() -> Vec<Adapter> {
    let mut adapters: Vec<Adapter> = enumerate(wgpu::Backends::PRIMARY)
        .iter()
        .map(|adapter| Adapter::new(&adapter.get_info()))
        .collect();
    adapters.sort_by_key(|adapter| !adapter.is_gpu);
    adapters
}

/// Asks a program of this workspace, started on an unpacked driver, to try the driver out.
pub(crate) const VARIABLE: &str = "WGPU_ATTENTION_PROBE";

/// Where this program was started to try a driver out: does it, and prints the adapter as JSON. It needs nothing of the
/// workspace, since there may be no cargo around.
pub(crate) fn probed() -> Option<Result<ExitCode>> {
    std::env::var_os(VARIABLE)?;
    Some(open_adapter().map(|adapter| {
        println!("{}", adapter.to_json());
        ExitCode::SUCCESS
    }))
}

/// Opens the first adapter, runs a small shader on it and reads the result back: a driver that lists an adapter may still
/// lack a library that it compiles shaders with.
fn open_adapter() -> Result<Adapter> {
    let backends = wgpu::Backends::PRIMARY | wgpu::Backends::GL;
    let adapter = enumerate(backends).into_iter().next().context("wgpu finds no adapter")?;
    let info = Adapter::new(&adapter.get_info());
    let result = pollster::block_on(count_invocations(&adapter))
        .with_context(|| format!("{info} can't run a shader"))?;
    let expected: Vec<u32> = (0..INVOCATIONS).map(|id| 3 * id + 1).collect();
    ensure!(result == expected, "{info} computed {result:?} instead of {expected:?}");
    Ok(info)
}

/// `noop` computes nothing and GL is no backend that this project is tuned for; neither says that there is a GPU.
fn enumerate(among: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends &= among;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let backends = descriptor.backends;
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
}

/// How many invocations the shader of the probe has.
const INVOCATIONS: u32 = 64;

const SHADER: &str = "
@group(0) @binding(0) var<storage, read_write> result: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { result[id.x] = 3u * id.x + 1u; }
";

async fn count_invocations(adapter: &wgpu::Adapter) -> Result<Vec<u32>> {
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::downlevel_defaults(),
            ..Default::default()
        })
        .await?;
    let size = u64::from(INVOCATIONS) * 4;
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let result = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let readback = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(SHADER.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: result.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(INVOCATIONS / 64, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&result, 0, &readback, 0, size);
    queue.submit([encoder.finish()]);

    let (sender, receiver) = std::sync::mpsc::channel();
    readback.map_async(wgpu::MapMode::Read, .., move |mapped| {
        // The receiver lives until the answer is here.
        let _ = sender.send(mapped);
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    receiver.recv()??;
    let bytes = readback.get_mapped_range(..)?;
    Ok(bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        Adapter {
            name: "llvmpipe (LLVM 19.1.7, 256 bits)".into(),
            driver: "llvmpipe Mesa 26.1.6".into(),
            backend: "vulkan".into(),
            is_gpu: false,
            subgroups: (8, 8),
        }
    }

    #[test]
    fn adapters_survive_json() {
        let json = adapter().to_json().to_string();
        let json = serde_json::from_str(&json).unwrap();
        assert_eq!(Adapter::from_json(&json), Some(adapter()));
        assert_eq!(Adapter::from_json(&json!({"name": "half"})), None);
    }

    #[test]
    fn subgroups_are_named_once_if_they_are_one() {
        let one = adapter();
        assert_eq!(one.brief(), "llvmpipe (LLVM 19.1.7, 256 bits), subgroups of 8");
        let range = Adapter { subgroups: (32, 64), ..adapter() };
        assert!(range.brief().ends_with("subgroups of 32 to 64"));
    }
}
