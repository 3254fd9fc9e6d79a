//! The textual form of a mask: `causal & (key_lengths | !window(4, inf))`.
//!
//! ```text
//! or    = and ("|" and)*
//! and   = unary ("&" unary)*
//! unary = "!" unary | "(" or ")" | name [ "(" arguments ")" ]
//! ```
//! Arguments are positional or named (`window(left=4, right=0)`). What is printed parses to the same expression.

use std::fmt;
use std::str::FromStr;

use super::{Causal, Mask, Window};
use crate::error::ParseMaskError;

/// Deeper expressions are refused, so that no text exhausts the stack.
pub(crate) const MAX_DEPTH: usize = 64;

/// Every leaf's name, for messages.
const NAMES: &str = "all, causal, window, key_lengths, key_padding, token_padding, prefix, documents, \
                     not_self, self_only_if_alone, dense";

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Causal(Causal::LowerRight) => f.write_str("causal"),
            Self::Causal(Causal::UpperLeft) => f.write_str("causal(upper_left)"),
            Self::Causal(Causal::Offset(offset)) => write!(f, "causal(offset={offset})"),
            Self::Window(Window { left, right }) => {
                write!(f, "window({},{})", Bound(*left), Bound(*right))
            }
            Self::KeyLengths => f.write_str("key_lengths"),
            Self::KeyPadding => f.write_str("key_padding"),
            Self::TokenPadding => f.write_str("token_padding"),
            Self::Prefix => f.write_str("prefix"),
            Self::Documents => f.write_str("documents"),
            Self::NotSelf => f.write_str("not_self"),
            Self::SelfOnlyIfAlone(mask) => write!(f, "self_only_if_alone({mask})"),
            Self::Dense => f.write_str("dense"),
            // The right side is wrapped at its own level too: `a & (b & c)` is another tree than `a & b & c`.
            Self::And(a, b) => write!(f, "{} & {}", Wrapped(a, 2), Wrapped(b, 3)),
            Self::Or(a, b) => write!(f, "{} | {}", Wrapped(a, 1), Wrapped(b, 2)),
            Self::Not(a) => write!(f, "!{}", Wrapped(a, 3)),
        }
    }
}

/// A window's bound: a number or `inf`.
struct Bound(Option<u32>);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bound) => write!(f, "{bound}"),
            None => f.write_str("inf"),
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
        let mut parser = Parser { text: text.chars().collect(), at: 0, depth: 0 };
        let mask = parser.or()?;
        parser.skip_space();
        match parser.peek() {
            None => Ok(mask),
            Some(found) => {
                Err(parser.error(format!("expected `&`, `|` or the end, found `{found}`")))
            }
        }
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, ParseMaskError>;

impl Parser {
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
        let plain = |parser: &mut Self, mask| {
            let arguments = parser.arguments()?;
            arguments.at_most(parser, 0, &[])?;
            Ok(mask)
        };
        match name.as_str() {
            "all" => plain(self, Mask::All),
            "causal" => self.causal(),
            "window" => self.window(start),
            "key_lengths" => plain(self, Mask::KeyLengths),
            "key_padding" => plain(self, Mask::KeyPadding),
            "token_padding" => plain(self, Mask::TokenPadding),
            "prefix" => plain(self, Mask::Prefix),
            "documents" => plain(self, Mask::Documents),
            "not_self" => plain(self, Mask::NotSelf),
            "self_only_if_alone" => {
                self.expect('(')?;
                let mask = self.or()?;
                self.expect(')')?;
                Ok(mask.self_only_if_alone())
            }
            "dense" => plain(self, Mask::Dense),
            "" => Err(self.error(match self.peek() {
                None => "expected a mask, found the end".to_owned(),
                Some(found) => format!("expected a mask, found `{found}`"),
            })),
            _ => {
                Err(self
                    .error_at(start, format!("there is no mask named `{name}`; there are {NAMES}")))
            }
        }
    }

    fn causal(&mut self) -> Parsed<Mask> {
        let arguments = self.arguments()?;
        arguments.at_most(self, 1, &["offset"])?;
        let Some(argument) = arguments.list.first() else {
            return Ok(Mask::causal());
        };
        let alignment = match (argument.name.as_deref(), argument.value.as_str()) {
            (None, "lower_right") => Causal::LowerRight,
            (None, "upper_left") => Causal::UpperLeft,
            (Some("offset"), value) => Causal::Offset(value.parse().map_err(|_| {
                self.error_at(
                    argument.value_at,
                    format!("offset: expected a whole number within i32, found `{value}`"),
                )
            })?),
            (_, value) => {
                return Err(self.error_at(
                    argument.value_at,
                    format!("causal: expected `lower_right`, `upper_left` or `offset=N`, found `{value}`"),
                ));
            }
        };
        Ok(Mask::Causal(alignment))
    }

    fn window(&mut self, start: usize) -> Parsed<Mask> {
        let arguments = self.arguments()?;
        arguments.at_most(self, 2, &["left", "right"])?;
        let bound = |index: usize, name: &str| {
            let named = |argument: &&Argument| argument.name.as_deref() == Some(name);
            let argument = arguments.list.iter().find(named).or_else(|| {
                let positional = arguments.list.get(index)?;
                positional.name.is_none().then_some(positional)
            });
            let Some(argument) = argument else {
                return Err(self.error_at(
                    start,
                    format!("window: `{name}` is missing; write window(left, right), `inf` for unbounded"),
                ));
            };
            match argument.value.as_str() {
                "inf" => Ok(None),
                value => value.parse().map(Some).map_err(|_| {
                    self.error_at(
                        argument.value_at,
                        format!("{name}: expected a number of keys from 0 to {} or `inf`, found `{value}`", u32::MAX),
                    )
                }),
            }
        };
        Ok(Mask::Window(Window { left: bound(0, "left")?, right: bound(1, "right")? }))
    }

    /// An optional list in parentheses.
    fn arguments(&mut self) -> Parsed<Arguments> {
        let mut list: Vec<Argument> = Vec::new();
        if self.eat('(') && !self.eat(')') {
            loop {
                self.skip_space();
                let at = self.at;
                let mut argument = Argument { name: None, value: self.word(), at, value_at: at };
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

fn too_deep() -> String {
    format!("the mask nests deeper than {MAX_DEPTH} levels")
}

struct Argument {
    name: Option<String>,
    value: String,
    at: usize,
    value_at: usize,
}

struct Arguments {
    list: Vec<Argument>,
}

impl Arguments {
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
                return Err(
                    parser.error_at(argument.at, format!("there is no argument named `{name}`"))
                );
            }
            let slot = |position: usize, other: &Argument| match other.name.as_deref() {
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
            ("window(4,x)", 10, "right: expected a number of keys"),
            ("window(-1,0)", 8, "left: expected a number of keys"),
            ("window(4,0,1)", 12, "at most 2"),
            ("window(left=1, 2)", 16, "positional argument"),
            ("window(1, left=2)", 11, "`left` is given twice"),
            ("window(1, height=2)", 11, "no argument named `height`"),
            ("causal(sideways)", 8, "upper_left"),
            ("causal(offset=4000000000)", 15, "within i32"),
            ("causal(,)", 8, "expected an argument"),
            ("all(1)", 5, "at most 0"),
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
