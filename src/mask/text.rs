//! The textual form of a mask: `causal & (key_lengths | !window(4, inf))`.
//!
//! ```text
//! or    = and ("|" and)*
//! and   = unary ("&" unary)*
//! unary = "!" unary | "(" or ")" | name [ "(" arguments ")" ]
//! ```
//! Arguments are positional or named (`window(left=4, right=0)`). What is printed parses to the same expression. The
//! names of [`super::compositions`] stand for the leaves that these are made of.

use std::fmt;
use std::str::FromStr;

use super::Mask;
use super::leaf::{Argument, LEAVES, Leaf, LeafSpec, Values};
use super::named::{NAMED, Named};
use crate::custom::WgslFunction;
use crate::error::ParseMaskError;
use crate::suggest::did_you_mean;

/// Deeper expressions are refused, so that no text exhausts the stack.
pub(crate) const MAX_DEPTH: usize = 64;

/// What isn't a leaf but is written like one.
const OPERATORS: [&str; 3] = ["self_only_if_alone", "per_head", "wgsl"];

/// The argument that numbers a leaf's data.
const DATA: &str = "data";

/// Every name, for messages.
fn names() -> Vec<&'static str> {
    LEAVES.iter().map(|leaf| leaf.name()).chain(OPERATORS).collect()
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(leaf) => write!(f, "{leaf}"),
            Self::SelfOnlyIfAlone(mask) => write!(f, "self_only_if_alone({mask})"),
            Self::Wgsl(_) => f.write_str("wgsl"),
            Self::PerHead(masks) => {
                f.write_str("per_head(")?;
                for (at, mask) in masks.iter().enumerate() {
                    write!(f, "{}{mask}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            // The right side is wrapped at its own level too: `a & (b & c)` is another tree than `a & b & c`.
            Self::And(a, b) => write!(f, "{} & {}", Wrapped(a, 2), Wrapped(b, 3)),
            Self::Or(a, b) => write!(f, "{} | {}", Wrapped(a, 1), Wrapped(b, 2)),
            Self::Not(a) => write!(f, "!{}", Wrapped(a, 3)),
        }
    }
}

/// A mask in parentheses where it binds looser than its surroundings.
struct Wrapped<'a>(&'a Mask, u8);

impl fmt::Display for Wrapped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binding = match self.0 {
            Mask::Or(..) => 1,
            Mask::And(..) => 2,
            _ => 3,
        };
        if binding < self.1 { write!(f, "({})", self.0) } else { write!(f, "{}", self.0) }
    }
}

impl FromStr for Mask {
    type Err = ParseMaskError;

    fn from_str(text: &str) -> Result<Self, ParseMaskError> {
        Parser::parse(text, None)
    }
}

impl Mask {
    /// Parses a text in which `wgsl` stands for a user-defined function.
    ///
    /// # Errors
    /// [`ParseMaskError`], which says the column.
    pub fn parse_with(text: &str, wgsl: WgslFunction) -> Result<Self, ParseMaskError> {
        Parser::parse(text, Some(wgsl))
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
    /// What `wgsl` stands for.
    wgsl: Option<WgslFunction>,
}

type Parsed<T> = Result<T, ParseMaskError>;

impl Parser {
    fn parse(text: &str, wgsl: Option<WgslFunction>) -> Parsed<Mask> {
        let mut parser = Self { text: text.chars().collect(), at: 0, depth: 0, wgsl };
        let mask = parser.or()?;
        parser.skip_space();
        match parser.peek() {
            None => Ok(mask),
            Some(found) => {
                Err(parser.error(format!("expected `&`, `|` or the end, found `{found}`")))
            }
        }
    }

    fn or(&mut self) -> Parsed<Mask> {
        self.chain('|', Self::and, |a, b| a | b)
    }

    fn and(&mut self) -> Parsed<Mask> {
        self.chain('&', Self::unary, |a, b| a & b)
    }

    /// `part (operator part)*`, from the left. A doubled operator, as in C, is understood too.
    fn chain(
        &mut self,
        operator: char,
        part: fn(&mut Self) -> Parsed<Mask>,
        join: fn(Mask, Mask) -> Mask,
    ) -> Parsed<Mask> {
        let mut mask = part(self)?;
        while self.eat(operator) {
            if self.peek() == Some(operator) {
                self.at += 1;
            }
            let start = self.at;
            mask = join(mask, part(self)?);
            if mask.depth() > MAX_DEPTH {
                return Err(self.error_at(start, too_deep()));
            }
        }
        Ok(mask)
    }

    fn unary(&mut self) -> Parsed<Mask> {
        self.skip_space();
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error_at(start, too_deep()));
        }
        let mask = if self.eat('!') {
            !self.unary()?
        } else if self.eat('(') {
            let mask = self.or()?;
            self.expect(')')?;
            mask
        } else {
            self.leaf()?
        };
        self.depth -= 1;
        Ok(mask)
    }

    fn leaf(&mut self) -> Parsed<Mask> {
        self.skip_space();
        let start = self.at;
        let name = self.word();
        match name.as_str() {
            "self_only_if_alone" => {
                self.expect('(')?;
                let mask = self.or()?;
                self.expect(')')?;
                Ok(mask.self_only_if_alone())
            }
            "wgsl" => match self.wgsl.clone() {
                Some(custom) => {
                    self.arguments()?.at_most(self, 0, &[])?;
                    Ok(Mask::Wgsl(custom))
                }
                None => Err(self.error_at(start, "`wgsl` needs a function's text".to_owned())),
            },
            "per_head" => self.per_head(),
            "" => Err(self.error(match self.peek() {
                None => "expected a mask, found the end".to_owned(),
                Some(found) => format!("expected a mask, found `{found}`"),
            })),
            _ => match LEAVES.iter().find(|leaf| leaf.name() == name) {
                Some(&leaf) => self.leaf_with_arguments(leaf, start),
                None => match NAMED.iter().find(|named| named.name == name) {
                    Some(named) => self.composition(named, start),
                    None => Err(self.error_at(start, unknown(&name))),
                },
            },
        }
    }

    /// The leaves that a name stands for. They nest as deep as if they were written out.
    fn composition(&mut self, named: &Named, start: usize) -> Parsed<Mask> {
        let given = self.arguments()?;
        let values = self.values(named.name, named.arguments, &given, start)?;
        let mask = named.with(&values);
        match self.depth - 1 + mask.depth() {
            depth if depth > MAX_DEPTH => Err(self.error_at(start, too_deep())),
            _ => Ok(mask),
        }
    }

    /// A leaf whose name has been read.
    fn leaf_with_arguments(&mut self, spec: &'static dyn LeafSpec, start: usize) -> Parsed<Mask> {
        let mut given = self.arguments()?;
        let number = match Leaf::plain(spec).reads_data() {
            true => given.take(DATA),
            false => None,
        };
        let values = self.values(spec.name(), spec.arguments(), &given, start)?;
        let number = match number {
            None => 1,
            Some(number) => {
                number.value.parse().ok().filter(|&number| number > 0).ok_or_else(|| {
                    let (most, found) = (u32::MAX, &number.value);
                    let message =
                        format!("{DATA}: expected a number from 1 to {most}, found `{found}`");
                    self.error_at(number.value_at, message)
                })?
            }
        };
        Ok(Mask::Leaf(Leaf::with(spec, values).numbered(number)))
    }

    /// The values of the arguments that stand behind a name.
    fn values(
        &self,
        name: &str,
        described: &[Argument],
        given: &Arguments,
        start: usize,
    ) -> Parsed<Values> {
        let names: Vec<&str> = described.iter().map(|argument| argument.name).collect();
        given.at_most(self, names.len(), &names)?;
        let mut values = Values::default();
        for (index, (argument, value)) in described.iter().zip(&mut values).enumerate() {
            *value = match (given.get(&names, index), argument.default()) {
                (Some(text), _) => argument
                    .parse(name, &text.value, text.name.is_some())
                    .map_err(|message| self.error_at(text.value_at, message))?,
                (None, Some(default)) => default,
                (None, None) => {
                    let (missing, form) = (names[index], names.join(", "));
                    let message = format!("{name}: `{missing}` is missing; write {name}({form})");
                    return Err(self.error_at(start, message));
                }
            };
        }
        Ok(values)
    }

    fn per_head(&mut self) -> Parsed<Mask> {
        self.expect('(')?;
        let mut masks = vec![self.or()?];
        while self.eat(',') {
            masks.push(self.or()?);
        }
        self.expect(')')?;
        Ok(Mask::PerHead(masks))
    }

    /// An optional list in parentheses.
    fn arguments(&mut self) -> Parsed<Arguments> {
        let mut list: Vec<Given> = Vec::new();
        if self.eat('(') && !self.eat(')') {
            loop {
                self.skip_space();
                let at = self.at;
                let mut argument = Given { name: None, value: self.word(), at, value_at: at };
                if self.eat('=') {
                    self.skip_space();
                    argument.value_at = self.at;
                    let name = std::mem::replace(&mut argument.value, self.word());
                    argument.name = Some(name);
                }
                if argument.value.is_empty() {
                    return Err(self.error("expected an argument".to_owned()));
                }
                if argument.name.is_none() && list.iter().any(|earlier| earlier.name.is_some()) {
                    return Err(self.error_at(
                        at,
                        "a positional argument can't follow a named one".to_owned(),
                    ));
                }
                list.push(argument);
                if self.eat(')') {
                    break;
                }
                if !self.eat(',') {
                    return Err(self.error("expected `,` or `)`".to_owned()));
                }
            }
        }
        Ok(Arguments { list })
    }

    /// Letters, digits, `_`, `-` and `+`: a name or a number.
    fn word(&mut self) -> String {
        self.skip_space();
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.'))
        {
            self.at += 1;
        }
        self.text[start..self.at].iter().collect()
    }

    fn expect(&mut self, wanted: char) -> Parsed<()> {
        if self.eat(wanted) {
            return Ok(());
        }
        Err(self.error(match self.peek() {
            None => format!("expected `{wanted}`, found the end"),
            Some(found) => format!("expected `{wanted}`, found `{found}`"),
        }))
    }

    fn eat(&mut self, wanted: char) -> bool {
        self.skip_space();
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn error(&self, message: String) -> ParseMaskError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: String) -> ParseMaskError {
        ParseMaskError { text: self.text.iter().collect(), column: at + 1, message }
    }
}

/// What is said of a name that no mask has.
fn unknown(name: &str) -> String {
    let names: Vec<&str> =
        names().into_iter().chain(NAMED.iter().map(|named| named.name)).collect();
    let meant = did_you_mean(name, names.iter().copied());
    format!("there is no mask named `{name}`{meant}; there are {}", names.join(", "))
}

fn too_deep() -> String {
    format!("the mask nests deeper than {MAX_DEPTH} levels")
}

struct Given {
    name: Option<String>,
    value: String,
    at: usize,
    value_at: usize,
}

struct Arguments {
    list: Vec<Given>,
}

impl Arguments {
    /// The argument of that name, or at that place.
    fn get(&self, names: &[&str], index: usize) -> Option<&Given> {
        let named = |argument: &&Given| argument.name.as_deref() == Some(names[index]);
        let positional = || self.list.get(index).filter(|argument| argument.name.is_none());
        self.list.iter().find(named).or_else(positional)
    }

    /// Takes the first argument of that name out of the list.
    fn take(&mut self, name: &str) -> Option<Given> {
        let at = self.list.iter().position(|argument| argument.name.as_deref() == Some(name))?;
        Some(self.list.remove(at))
    }

    /// Refuses what is too many, named otherwise than `names`, or named twice.
    fn at_most(&self, parser: &Parser, most: usize, names: &[&str]) -> Parsed<()> {
        if let Some(surplus) = self.list.get(most) {
            return Err(parser
                .error_at(surplus.at, format!("one argument too many: at most {most} are taken")));
        }
        for (index, argument) in self.list.iter().enumerate() {
            let Some(name) = argument.name.as_deref() else {
                continue;
            };
            if !names.contains(&name) {
                let meant = did_you_mean(name, names.iter().copied());
                return Err(parser
                    .error_at(argument.at, format!("there is no argument named `{name}`{meant}")));
            }
            let slot = |position: usize, other: &Given| match other.name.as_deref() {
                Some(other) => other == name,
                None => names[position] == name,
            };
            if (self.list[..index].iter().enumerate())
                .any(|(position, other)| slot(position, other))
            {
                return Err(parser.error_at(argument.at, format!("`{name}` is given twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed parses to the same, and is what was written where that was the shortest form.
    #[test]
    fn texts_round_trip() {
        for (text, printed) in [
            ("all", "all"),
            ("causal", "causal"),
            (" causal ( lower_right ) ", "causal"),
            ("causal(upper_left)", "causal(upper_left)"),
            ("causal(offset=3)", "causal(offset=3)"),
            ("causal(offset = -3)", "causal(offset=-3)"),
            ("window(4,0)", "window(4,0)"),
            ("window(inf, 0)", "window(inf,0)"),
            ("window(right=0, left=4)", "window(4,0)"),
            ("window(4, right=inf)", "window(4,inf)"),
            ("causal&key_lengths", "causal & key_lengths"),
            ("causal && key_lengths || prefix", "causal & key_lengths | prefix"),
            ("a11".replace("a11", "all & all | all & all").as_str(), "all & all | all & all"),
            ("(all | all) & all", "(all | all) & all"),
            ("all | (all & all)", "all | all & all"),
            ("all & (all & all)", "all & (all & all)"),
            ("all | (all | all)", "all | (all | all)"),
            ("!causal & all", "!causal & all"),
            ("!(causal & all)", "!(causal & all)"),
            ("!!not_self", "!!not_self"),
            ("self_only_if_alone(causal & documents)", "self_only_if_alone(causal & documents)"),
            ("key_padding | token_padding | dense()", "key_padding | token_padding | dense"),
            ("chunk(128) & causal", "chunk(128) & causal"),
            ("dilated(step=2, window=8)", "dilated(8,2)"),
            ("strided(4) | global(tokens=2)", "strided(4) | global(2)"),
            ("block_bidirectional | buckets | tree", "block_bidirectional | buckets | tree"),
            (
                "column_ranges & !column_ranges(bidirectional)",
                "column_ranges & !column_ranges(bidirectional)",
            ),
            ("per_head(causal, window(4,0) | all,all)", "per_head(causal, window(4,0) | all, all)"),
        ] {
            let mask: Mask = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(mask.to_string(), printed);
            assert_eq!(printed.parse::<Mask>().unwrap(), mask, "{text}");
        }
    }

    #[test]
    fn operators_bind_as_documented() {
        let parsed: Mask = "!causal & prefix | dense".parse().unwrap();
        assert_eq!(parsed, (!Mask::causal() & Mask::Prefix) | Mask::Dense);
    }

    #[test]
    fn errors_point_at_the_column() {
        for (text, column, part) in [
            ("", 1, "found the end"),
            ("causl", 1, "no mask named `causl`"),
            ("causal & ", 10, "found the end"),
            ("causal key_lengths", 8, "expected `&`, `|` or the end"),
            ("causal & (all", 14, "expected `)`, found the end"),
            ("causal) ", 7, "found `)`"),
            ("window(4)", 1, "`right` is missing"),
            ("all & window", 7, "`left` is missing"),
            ("window(4,x)", 10, "right: expected a number"),
            ("window(-1,0)", 8, "left: expected a number"),
            ("window(4,0,1)", 12, "at most 2"),
            ("window(left=1, 2)", 16, "positional argument"),
            ("window(1, left=2)", 11, "`left` is given twice"),
            ("window(1, height=2)", 11, "no argument named `height`"),
            ("causal(sideways)", 8, "upper_left"),
            ("causal(offset=4000000000)", 15, "within i32"),
            ("causal(,)", 8, "expected an argument"),
            ("all(1)", 5, "at most 0"),
            ("chunk", 1, "`size` is missing; write chunk(size)"),
            ("chunk(0)", 7, "from 1 to"),
            ("dilated(3,0)", 11, "step: expected a number from 1"),
            ("column_ranges(up)", 15, "`bidirectional`"),
            ("per_head(causal", 16, "expected `)`"),
            ("self_only_if_alone", 19, "expected `(`"),
            ("é & causal", 1, "no mask named `é`"),
            ("all & @", 7, "expected a mask, found `@`"),
        ] {
            let error = text.parse::<Mask>().unwrap_err();
            assert_eq!(error.column, column, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn nothing_nests_without_end() {
        for text in ["(".repeat(100_000), "!".repeat(100_000), vec!["all"; 100_000].join("&")] {
            let error = text.parse::<Mask>().unwrap_err();
            assert!(error.message.contains("64 levels"), "{}", error.message);
        }
    }
}
