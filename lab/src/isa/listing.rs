//! What a driver printed while kernels were compiled: for each plan a line of `isa-kernels`, then for each of its kernels the
//! compiler's statistics, which every driver words in its own way.

use anyhow::{Context, Result, bail, ensure};
use drivers::GpuDriver;
use serde::Serialize;

use super::code::{Code, Known, Step};

/// A kernel as the compiler left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Compiled {
    pub(crate) kernel: String,
    pub(crate) head_dim: usize,
    pub(crate) dtype: String,
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// Of forward kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Step>,
}

/// What all compilers tell, in the same units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    pub(crate) instructions: u64,
    /// Of 32 bits, per invocation.
    pub(crate) registers: u64,
    /// Bytes per invocation of local memory, or scratch.
    pub(crate) memory_bytes: u64,
    /// Moves of registers to memory and back; on Adreno, all accesses to such memory.
    pub(crate) spills: u64,
    /// Subgroups that a multiprocessor (NVIDIA), SIMD (AMD) or core (Adreno) holds; on Apple, the most invocations of a workgroup;
    /// on Intel, the invocations of a subgroup.
    pub(crate) occupancy: u64,
    /// Bytes per workgroup, where the compiler tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workgroup_bytes: Option<u64>,
}

impl Stats {
    /// Whether something that was meant for registers lies in memory.
    pub(crate) const fn uses_memory(&self) -> bool {
        self.memory_bytes > 0 || self.spills > 0
    }
}

/// The marks that `isa-kernels` leaves.
const PLAN: &str = "### plan ";
const REFUSED: &str = "### refused ";
const PRODUCTS: &str = "### products ";
const END: &str = "### end";

/// Reads the output, line by line.
#[derive(Debug)]
pub(crate) struct Listing {
    driver: GpuDriver,
    compiled: Vec<Compiled>,
    plan: Option<Plan>,
    /// Of the kernel that is being told of.
    stats: Stats,
    code: Code,
    is_complete: bool,
}

/// Whether a kernel of this name is another program's.
pub(super) fn is_others(kernel: &str) -> bool {
    ["llama.cpp", "wavo"].iter().any(|name| kernel.starts_with(name))
}

/// A plan and the statistics of the kernels that it compiled so far.
#[derive(Debug)]
struct Plan {
    title: String,
    is_refused: bool,
    /// Whether another program has it compiled.
    is_others: bool,
    /// Of its forward kernel.
    known: Option<Known>,
    kernels: Vec<(Stats, Code)>,
}

impl Listing {
    pub(crate) fn new(driver: GpuDriver) -> Self {
        let stats = Stats::default();
        let code = Code::new(driver);
        Self { driver, compiled: Vec::new(), plan: None, stats, code, is_complete: false }
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// Where a plan compiled other kernels than its line names.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        if let Some(title) = line.strip_prefix(PLAN) {
            self.end_plan()?;
            self.plan = Some(Plan {
                title: title.to_owned(),
                is_refused: false,
                is_others: is_others(title),
                known: None,
                kernels: Vec::new(),
            });
        } else if line.starts_with(REFUSED) {
            self.plan.as_mut().context("a refusal without a plan")?.is_refused = true;
        } else if let Some(numbers) = line.strip_prefix(PRODUCTS) {
            let numbers: Vec<u64> = numbers.split(", ").filter_map(|n| n.parse().ok()).collect();
            let [products, first, second] = numbers[..] else { bail!("`{line}` has 3 numbers") };
            let plan = self.plan.as_mut().context("products without a plan")?;
            plan.known = Some(Known { products, inner_turns: [first, second] });
        } else if line == END {
            self.end_plan()?;
            self.is_complete = true;
        } else if let Some(plan) = &mut self.plan {
            self.code.line(line);
            if driver_line(self.driver, &mut self.stats, line) {
                let code = std::mem::replace(&mut self.code, Code::new(self.driver));
                plan.kernels.push((std::mem::take(&mut self.stats), code));
            }
        }
        Ok(())
    }

    /// The kernels.
    ///
    /// # Errors
    /// Where the output broke off.
    pub(crate) fn finish(self) -> Result<Vec<Compiled>> {
        ensure!(self.is_complete, "the kernels' compilation broke off");
        Ok(self.compiled)
    }

    fn end_plan(&mut self) -> Result<()> {
        let Some(plan) = self.plan.take() else { return Ok(()) };
        let Plan { title, is_refused, is_others, known, mut kernels } = plan;
        // Another program has no kernel of its own for a problem where an earlier one's serves, or where it turns to the CPU.
        if is_refused || (is_others && kernels.is_empty()) {
            return Ok(());
        }
        let fields: Vec<&str> = title.split("; ").collect();
        let [names, head_dim, dtype] = fields[..] else { bail!("`{title}` is no plan's line") };
        let names: Vec<&str> = names.split(" + ").collect();
        let head_dim = head_dim.parse().with_context(|| format!("head_dim of `{title}`"))?;
        // Another program's kernels: that which is asked for is the longest, beside a short one that joins splits.
        if is_others {
            kernels.sort_by_key(|(stats, _)| std::cmp::Reverse(stats.instructions));
            kernels.truncate(1);
        }
        ensure!(
            kernels.len() == names.len(),
            "`{title}` names {} kernels, {} were compiled",
            names.len(),
            kernels.len()
        );
        self.compiled.extend(names.into_iter().zip(kernels).map(|(name, (stats, code))| {
            Compiled {
                kernel: name.to_owned(),
                head_dim,
                dtype: dtype.to_owned(),
                stats,
                // Merges have no step of products; how often loops of `tiled` run in the backward pass isn't known.
                step: (is_others || name.starts_with("forward") || name.ends_with(" matrix"))
                    .then(|| code.step(known))
                    .flatten(),
            }
        }));
        Ok(())
    }
}

/// Takes from a driver's line what it tells; whether it is the last of a kernel.
fn driver_line(driver: GpuDriver, stats: &mut Stats, line: &str) -> bool {
    let after = |name: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
    match driver {
        GpuDriver::Nvk => {
            if let Some(count) = after("Instruction count:") {
                stats.instructions = count;
            } else if let Some(warps) = after("Max warps/SM:") {
                stats.occupancy = warps;
            } else if let Some(spills) = after("Spills to mem:") {
                stats.spills += spills;
            } else if let Some(fills) = after("Fills from mem:") {
                stats.spills += fills;
            } else if let Some(registers) = after("Num GPRs:") {
                stats.registers = registers;
            } else if let Some(bytes) = after("SLM size:") {
                stats.memory_bytes = bytes;
                return true;
            }
        }
        GpuDriver::Radv => {
            if let Some(registers) = after("VGPRs:") {
                stats.registers = registers;
            } else if let Some(spills) = after("Spilled SGPRs:") {
                stats.spills += spills;
            } else if let Some(spills) = after("Spilled VGPRs:") {
                stats.spills += spills;
            } else if let Some(bytes) = after("LDS size:") {
                stats.workgroup_bytes = Some(bytes);
            } else if let Some(bytes) = after("Scratch size:") {
                stats.memory_bytes = bytes;
            } else if let Some(subgroups) = after("Subgroups per SIMD:") {
                stats.occupancy = subgroups;
            } else if let Some(count) = after("Instructions:") {
                stats.instructions = count;
            }
            return line == "********************";
        }
        GpuDriver::Honeykrisp => {
            // `CS shader: 193 instrs, 131 alu, …, 39 gprs, 140 uniforms, 0 scratch, …, 0:0 spills:fills, …`
            // Behind whatever it was printing elsewhere.
            let Some((_, counts)) = line.split_once("CS shader: ") else { return false };
            for (count, what) in counts.split(", ").filter_map(|part| part.split_once(' ')) {
                let number = count.parse().unwrap_or(0);
                match what {
                    "instrs" => stats.instructions = number,
                    // Of 16 bits.
                    "gprs" => stats.registers = u64::div_ceil(number, 2),
                    "scratch" => stats.memory_bytes = number,
                    "threads" => stats.occupancy = number,
                    "spills:fills" => {
                        stats.spills = count.split(':').filter_map(|n| n.parse::<u64>().ok()).sum();
                    }
                    _ => {}
                }
            }
            return true;
        }
        GpuDriver::Turnip => {
            let Some(text) = line.strip_prefix("MESA: info: ") else { return false };
            // Private memory is read and written by these alone.
            let is_private = |word: &str| {
                let name = word.rsplit(')').next().unwrap_or(word);
                name.starts_with("stp.") || name.starts_with("ldp.")
            };
            if text.split_whitespace().any(is_private) {
                stats.spills += 1;
            }
            let Some(text) = text.strip_prefix("; ") else { return false };
            let counts = text.strip_prefix("CL prog ").and_then(|text| text.split_once(": "));
            for part in counts.map_or(text, |(_, counts)| counts).split(", ") {
                let Some((count, what)) = part.split_once(' ') else { continue };
                let number = count.parse().unwrap_or(0);
                match what {
                    "instr" => stats.instructions = number,
                    // Of four components.
                    "full" => stats.registers = 4 * number,
                    "max_waves" => stats.occupancy = number,
                    "preamble-instr" => return true,
                    _ => {}
                }
            }
        }
        GpuDriver::Anv => {
            // `SIMD16 shader: 4807 instructions. 10 loops. 815690 cycles. 78:148 spills:fills, …. GRF registers: 128. …`
            if let Some((lanes, counts)) =
                line.strip_prefix("SIMD").and_then(|line| line.split_once(" shader: "))
            {
                stats.occupancy = lanes.parse().unwrap_or(0);
                for part in counts.split([',', '.']).map(str::trim) {
                    if let Some(count) = part.strip_suffix(" instructions") {
                        stats.instructions = count.parse().unwrap_or(0);
                    } else if let Some(counts) = part.strip_suffix(" spills:fills") {
                        stats.spills =
                            counts.split(':').filter_map(|n| n.parse::<u64>().ok()).sum();
                    } else if let Some(count) = part.strip_prefix("GRF registers: ") {
                        // Of 32 bytes, for the whole subgroup.
                        let words = 8 * count.parse::<u64>().unwrap_or(0);
                        stats.registers = words / stats.occupancy.max(1);
                    }
                }
            }
            // Of the last block, which none follows.
            return line.trim_start().starts_with("END B") && !line.contains("->");
        }
    }
    false
}

/// How many kernels the compiler tells of, whatever else stands there.
pub(crate) fn kernels(driver: GpuDriver, output: &str) -> usize {
    let mut stats = Stats::default();
    output.lines().filter(|line| driver_line(driver, &mut stats, line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: GpuDriver, output: &str) -> Result<Vec<Compiled>> {
        let mut listing = Listing::new(driver);
        output.lines().try_for_each(|line| listing.line(line))?;
        listing.finish()
    }

    /// What Mesa 26.1.6's compilers print of a kernel, shortened.
    const PRINTED: [(GpuDriver, &str, Stats); 5] = [
        (
            GpuDriver::Nvk,
            "Instruction count: 3041\nStatic cycle count: 143928\nMax warps/SM: 20\nSpills to mem: 2\n\
             Spills to reg: 5\nFills from mem: 3\nFills from reg: 4\nNum GPRs: 96\nSLM size: 16\nEncoded shader:\n",
            Stats {
                instructions: 3041,
                registers: 96,
                memory_bytes: 16,
                spills: 5,
                occupancy: 20,
                workgroup_bytes: None,
            },
        ),
        (
            GpuDriver::Radv,
            "*** SHADER STATS ***\nSGPRs: 128\nVGPRs: 192\nSpilled SGPRs: 1\nSpilled VGPRs: 3\nLDS size: 14848\n\
             Scratch size: 16\nSubgroups per SIMD: 8\nInstructions: 2788\nPre-Sched VGPRs: 84\n********************\n",
            Stats {
                instructions: 2788,
                registers: 192,
                memory_bytes: 16,
                spills: 4,
                occupancy: 8,
                workgroup_bytes: Some(14848),
            },
        ),
        (
            GpuDriver::Honeykrisp,
            "CS shader: 5495 instrs, 4435 alu, 4435 fscib, 926 ic, 39426 code size, 255 gprs, 512 uniforms, 40 scratch, \
             384 threads, 11 loops, 11:12 spills:fills, 212 preamble inst\n",
            Stats {
                instructions: 5495,
                registers: 128,
                memory_bytes: 40,
                spills: 23,
                occupancy: 384,
                workgroup_bytes: None,
            },
        ),
        (
            GpuDriver::Turnip,
            "MESA: info: (sy)stp.f32 p[r0.x+16], r4.x, 1\n\
             MESA: info: ; CL prog 18/1: 2802 instr, 409 nops, 2393 non-nops, 111 mov, 69 cov, 4838 dwords\n\
             MESA: info: ; CL prog 18/1: 0 last-baryf, 0 last-helper, 0 half, 48 full, 40 constlen\n\
             MESA: info: ; CL prog 18/1: 4 max_waves, 0 double_threadsize\n\
             MESA: info: ; 172 preamble-instr, 0 early-preamble\n",
            Stats {
                instructions: 2802,
                registers: 192,
                memory_bytes: 0,
                spills: 1,
                occupancy: 4,
                workgroup_bytes: None,
            },
        ),
        (
            GpuDriver::Anv,
            "Native code for unnamed compute shader (null)\nSIMD16 shader: 4807 instructions. 10 loops. 815690 cycles. \
             78:148 spills:fills, 229 sends, scheduled with mode none. GRF registers: 128. Compacted 88848 to 71376 bytes (20%)\n   \
             START B0 (42 cycles)\n   END B0 ->B1 ->B2\n   END B2\n\n",
            Stats {
                instructions: 4807,
                registers: 64,
                memory_bytes: 0,
                spills: 226,
                occupancy: 16,
                workgroup_bytes: None,
            },
        ),
    ];

    #[test]
    fn every_drivers_words_are_read() {
        for (driver, printed, stats) in PRINTED {
            let output = format!("noise\n### plan a + b; 64; f16\n{printed}{printed}### end\n");
            let kernel = |name: &str| Compiled {
                kernel: name.to_owned(),
                head_dim: 64,
                dtype: "f16".to_owned(),
                stats,
                step: None,
            };
            assert_eq!(read(driver, &output).unwrap(), [kernel("a"), kernel("b")], "{driver:?}");
            assert!(stats.uses_memory());
        }
    }

    #[test]
    fn what_the_gpu_cant_do_is_left_out() {
        let output = "### plan forward matrix; 64; f32\n### refused it serves f16\n### end\n";
        assert_eq!(read(GpuDriver::Nvk, output).unwrap(), []);
    }

    #[test]
    fn what_is_missing_is_named() {
        let [(driver, printed, _), ..] = PRINTED;
        let fewer = format!("### plan a + b; 64; f16\n{printed}### end\n");
        assert!(read(driver, &fewer).unwrap_err().to_string().contains("1 were compiled"));
        let broken = format!("### plan a; 64; f16\n{printed}");
        assert!(read(driver, &broken).unwrap_err().to_string().contains("broke off"));
    }
}
