//! cubek's flash attention kernels: the routine that burn may choose, and the newer ones over tiles.
//!
//!     cubek-peer unit | tile KERNEL

use anyhow::{Context as _, Result, bail};
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::std::tensor::TensorHandle;
use cubecl::zspace::Shape;
use cubek_attention::forward::definition::{
    AccumulatorPrecision, AttentionGlobalTypes, AttentionOptions,
};
use cubek_attention::forward::launch;
use cubek_attention::kernels::*;
use cubek_matmul::kernels::tensor::PlainTensor;

use burn_peer::{Case, Library, Prepared, failed, serve};

const F32: ElemType = ElemType::Float(FloatKind::F32);
const U32: ElemType = ElemType::UInt(UIntKind::U32);

struct Operands {
    client: Client,
    case: Case,
    q: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    lengths: TensorHandle,
    o: Option<TensorHandle>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let prepare = |case: Case| match words[..] {
        ["unit"] => prepare_unit(case),
        ["tile", kernel] => prepare_tile(case, kernel),
        _ => bail!("there is no kernel {words:?}"),
    };
    serve(&Library { about: "cubek-attention 0.4.0-pre.1", device: device(), prepare: &prepare })
}

fn client() -> Result<Client> {
    let device = cubecl::Device::wgpu(cubecl::device::WgpuDeviceKind::Cpu).map_err(failed)?;
    Ok(device.client())
}

fn device() -> String {
    client().map_or_else(|error| error.to_string(), |client| client.name().to_string())
}

impl Operands {
    fn new(case: Case) -> Result<Self> {
        let client = client()?;
        let Case { batch, heads, kv_heads, seq_q, seq_kv, dim, .. } = case;
        let tensor = |values: &[f32], heads, seq| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let handle = client.create_from_slice(&bytes);
            TensorHandle::new_contiguous(Shape::new([batch, heads, seq, dim]), handle, F32)
        };
        let lengths = case.lengths.clone().unwrap_or_else(|| vec![seq_kv as u32; batch]);
        let bytes: Vec<u8> = lengths.iter().flat_map(|x| x.to_le_bytes()).collect();
        let handle = client.create_from_slice(&bytes);
        Ok(Self {
            q: tensor(&case.q, heads, seq_q),
            k: tensor(&case.k, kv_heads, seq_kv),
            v: tensor(&case.v, kv_heads, seq_kv),
            lengths: TensorHandle::new_contiguous(Shape::new([batch]), handle, U32),
            o: None,
            case,
            client,
        })
    }

    fn wait(&self) -> Result<()> {
        cubecl::future::block_on(self.client.sync()).map_err(failed)
    }

    fn read(&mut self) -> Result<Vec<f32>> {
        let o = self.o.take().context("nothing has run")?;
        let bytes = self.client.read_one_unchecked(o.handle);
        Ok(bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
    }
}

struct Unit(Operands);

fn prepare_unit(case: Case) -> Result<Box<dyn Prepared>> {
    if case.lengths.is_some() {
        bail!("it takes no lengths");
    }
    Ok(Box::new(Unit(Operands::new(case)?)))
}

impl Prepared for Unit {
    fn run(&mut self) -> Result<()> {
        let Operands { client, case, q, k, v, .. } = &self.0;
        let Case { batch, heads, seq_q, dim, .. } = *case;
        let handle = client.empty(batch * heads * seq_q * dim * 4);
        let o = TensorHandle::new_contiguous(Shape::new([batch, heads, seq_q, dim]), handle, F32);
        let types =
            AttentionGlobalTypes::from_single_float_dtype(F32, AttentionGlobalTypes::mask_dtype(client));
        launch::launch_ref(
            launch::Strategy::Unit(launch::BlueprintStrategy::Inferred(())),
            client,
            q.clone().binding(),
            k.clone().binding(),
            v.clone().binding(),
            None,
            o.clone().binding(),
            &types,
            AttentionOptions {
                causal: case.causal,
                sliding_window: None,
                accumulator_precision: AccumulatorPrecision::Strict(F32),
            },
        )
        .map_err(failed)?;
        self.0.o = Some(o);
        self.0.wait()
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        self.0.read()
    }
}

struct Tile {
    operands: Operands,
    kernel: AttentionKernel,
}

fn prepare_tile(case: Case, name: &str) -> Result<Box<dyn Prepared>> {
    let kernels: Vec<AttentionKernel> = AttentionKernel::all().into_iter().collect();
    let names: Vec<String> = kernels.iter().map(|kernel| kernel.name().to_string()).collect();
    let found = kernels.into_iter().find(|kernel| kernel.name().to_string() == name);
    let kernel = found.with_context(|| format!("there is no kernel {name}, but {names:?}"))?;
    Ok(Box::new(Tile { operands: Operands::new(case)?, kernel }))
}

impl Prepared for Tile {
    fn run(&mut self) -> Result<()> {
        let Operands { client, case, q, k, v, lengths, .. } = &self.operands;
        let plain = |handle: &TensorHandle| PlainTensor::of_handle(handle.clone());
        let visible = AttentionVisibility::new(case.causal, None, QueryPlacement::Last);
        let scoring = AttentionScoring::standard(visible, case.dim);
        let tensors =
            AttentionTensors::new(client, plain(q), plain(k), plain(v), plain(lengths), scoring)
                .map_err(failed)?;
        let hardware = cubek_std::Hardware::from_client(client);
        let o = self.kernel.launch_lead_on(&hardware, tensors).map_err(failed)?;
        self.operands.o = Some(o);
        self.operands.wait()
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        // [batch, seq_q, heads, dim]
        let Case { batch, heads, seq_q, dim, .. } = self.operands.case;
        let raw = self.operands.read()?;
        let mut o = Vec::with_capacity(raw.len());
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for row in 0..seq_q {
                o.extend_from_slice(&raw[((b * seq_q + row) * heads + h) * dim..][..dim]);
            }
        }
        Ok(o)
    }
}
