"""PyTorch's flash attention for CPUs: torch.nn.functional.scaled_dot_product_attention."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import common


class Torch:
    def about(self):
        return {"about": f"PyTorch {torch.__version__}", "device": torch.backends.cpu.get_cpu_capability()}

    def prepare(self, case):
        self.q, self.k, self.v = (torch.from_numpy(x) for x in (case.q, case.k, case.v))
        self.options = {"enable_gqa": case.heads != case.kv_heads}
        if case.lengths is not None:
            self.options["attn_mask"] = torch.from_numpy(np.ascontiguousarray(case.keep()))
        elif case.causal and case.seq_q == case.seq_kv:
            self.options["is_causal"] = True
        elif case.causal:
            raise ValueError("is_causal is aligned to the upper left here")

    def run(self):
        with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            self.o = F.scaled_dot_product_attention(self.q, self.k, self.v, **self.options)

    def output(self):
        return self.o.numpy()


common.serve(Torch())
