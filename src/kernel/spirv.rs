//! SPIR-V for kernels of cooperative matrices, whose accesses to shared memory are ordered.
//!
//! Such kernels run under Vulkan's memory model. There a barrier orders an access only if the access says that its memory is
//! shared (`NonPrivatePointer`), and passes writes on only if it makes them available and visible. naga 30 writes none of that
//! (wgpu's issue 8805), and its subgroup barriers order no workgroup memory. So these kernels are handed over as SPIR-V with the
//! missing operands added. Once wgpu's pull request 10016 is in the version that this crate depends on, WGSL will do, and this
//! module can go.

use std::collections::{BTreeMap, HashMap};

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use spirv::{Capability, MemoryAccess, MemorySemantics, Op, StorageClass};

/// Of Vulkan 1.1, which every device with cooperative matrices has.
const VERSION: (u8, u8) = (1, 3);
/// The module's first words: magic number, version, generator, bound of ids, schema.
const HEADER: usize = 5;
const BOUND: usize = 3;

/// Compiles a kernel's text. Indices of text that is `trusted` aren't checked, as wgpu has it.
///
/// # Errors
/// What naga objects to.
pub(super) fn compile(text: &str, entry_point: &str, trusted: bool) -> Result<Vec<u32>, String> {
    let capabilities = Capabilities::all();
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let mut front = naga::front::wgsl::Frontend::new_with_options(options);
    let module = front.parse(text).map_err(|error| error.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    let policy = match trusted {
        true => BoundsCheckPolicy::Unchecked,
        false => BoundsCheckPolicy::Restrict,
    };
    let options = spv::Options {
        lang_version: VERSION,
        flags: spv::WriterFlags::empty(),
        // Bindings keep the numbers that the text gives them.
        fake_missing_bindings: true,
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: policy,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: !trusted,
        emit_int_div_checks: !trusted,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry_point.to_owned(),
    };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .map_err(|error| error.to_string())?;
    ordered(&words)
}

/// The module with its accesses to workgroup memory and storage buffers marked as shared, and with barriers that order them.
///
/// # Errors
/// Where the module isn't as naga writes it.
fn ordered(module: &[u32]) -> Result<Vec<u32>, String> {
    let known = Known::new(module)?;
    let mut constants = BTreeMap::new();
    let mut bound = *module.get(BOUND).ok_or("a module without a header")?;
    let mut functions = Vec::new();
    let mut before = module[..HEADER].to_vec();
    let mut are_capabilities_done = false;
    let mut is_in_functions = false;
    for instruction in instructions(module) {
        let (op, words) = instruction?;
        if op != Op::Capability && !are_capabilities_done {
            are_capabilities_done = true;
            // naga's atomics and storage barriers have the device's scope.
            before
                .extend(encode(Op::Capability, &[Capability::VulkanMemoryModelDeviceScope as u32]));
        }
        is_in_functions |= op == Op::Function;
        if !is_in_functions {
            before.extend(words);
            continue;
        }
        let mut words = words.to_vec();
        match op {
            Op::ControlBarrier | Op::MemoryBarrier => {
                let last = words.last_mut().ok_or("a barrier without operands")?;
                let old = known.constants.get(last).ok_or("a barrier of unknown semantics")?;
                let new = barrier(MemorySemantics::from_bits_retain(*old)).bits();
                *last = *constants.entry(new).or_insert_with(|| {
                    bound += 1;
                    bound - 1
                });
            }
            _ => {
                if let Some((pointer, operands)) = access(op)
                    && known.is_shared(&words, pointer)?
                {
                    let shared = MemoryAccess::NON_PRIVATE_POINTER.bits();
                    match words.get_mut(operands) {
                        Some(mask) => *mask |= shared,
                        None => words.push(shared),
                    }
                    words[0] = (words.len() as u32) << 16 | op as u32;
                }
            }
        }
        functions.extend(words);
    }
    for (value, id) in constants {
        let u32_type = known.u32_type.ok_or("a module without u32")?;
        before.extend(encode(Op::Constant, &[u32_type, id, value]));
    }
    before[BOUND] = bound;
    Ok([before, functions].concat())
}

/// What a barrier has to say so that it passes on what was written. A subgroup's barrier is to order all shared memory.
fn barrier(mut semantics: MemorySemantics) -> MemorySemantics {
    if semantics.contains(MemorySemantics::SUBGROUP_MEMORY) {
        semantics.remove(MemorySemantics::SUBGROUP_MEMORY);
        semantics.insert(MemorySemantics::WORKGROUP_MEMORY | MemorySemantics::UNIFORM_MEMORY);
    }
    semantics | MemorySemantics::MAKE_AVAILABLE | MemorySemantics::MAKE_VISIBLE
}

/// Where an instruction that accesses memory has its pointer, and where its memory operands, if there are any.
const fn access(op: Op) -> Option<(usize, usize)> {
    match op {
        Op::Load => Some((3, 4)),
        Op::Store => Some((1, 3)),
        Op::CooperativeMatrixLoadKHR => Some((3, 6)),
        Op::CooperativeMatrixStoreKHR => Some((1, 5)),
        _ => None,
    }
}

/// What the module declares.
#[derive(Default)]
struct Known {
    /// The storage class of each pointer, and of each type of pointers.
    classes: HashMap<u32, u32>,
    /// Constants of one word.
    constants: HashMap<u32, u32>,
    u32_type: Option<u32>,
}

impl Known {
    fn new(module: &[u32]) -> Result<Self, String> {
        let mut known = Self::default();
        for instruction in instructions(module) {
            match instruction? {
                (Op::TypePointer, &[_, id, class, _]) => {
                    known.classes.insert(id, class);
                }
                (Op::TypeInt, &[_, id, 32, 0]) => known.u32_type = Some(id),
                (Op::Constant, &[_, _, id, value]) => {
                    known.constants.insert(id, value);
                }
                (
                    Op::Variable
                    | Op::AccessChain
                    | Op::InBoundsAccessChain
                    | Op::FunctionParameter
                    | Op::CopyObject,
                    &[_, pointer_type, id, ..],
                ) => {
                    if let Some(&class) = known.classes.get(&pointer_type) {
                        known.classes.insert(id, class);
                    }
                }
                _ => {}
            }
        }
        Ok(known)
    }

    /// Whether an instruction's pointer is to memory that other invocations see and write.
    fn is_shared(&self, instruction: &[u32], pointer: usize) -> Result<bool, String> {
        let class = instruction.get(pointer).and_then(|pointer| self.classes.get(pointer));
        let class = *class.ok_or("an access by a pointer of unknown storage class")?;
        Ok([StorageClass::Workgroup, StorageClass::StorageBuffer]
            .map(|class| class as u32)
            .contains(&class))
    }
}

/// A module's instructions, each with all of its words.
fn instructions(module: &[u32]) -> impl Iterator<Item = Result<(Op, &[u32]), String>> {
    let mut rest = module.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let &first = rest.first()?;
        let (length, op) = ((first >> 16) as usize, first & 0xffff);
        let found = match (rest.split_at_checked(length), Op::from_u32(op)) {
            (Some((words, after)), Some(op)) if length > 0 => {
                rest = after;
                Ok((op, words))
            }
            _ => {
                rest = &[];
                Err(format!("instruction {op} of {length} words"))
            }
        };
        Some(found)
    })
}

fn encode(op: Op, operands: &[u32]) -> Vec<u32> {
    let first = (operands.len() as u32 + 1) << 16 | op as u32;
    [&[first], operands].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::catalog::CATALOG;

    /// Accesses to workgroup memory and storage buffers, how many of them say that it is shared, and what barriers say. By the
    /// variables that pointers come from, not by their types.
    fn count(module: &[u32]) -> (usize, usize, Vec<MemorySemantics>) {
        let (mut bases, mut constants) = (HashMap::new(), HashMap::new());
        let (mut accesses, mut shared, mut barriers) = (0, 0, Vec::new());
        for instruction in instructions(module) {
            let (op, words) = instruction.unwrap();
            match op {
                Op::Constant => {
                    constants.insert(words[2], words[3]);
                }
                Op::Variable => {
                    bases.insert(words[2], words[3]);
                }
                Op::AccessChain | Op::InBoundsAccessChain => {
                    bases.insert(words[2], bases[&words[3]]);
                }
                Op::ControlBarrier | Op::MemoryBarrier => {
                    let value = constants[words.last().unwrap()];
                    barriers.push(MemorySemantics::from_bits(value).unwrap());
                }
                _ => {}
            }
            let (pointer, mask) = match op {
                Op::Load => (words[3], words.get(4)),
                Op::Store => (words[1], words.get(3)),
                Op::CooperativeMatrixLoadKHR => (words[3], words.get(6)),
                Op::CooperativeMatrixStoreKHR => (words[1], words.get(5)),
                _ => continue,
            };
            // Pointers that functions are given are to their callers' variables.
            let class = bases.get(&pointer).copied().unwrap_or(StorageClass::Function as u32);
            if [StorageClass::Workgroup as u32, StorageClass::StorageBuffer as u32].contains(&class)
            {
                accesses += 1;
                shared += usize::from(mask.is_some_and(|mask| mask & 0x20 != 0));
            }
        }
        (accesses, shared, barriers)
    }

    #[test]
    fn every_access_to_shared_memory_is_ordered() {
        let mut kernels = 0;
        for (text, _) in CATALOG.iter().filter(|(text, _)| text.matrices) {
            for trusted in [true, false] {
                let words = compile(&text.wgsl, text.entry_point, trusted).unwrap();
                let (accesses, shared, barriers) = count(&words);
                assert!(accesses > 20, "{accesses}");
                assert_eq!(shared, accesses);
                assert!(barriers.len() > 4);
                for semantics in barriers {
                    let passes_on = MemorySemantics::MAKE_AVAILABLE | MemorySemantics::MAKE_VISIBLE;
                    assert!(semantics.contains(passes_on), "{semantics:?}");
                    assert!(!semantics.contains(MemorySemantics::SUBGROUP_MEMORY));
                    let memory =
                        MemorySemantics::WORKGROUP_MEMORY | MemorySemantics::UNIFORM_MEMORY;
                    assert!(semantics.intersects(memory), "{semantics:?}");
                }
            }
            kernels += 1;
        }
        assert!(kernels > 4, "{kernels}");
    }
}
