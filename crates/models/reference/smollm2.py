"""Logits and greedy tokens of SmolLM2-135M-Instruct in f32 by numpy: what crates/models is compared with.

Needs: pip install numpy safetensors tokenizers gguf
Run:   python3 crates/models/reference/smollm2.py MODEL.gguf data/alice.txt
Writes smollm2.safetensors beside itself:
  tokens   i32 [200]         the first tokens of the text
  columns  i32 [96]          of the vocabulary
  logits   f32 [200, 96]     behind each token, of these columns
  lse      f32 [200]         log of the sum of exp of all logits
  best     i32 [200]         the largest logit's column
  prompt_N, greedy_N  i32    five prompts, and the 64 likeliest tokens behind each; the metadata holds the texts
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import Tokenizer

PROMPTS = [
    "Once upon a time, in a small village by the sea,",
    "The capital of France is",
    "To make a good cup of tea, first",
    "def fibonacci(n):\n",
    "In 1969, 3 astronauts flew to the",
]
COUNT, STEPS = 200, 64


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32) for tensor in reader.tensors
        }
        of = lambda name: self.fields["llama." + name]
        self.layers, self.heads, self.kv_heads = of("block_count"), of("attention.head_count"), of("attention.head_count_kv")
        self.dim = of("embedding_length") // self.heads
        self.epsilon = np.float32(of("attention.layer_norm_rms_epsilon"))
        self.frequencies = of("rope.freq_base") ** (-np.arange(0, self.dim, 2) / self.dim)

    def tokenizer(self):
        words = self.fields["tokenizer.ggml.tokens"]
        kinds = self.fields["tokenizer.ggml.token_type"]
        flags = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
        added = [{"id": i, "content": words[i], "special": True, **flags} for i, kind in enumerate(kinds) if kind == 3]
        bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        description = {
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_]},
            "decoder": bytes_,
            "model": {
                "type": "BPE",
                "vocab": {word: i for i, word in enumerate(words)},
                "merges": self.fields["tokenizer.ggml.merges"],
            },
        }
        return Tokenizer.from_str(json.dumps(description))

    def norm(self, x, name):
        scale = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + self.epsilon)
        return (x * scale).astype(np.float32) * self.weights[name + ".weight"]

    def turn(self, x, positions):
        """x is [tokens, heads, dim]; neighbours are pairs."""
        angles = positions[:, None, None] * self.frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
        return turned.reshape(x.shape).astype(np.float32)

    def forward(self, tokens, cache):
        """The logits behind each token; `cache` has the keys and values of those before them, and gets theirs."""
        count = len(tokens)
        before = len(cache[0][0]) if cache else 0
        positions = np.arange(before, before + count)
        x = self.weights["token_embd.weight"][tokens]
        for layer in range(self.layers):
            linear = lambda x, name: x @ self.weights[f"blk.{layer}.{name}.weight"].T
            normed = self.norm(x, f"blk.{layer}.attn_norm")
            q = self.turn(linear(normed, "attn_q").reshape(count, self.heads, self.dim), positions)
            k = self.turn(linear(normed, "attn_k").reshape(count, self.kv_heads, self.dim), positions)
            v = linear(normed, "attn_v").reshape(count, self.kv_heads, self.dim)
            if layer < len(cache):
                k, v = (np.concatenate(pair) for pair in zip(cache[layer], (k, v)))
                cache[layer] = (k, v)
            else:
                cache.append((k, v))
            group = self.heads // self.kv_heads
            k, v = (np.repeat(rows, group, axis=1).transpose(1, 0, 2) for rows in (k, v))
            scores = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / np.float32(np.sqrt(self.dim))
            future = np.arange(before + count)[None, :] > positions[:, None]
            scores = np.where(future, -np.inf, scores)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            o = (weights / weights.sum(-1, keepdims=True)) @ v
            x = x + linear(o.transpose(1, 0, 2).reshape(count, -1), "attn_output")
            normed = self.norm(x, f"blk.{layer}.ffn_norm")
            gate = linear(normed, "ffn_gate")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, "ffn_up"), "ffn_down")
        logits = self.norm(x, "output_norm") @ self.weights["token_embd.weight"].T
        assert logits.dtype == np.float32
        return logits


def main():
    model = Model(sys.argv[1])
    tokenizer = model.tokenizer()
    tokens = np.array(tokenizer.encode(Path(sys.argv[2]).read_text()).ids[:COUNT])
    logits = model.forward(tokens, [])
    largest = logits.max(-1)
    lse = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
    # The likeliest token behind each of some places, and columns spread over the vocabulary.
    columns = np.unique(np.concatenate([logits.argmax(-1)[:: COUNT // 40], np.arange(17, logits.shape[1], 877)]))[:96]
    tensors = {
        "tokens": tokens,
        "columns": columns,
        "logits": np.ascontiguousarray(logits[:, columns]),
        "lse": lse,
        "best": logits.argmax(-1),
    }
    for number, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt).ids
        cache, chosen = [], []
        step = np.array(ids)
        margin = np.inf
        for _ in range(STEPS):
            last = model.forward(step, cache)[-1]
            best = np.sort(last)[-2:]
            margin = min(margin, best[1] - best[0])
            step = last.argmax(keepdims=True)
            chosen.append(step[0])
        tensors[f"prompt_{number}"], tensors[f"greedy_{number}"] = np.array(ids), np.array(chosen)
        print(repr(prompt + tokenizer.decode(chosen)), "smallest lead of a token:", margin)
    tensors = {n: t.astype(np.int32) if t.dtype.kind == "i" else t for n, t in tensors.items()}
    save_file(tensors, Path(__file__).with_suffix(".safetensors"), {"prompts": json.dumps(PROMPTS)})


main()
