//! The entry point, the functions that it calls, and the module's variables.

use std::borrow::Cow;
use std::collections::HashMap;

use naga::valid::FunctionInfo;
use naga::{AddressSpace, Binding, BuiltIn, Function, GlobalVariable, Handle, TypeInner};

use super::{Compiler, Pointer, Result, Scope, Value};
use crate::math::Scalar;
use crate::program::{
    BufferVariable, CompiledFunction, LocalRows, Op, Place, Root, SharedVariable,
};

impl<'a> Compiler<'a> {
    pub(super) fn entry_point(
        &mut self,
        entry: &'a naga::EntryPoint,
        info: &'a FunctionInfo,
    ) -> Result<()> {
        self.program.workgroup_size = entry.workgroup_size;
        if let Some(sizes) = entry.workgroup_size_overrides {
            for (axis, size) in sizes.into_iter().enumerate() {
                if let Some(size) = size {
                    self.program.workgroup_size[axis] = self.evaluate(size, 1)?[0];
                }
            }
        }
        let mut arguments = Vec::new();
        for argument in &entry.function.arguments {
            arguments.push(self.entry_argument(argument)?);
        }
        self.functions.push(CompiledFunction::default());
        self.function(&entry.function, info, arguments, 0)?;
        while let Some(instance) = self.waiting.pop_front() {
            let compiled = self.instances[&instance].clone();
            let function = &self.module.functions[instance.0];
            let start = self.here();
            let name = function.name.clone().unwrap_or_default();
            let scalars = function.arguments.iter().zip(&compiled.arguments);
            let module = self.module;
            let scalars = scalars.filter_map(|(argument, row)| {
                let TypeInner::Scalar(scalar) = module.types[argument.ty].inner else {
                    return None;
                };
                Some((argument.name.clone()?, *row, Scalar::new(scalar)?))
            });
            self.functions[compiled.number as usize] =
                CompiledFunction { start, name, arguments: scalars.collect() };
            let arguments = function.arguments.iter().zip(&instance.1).zip(&compiled.arguments);
            let arguments: Result<Vec<_>> = arguments
                .map(|((argument, root), row)| match root {
                    None => Ok(Value::Rows(*row)),
                    Some(root) => self.pointer_argument(argument, *root, *row),
                })
                .collect();
            self.function(function, &self.info[instance.0], arguments?, compiled.result)?;
        }
        Ok(())
    }

    pub(super) fn pointer_argument(
        &self,
        argument: &'a naga::FunctionArgument,
        root: Root,
        row: u32,
    ) -> Result<Value<'a>> {
        let to = match &self.module.types[argument.ty].inner {
            TypeInner::Pointer { base, .. } => Cow::Borrowed(&self.module.types[*base].inner),
            TypeInner::ValuePointer { size, scalar, .. } => Cow::Owned(match size {
                Some(size) => TypeInner::Vector { size: *size, scalar: *scalar },
                None => TypeInner::Scalar(*scalar),
            }),
            _ => return self.unsupported("this argument"),
        };
        let place = Place { root, offset: 0, rows: Some(row) };
        Ok(Value::Pointer(Pointer { place, to, extent: self.extent_of(root) }))
    }

    pub(super) fn extent_of(&self, root: Root) -> (u32, u32) {
        match root {
            Root::Local(_, count) => (0, count),
            Root::Shared(start) => {
                let found = self.program.shared.iter().find(|shared| shared.start == start);
                (0, found.map_or(0, |shared| shared.count))
            }
            Root::Buffer(_) => (0, u32::MAX),
        }
    }

    pub(super) fn entry_argument(
        &mut self,
        argument: &naga::FunctionArgument,
    ) -> Result<Value<'a>> {
        if let Some(binding) = &argument.binding {
            return Ok(Value::Rows(self.builtin(binding)?));
        }
        let TypeInner::Struct { members, .. } = &self.module.types[argument.ty].inner else {
            return self.unsupported("an argument without a binding");
        };
        let slots = self.slots(&self.module.types[argument.ty].inner)?;
        let row = self.take(slots);
        let mut to = row;
        for member in members {
            let Some(binding) = &member.binding else {
                return self.unsupported("a member without a binding");
            };
            let from = self.builtin(binding)?;
            let n = self.slots(&self.module.types[member.ty].inner)?;
            self.in_prologue(|compiler| {
                compiler.emit(Op::Copy { to, from, n, carry: false });
                Ok(())
            })?;
            to += n;
        }
        Ok(Value::Rows(row))
    }

    pub(super) fn builtin(&self, binding: &Binding) -> Result<u32> {
        let rows = self.program.builtins;
        let Binding::BuiltIn(builtin) = binding else {
            return self.unsupported("an argument with a location");
        };
        Ok(match builtin {
            BuiltIn::LocalInvocationId => rows.local,
            BuiltIn::GlobalInvocationId => rows.global,
            BuiltIn::WorkGroupId => rows.workgroup,
            BuiltIn::NumWorkGroups => rows.workgroups,
            BuiltIn::WorkGroupSize => rows.workgroup_size,
            BuiltIn::LocalInvocationIndex => rows.local_index,
            BuiltIn::NumSubgroups => rows.subgroups,
            BuiltIn::SubgroupId => rows.subgroup,
            BuiltIn::SubgroupSize => rows.subgroup_size,
            BuiltIn::SubgroupInvocationId => rows.lane,
            other => return self.unsupported(format!("the built-in value {other:?}")),
        })
    }

    pub(super) fn function(
        &mut self,
        function: &'a Function,
        info: &'a FunctionInfo,
        arguments: Vec<Value<'a>>,
        result: u32,
    ) -> Result<()> {
        let mut scope = Scope {
            expressions: &function.expressions,
            info: Some(info),
            values: HashMap::new(),
            arguments,
            locals: HashMap::new(),
            result,
            frames: Vec::new(),
        };
        for (handle, variable) in function.local_variables.iter() {
            self.span = function.local_variables.get_span(handle);
            let to = &self.module.types[variable.ty].inner;
            let count = self.slots(to)?;
            let start = self.take(count);
            let path = self.path(to, false)?;
            let name = variable.name.clone().unwrap_or_default();
            self.program.locals.push(LocalRows { start, name, path, count });
            let place = Place { root: Root::Local(start, count), offset: 0, rows: None };
            let pointer = Pointer { place, to: Cow::Borrowed(to), extent: (0, count) };
            scope.locals.insert(handle, pointer);
        }
        for (handle, variable) in function.local_variables.iter() {
            self.span = function.local_variables.get_span(handle);
            let Root::Local(to, n) = scope.locals[&handle].place.root else { continue };
            match variable.init {
                Some(init) => {
                    let from = self.rows_of(&mut scope, init)?;
                    self.emit(Op::Put { to, from, n, carry: false });
                }
                None => {
                    self.emit(Op::Undefine { to, n });
                }
            }
        }
        let pending = self.block(&mut scope, &function.body)?;
        self.patch(&pending);
        self.emit(Op::FunctionEnd);
        Ok(())
    }

    /// The variable of an address space with memory.
    pub(super) fn global(&mut self, handle: Handle<GlobalVariable>) -> Result<Pointer<'a>> {
        if let Some(pointer) = self.globals.get(&handle) {
            return Ok(pointer.clone());
        }
        let variable = &self.module.global_variables[handle];
        let to = &self.module.types[variable.ty].inner;
        let name = variable.name.clone().unwrap_or_default();
        let root = match variable.space {
            AddressSpace::Private => {
                let count = self.slots(to)?;
                let start = self.take(count);
                let path = self.path(to, false)?;
                self.program.locals.push(LocalRows { start, name, path, count });
                let init = variable.init.map(|init| self.global_expression(init)).transpose()?;
                self.in_prologue(|compiler| {
                    compiler.emit(match init {
                        Some(from) => Op::Put { to: start, from, n: count, carry: false },
                        None => Op::Undefine { to: start, n: count },
                    });
                    Ok(())
                })?;
                Root::Local(start, count)
            }
            AddressSpace::WorkGroup => {
                let (start, count) = (self.program.shared_cells, self.slots(to)?);
                let path = self.path(to, false)?;
                self.program.shared.push(SharedVariable { name, start, count, path });
                self.program.shared_cells += count;
                Root::Shared(start)
            }
            AddressSpace::Uniform | AddressSpace::Storage { .. } | AddressSpace::Immediate => {
                if let TypeInner::BindingArray { .. } = to {
                    return self.unsupported("an array of bindings");
                }
                let is_immediate = variable.space == AddressSpace::Immediate;
                let (group, binding) = match &variable.binding {
                    Some(binding) => (binding.group, binding.binding),
                    None if is_immediate => (0, 0),
                    None => return self.unsupported("a buffer without a binding"),
                };
                let path = self.path(to, true)?;
                if self.smallest(to) < 4 {
                    self.program.granule = 2;
                }
                let stores = naga::StorageAccess::STORE;
                let is_written = matches!(variable.space,
                    AddressSpace::Storage { access } if access.contains(stores));
                let number = self.program.buffers.len() as u32;
                self.program.buffers.push(BufferVariable {
                    name,
                    group,
                    binding,
                    is_immediate,
                    is_written,
                    min_size: self.bytes(to)?,
                    path,
                });
                Root::Buffer(number)
            }
            ref other => return self.unsupported(format!("the address space {other:?}")),
        };
        let place = Place { root, offset: 0, rows: None };
        let pointer = Pointer { place, to: Cow::Borrowed(to), extent: self.extent_of(root) };
        self.globals.insert(handle, pointer.clone());
        Ok(pointer)
    }
}
