//! What goes wrong comes back as an error, late though the browser tells.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use wgpu_attention::plan::MaskFormat;
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{AttentionPlan, Error, Mask, Problem, RunOptions, Session, Shape, reference};

use super::{Case, Failure, Outcome, case, ensure, same_bits};
use crate::operands::Operands;

const SHAPE: Shape = Shape::new(1, 2, 33, 20);

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    vec![
        case("text that doesn't compile", &[], broken_text(attention)),
        case("a broken call beside good ones", &[], side_by_side(attention)),
        case("more than a buffer holds", &[], too_large(attention)),
        case("a device that was destroyed", &[], lost()),
    ]
}

fn broken() -> Result<Problem, Error> {
    let text = "fn keep(b: u32,\n h: u32, q_idx: u32, kv_idx: u32) -> bool {\n return nothing; }";
    Ok(Problem::new(SHAPE).mask(Mask::Wgsl(WgslFunction::new(text)?)))
}

/// An error that names the operand, the line and what is wrong there.
fn ensure_told<T>(what: &str, result: Result<T, Error>) -> Result<(), Failure> {
    let told = match result {
        Ok(_) => format!("{what} noticed nothing"),
        Err(error @ Error::Operand { .. }) => {
            let text = error.to_string();
            if text.contains("wgsl") && text.contains(":3:") && text.contains("nothing") {
                return Ok(());
            }
            format!("{what}: {text}")
        }
        Err(error) => format!("{what}: {error:?}"),
    };
    Err(Failure::Wrong(told))
}

async fn broken_text(attention: &Session) -> Outcome {
    let problem = broken()?;
    let operands = Operands::random(&SHAPE, 1);
    let outputs = RunOptions::default();
    ensure_told("run", attention.run(&problem, &operands.inputs(), &outputs).await)?;
    let tensor = attention.materialize(&problem, &operands.mask, MaskFormat::Keep).await;
    ensure_told("materialize", tensor)?;
    // A plan that was made of it: the device's word comes when it is asked for, once.
    let plan = AttentionPlan::new(attention.kernels(), &problem, &Default::default());
    let settled = attention.kernels().settle().await;
    ensure_told("settle", plan.and(settled))?;
    attention.kernels().settle().await?;
    Ok(3)
}

/// Calls at a time on one device: whichever hears of it first, none takes a broken result for a good one.
async fn side_by_side(attention: &Session) -> Outcome {
    let operands = Operands::random(&SHAPE, 1);
    let (good, broken) = (Problem::new(SHAPE).mask(Mask::causal()), broken()?);
    let (inputs, outputs) = (operands.inputs(), RunOptions::default());
    let expected = attention.run(&good, &inputs, &outputs).await?.o;
    let mut compared = 0;
    for broken_first in [true, false] {
        let mut first =
            pin!(attention.run(if broken_first { &broken } else { &good }, &inputs, &outputs));
        let mut second =
            pin!(attention.run(if broken_first { &good } else { &broken }, &inputs, &outputs));
        let (mut found_first, mut found_second) = (None, None);
        poll_fn(|context| {
            if found_first.is_none()
                && let Poll::Ready(found) = first.as_mut().poll(context)
            {
                found_first = Some(found);
            }
            if found_second.is_none()
                && let Poll::Ready(found) = second.as_mut().poll(context)
            {
                found_second = Some(found);
            }
            match found_first.is_some() && found_second.is_some() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        let (Some(first), Some(second)) = (found_first, found_second) else {
            return Err(Failure::Wrong("a call without an end".to_owned()));
        };
        let (good, broken) = if broken_first { (second, first) } else { (first, second) };
        ensure(broken.is_err(), || "the broken call noticed nothing".to_owned())?;
        if let Ok(found) = good {
            same_bits("the good call's o", &found.o, &expected)?;
        }
        compared += 2;
    }
    let again = attention.run(&good, &inputs, &outputs).await?;
    same_bits("o afterwards", &again.o, &expected)?;
    Ok(compared + 1)
}

async fn too_large(attention: &Session) -> Outcome {
    let limits = attention.device().limits();
    let elements = usize::try_from(limits.max_buffer_size / 4 + 1).unwrap_or(usize::MAX);
    let shape = Shape::new(1, 1, 1, 1).seq_len_kv(elements.min(1 << 30));
    match attention.materialize(&Problem::new(shape), &Default::default(), MaskFormat::Keep).await {
        Err(Error::Limit { .. } | Error::Operand { .. }) => Ok(1),
        Err(error) => Err(Failure::Wrong(error.to_string())),
        Ok(_) => Err(Failure::Wrong(format!("{elements} elements fit"))),
    }
}

async fn lost() -> Outcome {
    let own = Session::open(&Default::default()).await?;
    let operands = Operands::random(&SHAPE, 1);
    let problem = Problem::new(SHAPE).mask(Mask::causal());
    let (inputs, outputs) = (operands.inputs(), RunOptions::default());
    let found = own.run(&problem, &inputs, &outputs).await?;
    let truth = reference::attention(&problem, &inputs)?;
    ensure(found.o.len() == truth.o.len(), || "its size".to_owned())?;
    own.device().destroy();
    for _ in 0..2 {
        match own.run(&problem, &inputs, &outputs).await {
            Err(Error::DeviceLost { .. }) => {}
            Err(error) => return Err(Failure::Wrong(format!("{error:?}"))),
            Ok(_) => return Err(Failure::Wrong("a result from a destroyed device".to_owned())),
        }
    }
    Ok(2)
}
