//! Caches: what is appended, in every form and type, and attention over them, step by step, against one parallel pass.

mod append;
mod latent;
mod long_loop;
mod refusals;
mod steps;

use std::ops::Range;

use half::{bf16, f16};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use wgpu::util::DeviceExt as _;
use wgpu::{BufferSlice, BufferUsages};
use wgpu_attention::cache::{CacheForm, CacheShape};
use wgpu_attention::{Dtype, Error, KvCache, Layout};

use crate::fixture::ATTENTION;
use crate::tolerance::{I4_ERROR, I8_ERROR};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const STEPS: usize = 45;

/// A buffer with everything that any use asks for.
fn upload(contents: &[u8]) -> wgpu::Buffer {
    let contents = if contents.is_empty() { &[0; 4] } else { contents };
    ATTENTION.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
    })
}

fn upload_f32(values: &[f32]) -> wgpu::Buffer {
    upload(bytemuck::cast_slice(values))
}

fn upload_i32(values: &[i32]) -> wgpu::Buffer {
    upload(bytemuck::cast_slice(values))
}

fn words(slice: BufferSlice<'_>) -> Vec<u32> {
    let elements = slice.buffer().size() as usize / 4;
    let values = ATTENTION.read_blocking(slice.buffer(), elements).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn submit(record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    ATTENTION.queue().submit([encoder.finish()]);
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-8.0..8.0)).collect()
}

/// What the cache says of all that was appended.
fn fault(cache: &KvCache) -> Result<(), Error> {
    let word = upload(&[0; 4]);
    submit(|encoder| cache.encode_check(encoder, word.slice(..)).unwrap());
    cache.check(words(word.slice(..))[0])
}

/// An empty cache; of a paged one, every sequence has as many blocks as it may need, in no order.
fn cache(shape: &CacheShape) -> (KvCache, Vec<Vec<u32>>) {
    let mut cache = KvCache::new(ATTENTION.kernels(), shape).unwrap();
    let mut tables = Vec::new();
    if let CacheForm::Paged { blocks, .. } = shape.form {
        let per_sequence = shape.blocks_per_sequence();
        for b in 0..shape.batch {
            let table: Vec<u32> =
                (0..per_sequence).map(|i| ((b * per_sequence + i) * 7 % blocks) as u32).collect();
            cache.set_table(ATTENTION.queue(), b, &table).unwrap();
            tables.push(table);
        }
    }
    (cache, tables)
}

/// Tokens as a caller has them: `[batch, heads, seq_len, dim]` f32, per sequence.
struct Tokens {
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

fn tokens(shape: &CacheShape, seq_len: usize, seed: u64) -> Tokens {
    let rows = shape.batch * seq_len;
    Tokens {
        k: random(seed, rows * KV_HEADS * shape.head_dim),
        v: random(seed + 1, rows * KV_HEADS * shape.head_dim_v),
        q: random(seed + 2, rows * HEADS * shape.head_dim),
    }
}

/// The tokens `from..to` of `[batch, heads, seq_len, dim]`.
fn cut(values: &[f32], seq_len: usize, dim: usize, from: usize, to: usize) -> Vec<f32> {
    values.chunks(seq_len * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
}

/// A stored row, as f32.
pub(crate) fn stored_row(words: &[u32], at: usize, dim: usize, dtype: Dtype) -> Vec<f32> {
    let half = |i: usize| (words[(at + i) / 2] >> ((at + i) % 2 * 16)) as u16;
    match dtype {
        Dtype::F32 => words[at..at + dim].iter().map(|&word| f32::from_bits(word)).collect(),
        Dtype::F16 => (0..dim).map(|i| f16::from_bits(half(i)).to_f32()).collect(),
        Dtype::Bf16 => (0..dim).map(|i| bf16::from_bits(half(i)).to_f32()).collect(),
        Dtype::I8 => {
            let [scale, components] = row_bytes(at, dim, dtype);
            let scale = f32::from_bits(words[scale.start / 4]);
            let byte = |i: usize| bytemuck::cast_slice::<_, i8>(words)[components.start + i];
            (0..dim).map(|i| f32::from(byte(i)) / 127.0 * scale).collect()
        }
        Dtype::I4 => {
            let [groups, components] = row_bytes(at, dim, dtype);
            let element = |i: usize| {
                let group = words[groups.start / 4 + i / 64] >> (i / 32 % 2 * 16);
                let bits = words[components.start / 4 + i / 8] >> (i % 8 * 4) & 15;
                let scale = f32::from_bits((group & 0xfff0) << 15);
                (bits as f32 - (group & 15) as f32) * scale
            };
            (0..dim).map(element).collect()
        }
        other => unreachable!("no test stores {other}"),
    }
}

/// The bytes of a stored row: where it has scales, these, then its components'; of other types none, then all.
pub(crate) fn row_bytes(at: usize, dim: usize, dtype: Dtype) -> [Range<usize>; 2] {
    let [scales, components] = quantized_bytes(dtype, dim);
    let size = dtype.size();
    if scales == 0 {
        return [0..0, at * size..(at + dim) * size];
    }
    // Four rows stand together, their scales first.
    let row = at / (scales + components);
    let four = row / 4 * 4 * (scales + components);
    let [scale, first] = [four + row % 4 * scales, four + 4 * scales + row % 4 * components];
    [scale..scale + scales, first..first + components]
}

/// The bytes of a quantized row's scales and of its components.
fn quantized_bytes(dtype: Dtype, dim: usize) -> [usize; 2] {
    match dtype {
        Dtype::I8 => [4, dim.next_multiple_of(4)],
        Dtype::I4 => [4 * dim.div_ceil(64), 4 * dim.div_ceil(8)],
        _ => [0, 0],
    }
}

/// How many elements a stored row takes, with its scales.
pub(crate) fn row_elements(dtype: Dtype, dim: usize) -> usize {
    match quantized_bytes(dtype, dim) {
        [0, _] => dim,
        bytes => bytes.into_iter().sum(),
    }
}

/// How far off each component of a row may be that is stored.
pub(crate) fn stored_errors(row: &[f32], dtype: Dtype) -> Vec<f32> {
    let (group, error) = match dtype {
        Dtype::I8 => (row.len(), I8_ERROR),
        Dtype::I4 => (32, I4_ERROR),
        _ => return vec![0.0; row.len()],
    };
    let of_group = |group: &[f32]| {
        let [least, most] = group.iter().fold([0f32; 2], |[a, b], &x| [a.min(x), b.max(x)]);
        let range = if dtype == Dtype::I8 { most.max(-least) } else { most - least };
        vec![range * error; group.len()]
    };
    row.chunks(group).flat_map(of_group).collect()
}

/// Where the row of a token lies, in elements of the cache's type.
pub(crate) fn row_at(
    shape: &CacheShape,
    dim: usize,
    tables: &[Vec<u32>],
    b: usize,
    h: usize,
    position: usize,
) -> usize {
    let dim = row_elements(shape.dtype, dim);
    let (batch, row, rows) = match shape.form {
        CacheForm::Paged { block_size, .. } => {
            (tables[b][position / block_size] as usize, position % block_size, block_size)
        }
        _ => (b, position % shape.capacity, shape.capacity),
    };
    let heads = shape.num_kv_heads;
    match shape.layout {
        Layout::Bhsd => ((batch * heads + h) * rows + row) * dim,
        Layout::Bshd => ((batch * rows + row) * heads + h) * dim,
    }
}

/// Everything that a cache holds on the device.
fn contents(cache: &KvCache) -> [Vec<u32>; 3] {
    [words(cache.k()), words(cache.v()), words(cache.lengths())]
}
