//! Ring attention (Liu et al. 2023, arXiv 2310.01889): a sequence that is shared out over several devices.
//!
//! Each rank has a piece of the sequence: its queries stay, its keys and values go round. What a rank finds over each piece
//! of keys is a partial result (o, lse), and [`MergePlan`](wgpu_attention::plan::MergePlan) puts them together as if one device
//! had seen all keys. While a device is at one piece, the next is on its way.
//!
//! How pieces travel is a [`Transport`]: here, channels between threads that have a device each. `examples/ring_mpi` has
//! the same ring over MPI, in processes that may be on as many machines.

#[path = "../common/mod.rs"]
mod common;
mod ring;

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result, anyhow};
use ring::{Rows, Sequence, Transport};

/// Threads of one process.
struct Threads {
    rank: usize,
    size: usize,
    next: Sender<Vec<f32>>,
    previous: Receiver<Vec<f32>>,
}

impl Threads {
    fn ring(size: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
        (receivers.into_iter().enumerate())
            .map(|(rank, previous)| {
                let next = senders[(rank + 1) % size].clone();
                Self { rank, size, next, previous }
            })
            .collect()
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn pass(&self, piece: Vec<f32>) -> Result<Vec<f32>> {
        self.next.send(piece).ok().context("the next rank is gone")?;
        self.previous.recv().context("the rank before is gone")
    }
}

fn main() -> Result<()> {
    let sequence = Sequence::new()?;
    let expected = sequence.on_one_device()?;
    for size in [2, 3] {
        let ranks: Result<Vec<Rows>> = std::thread::scope(|scope| {
            let sequence = &sequence;
            let ranks: Vec<_> = (Threads::ring(size).into_iter())
                .map(|transport| scope.spawn(move || sequence.of_rank(&transport)))
                .collect();
            let join = |rank: std::thread::ScopedJoinHandle<'_, Result<Rows>>| {
                rank.join().unwrap_or_else(|_| Err(anyhow!("a rank panicked")))
            };
            ranks.into_iter().map(join).collect()
        });
        sequence.check(&ranks?, &expected)?;
    }
    Ok(())
}
