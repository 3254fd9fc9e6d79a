//! Outputs.

use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Tensor};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{AuxData, Mask, Shape};
use wgpu_attention_burn::{Options, attention};

use crate::case::{Case, Numbers};
use crate::naive;
use crate::support::{ERROR, F16_ERROR, Values, assert_close, device, numbers, read, tensor};

fn check(what: &str, case: &Case) {
    let numbers = case.numbers();
    let tensors = case.tensors(&numbers, &device());
    let options = case.options(&tensors);
    let o = attention(tensors.q, tensors.k, tensors.v, &options);
    assert_eq!(o.dims(), case.shape.o_dims(), "{what}");
    assert_close(what, &read(o), &case.reference(&numbers).o, ERROR);
}

#[test]
fn every_mask() {
    let samples: Vec<_> = Mask::leaves().flat_map(|leaf| leaf.samples()).collect();
    assert!(samples.len() >= 19, "{} samples", samples.len());
    for sample in samples {
        let shape = sample.shape.head_dim(20).head_dim_v(12);
        check(sample.name, &Case::new(shape, sample.mask).data(sample.data));
    }
}

#[test]
fn odd_sizes_and_values_of_each_kind() {
    let shapes = [
        Shape::new(2, 3, 37, 5),
        Shape::new(1, 2, 1, 64).seq_len_kv(130),
        Shape::new(2, 6, 65, 17).num_kv_heads(2).head_dim_v(9),
        Shape::new(1, 4, 33, 32).num_kv_heads(1).seq_len_kv(70),
    ];
    for shape in shapes {
        for values in [Values::Random, Values::Alike, Values::Positive] {
            let case = Case::new(shape, Mask::causal()).values(values);
            check(&format!("{shape:?}, {values:?}"), &case);
        }
    }
}

#[test]
fn padding_documents_and_windows_joined() {
    let shape = Shape::new(3, 2, 40, 16);
    let ids = (0..3 * 40).map(|at| at % 40 / 11);
    let data = AuxData::new().key_lengths([40, 7, 0]).document_ids(ids);
    for mask in ["key_lengths", "causal & documents", "window(5,2) & key_lengths | global(2)"] {
        let mask: Mask = mask.parse().unwrap();
        let needed = data.clone();
        check(&mask.to_string(), &Case::new(shape, mask).data(needed));
    }
}

#[test]
fn every_score_modifier() {
    let shape = Shape::new(2, 4, 21, 16).num_kv_heads(2).seq_len_kv(30);
    let plain = Case::new(shape, Mask::causal());
    let slopes = AuxData::new().alibi_slopes([0.5, 0.25, 0.125, 0.0625]);
    let cases = [
        ("scale", Case { scale: Some(0.7), ..plain.clone() }),
        ("softcap", Case { softcap: Some(0.8), ..plain.clone() }),
        ("ALiBi", Case { alibi: true, ..plain.clone() }.data(slopes.clone())),
        ("sinks", Case { sinks: true, ..plain.clone() }),
        ("a bias for each cell", Case { bias: Some([2, 4, 21, 30]), ..plain.clone() }),
        ("a bias for all heads", Case { bias: Some([1, 1, 21, 30]), ..plain.clone() }),
        ("a bias of keys", Case { bias: Some([2, 1, 1, 30]), ..plain.clone() }),
        (
            "all of them",
            Case {
                scale: Some(0.5),
                softcap: Some(2.0),
                alibi: true,
                bias: Some([1, 4, 21, 30]),
                sinks: true,
                ..plain
            }
            .data(slopes),
        ),
    ];
    for (what, case) in cases {
        check(what, &case);
    }
}

#[test]
fn a_function_of_the_users() {
    let text = "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
        return select(score, score - 3.0, kv_idx % 2u == 0u);
    }";
    let shape = Shape::new(1, 2, 17, 16);
    let case = Case::new(shape, Mask::causal());
    let numbers = case.numbers();
    let tensors = case.tensors(&numbers, &device());
    let options = Options::new(Mask::causal()).score_mod(WgslFunction::new(text).unwrap());
    let o = attention(tensors.q, tensors.k, tensors.v, &options);
    // The same as a bias.
    let biased = Case { bias: Some([1, 1, 1, 17]), ..case };
    let mut numbers = numbers;
    numbers.bias = (0..17).map(|key| if key % 2 == 0 { -3.0 } else { 0.0 }).collect();
    assert_close("score_mod", &read(o), &biased.reference(&numbers).o, ERROR);
}

#[test]
fn as_burns_own_operator() {
    let shape = Shape::new(2, 3, 29, 16);
    let bias = Some([2, 3, 29, 29]);
    let lengths = AuxData::new().key_lengths([29, 12]);
    let plain = Case::new(shape, Mask::All);
    let cases = [
        plain.clone(),
        Case { mask: Mask::KeyLengths, ..plain.clone() }.data(lengths),
        Case { mask: Mask::causal(), bias, softcap: Some(1.5), scale: Some(0.3), ..plain },
    ];
    for case in cases {
        let tensors = case.tensors(&case.numbers(), &device());
        let options = AttentionModuleOptions {
            scale: case.scale.map(f64::from),
            softcap: case.softcap.map(f64::from),
            is_causal: false,
        };
        let mask = Some(naive::masked(&case, &device()));
        let (q, k, v) = (tensors.q.clone(), tensors.k.clone(), tensors.v.clone());
        let theirs = burn_attention(q, k, v, mask, tensors.bias.clone(), options);
        let options = case.options(&tensors);
        let ours = attention(tensors.q, tensors.k, tensors.v, &options);
        let theirs: Vec<f64> = read(theirs).into_iter().map(f64::from).collect();
        assert_close(&format!("{}", case.mask), &read(ours), &theirs, ERROR);
    }
}

/// A projection's heads, slices and expanded tensors are read in place.
#[test]
fn tensors_lie_as_they_like() {
    let shape = Shape::new(2, 4, 19, 8);
    let case = Case::new(shape, Mask::causal());
    let numbers = case.numbers();
    let truth = case.reference(&numbers).o;
    let dense = case.tensors(&numbers, &device());
    let options = Options::new(Mask::causal());

    let through = |tensor: &Tensor<4>| {
        // Into [batch, seq, heads, dim] in memory, and back as a view.
        let lain: Vec<f32> = read(tensor.clone().swap_dims(1, 2));
        crate::support::tensor(&lain, [2, 19, 4, 8], &device()).swap_dims(1, 2)
    };
    let o = attention(through(&dense.q), through(&dense.k), through(&dense.v), &options);
    assert_close("heads behind rows", &read(o.clone()), &truth, ERROR);
    // Its heads are brought together as a module does it.
    let together = read(o.swap_dims(1, 2).reshape([2, 19, 32]));
    let expected: Vec<f64> = {
        let at = |b: usize, s: usize, h: usize, d: usize| truth[((b * 4 + h) * 19 + s) * 8 + d];
        let mut all = Vec::new();
        for b in 0..2 {
            for s in 0..19 {
                all.extend(
                    (0..4).flat_map(|h| (0..8).map(move |d| (h, d))).map(|(h, d)| at(b, s, h, d)),
                );
            }
        }
        all
    };
    assert_close("together", &together, &expected, ERROR);

    let transposed = |tensor: &Tensor<4>| {
        let lain = read(tensor.clone().swap_dims(2, 3));
        crate::support::tensor(&lain, [2, 4, 8, 19], &device()).swap_dims(2, 3)
    };
    let o = attention(dense.q.clone(), transposed(&dense.k), dense.v.clone(), &options);
    assert_close("columns behind rows", &read(o), &truth, ERROR);

    // A slice begins within an allocation.
    let both = Tensor::cat(vec![dense.v.clone().mul_scalar(9.0), dense.v.clone()], 0);
    let o = attention(dense.q.clone(), dense.k.clone(), both.narrow(0, 2, 2), &options);
    assert_close("a slice", &read(o), &truth, ERROR);

    // One head for all, by a stride of 0, is what one kv head is.
    let one = Case::new(shape.num_kv_heads(1), Mask::causal());
    let numbers = one.numbers();
    let tensors = one.tensors(&numbers, &device());
    let all = |tensor: Tensor<4>| tensor.expand([2, 4, 19, 8]);
    let o = attention(tensors.q, all(tensors.k), all(tensors.v), &options);
    assert_close("expanded", &read(o), &one.reference(&numbers).o, ERROR);
}

/// Work that burn has queued, before and behind, and tensors that it has in one buffer.
#[test]
fn between_burns_own_work() {
    let shape = Shape::new(1, 2, 70, 32);
    let case = Case::new(shape, Mask::causal());
    let numbers = case.numbers();
    let mut doubled = numbers.clone();
    doubled.q.iter_mut().for_each(|x| *x *= 2.0);
    doubled.v.iter_mut().for_each(|x| *x = *x * 3.0 + 1.0);
    let truth: Vec<f64> = case.reference(&doubled).o.iter().map(|x| x * 0.5 - 4.0).collect();
    for _ in 0..3 {
        let tensors = case.tensors(&numbers, &device());
        let q = tensors.q.clone() + tensors.q;
        let v = tensors.v * 3.0 + 1.0;
        let o = attention(q, tensors.k, v, &Options::new(Mask::causal()));
        assert_close("between", &read(o * 0.5 - 4.0), &truth, ERROR);
    }
}

#[test]
fn what_lies_behind_a_mask_reaches_nothing() {
    let shape = Shape::new(2, 2, 24, 16);
    let lengths = AuxData::new().key_lengths([15, 0]);
    let case = Case::new(shape, Mask::KeyLengths).data(lengths);
    let numbers = case.numbers();
    let truth = case.reference(&numbers).o;
    let mut bad = numbers;
    for (tensor, value) in [(&mut bad.k, f32::NAN), (&mut bad.v, f32::INFINITY)] {
        for (row, x) in tensor.chunks_mut(16).enumerate() {
            if row % 24 >= [15, 0][row / 48] {
                x.fill(value);
            }
        }
    }
    let tensors = case.tensors(&bad, &device());
    let options = case.options(&tensors);
    let o = read(attention(tensors.q, tensors.k, tensors.v, &options));
    assert_close("behind the mask", &o, &truth, ERROR);
    assert!(o[2 * 24 * 16..].iter().all(|&x| x == 0.0), "rows without keys give 0");
}

#[test]
fn tensors_of_16_bits() {
    if !device().supports_dtype(DType::F16) {
        eprintln!("skipped: burn has no f16 on this device");
        return;
    }
    let shape = Shape::new(2, 4, 33, 16).num_kv_heads(2);
    let case = Case { bias: Some([1, 4, 33, 33]), ..Case::new(shape, Mask::causal()) };
    let mut numbers = case.numbers();
    // To what f16 has, so that the reference sees the same.
    let rounded = |x: &mut f32| *x = wgpu_attention::Dtype::F16.round(*x);
    let Numbers { q, k, v, bias, .. } = &mut numbers;
    [q, k, v, bias].into_iter().flatten().for_each(rounded);
    let tensors = case.tensors(&numbers, &device());
    let half = |tensor: Tensor<4>| tensor.cast(DType::F16);
    let options = case.options(&tensors).bias(half(tensors.bias.clone().unwrap()));
    let o = attention(half(tensors.q), half(tensors.k), half(tensors.v), &options);
    assert_eq!(o.dtype(), DType::F16);
    assert_close("f16", &read(o), &case.reference(&numbers).o, F16_ERROR);
}

/// From two threads at once, whose streams cubecl keeps apart.
#[test]
fn from_several_threads() {
    let shared = numbers(Values::Random, 2 * 50 * 16, 9);
    let work = |heads: usize| {
        let shape = Shape::new(1, 2, 50, 16).num_kv_heads(heads);
        let case = Case::new(shape, Mask::causal());
        let numbers = case.numbers();
        let tensors = case.tensors(&numbers, &device());
        let q = tensor(&shared, [1, 2, 50, 16], &device());
        for _ in 0..4 {
            let o = attention(
                q.clone(),
                tensors.k.clone(),
                tensors.v.clone(),
                &Options::new(Mask::causal()),
            );
            let truth = case.reference(&Numbers { q: shared.clone(), ..numbers.clone() }).o;
            assert_close("on a thread", &read(o), &truth, ERROR);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        scope.spawn(|| work(2));
    });
}
