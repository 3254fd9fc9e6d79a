//! Speculative decoding: a small model drafts a tree of continuations, and the large one looks at all of them in one
//! pass, each token seeing the cache, its ancestors and itself (SpecInfer, Medusa).
//!
//! The large model here is one attention layer with weights at random. What it says of a draft in the tree must be what
//! it says when that draft's path is decoded alone, token by token; so as many drafts as it would have said itself are
//! taken at once.

mod common;

use std::time::Instant;

use anyhow::Result;
use common::{max_difference, normal};
use wgpu_attention::mask::compositions;
use wgpu_attention::{AttentionPlan, AuxData, Inputs, Mask, Problem, RunOptions, Session, Shape};

const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const WIDTH: usize = HEADS * HEAD_DIM;
const KV_WIDTH: usize = KV_HEADS * HEAD_DIM;
const VOCABULARY: usize = 500;
/// Tokens that are in the cache already.
const CONTEXT: usize = 1000;
/// How far the drafts reach ahead.
const DEPTH: usize = 4;

/// A layer: what each token asks, offers and says, by its number and its position.
struct Model {
    attention: Session,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    words: Vec<f32>,
}

/// A token at a position.
#[derive(Debug, Clone, Copy)]
struct Token {
    id: usize,
    position: usize,
}

/// A drafted token and the draft that it follows; the first follows nothing: it is the last token that is certain.
#[derive(Debug, Clone, Copy)]
struct Draft {
    token: Token,
    parent: Option<usize>,
}

fn main() -> Result<()> {
    let model = Model::new()?;
    let context: Vec<Token> =
        (0..CONTEXT).map(|position| Token { id: position * 7919 % VOCABULARY, position }).collect();
    let certain = Token { id: 17, position: CONTEXT };

    // The truth, one step per token; a draft model guesses three quarters of it, and a few more words beside.
    // The first of each compiles.
    decode_alone(&model, &context, certain, 1)?;
    let start = Instant::now();
    let truth = decode_alone(&model, &context, certain, DEPTH)?;
    let alone = start.elapsed();
    let tree = draft(certain, &truth);
    print_tree(&tree, &truth);

    let mask = compositions::speculative_tree();
    let parents = tree.iter().map(|draft| draft.parent.map_or(-1, |parent| parent as i32));
    let data = AuxData::new().tree_parents(parents);
    let tokens: Vec<Token> = tree.iter().map(|draft| draft.token).collect();
    println!(
        "{}\n",
        AttentionPlan::new(
            model.attention.kernels(),
            &problem(tree.len(), CONTEXT + tree.len(), &mask),
            &Default::default()
        )?
        .explain()
    );
    model.run(&context, &tokens, &mask, &data)?;
    let start = Instant::now();
    let outputs = model.run(&context, &tokens, &mask, &data)?;
    let at_once = start.elapsed();

    // Path by path: each draft with the cache and its own ancestors alone.
    let mut largest: f32 = 0.0;
    for node in 0..tree.len() {
        let mut path = vec![node];
        while let Some(parent) = tree[path[path.len() - 1]].parent {
            path.push(parent);
        }
        let tokens: Vec<Token> = path.iter().rev().map(|&node| tree[node].token).collect();
        let (last, before) = (tokens[tokens.len() - 1], &tokens[..tokens.len() - 1]);
        let keys = [&context, before].concat();
        let expected = model.run(&keys, &[last], &Mask::causal(), &AuxData::new())?;
        let difference = max_difference(&expected, &outputs[node * WIDTH..][..WIDTH]);
        assert!(difference < 1e-5, "draft {node} differs by {difference}");
        largest = largest.max(difference);
    }
    println!("{} drafts path by path: largest difference {largest:.1e}", tree.len());

    // From the certain token down: the drafts that are what the model says, and what it says after the last of them.
    let (mut at, mut said) = (0, vec![model.say(&outputs[..WIDTH])]);
    while let Some(next) = (tree.iter())
        .position(|draft| draft.parent == Some(at) && draft.token.id == said[said.len() - 1])
    {
        at = next;
        said.push(model.say(&outputs[at * WIDTH..][..WIDTH]));
    }
    assert_eq!(said, truth[..said.len()], "the tree says something else");
    println!(
        "{} tokens from one pass: {said:?}, as in {} passes of one token each",
        said.len(),
        said.len()
    );
    println!(
        "one pass over the tree {:.1} ms, {DEPTH} passes of one token {:.1} ms",
        at_once.as_secs_f64() * 1e3,
        alone.as_secs_f64() * 1e3
    );
    Ok(())
}

fn problem(queries: usize, keys: usize, mask: &Mask) -> Problem {
    let shape = Shape::new(1, HEADS, queries, HEAD_DIM).num_kv_heads(KV_HEADS).seq_len_kv(keys);
    Problem::new(shape).mask(mask.clone()).layout(wgpu_attention::Layout::Bshd)
}

impl Model {
    fn new() -> Result<Self> {
        Ok(Self {
            attention: Session::open_blocking(&Default::default())?,
            q: normal(1, VOCABULARY * WIDTH),
            k: normal(2, VOCABULARY * KV_WIDTH),
            v: normal(3, VOCABULARY * KV_WIDTH),
            words: normal(4, VOCABULARY * WIDTH),
        })
    }

    /// The layer's outputs for `tokens` that follow `before`, `[tokens, WIDTH]`.
    fn run(
        &self,
        before: &[Token],
        tokens: &[Token],
        mask: &Mask,
        data: &AuxData,
    ) -> Result<Vec<f32>> {
        let keys = [before, tokens].concat();
        let rows = |table: &[f32], tokens: &[Token], width: usize| -> Vec<f32> {
            let row = |token: &Token| {
                let angle = move |at: usize| (token.position * (at % 13 + 1)) as f32 * 0.01;
                let row = table[token.id * width..][..width].iter().enumerate();
                row.map(move |(at, x)| x + angle(at).sin()).collect::<Vec<_>>()
            };
            tokens.iter().flat_map(row).collect()
        };
        let q = rows(&self.q, tokens, WIDTH);
        let k = rows(&self.k, &keys, KV_WIDTH);
        let v = rows(&self.v, &keys, KV_WIDTH);
        let problem = problem(tokens.len(), keys.len(), mask);
        let inputs = Inputs::new(&q, &k, &v).aux(data);
        Ok(self.attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o)
    }

    /// The word that an output is nearest to.
    fn say(&self, output: &[f32]) -> usize {
        let score = |id: usize| -> f32 {
            self.words[id * WIDTH..][..WIDTH].iter().zip(output).map(|(x, y)| x * y).sum()
        };
        (0..VOCABULARY).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or_default()
    }
}

/// What the model says after `last`, one token after another.
fn decode_alone(
    model: &Model,
    context: &[Token],
    mut last: Token,
    steps: usize,
) -> Result<Vec<usize>> {
    let mut keys = context.to_vec();
    let mut said = Vec::new();
    for _ in 0..steps {
        let output = model.run(&keys, &[last], &Mask::causal(), &AuxData::new())?;
        keys.push(last);
        last = Token { id: model.say(&output), position: last.position + 1 };
        said.push(last.id);
    }
    Ok(said)
}

/// The certain token, then at each depth what is true (but at the last) and two words beside it, one of which goes on.
fn draft(certain: Token, truth: &[usize]) -> Vec<Draft> {
    let mut tree = vec![Draft { token: certain, parent: None }];
    let mut last = 0;
    for (depth, &id) in truth.iter().enumerate() {
        let position = certain.position + depth + 1;
        let add = |tree: &mut Vec<Draft>, id: usize, position: usize, parent: usize| {
            tree.push(Draft {
                token: Token { id: id % VOCABULARY, position },
                parent: Some(parent),
            });
            tree.len() - 1
        };
        let beside = add(&mut tree, id + 1, position, last);
        add(&mut tree, id + 3, position + 1, beside);
        if depth + 1 < truth.len() {
            last = add(&mut tree, id, position, last);
        }
    }
    tree
}

/// The tree, with a star where the model would have said the same.
fn print_tree(tree: &[Draft], truth: &[usize]) {
    println!("drafts after {CONTEXT} tokens in the cache:");
    for (at, draft) in tree.iter().enumerate() {
        let depth = draft.token.position - CONTEXT;
        let mut right = true;
        let mut node = at;
        while let Some(parent) = tree[node].parent {
            let said = truth.get(tree[node].token.position - CONTEXT - 1);
            right &= said == Some(&tree[node].token.id);
            node = parent;
        }
        println!(
            "{:indent$}{}{}",
            "",
            draft.token.id,
            if right { " *" } else { "" },
            indent = 2 + 2 * depth
        );
    }
    println!();
}
