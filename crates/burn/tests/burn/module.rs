//! Multi-head attention, beside burn's.

use burn::module::Module;
use burn::nn::attention as theirs;
use burn::store::ModuleRecord;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use wgpu_attention::{AuxData, Mask};
use wgpu_attention_burn::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};

use crate::support::{ERROR, GRADIENT_ERROR, Values, assert_close, device, numbers, read, tensor};

const D_MODEL: usize = 24;
const HEADS: usize = 3;

/// burn's module, and one of ours that has loaded its record.
fn pair(quiet: bool, device: &Device) -> (theirs::MultiHeadAttention, MultiHeadAttention) {
    let theirs = theirs::MultiHeadAttentionConfig::new(D_MODEL, HEADS)
        .with_quiet_softmax(quiet)
        .with_dropout(0.0)
        .init(device);
    let bytes = theirs.clone().into_record().into_bytes().unwrap();
    let ours = MultiHeadAttentionConfig::new(D_MODEL, HEADS).with_quiet_softmax(quiet);
    let ours = ours.init(device).load_record(ModuleRecord::from_bytes(bytes).unwrap());
    (theirs, ours)
}

fn input(seq: usize, seed: u64) -> Tensor<3> {
    let numbers = numbers(Values::Random, 2 * seq * D_MODEL, seed);
    tensor(&numbers, [2, seq, D_MODEL], &device())
}

fn as_f64<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    read(tensor).into_iter().map(f64::from).collect()
}

/// `[2, 13]`, true from each sequence's length on.
fn padding(lengths: [usize; 2]) -> Tensor<2, Bool> {
    let cells: Vec<bool> =
        lengths.iter().flat_map(|&length| (0..13).map(move |key| key >= length)).collect();
    Tensor::from_data(TensorData::new(cells, [2, 13]), &device())
}

#[test]
fn burns_records_load_and_give_the_same() {
    for quiet in [false, true] {
        let (theirs, ours) = pair(quiet, &device());
        let x = input(13, 1);
        let truth = theirs.forward(theirs::MhaInput::self_attn(x.clone())).context;
        let found = ours.forward(MhaInput::self_attn(x.clone())).context;
        assert_close("self-attention", &read(found), &as_f64(truth), ERROR);

        let mask = theirs::generate_autoregressive_mask(2, 13, &device());
        let masked =
            theirs::MhaInput::self_attn(x.clone()).mask_attn(mask).mask_pad(padding([13, 8]));
        let truth = theirs.forward(masked).context;
        let masked = MhaInput::self_attn(x)
            .mask(Mask::causal() & Mask::KeyLengths)
            .aux(AuxData::new().key_lengths([13, 8]));
        let found = ours.forward(masked).context;
        assert_close("causal and padded", &read(found), &as_f64(truth), ERROR);

        // Another number of queries.
        let (q, kv) = (input(5, 2), input(13, 3));
        let across = theirs::MhaInput::new(q.clone(), kv.clone(), kv.clone());
        let truth = theirs.forward(across.mask_pad(padding([4, 13]))).context;
        let across = MhaInput::new(q, kv.clone(), kv).mask(Mask::KeyLengths);
        let found = ours.forward(across.aux(AuxData::new().key_lengths([4, 13]))).context;
        assert_close("cross-attention", &read(found), &as_f64(truth), ERROR);
    }
}

/// The way back, and from the module itself.
#[test]
fn our_records_load_into_burns_module() {
    let (theirs, ours) = pair(false, &device());
    let x = input(6, 4);
    let truth = as_f64(theirs.forward(theirs::MhaInput::self_attn(x.clone())).context);
    let from = MultiHeadAttention::from(theirs);
    let found = from.forward(MhaInput::self_attn(x.clone())).context;
    assert_close("from burn's module", &read(found), &truth, ERROR);
    let back = theirs::MultiHeadAttentionConfig::new(D_MODEL, HEADS).with_dropout(0.0);
    let back = back.init(&device()).load_record(ours.into_record());
    let found = back.forward(theirs::MhaInput::self_attn(x)).context;
    assert_close("back", &read(found), &truth, ERROR);
}

#[test]
fn a_training_step_has_burns_gradients() {
    let device = device().autodiff();
    let (theirs, ours) = pair(false, &device);
    let x = tensor(&numbers(Values::Random, 2 * 9 * D_MODEL, 5), [2, 9, D_MODEL], &device);
    let mask = theirs::generate_autoregressive_mask(2, 9, &device);
    let context = theirs.forward(theirs::MhaInput::self_attn(x.clone()).mask_attn(mask)).context;
    let all = context.powi_scalar(2).sum().backward();
    let truth = [&theirs.query, &theirs.key, &theirs.value, &theirs.output]
        .map(|linear| as_f64(linear.weight.grad(&all).unwrap()));
    let context = ours.forward(MhaInput::self_attn(x).mask(Mask::causal())).context;
    let all = context.powi_scalar(2).sum().backward();
    let found = [&ours.query, &ours.key, &ours.value, &ours.output]
        .map(|linear| read(linear.weight.grad(&all).unwrap()));
    for (found, truth) in found.iter().zip(&truth) {
        assert_close("a weight's gradient", found, truth, GRADIENT_ERROR);
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let device = device().autodiff();
    let module = MultiHeadAttentionConfig::new(D_MODEL, HEADS).with_dropout(0.1).init(&device);
    let x = Tensor::<3>::zeros([1, 4, D_MODEL], &device);
    let error = module.try_forward(MhaInput::self_attn(x)).unwrap_err().to_string();
    assert!(error.starts_with("dropout: expected 0 where gradients are computed"), "{error}");
    // Without gradients it does nothing.
    let module = MultiHeadAttentionConfig::new(D_MODEL, HEADS).with_dropout(0.1);
    let module = module.init(&crate::support::device());
    assert!(module.try_forward(MhaInput::self_attn(input(4, 1))).is_ok());
    let wrong = Tensor::<3>::zeros([1, 4, 7], &crate::support::device());
    let error = module.try_forward(MhaInput::self_attn(wrong)).unwrap_err().to_string();
    assert_eq!(error, "query: expected [batch, seq, d_model = 24], found [1, 4, 7]");
}
