//! Expressions.

use naga::{
    BinaryOperator, Expression, Handle, Literal, MathFunction, ScalarKind, TypeInner, UnaryOperator,
};

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

    fn shape(&self, scope: &Scope<'a>, handle: Handle<Expression>) -> Result<(u32, Scalar)> {
        self.shape_of(self.type_of(scope, handle))
    }

    /// Components and their type.
    fn shape_of(&self, of: &TypeInner) -> Result<(u32, Scalar)> {
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

    fn splat(&mut self, value: u32, n: u32, scalar: Scalar) -> u32 {
        self.pick(value, vec![0; n as usize], scalar)
    }

    /// Components of a vector.
    fn pick(&mut self, vector: u32, components: Vec<u32>, scalar: Scalar) -> u32 {
        let words = scalar.words();
        let row = self.take(components.len() as u32 * words);
        for (to, from) in (row..).step_by(words as usize).zip(components) {
            self.emit(Op::Copy { to, from: vector + from * words, n: words, carry: false });
        }
        row
    }

    fn select(&mut self, condition: u32, accept: u32, reject: u32, n: u32, scalar: Scalar) -> u32 {
        let to = self.take(n * scalar.words());
        let kernel = math::select(scalar.words());
        self.emit(Op::Map3 { kernel, at: [to, condition, accept, reject], n, float: None });
        to
    }

    fn unary(&mut self, op: UnaryOperator, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
        let Some(kernel) = math::unary(op, scalar) else {
            return self.unsupported(format!("{op:?} of {}", scalar.name()));
        };
        let to = self.take(n * scalar.words());
        self.emit(Op::Map1 { kernel, at: [to, a], n, float: None });
        Ok(to)
    }

    /// A binary operation, component by component.
    fn each(&mut self, op: BinaryOperator, a: u32, b: u32, n: u32, scalar: Scalar) -> Result<u32> {
        use BinaryOperator as B;
        let Some(kernel) = math::binary(op, scalar) else {
            return self.unsupported(format!("{op:?} of {}", scalar.name()));
        };
        let is_arithmetic =
            matches!(op, B::Add | B::Subtract | B::Multiply | B::Divide | B::Modulo);
        match op {
            B::Divide | B::Modulo if !scalar.is_float() => {
                self.emit(Op::CheckDivision { scalar, a, b, n });
            }
            B::ShiftLeft | B::ShiftRight => {
                self.emit(Op::CheckShift { by: b, n, bits: scalar.bytes() * 8 });
            }
            _ => {}
        }
        let is_bool = matches!(
            op,
            B::Equal | B::NotEqual | B::Less | B::LessEqual | B::Greater | B::GreaterEqual
        );
        let to = self.take(n * if is_bool { 1 } else { scalar.words() });
        let float = Some(scalar).filter(|scalar| is_arithmetic && scalar.is_float());
        self.emit(Op::Map2 { kernel, at: [to, a, b], n, float });
        Ok(to)
    }

    fn binary(
        &mut self,
        scope: &mut Scope<'a>,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Result<u32> {
        let (left_type, right_type) = (self.type_of(scope, left), self.type_of(scope, right));
        let (left_n, scalar) = self.shape_of(left_type)?;
        let (right_n, _) = self.shape_of(right_type)?;
        let mut a = self.rows_of(scope, left)?;
        let mut b = self.rows_of(scope, right)?;
        if op == BinaryOperator::Multiply {
            match (left_type, right_type) {
                (TypeInner::Matrix { columns, rows, .. }, TypeInner::Vector { .. }) => {
                    return self.times_vector(a, b, *columns as u32, *rows as u32, scalar);
                }
                (TypeInner::Vector { size, .. }, TypeInner::Matrix { columns, .. }) => {
                    let (n, words) = (*size as u32, scalar.words());
                    let row = self.take(*columns as u32 * words);
                    for column in 0..*columns as u32 {
                        let from = self.dot(a, b + column * n * words, n, scalar)?;
                        let to = row + column * words;
                        self.emit(Op::Copy { to, from, n: words, carry: false });
                    }
                    return Ok(row);
                }
                (
                    TypeInner::Matrix { columns: inner, rows, .. },
                    TypeInner::Matrix { columns, .. },
                ) => {
                    let (inner, rows, words) = (*inner as u32, *rows as u32, scalar.words());
                    let row = self.take(*columns as u32 * rows * words);
                    for column in 0..*columns as u32 {
                        let from = b + column * inner * words;
                        let from = self.times_vector(a, from, inner, rows, scalar)?;
                        let to = row + column * rows * words;
                        self.emit(Op::Copy { to, from, n: rows * words, carry: false });
                    }
                    return Ok(row);
                }
                _ => {}
            }
        }
        let n = left_n.max(right_n);
        // A cooperative matrix may take one row, whatever its size.
        let is_scalar = |of: &TypeInner| matches!(of, TypeInner::Scalar(_));
        if is_scalar(left_type) && !is_scalar(right_type) {
            a = self.splat(a, n, scalar);
        }
        if is_scalar(right_type) && !is_scalar(left_type) {
            b = self.splat(b, n, scalar);
        }
        self.each(op, a, b, n, scalar)
    }

    /// A matrix by a vector: the sum of its columns.
    fn times_vector(
        &mut self,
        matrix: u32,
        vector: u32,
        columns: u32,
        rows: u32,
        scalar: Scalar,
    ) -> Result<u32> {
        let words = scalar.words();
        let mut sum = None;
        for column in 0..columns {
            let factor = self.splat(vector + column * words, rows, scalar);
            let at = matrix + column * rows * words;
            let product = self.each(BinaryOperator::Multiply, at, factor, rows, scalar)?;
            sum = Some(match sum {
                None => product,
                Some(sum) => self.each(BinaryOperator::Add, sum, product, rows, scalar)?,
            });
        }
        Ok(sum.unwrap_or(matrix))
    }

    fn dot(&mut self, a: u32, b: u32, n: u32, scalar: Scalar) -> Result<u32> {
        let words = scalar.words();
        let products = self.each(BinaryOperator::Multiply, a, b, n, scalar)?;
        let mut sum = products;
        for c in 1..n {
            sum = self.each(BinaryOperator::Add, sum, products + c * words, 1, scalar)?;
        }
        Ok(sum)
    }

    fn map1(&mut self, fun: MathFunction, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
        let to = self.take(n * scalar.words());
        self.map1_to(fun, to, a, n, scalar)?;
        Ok(to)
    }

    fn map1_to(
        &mut self,
        fun: MathFunction,
        to: u32,
        a: u32,
        n: u32,
        scalar: Scalar,
    ) -> Result<()> {
        let Some(kernel) = math::math1(fun, scalar) else {
            return self.unsupported(format!("{fun:?} of {}", scalar.name()));
        };
        let float = Some(scalar).filter(|scalar| scalar.is_float() && !is_packing(fun));
        self.emit(Op::Map1 { kernel, at: [to, a], n, float });
        Ok(())
    }

    fn map3(
        &mut self,
        fun: MathFunction,
        [a, b, c]: [u32; 3],
        n: u32,
        scalar: Scalar,
    ) -> Result<u32> {
        let Some(kernel) = math::math3(fun, scalar) else {
            return self.unsupported(format!("{fun:?} of {}", scalar.name()));
        };
        let to = self.take(n * scalar.words());
        let float = Some(scalar).filter(|scalar| scalar.is_float());
        self.emit(Op::Map3 { kernel, at: [to, a, b, c], n, float });
        Ok(to)
    }

    fn number(&mut self, value: f64, n: u32, scalar: Scalar) -> u32 {
        let bits = scalar.of_number(value);
        let words = [bits as u32, (bits >> 32) as u32];
        let row = self.constant_words(&words[..scalar.words() as usize]);
        self.splat(row, n, scalar)
    }

    fn math(
        &mut self,
        scope: &mut Scope<'a>,
        fun: MathFunction,
        arguments: &[Handle<Expression>],
        of: &TypeInner,
    ) -> Result<u32> {
        use BinaryOperator as B;
        use MathFunction as M;

        let (n, scalar) = self.shape(scope, arguments[0])?;
        let mut a = Vec::new();
        for argument in arguments {
            a.push(self.rows_of(scope, *argument)?);
        }
        let words = scalar.words();
        Ok(match fun {
            M::Dot => self.dot(a[0], a[1], n, scalar)?,
            M::Cross => {
                let first = self.pick(a[0], vec![1, 2, 0], scalar);
                let second = self.pick(a[1], vec![2, 0, 1], scalar);
                let plus = self.each(B::Multiply, first, second, 3, scalar)?;
                let first = self.pick(a[0], vec![2, 0, 1], scalar);
                let second = self.pick(a[1], vec![1, 2, 0], scalar);
                let minus = self.each(B::Multiply, first, second, 3, scalar)?;
                self.each(B::Subtract, plus, minus, 3, scalar)?
            }
            M::Distance => {
                let difference = self.each(B::Subtract, a[0], a[1], n, scalar)?;
                self.norm(difference, n, scalar)?
            }
            M::Length => self.norm(a[0], n, scalar)?,
            M::Normalize => {
                let norm = self.norm(a[0], n, scalar)?;
                let norm = self.splat(norm, n, scalar);
                self.each(B::Divide, a[0], norm, n, scalar)?
            }
            M::FaceForward => {
                let dot = self.dot(a[1], a[2], n, scalar)?;
                let zero = self.number(0.0, 1, scalar);
                let is_less = self.each(B::Less, dot, zero, 1, scalar)?;
                let is_less = self.splat(is_less, n, Scalar::Bool);
                let negative = self.unary(UnaryOperator::Negate, a[0], n, scalar)?;
                self.select(is_less, a[0], negative, n, scalar)
            }
            M::Reflect => {
                let dot = self.dot(a[1], a[0], n, scalar)?;
                let two = self.number(2.0, 1, scalar);
                let twice = self.each(B::Multiply, two, dot, 1, scalar)?;
                let twice = self.splat(twice, n, scalar);
                let product = self.each(B::Multiply, twice, a[1], n, scalar)?;
                self.each(B::Subtract, a[0], product, n, scalar)?
            }
            M::Refract => {
                let eta = a[2];
                let dot = self.dot(a[1], a[0], n, scalar)?;
                let one = self.number(1.0, 1, scalar);
                let square = self.each(B::Multiply, dot, dot, 1, scalar)?;
                let rest = self.each(B::Subtract, one, square, 1, scalar)?;
                let eta2 = self.each(B::Multiply, eta, eta, 1, scalar)?;
                let rest = self.each(B::Multiply, eta2, rest, 1, scalar)?;
                let k = self.each(B::Subtract, one, rest, 1, scalar)?;
                let zero = self.number(0.0, 1, scalar);
                let is_total = self.each(B::Less, k, zero, 1, scalar)?;
                // Of a negative number nothing is taken.
                let safe = self.select(is_total, zero, k, 1, scalar);
                let root = self.map1(M::Sqrt, safe, 1, scalar)?;
                let factor = self.each(B::Multiply, eta, dot, 1, scalar)?;
                let factor = self.each(B::Add, factor, root, 1, scalar)?;
                let eta = self.splat(eta, n, scalar);
                let factor = self.splat(factor, n, scalar);
                let first = self.each(B::Multiply, eta, a[0], n, scalar)?;
                let second = self.each(B::Multiply, factor, a[1], n, scalar)?;
                let value = self.each(B::Subtract, first, second, n, scalar)?;
                let is_total = self.splat(is_total, n, Scalar::Bool);
                let zero = self.splat(zero, n, scalar);
                self.select(is_total, zero, value, n, scalar)
            }
            M::Transpose => {
                let TypeInner::Matrix { columns, rows, .. } = of else {
                    return self.unsupported("transpose of this");
                };
                let (columns, rows) = (*columns as u32, *rows as u32);
                // Of the argument, `columns` are the rows.
                let from = (0..columns * rows).map(|at| at % rows * columns + at / rows);
                self.pick(a[0], from.collect(), scalar)
            }
            M::Determinant => self.determinant(a[0], n, scalar)?,
            M::Outer | M::Inverse => return self.unsupported(format!("{fun:?}")),
            M::Modf | M::Frexp => {
                let Some(kernel) = math::split(fun, scalar) else {
                    return self.unsupported(format!("{fun:?} of {}", scalar.name()));
                };
                let slots = self.slots(of)?;
                let to = self.take(slots);
                self.emit(Op::Map1 { kernel, at: [to, a[0]], n, float: None });
                to
            }
            M::Ldexp => {
                let Some(kernel) = math::ldexp(scalar) else {
                    return self.unsupported(format!("ldexp of {}", scalar.name()));
                };
                let to = self.take(n * words);
                self.emit(Op::Map2 { kernel, at: [to, a[0], a[1]], n, float: None });
                to
            }
            M::ExtractBits => {
                let Some(kernel) = math::extract_bits(scalar) else {
                    return self.unsupported(format!("extractBits of {}", scalar.name()));
                };
                let to = self.take(n * words);
                self.emit(Op::Map3 { kernel, at: [to, a[0], a[1], a[2]], n, float: None });
                to
            }
            M::InsertBits => {
                let Some(kernel) = math::insert_bits(scalar) else {
                    return self.unsupported(format!("insertBits of {}", scalar.name()));
                };
                let to = self.take(n * words);
                self.emit(Op::Copy { to, from: a[0], n: n * words, carry: false });
                self.emit(Op::Map3 { kernel, at: [to, a[1], a[2], a[3]], n, float: None });
                to
            }
            M::Mix => {
                let (factors, _) = self.shape(scope, arguments[2])?;
                let factor = if factors < n { self.splat(a[2], n, scalar) } else { a[2] };
                self.map3(fun, [a[0], a[1], factor], n, scalar)?
            }
            M::Clamp | M::Fma | M::SmoothStep => self.map3(fun, [a[0], a[1], a[2]], n, scalar)?,
            _ if a.len() == 1 => {
                let slots = self.slots(of)?;
                let to = self.take(slots);
                self.map1_to(fun, to, a[0], n, scalar)?;
                to
            }
            _ => {
                let Some(kernel) = math::math2(fun, scalar) else {
                    return self.unsupported(format!("{fun:?} of {}", scalar.name()));
                };
                let slots = self.slots(of)?;
                let to = self.take(slots);
                let float = Some(scalar).filter(|scalar| scalar.is_float());
                self.emit(Op::Map2 { kernel, at: [to, a[0], a[1]], n, float });
                to
            }
        })
    }

    fn norm(&mut self, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
        if n == 1 {
            return self.map1(MathFunction::Abs, a, 1, scalar);
        }
        let square = self.dot(a, a, n, scalar)?;
        self.map1(MathFunction::Sqrt, square, 1, scalar)
    }

    /// By the first column.
    fn determinant(&mut self, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
        let words = scalar.words();
        let size = match n {
            4 => 2,
            9 => 3,
            _ => 4,
        };
        let at = |column: u32, row: u32| a + (column * size + row) * words;
        if size == 2 {
            let plus = self.each(BinaryOperator::Multiply, at(0, 0), at(1, 1), 1, scalar)?;
            let minus = self.each(BinaryOperator::Multiply, at(1, 0), at(0, 1), 1, scalar)?;
            return self.each(BinaryOperator::Subtract, plus, minus, 1, scalar);
        }
        let mut sum = None;
        for without in 0..size {
            let rest: Vec<u32> = (1..size)
                .flat_map(|column| (0..size).map(move |row| (column, row)))
                .filter(|(_, row)| *row != without)
                .map(|(column, row)| column * size + row)
                .collect();
            let count = rest.len() as u32;
            let minor = self.pick(a, rest, scalar);
            let minor = self.determinant(minor, count, scalar)?;
            let term = self.each(BinaryOperator::Multiply, at(0, without), minor, 1, scalar)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => {
                    let op = match without % 2 {
                        0 => BinaryOperator::Add,
                        _ => BinaryOperator::Subtract,
                    };
                    self.each(op, sum, term, 1, scalar)?
                }
            });
        }
        Ok(sum.unwrap_or(a))
    }
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

/// Whether the result's components aren't the argument's.
fn is_packing(fun: MathFunction) -> bool {
    use MathFunction as M;
    matches!(
        fun,
        M::Pack4x8snorm | M::Pack4x8unorm | M::Pack2x16snorm | M::Pack2x16unorm | M::Pack2x16float
    )
}
