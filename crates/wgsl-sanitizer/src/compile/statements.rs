//! Statements.
//!
//! Lanes that leave a block early (by `break`, `continue` or `return`) are put aside in the frame that they go to, and
//! come back where it ends. A block without a lane left is skipped.

use naga::{
    AtomicFunction, Block, Direction, Expression, Function, GatherMode, Handle, Statement,
    SwitchCase, SwitchValue, TypeInner,
};

use super::expressions::is_composite;
use super::{Compiled, Compiler, Frame, Result, Scope, Value};
use crate::program::{AtomicOp, CompiledFunction, Gather, Op, Place, Root};

impl<'a> Compiler<'a> {
    /// Translates a block; returns the operations that go on at its end when no lane is left.
    pub(super) fn block(&mut self, scope: &mut Scope<'a>, block: &'a Block) -> Result<Vec<usize>> {
        let mut pending = Vec::new();
        for (statement, span) in block.span_iter() {
            if span.is_defined() {
                self.span = *span;
            }
            self.statement(scope, statement, &mut pending)?;
        }
        Ok(pending)
    }

    /// Has operations go on here.
    pub(super) fn patch(&mut self, pending: &[usize]) {
        let here = self.here();
        for at in pending {
            match &mut self.ops[*at] {
                Op::If { otherwise: to, .. }
                | Op::Else { end: to }
                | Op::EndIf { skip: to }
                | Op::Continuing { exit: to }
                | Op::LoopEnd { skip: to }
                | Op::Case { next: to, .. }
                | Op::SwitchEnd { skip: to }
                | Op::Jump { to } => *to = here,
                _ => {}
            }
        }
    }

    fn statement(
        &mut self,
        scope: &mut Scope<'a>,
        statement: &'a Statement,
        pending: &mut Vec<usize>,
    ) -> Result<()> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    self.emit_expression(scope, handle)?;
                }
            }
            Statement::Block(block) => pending.extend(self.block(scope, block)?),
            Statement::If { condition, accept, reject } => {
                let condition = self.rows_of(scope, *condition)?;
                let span = self.span;
                let branch = self.emit(Op::If { condition, otherwise: 0 });
                scope.frames.push(Frame::If);
                let mut ends = self.block(scope, accept)?;
                ends.push(branch);
                self.patch(&ends);
                self.span = span;
                let otherwise = self.emit(Op::Else { end: 0 });
                let mut ends = self.block(scope, reject)?;
                ends.push(otherwise);
                self.patch(&ends);
                scope.frames.pop();
                self.span = span;
                pending.push(self.emit(Op::EndIf { skip: 0 }));
            }
            Statement::Switch { selector, cases } => {
                self.switch(scope, *selector, cases, pending)?;
            }
            Statement::Loop { body, continuing, break_if } => {
                let span = self.span;
                self.emit(Op::LoopBegin);
                scope.frames.push(Frame::Loop);
                let start = self.here();
                let ends = self.block(scope, body)?;
                self.patch(&ends);
                self.span = span;
                let mut exits = vec![self.emit(Op::Continuing { exit: 0 })];
                let ends = self.block(scope, continuing)?;
                self.patch(&ends);
                if let Some(condition) = break_if {
                    let condition = self.rows_of(scope, *condition)?;
                    self.emit(Op::BreakIf { condition });
                }
                self.span = span;
                self.emit(Op::LoopBack { start });
                self.patch(&exits);
                exits.clear();
                scope.frames.pop();
                pending.push(self.emit(Op::LoopEnd { skip: 0 }));
            }
            Statement::Break => {
                let outside = |frame: &&Frame| **frame == Frame::If;
                let depth = scope.frames.iter().rev().take_while(outside).count() as u32;
                self.emit(Op::Break { depth });
                pending.push(self.emit(Op::Jump { to: 0 }));
            }
            Statement::Continue => {
                let outside = |frame: &&Frame| **frame != Frame::Loop;
                let depth = scope.frames.iter().rev().take_while(outside).count() as u32;
                self.emit(Op::Continue { depth });
                pending.push(self.emit(Op::Jump { to: 0 }));
            }
            Statement::Return { value } => {
                if let Some(value) = value {
                    let of = self.type_of(scope, *value);
                    let from = self.rows_of(scope, *value)?;
                    let n = self.slots(of)?;
                    let carry = is_composite(of);
                    self.emit(Op::Put { to: scope.result, from, n, carry });
                }
                self.emit(Op::Return { depth: scope.frames.len() as u32 });
                pending.push(self.emit(Op::Jump { to: 0 }));
            }
            Statement::ControlBarrier(flags) => {
                self.emit(Op::Barrier { flags: *flags });
            }
            // It orders nothing by itself between invocations.
            Statement::MemoryBarrier(_) => {}
            Statement::Store { pointer, value } => {
                let of = self.type_of(scope, *value);
                let pointer = self.pointer(scope, *pointer)?;
                let from = self.rows_of(scope, *value)?;
                let n = self.slots(of)?;
                let carry = is_composite(of);
                let atomic = matches!(&*pointer.to, TypeInner::Atomic(_));
                let place = pointer.place;
                match (place.root, place.rows) {
                    (Root::Local(start, _), None) => {
                        self.emit(Op::Put { to: start + place.offset, from, n, carry });
                    }
                    (Root::Local(..), Some(_)) => {
                        self.emit(Op::Scatter { place, from, n, carry });
                    }
                    (Root::Shared(_), _) => {
                        self.emit(Op::StoreShared { place, from, n, carry, atomic });
                    }
                    (Root::Buffer(_), _) => {
                        let leaves = self.leaves(&pointer.to)?;
                        self.emit(Op::StoreBuffer { place, from, leaves, carry, atomic });
                    }
                }
            }
            Statement::Atomic { pointer, fun, value, result } => {
                let pointer = self.pointer(scope, *pointer)?;
                let TypeInner::Atomic(scalar) = &*pointer.to else {
                    return self.unsupported("an atomic operation on this");
                };
                let scalar = self.scalar(*scalar)?;
                let value = self.rows_of(scope, *value)?;
                let op = match fun {
                    AtomicFunction::Add => AtomicOp::Add,
                    AtomicFunction::Subtract => AtomicOp::Subtract,
                    AtomicFunction::And => AtomicOp::And,
                    AtomicFunction::ExclusiveOr => AtomicOp::Xor,
                    AtomicFunction::InclusiveOr => AtomicOp::Or,
                    AtomicFunction::Min => AtomicOp::Min,
                    AtomicFunction::Max => AtomicOp::Max,
                    AtomicFunction::Exchange { compare: None } => AtomicOp::Exchange,
                    AtomicFunction::Exchange { compare: Some(compare) } => {
                        AtomicOp::CompareExchange(self.rows_of(scope, *compare)?)
                    }
                };
                let row = match result {
                    Some(result) => {
                        let slots = self.slots(self.type_of(scope, *result))?;
                        let row = self.take(slots);
                        scope.values.insert(*result, Value::Rows(row));
                        Some(row)
                    }
                    None => None,
                };
                self.emit(Op::Atomic { op, place: pointer.place, scalar, value, result: row });
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                let pointer = self.pointer(scope, *pointer)?;
                let flags = naga::Barrier::WORK_GROUP;
                self.emit(Op::Barrier { flags });
                self.emit(Op::Uniform { place: pointer.place });
                let row = self.load(&pointer)?;
                self.emit(Op::Barrier { flags });
                scope.values.insert(*result, Value::Rows(row));
            }
            Statement::Call { function, arguments, result } => {
                self.call(scope, *function, arguments, *result)?;
            }
            Statement::SubgroupBallot { result, predicate } => {
                let predicate = match predicate {
                    Some(predicate) => Some(self.rows_of(scope, *predicate)?),
                    None => None,
                };
                let to = self.take(4);
                self.emit(Op::Ballot { to, predicate });
                scope.values.insert(*result, Value::Rows(to));
            }
            Statement::SubgroupGather { mode, argument, result } => {
                let n = self.slots(self.type_of(scope, *argument))?;
                let from = self.rows_of(scope, *argument)?;
                let mut row = |index: Handle<Expression>| self.rows_of(scope, index);
                let (mode, index) = match *mode {
                    GatherMode::BroadcastFirst => (Gather::First, 0),
                    GatherMode::Broadcast(index) => (Gather::Broadcast, row(index)?),
                    GatherMode::Shuffle(index) => (Gather::Shuffle, row(index)?),
                    GatherMode::ShuffleDown(index) => (Gather::Down, row(index)?),
                    GatherMode::ShuffleUp(index) => (Gather::Up, row(index)?),
                    GatherMode::ShuffleXor(index) => (Gather::Xor, row(index)?),
                    GatherMode::QuadBroadcast(index) => (Gather::QuadBroadcast, row(index)?),
                    GatherMode::QuadSwap(direction) => {
                        let bits = match direction {
                            Direction::X => 1,
                            Direction::Y => 2,
                            Direction::Diagonal => 3,
                        };
                        (Gather::QuadSwap(bits), 0)
                    }
                };
                let to = self.take(n);
                self.emit(Op::Move { mode, to, from, index, n });
                scope.values.insert(*result, Value::Rows(to));
            }
            Statement::SubgroupCollectiveOperation { op, collective_op, argument, result } => {
                let of = self.type_of(scope, *argument);
                let Some(scalar) = of.scalar() else {
                    return self.unsupported("a subgroup operation on this type");
                };
                let scalar = self.scalar(scalar)?;
                let slots = self.slots(of)?;
                let from = self.rows_of(scope, *argument)?;
                let to = self.take(slots);
                let n = slots / scalar.words();
                self.emit(Op::Collective { op: *op, scan: *collective_op, scalar, to, from, n });
                scope.values.insert(*result, Value::Rows(to));
            }
            Statement::CooperativeStore { target, data } => {
                let matrix = self.coop_matrix(self.type_of(scope, *target))?;
                let from = self.rows_of(scope, *target)?;
                let access = self.coop_access(scope, data, matrix.scalar)?;
                self.emit(Op::CoopStore { from, matrix, access });
            }
            Statement::Kill => return self.unsupported("discard"),
            Statement::ImageStore { .. } => return self.unsupported("textureStore"),
            Statement::ImageAtomic { .. } => {
                return self.unsupported("an atomic texture operation");
            }
            Statement::RayQuery { .. } => return self.unsupported("a ray query"),
            Statement::RayPipelineFunction(_) => return self.unsupported("traceRay"),
        }
        Ok(())
    }

    fn switch(
        &mut self,
        scope: &mut Scope<'a>,
        selector: Handle<Expression>,
        cases: &'a [SwitchCase],
        pending: &mut Vec<usize>,
    ) -> Result<()> {
        let selector = self.rows_of(scope, selector)?;
        let values = cases.iter().map(|case| match case.value {
            SwitchValue::I32(value) => Some(value as u32),
            SwitchValue::U32(value) => Some(value),
            SwitchValue::Default => None,
        });
        let number = self.program.switches.len() as u32;
        self.program.switches.push(values.collect());
        let span = self.span;
        self.emit(Op::Switch { selector, cases: number });
        scope.frames.push(Frame::Switch);
        for (index, case) in (0u32..).zip(cases) {
            let next = self.emit(Op::Case { index, next: 0 });
            let ends = self.block(scope, &case.body)?;
            self.patch(&ends);
            if !case.fall_through {
                self.emit(Op::CaseEnd);
            }
            self.patch(&[next]);
        }
        scope.frames.pop();
        self.span = span;
        pending.push(self.emit(Op::SwitchEnd { skip: 0 }));
        Ok(())
    }

    fn call(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Function>,
        arguments: &[Handle<Expression>],
        result: Option<Handle<Expression>>,
    ) -> Result<()> {
        let span = self.span;
        let mut values = Vec::new();
        for argument in arguments {
            values.push((self.value(scope, *argument)?, self.type_of(scope, *argument)));
        }
        let root = |value: &Value<'a>| match value {
            Value::Rows(_) => None,
            Value::Pointer(pointer) => Some(pointer.place.root),
        };
        let instance = (handle, values.iter().map(|(value, _)| root(value)).collect::<Vec<_>>());
        let compiled = match self.instances.get(&instance) {
            Some(compiled) => compiled.clone(),
            None => {
                let function = &self.module.functions[handle];
                let mut rows = Vec::new();
                for argument in &function.arguments {
                    let slots = self.slots(&self.module.types[argument.ty].inner)?;
                    rows.push(self.take(slots));
                }
                let slots = match &function.result {
                    Some(result) => self.slots(&self.module.types[result.ty].inner)?,
                    None => 0,
                };
                let compiled = Compiled {
                    number: self.functions.len() as u32,
                    arguments: rows,
                    result: self.take(slots),
                };
                self.functions.push(CompiledFunction::default());
                self.instances.insert(instance.clone(), compiled.clone());
                self.waiting.push_back(instance);
                compiled
            }
        };
        self.span = span;
        for ((value, of), to) in values.into_iter().zip(&compiled.arguments) {
            match value {
                Value::Rows(from) => {
                    let n = self.slots(of)?;
                    self.emit(Op::Copy { to: *to, from, n, carry: is_composite(of) });
                }
                Value::Pointer(pointer) => {
                    let place: Place = pointer.place;
                    self.emit(Op::Pointer { to: *to, place });
                }
            }
        }
        self.emit(Op::Call { function: compiled.number });
        if let Some(result) = result {
            let of = self.type_of(scope, result);
            let n = self.slots(of)?;
            let to = self.take(n);
            self.emit(Op::Copy { to, from: compiled.result, n, carry: is_composite(of) });
            scope.values.insert(result, Value::Rows(to));
        }
        Ok(())
    }
}
