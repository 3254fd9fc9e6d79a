//! The device: what it makes of descriptors.

use std::future::ready;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use wgpu::custom::*;

use super::buffers::SanitizedBuffer;
use super::recording::{Commands, SanitizedEncoder};
use super::{Shared, lock, unsupported};
use crate::{Buffer, Kernel, Shader};

#[derive(Debug)]
pub(super) struct SanitizedDevice(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct SanitizedModule(Option<Arc<(Shader, Arc<str>)>>);

#[derive(Debug)]
pub(super) struct SanitizedPipeline(pub(super) Option<Arc<Compiled>>);

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) label: String,
    pub(super) source: Arc<str>,
    pub(super) kernel: Kernel,
    pub(super) zero_workgroup_memory: bool,
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

#[derive(Debug)]
pub(super) struct Nothing;

impl PipelineLayoutInterface for Nothing {}
impl BindGroupLayoutInterface for Nothing {}

/// Bindings with dynamic offsets in the order of their numbers.
#[derive(Debug)]
pub(super) struct SanitizedLayout {
    pub(super) dynamic: Vec<u32>,
}

impl BindGroupLayoutInterface for SanitizedLayout {}

#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) group: u32,
    pub(super) binding: u32,
    pub(super) buffer: Arc<Buffer>,
    pub(super) range: Range<u64>,
}

#[derive(Debug)]
pub(super) struct SanitizedBindGroup {
    pub(super) entries: Vec<Bound>,
    pub(super) dynamic: Vec<u32>,
}

impl BindGroupInterface for SanitizedBindGroup {}

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
