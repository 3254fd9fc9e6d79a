//! A contender: a process that is told on stdin what to do and answers on stdout, a JSON object per line.
//!
//! | told | answers |
//! |---|---|
//! | `{"do":"about"}` | `{"about":"NAME VERSION","device":"..."}` |
//! | `{"do":"prepare","shape":[B,H,Hkv,Tq,Tk,D],"causal":bool,"lengths":[..] or null,"folder":"..."}`: operands are in q.bin, k.bin and v.bin there, f32 `[batch, heads, seq, dim]`; with `"backward":true` a call has both passes, from dout.bin | `{}`, perhaps with a `"note"` |
//! | `{"do":"run"}`: compute once and wait | `{"ms":wall,"cpu_ms":of all threads}` |
//! | `{"do":"output","path":"..."}`: write the last result, f32 `[batch, heads, seq_q, dim]`; of both passes dq, dk and dv, one after the other | `{}` |
//!
//! Any of them may answer `{"error":"reason"}`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::case::{Case, Operands};
use super::difference::Difference;
use super::reference;
use drivers::Device;

/// How a contender is started, or why it can't be.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) start: Result<Start, String>,
}

/// A program with its arguments and environment.
pub(crate) struct Start {
    pub(crate) command: Vec<std::ffi::OsString>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// Whether it needs the device, and so the driver's runner.
    pub(crate) on_device: bool,
}

/// What a call took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) ms: f64,
    pub(crate) cpu_ms: f64,
}

pub(crate) struct Peer<'a> {
    contender: Contender,
    device: &'a Device,
    patience: Duration,
    process: Option<Process>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that still computes what nobody waits for would be in the others' way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Peer<'a> {
    pub(crate) const fn new(contender: Contender, device: &'a Device, patience: Duration) -> Self {
        Self { contender, device, patience, process: None }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.contender.name
    }

    /// Its name, and what it is or why it isn't there.
    pub(crate) fn about(&mut self) -> (&'static str, Result<String, String>) {
        let about = self.tell(&json!({ "do": "about" })).map(|reply| {
            let text = |key: &str| reply[key].as_str().unwrap_or_default().to_owned();
            let driver = text("driver");
            let device = if driver.is_empty() {
                text("device")
            } else {
                format!("{}, {driver}", text("device"))
            };
            format!("{}, on {device}", text("about"))
        });
        (self.contender.name, about)
    }

    /// Makes it ready for a case, runs it once, and compares the result.
    pub(crate) fn prepare(
        &mut self,
        case: &Case,
        folder: &Path,
        operands: &Operands,
    ) -> Result<Difference, String> {
        self.tell(&case.command(folder))?;
        self.tell(&json!({ "do": "run" }))?;
        let path = folder.join("o.bin");
        // Another's result mustn't be taken for this one's.
        let _ = std::fs::remove_file(&path);
        self.tell(&json!({ "do": "output", "path": path }))?;
        let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
        let o: Vec<f32> =
            bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
        let difference =
            reference::difference(case, operands, &o).map_err(|error| error.to_string())?;
        // The second call finds everything compiled.
        self.tell(&json!({ "do": "run" }))?;
        Ok(difference)
    }

    pub(crate) fn run(&mut self) -> Result<Run, String> {
        let reply = self.tell(&json!({ "do": "run" }))?;
        match (reply["ms"].as_f64(), reply["cpu_ms"].as_f64()) {
            (Some(ms), Some(cpu_ms)) => Ok(Run { ms, cpu_ms }),
            _ => Err(format!("it answered {reply}")),
        }
    }

    fn tell(&mut self, command: &Value) -> Result<Value, String> {
        let process = match &mut self.process {
            Some(process) => process,
            none => none.insert(start(&self.contender, self.device)?),
        };
        let told = writeln!(process.stdin, "{command}").and_then(|()| process.stdin.flush());
        let answer = match told {
            Ok(()) => process.lines.recv_timeout(self.patience),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        let reason = match answer {
            Ok(line) => {
                let Ok(reply) = serde_json::from_str::<Value>(&line) else {
                    // Whatever it says next would be taken for the answer to another question.
                    self.process = None;
                    return Err(format!("it answered {line}"));
                };
                return match reply["error"].as_str() {
                    None => Ok(reply),
                    Some(reason) => Err(reason.to_owned()),
                };
            }
            Err(RecvTimeoutError::Timeout) => {
                format!("no answer within {} s", self.patience.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => match process.child.wait() {
                Ok(status) => format!("it ended: {status}"),
                Err(error) => error.to_string(),
            },
        };
        // The next case gets a new one.
        self.process = None;
        Err(reason)
    }
}

fn start(contender: &Contender, device: &Device) -> Result<Process, String> {
    let start = contender.start.as_ref().map_err(Clone::clone)?;
    let mut words = start.command.iter();
    let program = words.next().ok_or("it has no program")?;
    let mut command = match device.runner().filter(|_| start.on_device) {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
        None => Command::new(program),
    };
    device.apply(&mut command);
    command.args(words).envs(start.environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("it can't be started: {error}"))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".to_owned());
    };
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(Process { child, stdin, lines })
}
