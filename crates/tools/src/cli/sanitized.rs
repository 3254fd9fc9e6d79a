//! `--sanitize`: kernels run on the CPU under wgsl-sanitizer, and what is found in user-defined functions is told by their own
//! lines.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure};
use wgpu_attention::{Kernels, Problem, Session, Shape};
use wgsl_sanitizer::device::{DeviceOptions, DispatchReport, Sanitizer};
use wgsl_sanitizer::{Finding, FindingKind};

use crate::talk::Talk;

/// The most cells of a mask, and multiply-adds of an attention, that are run: some ten seconds of a CPU.
const MOST_CELLS: u128 = 1 << 20;
const MOST_MULTIPLY_ADDS: u128 = 1 << 25;

/// The option.
#[derive(Debug, clap::Args)]
pub(crate) struct Sanitize {
    /// Run the kernels on the CPU, for small problems, and check every access of a user-defined function: indices beyond a
    /// tensor, divisions by zero, shifts too far, barriers that not all invocations reach. What is found is printed with the
    /// function's line and arguments, and the command fails. N is the number of invocations in a subgroup, 1 to 128; 32 by
    /// default.
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "32",
        value_parser = clap::value_parser!(u32).range(1..=128),
        conflicts_with = "device"
    )]
    sanitize: Option<u32>,
}

/// A device under the sanitizer.
pub(crate) struct Sanitized {
    pub(crate) session: Session,
    sanitizer: Sanitizer,
    functions: Vec<Function>,
}

/// A user-defined function, which kernels have under a line of this form.
struct Function {
    title: String,
    path: String,
    text: String,
}

impl Sanitize {
    /// A device, if it is asked for. `functions` are the user's, by the names of their uses.
    pub(crate) fn device(
        &self,
        functions: &[(&'static str, Option<&Path>)],
    ) -> anyhow::Result<Option<Sanitized>> {
        let Some(subgroup_size) = self.sanitize else { return Ok(None) };
        let sanitizer = Sanitizer::new(DeviceOptions {
            subgroup_size,
            device_type: wgpu::DeviceType::DiscreteGpu,
            rewrite: Some(Arc::new(with_checked_indices)),
            ..DeviceOptions::default()
        });
        let kernels = Kernels::new(sanitizer.device(), &Default::default());
        let session = Session::from_kernels(&kernels, sanitizer.queue());
        let given = functions.iter().filter_map(|(usage, path)| Some((*usage, (*path)?)));
        let functions = given.map(|(usage, path)| {
            let title = format!("// ---- the user's {usage} ----");
            let path_shown = path.display().to_string();
            Ok(Function { title, path: path_shown, text: std::fs::read_to_string(path)? })
        });
        let functions = functions.collect::<io::Result<_>>()?;
        Ok(Some(Sanitized { session, sanitizer, functions }))
    }

    /// Refuses a mask that is too large.
    pub(crate) fn check_mask(&self, shape: &Shape) -> anyhow::Result<()> {
        let cells = cells(shape);
        ensure!(
            self.sanitize.is_none() || cells <= MOST_CELLS,
            "--sanitize: the mask has {cells} cells, and at most {MOST_CELLS} are run: give a smaller --seq, or fewer heads"
        );
        Ok(())
    }

    /// Refuses a problem that is too large.
    pub(crate) fn check_problem(&self, problem: &Problem) -> anyhow::Result<()> {
        let shape = problem.shape();
        let multiply_adds = cells(shape) * (shape.head_dim + shape.head_dim_v) as u128;
        ensure!(
            self.sanitize.is_none() || multiply_adds <= MOST_MULTIPLY_ADDS,
            "--sanitize: {} queries x {} keys in {} heads take {multiply_adds} multiply-adds, and at most \
             {MOST_MULTIPLY_ADDS} are run: give fewer heads or shorter sequences",
            shape.seq_len_q,
            shape.seq_len_kv,
            shape.batch * shape.num_heads,
        );
        Ok(())
    }
}

fn cells(shape: &Shape) -> u128 {
    [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv]
        .into_iter()
        .map(|size| size as u128)
        .product()
}

impl Sanitized {
    /// Fails where something was found so far, with all of it.
    pub(crate) fn check(&self, talk: Talk) -> anyhow::Result<()> {
        let dispatches = self.sanitizer.take();
        let mut told: Vec<(String, FindingKind)> = Vec::new();
        let mut text = String::new();
        for dispatch in &dispatches {
            for found in dispatch.report.faults() {
                let (place, words) = self.words(dispatch, found);
                let key = (place, found.kind);
                if !told.contains(&key) {
                    let _ = write!(text, "\n{}: {words}", key.0);
                    told.push(key);
                }
            }
        }
        match told.len() {
            0 => {}
            1 => bail!("--sanitize: 1 fault was found{text}"),
            count => bail!("--sanitize: {count} faults were found{text}"),
        }
        if !talk.quiet {
            let operations: u64 = dispatches.iter().map(|one| one.report.operations).sum();
            let count = dispatches.len();
            let _ = writeln!(
                io::stderr(),
                "--sanitize: nothing was found; dispatches: {count}, operations: {operations}"
            );
        }
        Ok(())
    }

    /// Where something was found, and what.
    fn words(&self, dispatch: &DispatchReport, found: &Finding) -> (String, String) {
        let own_text = || (format!("{}, the crate's own text", dispatch.label), found.to_string());
        let places = [&found.at].into_iter().chain(found.calls.iter().map(|call| &call.at));
        // The innermost place in a user-defined function, and how many calls lie below it.
        let place = places.enumerate().find_map(|(depth, at)| {
            let own = self
                .functions
                .iter()
                .find_map(|function| Some((function, function.line(&dispatch.source, at.line)?)));
            own.map(|own| (depth, own))
        });
        let Some((depth, (function, line))) = place else { return own_text() };
        let mut words = match index_beyond(found) {
            Some((index, tensor)) => {
                format!(
                    "index {index} is beyond the end of {tensor}, whose last element is read instead"
                )
            }
            None if found.detail.is_empty() => found.kind.to_string(),
            None => format!("{}: {}", found.kind, found.detail),
        };
        let text = function.text.lines().nth(line - 1).unwrap_or_default().trim();
        let _ = write!(words, "\n  {text}");
        for call in found.calls.iter().skip(depth) {
            let name = bare(&call.function);
            let value = |(name, value): &(String, String)| format!("{name}: {value}");
            let values: Vec<_> = call.arguments.iter().map(value).collect();
            let _ = write!(words, "\n  in {name}({})", values.join(", "));
            if function.line(&dispatch.source, call.at.line).is_none() {
                break;
            }
        }
        let _ = write!(words, "\n  by {}", found.invocation);
        if found.count > 1 {
            let _ = write!(words, ", and {} times more", found.count - 1);
        }
        (format!("{}:{line}", function.path), words)
    }
}

impl Function {
    /// A line of a kernel's text as one of the function's, from 1.
    fn line(&self, source: &str, line: u32) -> Option<usize> {
        let title = source.lines().position(|text| text == self.title)?;
        let line = (line as usize).checked_sub(title + 1)?;
        (1..=self.text.lines().count()).contains(&line).then_some(line)
    }
}

/// The kernel's text with indices of a user-defined function's tensors divided by 0 where they are beyond the end: the kernel
/// itself takes the last element then, so that nothing would be found.
fn with_checked_indices(text: &str) -> String {
    let line = |line: &str| {
        let parts = line.split_once(BEFORE).and_then(|(before, rest)| {
            let (last, behind) = rest.split_once(BEHIND)?;
            Some((before, last, behind))
        });
        match parts {
            Some((before, len, behind)) => {
                format!("{before} + min(i / select(0u, 1u, i < {len}), {len}{BEHIND}{behind}")
            }
            None => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Around a tensor's length in the function that reads it.
const BEFORE: &str = " + min(i, ";
const BEHIND: &str = " - 1u)]);";

/// The index and the tensor, where [`with_checked_indices`] is why something was found.
fn index_beyond(found: &Finding) -> Option<(&str, &str)> {
    let is_ours = found.kind == FindingKind::Division && found.at.text.contains("min(i / select(");
    let index = found.detail.split(' ').next().filter(|_| is_ours)?;
    Some((index, bare(&found.calls.first()?.function)))
}

/// A name as the user wrote it: kernels have each with the number of a slot.
fn bare(name: &str) -> &str {
    name.rsplit_once('_').map_or(name, |(bare, _)| bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_divided_where_they_are_beyond_the_end() {
        let text =
            "a\n    return bitcast<f32>(mask_words[slot_u32(3u) + min(i, slot_u32(4u) - 1u)]);";
        let expected = "a\n    return bitcast<f32>(mask_words[slot_u32(3u) + \
                        min(i / select(0u, 1u, i < slot_u32(4u)), slot_u32(4u) - 1u)]);";
        assert_eq!(with_checked_indices(text), expected);
    }
}
