use arbitrary::{Result, Unstructured};
use wgpu_attention::{
    AttentionPlan, BackwardPlan, Causal, ColumnRanges, Evaluator, Inputs, InspectPlan, Mask,
    MaskData, MaskFormat, MaskInput, MaskPlan, Problem, Shape, TileGrid, TilePlan, Window,
    reference,
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
    data: MaskData,
    /// Which kind of plan is made. Most numbers are none, since a plan takes a hundred times as long as the rest.
    plan: u8,
}

fn case(u: &mut Unstructured<'_>) -> Result<Case> {
    let plan = u.int_in_range(0..=63)?;
    let heads = u.int_in_range(1..=4)?;
    let kv_heads = *u.choose(&[1, heads])?;
    let shape =
        Shape::new(u.int_in_range(1..=2)?, heads, u.int_in_range(1..=19)?, u.int_in_range(1..=5)?)
            .kv_heads(kv_heads)
            .seq_kv(u.int_in_range(1..=19)?);
    let mask = mask(u, 4)?;
    let data = mask
        .inputs()
        .into_iter()
        .try_fold(MaskData::new(), |data, input| fill(data, input, &shape, u))?;
    Ok(Case { text: mask.to_string(), mask, shape, data, plan })
}

/// A number as masks have them: small more often than not.
fn number(u: &mut Unstructured<'_>) -> Result<u32> {
    if u.ratio(7, 8)? { u.int_in_range(0..=20) } else { u.arbitrary() }
}

fn mask(u: &mut Unstructured<'_>, depth: usize) -> Result<Mask> {
    let bound = |u: &mut Unstructured<'_>| Ok(if u.ratio(1, 4)? { None } else { Some(number(u)?) });
    let inner = |u: &mut Unstructured<'_>| mask(u, depth - 1);
    Ok(match u.int_in_range(0..=if depth == 0 { 20 } else { 28 })? {
        0 => Mask::All,
        1 => Mask::Causal(Causal::LowerRight),
        2 => Mask::Causal(Causal::UpperLeft),
        3 if u.ratio(1, 8)? => Mask::Causal(Causal::Offset(u.arbitrary()?)),
        3 => Mask::Causal(Causal::Offset(u.int_in_range(-20..=20)?)),
        4 => Mask::Window(Window { left: bound(u)?, right: bound(u)? }),
        5 => Mask::KeyLengths,
        6 => Mask::KeyPadding,
        7 => Mask::TokenPadding,
        8 => Mask::Prefix,
        9 => Mask::Documents,
        10 => Mask::NotSelf,
        11 => Mask::Dense,
        12 => Mask::Chunk(number(u)?),
        13 => Mask::Dilated { window: number(u)?, step: number(u)? },
        14 => Mask::Strided(number(u)?),
        15 => Mask::Global(number(u)?),
        16 => Mask::BlockBidirectional,
        17 => Mask::Buckets,
        18 => Mask::ColumnRanges(ColumnRanges::Ranges),
        19 => Mask::ColumnRanges(ColumnRanges::Bidirectional),
        20 => Mask::Tree,
        21 => inner(u)?.self_only_if_alone(),
        22 => Mask::PerHead((0..u.int_in_range(0..=4)?).map(|_| inner(u)).collect::<Result<_>>()?),
        23 | 24 => !inner(u)?,
        25 | 26 => inner(u)? & inner(u)?,
        _ => inner(u)? | inner(u)?,
    })
}

/// Data for an input: mostly of its sizes and within its bounds, so that what is refused doesn't hide the rest.
fn fill(
    data: MaskData,
    input: MaskInput,
    shape: &Shape,
    u: &mut Unstructured<'_>,
) -> Result<MaskData> {
    let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
    let extra = usize::from(u.ratio(1, 64)?);
    let int = |u: &mut Unstructured<'_>, most: usize| {
        if u.ratio(1, 128)? { u.arbitrary() } else { u.int_in_range(0..=most as i32) }
    };
    let ints = |u: &mut Unstructured<'_>, len: usize, most: usize| {
        (0..len + extra).map(|_| int(u, most)).collect::<Result<Vec<i32>>>()
    };
    let bools = |u: &mut Unstructured<'_>, len: usize| {
        (0..len + extra).map(|_| u.arbitrary()).collect::<Result<Vec<bool>>>()
    };
    let or_one = |u: &mut Unstructured<'_>, size: usize| Ok(if u.arbitrary()? { size } else { 1 });
    let (queries, keys) = (batch * seq_len_q, batch * seq_len_kv);
    Ok(match input {
        MaskInput::KeyLengths => data.key_lengths(ints(u, batch, seq_len_kv)?),
        MaskInput::PrefixLengths => data.prefix_lengths(ints(u, batch, seq_len_kv)?),
        MaskInput::KeyPadding => data.key_padding(bools(u, keys)?),
        MaskInput::TokenIds => data.token_ids(ints(u, keys, 3)?, int(u, 3)?),
        MaskInput::DocumentIdsQ => data.document_ids_q_kv(ints(u, queries, 3)?, ints(u, keys, 3)?),
        MaskInput::BlockIdsQ => data.block_ids_q_kv(ints(u, queries, 3)?, ints(u, keys, 3)?),
        MaskInput::TreeParents => {
            let parents =
                (0..queries + extra).map(|at| Ok(int(u, at % seq_len_q)?.wrapping_sub(1)));
            data.tree_parents(parents.collect::<Result<Vec<i32>>>()?)
        }
        MaskInput::BucketIds => {
            let sizes = [batch, or_one(u, num_heads)?, u.int_in_range(1..=3)?, seq_len_kv];
            data.bucket_ids(sizes, ints(u, sizes.iter().product(), 3)?)
        }
        MaskInput::ColumnRanges => {
            let bounds = *u.choose(&[1, 2, 4])?;
            let sizes = [batch, or_one(u, num_heads)?, seq_len_kv, bounds];
            let mut rows = ints(u, sizes.iter().product(), seq_len_q)?;
            for range in rows.chunks_mut(2).filter(|_| bounds > 1) {
                range.sort_unstable();
            }
            data.column_ranges(sizes, rows)
        }
        MaskInput::Dense => {
            let sizes =
                [or_one(u, batch)?, or_one(u, num_heads)?, or_one(u, seq_len_q)?, seq_len_kv];
            data.dense(sizes, bools(u, sizes.iter().product())?)
        }
        // They come with those before them; masks read no others.
        _ => data,
    })
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
    let shape = &shape.dim_v(1);
    let zeros =
        vec![
            0.0;
            shape.q_len().expect("the shape was validated").max(shape.k_len().expect("as before"))
        ];
    let (q, k) =
        (&zeros[..shape.q_len().expect("as before")], &zeros[..shape.k_len().expect("as before")]);
    let v: Vec<f32> = (0..shape.v_len().expect("as before")).map(|at| value(at) as f32).collect();
    let problem = Problem::new(*shape).mask(mask.clone()).data_shape(data.shape());
    let attended = reference::attention(&problem, &Inputs::new(q, k, &v).mask(data))
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
    let problem = Problem::new(case.shape).mask(case.mask.clone()).data_shape(case.data.shape());
    Some(match case.plan {
        0 => made_or_refused(MaskPlan::new(&kernels, &problem, MaskFormat::Bits)).is_some(),
        1 => {
            let grid = TileGrid { block_q: 4, block_kv: 8 };
            made_or_refused(TilePlan::new(&kernels, &problem, Some(grid))).is_some()
        }
        2 => made_or_refused(AttentionPlan::new(&kernels, &problem)).is_some(),
        3 => made_or_refused(BackwardPlan::new(&kernels, &problem)).is_some(),
        _ => made_or_refused(InspectPlan::new(&kernels, &problem)).is_some(),
    })
}
