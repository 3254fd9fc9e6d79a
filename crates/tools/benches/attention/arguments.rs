//! The benchmark's command line.

use std::path::PathBuf;

use anyhow::Context as _;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention_tools::measure::Effort;

const HELP: &str = "\
Times the forward pass against naive attention in three passes, under sparse masks against none, over growing sequences,
the steps of a generation loop against the device's roofline (`decode`, `prefill`), the compilation of each kernel, and a program's first and second start. What a problem of your own takes, `wgpu-attention bench` tells.

Usage: cargo bench [-- [OPTIONS] [FILTER]...]

  FILTER          runs only what has one of these texts in its name, for instance `causal`, `1024`, `sparse`,
                  `itself`, `compile` or `start`
  --kernel NAME   times this forward kernel instead of the best
  --quick         fewer rounds
  --list          prints the names and ends
  --help          prints this and ends
";

/// What to run.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) quick: bool,
    pub(crate) list: bool,
    pub(crate) kernel: Option<ForwardKernel>,
    /// One start of `start`'s, and the folder where it keeps pipelines.
    pub(crate) start: Option<Option<PathBuf>>,
    filters: Vec<String>,
}

impl Arguments {
    /// From the process's own arguments; `None` if they asked for help, which has been printed.
    pub(crate) fn parse() -> anyhow::Result<Option<Self>> {
        let mut arguments = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(argument) = words.next() {
            match argument.as_str() {
                "--quick" => arguments.quick = true,
                "--list" => arguments.list = true,
                "--kernel" => {
                    let name = words.next().context("--kernel: a name is missing")?;
                    arguments.kernel = Some(name.parse()?);
                }
                // What `start` calls itself with.
                "--start" => arguments.start = Some(words.next().map(PathBuf::from)),
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--help" | "-h" => {
                    print!("{HELP}");
                    return Ok(None);
                }
                option if option.starts_with('-') => {
                    anyhow::bail!("there is no option `{option}`\n\n{HELP}")
                }
                filter => arguments.filters.push(filter.to_owned()),
            }
        }
        Ok(Some(arguments))
    }

    /// How often each contender runs.
    pub(crate) fn effort(&self) -> Effort {
        if self.quick { Effort::QUICK } else { Effort::default() }
    }

    /// Whether something of this name is to be run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}
