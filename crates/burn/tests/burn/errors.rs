//! What is refused, and in which words.

use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::{DType, Device, Tensor};
use wgpu_attention::{AuxData, Mask, wgpu};
use wgpu_attention_burn::{Options, attention, register, try_attention};

use crate::support::{ERROR, assert_close, device, read};

fn zeros(dims: [usize; 4]) -> Tensor<4> {
    Tensor::zeros(dims, &device())
}

fn error(q: [usize; 4], k: [usize; 4], v: [usize; 4], options: &Options) -> String {
    try_attention(zeros(q), zeros(k), zeros(v), options).unwrap_err().to_string()
}

#[test]
fn messages_name_the_operand() {
    let plain = Options::default();
    let q = [2, 4, 5, 8];
    assert_eq!(
        error(q, [1, 4, 5, 8], q, &plain),
        "k: expected [batch, kv_heads, seq_kv, dim] = [2, 4, 5, 8], to fit q's sizes, found [1, 4, 5, 8]"
    );
    assert_eq!(
        error(q, q, [2, 4, 6, 8], &plain),
        "v: expected [batch, kv_heads, seq_kv, dim] = [2, 4, 5, 8], to fit k's sizes, found [2, 4, 6, 8]"
    );
    let three = [2, 3, 5, 8];
    assert_eq!(
        error(q, three, three, &plain),
        "num_heads: expected a multiple of num_kv_heads = 3, found 4"
    );
    let wide = [2, 4, 5, 600];
    assert_eq!(error(wide, wide, q, &plain), "head_dim: expected 1 to 576, found 600");
    let padded = Options::new(Mask::KeyLengths);
    assert!(
        error(q, q, q, &padded).starts_with("key_lengths: expected"),
        "{}",
        error(q, q, q, &padded)
    );
    let padded = padded.aux(AuxData::new().key_lengths([3, 9]));
    assert!(error(q, q, q, &padded).contains("key_lengths"), "{}", error(q, q, q, &padded));
    let biased = Options::default().bias(zeros([2, 3, 5, 5]));
    assert_eq!(
        error(q, q, q, &biased),
        "bias: expected sizes that broadcast to [2, 4, 5, 5], found [2, 3, 5, 5]"
    );
    let sinks = Options::default().sinks(Tensor::zeros([3], &device()));
    assert_eq!(error(q, q, q, &sinks), "sinks: expected [heads] = [4], found [3]");
    let options = Options::default().softcap(-1.0);
    assert_eq!(error(q, q, q, &options), "softcap: expected a finite number above 0, found -1");
}

#[test]
fn types_that_the_kernels_lack() {
    let q = zeros([1, 1, 2, 4]);
    let wrong = q.clone().cast(DType::F64);
    let error = try_attention(q.clone(), wrong, q, &Options::default()).unwrap_err().to_string();
    assert_eq!(error, "k: expected f32, f16 or bf16; `k.cast(DType::F32)` converts, found F64");
}

#[test]
#[should_panic(expected = "attention: v: expected [batch, kv_heads, seq_kv, dim]")]
fn the_call_without_a_result_panics_with_the_message() {
    attention(zeros([1, 1, 2, 4]), zeros([1, 1, 2, 4]), zeros([1, 1, 3, 4]), &Options::default());
}

/// A device of the program's own, given to burn: known once it is registered. A second call of the same sizes makes no plan.
#[test]
fn devices_are_made_known() {
    let setup = own_setup();
    let device = Device::wgpu_options().setup(setup.clone()).init().unwrap();
    let options = Options::new(Mask::causal());
    let call = || {
        let q = Tensor::<4>::ones([1, 2, 31, 8], &device);
        try_attention(q.clone(), q.clone(), q, &options)
    };
    let error = call().unwrap_err().to_string();
    assert!(
        error.starts_with("device: expected one that was opened by `wgpu_attention_burn::init`"),
        "{error}"
    );
    assert!(error.contains("call `init` before the first tensor"), "{error}");
    register(&device, &setup, &Default::default()).unwrap();
    assert_close("ones", &read(call().unwrap()), &vec![1.0; 2 * 31 * 8], ERROR);
    assert_eq!(wgpu_attention_burn::plans(&device), 1);
    call().unwrap();
    assert_eq!(wgpu_attention_burn::plans(&device), 1);
    let other = zeros([1, 2, 31, 8]);
    let q = Tensor::<4>::ones([1, 2, 31, 8], &device);
    let error = try_attention(q.clone(), q, other, &options).unwrap_err().to_string();
    assert!(error.starts_with("v: expected a tensor on the same device as the others"), "{error}");
}

#[test]
fn a_device_is_opened_once() {
    drop(device());
    let error = wgpu_attention_burn::init().unwrap_err().to_string();
    assert!(error.contains("register"), "{error}");
}

fn own_setup() -> WgpuSetup {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let options = wgpu::RequestAdapterOptions::default();
    let adapter = pollster::block_on(instance.request_adapter(&options)).unwrap();
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wgpu_attention::required_features(&adapter),
        required_limits: wgpu_attention::required_limits(&adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let backend = adapter.get_info().backend;
    WgpuSetup { instance, adapter, device, queue, backend }
}
