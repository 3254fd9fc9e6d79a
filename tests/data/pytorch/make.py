"""Records what PyTorch's attention gives on the CPU, for tests/device/pytorch.rs.

    pip install torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
    python make.py

Writes NAME.safetensors beside itself, one file per case:

    q, k, v            f32, [batch, heads, seq, dim]
    o, lse             f32, what PyTorch computes in f32 (lse where the call returns it)
    o_high, o_low      what it computes in f64 from the same numbers, as a sum of two f32
    lse_high, lse_low
    dout               f32, for the calls that PyTorch differentiates on the CPU: a loss's gradient with respect to o
    dq, dk, dv, dbias  f32, and _high, _low: what autograd makes of it
    and what the mask and the score modifiers read, by this crate's names

The random numbers come from numpy's PCG64 with a fixed seed.
"""

import pathlib
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch.nn.attention import bias as attention_bias
from torch.nn.attention import flex_attention as flex

# flex_attention warns that it is slow unless it is compiled.
warnings.filterwarnings("ignore")

HERE = pathlib.Path(__file__).parent
B, H, D = 2, 4, 8


def numbers(seed, *dims):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(dims).astype(np.float32))


def split(tensor):
    """A tensor of f64 as a sum of two of f32; infinities have nothing left over."""
    high = tensor.float()
    low = torch.where(high.isfinite(), tensor - high.double(), torch.zeros((), dtype=torch.float64))
    return high.numpy(), low.float().numpy()


def save(name, call, data=None, tq=21, tk=21, kv_heads=H, differentiate=False):
    """Calls `call(q, k, v, dtype)` in f32 and in f64; it returns o, or o and lse.

    Where it is differentiated, it returns o and the bias that took part, or None.
    """
    operands = numbers(1, B, H, tq, D) * 2, numbers(2, B, kv_heads, tk, D) * 2, numbers(3, B, kv_heads, tk, D)
    tensors = dict(zip("qkv", (operand.numpy() for operand in operands)))
    for dtype in (torch.float32, torch.float64):
        inputs = [operand.to(dtype, copy=True).requires_grad_(differentiate) for operand in operands]
        result = call(*inputs, dtype)
        result = result if isinstance(result, tuple) else (result,)
        names = ("o", "lse")
        if differentiate:
            o, bias = result
            dout = numbers(8, *o.shape)
            tensors["dout"] = dout.numpy()
            o.backward(dout.to(dtype))
            gradients = [tensor.grad for tensor in inputs + ([bias] if bias is not None else [])]
            names, result = ("o", "dq", "dk", "dv", "dbias"), (o.detach(), *gradients)
        for output, value in zip(names, result):
            assert not value.isnan().any(), name
            if dtype == torch.float32:
                tensors[output] = value.numpy()
            else:
                tensors[output + "_high"], tensors[output + "_low"] = split(value)
    for key, value in (data or {}).items():
        value = value.numpy()
        tensors[key] = value.astype(np.int32) if value.dtype == np.int64 else value
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    save_file(tensors, HERE / f"{name}.safetensors", {"torch": torch.__version__.split("+")[0]})


def sdpa(name, data=None, tq=21, tk=21, kv_heads=H, mask=None, **options):
    def call(q, k, v, dtype):
        is_bias = type(mask) is torch.Tensor and mask.is_floating_point()
        attn_mask = mask.to(dtype, copy=True).requires_grad_() if is_bias else mask
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, **options)
        return o, attn_mask if is_bias else None

    save(name, call, data, tq, tk, kv_heads, differentiate=True)


def flexed(name, data=None, tq=21, tk=21, kv_heads=H, mask_mod=None, score_mod=None, **options):
    """`score_mod` is made for each dtype, from the tensors in that dtype."""

    def call(q, k, v, dtype):
        block_mask = None
        if mask_mod is not None:
            block_mask = flex.create_block_mask(mask_mod, B, H, tq, tk, device="cpu", BLOCK_SIZE=8)
        modify = score_mod(dtype) if score_mod else None
        return flex.flex_attention(q, k, v, score_mod=modify, block_mask=block_mask, return_lse=True, **options)

    save(name, call, data, tq, tk, kv_heads)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def make_sdpa():
    sdpa("sdpa_full", tk=30)
    sdpa("sdpa_is_causal", is_causal=True)
    sdpa("sdpa_is_causal_more_keys", tk=30, is_causal=True)
    sdpa("sdpa_causal_lower_right", tk=30, mask=attention_bias.causal_lower_right(21, 30))
    sdpa("sdpa_scale", scale=0.25)
    sdpa("sdpa_enable_gqa", kv_heads=2, is_causal=True, enable_gqa=True)
    keep = numbers(4, B, 1, 21, 30) > 0
    sdpa("sdpa_bool_mask", {"dense": keep}, tk=30, mask=keep)
    lengths = torch.tensor([30, 17])
    padding = torch.arange(30)[None] < lengths[:, None]
    sdpa("sdpa_key_padding", {"key_padding": padding}, tk=30, mask=padding[:, None, None])
    bias = numbers(5, 1, H, 21, 30)
    sdpa("sdpa_float_mask", {"bias": bias}, tk=30, mask=bias)


def make_masks():
    lengths = torch.tensor([13, 0])
    prefix = torch.tensor([9, 4])
    documents = torch.tensor([[0] * 8 + [1] * 3 + [2] * 10, [0] * 2 + [1] * 17 + [2] * 2])
    keep = numbers(6, B, H, 21, 21) > 0.5

    def window(b, h, q_idx, kv_idx):
        return q_idx - kv_idx <= 5

    def in_prefix(b, h, q_idx, kv_idx):
        return kv_idx < prefix[b]

    def same_document(b, h, q_idx, kv_idx):
        return documents[b, q_idx] == documents[b, kv_idx]

    def padding(b, h, q_idx, kv_idx):
        return kv_idx < lengths[b]

    def dilated(b, h, q_idx, kv_idx):
        return ((q_idx - kv_idx).abs() <= 6) & ((q_idx - kv_idx) % 2 == 0)

    def global_tokens(b, h, q_idx, kv_idx):
        return (q_idx < 2) | (kv_idx < 2)

    def per_head(b, h, q_idx, kv_idx):
        return torch.where(h < 2, q_idx >= kv_idx, (q_idx - kv_idx).abs() <= 3)

    def table(b, h, q_idx, kv_idx):
        return keep[b, h, q_idx, kv_idx]

    flexed("flex_causal", mask_mod=causal)
    flexed("flex_sliding_window", mask_mod=flex.and_masks(causal, window))
    flexed("flex_prefix_lm", {"prefix_lengths": prefix}, mask_mod=flex.or_masks(in_prefix, causal))
    flexed("flex_documents", {"document_ids": documents}, mask_mod=flex.and_masks(same_document, causal))
    # The second sequence keeps nothing: o is 0 and lse −∞.
    flexed("flex_padding", {"key_lengths": lengths}, mask_mod=padding)
    flexed("flex_longformer", mask_mod=flex.or_masks(dilated, global_tokens))
    flexed("flex_per_head", mask_mod=per_head)
    flexed("flex_table", {"dense": keep}, mask_mod=table)
    flexed("flex_gqa", kv_heads=2, mask_mod=causal, enable_gqa=True, scale=0.5)


def make_scores():
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    bias = numbers(7, 1, H, 21, 21)

    def alibi(dtype):
        per_head = slopes.to(dtype)
        return lambda score, b, h, q_idx, kv_idx: score + (kv_idx - q_idx) * per_head[h]

    def softcap(dtype):
        return lambda score, b, h, q_idx, kv_idx: 3.0 * torch.tanh(score / 3.0)

    def relative(dtype):
        table = bias.to(dtype)
        return lambda score, b, h, q_idx, kv_idx: score + table[0, h, q_idx, kv_idx]

    def capped_bias(dtype):
        table = bias.to(dtype)
        return lambda score, b, h, q_idx, kv_idx: 3.0 * torch.tanh(score / 3.0) + table[0, h, q_idx, kv_idx]

    flexed("flex_alibi", {"alibi_slopes": slopes}, mask_mod=causal, score_mod=alibi)
    flexed("flex_softcap", mask_mod=causal, score_mod=softcap)
    flexed("flex_bias", {"bias": bias}, score_mod=relative)
    flexed("flex_softcap_bias", {"bias": bias}, mask_mod=causal, score_mod=capped_bias)


if __name__ == "__main__":
    make_sdpa()
    make_masks()
    make_scores()
