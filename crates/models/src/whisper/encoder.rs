//! The encoder: 30 seconds of sound become 1500 rows, each of which has looked at all others.

use anyhow::{Result, ensure};
use operators::{Dispatch, Format, Gpu, Matrix, Norm, Rows, Then};
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxBuffers, Layout, Problem, Shape};

use super::sound::BANDS;
use super::{FRAMES, Sizes};
use crate::ctranslate::ModelFile;
use crate::layers::{ADD, GELU, Linear};

/// Rows that the encoder makes of a window.
pub(super) const HEARD: usize = FRAMES / 2;

/// The encoder with its buffers.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The mel bands of a window, `[FRAMES, BANDS]`.
    pub(super) bands: Rows,
    /// What comes out, `[HEARD, width]`.
    pub(super) heard: Rows,
    attention: AttentionPlan,
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    start: Vec<Dispatch>,
    /// Before and after attention.
    layers: Vec<[Vec<Dispatch>; 2]>,
    end: Dispatch,
}

/// A layer's feed-forward half: `x + W2 gelu(W1 norm(x))`.
#[derive(Debug)]
pub(super) struct FeedForward {
    norm: Norm,
    wide: Linear,
    narrow: Linear,
}

impl FeedForward {
    pub(super) fn open(gpu: &Gpu, file: &ModelFile, name: &str, sizes: Sizes) -> Result<Self> {
        let Sizes { width, wide, .. } = sizes;
        Ok(Self {
            norm: file.norm(gpu, &format!("{name}/layer_norm"), width)?,
            wide: file.linear(gpu, &format!("{name}/linear_0"), [wide, width])?,
            narrow: file.linear(gpu, &format!("{name}/linear_1"), [width, wide])?,
        })
    }

    pub(super) fn dispatches(
        &self,
        gpu: &Gpu,
        [x, normed, hidden]: [&Rows; 3],
    ) -> Result<[Dispatch; 3]> {
        Ok([
            gpu.norm(x, &self.norm, normed, None)?,
            self.wide.dispatch(gpu, normed, hidden, GELU)?,
            self.narrow.dispatch(gpu, hidden, x, ADD)?,
        ])
    }
}

impl Encoder {
    pub(super) fn open(gpu: &Gpu, file: &ModelFile, sizes: Sizes) -> Result<Self> {
        let Sizes { width, wide, heads, .. } = sizes;
        let shape = Shape::new(1, heads, HEARD, width / heads);
        let problem = Problem::new(shape).layout(Layout::Bshd);
        let zeros = |rows, columns| Rows::zeros(gpu, rows, columns);
        let bands = zeros(FRAMES, BANDS);
        let (taps, once, more_taps) =
            (zeros(FRAMES, 3 * BANDS), zeros(FRAMES, width), zeros(HEARD, 3 * width));
        let [x, normed, q, k, v, o, heard] = [0; 7].map(|_| zeros(HEARD, width));
        let hidden = zeros(HEARD, wide);

        let positions = file.matrix(gpu, "encoder/position_encodings/encodings", [HEARD, width])?;
        let every_row = gpu.upload(&(0..HEARD as u32).collect::<Vec<_>>());
        let first = convolution(gpu, file, "encoder/conv1", [width, BANDS])?;
        let second = convolution(gpu, file, "encoder/conv2", [width, width])?;
        let start = vec![
            gpu.unfold(&bands, 1, &taps)?,
            first.dispatch(gpu, &taps, &once, GELU)?,
            gpu.unfold(&once, 2, &more_taps)?,
            second.dispatch(gpu, &more_taps, &x, GELU)?,
            gpu.embed(&positions, &every_row, &x, true)?,
        ];
        let layers = (0..file.count("encoder/layer_", "/ffn/linear_0/weight"))
            .map(|layer| {
                let name = format!("encoder/layer_{layer}");
                let own = format!("{name}/self_attention");
                let norm = file.norm(gpu, &format!("{own}/layer_norm"), width)?;
                let [to_q, to_k, to_v] =
                    file.split_linear(gpu, &format!("{own}/linear_0"), [width, width])?;
                let out = file.linear(gpu, &format!("{own}/linear_1"), [width, width])?;
                let feed_forward = FeedForward::open(gpu, file, &format!("{name}/ffn"), sizes)?;
                let before = vec![
                    gpu.norm(&x, &norm, &normed, None)?,
                    to_q.dispatch(gpu, &normed, &q, Then::default())?,
                    to_k.dispatch(gpu, &normed, &k, Then::default())?,
                    to_v.dispatch(gpu, &normed, &v, Then::default())?,
                ];
                let mut after = vec![out.dispatch(gpu, &o, &x, ADD)?];
                after.extend(feed_forward.dispatches(gpu, [&x, &normed, &hidden])?);
                Ok([before, after])
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!layers.is_empty(), "the file has no encoder/layer_0");
        let norm = file.norm(gpu, "encoder/layer_norm", width)?;
        Ok(Self {
            end: gpu.norm(&x, &norm, &heard, None)?,
            bands,
            heard,
            attention: AttentionPlan::new(gpu.kernels(), &problem, &Default::default())?,
            q,
            k,
            v,
            o,
            start,
            layers,
        })
    }

    /// Records the encoder.
    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        Dispatch::encode_all(&self.start, encoder);
        for [before, after] in &self.layers {
            Dispatch::encode_all(before, encoder);
            let buffers = AttentionBuffers {
                q: self.q.values.slice(..),
                k: self.k.values.slice(..),
                v: self.v.values.slice(..),
                aux: AuxBuffers::new(),
                o: self.o.values.slice(..),
                lse: None,
            };
            self.attention.encode(encoder, &buffers)?;
            Dispatch::encode_all(after, encoder);
        }
        self.end.encode(encoder);
        Ok(())
    }
}

/// A convolution's weights `[outputs, inputs, 3]` as a matrix `[outputs, 3, inputs]`, for unfolded rows.
fn convolution(
    gpu: &Gpu,
    file: &ModelFile,
    name: &str,
    [outputs, inputs]: [usize; 2],
) -> Result<Linear> {
    let values = file.values(&format!("{name}/weight"), &[outputs, inputs, 3])?;
    let turned: Vec<f32> = (0..outputs * 3 * inputs)
        .map(|at| {
            let (output, tap, input) = (at / (3 * inputs), at / inputs % 3, at % inputs);
            values[(output * inputs + input) * 3 + tap]
        })
        .collect();
    let sizes = [outputs, 3 * inputs];
    let weight = Matrix::new(gpu, name, Format::F32, sizes, bytemuck::cast_slice(&turned))?;
    Ok(Linear { weight, bias: Some(file.row(gpu, &format!("{name}/bias"), outputs)?) })
}
