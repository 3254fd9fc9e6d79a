//! Errors, as the page shows them.

use serde::Serialize;
use wasm_bindgen::JsValue;
use wgpu_attention::Error;

/// What went wrong, and where.
#[derive(Debug, Serialize)]
struct Fault {
    /// `mask`, `wgsl`, `lost`, `memory` or `other`.
    kind: &'static str,
    message: String,
    /// In the mask's text or the function's, from 1 on.
    line: Option<usize>,
    column: Option<usize>,
}

/// An error as JSON, for JavaScript to catch.
pub(crate) fn fault(error: &Error) -> JsValue {
    let message = error.to_string();
    let place = place(&message);
    let fault = match error {
        Error::ParseMask(error) => Fault {
            kind: "mask",
            message: error.message.clone(),
            line: None,
            column: Some(error.column),
        },
        Error::Operand { operand, .. } if operand == "wgsl" => Fault {
            kind: "wgsl",
            message,
            line: place.map(|place| place.0),
            column: place.map(|place| place.1),
        },
        Error::DeviceLost { .. } => Fault { kind: "lost", message, line: None, column: None },
        Error::OutOfMemory { .. } => Fault { kind: "memory", message, line: None, column: None },
        _ => Fault { kind: "other", message, line: None, column: None },
    };
    serde_json::to_string(&fault).unwrap_or_default().into()
}

/// Line and column in a compiler's message: the first `:3:14`.
fn place(message: &str) -> Option<(usize, usize)> {
    message.match_indices(':').find_map(|(at, _)| {
        let mut parts = message[at + 1..].splitn(2, ':');
        let line = parts.next()?.parse().ok()?;
        let rest = parts.next()?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some((line, rest[..digits].parse().ok()?))
    })
}
