//! A [`wgpu::Device`] whose compute passes are run by the sanitizer, so that a whole program runs under it unchanged: its
//! own buffers, its own parameters, dispatch after dispatch.
//!
//! ```
//! use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};
//! let sanitizer = Sanitizer::new(DeviceOptions { subgroup_size: 32, ..Default::default() });
//! let module = sanitizer.device().create_shader_module(wgpu::ShaderModuleDescriptor {
//!     label: None,
//!     source: wgpu::ShaderSource::Wgsl("@compute @workgroup_size(64) fn main() { workgroupBarrier(); }".into()),
//! });
//! // ... a pipeline, a pass, a submission ...
//! # drop(module);
//! for dispatch in sanitizer.take() {
//!     println!("{}: {}", dispatch.label, dispatch.report);
//! }
//! ```
//!
//! Submissions are done when `submit` returns. Only what compute passes need is there: buffers, bind groups, compute
//! pipelines, copies between buffers. Everything else panics with its name. What wgpu's validation checks on other
//! devices (limits, usages, layouts) isn't checked.

use std::collections::HashMap;
use std::future::ready;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use wgpu::custom::*;

use crate::{Binding, Buffer, Kernel, Options, Order, Report, Shader};

/// What the device pretends to be, and how its dispatches are run.
#[derive(Clone)]
pub struct DeviceOptions {
    /// Invocations of a subgroup: both ends of the range that the adapter's info states.
    pub subgroup_size: u32,
    /// The order of subgroups between barriers.
    pub order: Order,
    /// Whether variables of functions hold nothing until they are written.
    pub uninitialized_variables: bool,
    /// Whether new buffers hold nothing until they are written, instead of zeros as wgpu has them.
    pub poisoned_buffers: bool,
    /// How long a dispatch may take.
    pub time_limit: Duration,
    /// How many workgroups run at a time; 0 for as many as there are cores.
    pub threads: usize,
    /// The kind of device.
    pub device_type: wgpu::DeviceType,
    /// The features.
    pub features: wgpu::Features,
    /// The limits.
    pub limits: wgpu::Limits,
    /// Whether a dispatch with faults is a validation error with their words, so that the program hears of them as of every
    /// other error of its device. Notes are none.
    pub faults_are_errors: bool,
    /// Hears every report instead of its being kept for [`Sanitizer::take`].
    pub on_dispatch: Option<OnDispatch>,
    /// Changes shaders' texts before they are read; tests of the sanitizer itself break kernels with it.
    pub rewrite: Option<Rewrite>,
}

/// What changes a text: its own text, or another one.
pub type Rewrite = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What hears reports.
pub type OnDispatch = Arc<dyn Fn(&DispatchReport) + Send + Sync>;

impl std::fmt::Debug for DeviceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceOptions")
            .field("subgroup_size", &self.subgroup_size)
            .field("order", &self.order)
            .field("device_type", &self.device_type)
            .finish_non_exhaustive()
    }
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            subgroup_size: 32,
            order: Order::Forward,
            uninitialized_variables: false,
            poisoned_buffers: false,
            time_limit: Duration::from_secs(60),
            threads: 0,
            device_type: wgpu::DeviceType::Other,
            features: wgpu::Features::SUBGROUP
                | wgpu::Features::SHADER_F16
                | wgpu::Features::SHADER_INT64
                | wgpu::Features::SHADER_F64,
            limits: wgpu::Limits {
                max_compute_workgroup_storage_size: 32 << 10,
                max_compute_invocations_per_workgroup: 1024,
                max_compute_workgroup_size_x: 1024,
                max_compute_workgroup_size_y: 1024,
                max_storage_buffer_binding_size: 1 << 30,
                max_buffer_size: 1 << 30,
                ..wgpu::Limits::defaults()
            },
            faults_are_errors: false,
            on_dispatch: None,
            rewrite: None,
        }
    }
}

/// What a dispatch was, and what was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DispatchReport {
    /// The pipeline's label, or its entry point.
    pub label: String,
    /// How many workgroups there were.
    pub workgroups: [u32; 3],
    /// The shader's text.
    pub source: Arc<str>,
    /// What was found.
    pub report: Report,
}

/// A device under the sanitizer.
#[derive(Debug, Clone)]
pub struct Sanitizer {
    device: wgpu::Device,
    queue: wgpu::Queue,
    shared: Arc<Shared>,
}

impl Sanitizer {
    /// A new device.
    pub fn new(options: DeviceOptions) -> Self {
        let shared = Arc::new(Shared {
            options,
            reports: Mutex::default(),
            scopes: Mutex::default(),
            handler: Mutex::default(),
        });
        Self {
            device: wgpu::Device::from_custom(SanitizedDevice(Arc::clone(&shared))),
            queue: wgpu::Queue::from_custom(SanitizedQueue(Arc::clone(&shared))),
            shared,
        }
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The reports of all dispatches since the last call, in their order.
    pub fn take(&self) -> Vec<DispatchReport> {
        std::mem::take(&mut lock(&self.shared.reports))
    }

    /// The sanitizer's own buffer behind one of its device's, to poison or protect parts of it.
    pub fn buffer(buffer: &wgpu::Buffer) -> Option<&Buffer> {
        buffer.as_custom::<SanitizedBuffer>().map(|buffer| &*buffer.buffer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors that a scope waits for.
type Scope = (wgpu::ErrorFilter, Option<wgpu::Error>);

struct Shared {
    options: DeviceOptions,
    reports: Mutex<Vec<DispatchReport>>,
    scopes: Mutex<HashMap<ThreadId, Vec<Scope>>>,
    handler: Mutex<Option<Arc<dyn wgpu::UncapturedErrorHandler>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

impl Shared {
    fn info(&self) -> wgpu::AdapterInfo {
        let size = self.options.subgroup_size;
        wgpu::AdapterInfo {
            name: format!("wgsl-sanitizer (subgroups of {size})"),
            driver: "wgsl-sanitizer".into(),
            driver_info: env!("CARGO_PKG_VERSION").into(),
            subgroup_min_size: size,
            subgroup_max_size: size,
            ..wgpu::AdapterInfo::new(self.options.device_type, wgpu::Backend::Noop)
        }
    }

    /// Has an error heard by the innermost scope for it, by the handler, or by a panic, as wgpu does.
    fn error(&self, description: String) {
        let source = description.clone().into();
        let error = wgpu::Error::Validation { source, description };
        let mut scopes = lock(&self.scopes);
        let own = scopes.entry(std::thread::current().id()).or_default();
        let hears = |scope: &&mut Scope| scope.0 == wgpu::ErrorFilter::Validation;
        if let Some(scope) = own.iter_mut().rev().find(hears) {
            scope.1.get_or_insert(error);
            return;
        }
        drop(scopes);
        let handler = lock(&self.handler).clone();
        match handler {
            Some(handler) => handler(error),
            None => panic!("wgsl-sanitizer: {error}"),
        }
    }
}

fn unsupported(what: &str) -> ! {
    panic!("wgsl-sanitizer's device runs compute passes; it has no {what}");
}

#[derive(Debug)]
struct SanitizedDevice(Arc<Shared>);

#[derive(Debug)]
struct SanitizedQueue(Arc<Shared>);

#[derive(Debug)]
struct SanitizedModule(Option<Arc<(Shader, Arc<str>)>>);

#[derive(Debug)]
struct SanitizedPipeline(Option<Arc<Compiled>>);

#[derive(Debug)]
struct Compiled {
    label: String,
    source: Arc<str>,
    kernel: Kernel,
    zero_workgroup_memory: bool,
}

#[derive(Debug)]
struct SanitizedBuffer {
    buffer: Arc<Buffer>,
}

#[derive(Debug)]
struct Nothing;

impl PipelineLayoutInterface for Nothing {}
impl BindGroupLayoutInterface for Nothing {}

/// Bindings with dynamic offsets in the order of their numbers.
#[derive(Debug)]
struct SanitizedLayout {
    dynamic: Vec<u32>,
}

impl BindGroupLayoutInterface for SanitizedLayout {}

#[derive(Debug, Clone)]
struct Bound {
    group: u32,
    binding: u32,
    buffer: Arc<Buffer>,
    range: Range<u64>,
}

#[derive(Debug)]
struct SanitizedBindGroup {
    entries: Vec<Bound>,
    dynamic: Vec<u32>,
}

impl BindGroupInterface for SanitizedBindGroup {}

#[derive(Debug)]
enum Command {
    Copy { from: Arc<Buffer>, range: Range<u64>, to: Arc<Buffer>, offset: u64 },
    Clear { buffer: Arc<Buffer>, range: Range<u64> },
    Dispatch { pipeline: Arc<Compiled>, bound: Vec<Bound>, immediates: Vec<u8>, count: Count },
}

#[derive(Debug)]
enum Count {
    Direct([u32; 3]),
    Indirect(Arc<Buffer>, u64),
}

type Commands = Arc<Mutex<Vec<Command>>>;

#[derive(Debug)]
struct SanitizedEncoder {
    shared: Arc<Shared>,
    commands: Commands,
}

#[derive(Debug)]
struct SanitizedCommands(Mutex<Vec<Command>>);

impl CommandBufferInterface for SanitizedCommands {}

#[derive(Debug)]
struct SanitizedPass {
    shared: Arc<Shared>,
    commands: Commands,
    pipeline: Option<Arc<Compiled>>,
    bound: HashMap<u32, Vec<Bound>>,
    immediates: Vec<u8>,
}

fn buffer_of(buffer: &DispatchBuffer) -> Arc<Buffer> {
    match buffer.as_custom::<SanitizedBuffer>() {
        Some(buffer) => Arc::clone(&buffer.buffer),
        None => unsupported("buffers of other devices"),
    }
}

impl DeviceInterface for SanitizedDevice {
    fn features(&self) -> wgpu::Features {
        self.0.options.features
    }

    fn limits(&self) -> wgpu::Limits {
        self.0.options.limits.clone()
    }

    fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.0.info()
    }

    fn create_shader_module(
        &self,
        desc: wgpu::ShaderModuleDescriptor<'_>,
        _: wgpu::ShaderRuntimeChecks,
    ) -> DispatchShaderModule {
        let wgpu::ShaderSource::Wgsl(text) = &desc.source else {
            unsupported("shaders but WGSL");
        };
        let text: Arc<str> = match &self.0.options.rewrite {
            Some(rewrite) => rewrite(text).into(),
            None => Arc::from(&**text),
        };
        DispatchShaderModule::custom(SanitizedModule(match Shader::from_wgsl(&text) {
            Ok(shader) => Some(Arc::new((shader, text))),
            Err(error) => {
                self.0.error(error.to_string());
                None
            }
        }))
    }

    #[expect(unsafe_code, reason = "the trait's; nothing is done")]
    unsafe fn create_shader_module_passthrough(
        &self,
        _: &wgpu::ShaderModuleDescriptorPassthrough<'_>,
    ) -> DispatchShaderModule {
        unsupported("shaders but WGSL")
    }

    fn create_bind_group_layout(
        &self,
        desc: &wgpu::BindGroupLayoutDescriptor<'_>,
    ) -> DispatchBindGroupLayout {
        let is_dynamic = |entry: &&wgpu::BindGroupLayoutEntry| {
            matches!(entry.ty, wgpu::BindingType::Buffer { has_dynamic_offset: true, .. })
        };
        let entries = desc.entries.iter().filter(is_dynamic);
        let mut dynamic: Vec<u32> = entries.map(|entry| entry.binding).collect();
        dynamic.sort_unstable();
        DispatchBindGroupLayout::custom(SanitizedLayout { dynamic })
    }

    fn create_bind_group(&self, desc: &wgpu::BindGroupDescriptor<'_>) -> DispatchBindGroup {
        let mut entries = Vec::new();
        for entry in desc.entries {
            let wgpu::BindingResource::Buffer(of) = &entry.resource else {
                unsupported("bindings but buffers");
            };
            let Some(own) = of.buffer.as_custom::<SanitizedBuffer>() else {
                unsupported("buffers of other devices");
            };
            let end = match of.size {
                Some(size) => of.offset + size.get(),
                None => of.buffer.size(),
            };
            entries.push(Bound {
                group: 0,
                binding: entry.binding,
                buffer: Arc::clone(&own.buffer),
                range: of.offset..end,
            });
        }
        let layout = desc.layout.as_custom::<SanitizedLayout>();
        let dynamic = layout.map_or(Vec::new(), |layout| layout.dynamic.clone());
        DispatchBindGroup::custom(SanitizedBindGroup { entries, dynamic })
    }

    fn create_pipeline_layout(
        &self,
        _: &wgpu::PipelineLayoutDescriptor<'_>,
    ) -> DispatchPipelineLayout {
        DispatchPipelineLayout::custom(Nothing)
    }

    fn create_render_pipeline(
        &self,
        _: &wgpu::RenderPipelineDescriptor<'_>,
    ) -> DispatchRenderPipeline {
        unsupported("render pipelines")
    }

    fn create_mesh_pipeline(&self, _: &wgpu::MeshPipelineDescriptor<'_>) -> DispatchRenderPipeline {
        unsupported("mesh pipelines")
    }

    fn create_compute_pipeline(
        &self,
        desc: &wgpu::ComputePipelineDescriptor<'_>,
    ) -> DispatchComputePipeline {
        let module = desc.module.as_custom::<SanitizedModule>();
        let module = module.and_then(|module| module.0.as_ref());
        let Some((shader, source)) = module.map(|module| &**module) else {
            self.0.error("the shader module is invalid".into());
            return DispatchComputePipeline::custom(SanitizedPipeline(None));
        };
        let entry_point = match desc.entry_point {
            Some(name) => name.to_owned(),
            None => shader.entry_points().next().unwrap_or_default().to_owned(),
        };
        let options = &desc.compilation_options;
        let size = self.0.options.subgroup_size;
        let pipeline = match shader.kernel(&entry_point, options.constants, size) {
            Ok(kernel) => Some(Arc::new(Compiled {
                label: desc.label.unwrap_or(&entry_point).to_owned(),
                source: Arc::clone(source),
                kernel,
                zero_workgroup_memory: options.zero_initialize_workgroup_memory,
            })),
            Err(error) => {
                self.0.error(error.to_string());
                None
            }
        };
        DispatchComputePipeline::custom(SanitizedPipeline(pipeline))
    }

    #[expect(unsafe_code, reason = "the trait's; nothing is done")]
    unsafe fn create_pipeline_cache(
        &self,
        _: &wgpu::PipelineCacheDescriptor<'_>,
    ) -> DispatchPipelineCache {
        unsupported("pipeline caches")
    }

    fn create_buffer(&self, desc: &wgpu::BufferDescriptor<'_>) -> DispatchBuffer {
        let buffer = Buffer::new(desc.size);
        if self.0.options.poisoned_buffers && !desc.mapped_at_creation {
            buffer.poison(0..desc.size);
        }
        DispatchBuffer::custom(SanitizedBuffer { buffer: Arc::new(buffer) })
    }

    fn create_texture(&self, _: &wgpu::TextureDescriptor<'_>) -> DispatchTexture {
        unsupported("textures")
    }

    fn create_external_texture(
        &self,
        _: &wgpu::ExternalTextureDescriptor<'_>,
        _: &[&wgpu::TextureView],
    ) -> DispatchExternalTexture {
        unsupported("textures")
    }

    fn create_blas(
        &self,
        _: &wgpu::CreateBlasDescriptor<'_>,
        _: wgpu::BlasGeometrySizeDescriptors,
    ) -> (Option<u64>, DispatchBlas) {
        unsupported("acceleration structures")
    }

    fn create_tlas(&self, _: &wgpu::CreateTlasDescriptor<'_>) -> DispatchTlas {
        unsupported("acceleration structures")
    }

    fn create_sampler(&self, _: &wgpu::SamplerDescriptor<'_>) -> DispatchSampler {
        unsupported("samplers")
    }

    fn create_query_set(&self, _: &wgpu::QuerySetDescriptor<'_>) -> DispatchQuerySet {
        unsupported("queries")
    }

    fn create_command_encoder(
        &self,
        _: &wgpu::CommandEncoderDescriptor<'_>,
    ) -> DispatchCommandEncoder {
        let shared = Arc::clone(&self.0);
        DispatchCommandEncoder::custom(SanitizedEncoder { shared, commands: Commands::default() })
    }

    fn create_render_bundle_encoder(
        &self,
        _: &wgpu::RenderBundleEncoderDescriptor<'_>,
    ) -> DispatchRenderBundleEncoder {
        unsupported("render bundles")
    }

    fn set_device_lost_callback(&self, _: BoxDeviceLostCallback) {}

    fn on_uncaptured_error(&self, handler: Arc<dyn wgpu::UncapturedErrorHandler>) {
        *lock(&self.0.handler) = Some(handler);
    }

    fn push_error_scope(&self, filter: wgpu::ErrorFilter) -> u32 {
        let mut scopes = lock(&self.0.scopes);
        let own = scopes.entry(std::thread::current().id()).or_default();
        own.push((filter, None));
        own.len() as u32 - 1
    }

    fn pop_error_scope(&self, index: u32) -> Pin<Box<dyn PopErrorScopeFuture>> {
        let mut scopes = lock(&self.0.scopes);
        let own = scopes.entry(std::thread::current().id()).or_default();
        let error = if (index as usize) < own.len() { own.remove(index as usize).1 } else { None };
        Box::pin(ready(error))
    }

    #[expect(unsafe_code, reason = "the trait's; nothing is done")]
    unsafe fn start_graphics_debugger_capture(&self) {}

    #[expect(unsafe_code, reason = "the trait's; nothing is done")]
    unsafe fn stop_graphics_debugger_capture(&self) {}

    fn poll(&self, _: wgpu::wgt::PollType<u64>) -> Result<wgpu::PollStatus, wgpu::PollError> {
        Ok(wgpu::PollStatus::QueueEmpty)
    }

    fn get_internal_counters(&self) -> wgpu::InternalCounters {
        Default::default()
    }

    fn generate_allocator_report(&self) -> Option<wgpu::AllocatorReport> {
        None
    }

    fn destroy(&self) {}
}

impl QueueInterface for SanitizedQueue {
    fn write_buffer(&self, buffer: &DispatchBuffer, offset: wgpu::BufferAddress, data: &[u8]) {
        let buffer = buffer_of(buffer);
        let end = offset + data.len() as u64;
        if end > buffer.len() {
            return self.0.error(format!("bytes {offset}..{end} of a buffer of {}", buffer.len()));
        }
        buffer.write(offset, data);
    }

    fn create_staging_buffer(&self, size: wgpu::BufferSize) -> Option<DispatchQueueWriteBuffer> {
        Some(DispatchQueueWriteBuffer::custom(Staging(vec![0; size.get() as usize])))
    }

    fn validate_write_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        size: wgpu::BufferSize,
    ) -> Option<()> {
        (offset + size.get() <= buffer_of(buffer).len()).then_some(())
    }

    fn write_staging_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        staging_buffer: &DispatchQueueWriteBuffer,
    ) {
        if let Some(staging) = staging_buffer.as_custom::<Staging>() {
            buffer_of(buffer).write(offset, &staging.0);
        }
    }

    fn write_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: &[u8],
        _: wgpu::TexelCopyBufferLayout,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn submit(&self, command_buffers: &mut dyn Iterator<Item = DispatchCommandBuffer>) -> u64 {
        for commands in command_buffers {
            if let Some(commands) = commands.as_custom::<SanitizedCommands>() {
                for command in std::mem::take(&mut *lock(&commands.0)) {
                    self.execute(command);
                }
            }
        }
        0
    }

    fn get_timestamp_period(&self) -> f32 {
        1.0
    }

    fn on_submitted_work_done(&self, callback: BoxSubmittedWorkDoneCallback) {
        callback();
    }

    fn compact_blas(&self, _: &DispatchBlas) -> (Option<u64>, DispatchBlas) {
        unsupported("acceleration structures")
    }

    fn present(&self, _: &DispatchSurfaceOutputDetail) {
        unsupported("surfaces")
    }
}

impl SanitizedQueue {
    fn execute(&self, command: Command) {
        match command {
            Command::Copy { from, range, to, offset } => to.copy_from(offset, &from, range),
            Command::Clear { buffer, range } => {
                let zeros = vec![0; (range.end - range.start) as usize];
                buffer.write(range.start, &zeros);
            }
            Command::Dispatch { pipeline, bound, immediates, count } => {
                let workgroups = match count {
                    Count::Direct(count) => count,
                    Count::Indirect(buffer, offset) => {
                        let word = |axis: u64| buffer.load(offset + 4 * axis, 4);
                        [word(0), word(1), word(2)]
                    }
                };
                let options = &self.0.options;
                let options = Options {
                    order: options.order,
                    zero_workgroup_memory: pipeline.zero_workgroup_memory,
                    uninitialized_variables: options.uninitialized_variables,
                    time_limit: options.time_limit,
                    threads: options.threads,
                    ..Options::default()
                };
                let bindings: Vec<_> = (bound.iter())
                    .map(|bound| Binding {
                        group: bound.group,
                        binding: bound.binding,
                        buffer: &bound.buffer,
                        range: bound.range.clone(),
                    })
                    .collect();
                let kernel = &pipeline.kernel;
                match kernel.dispatch_with_immediates(workgroups, &bindings, &immediates, &options)
                {
                    Ok(report) => self.heard(DispatchReport {
                        label: pipeline.label.clone(),
                        workgroups,
                        source: Arc::clone(&pipeline.source),
                        report,
                    }),
                    Err(error) => self.0.error(format!("{}: {error}", pipeline.label)),
                }
            }
        }
    }
}

impl SanitizedQueue {
    fn heard(&self, dispatch: DispatchReport) {
        if self.0.options.faults_are_errors {
            let faults: Vec<_> = dispatch.report.faults().map(ToString::to_string).collect();
            if !faults.is_empty() {
                self.0.error(format!("{}: {}", dispatch.label, faults.join("\n")));
            }
        }
        match &self.0.options.on_dispatch {
            Some(hear) => hear(&dispatch),
            None => lock(&self.0.reports).push(dispatch),
        }
    }
}

impl ShaderModuleInterface for SanitizedModule {
    fn get_compilation_info(&self) -> Pin<Box<dyn ShaderCompilationInfoFuture>> {
        Box::pin(ready(wgpu::CompilationInfo { messages: Vec::new() }))
    }
}

impl ComputePipelineInterface for SanitizedPipeline {
    fn get_bind_group_layout(&self, _: u32) -> DispatchBindGroupLayout {
        DispatchBindGroupLayout::custom(Nothing)
    }
}

impl BufferInterface for SanitizedBuffer {
    fn map_async(
        &self,
        _: wgpu::MapMode,
        _: Range<wgpu::BufferAddress>,
        callback: BufferMapCallback,
    ) {
        callback(Ok(()));
    }

    fn get_mapped_range(
        &self,
        sub_range: Range<wgpu::BufferAddress>,
    ) -> Result<DispatchBufferMappedRange, wgpu::MapRangeError> {
        Ok(DispatchBufferMappedRange::custom(Mapped {
            bytes: self.buffer.read(sub_range.clone()),
            buffer: Arc::clone(&self.buffer),
            offset: sub_range.start,
            is_written: false,
        }))
    }

    fn unmap(&self) {}

    fn destroy(&self) {}
}

/// A copy of a buffer's bytes, which goes back when it was written.
#[derive(Debug)]
struct Mapped {
    bytes: Vec<u8>,
    buffer: Arc<Buffer>,
    offset: u64,
    is_written: bool,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.is_written {
            self.buffer.write(self.offset, &self.bytes);
        }
    }
}

impl BufferMappedRangeInterface for Mapped {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn read_slice(&self) -> &[u8] {
        &self.bytes
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn write_slice(&mut self) -> wgpu::WriteOnly<'_, [u8]> {
        self.is_written = true;
        wgpu::WriteOnly::from_mut(&mut self.bytes)
    }
}

#[derive(Debug)]
struct Staging(Vec<u8>);

impl QueueWriteBufferInterface for Staging {
    fn len(&self) -> usize {
        self.0.len()
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn write_slice(&mut self) -> wgpu::WriteOnly<'_, [u8]> {
        wgpu::WriteOnly::from_mut(&mut self.0)
    }
}

impl CommandEncoderInterface for SanitizedEncoder {
    fn copy_buffer_to_buffer(
        &self,
        source: &DispatchBuffer,
        source_offset: wgpu::BufferAddress,
        destination: &DispatchBuffer,
        destination_offset: wgpu::BufferAddress,
        copy_size: Option<wgpu::BufferAddress>,
    ) {
        let (from, to) = (buffer_of(source), buffer_of(destination));
        let end = copy_size.map_or(from.len(), |size| source_offset + size);
        let size = end.saturating_sub(source_offset);
        if end > from.len() || destination_offset + size > to.len() {
            return self.shared.error(format!(
                "a copy of bytes {source_offset}..{end} of a buffer of {} to byte {destination_offset} of one of {}",
                from.len(),
                to.len()
            ));
        }
        let command =
            Command::Copy { from, range: source_offset..end, to, offset: destination_offset };
        lock(&self.commands).push(command);
    }

    fn copy_buffer_to_texture(
        &self,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn copy_texture_to_buffer(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn copy_texture_to_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn begin_compute_pass(&self, _: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        DispatchComputePass::custom(SanitizedPass {
            shared: Arc::clone(&self.shared),
            commands: Arc::clone(&self.commands),
            pipeline: None,
            bound: HashMap::new(),
            immediates: Vec::new(),
        })
    }

    fn begin_render_pass(&self, _: &wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass {
        unsupported("render passes")
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        let commands = std::mem::take(&mut *lock(&self.commands));
        DispatchCommandBuffer::custom(SanitizedCommands(Mutex::new(commands)))
    }

    fn clear_texture(&self, _: &DispatchTexture, _: &wgpu::ImageSubresourceRange) {
        unsupported("textures")
    }

    fn clear_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        size: Option<wgpu::BufferAddress>,
    ) {
        let buffer = buffer_of(buffer);
        let end = size.map_or(buffer.len(), |size| offset + size).min(buffer.len());
        lock(&self.commands).push(Command::Clear { buffer, range: offset.min(end)..end });
    }

    fn insert_debug_marker(&self, _: &str) {}

    fn push_debug_group(&self, _: &str) {}

    fn pop_debug_group(&self) {}

    fn write_timestamp(&self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn resolve_query_set(
        &self,
        _: &DispatchQuerySet,
        _: u32,
        _: u32,
        _: &DispatchBuffer,
        _: wgpu::BufferAddress,
    ) {
        unsupported("queries")
    }

    fn mark_acceleration_structures_built<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        unsupported("acceleration structures")
    }

    fn build_acceleration_structures<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        unsupported("acceleration structures")
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::TextureTransition<&'a DispatchTexture>>,
    ) {
    }
}

impl SanitizedPass {
    fn dispatch(&mut self, count: Count) {
        let Some(pipeline) = self.pipeline.clone() else {
            return self.shared.error("a dispatch without a valid pipeline".into());
        };
        let bound = self.bound.values().flatten().cloned().collect();
        let immediates = self.immediates.clone();
        lock(&self.commands).push(Command::Dispatch { pipeline, bound, immediates, count });
    }
}

impl ComputePassInterface for SanitizedPass {
    fn set_pipeline(&mut self, pipeline: &DispatchComputePipeline) {
        let own = pipeline.as_custom::<SanitizedPipeline>();
        self.pipeline = own.and_then(|pipeline| pipeline.0.clone());
    }

    fn set_bind_group(
        &mut self,
        index: u32,
        bind_group: Option<&DispatchBindGroup>,
        offsets: &[wgpu::DynamicOffset],
    ) {
        let Some(group) = bind_group.and_then(|group| group.as_custom::<SanitizedBindGroup>())
        else {
            self.bound.remove(&index);
            return;
        };
        let mut entries = group.entries.clone();
        for entry in &mut entries {
            entry.group = index;
            if let Some(at) = group.dynamic.iter().position(|binding| *binding == entry.binding) {
                let offset = offsets.get(at).copied().unwrap_or_default();
                entry.range.start += u64::from(offset);
                entry.range.end = (entry.range.end + u64::from(offset)).min(entry.buffer.len());
            }
        }
        self.bound.insert(index, entries);
    }

    fn set_immediates(&mut self, offset: u32, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.immediates.len() < end {
            self.immediates.resize(end, 0);
        }
        self.immediates[offset as usize..end].copy_from_slice(data);
    }

    fn insert_debug_marker(&mut self, _: &str) {}

    fn push_debug_group(&mut self, _: &str) {}

    fn pop_debug_group(&mut self) {}

    fn write_timestamp(&mut self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn end_pipeline_statistics_query(&mut self) {}

    fn dispatch_workgroups(&mut self, x: u32, y: u32, z: u32) {
        self.dispatch(Count::Direct([x, y, z]));
    }

    fn dispatch_workgroups_indirect(
        &mut self,
        indirect_buffer: &DispatchBuffer,
        indirect_offset: wgpu::BufferAddress,
    ) {
        let buffer = buffer_of(indirect_buffer);
        if indirect_offset + 12 > buffer.len() {
            return self.shared.error("an indirect dispatch beyond its buffer".into());
        }
        self.dispatch(Count::Indirect(buffer, indirect_offset));
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::TextureTransition<&'a DispatchTextureView>>,
    ) {
    }
}

impl Drop for SanitizedPass {
    fn drop(&mut self) {}
}
