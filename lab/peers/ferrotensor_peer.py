"""ferrotensor's autograd through its attention, on its wgpu device."""

import ferrotensor as ft
import ferrotensor.nn.functional as F
import numpy as np

import common


class Ferrotensor:
    # Its forward pass writes the scores out; it is here for its gradients.
    PASSES = "backward"

    def about(self):
        self.device = ft.Device("gpu")
        return {"about": "ferrotensor 0.3.0", "device": str(self.device)}

    def prepare(self, case):
        if case.heads != case.kv_heads:
            raise ValueError("it has no grouped heads")
        tensor = lambda x, grad: ft.tensor(
            x.reshape(-1).tolist(), device=self.device
        ).reshape(*x.shape).detach().requires_grad_(grad)
        self.operands = [tensor(x, True) for x in (case.q, case.k, case.v)]
        self.dout = tensor(case.dout, False)
        self.causal = case.causal

    def run(self):
        for x in self.operands:
            x.grad = None
        F.scaled_dot_product_attention(*self.operands, self.causal).backward(self.dout)
        # A number of each gradient has to be there before the next call.
        for x in self.operands:
            x.grad.sum().item()

    def output(self):
        return tuple(np.array(x.grad.tolist(), np.float32) for x in self.operands)


common.serve(Ferrotensor())
