//! User-defined functions in WGSL, for masks and for scores.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::suggest::nearest;

/// A user-defined function, and the buffers that it reads.
///
/// Of the text's functions one has the name that its use asks for (`keep` in a mask, `score_mod` for scores); the text
/// may hold others, and constants. A buffer named `slopes` is read by calling `slopes(i)`: an index beyond its end reads
/// its last element, so no text reads anything else. What can't be prevented is a function that takes very long:
/// loops are bounded, but a bound of 2^64 doesn't save a device from its watchdog.
///
/// ```
/// use wgpu_attention::Mask;
/// use wgpu_attention::wgsl::{WgslFunction, WgslBuffer};
/// let even = WgslFunction::new("fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return kv_idx % 2u == limit(b); }")?
///     .buffer("limit", WgslBuffer::U32, 4)?;
/// let mask = Mask::causal() & Mask::Wgsl(even);
/// assert_eq!(mask.to_string(), "causal & wgsl");
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WgslFunction {
    text: Arc<str>,
    label: Arc<str>,
    buffers: Vec<CustomBuffer>,
}

/// A buffer that a custom function reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CustomBuffer {
    pub(crate) name: Arc<str>,
    pub(crate) element: WgslBuffer,
    pub(crate) len: usize,
}

/// The type of a custom buffer's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WgslBuffer {
    /// f32
    F32,
    /// i32
    I32,
    /// u32
    U32,
}

impl WgslBuffer {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::U32 => "u32",
        }
    }
}

/// What a custom function is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CustomUse {
    Mask,
    ScoreModifiers,
    /// The derivative of a score's function, which stands in the same text.
    ScoreGradient,
    /// In the same text, which element of the buffer of that name a score depends on.
    ElementIndex(Arc<str>),
    /// And the derivative of the score with respect to that element.
    ElementGradient(Arc<str>),
}

impl CustomUse {
    pub(crate) fn function(&self) -> Cow<'static, str> {
        match self {
            Self::Mask => "keep".into(),
            Self::ScoreModifiers => "score_mod".into(),
            Self::ScoreGradient => "score_mod_grad".into(),
            Self::ElementIndex(buffer) => format!("{buffer}_index").into(),
            Self::ElementGradient(buffer) => format!("{buffer}_grad").into(),
        }
    }

    /// What the function takes before the cell, and what it returns.
    const fn types(&self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Mask => (&[], "bool"),
            Self::ScoreModifiers => (&["score"], "f32"),
            Self::ScoreGradient | Self::ElementGradient(_) => (&["grad", "score"], "f32"),
            Self::ElementIndex(_) => (&[], "u32"),
        }
    }

    pub(crate) fn signature(&self) -> String {
        let (numbers, result) = self.types();
        let numbers: String = numbers.iter().map(|name| format!("{name}: f32, ")).collect();
        let function = self.function();
        format!("fn {function}({numbers}b: u32, h: u32, q_idx: u32, kv_idx: u32) -> {result}")
    }

    fn call(&self) -> String {
        let (numbers, result) = self.types();
        let function = self.function();
        format!(
            "let found: {result} = {function}({}1u, 1u, 1u, 1u);",
            "1.0, ".repeat(numbers.len())
        )
    }
}

impl WgslFunction {
    /// A function from WGSL text of functions and constants.
    ///
    /// # Errors
    /// [`Error::Operand`] where the text holds what only whole shaders have: attributes, variables of modules, enables.
    /// Whether it compiles is found when a plan is made.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self> {
        let text = text.into();
        let whole = strip_comments(&text);
        for shader_only in ["@", "var<", "enable ", "override ", "requires ", "diagnostic"] {
            if whole.contains(shader_only) {
                return Err(Error::operand(
                    "wgsl",
                    "functions and constants alone",
                    format!("`{}`", shader_only.trim()),
                ));
            }
        }
        Ok(Self { text, label: Arc::from("wgsl"), buffers: Vec::new() })
    }

    /// The same under the name that errors give it, such as the path of its file; `wgsl` unless given.
    #[must_use]
    pub fn labeled(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The same with a buffer of `len` elements that its functions read as `name(index)`.
    ///
    /// # Errors
    /// [`Error::Operand`] where the name isn't a WGSL name, is taken, or the buffer is empty.
    pub fn buffer(
        mut self,
        name: impl Into<Arc<str>>,
        element: WgslBuffer,
        len: usize,
    ) -> Result<Self> {
        let name = name.into();
        let starts = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !(starts && named) || self.buffers.iter().any(|other| other.name == name) {
            return Err(Error::operand(
                "wgsl buffer",
                "a name of its own of letters, digits and `_`",
                format!("`{name}`"),
            ));
        }
        if len == 0 {
            return Err(Error::operand(format!("wgsl buffer `{name}`"), "at least 1 element", 0));
        }
        self.buffers.push(CustomBuffer { name, element, len });
        Ok(self)
    }

    /// The names that the text reads or calls: a caller finds the buffers that it needs among them.
    pub fn names(&self) -> Vec<String> {
        identifiers(&strip_comments(&self.text)).map(|(_, name)| name.to_owned()).collect()
    }

    /// Whether the text has a function that the use asks for.
    pub(crate) fn declares(&self, usage: &CustomUse) -> bool {
        let bare = strip_comments(&self.text);
        functions(&bare).iter().any(|(_, name)| *name == usage.function())
    }

    /// The buffers whose gradient the text describes, each with its number: floats with a function `NAME_grad`.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (usize, &CustomBuffer)> {
        self.buffers.iter().enumerate().filter(|(_, CustomBuffer { name, element, .. })| {
            *element == WgslBuffer::F32
                && self.declares(&CustomUse::ElementGradient(Arc::clone(name)))
        })
    }

    /// In words, each function that by its name is part of a buffer's gradient, and is part of none: misspelled, or alone.
    pub(crate) fn idle_gradients(&self) -> Vec<String> {
        let bare = strip_comments(&self.text);
        let learned: Vec<&str> = self.learned().map(|(_, buffer)| &*buffer.name).collect();
        let why = |function: &str| {
            let (name, suffix) = ["_grad", "_index"]
                .iter()
                .find_map(|&suffix| Some((function.strip_suffix(suffix)?, suffix)))?;
            if name == "score_mod" || learned.contains(&name) {
                return None;
            }
            match self.buffers.iter().find(|buffer| *buffer.name == *name) {
                Some(CustomBuffer { element: WgslBuffer::F32, .. }) => {
                    Some(format!("`{name}` has a gradient only with `{name}_grad` besides"))
                }
                Some(CustomBuffer { element, .. }) => {
                    let element = element.name();
                    Some(format!(
                        "`{name}` holds {element}, and only buffers of f32 have gradients"
                    ))
                }
                None => {
                    let near = nearest(name, self.buffers.iter().map(|buffer| &*buffer.name))?;
                    Some(format!("no buffer is `{name}` (did you mean `{near}{suffix}`?)"))
                }
            }
        };
        let functions = functions(&bare).into_iter().map(|(_, function)| function);
        functions
            .filter_map(|function| Some((function, why(function)?)))
            .map(|(function, why)| {
                format!("{}: `{function}` is part of no gradient: {why}", self.label)
            })
            .collect()
    }

    /// What a backward pass asks of the text.
    pub(crate) fn gradient_uses(&self) -> impl Iterator<Item = CustomUse> {
        let of_buffer = |(_, CustomBuffer { name, .. }): (usize, &CustomBuffer)| {
            [
                CustomUse::ElementIndex(Arc::clone(name)),
                CustomUse::ElementGradient(Arc::clone(name)),
            ]
        };
        std::iter::once(CustomUse::ScoreGradient).chain(self.learned().flat_map(of_buffer))
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Its buffers: name, type and number of elements of each.
    pub fn buffer_sizes(&self) -> impl Iterator<Item = (&str, WgslBuffer, usize)> {
        self.buffers.iter().map(|buffer| (&*buffer.name, buffer.element, buffer.len))
    }

    pub(crate) fn buffers(&self) -> &[CustomBuffer] {
        &self.buffers
    }

    /// The text as part of a kernel: each of its names, and its buffers', gets `suffix`, so that it meets no other.
    /// Lines stay lines.
    pub(crate) fn renamed(&self, usage: &CustomUse, suffix: &str) -> String {
        let mut own: Vec<&str> = self.buffers.iter().map(|buffer| &*buffer.name).collect();
        let function = usage.function();
        own.push(&function);
        let bare = strip_comments(&self.text);
        let words: Vec<&str> = identifiers(&bare).map(|(_, name)| name).collect();
        for pair in words.windows(2) {
            if ["fn", "const", "struct", "alias"].contains(&pair[0]) {
                own.push(pair[1]);
            }
        }
        let mut renamed = String::new();
        let mut end = 0;
        for (at, name) in identifiers(&bare) {
            renamed.push_str(&bare[end..at]);
            renamed.push_str(name);
            if own.contains(&name) {
                renamed.push_str(suffix);
            }
            end = at + name.len();
        }
        renamed + &bare[end..]
    }

    /// A module of this text alone, the text first so that errors name its own lines; without its comments, as in the
    /// kernels, so that what is checked here is what runs there.
    pub(crate) fn alone(&self, usage: &CustomUse, with_call: bool) -> String {
        let mut module = format!("{}\n", strip_comments(&self.text));
        for CustomBuffer { name, element, .. } in &self.buffers {
            let element = element.name();
            module += &format!("fn {name}(i: u32) -> {element} {{ return {element}(i); }}\n");
        }
        if with_call {
            module += &format!("@compute @workgroup_size(1) fn call_it() {{ {} }}\n", usage.call());
        }
        module
    }

    /// What is wrong with a text that doesn't compile alone, by the compiler's message; or with the signature of its function,
    /// if it's only the call that doesn't compile.
    pub(crate) fn compile_error(&self, usage: &CustomUse, called: bool, message: &str) -> Error {
        let expected = format!("`{}`", usage.signature());
        let bare = strip_comments(&self.text);
        let functions = functions(&bare);
        match functions.iter().find(|(_, name)| *name == usage.function()) {
            None if called => {
                let near = nearest(&usage.function(), functions.iter().map(|&(_, name)| name));
                let place = near.and_then(|near| functions.iter().find(|(_, name)| *name == near));
                let found = match place {
                    Some((at, name)) => format!("`{name}`\n{}", self.shown(&bare, *at)),
                    None => format!("no function `{}`", usage.function()),
                };
                Error::operand(&*self.label, expected, found)
            }
            Some((at, _)) if called && types(&bare[*at..]) != types(&usage.signature()) => {
                let found = format!("other types\n{}", self.shown(&bare, *at));
                Error::operand(&*self.label, expected, found)
            }
            _ => {
                // What comes before are wgpu's own calls.
                let message = message.split_once("\nShader ").map_or(message, |(_, rest)| rest);
                let message = message.trim_start_matches(&format!("'{}' ", self.label));
                let message = message.trim_end().replace("─ wgsl:", &format!("─ {}:", self.label));
                let declared = match message.contains("no definition in scope") {
                    true => ", and a `WgslFunction::buffer` of each name that it reads",
                    false => "",
                };
                Error::operand(
                    &*self.label,
                    format!("text that compiles and has {expected}{declared}"),
                    message,
                )
            }
        }
    }

    /// The line of the text in which the text without comments has a word at `at`, as the compiler shows lines.
    fn shown(&self, bare: &str, at: usize) -> String {
        let before = &bare[..at];
        let index = before.matches('\n').count();
        let column = before.chars().rev().take_while(|&c| c != '\n').count();
        let line = (index + 1).to_string();
        let (margin, indent) = (" ".repeat(line.len()), " ".repeat(column));
        let text = self.text.lines().nth(index).unwrap_or_default();
        let place = format!("{}:{line}:{}", self.label, column + 1);
        format!("{margin} ┌─ {place}\n{margin} │\n{line} │ {text}\n{margin} │ {indent}^")
    }
}

/// The functions that a text without comments declares: each one's name, and where it is.
fn functions(bare: &str) -> Vec<(usize, &str)> {
    let words: Vec<(usize, &str)> = identifiers(bare).collect();
    words.windows(2).filter(|pair| pair[0].1 == "fn").map(|pair| pair[1]).collect()
}

/// The types of a declaration's parameters and of its result, without spaces.
fn types(declaration: &str) -> Vec<String> {
    let head = declaration.split('{').next().unwrap_or_default();
    let (parameters, result) = head.split_once("->").unwrap_or((head, ""));
    let parameters = parameters.split_once('(').map_or("", |(_, rest)| rest);
    let parameters = parameters.trim_end().trim_end_matches(')').split(',');
    let kinds = parameters.filter_map(|parameter| parameter.split_once(':')).map(|(_, kind)| kind);
    kinds.chain([result]).map(|kind| kind.split_whitespace().collect()).collect()
}

/// The text with comments blanked out, lines kept. Block comments nest, as WGSL's do.
fn strip_comments(text: &str) -> String {
    let mut stripped = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        stripped.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.starts_with("//") {
            true => rest.find('\n').unwrap_or(rest.len()),
            false => block_comment(rest),
        };
        stripped.extend(rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    stripped + rest
}

/// The length of the block comment that `text` starts with.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Each word that starts with a letter or `_`, and where; numbers with suffixes aren't words.
fn identifiers(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.char_indices().filter_map(move |(at, c)| {
        let before = text[..at].chars().next_back();
        let starts = is_part(c) && !before.is_some_and(is_part);
        if !starts || c.is_numeric() || before == Some('.') {
            return None;
        }
        let rest = &text[at..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        Some((at, &rest[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_suffix_and_lines_stay() {
        let text = "const LIMIT: u32 = 3u; // keep\nfn help(x: u32) -> bool { return x.keep < slopes(LIMIT); }\n\
                    fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return help(kv_idx); }";
        let custom = WgslFunction::new(text).unwrap().buffer("slopes", WgslBuffer::U32, 2).unwrap();
        let renamed = custom.renamed(&CustomUse::Mask, "_0");
        assert!(renamed.contains("const LIMIT_0: u32 = 3u;"), "{renamed}");
        assert!(renamed.contains("return x.keep < slopes_0(LIMIT_0);"), "{renamed}");
        assert!(renamed.contains("fn keep_0(b: u32") && renamed.contains("help_0(kv_idx)"));
        assert_eq!(renamed.lines().count(), text.lines().count());
    }

    #[test]
    fn parts_of_gradients_that_do_nothing_are_told() {
        let custom = |functions: &str| {
            let names = functions.split_whitespace();
            let text: String = names.map(|name| format!("fn {name}() {{}}\n")).collect();
            let custom = WgslFunction::new(text).unwrap().buffer("table", WgslBuffer::F32, 8);
            custom.unwrap().buffer("places", WgslBuffer::I32, 8).unwrap()
        };
        let told = |functions: &str| custom(functions).idle_gradients().join("\n");
        for right in ["score_mod_grad table_index table_grad", "table_grad", "other_index help"] {
            assert_eq!(told(right), "");
        }
        assert_eq!(
            told("tabel_grad table_index"),
            "wgsl: `tabel_grad` is part of no gradient: no buffer is `tabel` (did you mean `table_grad`?)\n\
             wgsl: `table_index` is part of no gradient: `table` has a gradient only with `table_grad` besides"
        );
        assert_eq!(
            told("places_grad"),
            "wgsl: `places_grad` is part of no gradient: `places` holds i32, and only buffers of f32 have gradients"
        );
    }

    #[test]
    fn comments_nest_and_hide_nothing() {
        let text = "a /* /* é */ fn evil() {} */ b // c\nd /* open";
        let stripped = strip_comments(text);
        assert!(!stripped.contains("evil") && !stripped.contains("open"), "{stripped}");
        assert_eq!(stripped.split_whitespace().collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(stripped.lines().count(), 2);
        let custom = WgslFunction::new(text).unwrap();
        assert!(!custom.alone(&CustomUse::Mask, false).contains("evil"));
    }

    #[test]
    fn a_wrong_signature_is_shown_in_the_own_text() {
        let error = |text: &str, called| {
            let custom = WgslFunction::new(text).unwrap().labeled("my.wgsl");
            custom.compile_error(&CustomUse::Mask, called, "the compiler's ─ wgsl:2:1").to_string()
        };
        let expected =
            "my.wgsl: expected `fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool`, found ";
        assert_eq!(error("fn x() {}", true), format!("{expected}no function `keep`"));
        assert_eq!(
            error("/* é */\n  fn kep(b: u32) -> bool { return true; }", true),
            format!(
                "{expected}`kep`\n  ┌─ my.wgsl:2:6\n  │\n2 │   fn kep(b: u32) -> bool {{ return true; }}\n  │      ^"
            )
        );
        let other = error("fn keep(\n b: u32, h: u32) -> bool { return true; }", true);
        assert!(
            other.starts_with(&format!("{expected}other types\n  ┌─ my.wgsl:1:4\n")),
            "{other}"
        );
        // It's the compiler who knows what else is wrong.
        let right =
            "fn keep ( b:u32,h : u32, q: u32,\n kv: u32, )->bool { return dpdx(1.0) > 0.0; }";
        for (text, called) in [(right, true), ("fn keep() {}", false), ("", false)] {
            let error = error(text, called);
            assert!(error.ends_with("the compiler's ─ my.wgsl:2:1"), "{error}");
        }
        let custom = WgslFunction::new(right).unwrap();
        let unknown = "no definition in scope for identifier: `table`";
        let error = custom.compile_error(&CustomUse::Mask, false, unknown).to_string();
        assert!(error.contains("a `WgslFunction::buffer` of each name that it reads"), "{error}");
    }

    #[test]
    fn only_functions_and_constants() {
        for text in ["@group(0) @binding(9) var<storage> x: array<u32>;", "var<private> x: u32;"] {
            assert!(WgslFunction::new(text).is_err(), "{text}");
        }
        assert!(WgslFunction::new("// @compute\nfn keep() {}").is_ok());
        let custom = || WgslFunction::new("fn keep() {}").unwrap();
        assert!(custom().buffer("1x", WgslBuffer::F32, 1).is_err());
        assert!(custom().buffer("x", WgslBuffer::F32, 0).is_err());
        let twice = custom().buffer("x", WgslBuffer::F32, 1).unwrap();
        assert!(twice.buffer("x", WgslBuffer::F32, 1).is_err());
    }
}
