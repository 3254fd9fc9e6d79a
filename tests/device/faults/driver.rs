//! Faults of the driver itself: at every call that may lose the device or find no memory, one after the other, it does.
//!
//! `lab/fault-layer` stands between Vulkan's loader and the driver for that; `cargo xtask faults` runs these tests with
//! it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use libloading::Library;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::plan::{MaskFormat, MergePlan};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Error, KvCache, Mask, Problem, RunOptions,
    Session, Upstream,
};

use super::{SHAPE, operands, own_device, problem};
use crate::fixture::{ATTENTION, Operands};

/// The layer's file.
const LAYER_VARIABLE: &str = "WGPU_ATTENTION_FAULT_LAYER";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None = 0,
    Lost = 1,
    /// On a device that has compiled its kernels.
    OutOfMemory = 2,
    /// While they are compiled.
    OutOfMemoryForKernels = 3,
}

/// The functions by which the layer is told what to do.
struct Layer {
    choose: extern "C" fn(u32, u64),
    failed: extern "C" fn() -> *const c_char,
}

impl Layer {
    /// The layer that Vulkan's loader has loaded, for one test at a time.
    fn get() -> MutexGuard<'static, Self> {
        // Where wgpu panics, it forgets to destroy a device. Without another one the driver would be unloaded while threads
        // of its own run, at which SwiftShader crashes.
        LazyLock::force(&ATTENTION);
        static LAYER: LazyLock<Mutex<Layer>> = LazyLock::new(|| {
            let path = std::env::var_os(LAYER_VARIABLE)
                .unwrap_or_else(|| panic!("{LAYER_VARIABLE} is not set: use `cargo xtask faults`"));
            // SAFETY: the library is the project's own, has no initialisers, exports these functions with these types,
            // and is never unloaded.
            #[expect(unsafe_code)]
            let layer = unsafe {
                let library = Box::leak(Box::new(Library::new(path).unwrap()));
                Layer {
                    choose: *library.get(b"faults_choose").unwrap(),
                    failed: *library.get(b"faults_failed").unwrap(),
                }
            };
            // The tests tell panics apart by where they are.
            set_hook(Box::new(|info| {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = place;
            }));
            Mutex::new(layer)
        });
        LAYER.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, such calls are counted, and the one after `before` of them fails.
    fn choose(&self, fault: Fault, before: u64) {
        (self.choose)(fault as u32, before);
    }

    /// The function that failed, if one did.
    fn failed(&self) -> Option<&'static str> {
        let name = (self.failed)();
        // SAFETY: null, or a constant of the library, which is never unloaded.
        #[expect(unsafe_code)]
        let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
        Some(name.to_str().unwrap())
    }
}

type Bits = Vec<Vec<u32>>;

/// What is done on a device, and its name.
type Work = (&'static str, fn(&Session) -> Result<Bits, Error>);

fn bits(values: Vec<f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// How an application hears of its own errors.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn push(device: &wgpu::Device) -> Self {
        Self(
            [
                wgpu::ErrorFilter::OutOfMemory,
                wgpu::ErrorFilter::Internal,
                wgpu::ErrorFilter::Validation,
            ]
            .map(|filter| device.push_error_scope(filter)),
        )
    }

    fn pop(self) -> Result<(), Error> {
        let [out_of_memory, internal, validation] = self.0;
        // The last one pushed goes first.
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let out_of_memory = pollster::block_on(out_of_memory.pop());
        let during = "the application's own call";
        match (out_of_memory, internal.or(validation)) {
            (Some(error), _) => Err(Error::OutOfMemory { during, message: error.to_string() }),
            // All that the application does is valid, unless the device is gone.
            (None, Some(error)) => Err(Error::DeviceLost { during, message: error.to_string() }),
            (None, None) => Ok(()),
        }
    }
}

/// Encodes and submits as an application does.
fn submit(
    own: &Session,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
) -> Result<(), Error> {
    let scopes = Scopes::push(own.device());
    let mut encoder = own.device().create_command_encoder(&Default::default());
    let recorded = record(&mut encoder);
    own.queue().submit([encoder.finish()]);
    scopes.pop().and(recorded)
}

/// Of few kernels: each device compiles its own.
fn small() -> Problem {
    Problem::new(SHAPE).mask(Mask::causal())
}

fn forward(own: &Session) -> Result<Bits, Error> {
    let operands = Operands::random(&SHAPE, 1);
    let outputs = RunOptions::default().lse(true);
    let found = own.run_blocking(&small(), &operands.inputs(), &outputs)?;
    Ok([found.o, found.lse].map(bits).into())
}

fn backward(own: &Session) -> Result<Bits, Error> {
    let operands = Operands::random(&SHAPE, 1);
    let upstream = vec![1.0; SHAPE.o_len().unwrap()];
    let upstream = Upstream::new(&upstream);
    let found =
        own.gradients_blocking(&small(), &operands.inputs(), &upstream, &Default::default())?;
    Ok([found.dq, found.dk, found.dv].map(bits).into())
}

/// Two steps of a loop that appends to a cache and decodes over it, in parts that are merged.
fn decode(own: &Session) -> Result<Bits, Error> {
    let shape = CacheShape::new(1, 1, 70, 20);
    let tokens: Vec<f32> = (0..33 * 20).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let [k, v] = [(); 2].map(|()| upload(own, &tokens));
    let (k, v) = (k?, v?);
    let o = upload(own, &[f32::NAN; 20])?;
    let mut cache = KvCache::new(own.kernels(), &shape)?;
    let append = AppendPlan::new(own.kernels(), &shape, &NewTokens::new(33))?;
    let problem = shape.problem(1, 1, QuerySequences::Uniform).mask(Mask::causal());
    let attention = AttentionPlan::new(own.kernels(), &problem, &Default::default())?;
    let mut found = Bits::new();
    for _ in 0..2 {
        submit(own, |encoder| {
            let new = AppendBuffers::new(k.slice(..), v.slice(..));
            append.encode(encoder, &mut cache, &new)?;
            let q = k.slice(..80);
            let buffers = cache.attention_buffers(&problem, q, AuxBuffers::new(), o.slice(..))?;
            attention.encode(encoder, &buffers)
        })?;
        found.push(bits(own.read_blocking(&o, 20)?));
        found.push(bits(own.read_blocking(cache.lengths().buffer(), 1)?));
    }
    Ok(found)
}

/// The application's own buffer. (`create_buffer_init` of wgpu's panics where there is no memory for it.)
fn upload<T: bytemuck::Pod>(own: &Session, values: &[T]) -> Result<wgpu::Buffer, Error> {
    let scopes = Scopes::push(own.device());
    let contents: &[u8] = bytemuck::cast_slice(values);
    let buffer = own.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: contents.len() as u64,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    own.queue().write_buffer(&buffer, 0, contents);
    scopes.pop().map(|()| buffer)
}

fn mask(own: &Session) -> Result<Bits, Error> {
    let (operands, _) = operands();
    let tensor = own.materialize_blocking(&problem(), &operands.mask, MaskFormat::Keep)?;
    let classes = own.tile_classes_blocking(&problem(), &operands.mask, &Default::default())?;
    let classes = classes.classes.into_iter().map(|class| class as u32).collect();
    Ok(vec![bits(tensor.values), classes])
}

/// The same result twice, which merge to itself.
fn merge(own: &Session) -> Result<Bits, Error> {
    let operands = Operands::random(&SHAPE, 1);
    let merge = MergePlan::new(own.kernels(), &small(), 2)?;
    let attention = AttentionPlan::new(own.kernels(), &small(), &Default::default())?;
    let [q, k, v] = [&operands.q, &operands.k, &operands.v].map(|x| upload(own, x));
    let (q, k, v) = (q?, k?, v?);
    let merged = upload(own, &vec![f32::NAN; SHAPE.o_len().unwrap()])?;
    submit(own, |encoder| {
        for index in 0..2 {
            let part = merge.part(index)?;
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: k.slice(..),
                v: v.slice(..),
                aux: AuxBuffers::new(),
                o: part.o,
                lse: Some(part.lse),
            };
            attention.encode(encoder, &buffers)?;
        }
        merge.encode(encoder, merged.slice(..), None)
    })?;
    Ok(vec![bits(own.read_blocking(&merged, SHAPE.o_len().unwrap())?)])
}

/// Where wgpu itself panics when this function finds no memory: buffers that begin with contents are copied by commands of
/// wgpu's own, whose recording it takes to succeed. The third is where such a device is dropped.
const PANICS: [(&str, &str); 3] = [
    ("vkAllocateCommandBuffers", "wgpu-core-30.0.1/src/device/queue.rs"),
    ("vkBeginCommandBuffer", "wgpu-core-30.0.1/src/device/queue.rs"),
    ("vkEndCommandBuffer", "wgpu-hal-30.0.1/src/vulkan/command.rs"),
];

/// The same while it opens a device, whichever function fails: of what it has made for itself, it forgets a part.
const PANICS_WHILE_OPENING: [&str; 2] =
    ["wgpu-core-30.0.1/src/device/queue.rs", "wgpu-hal-30.0.1/src/vulkan/descriptor.rs"];

/// Of the calls that find no memory, only each so many-th is tried; CI has 40 seconds for all of this.
const STRIDE_VARIABLE: &str = "WGPU_ATTENTION_FAULT_STRIDE";

/// Where the last panic was.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs `work`; where it panics, the place.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// What came of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// Everything was done all the same, and the results are right.
    Right,
    /// An error; afterwards the device gives the right results.
    ErrorAndRight,
    /// An error; the device is lost, and says so.
    ErrorAndLost,
    /// wgpu panicked, at one of the places that are known.
    Panic,
}

/// By the function that failed.
type Tally = BTreeMap<(&'static str, Came), usize>;

/// A panic of wgpu's own; any other fails the test.
fn known_panic(what: &str, failed: Option<&'static str>, place: &str) -> Came {
    let Some(failed) = failed else { panic!("{what} panicked at {place}, and no call had failed") };
    let known = PANICS.iter().any(|(function, file)| *function == failed && place.contains(file));
    assert!(known, "{what} panicked at {place} after {failed} failed");
    Came::Panic
}

/// Runs `work` once for each call that might fail by `fault`, with that call failing.
fn every_call_fails_once(layer: &Layer, fault: Fault, (what, work): Work, tally: &mut Tally) {
    let expected = work(&own_device()).unwrap();
    let open = || {
        let own = own_device();
        if fault == Fault::OutOfMemory {
            assert_eq!(work(&own).unwrap(), expected);
        }
        own
    };
    let stride = match std::env::var(STRIDE_VARIABLE) {
        Ok(stride) if fault == Fault::OutOfMemory => stride.parse().unwrap(),
        _ => 1,
    };
    let mut kept = None;
    for before in (0..).step_by(stride) {
        let own = kept.take().unwrap_or_else(open);
        layer.choose(fault, before);
        let found = guarded(|| work(&own));
        let failed = layer.failed();
        if fault != Fault::Lost {
            layer.choose(Fault::None, 0);
        }
        let mut came = match &found {
            Ok(found) => check(fault, what, before, failed, found, &expected),
            Err(place) => known_panic(what, failed, place),
        };
        if matches!(came, Came::Right | Came::ErrorAndRight) {
            match work(&own) {
                Ok(again) => assert_eq!(again, expected, "{what}, call {before}, {failed:?}"),
                // wgpu gives a device up that has no memory for anything but a buffer.
                Err(Error::DeviceLost { .. }) => came = Came::ErrorAndLost,
                Err(error) => panic!("{what}, call {before}, after {failed:?}: {error}"),
            }
        }
        let survived = matches!(came, Came::Right | Came::ErrorAndRight);
        if survived && fault == Fault::OutOfMemory {
            kept = Some(own);
        } else if let Err(place) = guarded(|| drop(own)) {
            came = known_panic(what, failed, &place);
        }
        layer.choose(Fault::None, 0);
        let Some(failed) = failed else {
            assert!(before > 3, "{what}: {before} calls: is the layer there?");
            return;
        };
        *tally.entry((failed, came)).or_default() += 1;
    }
}

/// What came of a fault, if it is as it has to be.
fn check(
    fault: Fault,
    what: &str,
    before: u64,
    failed: Option<&str>,
    found: &Result<Bits, Error>,
    expected: &Bits,
) -> Came {
    match (found, failed) {
        (Ok(found), _) => {
            assert_eq!(found, expected, "{what}, call {before}, {failed:?}");
            Came::Right
        }
        (Err(Error::DeviceLost { .. }), Some(_)) => Came::ErrorAndLost,
        (Err(Error::OutOfMemory { .. }), Some(_)) if fault != Fault::Lost => Came::ErrorAndRight,
        (Err(error), _) => panic!("{what}, call {before}, {failed:?}: {error:?}"),
    }
}

const WORK: [Work; 5] = [
    ("forward", forward),
    ("backward", backward),
    ("decode", decode),
    ("mask", mask),
    ("merge", merge),
];

fn all(fault: Fault) {
    let layer = Layer::get();
    let mut tally = Tally::new();
    for work in WORK {
        every_call_fails_once(&layer, fault, work, &mut tally);
    }
    print(&format!("{fault:?}"), &tally);
}

fn print(what: &str, tally: &Tally) {
    println!("{what}: {} calls failed, one at a time", tally.values().sum::<usize>());
    for ((function, came), count) in tally {
        println!("  {function}: {count} {came:?}");
    }
}

#[test]
#[ignore = "needs the Vulkan layer that `cargo xtask faults` brings"]
fn the_driver_loses_the_device() {
    all(Fault::Lost);
}

#[test]
#[ignore = "needs the Vulkan layer that `cargo xtask faults` brings"]
fn the_driver_has_no_memory() {
    all(Fault::OutOfMemory);
}

#[test]
#[ignore = "needs the Vulkan layer that `cargo xtask faults` brings"]
fn the_driver_has_no_memory_for_kernels() {
    all(Fault::OutOfMemoryForKernels);
}

/// A device that can't be opened because memory is exhausted, or is lost at once, is an error too.
#[test]
#[ignore = "needs the Vulkan layer that `cargo xtask faults` brings"]
fn the_driver_fails_while_a_device_is_opened() {
    let layer = Layer::get();
    for fault in [Fault::Lost, Fault::OutOfMemory] {
        let mut tally = Tally::new();
        for before in 0.. {
            layer.choose(fault, before);
            let opened = guarded(|| Session::open_blocking(&Default::default()));
            let failed = layer.failed();
            layer.choose(Fault::None, 0);
            let came = match (opened, failed) {
                (Ok(Ok(_)), None) => break,
                (Ok(Ok(_)), Some(_)) => Came::Right,
                (Ok(Err(Error::NoAdapter(_))), Some(_)) => Came::ErrorAndLost,
                (Ok(Err(error)), failed) => panic!("call {before}, {failed:?}: {error:?}"),
                (Err(place), Some(_)) => {
                    let known = PANICS_WHILE_OPENING.iter().any(|file| place.contains(file));
                    assert!(known, "call {before}, {failed:?}: a panic at {place}");
                    Came::Panic
                }
                (Err(place), None) => panic!("a panic at {place}, and no call had failed"),
            };
            *tally.entry((failed.unwrap_or_default(), came)).or_default() += 1;
        }
        print(&format!("{fault:?} while a device is opened"), &tally);
    }
}
