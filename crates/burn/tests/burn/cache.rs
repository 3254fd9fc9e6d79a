//! Generation with a cache, against the whole pass.

use burn::tensor::{DType, Tensor};
use wgpu_attention::cache::CacheShape;
use wgpu_attention::{Dtype, Mask, Shape};
use wgpu_attention_burn::{KvCache, MhaInput, MultiHeadAttentionConfig, Options, attention};

use crate::case::{Case, Tensors};
use crate::support::{ERROR, F16_ERROR, Values, assert_close, device, numbers, read, tensor};

const TOKENS: usize = 23;

fn case() -> Case {
    Case::new(Shape::new(2, 4, TOKENS, 16).num_kv_heads(2), Mask::causal())
}

/// A prompt of 7 tokens, then 3, then one by one.
fn steps() -> impl Iterator<Item = (usize, usize)> {
    [(0, 7), (7, 3)].into_iter().chain((10..TOKENS).map(|at| (at, 1)))
}

/// What the steps give, together.
fn step_by_step(cache: &mut KvCache, tensors: &Tensors, options: &Options) -> Vec<f32> {
    let outputs = steps().map(|(at, count)| {
        let [q, k, v] =
            [&tensors.q, &tensors.k, &tensors.v].map(|tensor| tensor.clone().narrow(2, at, count));
        cache.append(k, v).unwrap();
        cache.attend(q, options).unwrap()
    });
    read(Tensor::cat(outputs.collect(), 2))
}

#[test]
fn step_by_step_is_the_whole_pass() {
    let case = case();
    let numbers = case.numbers();
    let tensors = case.tensors(&numbers, &device());
    let truth = case.reference(&numbers).o;
    let shape = CacheShape::new(2, 2, 32, 16);
    let causal = Options::new(Mask::causal());
    let mut cache = KvCache::new(&device(), shape).unwrap();
    assert_close("contiguous", &step_by_step(&mut cache, &tensors, &causal), &truth, ERROR);
    assert_eq!(cache.lengths(), [TOKENS, TOKENS]);

    let mut cache = KvCache::new(&device(), shape.paged(16, 4)).unwrap();
    cache.set_table(0, &[2, 0]).unwrap();
    cache.set_table(1, &[1, 3]).unwrap();
    assert_close("paged", &step_by_step(&mut cache, &tensors, &causal), &truth, ERROR);

    let mut cache = KvCache::new(&device(), shape.dtype(Dtype::F16)).unwrap();
    assert_close("f16", &step_by_step(&mut cache, &tensors, &causal), &truth, F16_ERROR);
}

#[test]
fn sinks_softcap_and_a_window_over_a_ring() {
    let mask: Mask = "window(5,0)".parse().unwrap();
    let case = Case { mask, sinks: true, softcap: Some(1.5), ..case() };
    let numbers = case.numbers();
    let tensors = case.tensors(&numbers, &device());
    let mut cache = KvCache::new(&device(), CacheShape::new(2, 2, 16, 16).ring()).unwrap();
    let found = step_by_step(&mut cache, &tensors, &case.options(&tensors));
    assert_close("ring", &found, &case.reference(&numbers).o, ERROR);
}

#[test]
fn rejected_drafts_are_taken_back() {
    let case = case();
    let tensors = case.tensors(&case.numbers(), &device());
    let part = |tensor: &Tensor<4>, at, count| tensor.clone().narrow(2, at, count);
    let causal = Options::new(Mask::causal());
    let mut cache = KvCache::new(&device(), CacheShape::new(2, 2, 32, 16)).unwrap();
    cache.append(part(&tensors.k, 0, 5), part(&tensors.v, 0, 5)).unwrap();
    cache.append(part(&tensors.k, 9, 4), part(&tensors.v, 9, 4)).unwrap();
    for b in 0..2 {
        cache.set_length(b, 5).unwrap();
    }
    cache.append(part(&tensors.k, 5, 1), part(&tensors.v, 5, 1)).unwrap();
    let found = read(cache.attend(part(&tensors.q, 5, 1), &causal).unwrap());
    let [q, k, v] = [&tensors.q, &tensors.k, &tensors.v].map(|tensor| part(tensor, 0, 6));
    let truth = attention(q, k, v, &causal).narrow(2, 5, 1);
    let truth: Vec<f64> = read(truth).into_iter().map(f64::from).collect();
    assert_close("after a draft", &found, &truth, ERROR);
}

#[test]
fn a_module_generates() {
    let module = MultiHeadAttentionConfig::new(24, 3).init(&device());
    let x = tensor(&numbers(Values::Random, 2 * TOKENS * 24, 3), [2, TOKENS, 24], &device());
    let truth = module.forward(MhaInput::self_attn(x.clone()).mask(Mask::causal())).context;
    let truth: Vec<f64> = read(truth).into_iter().map(f64::from).collect();
    let mut cache = KvCache::new(&device(), CacheShape::new(2, 3, 32, 8)).unwrap();
    let causal = Options::new(Mask::causal());
    let outputs = steps().map(|(at, count)| {
        module.forward_cache(x.clone().narrow(1, at, count), &causal, &mut cache).unwrap()
    });
    let found = read(Tensor::cat(outputs.collect(), 1));
    assert_close("generated", &found, &truth, ERROR);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut cache = KvCache::new(&device(), CacheShape::new(1, 2, 4, 8)).unwrap();
    let zeros = |dims: [usize; 4]| Tensor::<4>::zeros(dims, &device());
    let message = |result: wgpu_attention::Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        message(cache.append(zeros([1, 3, 1, 8]), zeros([1, 3, 1, 8]))),
        "k: expected [batch, heads, tokens, dim] = [1, 2, 1, 8], to fit the cache, found [1, 3, 1, 8]"
    );
    let half = zeros([1, 2, 1, 8]).cast(DType::F16);
    let error = message(cache.append(zeros([1, 2, 1, 8]), half));
    assert_eq!(error, "v: expected k's type, f32, found F16");
    let error = message(cache.append(zeros([1, 2, 5, 8]), zeros([1, 2, 5, 8])));
    assert!(error.contains("room for at most 4 tokens"), "{error}");
    let tracked = Tensor::<4>::zeros([1, 2, 1, 8], &device().autodiff());
    let error = message(cache.append(tracked.clone(), tracked));
    assert!(error.starts_with("k: expected a tensor without autodiff"), "{error}");
    assert_eq!(cache.lengths(), [0]);
}
