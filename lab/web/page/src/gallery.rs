//! Every leaf and composition, for cards.

use serde::Serialize;
use wgpu_attention::Mask;

/// A card.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    name: String,
    pub(crate) mask: String,
    sentence: String,
    /// Markdown.
    source: &'static str,
    kind: &'static str,
}

/// A leaf as it is written, for completion.
#[derive(Debug, Serialize)]
pub(crate) struct Form {
    name: String,
    form: String,
    sentence: String,
}

/// What joins masks: its text, a mask of it, and what it keeps.
const OPERATORS: [(&str, &str, &str); 6] = [
    ("!", "!strided(3)", "What the mask doesn't keep."),
    ("&", "causal & window(6,0)", "What both keep."),
    ("|", "causal & !strided(3) | global(1)", "What either keeps."),
    (
        "self_only_if_alone(MASK)",
        "self_only_if_alone(documents & causal)",
        "What the mask keeps, the own position only where nothing else is kept.",
    ),
    ("per_head(MASK, MASK)", "per_head(causal, window(3,3))", "A mask for each run of heads."),
    ("wgsl", "wgsl", "What your own function in WGSL keeps."),
];

/// Masks with a name in papers or models, as `wgpu_attention::mask::compositions` has them.
const NAMED: [(&str, &str, &str, &str); 11] = [
    (
        "sliding_window",
        "sliding_window(8)",
        "The own position and those before it, so many in all.",
        "Mistral 7B, [arXiv 2310.06825](https://arxiv.org/abs/2310.06825)",
    ),
    (
        "longformer",
        "longformer(4, 2)",
        "A window on either side; the first tokens see all and are seen by all.",
        "Longformer, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150)",
    ),
    (
        "bigbird",
        "bigbird(2, 1)",
        "Longformer's, and cells at random.",
        "BigBird, [arXiv 2007.14062](https://arxiv.org/abs/2007.14062)",
    ),
    (
        "prefix_lm",
        "prefix_lm",
        "A prefix that sees itself whole, then causal text.",
        "T5, [arXiv 1910.10683](https://arxiv.org/abs/1910.10683)",
    ),
    (
        "packed_documents",
        "packed_documents",
        "Texts that share a sequence and don't see each other.",
        "Krell et al., [arXiv 2107.02027](https://arxiv.org/abs/2107.02027)",
    ),
    (
        "streaming_llm",
        "streaming_llm(6, 2)",
        "The last tokens, and the first ones as sinks of attention.",
        "StreamingLLM, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453)",
    ),
    (
        "gemma2",
        "gemma2(0, 8)",
        "A sliding window in layers 0, 2, 4 …, as here, and causal in the others.",
        "Gemma 2, [arXiv 2408.00118](https://arxiv.org/abs/2408.00118)",
    ),
    (
        "gemma3",
        "gemma3(4, 8)",
        "A sliding window in five layers, as here, then causal in one.",
        "Gemma 3, [arXiv 2503.19786](https://arxiv.org/abs/2503.19786)",
    ),
    (
        "llama4",
        "llama4(0, 7)",
        "Causal chunks in three layers, as here, then causal in one.",
        "Llama 4's configuration, attention_chunk_size",
    ),
    (
        "reformer",
        "reformer",
        "Earlier positions of the own bucket, the own one only where there is no other.",
        "Reformer, [arXiv 2001.04451](https://arxiv.org/abs/2001.04451)",
    ),
    (
        "speculative_tree",
        "speculative_tree",
        "The cache, and of the drafted tokens the own ancestors.",
        "SpecInfer, [arXiv 2305.09781](https://arxiv.org/abs/2305.09781)",
    ),
];

/// Every card.
pub(crate) fn cards() -> Vec<Card> {
    let leaves = Mask::leaves().flat_map(|leaf| leaf.samples()).map(|sample| Card {
        name: sample.mask.to_string(),
        mask: sample.mask.to_string(),
        sentence: sample.sentence.to_owned(),
        source: sample.source,
        kind: "leaf",
    });
    let operators = OPERATORS.map(|(name, mask, sentence)| Card {
        name: name.to_owned(),
        mask: mask.to_owned(),
        sentence: sentence.to_owned(),
        source: "",
        kind: "operator",
    });
    let named = NAMED.map(|(name, mask, sentence, source)| Card {
        name: name.to_owned(),
        mask: mask.to_owned(),
        sentence: sentence.to_owned(),
        source,
        kind: "composition",
    });
    leaves.chain(operators).chain(named).collect()
}

/// Every way to write a leaf, an operator or a composition.
pub(crate) fn forms() -> Vec<Form> {
    let leaves = Mask::leaves().flat_map(|leaf| {
        let name = leaf.name().to_owned();
        leaf.help().iter().map(move |(form, sentence)| Form {
            name: name.clone(),
            form: (*form).to_owned(),
            sentence: (*sentence).to_owned(),
        })
    });
    let operators = OPERATORS.iter().filter(|(name, ..)| name.len() > 1);
    let operators = operators.map(|(form, _, sentence)| Form {
        name: form.split('(').next().unwrap_or(form).to_owned(),
        form: (*form).to_owned(),
        sentence: (*sentence).to_owned(),
    });
    let named = NAMED.iter().map(|(name, mask, sentence, _)| Form {
        name: (*name).to_owned(),
        form: (*mask).to_owned(),
        sentence: (*sentence).to_owned(),
    });
    leaves.chain(operators).chain(named).collect()
}
