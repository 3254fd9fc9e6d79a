//! A cache at random: appended to in a few steps, read back, and attended over; the truth is that of what its rows hold.

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheForm, CacheShape, NewTokens};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, Dtype, Error, Inputs, KvCache, Layout,
    Problem, Session, Shape, reference,
};

use super::check::{Outcome, assert_near, refusal, session};
use super::draw::{Modifiers, kernel_options, mask, one_in};
use crate::cache::{row_at, stored_errors, stored_row};
use crate::sequences::Places;
use crate::tolerance::error_of;

/// A cache, and what it holds.
struct Filled {
    cache: KvCache,
    tables: Vec<Vec<u32>>,
    /// How many tokens each sequence has had.
    lengths: Vec<usize>,
    /// Of each sequence, its tokens' rows so far: `[tokens][kv heads][dim]`, of keys and of values.
    rows: [Vec<Vec<Vec<f32>>>; 2],
}

fn shape(rng: &mut SmallRng) -> CacheShape {
    let capacity = match rng.random_range(0..4) {
        0 => rng.random_range(1..20),
        1 | 2 => rng.random_range(20..400),
        _ => rng.random_range(400..1_500),
    };
    let dim = *[16, 20, 32, 64, 70].choose(rng).unwrap();
    let dim_v = if one_in(rng, 3) { *[8, 33, 64].choose(rng).unwrap() } else { dim };
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8, Dtype::I4, Dtype::I4];
    let batch = rng.random_range(1..=3);
    let shape = CacheShape::new(batch, rng.random_range(1..=2), capacity, dim)
        .head_dim_v(dim_v)
        .dtype(*dtypes.choose(rng).unwrap())
        .layout(*[Layout::Bhsd, Layout::Bshd].choose(rng).unwrap());
    match rng.random_range(0..3) {
        0 => shape,
        1 => shape.ring(),
        _ => {
            let block = *[1, 3, 16, 24].choose(rng).unwrap();
            shape.paged(block, batch * capacity.div_ceil(block) + rng.random_range(0..3))
        }
    }
}

/// How many tokens each step gives each sequence, as far as there is room; a ring goes round.
fn steps(shape: &CacheShape, rng: &mut SmallRng) -> Vec<Vec<usize>> {
    let most = match shape.form {
        CacheForm::Ring => 2 * shape.capacity,
        _ => shape.capacity,
    };
    let mut left = vec![most; shape.batch];
    let mut step = |rng: &mut SmallRng| -> Vec<usize> {
        let uniform = one_in(rng, 3);
        let least = *left.iter().min().unwrap();
        let all = rng.random_range(0..=least.min(shape.capacity));
        let mut added = |left: &mut usize| {
            let most = (*left).min(shape.capacity);
            let added = if uniform { all } else { rng.random_range(0..=most) };
            *left -= added;
            added
        };
        left.iter_mut().map(&mut added).collect()
    };
    (0..rng.random_range(1..=3)).map(|_| step(rng)).collect()
}

/// Appends `steps` to a new cache.
fn fill(
    session: &Session,
    shape: &CacheShape,
    steps: &[Vec<usize>],
    mut rng: SmallRng,
) -> Result<Filled, Error> {
    let rng = &mut rng;
    let mut cache = KvCache::new(session.kernels(), shape)?;
    let mut tables = Vec::new();
    if let CacheForm::Paged { blocks, .. } = shape.form {
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        free.shuffle(rng);
        for b in 0..shape.batch {
            let table = free.split_off(free.len() - shape.blocks_per_sequence());
            cache.set_table(session.queue(), b, &table)?;
            tables.push(table);
        }
    }
    let (dims, heads) = ([shape.head_dim, shape.head_dim_v], shape.num_kv_heads);
    let mut rows = [(); 2].map(|()| vec![Vec::new(); shape.batch]);
    for added in steps {
        let most = *added.iter().max().unwrap();
        let uniform = added.iter().all(|&count| count == most);
        let q = if uniform { QuerySequences::Uniform } else { QuerySequences::LeftPadded };
        let plan = AppendPlan::new(session.kernels(), shape, &NewTokens::new(most).sequences(q))?;
        // [batch, heads, most, dim], NaN in what is padding.
        let tensors = [0, 1].map(|which| {
            let dim = dims[which];
            let mut tensor = vec![f32::NAN; shape.batch * heads * most * dim];
            for (b, &count) in added.iter().enumerate() {
                for i in 0..count {
                    let row: Vec<f32> =
                        (0..heads * dim).map(|_| rng.random_range(-2.0..2.0)).collect();
                    for h in 0..heads {
                        let (b, at) = (b * heads + h, most - count + i);
                        tensor[(b * most + at) * dim..][..dim]
                            .copy_from_slice(&row[h * dim..][..dim]);
                    }
                    rows[which][b].push(row);
                }
            }
            upload(session, bytemuck::cast_slice(&tensor))
        });
        let counts: Vec<i32> = added.iter().map(|&count| count as i32).collect();
        let counts = upload(session, bytemuck::cast_slice(&counts));
        let buffers = AppendBuffers::new(tensors[0].slice(..), tensors[1].slice(..))
            .sequences(AuxBuffers::new().with(AuxTensor::QLengths, counts.slice(..)))
            .lengths(added);
        submit(session, |encoder| plan.encode(encoder, &mut cache, &buffers))?;
    }
    let lengths = (0..shape.batch).map(|b| steps.iter().map(|added| added[b]).sum()).collect();
    Ok(Filled { cache, tables, lengths, rows })
}

fn upload(session: &Session, contents: &[u8]) -> wgpu::Buffer {
    use wgpu::util::DeviceExt as _;
    session.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: if contents.is_empty() { &[0; 4] } else { contents },
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

fn submit(
    session: &Session,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut encoder = session.device().create_command_encoder(&Default::default());
    record(&mut encoder)?;
    session.queue().submit([encoder.finish()]);
    Ok(())
}

impl Filled {
    /// k and v in f32, `[batch, heads, capacity, dim]` from each sequence's oldest row on, read from the device; what was appended is
    /// as near as its type keeps it.
    fn read(&self, session: &Session, shape: &CacheShape, what: &str) -> [Vec<f32>; 2] {
        let dims = [shape.head_dim, shape.head_dim_v];
        [0, 1].map(|which| {
            let slice = [self.cache.k(), self.cache.v()][which];
            let count = slice.buffer().size() as usize / 4;
            let words = session.read_blocking(slice.buffer(), count).unwrap();
            let words: Vec<u32> = words.into_iter().map(f32::to_bits).collect();
            let (dim, heads) = (dims[which], shape.num_kv_heads);
            let mut tensor = vec![f32::NAN; shape.batch * heads * shape.capacity * dim];
            for (b, &length) in self.lengths.iter().enumerate() {
                let first = length - length.min(shape.capacity);
                for (h, position) in
                    (0..heads).flat_map(|h| (first..length).map(move |position| (h, position)))
                {
                    let at = row_at(shape, dim, &self.tables, b, h, position);
                    let stored = stored_row(&words, at, dim, shape.dtype);
                    let own = &self.rows[which][b][position][h * dim..][..dim];
                    let errors = stored_errors(own, shape.dtype);
                    for ((&x, &y), &error) in stored.iter().zip(own).zip(&errors) {
                        let right = (x - shape.dtype.round(y)).abs() <= error;
                        assert!(right, "{what}: {x} was stored for {y} at ({b}, {h}, {position})");
                    }
                    let row = (b * heads + h) * shape.capacity + position - first;
                    tensor[row * dim..][..dim].copy_from_slice(&stored);
                }
            }
            tensor
        })
    }
}

/// Fills the cache of a seed and attends over it by one of the kernels that serve.
pub(crate) fn check_cache(seed: u64) -> Outcome {
    let rng = &mut SmallRng::seed_from_u64(seed ^ 0x0063_6163_6865);
    let cached = shape(rng);
    let steps = steps(&cached, rng);
    let heads = cached.num_kv_heads * rng.random_range(1..=4);
    let queries = if one_in(rng, 3) { rng.random_range(17..60) } else { rng.random_range(1..=16) };
    let q_lengths: Vec<usize> = (0..cached.batch).map(|_| rng.random_range(0..=queries)).collect();
    let (q, q_lengths) = match rng.random_range(0..3) {
        0 => (QuerySequences::LeftPadded, q_lengths),
        1 => (QuerySequences::Packed { total: q_lengths.iter().sum() }, q_lengths),
        _ => (QuerySequences::Uniform, vec![queries; cached.batch]),
    };
    let over_cache = cached.problem(heads, queries, q);
    let kept = |b: usize| -> usize {
        let length: usize = steps.iter().map(|added| added[b]).sum();
        length.min(cached.capacity)
    };
    let lengths: Vec<_> = (0..cached.batch).map(|b| (q_lengths[b], kept(b))).collect();
    // The same over rows of f32, each sequence's first ones.
    let kv = KeySequences::Cached { left_padded: false };
    let shape = over_cache.shape().sequences(Sequences { q, kv });
    let places = Places::random(&shape, &lengths, rng);
    let (mask, data) = mask(&shape, rng);
    let modifiers = Modifiers::random(&shape, Dtype::F32, data, rng);
    let dropout = if one_in(rng, 4) { 0.3 } else { 0.0 };
    let data = modifiers.data.clone().with_numbered(1, places.data.clone());
    let with = |problem: Problem| {
        problem.mask(mask.clone()).score(modifiers.score).dropout(dropout).aux_shape(data.shape())
    };
    let (over_cache, plain) = (with(over_cache), with(Problem::new(shape)));
    let tokens = SmallRng::seed_from_u64(rng.random());
    let mut queries = vec![f32::NAN; shape.q_len().unwrap()];
    for &[batch, row] in places.q.iter().flatten() {
        for h in 0..heads {
            let at = (batch * heads + h) * shape.q_rows()[1] + row;
            queries[at * shape.head_dim..][..shape.head_dim]
                .fill_with(|| rng.random_range(-2.0..2.0));
        }
    }
    let mut kernels = ForwardKernel::ALL;
    kernels.shuffle(rng);
    let options = kernel_options(rng);
    let bytes = cached.bytes().unwrap() as u64 / 2;
    let mut binding =
        one_in(rng, 2).then(|| (bytes / rng.random_range(1..9)).max(64).next_multiple_of(4));
    let what = format!("seed {seed}, {cached:?}, {plain:?}, {steps:?}, {q:?}");
    let plan_options = PlanOptions::default()
        .batch_invariant(one_in(rng, 4))
        .num_splits(one_in(rng, 4).then(|| *[1, 3, 128].choose(rng).unwrap()));

    let mut outcome = Outcome::default();
    loop {
        let session = session(&options, binding);
        let session = session.as_ref().unwrap_or(&crate::fixture::ATTENTION);
        let filled = fill(session, &cached, &steps, tokens.clone());
        if let Some(filled) = refusal(filled, &what, &mut outcome) {
            let [k, v] = filled.read(session, &cached, &what);
            let inputs = Inputs::new(&queries, &k, &v).aux(&data);
            let truth = reference::attention(&plain, &inputs).unwrap();
            for kernel in kernels {
                let mut options = plan_options.kernel(kernel);
                if !kernel.is_decode() {
                    options.num_splits = None;
                }
                let found = attend(session, &filled.cache, &over_cache, &plain, &inputs, options);
                if let Some([o, lse]) = refusal(found, &what, &mut outcome) {
                    let what = format!("{kernel}, {binding:?} bytes, {what}");
                    assert_near(&format!("o of {what}"), &o, &truth.o, error_of(Dtype::F32));
                    assert_near(&format!("lse of {what}"), &lse, &truth.lse, error_of(Dtype::F32));
                    outcome.kernels.push(kernel.to_string());
                    return outcome;
                }
            }
        }
        match &mut binding {
            Some(bytes) if *bytes < 64 << 20 => *bytes = outcome.larger(*bytes),
            _ => panic!("{what}: refused, {:?}", outcome.refused),
        }
    }
}

/// o and lse of attention over a cache, whose mask's data is that of the same problem over rows of f32.
fn attend(
    session: &Session,
    cache: &KvCache,
    problem: &Problem,
    plain: &Problem,
    inputs: &Inputs<'_>,
    options: PlanOptions,
) -> Result<[Vec<f32>; 2], Error> {
    let plan = AttentionPlan::new(session.kernels(), problem, &options)?;
    let uploaded = session.upload(plain, inputs)?;
    let AttentionBuffers { q, aux, .. } = uploaded.buffers();
    let shape: &Shape = problem.shape();
    let [o_len, lse_len] = [shape.o_len()?, shape.lse_len()?];
    let o = upload(session, bytemuck::cast_slice(&vec![0.0f32; o_len]));
    let lse = upload(session, bytemuck::cast_slice(&vec![f32::NEG_INFINITY; lse_len]));
    let mut buffers = cache.attention_buffers(problem, q, aux, o.slice(..))?;
    buffers.lse = Some(lse.slice(..));
    submit(session, |encoder| plan.encode(encoder, &buffers))?;
    Ok([session.read_blocking(&o, o_len)?, session.read_blocking(&lse, lse_len)?])
}
