//! The compositions by their names in a mask's text.

use super::leaf::{Argument, Value, Values};
use super::{Mask, compositions};

/// A composition that a mask's text can name; it stands for the leaves that it is made of.
pub(super) struct Named {
    pub(super) name: &'static str,
    /// Its arguments, all of them numbers.
    pub(super) arguments: &'static [Argument],
    mask: fn([u32; 2]) -> Mask,
}

impl Named {
    /// What it stands for with these arguments.
    pub(super) fn with(&self, values: &Values) -> Mask {
        let number = |at: usize| match values[at] {
            Value::Count(count) => u32::try_from(count).unwrap_or(0),
            Value::Unbounded | Value::Choice(_) => 0,
        };
        (self.mask)([number(0), number(1)])
    }
}

const fn named(
    name: &'static str,
    arguments: &'static [Argument],
    mask: fn([u32; 2]) -> Mask,
) -> Named {
    Named { name, arguments, mask }
}

/// A layer's number, as large as this machine has them.
fn index(layer: u32) -> usize {
    usize::try_from(layer).unwrap_or(usize::MAX)
}

const SIZE: Argument = Argument::count("size", 0);
const WINDOW: Argument = Argument::count("window", 0);
const GLOBAL: Argument = Argument::count("global", 0);
const SINKS: Argument = Argument::count("sinks", 0);
const LAYER: Argument = Argument::count("layer", 0);
const CHUNK: Argument = Argument::count("chunk", 1);

/// Every function of [`compositions`].
pub(super) const NAMED: &[Named] = &[
    named("sliding_window", &[SIZE], |[size, _]| compositions::sliding_window(size)),
    named("longformer", &[WINDOW, GLOBAL], |[window, global]| {
        compositions::longformer(window, global)
    }),
    named("bigbird", &[WINDOW, GLOBAL], |[window, global]| compositions::bigbird(window, global)),
    named("prefix_lm", &[], |_| compositions::prefix_lm()),
    named("packed_documents", &[], |_| compositions::packed_documents()),
    named("streaming_llm", &[WINDOW, SINKS], |[window, sinks]| {
        compositions::streaming_llm(window, sinks)
    }),
    named("gemma2", &[LAYER, WINDOW], |[layer, window]| compositions::gemma2(index(layer), window)),
    named("gemma3", &[LAYER, WINDOW], |[layer, window]| compositions::gemma3(index(layer), window)),
    named("llama4", &[LAYER, CHUNK], |[layer, chunk]| compositions::llama4(index(layer), chunk)),
    named("reformer", &[], |_| compositions::reformer()),
    named("speculative_tree", &[], |_| compositions::speculative_tree()),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A text with a name is the mask of its leaves, and prints as these.
    #[test]
    fn a_name_stands_for_its_leaves() {
        for (text, printed) in [
            ("sliding_window(4)", "window(3,0)"),
            ("longformer(2, global=1)", "window(2,2) | global(1)"),
            ("bigbird(96, 2)", "window(96,96) | global(2) | dense"),
            ("prefix_lm", "prefix | causal"),
            ("packed_documents()", "documents & causal"),
            ("streaming_llm(4, 1)", "causal & (window(3,0) | global(1))"),
            ("gemma2(0, 4)", "window(3,0)"),
            ("gemma3(layer=5, window=4)", "causal"),
            ("llama4(0, 4)", "chunk(4) & causal"),
            ("reformer", "self_only_if_alone(buckets & causal)"),
            ("speculative_tree", "tree"),
            ("longformer(2,1) & key_lengths", "(window(2,2) | global(1)) & key_lengths"),
            ("!prefix_lm", "!(prefix | causal)"),
        ] {
            let mask: Mask = text.parse().unwrap();
            assert_eq!(mask.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<Mask>().unwrap(), mask);
        }
    }

    #[test]
    fn every_composition_has_a_name() {
        let functions = include_str!("compositions.rs")
            .lines()
            .filter_map(|line| Some(line.strip_prefix("pub fn ")?.split('(').next()?.to_owned()));
        let mut names: Vec<String> = NAMED.iter().map(|named| named.name.to_owned()).collect();
        let mut expected: Vec<String> = functions.collect();
        expected.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn what_does_not_fit_is_refused_where_it_stands() {
        for (text, column, part) in [
            ("longformer(2)", 1, "`global` is missing; write longformer(window, global)"),
            ("all & reformer(1)", 16, "at most 0"),
            ("llama4(0, 0)", 11, "chunk: expected a number from 1"),
            ("longformr(2, 1)", 1, "did you mean `longformer`?"),
        ] {
            let error = text.parse::<Mask>().unwrap_err();
            assert_eq!(error.column, column, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
        // What it stands for counts as if it were written out, so that what is printed parses.
        let nested = |levels: usize| format!("{}streaming_llm(2, 1)", "!".repeat(levels));
        let deepest = nested(61).parse::<Mask>().unwrap();
        assert_eq!(deepest.to_string().parse::<Mask>().unwrap(), deepest);
        let error = nested(62).parse::<Mask>().unwrap_err();
        assert!(error.message.contains("64 levels"), "{error}");
    }
}
