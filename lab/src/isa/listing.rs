//! What the driver printed while kernels were compiled: for each plan a line of `isa-kernels`, then for each of its
//! kernels the machine code and RADV's statistics.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::code::Code;

/// A kernel as the compiler left it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) name: String,
    pub(crate) head_dim: usize,
    pub(crate) dtype: String,
    pub(crate) stats: Stats,
    pub(crate) code: Code,
}

/// RADV's statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) sgprs: u64,
    pub(crate) vgprs: u64,
    /// Registers of both kinds.
    pub(crate) spilled: u64,
    /// Bytes per invocation.
    pub(crate) scratch: u64,
    /// Bytes per workgroup.
    pub(crate) lds: u64,
    /// How many subgroups a SIMD holds at once.
    pub(crate) occupancy: u64,
    pub(crate) instructions: u64,
    /// The compiler's estimates, in clocks: of one subgroup, and of one among as many as a SIMD holds.
    pub(crate) latency: u64,
    pub(crate) inverse_throughput: u64,
}

/// The marks that `isa-kernels` leaves.
const PLAN: &str = "### plan ";
const REFUSED: &str = "### refused ";
const END: &str = "### end";
/// The line before RADV's statistics, and after them.
pub(super) const STATISTICS: &str = "*** SHADER STATS ***";
const STATISTICS_END: &str = "********************";

/// Reads the whole output.
///
/// # Errors
/// Where it breaks off, or where a plan compiled other kernels than its line names.
pub(crate) fn parse(output: &str) -> Result<Vec<Compiled>> {
    ensure!(
        output.lines().any(|line| line == END),
        "the kernels' compilation broke off:\n{}",
        last_lines(output)
    );
    let mut compiled = Vec::new();
    for plan in output.split(PLAN).skip(1) {
        let (title, text) = plan.split_once('\n').context("a plan without kernels")?;
        let mut fields = title.split("; ");
        let mut field = || fields.next().with_context(|| format!("`{title}` is no plan's line"));
        let names: Vec<&str> = field()?.split(" + ").collect();
        let head_dim = field()?.parse().with_context(|| format!("head_dim of `{title}`"))?;
        let dtype = field()?;
        if text.lines().any(|line| line.starts_with(REFUSED)) {
            continue;
        }
        let parts: Vec<&str> = text.split(STATISTICS).collect();
        let found = parts.len() - 1;
        ensure!(
            found == names.len(),
            "`{title}` names {} kernels, {found} were compiled",
            names.len()
        );
        for (name, pair) in names.into_iter().zip(parts.windows(2)) {
            let code = pair[0].split(STATISTICS_END).last().unwrap_or_default();
            let stats = pair[1].split(STATISTICS_END).next().unwrap_or_default();
            compiled.push(Compiled {
                name: name.to_owned(),
                head_dim,
                dtype: dtype.to_owned(),
                stats: stats_of(stats).with_context(|| format!("statistics of {title}"))?,
                code: Code::parse(code),
            });
        }
    }
    Ok(compiled)
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn stats_of(text: &str) -> Result<Stats> {
    let values: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect();
    let value = |name: &str| {
        values.get(name).copied().with_context(|| format!("the driver told no `{name}`"))
    };
    Ok(Stats {
        sgprs: value("SGPRs")?,
        vgprs: value("VGPRs")?,
        spilled: value("Spilled SGPRs")? + value("Spilled VGPRs")?,
        scratch: value("Scratch size")?,
        lds: value("LDS size")?,
        occupancy: value("Subgroups per SIMD")?,
        instructions: value("Instructions")?,
        latency: value("Latency")?,
        inverse_throughput: value("Inverse Throughput")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RADV of Mesa 25.0.7 prints it, shortened.
    const OUTPUT: &str = "\
ac_compute_device_uuid's output is based on invalid pci bus info.
### plan delta + dq; 64; f16
Compute Shader
disasm:
BB0:
\ts_endpgm                                                    ; bfb00000


*** SHADER STATS ***
Driver pipeline hash: 16726884439928453294
SGPRs: 128
VGPRs: 192
Spilled SGPRs: 0
Spilled VGPRs: 3
Code size: 12852
LDS size: 14848
Scratch size: 16
Subgroups per SIMD: 8
Instructions: 2788
Latency: 38382
Inverse Throughput: 9596
********************


Compute Shader
disasm:
BB0:
\tv_fma_f32 v0, v1, v2, v3                                    ; d6130000
\ts_endpgm                                                    ; bfb00000

*** SHADER STATS ***
SGPRs: 16
VGPRs: 24
Spilled SGPRs: 1
Spilled VGPRs: 0
LDS size: 0
Scratch size: 0
Subgroups per SIMD: 16
Instructions: 2
Latency: 9
Inverse Throughput: 2
********************


### end
";

    #[test]
    fn output_is_read() {
        let compiled = parse(OUTPUT).unwrap();
        let names: Vec<_> = compiled.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["delta", "dq"]);
        assert_eq!(
            compiled[0].stats,
            Stats {
                sgprs: 128,
                vgprs: 192,
                spilled: 3,
                scratch: 16,
                lds: 14848,
                occupancy: 8,
                instructions: 2788,
                latency: 38382,
                inverse_throughput: 9596,
            }
        );
        assert_eq!((compiled[1].head_dim, compiled[1].dtype.as_str()), (64, "f16"));
        assert_eq!(compiled[1].code, Code::parse("BB0:\n\tv_fma_f32 v0 ; 0\n\ts_endpgm ; 0\n"));
    }

    #[test]
    fn what_the_gpu_cant_do_is_left_out() {
        let output = "### plan forward matrix; 64; f32\n### refused it serves f16\n### end\n";
        assert_eq!(parse(output).unwrap(), []);
    }

    #[test]
    fn what_is_missing_is_named() {
        let broken = OUTPUT.replace("### end\n", "");
        assert!(parse(&broken).unwrap_err().to_string().contains("broke off"));
        let fewer = OUTPUT.replace("delta + dq", "delta");
        assert!(parse(&fewer).unwrap_err().to_string().contains("2 were compiled"));
        let silent = OUTPUT.replace("VGPRs: 24\n", "");
        assert!(format!("{:#}", parse(&silent).unwrap_err()).contains("`VGPRs`"));
    }
}
