//! Time and device memory of attention beside the same made of burn's own operators, as a Markdown table.
//!
//! ```sh
//! cargo run --example beside_burn
//! ```
//!
//! Each measurement is a process of its own, since cubecl keeps memory that was used once. Both take turns. The time is
//! that of a call behind two others, which compile; the memory is the most that wgpu had allocated at a time.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Distribution, Tensor};
use wgpu_attention::{Mask, wgpu};
use wgpu_attention_burn::{Options, attention, register};

const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const ROUNDS: usize = 3;

/// What a process measures, as arguments name it.
const FORWARD: &str = "forward";
const TRAINING: &str = "training step";
const OURS: &str = "ours";
const BURNS: &str = "burns";

/// Time and bytes, or nothing where it failed.
type Found = Option<(Duration, u64)>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [whose, work, len] = &arguments[..] {
        return measure(whose, work, len.parse().expect("a length"));
    }
    println!("| | T | time, this crate | time, burn | memory, this crate | memory, burn |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (work, lengths) in [(FORWARD, &[256, 512, 1024, 2048][..]), (TRAINING, &[1024, 4096])] {
        for &len in lengths {
            let [ours, burns] = rounds(work, len);
            let (times, bytes) = ([ours, burns].map(time), [ours, burns].map(mebibytes));
            println!("| {work} | {len} | {} | {} |", times.join(" | "), bytes.join(" | "));
        }
    }
}

/// The medians of both.
fn rounds(work: &str, len: usize) -> [Found; 2] {
    let mut found = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (whose, found) in [OURS, BURNS].into_iter().zip(&mut found) {
            found.push(in_a_process(whose, work, len));
        }
    }
    found.map(|rounds| {
        let rounds: Vec<_> = rounds.into_iter().collect::<Option<_>>()?;
        let (mut times, mut bytes): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        times.sort();
        bytes.sort();
        Some((times[ROUNDS / 2], bytes[ROUNDS / 2]))
    })
}

fn time(found: Found) -> String {
    found.map_or_else(
        || "fails".to_owned(),
        |(time, _)| format!("{:.0} ms", time.as_secs_f64() * 1e3),
    )
}

fn mebibytes(found: Found) -> String {
    let in_mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    found.map_or_else(|| "fails".to_owned(), |(_, bytes)| in_mib(bytes))
}

fn in_a_process(whose: &str, work: &str, len: usize) -> Found {
    let program = std::env::args_os().next().expect("this program");
    // A shell that `cargo xtask driver` set up starts programs through another one.
    let mut command = match std::env::var_os("WGPU_ATTENTION_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
        None => Command::new(program),
    };
    let output = command.args([whose, work, &len.to_string()]).output().expect("it starts");
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let told = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("thread"));
        eprintln!("{whose}, {work}, T = {len}: {}", told.unwrap_or("failed"));
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    let (time, bytes) = text.trim().split_once(' ')?;
    Some((Duration::from_nanos(time.parse().ok()?), bytes.parse().ok()?))
}

/// Prints nanoseconds and bytes.
fn measure(whose: &str, work: &str, len: usize) {
    let (device, setup) = Device::wgpu_options().init_with_setup().expect("a device");
    register(&device, &setup, &Default::default()).expect("a wgpu device");
    let trains = work == TRAINING;
    let device = if trains { device.autodiff() } else { device };
    let [q, k, v] = [0; 3].map(|_| {
        let dims = [1, HEADS, len, HEAD_DIM];
        let tensor = Tensor::<4>::random(dims, Distribution::Default, &device);
        if trains { tensor.require_grad() } else { tensor }
    });
    let options = Options::new(Mask::causal());
    let call = || {
        let operands = [q.clone(), k.clone(), v.clone()];
        let o = match whose {
            OURS => {
                let [q, k, v] = operands;
                attention(q, k, v, &options)
            }
            _ => composed(operands),
        };
        let made: Vec<Tensor<4>> = match trains {
            true => {
                let all = o.powi_scalar(2).sum().backward();
                [&q, &k, &v].map(|x| x.grad(&all).expect("a gradient")).into()
            }
            false => vec![o],
        };
        // A number of each, so that nothing is left undone.
        for tensor in made {
            let sum: f32 = tensor.sum().into_scalar();
            assert!(sum.is_finite(), "a result that isn't finite");
        }
    };
    let peak = Peak::watch(&setup.device);
    call();
    call();
    let start = Instant::now();
    call();
    let time = start.elapsed().as_nanos();
    println!("{time} {}", peak.most());
}

/// Causal attention of burn's operators.
fn composed([q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    let [batch, heads, len, dim] = q.dims();
    let mask = Tensor::<2, burn::tensor::Bool>::tril_mask([len, len], 0, &q.device());
    let mask = mask.reshape([1, 1, len, len]).expand([batch, heads, len, len]);
    let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar((dim as f32).sqrt().recip());
    softmax(scores.mask_fill(mask, f32::NEG_INFINITY), 3).matmul(v)
}

/// The most bytes that a device has had allocated, as seen every millisecond.
struct Peak {
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    fn watch(device: &wgpu::Device) -> Self {
        let (ends, device) = (Arc::new(AtomicBool::new(false)), device.clone());
        let end = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !end.load(Ordering::Relaxed) {
                let report = device.generate_allocator_report();
                most = most.max(report.map_or(0, |report| report.total_allocated_bytes));
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        Self { ends, thread }
    }

    fn most(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread")
    }
}
