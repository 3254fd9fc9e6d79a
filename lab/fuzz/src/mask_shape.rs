use std::ops::RangeInclusive;

use arbitrary::{Result, Unstructured};
use wgpu_attention::mask::{Evaluator, Random, TileGrid};
use wgpu_attention::plan::{InspectPlan, MaskFormat, MaskPlan, TileOptions, TilePlan};
use wgpu_attention::{
    AttentionPlan, AuxData, BackwardPlan, Inputs, Mask, Problem, Shape, reference,
};

use super::device::{kernels, made_or_refused};

/// Any expression on any small shape, with any data: what the evaluator keeps is what the f64 reference attends to, laws of
/// boolean algebra hold, and the kernels that are written for it validate.
pub fn mask_shape(data: &[u8]) {
    let mut u = Unstructured::new(data);
    if let Ok(case) = case(&mut u) {
        let fits = on_the_cpu(&case);
        let made = on_the_device(&case);
        assert!(
            made != Some(false) || !fits,
            "`{}` can be evaluated, but there's no plan",
            case.text
        );
    }
}

struct Case {
    mask: Mask,
    text: String,
    shape: Shape,
    data: AuxData,
    /// Which kind of plan is made. Most numbers are none, since a plan takes a hundred times as long as the rest.
    plan: u8,
}

fn case(u: &mut Unstructured<'_>) -> Result<Case> {
    let plan = u.int_in_range(0..=63)?;
    let heads = u.int_in_range(1..=4)?;
    let kv_heads = *u.choose(&[1, heads])?;
    let shape =
        Shape::new(u.int_in_range(1..=2)?, heads, u.int_in_range(1..=19)?, u.int_in_range(1..=5)?)
            .num_kv_heads(kv_heads)
            .seq_len_kv(u.int_in_range(1..=19)?);
    let mut data = AuxData::new();
    let mask = mask(u, 4, &shape, &mut data)?;
    Ok(Case { text: mask.to_string(), mask, shape, data, plan })
}

/// An expression, and in `data` what it reads.
fn mask(u: &mut Unstructured<'_>, depth: usize, shape: &Shape, data: &mut AuxData) -> Result<Mask> {
    if depth == 0 || u.ratio(21, 29)? {
        return leaf(u, shape, data);
    }
    let mut inner = |u: &mut Unstructured<'_>| mask(u, depth - 1, shape, data);
    Ok(match u.int_in_range(0..=7)? {
        0 => inner(u)?.self_only_if_alone(),
        1 => Mask::PerHead((0..u.int_in_range(0..=4)?).map(|_| inner(u)).collect::<Result<_>>()?),
        2 | 3 => !inner(u)?,
        4 | 5 => inner(u)? & inner(u)?,
        _ => inner(u)? | inner(u)?,
    })
}

/// Any leaf, mostly with arguments and data that fit the shape, so that what is refused doesn't hide the rest. Leaves of one
/// kind share their data, or have data of their own.
fn leaf(u: &mut Unstructured<'_>, shape: &Shape, data: &mut AuxData) -> Result<Mask> {
    let kinds: Vec<_> = Mask::leaves().collect();
    let kind = u.choose(&kinds)?;
    let surplus = usize::from(u.ratio(1, 64)?);
    let mut ended = false;
    let mut draw = |range: RangeInclusive<i64>| {
        let drawn = match u.ratio(1, 128) {
            Ok(true) => u.arbitrary::<i32>().map(i64::from),
            Ok(false) => u.int_in_range(range.clone()),
            Err(error) => Err(error),
        };
        drawn.unwrap_or_else(|_| {
            ended = true;
            *range.start()
        })
    };
    let (mask, own) = kind.random(shape, &mut Random::new(&mut draw).surplus(surplus));
    if ended {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let number = u.int_in_range(1..=2)?;
    *data = std::mem::take(data).with_numbered(number, own);
    Ok(mask.numbered(number))
}

/// Whether mask, shape and data go together.
fn on_the_cpu(case: &Case) -> bool {
    let Case { mask, shape, data, .. } = case;
    let Ok(evaluator) = Evaluator::new(mask, data, shape) else {
        return false;
    };
    assert_eq!(case.text.parse().as_ref(), Ok(mask), "`{}`", case.text);
    let (not, twice) = (!mask.clone(), mask.clone() & mask.clone());
    let (never, alone) = (mask.clone() & not.clone(), mask.clone().self_only_if_alone());
    let bind = |mask| Evaluator::new(mask, data, shape).expect("it reads nothing else");
    let [not, twice, never, alone] = [&not, &twice, &never, &alone].map(bind);

    // With scores of 0 every key that is kept weighs the same, so v's mean says which were.
    let group = shape.num_heads / shape.num_kv_heads;
    let shape = &shape.head_dim_v(1);
    let zeros =
        vec![
            0.0;
            shape.q_len().expect("the shape was validated").max(shape.k_len().expect("as before"))
        ];
    let (q, k) =
        (&zeros[..shape.q_len().expect("as before")], &zeros[..shape.k_len().expect("as before")]);
    let v: Vec<f32> = (0..shape.v_len().expect("as before")).map(|at| value(at) as f32).collect();
    let problem = Problem::new(*shape).mask(mask.clone()).aux_shape(data.shape());
    let attended = reference::attention(&problem, &Inputs::new(q, k, &v).aux(data))
        .expect("the evaluator took it");
    let mut row = 0;
    for b in 0..shape.batch {
        for h in 0..shape.num_heads {
            for q_idx in 0..shape.seq_len_q {
                let (mut kept, mut sum) = (0_u32, 0.0);
                for kv_idx in 0..shape.seq_len_kv {
                    let keep = evaluator.keep(b, h, q_idx, kv_idx);
                    assert_eq!(not.keep(b, h, q_idx, kv_idx), !keep, "!({})", case.text);
                    assert_eq!(twice.keep(b, h, q_idx, kv_idx), keep);
                    assert!(!never.keep(b, h, q_idx, kv_idx));
                    assert!(keep || !alone.keep(b, h, q_idx, kv_idx));
                    if keep {
                        kept += 1;
                        let head = b * shape.num_kv_heads + h / group;
                        sum += value(head * shape.seq_len_kv + kv_idx);
                    }
                }
                let alone = (0..shape.seq_len_kv).any(|kv_idx| alone.keep(b, h, q_idx, kv_idx));
                assert_eq!(
                    alone,
                    kept > 0,
                    "a row that keeps a key keeps one without its own, or that"
                );
                let (o, lse) = (attended.o[row], attended.lse[row]);
                if kept == 0 {
                    assert_eq!((o, lse), (0.0, f64::NEG_INFINITY));
                } else {
                    let (mean, log) = (sum / f64::from(kept), f64::from(kept).ln());
                    assert!(
                        (o - mean).abs() < 1e-9 && (lse - log).abs() < 1e-12,
                        "{o} {mean} {lse} {log}"
                    );
                }
                row += 1;
            }
        }
    }
    true
}

/// An element of v, from its place.
fn value(at: usize) -> f64 {
    (at * at % 61) as f64
}

/// Whether there is a plan, if one is wanted. Its kernels were validated then.
fn on_the_device(case: &Case) -> Option<bool> {
    if case.plan > 4 {
        return None;
    }
    let kernels = kernels();
    let problem = Problem::new(case.shape).mask(case.mask.clone()).aux_shape(case.data.shape());
    Some(match case.plan {
        0 => made_or_refused(MaskPlan::new(&kernels, &problem, MaskFormat::Bits)).is_some(),
        1 => {
            let grid = TileGrid { block_q: 4, block_kv: 8 };
            made_or_refused(TilePlan::new(&kernels, &problem, &TileOptions::default().grid(grid)))
                .is_some()
        }
        2 => made_or_refused(AttentionPlan::new(&kernels, &problem, &Default::default())).is_some(),
        3 => made_or_refused(BackwardPlan::new(&kernels, &problem, &Default::default())).is_some(),
        _ => made_or_refused(InspectPlan::new(&kernels, &problem)).is_some(),
    })
}
