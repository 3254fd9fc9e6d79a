//! Compiles the kernels that `cargo xtask isa` reports on.
//!
//! It runs on a driver that prints its compiler's output to standard error, for a GPU that isn't there, and says there before
//! each plan what it is. With `--keep` it tells on standard output what making all pipelines took.

mod wavo;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use wgpu_attention::cache::{AppendPlan, CacheShape, NewTokens, Pairing, Rotary};
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions};
use wgpu_attention::mask::BlockIndexOptions;
use wgpu_attention::plan::{BackwardOptions, BlockIndexPlan, InspectPlan, PlanOptions};
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    AttentionPlan, BackwardPlan, DeviceOptions, Dtype, Error, Kernels, Mask, Problem, Session,
    Shape,
};

/// A line of the report.
struct Line {
    /// The kernels that the plan compiles, in that order.
    kernels: &'static [&'static str],
    /// Whether they use subgroups, so that the driver isn't free to choose their size.
    subgroups: bool,
    /// The problem's sizes but for the rows' length.
    shape: fn(usize) -> Shape,
    /// The lengths of rows that it is compiled for.
    head_dims: &'static [usize],
    /// The types of its keys and values; the other tensors' too, but for rows of 8 bits, which caches alone have.
    dtypes: &'static [Dtype],
    plan: fn(&Kernels, &Problem) -> wgpu_attention::Result<()>,
}

/// Everything that is reported on.
const LINES: &[Line] = &[
    Line {
        kernels: &["forward tiled"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: &[Dtype::F32, Dtype::F16, Dtype::I4],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Tiled),
    },
    Line {
        kernels: &["forward tiled, up to 32 queries"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 32, head_dim).seq_len_kv(1024),
        dtypes: DTYPES,
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Tiled),
    },
    Line {
        kernels: &["forward matrix"],
        subgroups: true,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: DTYPES,
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Matrix),
    },
    Line {
        kernels: &["backward terms", "backward dq tiled", "backward dkdv tiled"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: DTYPES,
        plan: |kernels, problem| backward(kernels, problem, BackwardKernel::Tiled),
    },
    Line {
        kernels: &["backward terms, matrix", "backward dq matrix", "backward dkdv matrix"],
        subgroups: true,
        head_dims: &[64],
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| backward(kernels, problem, BackwardKernel::Matrix),
    },
    // Longer rows have a kernel each for dk and dv.
    Line {
        kernels: &[
            "backward terms, matrix",
            "backward dq matrix",
            "backward dk matrix",
            "backward dv matrix",
        ],
        subgroups: true,
        head_dims: &[128],
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| backward(kernels, problem, BackwardKernel::Matrix),
    },
    Line {
        kernels: &["merge", "forward decode"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 32, 1, head_dim).num_kv_heads(8).seq_len_kv(4096),
        dtypes: &[Dtype::F32, Dtype::F16, Dtype::I8, Dtype::I4],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Decode),
    },
    Line {
        kernels: &["merge", "forward decode, 8 rows"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 32, 1, head_dim).num_kv_heads(4).seq_len_kv(4096),
        dtypes: &[Dtype::F32, Dtype::F16, Dtype::I8, Dtype::I4],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Decode),
    },
    Line {
        kernels: &["forward tiled, dropout"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: DTYPES,
        plan: |kernels, problem| forward(kernels, &dropping(problem), ForwardKernel::Tiled),
    },
    Line {
        kernels: &["forward matrix, dropout"],
        subgroups: true,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| forward(kernels, &dropping(problem), ForwardKernel::Matrix),
    },
    Line {
        kernels: &[
            "backward terms, dropout",
            "backward dq tiled, dropout",
            "backward dkdv tiled, dropout",
        ],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: DTYPES,
        plan: |kernels, problem| backward(kernels, &dropping(problem), BackwardKernel::Tiled),
    },
    Line {
        kernels: &["merge, dropout", "forward decode, dropout"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 32, 1, head_dim).num_kv_heads(8).seq_len_kv(4096),
        dtypes: DTYPES,
        plan: |kernels, problem| forward(kernels, &dropping(problem), ForwardKernel::Decode),
    },
    Line {
        kernels: &["sequences check", "append"],
        subgroups: false,
        shape: |head_dim| Shape::new(1, 8, 16, head_dim).seq_len_kv(1024),
        head_dims: HEAD_DIMS,
        dtypes: &[Dtype::F16, Dtype::I8, Dtype::I4],
        plan: append,
    },
    Line {
        kernels: &["forward tiled"],
        subgroups: false,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        head_dims: &[512],
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Tiled),
    },
    Line {
        kernels: &["backward terms", "backward dq tiled", "backward dkdv tiled"],
        subgroups: false,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        head_dims: &[512],
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| backward(kernels, problem, BackwardKernel::Tiled),
    },
    Line {
        kernels: &["merge", "forward decode"],
        subgroups: false,
        shape: |head_dim| Shape::new(1, 32, 1, head_dim).num_kv_heads(8).seq_len_kv(4096),
        head_dims: &[512],
        dtypes: &[Dtype::F16],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Decode),
    },
    // One latent head, whose first 512 components are the values.
    Line {
        kernels: &["merge", "forward decode, MLA"],
        subgroups: false,
        shape: |head_dim| {
            Shape::new(1, 128, 1, head_dim).num_kv_heads(1).seq_len_kv(4096).head_dim_v(512)
        },
        head_dims: &[576],
        dtypes: &[Dtype::F32, Dtype::F16],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Decode),
    },
    Line {
        kernels: &["pool blocks, queries", "pool blocks, keys", "pick blocks"],
        subgroups: false,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        head_dims: HEAD_DIMS,
        dtypes: DTYPES,
        plan: |kernels, problem| {
            let options = BlockIndexOptions::default().causal(true).keep_own(true);
            BlockIndexPlan::new(kernels, problem, &options).map(|_| ())
        },
    },
    Line {
        kernels: &["inspect scores", "inspect weights"],
        subgroups: false,
        head_dims: HEAD_DIMS,
        shape: |head_dim| Shape::new(1, 8, 1024, head_dim),
        dtypes: DTYPES,
        plan: |kernels, problem| InspectPlan::new(kernels, problem).map(|_| ()),
    },
];

/// The lengths of rows that most kernels are compiled for.
const HEAD_DIMS: &[usize] = &[64, 128, 256];

/// The same with dropout on the weights.
fn dropping(problem: &Problem) -> Problem {
    problem.clone().dropout(0.1)
}

/// The types that tensors are stored in.
const DTYPES: &[Dtype] = &[Dtype::F32, Dtype::F16];

fn forward(
    kernels: &Kernels,
    problem: &Problem,
    kernel: ForwardKernel,
) -> wgpu_attention::Result<()> {
    let options = PlanOptions::default().kernel(kernel);
    AttentionPlan::new(kernels, problem, &options)?;
    if let Some([products, qk_turns, pv_turns]) =
        step(&kernels.wgsl(problem, &options)?, problem.shape())
    {
        eprintln!("### products {products}, {qk_turns}, {pv_turns}");
    }
    Ok(())
}

/// Of one invocation in one step over the keys, by the constants of a kernel's text: the multiply-adds, both products together,
/// and the turns of the innermost loop of either product. Of kernels of matrices, the code itself tells.
fn step(wgsl: &str, shape: &Shape) -> Option<[usize; 3]> {
    let constant = |name: &str| -> Option<usize> {
        let (_, value) = wgsl.split_once(&format!("const {name}: u32 = "))?;
        value.split_once("u;")?.0.parse().ok()
    };
    let keys = constant("BLOCK_KV")?;
    let (rows, invocations, turns) = match (constant("ROWS"), constant("STAGED_ROWS")) {
        (Some(rows), _) => (rows, constant("INVOCATIONS")?, [1, 1]),
        // Four rows, as shaders/tile/rows.wgsl says.
        (None, Some(staged)) => (4, constant("THREADS_PER_ROW")?, [constant("CHUNK")? / 4, staged]),
        (None, None) => return None,
    };
    let products = rows * keys * (shape.head_dim + shape.head_dim_v) / invocations;
    Some([products, turns[0], turns[1]])
}

/// With all that a new key can go through on its way.
fn append(kernels: &Kernels, problem: &Problem) -> wgpu_attention::Result<()> {
    let shape = problem.shape();
    let cache = CacheShape::new(shape.batch, shape.num_kv_heads, shape.seq_len_kv, shape.head_dim)
        .dtype(problem.get_dtypes().k);
    let tokens = NewTokens::new(shape.seq_len_q)
        .rotary(Rotary::new(shape.head_dim, 10_000.0, Pairing::Half))
        .hadamard(true)
        .query_heads(shape.num_heads);
    AppendPlan::new(kernels, &cache, &tokens).map(|_| ())
}

fn backward(
    kernels: &Kernels,
    problem: &Problem,
    kernel: BackwardKernel,
) -> wgpu_attention::Result<()> {
    let options = BackwardOptions::default().kernel(kernel);
    BackwardPlan::new(kernels, problem, &options).map(|_| ())
}

/// Compile kernels on the first device.
#[derive(Parser)]
struct Options {
    /// Only kernels with this in their name.
    filter: Option<String>,

    /// Only for rows of this length.
    #[arg(long)]
    head_dim: Option<usize>,

    /// Only kernels that don't use subgroups.
    #[arg(long)]
    without_subgroups: bool,

    /// Instead, wavo's kernel of matrices, whose package is unpacked here.
    #[arg(long, value_name = "FOLDER")]
    wavo: Option<PathBuf>,

    /// Keep pipelines in this folder, and take from it what is there.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = DeviceOptions::default().matrices(true);
    let adapter = pollster::block_on(wgpu_attention::device::adapters()).into_iter().next();
    let adapter = adapter.context("there is no device")?;
    let matrices = adapter.cooperative_matrix_properties();
    if let Some(folder) = &options.wavo {
        return wavo::compile(&Session::open_blocking(&device)?, folder);
    }
    let filter = options.filter.unwrap_or_default();
    let wanted = |line: &&Line| {
        line.kernels.iter().any(|name| name.contains(&filter))
            && !(options.without_subgroups && line.subgroups)
    };
    // All from the same kernels where they are kept; else from ones of its own, so that every plan compiles what it needs. On
    // Adreno on a device of its own, too, since Turnip has a cache per device that no variable switches off; elsewhere on one for
    // all, since RADV's GPU that isn't there has memory for sixty.
    let has_device_cache = adapter.get_info().name.contains("Adreno");
    let shared = (!has_device_cache).then(|| Session::open_blocking(&device)).transpose()?;
    let new = |cache_dir: Option<&Path>| -> Result<Kernels> {
        let session = match &shared {
            Some(session) => session.clone(),
            None => Session::open_blocking(&device)?,
        };
        let cache_dir = cache_dir.map(Path::to_owned);
        let options = KernelOptions::default().cache_dir(cache_dir).matrices(matrices.clone());
        Ok(Kernels::new(session.device(), &options))
    };
    let kept = options.keep.as_deref().map(|folder| new(Some(folder))).transpose()?;
    let begun = Instant::now();
    for line in LINES.iter().filter(wanted) {
        for &dtype in line.dtypes {
            let is_wanted = |n: &usize| options.head_dim.is_none_or(|one| one == *n);
            for head_dim in line.head_dims.iter().copied().filter(is_wanted) {
                let dtypes = match dtype {
                    Dtype::I8 | Dtype::I4 => Dtypes::default().k(dtype).v(dtype),
                    _ => dtype.into(),
                };
                let problem =
                    Problem::new((line.shape)(head_dim)).mask(Mask::causal()).dtypes(dtypes);
                eprintln!("### plan {}; {head_dim}; {dtype}", line.kernels.join(" + "));
                let kernels = match &kept {
                    Some(kernels) => kernels.clone(),
                    None => new(None)?,
                };
                match (line.plan)(&kernels, &problem) {
                    Ok(()) => {}
                    Err(Error::KernelRefused { reason, .. }) => eprintln!("### refused {reason}"),
                    Err(error) => {
                        bail!("{:?}, head_dim {head_dim}, {dtype}: {error}", line.kernels)
                    }
                }
            }
        }
    }
    if let Some(kernels) = kept {
        let seconds = begun.elapsed().as_secs_f64();
        println!("{} {seconds} {}", kernels.compiled(), kernels.cache_status());
    }
    eprintln!("### end");
    Ok(())
}
