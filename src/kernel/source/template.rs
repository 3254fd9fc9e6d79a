//! Files of shaders/ as templates: what stands in double braces is filled in.
//!
//! A line with the placeholder of an [`Fill::Each`], as `{{INNER}}`, is written once for each number, so that what must be in
//! registers is a variable of its own, not an element that a loop indexes. A line that begins with `{{DROPOUT}}` is for kernels with dropout alone, one with
//! `{{PLAIN}}` for those without, one with `{{BOUNDS}}` for masks whose tiles are classed by bounds of their data, one with `{{WINDOW}}`
//! for dispatches that loop over windows of the keys, one with `{{QUERY_WINDOW}}` for those that loop over windows of the queries, one
//! with `{{OWN}}` for those that have windows of the workgroups' own rows.

use std::fmt;

/// A file of shaders/.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) file: &'static str,
    pub(super) text: &'static str,
}

/// A value for a placeholder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill<'a> {
    /// `{{TENSOR}}`: a tensor, as its binding is called.
    Tensor(&'a str),
    /// `{{FROM}}`: the tensor that rows are copied from.
    From(&'a str),
    /// `{{NEAR_TENSOR}}` and `{{FAR_TENSOR}}`: the tensors of a workgroup's own side and of the side that it walks over.
    NearTensor(&'a str),
    FarTensor(&'a str),
    /// `{{SIDE}}`: `q` or `kv`, whose `_place` says where rows lie.
    Side(&'a str),
    NearSide(&'a str),
    FarSide(&'a str),
    /// `{{CAPACITY}}`: the components that the kernel has room for in a row, an expression.
    Capacity(&'a str),
    /// `{{SLICE}}`: the components of a row that a workgroup sums up, an expression.
    Slice(&'a str),
    /// `{{ROW_LENGTH}}`: the components of a row, an expression.
    RowLength(&'a str),
    /// `{{RUN}}`: the constant that says how many vectors are read at a time.
    Run(&'a str),
    /// `{{LINE}}`: the components that a cache line holds.
    Line(usize),
    /// `{{AT_ONCE}}`: the rows that are summed at a time.
    AtOnce(usize),
    /// A placeholder of that name: the number of one of so many matrices that a row is cut into, each with a line of its own.
    Each(&'static str, usize),
    /// `{{KIND}}`: which of several functions it is, a part of its name.
    Kind(&'a str),
    /// `{{HALF}}`: `f16` or `bf16`.
    Half(&'a str),
    /// `{{WORD}}`: the word of two elements at `at`, an expression.
    Word(&'a str),
    /// A placeholder of that name, at the beginning of lines that are only there if this is true.
    Where(&'static str, bool),
    /// `{{SCORE_MOD}}` and `{{SCORE_GRADIENT}}`: the user-defined functions.
    ScoreMod(&'a str),
    ScoreGradient(&'a str),
}

impl<'a> Fill<'a> {
    /// The values that a line with this placeholder is repeated for, if this says how often it is there.
    fn each(self) -> Option<Vec<Fill<'a>>> {
        match self {
            Self::Each(name, count) => {
                Some((0..count).map(|number| Fill::Each(name, number)).collect())
            }
            Self::Where(_, there) => Some(there.then_some(self).into_iter().collect()),
            _ => None,
        }
    }

    /// The placeholder's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Tensor(_) => "TENSOR",
            Self::From(_) => "FROM",
            Self::NearTensor(_) => "NEAR_TENSOR",
            Self::FarTensor(_) => "FAR_TENSOR",
            Self::Side(_) => "SIDE",
            Self::NearSide(_) => "NEAR_SIDE",
            Self::FarSide(_) => "FAR_SIDE",
            Self::Capacity(_) => "CAPACITY",
            Self::Slice(_) => "SLICE",
            Self::RowLength(_) => "ROW_LENGTH",
            Self::Run(_) => "RUN",
            Self::Line(_) => "LINE",
            Self::AtOnce(_) => "AT_ONCE",
            Self::Kind(_) => "KIND",
            Self::Half(_) => "HALF",
            Self::Word(_) => "WORD",
            Self::Each(name, _) | Self::Where(name, _) => name,
            Self::ScoreMod(_) => "SCORE_MOD",
            Self::ScoreGradient(_) => "SCORE_GRADIENT",
        }
    }
}

/// The value as it stands in WGSL.
impl fmt::Display for Fill<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tensor(text)
            | Self::From(text)
            | Self::NearTensor(text)
            | Self::FarTensor(text)
            | Self::Side(text)
            | Self::NearSide(text)
            | Self::FarSide(text)
            | Self::Capacity(text)
            | Self::Slice(text)
            | Self::RowLength(text)
            | Self::Run(text)
            | Self::Kind(text)
            | Self::Half(text)
            | Self::Word(text)
            | Self::ScoreMod(text)
            | Self::ScoreGradient(text) => f.write_str(text),
            Self::Line(count) | Self::AtOnce(count) => write!(f, "{count}u"),
            Self::Each(_, number) => write!(f, "{number}"),
            Self::Where(..) => Ok(()),
        }
    }
}

/// The names of a line's placeholders.
fn placeholders(line: &str) -> impl Iterator<Item = &str> {
    line.split("{{").skip(1).filter_map(|behind| Some(behind.split_once("}}")?.0))
}

impl Part {
    /// The text with its lines repeated and its placeholders filled in; values that it has no place for are left over.
    ///
    /// # Errors
    /// Names the placeholder that no value is for, or that isn't closed.
    pub(super) fn fill(&self, values: &[Fill<'_>]) -> Result<String, String> {
        let mut filled = String::with_capacity(self.text.len());
        for line in self.text.split_inclusive('\n') {
            // A single character is found much faster.
            if !line.contains('{') {
                filled += line;
                continue;
            }
            let names: Vec<&str> = placeholders(line).collect();
            let here = values.iter().filter(|value| names.contains(&value.name()));
            match here.copied().find_map(Fill::each) {
                None => self.fill_line(line, values, &mut filled)?,
                Some(each) => {
                    for one in each {
                        let values = [&[one], values].concat();
                        self.fill_line(line, &values, &mut filled)?;
                    }
                }
            }
        }
        Ok(filled)
    }

    /// One line, where the first value of a name counts.
    fn fill_line(
        &self,
        line: &str,
        values: &[Fill<'_>],
        filled: &mut String,
    ) -> Result<(), String> {
        let mut rest = line;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = (behind.split_once("}}"))
                .ok_or_else(|| format!("{}: a placeholder isn't closed", self.file))?;
            let value = (values.iter().find(|value| value.name() == name))
                .ok_or_else(|| format!("{}: {{{{{name}}}}} isn't filled in", self.file))?;
            *filled += before;
            *filled += &value.to_string();
            rest = match value {
                Fill::Where(..) => after.trim_start(),
                _ => after,
            };
        }
        *filled += rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_or_an_error() {
        let part = |text| Part { file: "shaders/x.wgsl", text };
        let values = [Fill::Tensor("k"), Fill::Line(8)];
        let filled = part("load_{{TENSOR}}4(d + {{LINE}}) {").fill(&values).unwrap();
        assert_eq!(filled, "load_k4(d + 8u) {");
        let values = [Fill::Each("OUTPUT", 2), Fill::Tensor("v")];
        let filled =
            part("{\n  o_{{OUTPUT}} = f({{TENSOR}}, {{OUTPUT}}u);\n}").fill(&values).unwrap();
        assert_eq!(filled, "{\n  o_0 = f(v, 0u);\n  o_1 = f(v, 1u);\n}");
        let lines = part("  a();\n  {{DROPOUT}} b();\n  {{PLAIN}} c();\n");
        for (there, expected) in [(true, "  a();\n  b();\n"), (false, "  a();\n  c();\n")] {
            let values = [Fill::Where("DROPOUT", there), Fill::Where("PLAIN", !there)];
            assert_eq!(lines.fill(&values).unwrap(), expected);
        }
        let error = part("{{TENSOR}} {{SIDE}}_place").fill(&values).unwrap_err();
        assert_eq!(error, "shaders/x.wgsl: {{SIDE}} isn't filled in");
        let error = part("{{TENSOR").fill(&values).unwrap_err();
        assert_eq!(error, "shaders/x.wgsl: a placeholder isn't closed");
    }
}
