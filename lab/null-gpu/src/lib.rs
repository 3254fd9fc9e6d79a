//! A Vulkan driver for GPUs that aren't there.
//!
//! Mesa's RADV can pretend to have any of AMD's GPUs (`RADV_FORCE_FAMILY`), and its compiler then does all of its real
//! work. But the pretended GPU has no memory, no command streams and no timeline semaphores, so that wgpu can't open
//! it. This driver sits between the Vulkan loader and RADV:
//!
//! | what | becomes |
//! |---|---|
//! | creating shaders, pipelines, layouts, descriptor pools … | RADV's |
//! | features | RADV's without timeline semaphores: wgpu then makes do with fences |
//! | memory | one type, backed by this process's |
//! | recording, submitting, waiting, descriptor updates | nothing |
//!
//! The environment variable [`RADV_LIBRARY`] names RADV's library.

#![expect(unsafe_code, reason = "a Vulkan driver is a C interface")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use ash::vk::{self, Handle as _};
use libloading::Library;

/// The environment variable with the path of `libvulkan_radeon.so`.
const RADV_LIBRARY: &str = "NULL_GPU_RADV";

type Function = unsafe extern "system" fn();
type Found = Option<Function>;
type GetPhysicalDeviceProcAddr =
    unsafe extern "system" fn(vk::Instance, *const c_char) -> Option<Function>;
type Negotiate = unsafe extern "system" fn(*mut u32) -> vk::Result;

/// What every Vulkan driver exports.
struct Radv {
    get_instance_proc_addr: vk::PFN_vkGetInstanceProcAddr,
    get_physical_device_proc_addr: GetPhysicalDeviceProcAddr,
    negotiate: Negotiate,
}

static RADV: LazyLock<Option<Radv>> = LazyLock::new(|| {
    let path = std::env::var_os(RADV_LIBRARY)?;
    // SAFETY: the library is Mesa's, whose initialisers may run in any process; the three symbols have these types by
    // the Vulkan loader's specification of drivers. It is never unloaded.
    unsafe {
        let library = Box::leak(Box::new(Library::new(path).ok()?));
        Some(Radv {
            get_instance_proc_addr: *library.get(b"vk_icdGetInstanceProcAddr").ok()?,
            get_physical_device_proc_addr: *library.get(b"vk_icdGetPhysicalDeviceProcAddr").ok()?,
            negotiate: *library.get(b"vk_icdNegotiateLoaderICDInterfaceVersion").ok()?,
        })
    }
});

/// Settles the version of the interface between the Vulkan loader and its drivers.
///
/// # Safety
/// `version` points to a number; the Vulkan loader calls this.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdNegotiateLoaderICDInterfaceVersion(
    version: *mut u32,
) -> vk::Result {
    match &*RADV {
        // SAFETY: what this function was promised.
        Some(radv) => unsafe { (radv.negotiate)(version) },
        None => {
            eprintln!("null-gpu: {RADV_LIBRARY} names no library of RADV");
            vk::Result::ERROR_INCOMPATIBLE_DRIVER
        }
    }
}

/// Finds a function of Vulkan's.
///
/// # Safety
/// `instance` is RADV's or null, `name` a C string; the Vulkan loader calls this.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetInstanceProcAddr(
    instance: vk::Instance,
    name: *const c_char,
) -> Found {
    // SAFETY: what this function was promised.
    unsafe {
        let original = (RADV.as_ref()?.get_instance_proc_addr)(instance, name)?;
        Some(replacement(CStr::from_ptr(name), original))
    }
}

/// Finds a function whose first operand is a physical device.
///
/// # Safety
/// As [`vk_icdGetInstanceProcAddr`].
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetPhysicalDeviceProcAddr(
    instance: vk::Instance,
    name: *const c_char,
) -> Found {
    // SAFETY: what this function was promised.
    unsafe {
        let original = (RADV.as_ref()?.get_physical_device_proc_addr)(instance, name)?;
        Some(replacement(CStr::from_ptr(name), original))
    }
}

unsafe extern "system" fn get_device_proc_addr(device: vk::Device, name: *const c_char) -> Found {
    // SAFETY: the operands are the caller's, as Vulkan defines them.
    unsafe {
        let original = GET_DEVICE_PROC_ADDR.get()?(device, name)?;
        Some(replacement(CStr::from_ptr(name), original))
    }
}

/// Functions that succeed and do nothing, besides every `vkCmd…`.
const NOTHING: [&CStr; 23] = [
    c"vkBeginCommandBuffer",
    c"vkEndCommandBuffer",
    c"vkResetCommandBuffer",
    c"vkResetCommandPool",
    c"vkQueueSubmit",
    c"vkQueueSubmit2",
    c"vkQueueSubmit2KHR",
    c"vkQueueWaitIdle",
    c"vkDeviceWaitIdle",
    c"vkWaitForFences",
    c"vkGetFenceStatus",
    c"vkResetFences",
    c"vkUnmapMemory",
    c"vkFlushMappedMemoryRanges",
    c"vkInvalidateMappedMemoryRanges",
    c"vkBindBufferMemory",
    c"vkBindBufferMemory2",
    c"vkBindBufferMemory2KHR",
    c"vkBindImageMemory",
    c"vkBindImageMemory2",
    c"vkGetQueryPoolResults",
    c"vkUpdateDescriptorSets",
    c"vkUpdateDescriptorSetWithTemplate",
];

/// Stands for functions of many signatures: by the C calling conventions of Linux the caller clears the operands away,
/// and a result that isn't expected does no harm.
unsafe extern "system" fn nothing() -> vk::Result {
    vk::Result::SUCCESS
}

macro_rules! replacements {
    ($($original:ident: $type:ty, $own:ident, $($name:literal)|+;)*) => {
        $(static $original: OnceLock<$type> = OnceLock::new();)*

        /// This driver's own function of that name, or RADV's.
        ///
        /// # Safety
        /// `original` is RADV's function of that name.
        unsafe fn replacement(name: &CStr, original: Function) -> Function {
            let bytes = name.to_bytes();
            $(if matches!(bytes, $($name)|+) {
                // SAFETY: functions of this name have this type by Vulkan's specification, and pointers to functions
                // are all of one size.
                return unsafe {
                    $original.get_or_init(|| std::mem::transmute::<Function, $type>(original));
                    std::mem::transmute::<$type, Function>($own)
                };
            })*
            if bytes.starts_with(b"vkCmd") || NOTHING.contains(&name) {
                // SAFETY: see `nothing`.
                return unsafe {
                    std::mem::transmute::<unsafe extern "system" fn() -> vk::Result, Function>(
                        nothing,
                    )
                };
            }
            original
        }
    };
}

replacements! {
    GET_DEVICE_PROC_ADDR: vk::PFN_vkGetDeviceProcAddr, get_device_proc_addr,
        b"vkGetDeviceProcAddr";
    FEATURES: vk::PFN_vkGetPhysicalDeviceFeatures2, features,
        b"vkGetPhysicalDeviceFeatures2" | b"vkGetPhysicalDeviceFeatures2KHR";
    MEMORY_PROPERTIES: vk::PFN_vkGetPhysicalDeviceMemoryProperties, memory_properties,
        b"vkGetPhysicalDeviceMemoryProperties";
    MEMORY_PROPERTIES_2: vk::PFN_vkGetPhysicalDeviceMemoryProperties2, memory_properties_2,
        b"vkGetPhysicalDeviceMemoryProperties2" | b"vkGetPhysicalDeviceMemoryProperties2KHR";
    BUFFER_REQUIREMENTS: vk::PFN_vkGetBufferMemoryRequirements, buffer_requirements,
        b"vkGetBufferMemoryRequirements";
    BUFFER_REQUIREMENTS_2: vk::PFN_vkGetBufferMemoryRequirements2, buffer_requirements_2,
        b"vkGetBufferMemoryRequirements2" | b"vkGetBufferMemoryRequirements2KHR";
    IMAGE_REQUIREMENTS: vk::PFN_vkGetImageMemoryRequirements, image_requirements,
        b"vkGetImageMemoryRequirements";
    IMAGE_REQUIREMENTS_2: vk::PFN_vkGetImageMemoryRequirements2, image_requirements_2,
        b"vkGetImageMemoryRequirements2" | b"vkGetImageMemoryRequirements2KHR";
    ALLOCATE: vk::PFN_vkAllocateMemory, allocate, b"vkAllocateMemory";
    FREE: vk::PFN_vkFreeMemory, free, b"vkFreeMemory";
    MAP: vk::PFN_vkMapMemory, map, b"vkMapMemory";
}

// Below, operands are the caller's, as Vulkan defines them: pointers are valid, structures and their chains whole. RADV's
// own function, where it is called, was found before its replacement could be.

/// RADV's features without timeline semaphores, which its pretended GPU can't create.
unsafe extern "system" fn features(
    device: vk::PhysicalDevice,
    features: *mut vk::PhysicalDeviceFeatures2<'_>,
) {
    let Some(original) = FEATURES.get() else { return };
    // SAFETY: see above; a structure's type tells what it is.
    unsafe {
        original(device, features);
        let mut next = features.cast::<vk::BaseOutStructure<'_>>();
        while let Some(structure) = next.as_ref() {
            match structure.s_type {
                vk::StructureType::PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES => {
                    let own = next.cast::<vk::PhysicalDeviceTimelineSemaphoreFeatures<'_>>();
                    (*own).timeline_semaphore = vk::FALSE;
                }
                vk::StructureType::PHYSICAL_DEVICE_VULKAN_1_2_FEATURES => {
                    let own = next.cast::<vk::PhysicalDeviceVulkan12Features<'_>>();
                    (*own).timeline_semaphore = vk::FALSE;
                }
                _ => {}
            }
            next = structure.p_next;
        }
    }
}

/// One heap of 16 GiB with one type that is good for everything, where RADV has none.
fn complete_properties(properties: &mut vk::PhysicalDeviceMemoryProperties) {
    if properties.memory_type_count > 0 {
        return;
    }
    properties.memory_type_count = 1;
    properties.memory_types[0] = vk::MemoryType {
        property_flags: vk::MemoryPropertyFlags::DEVICE_LOCAL
            | vk::MemoryPropertyFlags::HOST_VISIBLE
            | vk::MemoryPropertyFlags::HOST_COHERENT
            | vk::MemoryPropertyFlags::HOST_CACHED,
        heap_index: 0,
    };
    properties.memory_heap_count = 1;
    properties.memory_heaps[0] =
        vk::MemoryHeap { size: 16 << 30, flags: vk::MemoryHeapFlags::DEVICE_LOCAL };
}

unsafe extern "system" fn memory_properties(
    device: vk::PhysicalDevice,
    properties: *mut vk::PhysicalDeviceMemoryProperties,
) {
    let Some(original) = MEMORY_PROPERTIES.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, properties);
        complete_properties(&mut *properties);
    }
}

unsafe extern "system" fn memory_properties_2(
    device: vk::PhysicalDevice,
    properties: *mut vk::PhysicalDeviceMemoryProperties2<'_>,
) {
    let Some(original) = MEMORY_PROPERTIES_2.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, properties);
        complete_properties(&mut (*properties).memory_properties);
    }
}

/// The one memory type serves every resource.
fn complete_requirements(requirements: &mut vk::MemoryRequirements) {
    if requirements.memory_type_bits == 0 {
        requirements.memory_type_bits = 1;
    }
}

unsafe extern "system" fn buffer_requirements(
    device: vk::Device,
    buffer: vk::Buffer,
    requirements: *mut vk::MemoryRequirements,
) {
    let Some(original) = BUFFER_REQUIREMENTS.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, buffer, requirements);
        complete_requirements(&mut *requirements);
    }
}

unsafe extern "system" fn buffer_requirements_2(
    device: vk::Device,
    info: *const vk::BufferMemoryRequirementsInfo2<'_>,
    requirements: *mut vk::MemoryRequirements2<'_>,
) {
    let Some(original) = BUFFER_REQUIREMENTS_2.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, info, requirements);
        complete_requirements(&mut (*requirements).memory_requirements);
    }
}

unsafe extern "system" fn image_requirements(
    device: vk::Device,
    image: vk::Image,
    requirements: *mut vk::MemoryRequirements,
) {
    let Some(original) = IMAGE_REQUIREMENTS.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, image, requirements);
        complete_requirements(&mut *requirements);
    }
}

unsafe extern "system" fn image_requirements_2(
    device: vk::Device,
    info: *const vk::ImageMemoryRequirementsInfo2<'_>,
    requirements: *mut vk::MemoryRequirements2<'_>,
) {
    let Some(original) = IMAGE_REQUIREMENTS_2.get() else { return };
    // SAFETY: see above.
    unsafe {
        original(device, info, requirements);
        complete_requirements(&mut (*requirements).memory_requirements);
    }
}

/// Memory of the pretended GPU: a size, and this process's memory once it is mapped.
struct Memory {
    layout: Layout,
    mapped: Mutex<Option<NonNull<u8>>>,
}

unsafe extern "system" fn allocate(
    _: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    _: *const vk::AllocationCallbacks<'_>,
    memory: *mut vk::DeviceMemory,
) -> vk::Result {
    // SAFETY: see above.
    let size = unsafe { (*info).allocation_size };
    let layout = usize::try_from(size.max(1)).ok().map(|size| Layout::from_size_align(size, 256));
    let Some(Ok(layout)) = layout else { return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY };
    let own = Box::into_raw(Box::new(Memory { layout, mapped: Mutex::new(None) }));
    // SAFETY: see above.
    unsafe { *memory = vk::DeviceMemory::from_raw(own as u64) };
    vk::Result::SUCCESS
}

unsafe extern "system" fn map(
    _: vk::Device,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize,
    _: vk::DeviceSize,
    _: vk::MemoryMapFlags,
    data: *mut *mut c_void,
) -> vk::Result {
    // SAFETY: the handle was made by `allocate`.
    let memory = unsafe { &*(memory.as_raw() as *const Memory) };
    let mut mapped = memory.mapped.lock().unwrap_or_else(PoisonError::into_inner);
    if mapped.is_none() {
        // SAFETY: the layout isn't empty.
        *mapped = NonNull::new(unsafe { alloc_zeroed(memory.layout) });
    }
    let Some(start) = *mapped else { return vk::Result::ERROR_MEMORY_MAP_FAILED };
    // SAFETY: the offset lies within the memory, and `data` takes the pointer.
    unsafe { *data = start.as_ptr().add(offset as usize).cast() };
    vk::Result::SUCCESS
}

unsafe extern "system" fn free(
    _: vk::Device,
    memory: vk::DeviceMemory,
    _: *const vk::AllocationCallbacks<'_>,
) {
    if memory.is_null() {
        return;
    }
    // SAFETY: the handle was made by `allocate`, and nobody uses it any more.
    unsafe {
        let memory = Box::from_raw(memory.as_raw() as *mut Memory);
        if let Some(start) = *memory.mapped.lock().unwrap_or_else(PoisonError::into_inner) {
            dealloc(start.as_ptr(), memory.layout);
        }
    }
}
