//! What the page computes, on the browser's device or, where there is none, by the f64 reference: [`Engine`] is all that its
//! scripts call. Masks, data and errors are decided here; the scripts draw.
//!
//! The cases (`cases/`) compare what the crate computes here with the reference, at the tolerances of the tests on native
//! drivers, whose operands and tolerances these are.

#[path = "../../../../tests/device/operands.rs"]
mod operands;
#[expect(dead_code, reason = "the native tests need more of it")]
#[path = "../../../../tests/device/tolerance.rs"]
mod tolerance;

mod cases;
mod checks;
mod fault;
mod gallery;
mod generate;
mod gpu;
mod heads;
mod playground;
mod rates;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wgpu_attention::{Result, Session};

use fault::fault;
use playground::{Sequences, View};

/// A browser doesn't say whether its device's `fma` rounds once.
const fn fuses() -> bool {
    false
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// The crate on the browser's device, or without one.
#[wasm_bindgen]
pub struct Engine {
    session: Option<Session>,
    /// Why there is no session.
    missing: String,
    layers: RefCell<BTreeMap<u32, Rc<Sequences>>>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens the browser's best device, if there is one and it is wanted.
    pub async fn open(device: bool) -> Self {
        // A panic ends this code; the page tells, and starts it anew.
        std::panic::set_hook(Box::new(|info| error(&info.to_string())));
        let (session, missing) = match device {
            false => (None, String::new()),
            true => match Session::open(&Default::default()).await {
                Ok(session) => (Some(session), String::new()),
                Err(error) => (None, error.to_string()),
            },
        };
        Self { session, missing, layers: RefCell::default() }
    }

    /// What it computes on, as JSON.
    pub fn about(&self) -> String {
        #[derive(Serialize)]
        struct About<'a> {
            version: &'static str,
            device: bool,
            missing: &'a str,
            features: Vec<String>,
            limits: BTreeMap<&'static str, u64>,
        }
        let (mut features, mut limits) = (Vec::new(), BTreeMap::new());
        if let Some(session) = &self.session {
            features
                .extend(session.device().features().iter_names().map(|(name, _)| name.to_owned()));
            let found = session.device().limits();
            limits.extend([
                ("max_buffer_size", found.max_buffer_size),
                ("max_storage_buffer_binding_size", found.max_storage_buffer_binding_size),
                (
                    "max_storage_buffers_per_shader_stage",
                    found.max_storage_buffers_per_shader_stage.into(),
                ),
                (
                    "max_compute_workgroup_storage_size",
                    found.max_compute_workgroup_storage_size.into(),
                ),
                (
                    "max_compute_invocations_per_workgroup",
                    found.max_compute_invocations_per_workgroup.into(),
                ),
                (
                    "max_compute_workgroups_per_dimension",
                    found.max_compute_workgroups_per_dimension.into(),
                ),
            ]);
        }
        let device = self.session.is_some();
        let version = env!("CARGO_PKG_VERSION");
        json(&About { version, device, missing: &self.missing, features, limits })
    }

    /// Every card of the gallery, as JSON.
    pub fn cards() -> String {
        json(&gallery::cards())
    }

    /// Every way to write a leaf, as JSON.
    pub fn forms() -> String {
        json(&gallery::forms())
    }

    /// Takes a layer's safetensors file.
    ///
    /// # Errors
    /// As [`Engine::picture`], where it isn't one.
    pub fn add_layer(&self, layer: u32, bytes: &[u8]) -> Result<(), JsValue> {
        let sequences = Sequences::of_file(bytes).map_err(|error| fault(&error))?;
        self.layers.borrow_mut().insert(layer, Rc::new(sequences));
        Ok(())
    }

    /// What a request's text stands for and what its mask keeps: an object of JSON, `about`, and bytes, `keep`.
    ///
    /// # Errors
    /// As [`Engine::picture`].
    pub fn outline(&self, request: &str) -> Result<JsValue, JsValue> {
        let view = self.view(request)?;
        let keep = view.keep().map_err(|error| fault(&error))?;
        object(&[
            ("about", json(&view.outline).into()),
            ("keep", js_sys::Uint8Array::from(&keep[..]).into()),
        ])
    }

    /// Scores, weights, tiles and leaks: an object of JSON, `summary`, and arrays.
    ///
    /// # Errors
    /// JSON: `kind`, `message`, and `line` and `column` where there are such.
    pub async fn picture(&self, request: &str) -> Result<JsValue, JsValue> {
        let view = self.view(request)?;
        let picture = view.picture(self.session.as_ref()).await.map_err(|error| fault(&error))?;
        object(&[
            ("summary", json(&picture.summary).into()),
            ("scores", floats(&picture.scores)),
            ("masked", floats(&picture.masked)),
            ("weights", floats(&picture.weights)),
            ("unmasked", floats(&picture.unmasked)),
            ("tiles", js_sys::Uint8Array::from(&picture.tiles[..]).into()),
        ])
    }

    /// All positions at once and in steps: an object of JSON, `summary`, and arrays.
    ///
    /// # Errors
    /// As [`Engine::picture`].
    pub async fn generate(&self, request: &str) -> Result<JsValue, JsValue> {
        let request: generate::Request = read(request)?;
        let sequences = self.sequences(&request.source)?;
        let both = generate::both(&request, &sequences, self.session.as_ref()).await;
        let both = both.map_err(|error| fault(&error))?;
        object(&[
            ("summary", json(&both.summary).into()),
            ("at_once", floats(&both.at_once)),
            ("unmasked", floats(&both.unmasked)),
            ("in_steps", floats(&both.in_steps)),
            ("o_at_once", floats(&both.o_at_once)),
            ("o_in_steps", floats(&both.o_in_steps)),
        ])
    }

    /// The weights of all heads of a layer: an object of JSON, `summary`, and `weights`.
    ///
    /// # Errors
    /// As [`Engine::picture`].
    pub async fn heads(&self, request: &str) -> Result<JsValue, JsValue> {
        let request: heads::Request = read(request)?;
        let source = playground::Source::Model { layer: request.layer };
        let sequences = self.sequences(&source)?;
        let heads = heads::heads(&request, &sequences, self.session.as_ref()).await;
        let heads = heads.map_err(|error| fault(&error))?;
        object(&[("summary", json(&heads.summary).into()), ("weights", floats(&heads.weights))])
    }

    /// Runs every case, or those with one of `only` in their names, and hands each line to `post`.
    ///
    /// # Errors
    /// Where there is no device, and where `post` fails.
    pub async fn checks(
        &self,
        adapter: String,
        only: Vec<String>,
        post: js_sys::Function,
    ) -> Result<(), JsValue> {
        checks::run(self.session()?, adapter, &only, &post).await
    }

    /// Measures the device's own rates and attention's shares of them, and hands each to `post` as JSON.
    ///
    /// # Errors
    /// As [`Engine::picture`], and where `post` fails.
    pub async fn benchmark(&self, post: js_sys::Function) -> Result<(), JsValue> {
        let session = self.session()?;
        let rates = rates::Rates::measure(session).await.map_err(|error| fault(&error))?;
        tell(&post, &rates).await?;
        for work in rates::works() {
            let timed = work.time(session, rates).await.map_err(|error| fault(&error))?;
            if let Some(timed) = timed {
                tell(&post, &timed).await?;
            }
        }
        Ok(())
    }

    /// Destroys the device, as a driver that fails would: for tests.
    pub fn lose(&self) {
        if let Some(session) = &self.session {
            session.device().destroy();
        }
    }
}

impl Engine {
    fn session(&self) -> Result<&Session, JsValue> {
        self.session.as_ref().ok_or_else(|| self.missing.as_str().into())
    }

    fn sequences(&self, source: &playground::Source) -> Result<Rc<Sequences>, JsValue> {
        Sequences::of(source, &self.layers.borrow()).map_err(|error| fault(&error))
    }

    fn view(&self, request: &str) -> Result<View, JsValue> {
        let request: playground::Request = read(request)?;
        let sequences = self.sequences(&request.source)?;
        View::new(&request, sequences).map_err(|error| fault(&error))
    }
}

/// A request, whose form is the scripts' own affair.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsValue> {
    serde_json::from_str(text).map_err(|error| error.to_string().into())
}

fn json(value: &impl Serialize) -> String {
    // What is written here are numbers and texts.
    serde_json::to_string(value).unwrap_or_default()
}

fn floats(values: &[f32]) -> JsValue {
    js_sys::Float32Array::from(values).into()
}

fn object(entries: &[(&str, JsValue)]) -> Result<JsValue, JsValue> {
    let object = js_sys::Object::new();
    for (name, value) in entries {
        js_sys::Reflect::set(&object, &(*name).into(), value)?;
    }
    Ok(object.into())
}

/// Hands a line to `post`, and waits until it has it.
async fn tell(post: &js_sys::Function, line: &impl Serialize) -> Result<(), JsValue> {
    let answer = post.call1(&JsValue::NULL, &json(line).into())?;
    JsFuture::from(js_sys::Promise::resolve(&answer)).await.map(|_| ())
}
