//! Caches whose values are the first components of their keys (MLA).

use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionPlan, AuxBuffers, AuxData, Dtype, Inputs, Layout, Mask, Problem, ScoreModifiers,
    Shape, reference,
};

use super::{HEADS, cache, cut, fault, random, submit, upload_f32};
use crate::fixture::{ATTENTION, ScoreData};
use crate::tolerance::{assert_close, naive_modified};

const TOKENS: usize = 40;

/// A prompt, then a token at a time, in every form of cache, against one parallel pass that has values of its own.
#[test]
fn values_are_read_from_the_keys() {
    let shape =
        |dim, dim_v| CacheShape::new(2, 1, TOKENS, dim).head_dim_v(dim_v).values_in_keys(true);
    for (seed, shape) in (0..).zip([
        shape(576, 512).dtype(Dtype::F16),
        shape(24, 20).layout(Layout::Bshd).paged(16, 6),
        shape(22, 9).dtype(Dtype::Bf16).ring(),
    ]) {
        let (dim, dim_v) = (shape.head_dim, shape.head_dim_v);
        let [q, k] = [(seed, HEADS), (seed + 10, 1)]
            .map(|(seed, heads)| random(seed, shape.batch * heads * TOKENS * dim));
        let k: Vec<f32> = k.into_iter().map(|x| shape.dtype.round(x / 8.0)).collect();
        let v: Vec<f32> = k.chunks(dim).flat_map(|key| key[..dim_v].to_vec()).collect();
        let whole = Shape::new(shape.batch, HEADS, TOKENS, dim).num_kv_heads(1).head_dim_v(dim_v);
        let problem = Problem::new(whole).mask(Mask::causal());
        let data = AuxData::new();
        let inputs = Inputs::new(&q, &k, &v).aux(&data);
        let truth = reference::attention(&problem, &inputs).unwrap().o;
        let none = (ScoreModifiers::default(), ScoreData::default());
        let naive =
            naive_modified(&problem, &Mask::causal(), &inputs, &none.0, &none.1, Dtype::F32).o;

        let (mut cache, _) = cache(&shape);
        assert_eq!(cache.k().buffer(), cache.v().buffer());
        let rows = shape.batch * TOKENS.next_multiple_of(if seed == 1 { 48 } else { 1 });
        assert_eq!(shape.bytes().unwrap(), rows * dim * shape.dtype.size());
        for (first, tokens) in [(0, TOKENS - 2), (TOKENS - 2, 1), (TOKENS - 1, 1)] {
            let end = first + tokens;
            let append =
                AppendPlan::new(ATTENTION.kernels(), &shape, &NewTokens::new(tokens)).unwrap();
            let problem =
                shape.problem(HEADS, tokens, QuerySequences::Uniform).mask(Mask::causal());
            let plan =
                AttentionPlan::new(ATTENTION.kernels(), &problem, &Default::default()).unwrap();
            if dim > 256 {
                let expected =
                    if tokens == 1 { ForwardKernel::Decode } else { ForwardKernel::Tiled };
                assert_eq!(plan.kernel(), expected);
            }
            let [q, k] = [&q, &k].map(|values| upload_f32(&cut(values, TOKENS, dim, first, end)));
            let o = upload_f32(&vec![0.0; shape.batch * HEADS * tokens * dim_v]);
            submit(|encoder| {
                let new = AppendBuffers::keys(k.slice(..));
                append.encode(encoder, &mut cache, &new).unwrap();
                let aux = AuxBuffers::new();
                let buffers =
                    cache.attention_buffers(&problem, q.slice(..), aux, o.slice(..)).unwrap();
                plan.encode(encoder, &buffers).unwrap();
            });
            let length = shape.batch * HEADS * tokens * dim_v;
            let found = ATTENTION.read_blocking(&o, length).unwrap();
            let part = |values: &[f32]| cut(values, TOKENS, dim_v, first, end);
            let truth: Vec<f64> = truth
                .chunks(TOKENS * dim_v)
                .flat_map(|head| head[first * dim_v..end * dim_v].to_vec())
                .collect();
            assert_close(&format!("{first}..{end} of {shape:?}"), &found, &part(&naive), &truth);
        }
        fault(&cache).unwrap();
    }
}
