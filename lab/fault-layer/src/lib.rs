//! A Vulkan layer that makes a driver fail.
//!
//! It passes every call on to the driver but one, which a program chooses by [`faults_choose`]: the n-th of those that by
//! Vulkan's specification may give
//!
//! | fault | what the call gives | afterwards |
//! |---|---|---|
//! | [`LOST`] | `VK_ERROR_DEVICE_LOST` | so does every other such call |
//! | [`OUT_OF_MEMORY`] | `VK_ERROR_OUT_OF_DEVICE_MEMORY` | all is well |
//! | [`OUT_OF_MEMORY_FOR_KERNELS`] | the same, of those that compile kernels alone | all is well |
//!
//! [`faults_failed`] names the one that failed; where there is none, a program has tried them all. Calls are counted over
//! all devices of the process: one driver, one thing at a time.
//!
//! A driver that has lost a device does no more work for it. The one below hasn't lost it, so the layer waits for it
//! before it says so: what the program then frees, nothing uses any more.

#![expect(unsafe_code, reason = "a Vulkan layer is a C interface")]

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use ash::vk;

/// No call fails, and none is counted.
const NONE: u32 = 0;
/// A call finds the device lost.
const LOST: u32 = 1;
/// A call finds no memory.
const OUT_OF_MEMORY: u32 = 2;

/// A call that compiles a kernel, or lays its operands out, finds no memory.
const OUT_OF_MEMORY_FOR_KERNELS: u32 = 3;

static KIND: AtomicU32 = AtomicU32::new(NONE);
/// How many calls go well before the one that fails.
static BEFORE: AtomicU64 = AtomicU64::new(0);
static COUNTED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Chooses the fault and the call: the one after so many. `kind` is one of the constants above.
#[unsafe(no_mangle)]
pub extern "C" fn faults_choose(kind: u32, before: u64) {
    KIND.store(NONE, Ordering::SeqCst);
    BEFORE.store(before, Ordering::SeqCst);
    COUNTED.store(0, Ordering::SeqCst);
    FAILED.store(std::ptr::null_mut(), Ordering::SeqCst);
    IS_LOST.store(false, Ordering::SeqCst);
    KIND.store(kind, Ordering::SeqCst);
}

/// The name of the function that failed first since then, or null.
#[unsafe(no_mangle)]
pub extern "C" fn faults_failed() -> *const c_char {
    FAILED.load(Ordering::SeqCst)
}

/// What a call may fail by.
#[derive(Clone, Copy, PartialEq)]
enum Faults {
    Memory,
    /// The same, of calls that compile kernels.
    MemoryForKernel,
    MemoryOrLost,
}
use Faults::{Memory, MemoryForKernel, MemoryOrLost};

/// What this call is to give instead of being passed on, if it is to fail.
fn fault(name: &'static CStr, faults: Faults, of: impl Working) -> Option<vk::Result> {
    let result = match KIND.load(Ordering::SeqCst) {
        LOST if faults == MemoryOrLost => vk::Result::ERROR_DEVICE_LOST,
        OUT_OF_MEMORY => vk::Result::ERROR_OUT_OF_DEVICE_MEMORY,
        OUT_OF_MEMORY_FOR_KERNELS if faults == MemoryForKernel => {
            vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
        }
        _ => return None,
    };
    let is_lost = result == vk::Result::ERROR_DEVICE_LOST;
    if COUNTED.fetch_add(1, Ordering::SeqCst) == BEFORE.load(Ordering::SeqCst) {
        FAILED.store(name.as_ptr().cast_mut(), Ordering::SeqCst);
        if is_lost {
            of.finish();
            IS_LOST.store(true, Ordering::SeqCst);
        }
        return Some(result);
    }
    (is_lost && IS_LOST.load(Ordering::SeqCst)).then_some(result)
}

/// What calls are made of: something that may have work to do.
trait Working {
    /// Waits until the driver has nothing left to do for it. Vulkan asks that nobody else uses its queues meanwhile; the
    /// programs that this layer is for submit from the thread that waits.
    fn finish(self);
}

impl Working for vk::Device {
    fn finish(self) {
        if let Some(wait) = original::device_wait_idle.get() {
            // SAFETY: the device is the caller's, and see above.
            let _ = unsafe { wait(self) };
        }
    }
}

impl Working for vk::Queue {
    fn finish(self) {
        if let Some(wait) = original::queue_wait_idle.get() {
            // SAFETY: the queue is the caller's, and see above.
            let _ = unsafe { wait(self) };
        }
    }
}

impl Working for vk::CommandBuffer {
    /// Recording loses no device.
    fn finish(self) {}
}

type Function = unsafe extern "system" fn();
type Found = Option<Function>;

// The loader's side: how layers are chained. ash has no bindings of vk_layer.h.

/// In the chain of what an instance or a device is created from: who is next. `VkLayerInstanceCreateInfo` and
/// `VkLayerDeviceCreateInfo` begin alike.
#[repr(C)]
struct LayerCreateInfo {
    s_type: vk::StructureType,
    next: *const c_void,
    function: u32,
    link: *mut LayerLink,
}

/// `VkLayerInstanceLink` and `VkLayerDeviceLink`, which differ in the second function alone.
#[repr(C)]
struct LayerLink {
    next: *mut LayerLink,
    get_instance_proc_addr: vk::PFN_vkGetInstanceProcAddr,
    /// Of devices: `vkGetDeviceProcAddr`; of instances, that of physical devices.
    other: Found,
}

/// `VK_LAYER_LINK_INFO`.
const LINK_INFO: u32 = 0;

/// `VkNegotiateLayerInterface`.
#[repr(C)]
pub struct NegotiateLayerInterface {
    s_type: u32,
    next: *mut c_void,
    version: u32,
    get_instance_proc_addr: Option<vk::PFN_vkGetInstanceProcAddr>,
    get_device_proc_addr: Option<vk::PFN_vkGetDeviceProcAddr>,
    get_physical_device_proc_addr: Found,
}

/// Settles the version of the interface between the Vulkan loader and its layers.
///
/// # Safety
/// `interface` points to the loader's structure; the Vulkan loader calls this.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vkNegotiateLoaderLayerInterfaceVersion(
    interface: *mut NegotiateLayerInterface,
) -> vk::Result {
    // SAFETY: what this function was promised.
    let Some(interface) = (unsafe { interface.as_mut() }) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    if interface.version < 2 {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    }
    interface.version = 2;
    interface.get_instance_proc_addr = Some(get_instance_proc_addr);
    interface.get_device_proc_addr = Some(get_device_proc_addr);
    interface.get_physical_device_proc_addr = None;
    vk::Result::SUCCESS
}

/// The next layer's or the driver's functions, once the first instance and device are created.
static NEXT_INSTANCE: OnceLock<vk::PFN_vkGetInstanceProcAddr> = OnceLock::new();
static NEXT_DEVICE: OnceLock<vk::PFN_vkGetDeviceProcAddr> = OnceLock::new();

// Below, operands are the caller's, as Vulkan defines them: pointers are valid, structures and their chains whole. There
// is one driver in the process, so that its functions are the same for all of its devices.

/// Finds who is next in the chain of `VkInstanceCreateInfo` or `VkDeviceCreateInfo`, and moves the chain on for them.
///
/// # Safety
/// `first` is such a chain, as the loader makes it.
unsafe fn take_link(
    mut first: *const c_void,
    s_type: vk::StructureType,
) -> Option<(vk::PFN_vkGetInstanceProcAddr, Found)> {
    // SAFETY: every structure of a chain begins with its type and the next one; the loader lets its layers write in its
    // own.
    unsafe {
        while let Some(info) = first.cast::<LayerCreateInfo>().cast_mut().as_mut() {
            if info.s_type == s_type && info.function == LINK_INFO {
                let link = info.link.as_ref()?;
                info.link = link.next;
                return Some((link.get_instance_proc_addr, link.other));
            }
            first = info.next;
        }
    }
    None
}

unsafe extern "system" fn create_instance(
    info: *const vk::InstanceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    instance: *mut vk::Instance,
) -> vk::Result {
    // SAFETY: see above; a function of this name has this type.
    unsafe {
        let Some((next, _)) =
            take_link((*info).p_next, vk::StructureType::LOADER_INSTANCE_CREATE_INFO)
        else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let Some(create) = next(vk::Instance::null(), c"vkCreateInstance".as_ptr()) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        NEXT_INSTANCE.get_or_init(|| next);
        std::mem::transmute::<Function, vk::PFN_vkCreateInstance>(create)(info, allocator, instance)
    }
}

unsafe extern "system" fn create_device(
    adapter: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    device: *mut vk::Device,
) -> vk::Result {
    // SAFETY: see above; functions of these names have these types.
    unsafe {
        let link = take_link((*info).p_next, vk::StructureType::LOADER_DEVICE_CREATE_INFO);
        let Some((instance_next, Some(device_next))) = link else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let device_next = std::mem::transmute::<Function, vk::PFN_vkGetDeviceProcAddr>(device_next);
        let Some(create) = instance_next(vk::Instance::null(), c"vkCreateDevice".as_ptr()) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let create = std::mem::transmute::<Function, vk::PFN_vkCreateDevice>(create);
        let result = create(adapter, info, allocator, device);
        if result == vk::Result::SUCCESS {
            NEXT_DEVICE.get_or_init(|| device_next);
        }
        result
    }
}

unsafe extern "system" fn get_instance_proc_addr(
    instance: vk::Instance,
    name: *const c_char,
) -> Found {
    // SAFETY: see above.
    unsafe {
        let text = CStr::from_ptr(name);
        own(text).or_else(|| {
            let original = NEXT_INSTANCE.get()?(instance, name)?;
            Some(replacement(text, original))
        })
    }
}

unsafe extern "system" fn get_device_proc_addr(device: vk::Device, name: *const c_char) -> Found {
    // SAFETY: see above.
    unsafe {
        let text = CStr::from_ptr(name);
        own(text).or_else(|| {
            let original = NEXT_DEVICE.get()?(device, name)?;
            Some(replacement(text, original))
        })
    }
}

/// This layer's own functions, which find the driver's by themselves.
fn own(name: &CStr) -> Found {
    macro_rules! one_of {
        ($($name:literal: $function:ident as $type:ty;)*) => {
            match name.to_bytes() {
                // SAFETY: pointers to functions are all of one size.
                $($name => Some(unsafe { std::mem::transmute::<$type, Function>($function) }),)*
                _ => None,
            }
        };
    }
    one_of! {
        b"vkGetInstanceProcAddr": get_instance_proc_addr as vk::PFN_vkGetInstanceProcAddr;
        b"vkGetDeviceProcAddr": get_device_proc_addr as vk::PFN_vkGetDeviceProcAddr;
        b"vkCreateInstance": create_instance as vk::PFN_vkCreateInstance;
        b"vkCreateDevice": create_device as vk::PFN_vkCreateDevice;
    }
}

macro_rules! failing {
    ($($function:ident: $type:ty = $name:literal $(| $also:literal)*, $faults:expr,
        ($of:ident: $of_type:ty $(, $operand:ident: $operand_type:ty)* $(,)?);)*) => {
        mod original {
            use super::{OnceLock, vk};
            $(#[expect(non_upper_case_globals, reason = "named like its function")]
            pub(super) static $function: OnceLock<$type> = OnceLock::new();)*
        }

        $(unsafe extern "system" fn $function($of: $of_type $(, $operand: $operand_type)*) -> vk::Result {
            if let Some(error) = fault($name, $faults, $of) {
                return error;
            }
            match original::$function.get() {
                // SAFETY: the operands are the caller's.
                Some(original) => unsafe { original($of $(, $operand)*) },
                None => vk::Result::ERROR_UNKNOWN,
            }
        })*

        /// This layer's function of that name, or the driver's.
        ///
        /// # Safety
        /// `function` is the driver's function of that name.
        unsafe fn replacement(name: &CStr, function: Function) -> Function {
            $(if name == $name $(|| name == $also)* {
                // SAFETY: functions of this name have this type by Vulkan's specification, and pointers to functions
                // are all of one size.
                return unsafe {
                    original::$function
                        .get_or_init(|| std::mem::transmute::<Function, $type>(function));
                    std::mem::transmute::<$type, Function>($function)
                };
            })*
            function
        }
    };
}

type Allocator<'a> = *const vk::AllocationCallbacks<'a>;

failing! {
    queue_submit: vk::PFN_vkQueueSubmit = c"vkQueueSubmit", MemoryOrLost,
        (queue: vk::Queue, count: u32, submits: *const vk::SubmitInfo<'_>, fence: vk::Fence);
    queue_submit_2: vk::PFN_vkQueueSubmit2 = c"vkQueueSubmit2" | c"vkQueueSubmit2KHR", MemoryOrLost,
        (queue: vk::Queue, count: u32, submits: *const vk::SubmitInfo2<'_>, fence: vk::Fence);
    queue_wait_idle: vk::PFN_vkQueueWaitIdle = c"vkQueueWaitIdle", MemoryOrLost,
        (queue: vk::Queue);
    device_wait_idle: vk::PFN_vkDeviceWaitIdle = c"vkDeviceWaitIdle", MemoryOrLost,
        (device: vk::Device);
    wait_for_fences: vk::PFN_vkWaitForFences = c"vkWaitForFences", MemoryOrLost,
        (device: vk::Device, count: u32, fences: *const vk::Fence, all: vk::Bool32, timeout: u64);
    get_fence_status: vk::PFN_vkGetFenceStatus = c"vkGetFenceStatus", MemoryOrLost,
        (device: vk::Device, fence: vk::Fence);
    wait_semaphores: vk::PFN_vkWaitSemaphores = c"vkWaitSemaphores" | c"vkWaitSemaphoresKHR", MemoryOrLost,
        (device: vk::Device, info: *const vk::SemaphoreWaitInfo<'_>, timeout: u64);
    get_semaphore_counter_value: vk::PFN_vkGetSemaphoreCounterValue =
        c"vkGetSemaphoreCounterValue" | c"vkGetSemaphoreCounterValueKHR", MemoryOrLost,
        (device: vk::Device, semaphore: vk::Semaphore, value: *mut u64);
    get_query_pool_results: vk::PFN_vkGetQueryPoolResults = c"vkGetQueryPoolResults", MemoryOrLost,
        (device: vk::Device, pool: vk::QueryPool, first: u32, count: u32, size: usize, data: *mut c_void,
            stride: vk::DeviceSize, flags: vk::QueryResultFlags);

    allocate_memory: vk::PFN_vkAllocateMemory = c"vkAllocateMemory", Memory,
        (device: vk::Device, info: *const vk::MemoryAllocateInfo<'_>, allocator: Allocator<'_>,
            memory: *mut vk::DeviceMemory);
    map_memory: vk::PFN_vkMapMemory = c"vkMapMemory", Memory,
        (device: vk::Device, memory: vk::DeviceMemory, offset: vk::DeviceSize, size: vk::DeviceSize,
            flags: vk::MemoryMapFlags, data: *mut *mut c_void);
    flush_ranges: vk::PFN_vkFlushMappedMemoryRanges = c"vkFlushMappedMemoryRanges", Memory,
        (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>);
    invalidate_ranges: vk::PFN_vkInvalidateMappedMemoryRanges = c"vkInvalidateMappedMemoryRanges", Memory,
        (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>);
    create_buffer: vk::PFN_vkCreateBuffer = c"vkCreateBuffer", Memory,
        (device: vk::Device, info: *const vk::BufferCreateInfo<'_>, allocator: Allocator<'_>, buffer: *mut vk::Buffer);
    bind_buffer_memory: vk::PFN_vkBindBufferMemory = c"vkBindBufferMemory", Memory,
        (device: vk::Device, buffer: vk::Buffer, memory: vk::DeviceMemory, offset: vk::DeviceSize);
    create_shader_module: vk::PFN_vkCreateShaderModule = c"vkCreateShaderModule", MemoryForKernel,
        (device: vk::Device, info: *const vk::ShaderModuleCreateInfo<'_>, allocator: Allocator<'_>,
            module: *mut vk::ShaderModule);
    create_set_layout: vk::PFN_vkCreateDescriptorSetLayout = c"vkCreateDescriptorSetLayout", MemoryForKernel,
        (device: vk::Device, info: *const vk::DescriptorSetLayoutCreateInfo<'_>, allocator: Allocator<'_>,
            layout: *mut vk::DescriptorSetLayout);
    create_pipeline_layout: vk::PFN_vkCreatePipelineLayout = c"vkCreatePipelineLayout", MemoryForKernel,
        (device: vk::Device, info: *const vk::PipelineLayoutCreateInfo<'_>, allocator: Allocator<'_>,
            layout: *mut vk::PipelineLayout);
    create_pipelines: vk::PFN_vkCreateComputePipelines = c"vkCreateComputePipelines", MemoryForKernel,
        (device: vk::Device, cache: vk::PipelineCache, count: u32,
            infos: *const vk::ComputePipelineCreateInfo<'_>, allocator: Allocator<'_>, pipelines: *mut vk::Pipeline);
    create_pipeline_cache: vk::PFN_vkCreatePipelineCache = c"vkCreatePipelineCache", MemoryForKernel,
        (device: vk::Device, info: *const vk::PipelineCacheCreateInfo<'_>, allocator: Allocator<'_>,
            cache: *mut vk::PipelineCache);
    get_pipeline_cache_data: vk::PFN_vkGetPipelineCacheData = c"vkGetPipelineCacheData", Memory,
        (device: vk::Device, cache: vk::PipelineCache, size: *mut usize, data: *mut c_void);
    create_descriptor_pool: vk::PFN_vkCreateDescriptorPool = c"vkCreateDescriptorPool", MemoryForKernel,
        (device: vk::Device, info: *const vk::DescriptorPoolCreateInfo<'_>, allocator: Allocator<'_>,
            pool: *mut vk::DescriptorPool);
    allocate_sets: vk::PFN_vkAllocateDescriptorSets = c"vkAllocateDescriptorSets", Memory,
        (device: vk::Device, info: *const vk::DescriptorSetAllocateInfo<'_>, sets: *mut vk::DescriptorSet);
    create_command_pool: vk::PFN_vkCreateCommandPool = c"vkCreateCommandPool", Memory,
        (device: vk::Device, info: *const vk::CommandPoolCreateInfo<'_>, allocator: Allocator<'_>,
            pool: *mut vk::CommandPool);
    reset_command_pool: vk::PFN_vkResetCommandPool = c"vkResetCommandPool", Memory,
        (device: vk::Device, pool: vk::CommandPool, flags: vk::CommandPoolResetFlags);
    allocate_command_buffers: vk::PFN_vkAllocateCommandBuffers = c"vkAllocateCommandBuffers", Memory,
        (device: vk::Device, info: *const vk::CommandBufferAllocateInfo<'_>, buffers: *mut vk::CommandBuffer);
    begin_command_buffer: vk::PFN_vkBeginCommandBuffer = c"vkBeginCommandBuffer", Memory,
        (buffer: vk::CommandBuffer, info: *const vk::CommandBufferBeginInfo<'_>);
    end_command_buffer: vk::PFN_vkEndCommandBuffer = c"vkEndCommandBuffer", Memory,
        (buffer: vk::CommandBuffer);
    reset_command_buffer: vk::PFN_vkResetCommandBuffer = c"vkResetCommandBuffer", Memory,
        (buffer: vk::CommandBuffer, flags: vk::CommandBufferResetFlags);
    create_query_pool: vk::PFN_vkCreateQueryPool = c"vkCreateQueryPool", Memory,
        (device: vk::Device, info: *const vk::QueryPoolCreateInfo<'_>, allocator: Allocator<'_>,
            pool: *mut vk::QueryPool);
    create_fence: vk::PFN_vkCreateFence = c"vkCreateFence", Memory,
        (device: vk::Device, info: *const vk::FenceCreateInfo<'_>, allocator: Allocator<'_>, fence: *mut vk::Fence);
    create_semaphore: vk::PFN_vkCreateSemaphore = c"vkCreateSemaphore", Memory,
        (device: vk::Device, info: *const vk::SemaphoreCreateInfo<'_>, allocator: Allocator<'_>,
            semaphore: *mut vk::Semaphore);
}
