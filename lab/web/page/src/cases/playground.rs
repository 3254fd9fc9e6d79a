//! What the playground shows of every card, on the device and by the reference.

use std::collections::BTreeMap;

use wgpu_attention::Session;

use super::{Case, Outcome, case, ensure};
use crate::gallery;
use crate::playground::{Request, Sequences, Source, View, numbers};

/// Weights from 0 to 1 of sums in f32, and scores of sizes below 64.
const TOLERANCE: f32 = 1e-5;

pub(super) fn cases(attention: &Session) -> Vec<Case<'_>> {
    // What only the device knows the reference can't tell.
    let cards = gallery::cards().into_iter().map(|card| card.mask).filter(|mask| mask != "wgsl");
    cards
        .map(|mask| case(format!("the page's picture of {mask}"), &[], picture(attention, mask)))
        .chain([case("the page's sliders", &[], sliders())])
        .collect()
}

async fn sliders() -> Outcome {
    let text = "window(4, inf) | !chunk(size=16) & documents(data=2)";
    let found = serde_json::to_string(&numbers(text)).map_err(|error| error.to_string())?;
    let expected = r#"[{"start":7,"end":8,"name":"window: left","value":4},{"start":10,"end":13,"name":"window: right","value":null},{"start":29,"end":31,"name":"chunk: size","value":16}]"#;
    ensure(found == expected, || format!("{found} instead of {expected}"))?;
    Ok(1)
}

async fn picture(attention: &Session, mask: String) -> Outcome {
    let text = |len: usize| (0..len).map(|at| format!("t{at}")).collect();
    let source =
        Source::Random { tokens: vec![text(23), text(9)], heads: 4, head_dim: 32, seed: 1 };
    let sequences = Sequences::of(&source, &BTreeMap::new())?;
    let mut compared = 0;
    for (sequence, head, queries) in [(0, 0, 0), (1, 3, 10)] {
        let request = Request::new(&mask, source.clone()).at(sequence, head).last_queries(queries);
        let view = View::new(&request, sequences.clone())?;
        let (found, expected) = (view.picture(Some(attention)).await?, view.picture(None).await?);
        let keep = view.keep()?;
        for (name, found, expected) in [
            ("scores", &found.scores, &expected.scores),
            ("masked scores", &found.masked, &expected.masked),
            ("weights", &found.weights, &expected.weights),
            ("weights without the mask", &found.unmasked, &expected.unmasked),
        ] {
            let differs = found
                .iter()
                .zip(expected)
                .position(|(x, y)| x != y && !((x - y).abs() <= TOLERANCE));
            ensure(found.len() == keep.len() && differs.is_none(), || {
                format!("{name} of {mask}: other numbers, first at {differs:?}")
            })?;
            compared += 1;
        }
        let masked = found.masked.iter().map(|&score| u8::from(score != f32::NEG_INFINITY));
        ensure(masked.eq(keep.iter().copied()), || format!("{mask}: other cells are kept"))?;
        // A class may say less than is true, and never more.
        let right = found.tiles.iter().zip(&expected.tiles).all(|(x, y)| x == y || *x == 1);
        ensure(found.tiles.len() == expected.tiles.len() && right, || {
            format!("{mask}: tiles {:?} instead of {:?}", found.tiles, expected.tiles)
        })?;
    }
    Ok(compared)
}
