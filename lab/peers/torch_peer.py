"""PyTorch's flash attention for CPUs: torch.nn.functional.scaled_dot_product_attention."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import common


class Torch:
    PASSES = "forward and backward"

    def about(self):
        return {"about": f"PyTorch {torch.__version__}", "device": torch.backends.cpu.get_cpu_capability()}

    def prepare(self, case):
        self.q, self.k, self.v = (torch.from_numpy(x).requires_grad_(case.backward) for x in (case.q, case.k, case.v))
        self.dout = torch.from_numpy(case.dout) if case.backward else None
        self.options = {"enable_gqa": case.heads != case.kv_heads}
        if case.lengths is not None:
            self.options["attn_mask"] = torch.from_numpy(np.ascontiguousarray(case.keep()))
        elif case.causal and case.seq_q == case.seq_kv:
            self.options["is_causal"] = True
        elif case.causal:
            raise ValueError("is_causal is aligned to the upper left here")

    def run(self):
        with torch.set_grad_enabled(self.dout is not None), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            self.o = F.scaled_dot_product_attention(self.q, self.k, self.v, **self.options)
        if self.dout is not None:
            self.gradients = torch.autograd.grad(self.o, (self.q, self.k, self.v), self.dout)

    def output(self):
        if self.dout is not None:
            return tuple(x.numpy() for x in self.gradients)
        return self.o.numpy()


common.serve(Torch())
