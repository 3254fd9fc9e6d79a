"""Embeddings of all-MiniLM-L6-v2 in f32 by numpy, and their mean attention: what crates/models is compared with.

Needs: pip install numpy safetensors tokenizers
Run:   python3 crates/models/reference/minilm.py MODEL_FOLDER
Writes crates/models/reference/minilm.safetensors beside itself: `embeddings`, f32 [20, 384], of the sentences in the
metadata, whose lengths are 1 to 200 tokens besides [CLS] and [SEP].
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

LAYERS, HEADS, EPSILON = 6, 12, 1e-12


def sentences():
    words = (
        "the quick brown fox jumps over a lazy dog while seven old ships sail home from distant islands carrying "
        "tea cotton letters and news of a war that nobody had wanted but everyone expected to be short"
    ).split()
    given = [
        "Hi",
        "Good morning!",
        "Where is the station?",
        "A cat sleeps on the warm windowsill.",
        "The kitten is napping in the sun.",
        "Shares dropped.",
        "Stock markets fell sharply on Monday after the central bank raised interest rates again.",
        "How do I bake sourdough bread at home?",
        "naïve café — Überraschung, 東京 and 1,234.5 €",
        "e = mc^2; f(x) = sin(x) / x",
    ]
    # Of set lengths: every word is one token.
    for count in [3, 7, 15, 16, 31, 33, 64, 100, 151, 200]:
        given.append(" ".join(words[(3 * count + i * i) % len(words)] for i in range(count)))
    return given


def norm(x, weights, name):
    mean = x.mean(-1, keepdims=True, dtype=np.float64)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True, dtype=np.float64)
    y = ((x - mean) / np.sqrt(variance + EPSILON)).astype(np.float32)
    return y * weights[name + ".weight"] + weights[name + ".bias"]


erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x):
    return (0.5 * x * (1 + erf(x / math.sqrt(2)).astype(np.float32))).astype(np.float32)


def embed(weights, tokens):
    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, at + "attention.self." + name).reshape(len(tokens), HEADS, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(q.shape[-1]))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        o = (scores / scores.sum(-1, keepdims=True)) @ v
        o = linear(o.transpose(1, 0, 2).reshape(len(tokens), -1), at + "attention.output.dense")
        x = norm(x + o, weights, at + "attention.output.LayerNorm")
        wide = gelu(linear(x, at + "intermediate.dense"))
        x = norm(x + linear(wide, at + "output.dense"), weights, at + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main():
    folder = Path(sys.argv[1])
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = sentences()
    tokens = [tokenizer.encode(text).ids for text in texts]
    embeddings = np.stack([embed(weights, ids) for ids in tokens])
    assert embeddings.dtype == np.float32
    metadata = {"sentences": json.dumps(texts), "token_counts": json.dumps([len(ids) for ids in tokens])}
    save_file({"embeddings": embeddings}, Path(__file__).with_suffix(".safetensors"), metadata)
    print([len(ids) for ids in tokens])


main()
