#![doc = include_str!("../README.md")]

mod buffer;
mod compile;
#[cfg(feature = "wgpu")]
pub mod device;
mod error;
mod exec;
mod finding;
mod lanes;
mod math;
mod program;
mod race;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Handle, Module, Override};

pub use buffer::Buffer;
pub use error::Error;
pub use finding::{Call, Finding, FindingKind, Invocation, Location, OtherAccess, Report};

use exec::{Bound, Dispatch};
use program::Program;
use race::Shadow;

/// A valid module, with its text where there is one.
///
/// ```
/// use wgsl_sanitizer::Shader;
/// let shader = Shader::from_wgsl("@compute @workgroup_size(64) fn main() {}")?;
/// let kernel = shader.kernel("main", &[], 32)?;
/// assert_eq!(kernel.workgroup_size(), [64, 1, 1]);
/// # Ok::<(), wgsl_sanitizer::Error>(())
/// ```
#[derive(Debug)]
pub struct Shader {
    module: Module,
    info: ModuleInfo,
    source: Option<Arc<str>>,
}

impl Shader {
    /// Reads and validates a text.
    ///
    /// # Errors
    /// [`Error::Parse`] or [`Error::Invalid`], with the place in the text.
    pub fn from_wgsl(source: &str) -> Result<Self, Error> {
        let mut options = naga::front::wgsl::Options::new();
        options.capabilities = Capabilities::all();
        let module = naga::front::wgsl::Frontend::new_with_options(options)
            .parse(source)
            .map_err(|error| Error::Parse(error.emit_to_string(source)))?;
        Self::from_module(module, Some(source))
    }

    /// Validates a module. Findings have lines where `source` is the text that it was made from.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn from_module(module: Module, source: Option<&str>) -> Result<Self, Error> {
        // Whether flow is uniform is seen when it runs.
        let flags = ValidationFlags::all() - ValidationFlags::CONTROL_FLOW_UNIFORMITY;
        let mut validator = Validator::new(flags, Capabilities::all());
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
        let info = validator
            .validate(&module)
            .map_err(|error| Error::Invalid(error.emit_to_string(source.unwrap_or_default())))?;
        Ok(Self { module, info, source: source.map(Arc::from) })
    }

    /// The entry points for compute shaders.
    pub fn entry_points(&self) -> impl Iterator<Item = &str> {
        let is_compute = |entry: &&naga::EntryPoint| entry.stage == naga::ShaderStage::Compute;
        self.module.entry_points.iter().filter(is_compute).map(|entry| entry.name.as_str())
    }

    /// An entry point with values for override constants (by name, or by number for those with an `@id`), for subgroups
    /// of 1 to 128 invocations.
    ///
    /// # Errors
    /// [`Error::EntryPoint`], [`Error::Override`], [`Error::Unsupported`] by the name of what isn't executed here, and
    /// [`Error::Option`] for a subgroup size out of range.
    pub fn kernel(
        &self,
        entry_point: &str,
        overrides: &[(&str, f64)],
        subgroup_size: u32,
    ) -> Result<Kernel, Error> {
        if !(1..=128).contains(&subgroup_size) {
            return Err(Error::Option {
                name: "subgroup_size",
                expected: "1 to 128",
                got: subgroup_size.to_string(),
            });
        }
        let mut values: HashMap<Handle<Override>, f64> = HashMap::new();
        for (name, value) in overrides {
            let is_its = |of: &Override| match of.id {
                Some(id) => *name == id.to_string(),
                None => of.name.as_deref() == Some(name),
            };
            let found = self.module.overrides.iter().find(|(_, of)| is_its(of));
            let Some((handle, _)) = found else {
                return Err(Error::Override {
                    name: (*name).to_owned(),
                    problem: "the shader has none of this name".into(),
                });
            };
            values.insert(handle, *value);
        }
        let program = compile::compile(
            &self.module,
            &self.info,
            self.source.as_deref(),
            entry_point,
            &values,
            subgroup_size,
        )?;
        let [x, y, z] = program.workgroup_size;
        if u64::from(x) * u64::from(y) * u64::from(z) > 1 << 15 || x * y * z == 0 {
            return Err(Error::Option {
                name: "workgroup_size",
                expected: "1 to 32768 invocations",
                got: format!("{:?}", program.workgroup_size),
            });
        }
        Ok(Kernel { program, source: self.source.clone() })
    }
}

/// In which order a workgroup's subgroups go on after each barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first.
    Backward,
    /// Another one after each barrier, by a seed.
    Random(u64),
}

/// How a dispatch is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The order of subgroups.
    pub order: Order,
    /// Whether workgroup memory is zero from the start, as WebGPU has it, instead of holding nothing, as with wgpu's
    /// `zero_initialize_workgroup_memory: false`.
    pub zero_workgroup_memory: bool,
    /// Whether variables of functions and private ones that have no initial value hold nothing. WGSL has them be zero, so
    /// that this is off unless asked for.
    ///
    /// naga itself gives a variable within a loop its zero; such a variable counts as written.
    pub uninitialized_variables: bool,
    /// How many different findings are kept.
    pub most_findings: usize,
    /// How long a dispatch may take.
    pub time_limit: Duration,
    /// How many operations a dispatch may execute, counted as in [`Report::operations`]; the same on every machine. It is
    /// looked at every 4096 operations of a subgroup and at each barrier of a workgroup.
    pub operation_limit: u64,
    /// How many workgroups run at a time; 0 for as many as there are cores.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            order: Order::default(),
            zero_workgroup_memory: false,
            uninitialized_variables: false,
            most_findings: 64,
            time_limit: Duration::from_secs(60),
            operation_limit: u64::MAX,
            threads: 0,
        }
    }
}

/// A buffer, bound.
#[derive(Debug, Clone)]
pub struct Binding<'a> {
    /// `@group`.
    pub group: u32,
    /// `@binding`.
    pub binding: u32,
    /// The buffer.
    pub buffer: &'a Buffer,
    /// The bytes of it that the shader sees.
    pub range: Range<u64>,
}

impl<'a> Binding<'a> {
    /// The whole of a buffer.
    pub fn whole(group: u32, binding: u32, buffer: &'a Buffer) -> Self {
        Self { group, binding, buffer, range: 0..buffer.len() }
    }
}

/// An entry point, ready to be run.
#[derive(Debug)]
pub struct Kernel {
    program: Program,
    source: Option<Arc<str>>,
}

impl Kernel {
    /// Invocations of a workgroup.
    pub fn workgroup_size(&self) -> [u32; 3] {
        self.program.workgroup_size
    }

    /// Invocations of a subgroup.
    pub fn subgroup_size(&self) -> u32 {
        self.program.width
    }

    /// The bindings that it uses: group, binding, and whether it may write.
    pub fn bindings(&self) -> impl Iterator<Item = (u32, u32, bool)> {
        let buffers = self.program.buffers.iter().filter(|buffer| !buffer.is_immediate);
        buffers.map(|buffer| (buffer.group, buffer.binding, buffer.is_written))
    }

    /// Runs it. Bindings that it doesn't use are ignored.
    ///
    /// # Errors
    /// [`Error::Binding`] where one is missing or smaller than its type, [`Error::TimeLimit`], [`Error::OperationLimit`].
    pub fn dispatch(
        &self,
        workgroups: [u32; 3],
        bindings: &[Binding<'_>],
        options: &Options,
    ) -> Result<Report, Error> {
        self.dispatch_with_immediates(workgroups, bindings, &[], options)
    }

    /// As [`Kernel::dispatch`], with the bytes of `var<immediate>`.
    ///
    /// # Errors
    /// As [`Kernel::dispatch`].
    pub fn dispatch_with_immediates(
        &self,
        workgroups: [u32; 3],
        bindings: &[Binding<'_>],
        immediates: &[u8],
        options: &Options,
    ) -> Result<Report, Error> {
        let immediates = Buffer::from_slice(immediates);
        let mut buffers = Vec::new();
        for variable in &self.program.buffers {
            let error = |problem: String| Error::Binding {
                group: variable.group,
                binding: variable.binding,
                problem,
            };
            let is_its =
                |of: &&Binding<'_>| of.group == variable.group && of.binding == variable.binding;
            let (buffer, range) = match bindings.iter().find(is_its) {
                _ if variable.is_immediate => (&immediates, 0..immediates.len()),
                Some(of) => (of.buffer, of.range.clone()),
                None => return Err(error(format!("`{}` has no buffer", variable.name))),
            };
            if range.start % 4 != 0 || range.start > range.end || range.end > buffer.len() {
                let len = buffer.len();
                return Err(error(format!(
                    "the bytes {range:?} of a buffer of {len}; expected a range of it that begins at a multiple of 4"
                )));
            }
            let size = range.end - range.start;
            if size < variable.min_size {
                return Err(error(format!(
                    "`{}` needs {} bytes, the binding has {size}",
                    variable.name, variable.min_size
                )));
            }
            if size > u64::from(u32::MAX / 2) {
                return Err(error(format!(
                    "a binding of {size} bytes is too large to be run here"
                )));
            }
            let cells = size.div_ceil(u64::from(self.program.granule)) as usize;
            let shadow = variable.is_written.then(|| Mutex::new(vec![Shadow::default(); cells]));
            buffers.push(Bound { buffer, offset: range.start, size, shadow });
        }
        let count = workgroups.iter().map(|count| u64::from(*count)).product::<u64>();
        if count > u64::from(u32::MAX / 2) {
            return Err(Error::Option {
                name: "workgroups",
                expected: "fewer than 2^31",
                got: count.to_string(),
            });
        }
        let dispatch = Dispatch {
            program: &self.program,
            source: self.source.as_deref(),
            options,
            workgroups,
            buffers,
            deadline: Instant::now() + options.time_limit,
            over: Default::default(),
            is_over: Default::default(),
            next: Default::default(),
            operations: Default::default(),
            executed: self.program.ops.iter().map(|_| Default::default()).collect(),
            findings: Default::default(),
        };
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let threads = threads.min(count as usize);
        if threads <= 1 {
            dispatch.work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| dispatch.work());
                }
            });
        }
        let over = dispatch.over.lock().unwrap_or_else(PoisonError::into_inner).take();
        over.map_or_else(|| Ok(dispatch.report()), Err)
    }
}
