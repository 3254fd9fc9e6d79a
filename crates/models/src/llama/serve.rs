//! Continuous batching (Orca; vLLM's paged attention, arXiv 2309.06180): requests join a running batch when there is room,
//! and leave it when they are done. Their keys and values lie in blocks of one pool.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{Dtype, KvCache};

use super::{Llama, Rows, Stage};

/// Rows of a block.
const BLOCK: usize = 16;
/// Tokens of a pass that takes prompts in, and the most of one prompt.
const BUDGET: usize = 64;
const CHUNK: usize = 32;

/// A prompt, and how many tokens are wanted behind it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The most that are generated; fewer where the model ends its answer.
    pub tokens: usize,
}

impl Request {
    /// The last token that is generated needs no place.
    const fn capacity(&self) -> usize {
        self.prompt.len() + self.tokens - 1
    }
}

/// A request in one of the batch's places.
struct Running {
    /// Its place among all requests.
    number: usize,
    request: Request,
    blocks: Vec<u32>,
    /// Tokens in the cache.
    done: usize,
    generated: Vec<u32>,
}

impl Running {
    /// The tokens that the next pass may take.
    fn waiting(&self) -> &[u32] {
        match self.request.prompt.get(self.done..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &self.generated[self.generated.len() - 1..],
        }
    }

    const fn is_in_prompt(&self) -> bool {
        self.done < self.request.prompt.len()
    }
}

/// Runs requests, up to `places` at a time, and always takes the likeliest token. Returns each one's tokens, and how many
/// passes there were.
///
/// # Errors
/// Where a request is empty or longer than the model's context, or the device fails.
pub fn serve(
    model: &Llama<'_>,
    requests: Vec<Request>,
    places: usize,
    dtype: Dtype,
) -> Result<(Vec<Vec<u32>>, usize)> {
    ensure!(places > 0 && places <= BUDGET, "{places} places, where 1 to {BUDGET} are expected");
    for request in &requests {
        ensure!(!request.prompt.is_empty() && request.tokens > 0, "an empty request");
        ensure!(
            request.capacity() <= model.context(),
            "a request of {} tokens, where the model takes at most {}",
            request.capacity(),
            model.context()
        );
    }
    let mut results = vec![Vec::new(); requests.len()];
    let longest = requests.iter().map(Request::capacity).max().unwrap_or(1);
    let blocks = places * longest.div_ceil(BLOCK);
    let shape = model.cache_shape(places, longest, dtype).paged(BLOCK, blocks);
    let stage = |seq_len, total| {
        let packed = QuerySequences::Packed { total };
        Stage::new(model, &shape, seq_len, packed, Rows::Last, 0.0)
    };
    let mut batch = Batch {
        model,
        caches: model.caches(&shape)?,
        prompts: stage(CHUNK, BUDGET)?,
        steps: stage(1, places)?,
        places: (0..places).map(|_| None).collect(),
        free: (0..blocks as u32).rev().collect(),
    };
    let mut waiting: VecDeque<_> = requests.into_iter().enumerate().collect();
    let mut passes = 0;
    loop {
        while let Some((number, request)) = waiting.pop_front() {
            if let Some(request) = batch.join(number, request)? {
                waiting.push_front((number, request));
                break;
            }
        }
        if batch.places.iter().all(Option::is_none) {
            return Ok((results, passes));
        }
        batch.step()?;
        passes += 1;
        for finished in batch.leave()? {
            results[finished.number] = finished.generated;
        }
    }
}

struct Batch<'m> {
    model: &'m Llama<'m>,
    caches: Vec<KvCache>,
    /// Passes in which prompts are read.
    prompts: Stage<'m>,
    /// Passes of one token of each request.
    steps: Stage<'m>,
    places: Vec<Option<Running>>,
    free: Vec<u32>,
}

impl Batch<'_> {
    /// Gives a request a place and all the blocks that it will need, or gives it back where there are none.
    fn join(&mut self, number: usize, request: Request) -> Result<Option<Request>> {
        let needed = request.capacity().div_ceil(BLOCK);
        let free = self.places.iter().position(Option::is_none);
        let Some(place) = free.filter(|_| needed <= self.free.len()) else {
            return Ok(Some(request));
        };
        let blocks = self.free.split_off(self.free.len() - needed);
        self.set_up(place, &blocks)?;
        let running = Running { number, request, blocks, done: 0, generated: Vec::new() };
        self.places[place] = Some(running);
        Ok(None)
    }

    /// An empty sequence in these blocks, in every layer's cache.
    fn set_up(&mut self, place: usize, blocks: &[u32]) -> Result<()> {
        let gpu = self.model.gpu();
        let mut encoder = gpu.encoder();
        for cache in &mut self.caches {
            cache.set_table(gpu.queue(), place, blocks)?;
            cache.set_length(&mut encoder, place, 0)?;
        }
        gpu.submit(encoder);
        Ok(())
    }

    /// One token of each request that generates, then as much of the prompts as fits.
    fn step(&mut self) -> Result<()> {
        let has_prompts = self.places.iter().flatten().any(Running::is_in_prompt);
        let mut left = if has_prompts { BUDGET } else { self.places.len() };
        let mut counts = vec![0; self.places.len()];
        for prompts in [false, true] {
            for (count, running) in counts.iter_mut().zip(&self.places) {
                if let Some(running) = running
                    && running.is_in_prompt() == prompts
                {
                    *count = running.waiting().len().min(CHUNK).min(left);
                    left -= *count;
                }
            }
        }
        let sequences: Vec<&[u32]> = (self.places.iter().zip(&counts))
            .map(|(running, &count)| match running {
                Some(running) => &running.waiting()[..count],
                None => &[],
            })
            .collect();
        let stage = if has_prompts { &self.prompts } else { &self.steps };
        stage.write_packed(&sequences)?;
        let chosen = stage.run(&mut self.caches, Some(&counts))?;
        for ((running, count), token) in self.places.iter_mut().zip(counts).zip(chosen) {
            let Some(running) = running else { continue };
            running.done += count;
            // What a prompt's earlier chunks choose is nobody's token.
            if count > 0 && !running.is_in_prompt() {
                running.generated.push(token);
            }
        }
        Ok(())
    }

    /// Takes out the requests that are done, and their blocks back.
    fn leave(&mut self) -> Result<Vec<Running>> {
        let end = self.model.tokens.end();
        let mut finished = Vec::new();
        for place in 0..self.places.len() {
            let is_done = |running: &mut Running| {
                running.generated.len() == running.request.tokens
                    || running.generated.last() == Some(&end)
            };
            if let Some(running) = self.places[place].take_if(is_done) {
                self.set_up(place, &[]).context("a place that was left")?;
                self.free.extend(&running.blocks);
                finished.push(running);
            }
        }
        Ok(finished)
    }
}
