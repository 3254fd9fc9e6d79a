//! Results over disjoint sets of keys, put together, against the pass over all of them.

use wgpu_attention::plan::MergePlan;
use wgpu_attention::tensor::{Dtypes, Strides};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Dtype, Layout, Mask, Output, Problem, Shape,
    reference,
};

use crate::fixture::{ATTENTION, Operands};
use crate::tolerance::{assert_close, naive};

fn upload(values: &[f32]) -> wgpu::Buffer {
    use wgpu::util::DeviceExt as _;
    ATTENTION.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(if values.is_empty() { &[0.0] } else { values }),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

fn output(elements: usize) -> wgpu::Buffer {
    upload(&vec![f32::NAN; elements])
}

/// The keys from `bounds[i]` to `bounds[i + 1]` are part i; each is a pass of its own into the merge's buffers.
fn merged(problem: &Problem, operands: &Operands, bounds: &[usize]) -> Output {
    let shape = *problem.shape();
    let merge = MergePlan::new(ATTENTION.kernels(), problem, bounds.len() - 1).unwrap();
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    let q = upload(&operands.q);
    let mut kept = Vec::new();
    for (part, keys) in bounds.windows(2).enumerate() {
        let cut = |values: &[f32], dim: usize| -> Vec<f32> {
            let head = |head: &[f32]| head[keys[0] * dim..keys[1] * dim].to_vec();
            values.chunks(shape.seq_len_kv * dim).flat_map(head).collect()
        };
        let [k, v] = [
            upload(&cut(&operands.k, shape.head_dim)),
            upload(&cut(&operands.v, shape.head_dim_v)),
        ];
        let own = shape.seq_len_kv(keys[1] - keys[0]);
        let offset = shape.seq_len_kv as i32 - shape.seq_len_q as i32 - keys[0] as i32;
        let causal = Mask::causal_offset(offset);
        let plan = AttentionPlan::new(
            ATTENTION.kernels(),
            &Problem::new(own).mask(causal),
            &Default::default(),
        );
        let plan = plan.unwrap();
        let slices = merge.part(part).unwrap();
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: AuxBuffers::new(),
            o: slices.o,
            lse: Some(slices.lse),
        };
        plan.encode(&mut encoder, &buffers).unwrap();
        kept.push((plan, k, v));
    }
    let [o, lse] = [output(shape.o_len().unwrap()), output(shape.lse_len().unwrap())];
    merge.encode(&mut encoder, o.slice(..), Some(lse.slice(..))).unwrap();
    ATTENTION.queue().submit([encoder.finish()]);
    let mut output = Output::default();
    output.o = ATTENTION.read_blocking(&o, shape.o_len().unwrap()).unwrap();
    output.lse = ATTENTION.read_blocking(&lse, shape.lse_len().unwrap()).unwrap();
    output
}

#[test]
fn parts_merge_to_the_whole() {
    for (seed, (seq_len_q, dim_v)) in (0..).zip([(40, 20), (3, 20), (3, 9), (1, 256)]) {
        let shape =
            Shape::new(2, 4, seq_len_q, 20).seq_len_kv(113).num_kv_heads(2).head_dim_v(dim_v);
        let problem = Problem::new(shape).mask(Mask::causal());
        let operands = Operands::random(&shape, seed);
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        let naive = naive(&problem, &Mask::causal(), &operands.inputs());
        // One part; parts of one key, without any, and of keys that some rows or all of them don't keep.
        for bounds in [vec![0, 113], vec![0, 1, 1, 77, 100, 113], (0..=113).step_by(1).collect()] {
            let output = merged(&problem, &operands, &bounds);
            let what = format!("{} parts, {shape:?}", bounds.len() - 1);
            assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
            assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
        }
    }
}

/// A prefix that lies in memory once, for all sequences.
#[test]
fn a_shared_prefix() {
    let (batch, prefix_len, own_len) = (5, 67, 9);
    let shape = Shape::new(batch, 4, 2, 20).num_kv_heads(2);
    let prefix = shape.seq_len_kv(prefix_len);
    let own = shape.seq_len_kv(own_len);
    let shared = Operands::random(&prefix.batch(1), 1);
    let operands = Operands::random(&own, 2);
    let joined = |prefix: &[f32], own: &[f32]| -> Vec<f32> {
        (0..batch * 2)
            .flat_map(|head| {
                let shared = &prefix[head % 2 * prefix_len * 20..][..prefix_len * 20];
                [shared, &own[head * own_len * 20..][..own_len * 20]].concat()
            })
            .collect()
    };
    let whole_shape = shape.seq_len_kv(prefix_len + own_len);
    let whole = Operands {
        q: operands.q.clone(),
        k: joined(&shared.k, &operands.k),
        v: joined(&shared.v, &operands.v),
        mask: Default::default(),
    };
    let problem = Problem::new(whole_shape).mask(Mask::causal());
    let truth = reference::attention(&problem, &whole.inputs()).unwrap();
    let naive = naive(&problem, &Mask::causal(), &whole.inputs());

    let once = Strides { batch: 0, head: prefix_len * 20, seq: 20, dim: 1 };
    let prefix = Problem::new(prefix).k_strides(once).v_strides(once);
    let own = Problem::new(own).mask(Mask::causal());
    let kernels = ATTENTION.kernels();
    let merge = MergePlan::new(kernels, &own, 2).unwrap();
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    let q = upload(&operands.q);
    let kv = [&shared.k, &shared.v, &operands.k, &operands.v].map(|values| upload(values));
    for (part, (problem, [k, v])) in
        [(&prefix, [&kv[0], &kv[1]]), (&own, [&kv[2], &kv[3]])].into_iter().enumerate()
    {
        let slices = merge.part(part).unwrap();
        let buffers = AttentionBuffers {
            q: q.slice(..),
            k: k.slice(..),
            v: v.slice(..),
            aux: AuxBuffers::new(),
            o: slices.o,
            lse: Some(slices.lse),
        };
        AttentionPlan::new(kernels, problem, &Default::default())
            .unwrap()
            .encode(&mut encoder, &buffers)
            .unwrap();
    }
    let o = output(shape.o_len().unwrap());
    merge.encode(&mut encoder, o.slice(..), None).unwrap();
    ATTENTION.queue().submit([encoder.finish()]);
    let o = ATTENTION.read_blocking(&o, shape.o_len().unwrap()).unwrap();
    assert_close("o over a shared prefix", &o, &naive.o, &truth.o);
}

/// Parts from elsewhere, copied in: what an empty part holds never matters, a NaN that counts shows.
#[test]
fn parts_are_copied_in() {
    let shape = Shape::new(1, 2, 2, 4);
    let dtypes = Dtypes::default().o(Dtype::F16);
    let problem = Problem::new(shape).layout(Layout::Bshd).dtypes(dtypes);
    let merge = MergePlan::new(ATTENTION.kernels(), &problem, 3).unwrap();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // Per row: two parts of equal weight; the second three times the first; none; a NaN.
    let lses = [[0.5, 0.0, -inf, 0.0], [-inf, -inf, -inf, nan], [0.5, 3f32.ln(), -inf, 0.0]];
    let values = [[2.0; 4], [nan, inf, nan, 1.0], [4.0; 4]];
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    for (part, (lse, value)) in lses.iter().zip(values).enumerate() {
        let o: Vec<f32> = value.iter().flat_map(|&x| [x; 4]).collect();
        let slices = merge.part(part).unwrap();
        for (from, to) in [(upload(&o), slices.o), (upload(lse), slices.lse)] {
            encoder.copy_buffer_to_buffer(&from, 0, to.buffer(), to.offset(), to.size());
        }
    }
    let [o, lse] = [output(8), output(4)];
    merge.encode(&mut encoder, o.slice(..), Some(lse.slice(..))).unwrap();
    ATTENTION.queue().submit([encoder.finish()]);
    let words = ATTENTION.read_blocking(&o, 8).unwrap();
    let halves = words.iter().flat_map(|word| [word.to_bits() & 0xffff, word.to_bits() >> 16]);
    let found: Vec<f32> = halves.map(|bits| half::f16::from_bits(bits as u16).to_f32()).collect();
    let found_lse = ATTENTION.read_blocking(&lse, 4).unwrap();
    // [batch, seq, heads, dim]: row (h, q_idx) is at (q_idx * 2 + h) * 4.
    let row = |h: usize, q_idx: usize| &found[(q_idx * 2 + h) * 4..][..4];
    assert_eq!(row(0, 0), [3.0; 4]);
    assert_eq!(row(0, 1), [3.5; 4]);
    assert_eq!(row(1, 0), [0.0; 4]);
    assert!(row(1, 1).iter().all(|x| x.is_nan()), "{:?}", row(1, 1));
    assert!((found_lse[0] - (0.5 + 2f32.ln())).abs() < 1e-6, "{found_lse:?}");
    assert!((found_lse[1] - 4f32.ln()).abs() < 1e-6, "{found_lse:?}");
    assert!(found_lse[2] == -inf && found_lse[3].is_nan(), "{found_lse:?}");
}

#[test]
fn bad_parts() {
    let problem = Problem::new(Shape::new(1, 2, 3, 4));
    let kernels = ATTENTION.kernels();
    let text = MergePlan::new(kernels, &problem, 0).unwrap_err().to_string();
    assert!(text.starts_with("parts: expected at least 1"), "{text}");
    let merge = MergePlan::new(kernels, &problem, 2).unwrap();
    let text = merge.part(2).unwrap_err().to_string();
    assert!(text.starts_with("part: expected less than 2"), "{text}");
    let mut encoder = ATTENTION.device().create_command_encoder(&Default::default());
    let small = output(5);
    let text = merge.encode(&mut encoder, small.slice(..), None).unwrap_err().to_string();
    assert!(text.starts_with("o: expected a slice of at least 96 bytes"), "{text}");
    let part = merge.part(0).unwrap();
    let text = merge.encode(&mut encoder, part.o, None).unwrap_err().to_string();
    assert!(text.contains("another buffer than the input parts of o"), "{text}");
}
