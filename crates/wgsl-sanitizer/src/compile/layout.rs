//! How large types are: in rows and workgroup memory, where scalars lie one after the other, and in buffers.

use std::borrow::Cow;

use naga::{ArraySize, TypeInner, VectorSize};

use super::{Compiler, Result};
use crate::math::Scalar;
use crate::program::{CoopMatrix, Leaf, Path};

/// A part of a type.
pub(super) struct Part<'a> {
    pub(super) of: Cow<'a, TypeInner>,
    /// Rows or cells from one to the next; for a struct's member, from its start.
    pub(super) slots: u32,
    /// Bytes, likewise.
    pub(super) bytes: u32,
    /// How many there are; `None` where the binding's size says it, and for members.
    pub(super) count: Option<u32>,
}

/// Bytes from one column of a matrix to the next.
fn column_bytes(rows: VectorSize, scalar: Scalar) -> u32 {
    let rows = if rows == VectorSize::Bi { 2 } else { 4 };
    rows * scalar.bytes()
}

impl<'a> Compiler<'a> {
    pub(super) fn scalar(&self, scalar: naga::Scalar) -> Result<Scalar> {
        match Scalar::new(scalar) {
            Some(scalar) => Ok(scalar),
            None => self.unsupported(format!("the scalar type {scalar:?}")),
        }
    }

    pub(super) fn array_size(&self, size: ArraySize) -> Result<Option<u32>> {
        Ok(match size {
            ArraySize::Constant(size) => Some(size.get()),
            ArraySize::Pending(handle) => Some(self.override_size(handle)?),
            ArraySize::Dynamic => None,
        })
    }

    /// Rows of registers, cells of workgroup memory.
    pub(super) fn slots(&self, of: &TypeInner) -> Result<u32> {
        Ok(match of {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => self.scalar(*scalar)?.words(),
            TypeInner::Vector { size, scalar } => *size as u32 * self.scalar(*scalar)?.words(),
            TypeInner::Matrix { columns, rows, scalar } => {
                *columns as u32 * *rows as u32 * self.scalar(*scalar)?.words()
            }
            TypeInner::CooperativeMatrix { .. } => {
                self.coop_matrix(of)?.elements().div_ceil(self.width)
            }
            TypeInner::Array { base, size, .. } => match self.array_size(*size)? {
                Some(size) => size * self.slots(&self.module.types[*base].inner)?,
                None => return self.unsupported("the value of an array without a size"),
            },
            TypeInner::Struct { members, .. } => {
                let mut slots = 0;
                for member in members {
                    slots += self.slots(&self.module.types[member.ty].inner)?;
                }
                slots
            }
            // A pointer's offset, index and length.
            TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. } => 3,
            other => return self.unsupported(format!("a value of type {}", name(other))),
        })
    }

    pub(super) fn coop_matrix(&self, of: &TypeInner) -> Result<CoopMatrix> {
        match of {
            TypeInner::CooperativeMatrix { columns, rows, scalar, .. } => Ok(CoopMatrix {
                rows: *rows as u32,
                columns: *columns as u32,
                scalar: self.scalar(*scalar)?,
            }),
            other => self.unsupported(format!("{} as a cooperative matrix", name(other))),
        }
    }

    /// Bytes of a type in a buffer; of an array without a size, those of one element.
    pub(super) fn bytes(&self, of: &TypeInner) -> Result<u64> {
        Ok(match of {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => {
                u64::from(self.scalar(*scalar)?.bytes())
            }
            TypeInner::Vector { size, scalar } => {
                u64::from(*size as u32 * self.scalar(*scalar)?.bytes())
            }
            TypeInner::Matrix { columns, rows, scalar } => {
                u64::from(*columns as u32 * column_bytes(*rows, self.scalar(*scalar)?))
            }
            TypeInner::Array { size, stride, .. } => {
                u64::from(self.array_size(*size)?.unwrap_or(1)) * u64::from(*stride)
            }
            TypeInner::Struct { members, span } => match members.last() {
                Some(last) => {
                    let end = self.bytes(&self.module.types[last.ty].inner)?;
                    (u64::from(last.offset) + end).max(u64::from(*span))
                }
                None => 0,
            },
            other => return self.unsupported(format!("{} in a buffer", name(other))),
        })
    }

    /// Bytes of the smallest scalar.
    pub(super) fn smallest(&self, of: &TypeInner) -> u32 {
        match of {
            TypeInner::Array { base, .. } => self.smallest(&self.module.types[*base].inner),
            TypeInner::Struct { members, .. } => {
                let each = members.iter();
                let each = each.map(|member| self.smallest(&self.module.types[member.ty].inner));
                each.min().unwrap_or(4)
            }
            other => other.scalar().map_or(4, |scalar| u32::from(scalar.width)),
        }
    }

    /// The scalars of a type in a buffer, in the order of the rows.
    pub(super) fn leaves(&mut self, of: &TypeInner) -> Result<u32> {
        let key = format!("{of:?}");
        if let Some(number) = self.leaf_numbers.get(&key) {
            return Ok(*number);
        }
        let mut leaves = Vec::new();
        self.add_leaves(of, 0, &mut leaves)?;
        let number = self.program.leaves.len() as u32;
        self.program.leaves.push(leaves);
        self.leaf_numbers.insert(key, number);
        Ok(number)
    }

    fn add_leaves(&self, of: &TypeInner, at: u32, leaves: &mut Vec<Leaf>) -> Result<()> {
        match of {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => {
                leaves.push(Leaf { offset: at, scalar: self.scalar(*scalar)? });
            }
            TypeInner::Struct { members, .. } => {
                for member in members {
                    let of = &self.module.types[member.ty].inner;
                    self.add_leaves(of, at + member.offset, leaves)?;
                }
            }
            other => {
                let part = self.part(other)?;
                let Some(count) = part.count else {
                    return self.unsupported("the value of an array without a size");
                };
                for index in 0..count {
                    self.add_leaves(&part.of, at + index * part.bytes, leaves)?;
                }
            }
        }
        Ok(())
    }

    /// What a vector, a matrix or an array consists of.
    pub(super) fn part(&self, of: &TypeInner) -> Result<Part<'a>> {
        Ok(match of {
            TypeInner::Vector { size, scalar } => {
                let own = self.scalar(*scalar)?;
                Part {
                    of: Cow::Owned(TypeInner::Scalar(*scalar)),
                    slots: own.words(),
                    bytes: own.bytes(),
                    count: Some(*size as u32),
                }
            }
            TypeInner::Matrix { columns, rows, scalar } => {
                let own = self.scalar(*scalar)?;
                Part {
                    of: Cow::Owned(TypeInner::Vector { size: *rows, scalar: *scalar }),
                    slots: *rows as u32 * own.words(),
                    bytes: column_bytes(*rows, own),
                    count: Some(*columns as u32),
                }
            }
            TypeInner::Array { base, size, stride } => {
                let of = &self.module.types[*base].inner;
                Part {
                    of: Cow::Borrowed(of),
                    slots: self.slots(of)?,
                    bytes: *stride,
                    count: self.array_size(*size)?,
                }
            }
            other => return self.unsupported(format!("a part of {}", name(other))),
        })
    }

    /// A struct's member, or an element by its number.
    pub(super) fn part_at(&self, of: &TypeInner, index: u32) -> Result<Part<'a>> {
        if let TypeInner::Struct { members, .. } = of {
            let mut slots = 0;
            for member in &members[..index as usize] {
                slots += self.slots(&self.module.types[member.ty].inner)?;
            }
            let member = &members[index as usize];
            let of = Cow::Borrowed(&self.module.types[member.ty].inner);
            return Ok(Part { of, slots, bytes: member.offset, count: None });
        }
        let part = self.part(of)?;
        Ok(Part { slots: part.slots * index, bytes: part.bytes * index, ..part })
    }

    pub(super) fn path(&self, of: &TypeInner, in_bytes: bool) -> Result<Path> {
        Ok(match of {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => {
                Path::Scalar(self.scalar(*scalar)?)
            }
            TypeInner::Vector { scalar, .. } => {
                let scalar = self.scalar(*scalar)?;
                Path::Vector(scalar, if in_bytes { scalar.bytes() } else { scalar.words() })
            }
            TypeInner::CooperativeMatrix { scalar, .. } => Path::Scalar(self.scalar(*scalar)?),
            TypeInner::Struct { members, .. } => {
                let mut paths = Vec::new();
                let mut slots = 0;
                for member in members {
                    let of = &self.module.types[member.ty].inner;
                    let at = if in_bytes { member.offset } else { slots };
                    let name = member.name.clone().unwrap_or_default();
                    paths.push((name, at, self.path(of, in_bytes)?));
                    if !in_bytes {
                        slots += self.slots(of)?;
                    }
                }
                Path::Struct(paths)
            }
            other => {
                let part = self.part(other)?;
                let stride = if in_bytes { part.bytes } else { part.slots };
                Path::Array(Box::new(self.path(&part.of, in_bytes)?), stride.max(1))
            }
        })
    }
}

/// A type's name, for people.
pub(super) fn name(of: &TypeInner) -> String {
    match of {
        TypeInner::Image { .. } => "a texture".into(),
        TypeInner::Sampler { .. } => "a sampler".into(),
        TypeInner::AccelerationStructure { .. } => "an acceleration structure".into(),
        TypeInner::RayQuery { .. } => "a ray query".into(),
        TypeInner::BindingArray { .. } => "an array of bindings".into(),
        other => format!("{other:?}"),
    }
}
