//! From naga's modules to programs: every expression becomes operations on rows of lanes.
//!
//! Rows are given out once, since WGSL has no recursion: each function has its own for each set of variables that its
//! pointer arguments point into.

mod arithmetic;
mod entry;
mod expressions;
mod layout;
mod statements;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    Arena, Expression, Function, GlobalVariable, Handle, LocalVariable, Module, Override,
    ShaderStage, Span, TypeInner,
};

use crate::error::Error;
use crate::lanes::Rows;
use crate::math::Scalar;
use crate::program::{Builtins, CompiledFunction, Op, Place, Program, Root};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What an expression became.
#[derive(Debug, Clone)]
enum Value<'a> {
    /// The first of its rows.
    Rows(u32),
    Pointer(Pointer<'a>),
}

#[derive(Debug, Clone)]
struct Pointer<'a> {
    place: Place,
    /// What it points to.
    to: Cow<'a, TypeInner>,
    /// Offsets of the innermost array or variable that is known.
    extent: (u32, u32),
}

/// A function with the variables that its pointer arguments point into.
type Instance = (Handle<Function>, Vec<Option<Root>>);

#[derive(Debug, Clone)]
struct Compiled {
    number: u32,
    arguments: Vec<u32>,
    result: u32,
}

/// Where expressions are looked up.
struct Scope<'a> {
    expressions: &'a Arena<Expression>,
    /// `None` for the module's own expressions.
    info: Option<&'a FunctionInfo>,
    values: HashMap<Handle<Expression>, Value<'a>>,
    arguments: Vec<Value<'a>>,
    locals: HashMap<Handle<LocalVariable>, Pointer<'a>>,
    result: u32,
    /// What encloses the statement.
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    If,
    Loop,
    Switch,
}

pub(crate) struct Compiler<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    source: Option<&'a str>,
    width: u32,
    overrides: &'a HashMap<Handle<Override>, f64>,
    ops: Vec<Op>,
    spans: Vec<Span>,
    /// Run before the entry point: constants and private variables.
    prologue: (Vec<Op>, Vec<Span>),
    span: Span,
    rows: u32,
    constants: HashMap<u32, u32>,
    zeros: HashMap<u32, u32>,
    global_values: HashMap<Handle<Expression>, Value<'a>>,
    globals: HashMap<Handle<GlobalVariable>, Pointer<'a>>,
    instances: HashMap<Instance, Compiled>,
    waiting: VecDeque<Instance>,
    functions: Vec<CompiledFunction>,
    leaf_numbers: HashMap<String, u32>,
    program: Program,
}

/// Translates an entry point.
pub(crate) fn compile(
    module: &Module,
    info: &ModuleInfo,
    source: Option<&str>,
    entry_point: &str,
    overrides: &HashMap<Handle<Override>, f64>,
    width: u32,
) -> Result<Program> {
    let is_its = |entry: &&naga::EntryPoint| {
        entry.stage == ShaderStage::Compute && entry.name == entry_point
    };
    let Some(entry) = module.entry_points.iter().find(is_its) else {
        let names = module.entry_points.iter().filter(|entry| entry.stage == ShaderStage::Compute);
        return Err(Error::EntryPoint {
            name: entry_point.to_owned(),
            available: names.map(|entry| entry.name.clone()).collect(),
        });
    };
    let index = module.entry_points.iter().position(|of| std::ptr::eq(of, entry)).unwrap_or(0);
    let mut compiler = Compiler::new(module, info, source, width, overrides);
    compiler.entry_point(entry, info.get_entry_point(index))?;
    Ok(compiler.finish())
}

impl<'a> Compiler<'a> {
    fn new(
        module: &'a Module,
        info: &'a ModuleInfo,
        source: Option<&'a str>,
        width: u32,
        overrides: &'a HashMap<Handle<Override>, f64>,
    ) -> Self {
        let mut compiler = Self {
            module,
            info,
            source,
            width,
            overrides,
            ops: Vec::new(),
            spans: Vec::new(),
            prologue: Default::default(),
            span: Span::UNDEFINED,
            rows: 0,
            constants: HashMap::new(),
            zeros: HashMap::new(),
            global_values: HashMap::new(),
            globals: HashMap::new(),
            instances: HashMap::new(),
            waiting: VecDeque::new(),
            functions: Vec::new(),
            leaf_numbers: HashMap::new(),
            program: Program {
                ops: Vec::new(),
                spans: Vec::new(),
                functions: Vec::new(),
                rows: 0,
                start: 0,
                constants: Vec::new(),
                width,
                workgroup_size: [1; 3],
                buffers: Vec::new(),
                shared: Vec::new(),
                shared_cells: 0,
                leaves: Vec::new(),
                switches: Vec::new(),
                builtins: Builtins::default(),
                locals: Vec::new(),
                granule: 4,
            },
        };
        let builtins = Builtins {
            local: compiler.take(3),
            global: compiler.take(3),
            workgroup: compiler.take(3),
            workgroups: compiler.take(3),
            workgroup_size: compiler.take(3),
            local_index: compiler.take(1),
            subgroups: compiler.take(1),
            subgroup: compiler.take(1),
            subgroup_size: compiler.take(1),
            lane: compiler.take(1),
        };
        compiler.program.builtins = builtins;
        compiler
    }

    /// New rows.
    fn take(&mut self, count: u32) -> u32 {
        let row = self.rows;
        self.rows += count;
        row
    }

    fn emit(&mut self, op: Op) -> usize {
        self.ops.push(op);
        self.spans.push(self.span);
        self.ops.len() - 1
    }

    fn here(&self) -> u32 {
        self.ops.len() as u32
    }

    fn unsupported<T>(&self, what: impl Into<String>) -> Result<T> {
        let line = |source: &str| self.span.location(source).line_number;
        let at = self.source.filter(|_| self.span.is_defined()).map(line);
        Err(Error::Unsupported { what: what.into(), at })
    }

    /// A row that holds a word in all lanes.
    fn constant(&mut self, word: u32) -> u32 {
        if let Some(row) = self.constants.get(&word) {
            return *row;
        }
        let row = self.take(1);
        self.constants.insert(word, row);
        self.program.constants.push((row, word));
        row
    }

    /// Rows of constant words.
    fn constant_words(&mut self, words: &[u32]) -> u32 {
        if let [word] = words {
            return self.constant(*word);
        }
        let row = self.take(words.len() as u32);
        self.program.constants.extend((row..).zip(words.iter().copied()));
        row
    }

    fn zero(&mut self, count: u32) -> u32 {
        if let Some(row) = self.zeros.get(&count) {
            return *row;
        }
        // Rows are zero from the start.
        let row = self.take(count.max(1));
        self.zeros.insert(count, row);
        row
    }

    /// Runs `work` with what it emits going to the prologue.
    fn in_prologue<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let swap = |compiler: &mut Self| {
            std::mem::swap(&mut compiler.ops, &mut compiler.prologue.0);
            std::mem::swap(&mut compiler.spans, &mut compiler.prologue.1);
        };
        swap(self);
        let span = self.span;
        let value = work(self);
        self.span = span;
        swap(self);
        value
    }

    fn global_scope(&self) -> Scope<'a> {
        Scope {
            expressions: &self.module.global_expressions,
            info: None,
            values: HashMap::new(),
            arguments: Vec::new(),
            locals: HashMap::new(),
            result: 0,
            frames: Vec::new(),
        }
    }

    /// A constant expression of the module.
    fn global_expression(&mut self, handle: Handle<Expression>) -> Result<u32> {
        if let Some(Value::Rows(row)) = self.global_values.get(&handle) {
            return Ok(*row);
        }
        let row = self.in_prologue(|compiler| {
            let mut scope = compiler.global_scope();
            compiler.rows_of(&mut scope, handle)
        })?;
        self.global_values.insert(handle, Value::Rows(row));
        Ok(row)
    }

    /// The words of a constant expression, where they are needed before anything runs.
    fn evaluate(&self, handle: Handle<Expression>, words: usize) -> Result<Vec<u32>> {
        let mut compiler = Self::new(self.module, self.info, self.source, 1, self.overrides);
        let mut scope = compiler.global_scope();
        let row = compiler.rows_of(&mut scope, handle)?;
        let rows = Rows::new(compiler.rows, 1);
        for (row, word) in &compiler.program.constants {
            rows.fill(*row, *word);
        }
        for op in compiler.prologue.0.iter().chain(&compiler.ops) {
            match *op {
                Op::Map1 { kernel, at, n, .. } => kernel(&rows, at, n),
                Op::Map2 { kernel, at, n, .. } => kernel(&rows, at, n),
                Op::Map3 { kernel, at, n, .. } => kernel(&rows, at, n),
                Op::Copy { to, from, n, .. } => rows.copy(to, from, n),
                Op::Defined { .. } | Op::CheckDivision { .. } | Op::CheckShift { .. } => {}
                _ => return self.unsupported("this constant expression"),
            }
        }
        Ok((0..words as u32).map(|word| rows.get(row + word, 0)).collect())
    }

    fn override_row(&mut self, handle: Handle<Override>) -> Result<u32> {
        let of = &self.module.overrides[handle];
        let Some(scalar) = self.module.types[of.ty].inner.scalar().and_then(Scalar::new) else {
            return self.unsupported("an override constant of this type");
        };
        if let Some(value) = self.overrides.get(&handle) {
            let bits = scalar.of_number(*value);
            let words = [bits as u32, (bits >> 32) as u32];
            return Ok(self.constant_words(&words[..scalar.words() as usize]));
        }
        match of.init {
            Some(init) => self.global_expression(init),
            None => {
                let name = of.name.clone().unwrap_or_else(|| format!("{:?}", of.id));
                Err(Error::Override { name, problem: "it needs a value".into() })
            }
        }
    }

    /// An override constant that sizes something.
    fn override_size(&self, handle: Handle<Override>) -> Result<u32> {
        if let Some(value) = self.overrides.get(&handle) {
            return Ok(*value as u32);
        }
        match self.module.overrides[handle].init {
            Some(init) => Ok(self.evaluate(init, 1)?[0]),
            None => {
                let name = self.module.overrides[handle].name.clone().unwrap_or_default();
                Err(Error::Override { name, problem: "it needs a value".into() })
            }
        }
    }

    fn finish(mut self) -> Program {
        // The program starts at its last operations: the prologue, then the entry point.
        let start = self.here();
        let (ops, spans) = std::mem::take(&mut self.prologue);
        self.ops.extend(ops);
        self.spans.extend(spans);
        self.span = Span::UNDEFINED;
        self.emit(Op::Call { function: 0 });
        self.emit(Op::Exit);
        let mut program = self.program;
        program.ops = self.ops;
        program.spans = self.spans;
        program.functions = self.functions;
        program.rows = self.rows;
        program.start = start;
        program
    }
}
