//! Passes whose operands lie between fences: what isn't a number of theirs holds nothing and may not be written.

use std::ops::Range;

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::{BackwardBuffers, BackwardOptions, GradientBuffers, PlanOptions};
use wgpu_attention::tensor::Strides;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, BackwardPlan, Dtype, Error, Mask, Problem,
    Session, Shape, Upstream, reference,
};
use wgsl_sanitizer::device::Sanitizer;

use crate::operands::Operands;
use crate::tolerance::{close, gradient_close, naive, naive_gradients};

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

/// Rows with gaps between them, side by side by heads: `[batch, heads, seq, dim]`.
#[derive(Clone, Copy)]
struct Rows {
    dims: [usize; 4],
    strides: Strides,
}

impl Rows {
    fn new(batch: usize, heads: usize, seq: usize, dim: usize) -> Self {
        let row = dim + 4;
        let strides = Strides { batch: seq * heads * row + 8, head: row, seq: heads * row, dim: 1 };
        Self { dims: [batch, heads, seq, dim], strides }
    }

    /// Every element's place, in their order.
    fn places(self) -> impl Iterator<Item = usize> {
        let Self { dims: [batch, heads, seq, dim], strides } = self;
        let rows = (0..batch)
            .flat_map(move |b| (0..heads).flat_map(move |h| (0..seq).map(move |s| (b, h, s))));
        rows.flat_map(move |(b, h, s)| {
            let row = b * strides.batch + h * strides.head + s * strides.seq;
            (0..dim).map(move |d| row + d * strides.dim)
        })
    }

    fn empty(self, attention: &Session) -> Result<Fenced<'_>, String> {
        Fenced::new(attention, self.places().max().unwrap_or(0) + 1)
    }

    fn operand<'a>(self, attention: &'a Session, values: &[f32]) -> Result<Fenced<'a>, String> {
        let fenced = self.empty(attention)?;
        self.places().zip(values).for_each(|(at, value)| fenced.put(at, *value));
        Ok(fenced)
    }

    fn result(self, attention: &Session) -> Result<Fenced<'_>, String> {
        let fenced = self.empty(attention)?;
        self.places().for_each(|at| fenced.allow(at));
        Ok(fenced)
    }

    fn read(self, fenced: &Fenced<'_>) -> Result<Vec<f32>, String> {
        self.places().map(|at| fenced.get(at)).collect()
    }
}

/// Numbers side by side, as lse has them.
fn dense(len: usize) -> Rows {
    Rows { dims: [1, 1, 1, len], strides: Strides { batch: len, head: len, seq: len, dim: 1 } }
}

/// A causal problem of rows with gaps, and its operands.
struct Case {
    shape: Shape,
    problem: Problem,
    /// The same without gaps, for the references.
    whole: Problem,
    operands: Operands,
    q: Rows,
    kv: Rows,
}

impl Case {
    fn new(seq_q: usize, dim: usize) -> Self {
        let seq_kv = 45;
        let shape = Shape::new(2, 4, seq_q, dim).seq_len_kv(seq_kv).num_kv_heads(2);
        let (q, kv) = (Rows::new(2, 4, seq_q, dim), Rows::new(2, 2, seq_kv, dim));
        let whole = Problem::new(shape).mask(Mask::causal()).dtypes(Dtype::F32);
        let problem = whole
            .clone()
            .q_strides(q.strides)
            .k_strides(kv.strides)
            .v_strides(kv.strides)
            .o_strides(q.strides);
        Self { shape, problem, whole, operands: Operands::random(&shape, 51), q, kv }
    }

    fn lse(&self) -> Rows {
        let Shape { batch, num_heads, seq_len_q, .. } = self.shape;
        dense(batch * num_heads * seq_len_q)
    }

    /// Submits what `encode` records.
    fn submit(
        attention: &Session,
        encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<(), String> {
        let scope = attention.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        encode(&mut encoder).map_err(in_words)?;
        attention.queue().submit([encoder.finish()]);
        futures(scope.pop()).map_or(Ok(()), |error| Err(error.to_string()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn in_words(error: Error) -> String {
    error.to_string()
}

/// Runs a forward kernel on fenced operands.
///
/// # Errors
/// In words; `Ok(false)` where the device has no such kernel.
pub fn forward(attention: &Session, kernel: ForwardKernel, dim: usize) -> Result<bool, String> {
    let case = Case::new(if kernel.is_decode() { 3 } else { 37 }, dim);
    let options = PlanOptions::default().kernel(kernel);
    let plan = match AttentionPlan::new(attention.kernels(), &case.problem, &options) {
        Err(Error::KernelRefused { .. }) => return Ok(false),
        plan => plan.map_err(in_words)?,
    };
    let q = case.q.operand(attention, &case.operands.q)?;
    let k = case.kv.operand(attention, &case.operands.k)?;
    let v = case.kv.operand(attention, &case.operands.v)?;
    let (o, lse) = (case.q.result(attention)?, case.lse().result(attention)?);
    let buffers = AttentionBuffers {
        q: q.slice(),
        k: k.slice(),
        v: v.slice(),
        aux: AuxBuffers::new(),
        o: o.slice(),
        lse: Some(lse.slice()),
    };
    Case::submit(attention, |encoder| plan.encode(encoder, &buffers))?;
    let inputs = case.operands.inputs();
    let truth = reference::attention(&case.whole, &inputs).map_err(in_words)?;
    let naive = naive(&case.whole, &Mask::causal(), &inputs);
    close("o between fences", &case.q.read(&o)?, &naive.o, &truth.o)?;
    close("lse between fences", &case.lse().read(&lse)?, &naive.lse, &truth.lse)?;
    Ok(true)
}

/// Runs a backward kernel on fenced operands.
///
/// # Errors
/// As of [`forward`].
pub fn backward(attention: &Session, kernel: BackwardKernel, dim: usize) -> Result<bool, String> {
    let case = Case::new(37, dim);
    let options = BackwardOptions::default().kernel(kernel);
    let plan = match BackwardPlan::new(attention.kernels(), &case.problem, &options) {
        Err(Error::KernelRefused { .. }) => return Ok(false),
        plan => plan.map_err(in_words)?,
    };
    let inputs = case.operands.inputs();
    let output = naive(&case.whole, &Mask::causal(), &inputs);
    let dout: Vec<f32> = case.operands.q.iter().map(|x| x / 8.0).collect();
    let q = case.q.operand(attention, &case.operands.q)?;
    let k = case.kv.operand(attention, &case.operands.k)?;
    let v = case.kv.operand(attention, &case.operands.v)?;
    let o = case.q.operand(attention, &output.o)?;
    let lse = case.lse().operand(attention, &output.lse)?;
    let incoming = case.q.operand(attention, &dout)?;
    let dq = case.q.result(attention)?;
    let (dk, dv) = (case.kv.result(attention)?, case.kv.result(attention)?);
    let buffers = BackwardBuffers {
        q: q.slice(),
        k: k.slice(),
        v: v.slice(),
        o: o.slice(),
        lse: lse.slice(),
        dout: incoming.slice(),
        dlse: None,
        aux: AuxBuffers::new(),
        gradients: GradientBuffers::default().dq(dq.slice()).dk(dk.slice()).dv(dv.slice()),
    };
    Case::submit(attention, |encoder| plan.encode(encoder, &buffers))?;
    let upstream = Upstream::new(&dout);
    let truth = reference::gradients(&case.whole, &inputs, &upstream).map_err(in_words)?;
    let naive = naive_gradients(&case.whole, &Mask::causal(), &inputs, &upstream);
    for (name, rows, found, naive, truth) in [
        ("dq", case.q, &dq, &naive.dq, &truth.dq),
        ("dk", case.kv, &dk, &naive.dk, &truth.dk),
        ("dv", case.kv, &dv, &naive.dv, &truth.dv),
    ] {
        gradient_close(&format!("{name} between fences"), &rows.read(found)?, naive, truth)?;
    }
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
