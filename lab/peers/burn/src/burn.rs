//! burn's own attention operator.

use anyhow::Result;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, DeviceKind, Int, Tensor, TensorData};

use burn_peer::{Case, Library, Prepared, failed, serve};

struct Operator {
    device: Device,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    masked: Option<Tensor<4, Bool>>,
    causal: bool,
    o: Option<Tensor<4>>,
}

fn main() -> Result<()> {
    serve(&Library { about: "burn 0.23.0-pre.1", device: "wgpu".to_owned(), prepare: &prepare })
}

fn prepare(case: Case) -> Result<Box<dyn Prepared>> {
    let device = Device::wgpu(DeviceKind::Cpu);
    let Case { batch, heads, kv_heads, seq_q, seq_kv, dim, .. } = case;
    let tensor = |values: Vec<f32>, heads: usize, seq: usize| {
        Tensor::<4>::from_data(TensorData::new(values, [batch, heads, seq, dim]), &device)
    };
    let masked = case.lengths.map(|lengths| {
        let cells = [batch, heads, seq_q, seq_kv];
        let lengths: Vec<i32> = lengths.into_iter().map(|length| length as i32).collect();
        let lengths = Tensor::<1, Int>::from_data(TensorData::from(lengths.as_slice()), &device)
            .reshape([batch, 1, 1, 1]);
        let keys =
            Tensor::<1, Int>::arange(0..seq_kv as i64, &device).reshape([1, 1, 1, seq_kv]);
        keys.expand(cells).greater_equal(lengths.expand(cells))
    });
    Ok(Box::new(Operator {
        q: tensor(case.q, heads, seq_q),
        k: tensor(case.k, kv_heads, seq_kv),
        v: tensor(case.v, kv_heads, seq_kv),
        masked,
        causal: case.causal,
        o: None,
        device,
    }))
}

impl Prepared for Operator {
    fn run(&mut self) -> Result<()> {
        let options = AttentionModuleOptions { is_causal: self.causal, ..Default::default() };
        let (q, k, v) = (self.q.clone(), self.k.clone(), self.v.clone());
        self.o = Some(attention(q, k, v, self.masked.clone(), None, options));
        self.device.sync().map_err(failed)
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let o = self.o.take().ok_or_else(|| failed("nothing has run"))?;
        o.into_data().to_vec().map_err(failed)
    }
}
