//! The cases, told as lines of JSON: how many there are and on what they run, each one's outcome, and that all are done.

use serde::Serialize;
use wasm_bindgen::prelude::*;
use wgpu_attention::Session;

use crate::cases::{self, Failure};
use crate::tell;

/// The first line.
#[derive(Serialize)]
struct Start {
    cases: usize,
    adapter: String,
}

/// A case's line.
#[derive(Serialize)]
struct Line<'a> {
    case: &'a str,
    /// By the names of `wgpu-attention kernels`.
    kernels: &'a [String],
    /// So many tensors were compared, or errors came as they should.
    compared: usize,
    failed: Option<String>,
    refused: Option<String>,
}

/// The last line.
#[derive(Serialize)]
struct End {
    done: bool,
}

/// Runs every case, or those with one of `only` in their names, and hands each line to `post`, whose promise it awaits.
pub(crate) async fn run(
    session: &Session,
    adapter: String,
    only: &[String],
    post: &js_sys::Function,
) -> Result<(), JsValue> {
    let mut cases = cases::all(session);
    cases.retain(|case| only.is_empty() || only.iter().any(|text| case.name.contains(text)));
    let start = Start { cases: cases.len(), adapter };
    tell(post, &start).await?;
    for case in cases {
        let outcome = case.check.await;
        let mut line = Line {
            case: &case.name,
            kernels: &case.kernels,
            compared: 0,
            failed: None,
            refused: None,
        };
        match outcome {
            Ok(0) => line.failed = Some("it compared nothing".to_owned()),
            Ok(compared) => line.compared = compared,
            Err(Failure::Wrong(message)) => line.failed = Some(message),
            Err(Failure::Refused(reason)) => line.refused = Some(reason),
        }
        tell(post, &line).await?;
    }
    tell(post, &End { done: true }).await
}
