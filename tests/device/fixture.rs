//! The device, random tensors, and the comparison of a whole problem.

use std::sync::LazyLock;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use wgpu_attention::{
    Attention, DeviceChoice, ForwardKernel, Inputs, KernelOptions, Kernels, Mask, MaskData, Output,
    Outputs, Problem, Score, ScoreTensor, Shape, reference,
};

use crate::tolerance::{assert_close, naive};

/// The best device, opened once.
pub(crate) static ATTENTION: LazyLock<Attention> = LazyLock::new(|| {
    Attention::open_blocking(&DeviceChoice::Best)
        .expect("these tests need a GPU, or a software one")
});

/// A device of its own with other limits than the adapter's.
pub(crate) fn limited(change: impl FnOnce(&mut wgpu::Limits)) -> Attention {
    limited_with(KernelOptions::default(), change)
}

/// The same, with options.
pub(crate) fn limited_with(
    options: KernelOptions,
    change: impl FnOnce(&mut wgpu::Limits),
) -> Attention {
    let adapter = &pollster::block_on(wgpu_attention::adapters())[0];
    let mut limits = adapter.limits();
    change(&mut limits);
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        required_limits: limits,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Attention::from_kernels(&Kernels::with_options(&device, options), &queue)
}

/// The forward kernels that serve `problem` here, but for decode kernels: their sums run in another order than the naive
/// computation's, so they need sizes at which its largest error isn't luck (see the tests of decode).
pub(crate) fn kernels(problem: &Problem) -> Vec<ForwardKernel> {
    serving(problem, false)
}

/// The kernels that serve `problem` here, decode kernels or the others.
pub(crate) fn serving(problem: &Problem, decode: bool) -> Vec<ForwardKernel> {
    let kernels = ForwardKernel::ALL.into_iter().filter(|kernel| kernel.is_decode() == decode);
    let serving: Vec<_> =
        kernels.filter(|&kernel| ATTENTION.kernels().wgsl(problem, Some(kernel)).is_ok()).collect();
    assert!(!serving.is_empty(), "some kernel serves every problem");
    serving
}

/// Random operands of a shape, with data for every mask.
pub(crate) struct Operands {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) mask: MaskData,
}

impl Operands {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut tensor = |len: usize| (0..len).map(|_| rng.random_range(-8.0..8.0)).collect();
        Self {
            q: tensor(shape.q_len().unwrap()),
            k: tensor(shape.k_len().unwrap()),
            v: tensor(shape.v_len().unwrap()),
            mask: mask_data(shape, seed),
        }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs { q: &self.q, k: &self.k, v: &self.v, mask: &self.mask }
    }
}

/// Data for every mask: lengths from 0 to all, documents in runs, padding and dense bits at random.
pub(crate) fn mask_data(shape: &Shape, seed: u64) -> MaskData {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x6d61_736b);
    let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
    let length = |rng: &mut SmallRng| rng.random_range(0..=seq_len_kv) as i32;
    let key_lengths: Vec<i32> = (0..batch).map(|_| length(&mut rng)).collect();
    let prefix_lengths: Vec<i32> = (0..batch).map(|_| length(&mut rng) / 2).collect();
    let keys = batch * seq_len_kv;
    let columns: Vec<i32> = (0..batch * num_heads * seq_len_kv)
        .flat_map(|_| {
            let start = rng.random_range(0..=seq_len_q) as i32;
            [start, rng.random_range(start..=seq_len_q as i32)]
        })
        .collect();
    let parents: Vec<i32> = (0..batch)
        .flat_map(|_| 0..seq_len_q as i32)
        .map(|own| if own == 0 { -1 } else { rng.random_range(-1..own) })
        .collect();
    MaskData::new()
        .key_lengths(key_lengths)
        .prefix_lengths(prefix_lengths)
        .key_padding((0..keys).map(|_| rng.random_bool(0.8)).collect::<Vec<_>>())
        .token_ids((0..keys).map(|_| rng.random_range(-2..6)).collect::<Vec<_>>(), -2)
        .document_ids_q_kv(runs(&mut rng, batch, seq_len_q), runs(&mut rng, batch, seq_len_kv))
        .block_ids_q_kv(
            runs(&mut rng, batch, seq_len_q).into_iter().map(|id| id % 3 - 1),
            runs(&mut rng, batch, seq_len_kv).into_iter().map(|id| id % 3 - 1),
        )
        .bucket_ids(
            [batch, 1, 2, seq_len_kv],
            (0..2 * keys).map(|_| rng.random_range(0..8)).collect::<Vec<_>>(),
        )
        .column_ranges([batch, num_heads, seq_len_kv, 2], columns)
        .tree_parents(parents)
        .dense(
            [batch, num_heads, seq_len_q, seq_len_kv],
            (0..batch * num_heads * seq_len_q * seq_len_kv)
                .map(|_| rng.next_u32().is_multiple_of(3))
                .collect::<Vec<_>>(),
        )
}

/// Every modifier of scores alone, then all together.
pub(crate) const SCORES: [Score; 5] = [
    Score { softcap: Some(20.0), bias: false, alibi: false, sinks: false },
    Score { softcap: None, bias: true, alibi: false, sinks: false },
    Score { softcap: None, bias: false, alibi: true, sinks: false },
    Score { softcap: None, bias: false, alibi: false, sinks: true },
    Score { softcap: Some(50.0), bias: true, alibi: true, sinks: true },
];

/// Data of the score modifiers.
#[derive(Debug, Default)]
pub(crate) struct ScoreData {
    /// `[batch, num_heads, seq_len_q, seq_len_kv]`
    pub(crate) bias: Vec<f32>,
    /// `[num_heads]`
    pub(crate) slopes: Vec<f32>,
    /// `[num_heads]`
    pub(crate) sinks: Vec<f32>,
}

impl ScoreData {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x7363_6f72);
        let mut tensor = |len: usize, range: std::ops::Range<f32>| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(range.clone())).collect()
        };
        Self {
            bias: tensor(shape.scores_len().unwrap(), -4.0..4.0),
            slopes: tensor(shape.num_heads, 0.0..1.0),
            sinks: tensor(shape.num_heads, -4.0..40.0),
        }
    }

    /// The same, added to a mask's data.
    pub(crate) fn add_to(&self, shape: &Shape, data: MaskData) -> MaskData {
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
        data.bias([batch, num_heads, seq_len_q, seq_len_kv], self.bias.iter().copied())
            .alibi_slopes(self.slopes.iter().copied())
            .sinks(self.sinks.iter().copied())
    }
}

/// Ids that rise now and then, for each sequence anew.
fn runs(rng: &mut SmallRng, batch: usize, seq_len: usize) -> Vec<i32> {
    let mut ids = Vec::new();
    for _ in 0..batch {
        let mut id = 0;
        for _ in 0..seq_len {
            id += i32::from(rng.random_bool(0.06));
            ids.push(id);
        }
    }
    ids
}

/// Runs a problem with one kernel, every output.
pub(crate) fn run(problem: &Problem, operands: &Operands, kernel: ForwardKernel) -> Output {
    let outputs = Outputs { lse: true, kernel: Some(kernel), ..Outputs::default() };
    ATTENTION.run_blocking(problem, &operands.inputs(), &outputs).unwrap()
}

/// Compares o and lse of every kernel that serves, on random operands of dense tensors, with the f64 reference.
pub(crate) fn check_forward(shape: Shape, mask: &str, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &mask, &operands.inputs());
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        let what = format!("{kernel}, {mask}, {shape:?}");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

/// Compares the three tensors for looking inside with the f64 reference.
pub(crate) fn check_inspect(shape: Shape, mask: &str, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone());
    let operands = Operands::random(&shape, seed);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    let naive = naive(&problem, &mask, &operands.inputs());
    let outputs = Outputs { tensors: ScoreTensor::ALL.to_vec(), ..Outputs::default() };
    let output = ATTENTION.run_blocking(&problem, &operands.inputs(), &outputs).unwrap();
    let [scores, masked_scores, weights] = &output.tensors[..] else {
        panic!("three tensors were asked for");
    };
    let what = format!("{mask}, {shape:?}");
    assert_close(&format!("scores of {what}"), scores, &naive.scores, &truth.scores);
    assert_close(
        &format!("masked scores of {what}"),
        masked_scores,
        &naive.masked_scores,
        &truth.masked_scores,
    );
    assert_close(&format!("weights of {what}"), weights, &naive.weights, &truth.weights);
}
