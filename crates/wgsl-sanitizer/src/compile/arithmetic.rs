//! Operators and built-in functions.

use naga::{BinaryOperator, Expression, Handle, MathFunction, TypeInner, UnaryOperator};

use super::{Compiler, Result, Scope};
use crate::math::{self, Scalar};
use crate::program::Op;

impl<'a> Compiler<'a> {
    pub(super) fn splat(&mut self, value: u32, n: u32, scalar: Scalar) -> u32 {
        self.pick(value, vec![0; n as usize], scalar)
    }

    /// Components of a vector.
    pub(super) fn pick(&mut self, vector: u32, components: Vec<u32>, scalar: Scalar) -> u32 {
        let words = scalar.words();
        let row = self.take(components.len() as u32 * words);
        for (to, from) in (row..).step_by(words as usize).zip(components) {
            self.emit(Op::Copy { to, from: vector + from * words, n: words, carry: false });
        }
        row
    }

    pub(super) fn select(
        &mut self,
        condition: u32,
        accept: u32,
        reject: u32,
        n: u32,
        scalar: Scalar,
    ) -> u32 {
        let to = self.take(n * scalar.words());
        let kernel = math::select(scalar.words());
        self.emit(Op::Map3 { kernel, at: [to, condition, accept, reject], n, float: None });
        to
    }

    pub(super) fn unary(
        &mut self,
        op: UnaryOperator,
        a: u32,
        n: u32,
        scalar: Scalar,
    ) -> Result<u32> {
        let Some(kernel) = math::unary(op, scalar) else {
            return self.unsupported(format!("{op:?} of {}", scalar.name()));
        };
        let to = self.take(n * scalar.words());
        self.emit(Op::Map1 { kernel, at: [to, a], n, float: None });
        Ok(to)
    }

    /// A binary operation, component by component.
    pub(super) fn each(
        &mut self,
        op: BinaryOperator,
        a: u32,
        b: u32,
        n: u32,
        scalar: Scalar,
    ) -> Result<u32> {
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

    pub(super) fn binary(
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
    pub(super) fn times_vector(
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

    pub(super) fn dot(&mut self, a: u32, b: u32, n: u32, scalar: Scalar) -> Result<u32> {
        let words = scalar.words();
        let products = self.each(BinaryOperator::Multiply, a, b, n, scalar)?;
        let mut sum = products;
        for c in 1..n {
            sum = self.each(BinaryOperator::Add, sum, products + c * words, 1, scalar)?;
        }
        Ok(sum)
    }

    pub(super) fn map1(
        &mut self,
        fun: MathFunction,
        a: u32,
        n: u32,
        scalar: Scalar,
    ) -> Result<u32> {
        let to = self.take(n * scalar.words());
        self.map1_to(fun, to, a, n, scalar)?;
        Ok(to)
    }

    pub(super) fn map1_to(
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

    pub(super) fn map3(
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

    pub(super) fn number(&mut self, value: f64, n: u32, scalar: Scalar) -> u32 {
        let bits = scalar.of_number(value);
        let words = [bits as u32, (bits >> 32) as u32];
        let row = self.constant_words(&words[..scalar.words() as usize]);
        self.splat(row, n, scalar)
    }

    pub(super) fn math(
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

    pub(super) fn norm(&mut self, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
        if n == 1 {
            return self.map1(MathFunction::Abs, a, 1, scalar);
        }
        let square = self.dot(a, a, n, scalar)?;
        self.map1(MathFunction::Sqrt, square, 1, scalar)
    }

    /// By the first column.
    pub(super) fn determinant(&mut self, a: u32, n: u32, scalar: Scalar) -> Result<u32> {
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

/// Whether the result's components aren't the argument's.
fn is_packing(fun: MathFunction) -> bool {
    use MathFunction as M;
    matches!(
        fun,
        M::Pack4x8snorm | M::Pack4x8unorm | M::Pack2x16snorm | M::Pack2x16unorm | M::Pack2x16float
    )
}
