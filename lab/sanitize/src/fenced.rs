//! Forward passes whose operands lie between fences: what isn't a number of theirs holds nothing and may not be written.

use std::ops::Range;

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::Strides;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Dtype, Error, Mask, Problem, Session, Shape,
    reference,
};
use wgsl_sanitizer::device::Sanitizer;

use crate::operands::Operands;
use crate::tolerance::{close, naive};

/// Bytes before and behind an operand; a multiple of every device's alignment of bindings.
const MARGIN: u64 = 256;

/// A buffer of which nothing may be read or written.
struct Fenced<'a> {
    attention: &'a Session,
    buffer: wgpu::Buffer,
    range: Range<u64>,
}

impl<'a> Fenced<'a> {
    fn new(attention: &'a Session, elements: usize) -> Result<Self, String> {
        let bytes = elements as u64 * 4;
        let size = MARGIN + bytes.next_multiple_of(MARGIN) + MARGIN;
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = attention.device().create_buffer(&descriptor);
        let own = Sanitizer::buffer(&buffer).ok_or("the device isn't under the sanitizer")?;
        own.poison(0..size);
        own.protect(0..size);
        Ok(Self { attention, buffer, range: MARGIN..MARGIN + bytes })
    }

    fn slice(&self) -> wgpu::BufferSlice<'_> {
        self.buffer.slice(self.range.clone())
    }

    fn bytes(&self, element: usize) -> Range<u64> {
        let at = self.range.start + element as u64 * 4;
        at..at + 4
    }

    fn put(&self, element: usize, value: f32) {
        let at = self.bytes(element).start;
        self.attention.queue().write_buffer(&self.buffer, at, &value.to_ne_bytes());
    }

    fn allow(&self, element: usize) {
        if let Some(own) = Sanitizer::buffer(&self.buffer) {
            own.unprotect(self.bytes(element));
        }
    }

    /// A result, which must have been written.
    fn get(&self, element: usize) -> Result<f32, String> {
        let own = Sanitizer::buffer(&self.buffer).ok_or("the device isn't under the sanitizer")?;
        let range = self.bytes(element);
        if own.is_poisoned(range.clone()) {
            return Err(format!("element {element} of a result isn't written"));
        }
        let bytes = own.read(range);
        Ok(f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// Every element's place in a tensor of `[batch, heads, seq, dim]`, in their order.
fn places([batch, heads, seq, dim]: [usize; 4], strides: Strides) -> impl Iterator<Item = usize> {
    let rows = (0..batch)
        .flat_map(move |b| (0..heads).flat_map(move |h| (0..seq).map(move |s| (b, h, s))));
    rows.flat_map(move |(b, h, s)| {
        let row = b * strides.batch + h * strides.head + s * strides.seq;
        (0..dim).map(move |d| row + d * strides.dim)
    })
}

/// Rows with gaps between them, side by side by heads.
fn gaps(heads: usize, seq: usize, row: usize) -> Strides {
    Strides { batch: seq * heads * row + 8, head: row, seq: heads * row, dim: 1 }
}

/// Runs a kernel on fenced operands.
///
/// # Errors
/// In words; `Ok(false)` where the device has no such kernel.
pub fn forward(attention: &Session, kernel: ForwardKernel, dim: usize) -> Result<bool, String> {
    let (seq_q, seq_kv) = if kernel.is_decode() { (3, 45) } else { (37, 45) };
    let shape = Shape::new(2, 4, seq_q, dim).seq_len_kv(seq_kv).num_kv_heads(2);
    let row = dim + 4;
    let (of_q, of_kv) = (gaps(4, seq_q, row), gaps(2, seq_kv, row));
    let problem = Problem::new(shape)
        .mask(Mask::causal())
        .dtypes(Dtype::F32)
        .q_strides(of_q)
        .k_strides(of_kv)
        .v_strides(of_kv)
        .o_strides(of_q);
    let plan = match AttentionPlan::new(
        attention.kernels(),
        &problem,
        &PlanOptions::default().kernel(kernel),
    ) {
        Err(Error::KernelRefused { .. }) => return Ok(false),
        plan => plan.map_err(|error| error.to_string())?,
    };
    let dense = Operands::random(&shape, 51);
    let (q_dims, kv_dims) = ([2, 4, seq_q, dim], [2, 2, seq_kv, dim]);
    let fill = |dims, strides, values: &[f32]| {
        let span = places(dims, strides).max().unwrap_or(0) + 1;
        let fenced = Fenced::new(attention, span)?;
        places(dims, strides).zip(values).for_each(|(at, value)| fenced.put(at, *value));
        Ok::<_, String>(fenced)
    };
    let q = fill(q_dims, of_q, &dense.q)?;
    let k = fill(kv_dims, of_kv, &dense.k)?;
    let v = fill(kv_dims, of_kv, &dense.v)?;
    let o = fill(q_dims, of_q, &[])?;
    places(q_dims, of_q).for_each(|at| o.allow(at));
    let rows = 2 * 4 * seq_q;
    let lse = Fenced::new(attention, rows)?;
    (0..rows).for_each(|at| lse.allow(at));

    let scope = attention.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    let buffers = AttentionBuffers {
        q: q.slice(),
        k: k.slice(),
        v: v.slice(),
        aux: AuxBuffers::new(),
        o: o.slice(),
        lse: Some(lse.slice()),
    };
    plan.encode(&mut encoder, &buffers).map_err(|error| error.to_string())?;
    attention.queue().submit([encoder.finish()]);
    if let Some(error) = futures(scope.pop()) {
        return Err(error.to_string());
    }
    let o: Vec<f32> = places(q_dims, of_q).map(|at| o.get(at)).collect::<Result<_, _>>()?;
    let lse: Vec<f32> = (0..rows).map(|at| lse.get(at)).collect::<Result<_, _>>()?;
    let whole = Problem::new(shape).mask(Mask::causal());
    let inputs = dense.inputs();
    let truth = reference::attention(&whole, &inputs).map_err(|error| error.to_string())?;
    let naive = naive(&whole, &Mask::causal(), &inputs);
    close("o between fences", &o, &naive.o, &truth.o)?;
    close("lse between fences", &lse, &naive.lse, &truth.lse)?;
    Ok(true)
}

/// A future that is ready: the sanitizer's device knows at once.
fn futures<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => None,
    }
}
