//! The ring of `examples/ring_attention` over MPI: each process is a rank, with a device of its own.
//!
//! ```sh
//! mpiexec -n 2 ring-mpi
//! ```
//!
//! Every rank makes the same sequence and takes its piece; the first gathers the results and compares them with one device.

#[path = "../../common/mod.rs"]
mod common;
#[path = "../../ring_attention/ring.rs"]
mod ring;

use anyhow::{Context as _, Result};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use ring::{Rows, Sequence, Transport};

impl Transport for SimpleCommunicator {
    fn rank(&self) -> usize {
        Communicator::rank(self) as usize
    }

    fn size(&self) -> usize {
        Communicator::size(self) as usize
    }

    fn pass(&self, piece: Vec<f32>) -> Result<Vec<f32>> {
        let (rank, size) = (Communicator::rank(self), Communicator::size(self));
        let next = self.process_at_rank((rank + 1) % size);
        let previous = self.process_at_rank((rank + size - 1) % size);
        Ok(mpi::request::scope(|scope| {
            let sent = next.immediate_send(scope, &piece[..]);
            let (received, _) = previous.receive_vec();
            sent.wait();
            received
        }))
    }
}

fn main() -> Result<()> {
    let universe = mpi::initialize().context("MPI can't be initialised")?;
    let world = universe.world();
    let result = run(&world);
    if let Err(error) = &result {
        eprintln!("rank {}: {error:#}", Communicator::rank(&world));
        // The others would wait for this rank for ever.
        world.abort(1);
    }
    result
}

fn run(world: &SimpleCommunicator) -> Result<()> {
    let sequence = Sequence::new()?;
    let own = sequence.of_rank(world)?;
    let first = world.process_at_rank(0);
    if Communicator::rank(world) != 0 {
        first.send(&own.o[..]);
        first.send(&own.lse[..]);
        return Ok(());
    }
    let mut ranks = vec![own];
    for rank in 1..Communicator::size(world) {
        let other = world.process_at_rank(rank);
        let (o, _) = other.receive_vec();
        let (lse, _) = other.receive_vec();
        ranks.push(Rows { o, lse });
    }
    let version = mpi::environment::library_version().unwrap_or_default();
    println!("{}", version.lines().next().unwrap_or_default().replace('\t', " "));
    sequence.check(&ranks, &sequence.on_one_device()?)
}
