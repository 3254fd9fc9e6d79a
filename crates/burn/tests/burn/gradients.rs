//! Gradients: against f64, and against burn's autodiff of the naive composition.

use burn::tensor::{Device, Gradients, Tensor};
use wgpu_attention::{AuxData, Mask, Shape};
use wgpu_attention_burn::attention;

use crate::case::{Case, Tensors};
use crate::naive;
use crate::support::{GRADIENT_ERROR, Values, assert_close, device, read};

fn autodiff() -> Device {
    device().autodiff()
}

/// The gradients of `sum(o * dout)`: of q, k, v, bias and sinks.
fn gradients(tensors: &Tensors, o: Tensor<4>) -> [Option<Vec<f32>>; 5] {
    let all: Gradients = (o * tensors.dout.clone()).sum().backward();
    let of = |tensor: &Tensor<4>| tensor.grad(&all).map(read);
    [
        of(&tensors.q),
        of(&tensors.k),
        of(&tensors.v),
        tensors.bias.as_ref().and_then(of),
        tensors.sinks.as_ref().and_then(|sinks| sinks.grad(&all)).map(read),
    ]
}

const NAMES: [&str; 5] = ["dq", "dk", "dv", "dbias", "dsinks"];

fn check(what: &str, case: &Case) {
    let numbers = case.numbers();
    let tensors = case.tensors(&numbers, &autodiff());
    let options = case.options(&tensors);
    let (q, k, v) = (tensors.q.clone(), tensors.k.clone(), tensors.v.clone());
    let found = gradients(&tensors, attention(q, k, v, &options));
    let truth = case.gradients(&numbers);
    let truth = [truth.dq, truth.dk, truth.dv, truth.dbias, truth.dsinks];
    for ((name, found), truth) in NAMES.into_iter().zip(found).zip(truth) {
        match found {
            Some(found) => assert_close(&format!("{what}: {name}"), &found, &truth, GRADIENT_ERROR),
            None => assert!(truth.is_empty(), "{what}: no {name}"),
        }
    }
}

#[test]
fn masks_sizes_and_values_of_each_kind() {
    let shape = Shape::new(2, 4, 35, 20).num_kv_heads(2).head_dim_v(12);
    let data = AuxData::new().key_lengths([35, 6]).document_ids((0..70).map(|at| at % 35 / 9));
    for mask in ["all", "causal", "key_lengths", "causal & documents", "window(6,3)"] {
        let mask: Mask = mask.parse().unwrap();
        check(&mask.to_string(), &Case::new(shape, mask).data(data.clone()));
    }
    for values in [Values::Alike, Values::Positive] {
        check(&format!("{values:?}"), &Case::new(shape, Mask::causal()).values(values));
    }
}

#[test]
fn every_score_modifier() {
    let shape = Shape::new(2, 4, 21, 16).num_kv_heads(2).seq_len_kv(30);
    let plain = Case::new(shape, Mask::causal());
    let slopes = AuxData::new().alibi_slopes([0.5, 0.25, 0.125, 0.0625]);
    let cases = [
        ("softcap", Case { softcap: Some(0.8), scale: Some(0.6), ..plain.clone() }),
        ("ALiBi", Case { alibi: true, ..plain.clone() }.data(slopes)),
        ("sinks", Case { sinks: true, ..plain.clone() }),
        ("a bias for each cell", Case { bias: Some([2, 4, 21, 30]), ..plain.clone() }),
        ("a bias for all heads", Case { bias: Some([1, 1, 21, 30]), ..plain.clone() }),
        ("a bias of keys", Case { bias: Some([2, 1, 1, 30]), sinks: true, ..plain }),
    ];
    for (what, case) in cases {
        check(what, &case);
    }
}

#[test]
fn as_burns_autodiff_of_the_naive_composition() {
    let shape = Shape::new(2, 4, 18, 16).num_kv_heads(2).seq_len_kv(25);
    let plain = Case::new(shape, Mask::causal());
    let bias = Some([2, 1, 18, 25]);
    let lengths = AuxData::new().key_lengths([25, 9]);
    let cases = [
        plain.clone().values(Values::Positive),
        Case { mask: Mask::KeyLengths, bias, sinks: true, ..plain.clone() }.data(lengths),
        Case { softcap: Some(1.2), scale: Some(0.5), ..plain },
    ];
    for case in cases {
        let numbers = case.numbers();
        let tensors = case.tensors(&numbers, &autodiff());
        let theirs = gradients(&tensors, naive::attention(&case, &tensors));
        let tensors = case.tensors(&numbers, &autodiff());
        let options = case.options(&tensors);
        let (q, k, v) = (tensors.q.clone(), tensors.k.clone(), tensors.v.clone());
        let ours = gradients(&tensors, attention(q, k, v, &options));
        for ((name, ours), theirs) in NAMES.into_iter().zip(ours).zip(theirs) {
            assert_eq!(ours.is_some(), theirs.is_some(), "{name}");
            let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
            let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
            assert_close(&format!("{}: {name}", case.mask), &ours, &theirs, GRADIENT_ERROR);
        }
    }
}

/// Through projections and views; one tensor as q, k and v; and operands without gradients.
#[test]
fn within_a_graph() {
    let shape = Shape::new(2, 3, 14, 8);
    let case = Case::new(shape, Mask::causal());
    let numbers = case.numbers();
    let loss = |attend: &dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>| {
        let tensors = case.tensors(&numbers, &autodiff());
        let x = tensors.q.clone();
        let view =
            (x.clone() * 2.0).swap_dims(1, 2).swap_dims(2, 3).swap_dims(2, 3).swap_dims(1, 2);
        let o = attend(view, x.clone().tanh(), x.clone());
        let frozen = attend(x.clone(), tensors.k.detach(), tensors.v.detach());
        let all = ((o.swap_dims(1, 2).reshape([2, 14, 24]).powi_scalar(2)).sum() + frozen.sum())
            .backward();
        read(x.grad(&all).expect("x takes part"))
    };
    let options = wgpu_attention_burn::Options::new(Mask::causal());
    let ours = loss(&|q, k, v| attention(q, k, v, &options));
    let naive = |q, k, v| {
        let numbers = case.numbers();
        let tensors = case.tensors(&numbers, &autodiff());
        naive::attention(&case, &Tensors { q, k, v, ..tensors })
    };
    let theirs: Vec<f64> = loss(&naive).into_iter().map(f64::from).collect();
    assert_close("x", &ours, &theirs, GRADIENT_ERROR);
}

/// Recomputing activations gives the same gradients.
#[test]
fn with_checkpoints() {
    let shape = Shape::new(1, 2, 12, 8);
    let case = Case::new(shape, Mask::causal());
    let numbers = case.numbers();
    let of = |device: Device| {
        let tensors = case.tensors(&numbers, &device);
        let scaled = |tensor: &Tensor<4>| tensor.clone() * 1.5;
        let (q, k, v) = (scaled(&tensors.q), scaled(&tensors.k), scaled(&tensors.v));
        let o = attention(q, k, v, &case.options(&tensors));
        gradients(&tensors, o)
    };
    let plain = of(autodiff());
    assert!(plain[..3].iter().all(Option::is_some));
    assert_eq!(of(device().autodiff().gradient_checkpointing()), plain);
}

#[test]
fn what_lies_behind_a_mask_reaches_no_gradient() {
    let shape = Shape::new(2, 2, 20, 8);
    let lengths = AuxData::new().key_lengths([11, 0]);
    let case = Case::new(shape, Mask::KeyLengths).data(lengths);
    let numbers = case.numbers();
    let truth = case.gradients(&numbers);
    let mut bad = numbers;
    for tensor in [&mut bad.k, &mut bad.v] {
        for (row, x) in tensor.chunks_mut(8).enumerate() {
            if row % 20 >= [11, 0][row / 40] {
                x.fill(f32::NAN);
            }
        }
    }
    let tensors = case.tensors(&bad, &autodiff());
    let (q, k, v) = (tensors.q.clone(), tensors.k.clone(), tensors.v.clone());
    let found = gradients(&tensors, attention(q, k, v, &case.options(&tensors)));
    for ((name, found), truth) in NAMES.into_iter().zip(found).zip([truth.dq, truth.dk, truth.dv]) {
        assert_close(name, &found.expect("a gradient"), &truth, GRADIENT_ERROR);
    }
}
