//! What the crate computes in a browser, compared with its f64 reference at the tolerances of the tests on native drivers,
//! whose operands and tolerances these are.
//!
//! [`run`] is all that the page calls. What it hands back are lines of JSON: how many cases there are and on what they run,
//! then each case's outcome, then that all are done.

#[path = "../../../../tests/device/operands.rs"]
mod operands;
#[expect(dead_code, reason = "the native tests need more of it")]
#[path = "../../../../tests/device/tolerance.rs"]
mod tolerance;

mod cases;
mod gpu;

use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wgpu_attention::Session;

use cases::Failure;

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

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// Runs every case, or those with one of `only` in their names, on the browser's best adapter, which is called `adapter`, and
/// hands each line to `post`, whose promise it awaits.
///
/// # Errors
/// Where there is no device, and where `post` fails.
#[wasm_bindgen]
pub async fn run(
    adapter: String,
    only: Vec<String>,
    post: js_sys::Function,
) -> Result<(), JsValue> {
    // A panic ends the page's code; that it did, the host notices.
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
    let attention =
        Session::open(&Default::default()).await.map_err(|error| error.to_string())?;
    let mut cases = cases::all(&attention);
    cases.retain(|case| only.is_empty() || only.iter().any(|text| case.name.contains(text)));
    let start = Start { cases: cases.len(), adapter };
    tell(&post, &start).await?;
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
        tell(&post, &line).await?;
    }
    tell(&post, &End { done: true }).await
}

async fn tell(post: &js_sys::Function, line: &impl Serialize) -> Result<(), JsValue> {
    let text = serde_json::to_string(line).map_err(|error| error.to_string())?;
    let answer = post.call1(&JsValue::NULL, &text.into())?;
    JsFuture::from(js_sys::Promise::resolve(&answer)).await.map(|_| ())
}
