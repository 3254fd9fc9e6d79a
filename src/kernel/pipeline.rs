//! Pipelines, compiled once per key and device.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::key::KernelKey;
use super::limits::Needs;
use super::source;
use super::store::PipelineStore;
use super::tiles::DeviceTraits;
use crate::custom::{CustomUse, WgslFunction};
use crate::device::{scoped, scoped_as, settle};
use crate::error::{Error, Result};
use crate::profile::{DeviceId, Profile};

/// The kernels of one device: plans that are made from the same `Kernels` share pipelines.
///
/// Cloning is cheap and shares the cache.
///
/// ```no_run
/// # fn f(device: wgpu::Device) {
/// let kernels = wgpu_attention::Kernels::new(&device, &Default::default());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Kernels {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    device_id: DeviceId,
    traits: DeviceTraits,
    profile: Option<Profile>,
    store: Result<PipelineStore, String>,
    slots: Mutex<HashMap<KernelKey, Arc<Slot>>>,
    bind_groups: AtomicUsize,
    /// The warnings that were logged.
    warned: Mutex<HashSet<String>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(store) = &self.store {
            // No caller is left to be told; `Kernels::save_cache` tells.
            if let Err(error) = store.save() {
                log::warn!("compiled pipelines weren't kept: {error}");
            }
        }
    }
}

/// What kernels may be made with.
///
/// ```no_run
/// # fn f(device: wgpu::Device) {
/// use std::path::PathBuf;
/// use wgpu_attention::Kernels;
/// use wgpu_attention::kernel::KernelOptions;
/// let options = KernelOptions::default().cache_dir(PathBuf::from("target/pipelines"));
/// let kernels = Kernels::new(&device, &options);
/// println!("{}", kernels.cache_status());
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KernelOptions {
    /// A folder for compiled pipelines, which the next start of the program finds there: a file for each kind of adapter,
    /// made when needed, written when the last clone of the kernels is dropped and by [`Kernels::save_cache`]. A file
    /// that is damaged or another driver's is replaced.
    ///
    /// The device needs `Features::PIPELINE_CACHE`, which only Vulkan has.
    pub cache_dir: Option<PathBuf>,
    /// Measurements that plans prefer to the tile table.
    pub profile: Option<Profile>,
    /// What the adapter's `cooperative_matrix_properties` lists, which a device doesn't tell: with it,
    /// [`ForwardKernel::Matrix`](crate::kernel::ForwardKernel::Matrix) and
    /// [`BackwardKernel::Matrix`](crate::kernel::BackwardKernel::Matrix) serve where the device was opened with
    /// `Features::EXPERIMENTAL_COOPERATIVE_MATRIX`, `SHADER_F16`, `SUBGROUP` and `SUBGROUP_BARRIER`.
    pub matrices: Vec<wgpu::CooperativeMatrixProperties>,
    /// The most multiply-adds of a submission of a plan ([`AttentionPlan::encode_submission`](crate::AttentionPlan::encode_submission)),
    /// which one-shot calls submit one by one, so that no watchdog takes a long one for a hanging GPU. Counted as if no mask
    /// emptied a tile; a single workgroup is a submission whatever it takes. Otherwise it follows from the kind of device.
    pub most_work: Option<u64>,
    /// The registers of 32 bits that an invocation may have, by which the tiles of kernels for GPUs are chosen: 128 on Apple's
    /// GPUs, 64 on Intel's, 96 on Adreno 6xx, 192 on later ones, 255 on NVIDIA's and AMD's. Otherwise it follows from the adapter's name, which browsers don't tell.
    pub registers: Option<usize>,
    /// The largest map of a mask's tiles, in bytes for each sequence: 2 bits for each tile of queries × keys. A mask whose map would
    /// be larger has its tiles classed by bounds of its data instead. They take two sevenths of the data's memory, however many tiles
    /// there are, and leave more tiles in which the mask is evaluated where ids or flags are mixed. 0 takes bounds for all
    /// sizes. Otherwise 1 MiB. Masks that read neither ids, flags nor ranges of columns need the map, however large.
    pub largest_tile_map: Option<u64>,
}

impl KernelOptions {
    setters! {
        option cache_dir: PathBuf,
        option profile: Profile,
        into matrices: Vec<wgpu::CooperativeMatrixProperties>,
        option most_work: u64,
        option registers: usize,
        option largest_tile_map: u64,
    }
}

/// A place per key, so that two threads compile different kernels side by side and the same one once.
type Slot = Mutex<Option<Arc<Pipeline>>>;

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) compute: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Kernels {
    /// No kernel is compiled before a plan needs it.
    ///
    /// Open the device with [`crate::required_features`] and [`crate::required_limits`]: without them the faster kernels are
    /// refused.
    ///
    /// A folder or a profile of the options that can't be used is no error: without them everything works, if slower.
    /// [`Kernels::cache_status`] and [`crate::AttentionPlan::explain`] say what became of them.
    pub fn new(device: &wgpu::Device, options: &KernelOptions) -> Self {
        let store = match &options.cache_dir {
            Some(folder) => PipelineStore::open(device, folder),
            None => Err("no folder was given".to_owned()),
        };
        match &store {
            Err(reason) if options.cache_dir.is_some() => {
                log::warn!("no pipelines are kept: {reason}");
            }
            Ok(store) if store.is_replaced => log::warn!("compiled pipelines: {}", store.found),
            _ => {}
        }
        let traits = DeviceTraits::new(device, options);
        if let (true, Err(reason)) = (traits.is_cpu, &traits.fixed_subgroup_size) {
            log::warn!("the fastest kernels for this device are refused: {reason}");
        }
        Self {
            inner: Arc::new(Inner {
                device: device.clone(),
                device_id: DeviceId::new(&device.adapter_info()),
                traits,
                profile: options.profile.clone(),
                store,
                slots: Mutex::default(),
                bind_groups: AtomicUsize::new(0),
                warned: Mutex::default(),
            }),
        }
    }

    /// In words, what was found in the folder for compiled pipelines, or why none are kept.
    pub fn cache_status(&self) -> String {
        match &self.inner.store {
            Ok(store) => store.found.clone(),
            Err(reason) => format!("no pipelines are kept: {reason}"),
        }
    }

    /// Writes the compiled pipelines to their folder, whole or not at all. Nothing is done where none was given.
    ///
    /// Drivers that compile at the first dispatch have more to write after it.
    ///
    /// # Errors
    /// [`Error::File`] where the file can't be written.
    pub fn save_cache(&self) -> Result<()> {
        let Ok(store) = &self.inner.store else {
            return Ok(());
        };
        store.save()
    }

    /// Waits for the device's word on what has been made on it so far: plans, buffers, user-defined functions.
    ///
    /// Only a browser has it late. There, `new` can't tell that the device refused something; this does, and so does every
    /// call that reads a result back. On native backends there is nothing to wait for.
    ///
    /// # Errors
    /// What the device objected to first, as the call that made it would give it elsewhere.
    pub async fn settle(&self) -> Result<()> {
        settle(self.device()).await
    }

    pub(crate) fn profile(&self) -> Option<(&Profile, &DeviceId)> {
        self.inner.profile.as_ref().map(|profile| (profile, &self.inner.device_id))
    }

    /// Whether these are the same ones, not others of the same device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// How many pipelines have been compiled, for tests and benchmarks. One that is being compiled doesn't count yet.
    #[doc(hidden)]
    pub fn compiled(&self) -> usize {
        let slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let done = |slot: &&Arc<Slot>| slot.try_lock().is_ok_and(|slot| slot.is_some());
        slots.values().filter(done).count()
    }

    /// How many bind groups plans have made, for tests and benchmarks: in a loop over the same buffers, none after its first
    /// step.
    #[doc(hidden)]
    pub fn bind_groups(&self) -> usize {
        self.inner.bind_groups.load(Ordering::Relaxed)
    }

    /// Logs a warning, unless it was logged already.
    pub(crate) fn warn_once(&self, message: &str) {
        let mut warned = self.inner.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !warned.contains(message) {
            log::warn!("{message}");
            warned.insert(message.to_owned());
        }
    }

    pub(crate) fn count_bind_group(&self) {
        self.inner.bind_groups.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a user-defined function compiles by itself and has the signature that its use asks for.
    pub(crate) fn check_custom(&self, custom: &WgslFunction, usage: &CustomUse) -> Result<()> {
        for with_call in [false, true] {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(custom.label()),
                source: wgpu::ShaderSource::Wgsl(custom.alone(usage, with_call).into()),
            };
            let (own, usage) = (custom.clone(), usage.clone());
            let in_words = move |error| match error {
                Error::Device { message, .. } => own.compile_error(&usage, with_call, &message),
                other => other,
            };
            scoped_as(self.device(), "compiling a function", in_words, || {
                self.device().create_shader_module(descriptor)
            })?;
        }
        Ok(())
    }

    pub(crate) fn traits(&self) -> &DeviceTraits {
        &self.inner.traits
    }

    /// The pipeline of `key`, compiled if it's the first time that it is asked for, and if the device's limits allow it.
    /// A failure isn't kept.
    pub(crate) fn pipeline(&self, key: KernelKey) -> Result<Arc<Pipeline>> {
        Needs::of(&key).check(key.entry_point(), &self.traits().limits)?;
        let slot = {
            let mut slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key.clone()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*slot {
            return Ok(Arc::clone(pipeline));
        }
        // A browser has no such clock, and compiles later.
        #[cfg(not(target_family = "wasm"))]
        let start = std::time::Instant::now();
        let pipeline = Arc::new(compile(&self.inner.device, self.inner.store.as_ref().ok(), &key)?);
        #[cfg(not(target_family = "wasm"))]
        log::debug!("compiled `{}` in {:.1?}", key.entry_point(), start.elapsed());
        *slot = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }
}

fn compile(
    device: &wgpu::Device,
    store: Option<&PipelineStore>,
    key: &KernelKey,
) -> Result<Pipeline> {
    let label = Some(key.entry_point());
    let text = source::wgsl(key)?;
    let spirv = spirv_of(device, key, &text)?;
    scoped(device, "compiling a kernel", || {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.into()) };
        // SAFETY: the text is this crate's own. Every loop is bounded by a size of the problem. Every index is
        // within its buffer: rows are clamped to the sequences, components to the row, and a plan refuses buffers
        // that are smaller than what the sizes and strides in the uniform block span. SPIR-V is made of the text by
        // wgpu's own compiler.
        #[expect(unsafe_code)]
        let module = unsafe {
            match spirv {
                Some(words) => {
                    device.create_shader_module_passthrough(passthrough(key.entry_point(), &words))
                }
                // The user's own text keeps every check.
                None if key.is_custom() => device.create_shader_module(descriptor),
                None => device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                ),
            }
        };
        let entries: Vec<_> = (0u32..)
            .zip(key.bindings())
            .map(|(binding, kind)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        _ if kind.is_uniform() => wgpu::BufferBindingType::Uniform,
                        _ => wgpu::BufferBindingType::Storage { read_only: !kind.is_written() },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let compute = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: label,
            // Workgroup memory is written before it's read, so clearing it first would be lost time.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: store.map(|store| &store.cache),
        });
        Pipeline { compute, layout }
    })
}

/// The kernel as SPIR-V, where WGSL won't do: see [`super::spirv`].
#[cfg(all(feature = "spirv", not(target_family = "wasm")))]
fn spirv_of(device: &wgpu::Device, key: &KernelKey, text: &str) -> Result<Option<Vec<u32>>> {
    let takes_spirv = device.features().contains(wgpu::Features::PASSTHROUGH_SHADERS)
        && device.adapter_info().backend == wgpu::Backend::Vulkan;
    if !(takes_spirv && key.matrix_size().is_some()) {
        return Ok(None);
    }
    let words = super::spirv::compile(text, key.entry_point(), !key.is_custom());
    words.map(Some).map_err(|message| Error::Device { during: "compiling a kernel", message })
}

#[cfg(not(all(feature = "spirv", not(target_family = "wasm"))))]
fn spirv_of(_: &wgpu::Device, _: &KernelKey, _: &str) -> Result<Option<Vec<u32>>> {
    Ok(None)
}

fn passthrough<'a>(
    entry_point: &'a str,
    words: &'a [u32],
) -> wgpu::ShaderModuleDescriptorPassthrough<'a> {
    // Vulkan reads the workgroup's size from the module.
    let entry =
        wgpu::PassthroughShaderEntryPoint { name: entry_point.into(), workgroup_size: (0, 0, 0) };
    wgpu::ShaderModuleDescriptorPassthrough {
        label: Some(entry_point),
        entry_points: vec![entry].into(),
        spirv: Some(words.into()),
        ..Default::default()
    }
}
