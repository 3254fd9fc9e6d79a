//! Expressions.

use naga::{Expression, Handle, Literal, ScalarKind, TypeInner};

use super::layout::name;
use super::{Compiler, Pointer, Result, Scope, Value};
use crate::math::{self, Scalar};
use crate::program::{CoopAccess, Length, Op, Place, Root, Undefined};

impl<'a> Compiler<'a> {
    pub(super) fn type_of(&self, scope: &Scope<'a>, handle: Handle<Expression>) -> &'a TypeInner {
        match scope.info {
            Some(info) => info[handle].ty.inner_with(&self.module.types),
            None => self.info[handle].inner_with(&self.module.types),
        }
    }

    pub(super) fn shape(
        &self,
        scope: &Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<(u32, Scalar)> {
        self.shape_of(self.type_of(scope, handle))
    }

    /// Components and their type.
    pub(super) fn shape_of(&self, of: &TypeInner) -> Result<(u32, Scalar)> {
        Ok(match of {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => (1, self.scalar(*scalar)?),
            TypeInner::Vector { size, scalar } => (*size as u32, self.scalar(*scalar)?),
            TypeInner::Matrix { columns, rows, scalar } => {
                (*columns as u32 * *rows as u32, self.scalar(*scalar)?)
            }
            TypeInner::CooperativeMatrix { .. } => {
                let matrix = self.coop_matrix(of)?;
                (matrix.elements().div_ceil(self.width), matrix.scalar)
            }
            other => return self.unsupported(format!("arithmetic with {}", name(other))),
        })
    }

    /// The rows of an expression's value.
    pub(super) fn rows_of(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<u32> {
        match self.value(scope, handle)? {
            Value::Rows(row) => Ok(row),
            Value::Pointer(_) => self.unsupported("a pointer as a value"),
        }
    }

    pub(super) fn pointer(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<Pointer<'a>> {
        match self.value(scope, handle)? {
            Value::Pointer(pointer) => Ok(pointer),
            Value::Rows(_) => self.unsupported("a value as a pointer"),
        }
    }

    /// An expression's value: what was emitted, or a constant.
    pub(super) fn value(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<Value<'a>> {
        if let Some(value) = scope.values.get(&handle) {
            return Ok(value.clone());
        }
        self.expression(scope, handle)
    }

    /// Evaluates an expression at this place.
    pub(super) fn emit_expression(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<()> {
        let span = scope.expressions.get_span(handle);
        if span.is_defined() {
            self.span = span;
        }
        let value = self.expression(scope, handle)?;
        scope.values.insert(handle, value);
        Ok(())
    }

    fn expression(
        &mut self,
        scope: &mut Scope<'a>,
        handle: Handle<Expression>,
    ) -> Result<Value<'a>> {
        let of = self.type_of(scope, handle);
        let rows = match &scope.expressions[handle] {
            Expression::Literal(literal) => {
                let words = match *literal {
                    Literal::F64(value) => words_of_64(value.to_bits()),
                    Literal::U64(value) => words_of_64(value),
                    Literal::I64(value) => words_of_64(value as u64),
                    Literal::F32(value) => vec![value.to_bits()],
                    Literal::F16(value) => vec![u32::from(value.to_bits())],
                    Literal::U16(value) => vec![u32::from(value)],
                    Literal::I16(value) => vec![u32::from(value as u16)],
                    Literal::U32(value) => vec![value],
                    Literal::I32(value) => vec![value as u32],
                    Literal::Bool(value) => vec![u32::from(value)],
                    Literal::AbstractInt(_) | Literal::AbstractFloat(_) => {
                        return self.unsupported("an abstract number");
                    }
                };
                self.constant_words(&words)
            }
            Expression::Constant(constant) => {
                self.global_expression(self.module.constants[*constant].init)?
            }
            Expression::Override(handle) => self.override_row(*handle)?,
            Expression::ZeroValue(_) => {
                let slots = self.slots(of)?;
                self.zero(slots)
            }
            Expression::FunctionArgument(index) => {
                return Ok(scope.arguments[*index as usize].clone());
            }
            Expression::GlobalVariable(global) => return Ok(Value::Pointer(self.global(*global)?)),
            Expression::LocalVariable(local) => {
                return Ok(Value::Pointer(scope.locals[local].clone()));
            }
            Expression::Compose { components, .. } => {
                let mut parts = Vec::new();
                for component in components {
                    let slots = self.slots(self.type_of(scope, *component))?;
                    parts.push((self.rows_of(scope, *component)?, slots));
                }
                let row = self.take(parts.iter().map(|(_, slots)| slots).sum());
                let carry = is_composite(of);
                let mut to = row;
                for (from, n) in parts {
                    self.emit(Op::Copy { to, from, n, carry });
                    to += n;
                }
                row
            }
            Expression::Access { base, index } => {
                let (count, scalar) = self.shape(scope, *index)?;
                if count != 1 || scalar.words() != 1 {
                    return self.unsupported("an index of this type");
                }
                let signed = scalar.is_signed();
                let index = self.rows_of(scope, *index)?;
                match self.value(scope, *base)? {
                    Value::Pointer(pointer) => {
                        return Ok(Value::Pointer(self.access(pointer, index, signed)?));
                    }
                    Value::Rows(from) => {
                        let part = self.part(self.type_of(scope, *base))?;
                        let Some(length) = part.count else {
                            return self.unsupported("the value of an array without a size");
                        };
                        let (n, to) = (part.slots, self.take(part.slots));
                        let carry = is_composite(&part.of);
                        self.emit(Op::Extract { to, from, index, signed, length, n, carry });
                        to
                    }
                }
            }
            Expression::AccessIndex { base, index } => match self.value(scope, *base)? {
                Value::Pointer(pointer) => {
                    let part = self.part_at(&pointer.to, *index)?;
                    let step = if is_buffer(&pointer.place) { part.bytes } else { part.slots };
                    let offset = pointer.place.offset + step;
                    let extent = match (&*part.of, pointer.place.rows) {
                        // An array within a struct of a variable: all is known.
                        (TypeInner::Array { size, .. }, None)
                            if self.array_size(*size)?.is_some() =>
                        {
                            let end = match pointer.place.root {
                                Root::Buffer(_) => self.bytes(&part.of)? as u32,
                                _ => self.slots(&part.of)?,
                            };
                            (offset, offset + end)
                        }
                        _ => pointer.extent,
                    };
                    let place = Place { offset, ..pointer.place };
                    return Ok(Value::Pointer(Pointer { place, to: part.of, extent }));
                }
                Value::Rows(row) => {
                    let base = self.type_of(scope, *base);
                    let part = self.part_at(base, *index)?;
                    let row = row + part.slots;
                    if is_composite(base) && !is_composite(&part.of) {
                        let n = self.slots(&part.of)?;
                        self.emit(Op::Defined { row, n });
                    }
                    row
                }
            },
            Expression::Splat { size, value } => {
                let (_, scalar) = self.shape(scope, *value)?;
                let value = self.rows_of(scope, *value)?;
                self.splat(value, *size as u32, scalar)
            }
            Expression::Swizzle { size, vector, pattern } => {
                let (_, scalar) = self.shape(scope, *vector)?;
                let vector = self.rows_of(scope, *vector)?;
                let components = pattern[..*size as usize].iter().map(|from| *from as u32);
                self.pick(vector, components.collect(), scalar)
            }
            Expression::Load { pointer } => {
                let pointer = self.pointer(scope, *pointer)?;
                self.load(&pointer)?
            }
            Expression::Unary { op, expr } => {
                let (n, scalar) = self.shape(scope, *expr)?;
                let a = self.rows_of(scope, *expr)?;
                self.unary(*op, a, n, scalar)?
            }
            Expression::Binary { op, left, right } => self.binary(scope, *op, *left, *right)?,
            Expression::Select { condition, accept, reject } => {
                let (n, scalar) = self.shape(scope, *accept)?;
                let (conditions, _) = self.shape(scope, *condition)?;
                let mut condition = self.rows_of(scope, *condition)?;
                let accept = self.rows_of(scope, *accept)?;
                let reject = self.rows_of(scope, *reject)?;
                if conditions < n {
                    condition = self.splat(condition, n, Scalar::Bool);
                }
                self.select(condition, accept, reject, n, scalar)
            }
            Expression::Relational { fun, argument } => {
                let (n, scalar) = self.shape(scope, *argument)?;
                let a = self.rows_of(scope, *argument)?;
                let Some(kernel) = math::relational(*fun, scalar) else {
                    return self.unsupported(format!("{fun:?} of {}", scalar.name()));
                };
                let to = self.take(n);
                self.emit(Op::Map1 { kernel, at: [to, a], n, float: None });
                to
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let arguments: Vec<_> =
                    [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().collect();
                self.math(scope, *fun, &arguments, of)?
            }
            Expression::As { expr, kind, convert } => {
                let (n, from) = self.shape(scope, *expr)?;
                let a = self.rows_of(scope, *expr)?;
                let width = convert.unwrap_or(if from == Scalar::Bool {
                    naga::BOOL_WIDTH
                } else {
                    from.bytes() as u8
                });
                let width = if *kind == ScalarKind::Bool { naga::BOOL_WIDTH } else { width };
                let to = self.scalar(naga::Scalar { kind: *kind, width })?;
                if convert.is_none() || from == to {
                    if from.bytes() != to.bytes() {
                        return self.unsupported(format!(
                            "bitcast of {} to {}",
                            from.name(),
                            to.name()
                        ));
                    }
                    return Ok(Value::Rows(a));
                }
                let Some(kernel) = math::convert(from, to) else {
                    return self.unsupported(format!("{} from {}", to.name(), from.name()));
                };
                let row = self.take(n * to.words());
                self.emit(Op::Map1 { kernel, at: [row, a], n, float: None });
                row
            }
            Expression::ArrayLength(pointer) => {
                let pointer = self.pointer(scope, *pointer)?;
                let length = self.length(&pointer)?;
                let to = self.take(1);
                self.emit(Op::ArrayLength { to, length });
                to
            }
            Expression::CooperativeLoad { data, .. } => {
                let matrix = self.coop_matrix(of)?;
                let access = self.coop_access(scope, data, matrix.scalar)?;
                let slots = self.slots(of)?;
                let to = self.take(slots);
                self.emit(Op::CoopLoad { to, matrix, access });
                to
            }
            Expression::CooperativeMultiplyAdd { a, b, c } => {
                let left = self.coop_matrix(self.type_of(scope, *a))?;
                let right = self.coop_matrix(self.type_of(scope, *b))?;
                let sum = self.coop_matrix(of)?;
                let [a, b, c] =
                    [self.rows_of(scope, *a)?, self.rows_of(scope, *b)?, self.rows_of(scope, *c)?];
                let slots = self.slots(of)?;
                let to = self.take(slots);
                self.emit(Op::CoopMultiplyAdd { to, a, b, c, left, right, sum: sum.scalar });
                to
            }
            Expression::CallResult(_)
            | Expression::AtomicResult { .. }
            | Expression::WorkGroupUniformLoadResult { .. }
            | Expression::SubgroupBallotResult
            | Expression::SubgroupOperationResult { .. } => {
                return self.unsupported("a result before its statement");
            }
            Expression::ImageSample { .. } => return self.unsupported("textureSample"),
            Expression::ImageLoad { .. } => return self.unsupported("textureLoad"),
            Expression::ImageQuery { .. } => return self.unsupported("textureDimensions"),
            Expression::Derivative { .. } => return self.unsupported("a derivative"),
            Expression::RayQueryVertexPositions { .. }
            | Expression::RayQueryProceedResult
            | Expression::RayQueryGetIntersection { .. } => return self.unsupported("a ray query"),
        };
        Ok(Value::Rows(rows))
    }

    fn access(&mut self, pointer: Pointer<'a>, index: u32, signed: bool) -> Result<Pointer<'a>> {
        let part = self.part(&pointer.to)?;
        let in_bytes = is_buffer(&pointer.place);
        let stride = if in_bytes { part.bytes } else { part.slots };
        let length = match part.count {
            Some(count) => Length::Fixed(count),
            None => self.length(&pointer)?,
        };
        let extent = match (pointer.place.rows, part.count) {
            (None, Some(count)) => (pointer.place.offset, pointer.place.offset + count * stride),
            _ => pointer.extent,
        };
        let to = self.take(3);
        self.emit(Op::Index { to, base: pointer.place.rows, index, signed, length, stride });
        let place = Place { rows: Some(to), ..pointer.place };
        Ok(Pointer { place, to: part.of, extent })
    }

    /// The length of an array that ends where its binding does.
    fn length(&self, pointer: &Pointer<'a>) -> Result<Length> {
        match (&*pointer.to, pointer.place) {
            (
                TypeInner::Array { stride, .. },
                Place { root: Root::Buffer(buffer), offset, rows: None },
            ) => Ok(Length::Bound { buffer, offset, stride: *stride }),
            (other, _) => self.unsupported(format!("the length of {}", name(other))),
        }
    }

    pub(super) fn load(&mut self, pointer: &Pointer<'a>) -> Result<u32> {
        let n = self.slots(&pointer.to)?;
        let to = self.take(n);
        let undefined = match is_composite(&pointer.to) {
            true => Undefined::Carry,
            false => Undefined::Report,
        };
        let atomic = matches!(&*pointer.to, TypeInner::Atomic(_));
        let place = pointer.place;
        match (place.root, place.rows) {
            (Root::Local(start, _), None) => {
                self.emit(Op::LoadRows { to, from: start + place.offset, n, undefined });
            }
            (Root::Local(..), Some(_)) => {
                self.emit(Op::Gather { to, place, n, undefined });
            }
            (Root::Shared(_), _) => {
                self.emit(Op::LoadShared { to, place, n, undefined, atomic });
            }
            (Root::Buffer(_), _) => {
                let leaves = self.leaves(&pointer.to)?;
                self.emit(Op::LoadBuffer { to, place, leaves, undefined, atomic });
            }
        }
        Ok(to)
    }

    pub(super) fn coop_access(
        &mut self,
        scope: &mut Scope<'a>,
        data: &naga::CooperativeData,
        scalar: Scalar,
    ) -> Result<CoopAccess> {
        let pointer = self.pointer(scope, data.pointer)?;
        let stride = self.rows_of(scope, data.stride)?;
        let (count, own) = self.shape_of(&pointer.to)?;
        if own != scalar {
            return self.unsupported(format!(
                "a matrix of {} in memory of {}",
                scalar.name(),
                own.name()
            ));
        }
        let scalar_unit = match pointer.place.root {
            Root::Buffer(_) => own.bytes(),
            Root::Shared(_) => own.words(),
            Root::Local(..) => return self.unsupported("a matrix in a variable of a function"),
        };
        Ok(CoopAccess {
            place: pointer.place,
            stride,
            row_major: data.row_major,
            unit: count * scalar_unit,
            scalar_unit,
            extent: pointer.extent,
        })
    }

    // What expressions consist of.
}

fn words_of_64(bits: u64) -> Vec<u32> {
    vec![bits as u32, (bits >> 32) as u32]
}

/// Whether only parts of it may hold something.
pub(super) fn is_composite(of: &TypeInner) -> bool {
    matches!(of, TypeInner::Array { .. } | TypeInner::Struct { .. })
}

pub(super) fn is_buffer(place: &Place) -> bool {
    matches!(place.root, Root::Buffer(_))
}
