//! The numbers in a mask's text, for sliders.

use serde::Serialize;
use wgpu_attention::Mask;

/// A number, or `inf`, that stands as an argument.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Number {
    /// The characters that it takes, counted from 0.
    start: usize,
    end: usize,
    /// `window's left`
    name: String,
    /// None for `inf`.
    value: Option<u32>,
}

/// The numbers of a text that parses, from the left.
pub(crate) fn numbers(text: &str) -> Vec<Number> {
    let text: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    // The names whose parentheses are open, with the count of arguments so far.
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut argument = String::new();
    let mut last = String::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        while at < text.len() && (text[at].is_alphanumeric() || "_-+.".contains(text[at])) {
            at += 1;
        }
        if at > start {
            last = text[start..at].iter().collect();
            let value = last.parse().ok();
            if let Some((leaf, count)) = open.last()
                && (value.is_some() || last == "inf")
            {
                let name = match argument.as_str() {
                    "" => form(leaf, *count),
                    named => named.to_owned(),
                };
                if name != "data" {
                    found.push(Number { start, end: at, name: format!("{leaf}: {name}"), value });
                }
            }
            continue;
        }
        match text[at] {
            '(' => open.push((std::mem::take(&mut last), 0)),
            ')' => drop(open.pop()),
            ',' => {
                argument.clear();
                if let Some((_, count)) = open.last_mut() {
                    *count += 1;
                }
            }
            '=' => argument.clone_from(&last),
            _ => {}
        }
        if "()".contains(text[at]) {
            argument.clear();
        }
        at += 1;
    }
    found
}

/// The name of a leaf's argument, as its help has it: `window(LEFT, RIGHT)`.
fn form(leaf: &str, count: usize) -> String {
    let forms = Mask::leaves().find(|other| other.name() == leaf).map(|leaf| leaf.help());
    let arguments = forms.and_then(|forms| {
        let written = forms.iter().map(|(form, _)| *form).find(|form| form.contains('('))?;
        written.split(['(', ',', ')']).nth(count + 1).map(|name| name.trim().to_lowercase())
    });
    arguments.unwrap_or_else(|| format!("number {}", count + 1))
}
