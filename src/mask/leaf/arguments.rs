//! What stands in parentheses after a leaf's name: described once, parsed and printed from that.

use std::fmt;

use super::{Leaf, Random};

/// The most arguments that a leaf has.
pub(crate) const MOST: usize = 4;

/// A leaf's arguments; behind the last one that it has, all are the same.
pub(crate) type Values = [Value; MOST];

/// The value of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Count(i64),
    /// `inf`
    Unbounded,
    /// One of [`Kind::Choice`]'s words.
    Choice(usize),
}

impl Default for Value {
    fn default() -> Self {
        Self::Choice(0)
    }
}

impl Value {
    /// A number or `inf`.
    pub(crate) fn bound(bound: Option<u32>) -> Self {
        bound.map_or(Self::Unbounded, |bound| Self::Count(bound.into()))
    }
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What an argument can be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A number from `least` to `u32::MAX`.
    Count { least: u32 },
    /// The same or `inf`.
    Bound { least: u32 },
    /// One of some words, of which the first is meant where none is given; where `or_offset`, also a number within i32,
    /// given by the argument's name.
    Choice { words: &'static [&'static str], or_offset: bool },
}

impl Argument {
    /// A number of at least `least`.
    pub(crate) const fn count(name: &'static str, least: u32) -> Self {
        Self { name, kind: Kind::Count { least } }
    }

    /// The value that a text stands for, or what was expected instead.
    pub(crate) fn parse(&self, leaf: &str, text: &str, named: bool) -> Result<Value, String> {
        let Self { name, kind } = *self;
        let count = |least: u32, or: &str| {
            let parsed = text.parse::<u32>().ok().filter(|&count| count >= least);
            parsed.map(|count| Value::Count(count.into())).ok_or_else(|| {
                format!(
                    "{name}: expected a number from {least} to {}{or}, found `{text}`",
                    u32::MAX
                )
            })
        };
        match kind {
            Kind::Count { least } => count(least, ""),
            Kind::Bound { .. } if text == "inf" => Ok(Value::Unbounded),
            Kind::Bound { least } => count(least, " or `inf`"),
            Kind::Choice { or_offset: true, .. } if named => match text.parse::<i32>() {
                Ok(offset) => Ok(Value::Count(offset.into())),
                Err(_) => {
                    Err(format!("{name}: expected a whole number within i32, found `{text}`"))
                }
            },
            Kind::Choice { words, or_offset } => {
                let found = words.iter().position(|&word| word == text);
                found.map(Value::Choice).ok_or_else(|| {
                    let mut expected: Vec<String> =
                        words.iter().map(|word| format!("`{word}`")).collect();
                    expected.extend(or_offset.then(|| format!("`{name}=N`")));
                    let last = expected.pop().unwrap_or_default();
                    let others = expected.join(", ");
                    format!("{leaf}: expected {others} or {last}, found `{text}`")
                })
            }
        }
    }

    /// What is meant where the argument is missing, if it may be.
    pub(crate) const fn default(&self) -> Option<Value> {
        match self.kind {
            Kind::Choice { .. } => Some(Value::Choice(0)),
            Kind::Count { .. } | Kind::Bound { .. } => None,
        }
    }

    /// A value at random.
    pub(super) fn random(&self, random: &mut Random<'_>) -> Value {
        let count = |random: &mut Random<'_>, least: u32| {
            Value::Count(random.int(least.into()..=20).clamp(0, u32::MAX.into()))
        };
        match self.kind {
            Kind::Count { least } => count(random, least),
            Kind::Bound { least } => match random.index(4) {
                0 => Value::Unbounded,
                _ => count(random, least),
            },
            Kind::Choice { words, or_offset } => match random.index(words.len() + 1) {
                at if at < words.len() => Value::Choice(at),
                _ if or_offset => {
                    let offset = random.int(-20..=20);
                    Value::Count(offset.clamp(i32::MIN.into(), i32::MAX.into()))
                }
                _ => Value::Choice(0),
            },
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let mut written: Vec<String> = (self.spec().arguments().iter().zip(self.values()))
            .filter(|(argument, value)| argument.default() != Some(**value))
            .map(|(argument, value)| match (argument.kind, *value) {
                (Kind::Choice { words, .. }, Value::Choice(at)) => {
                    words.get(at).copied().unwrap_or_default().to_owned()
                }
                (Kind::Choice { .. }, Value::Count(offset)) => {
                    format!("{}={offset}", argument.name)
                }
                (Kind::Count { .. } | Kind::Bound { .. }, Value::Count(count)) => count.to_string(),
                (_, Value::Unbounded | Value::Choice(_)) => "inf".to_owned(),
            })
            .collect();
        if self.number() != 1 {
            written.push(format!("data={}", self.number()));
        }
        match written.is_empty() {
            true => Ok(()),
            false => write!(f, "({})", written.join(",")),
        }
    }
}
