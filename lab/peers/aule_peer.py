"""aule-attention's Vulkan kernels: forward with lse, then backward."""

import common
from aule.vulkan import Aule


class AuleVulkan:
    # It is here for its gradients.
    PASSES = "backward"

    def about(self):
        self.aule = Aule()
        return {"about": "aule-attention 0.5.0", "device": self.aule.device_name}

    def prepare(self, case):
        if case.heads != case.kv_heads:
            raise ValueError("its gradients are for as many kv heads as heads")
        self.case = case

    def run(self):
        case = self.case
        o, lse = self.aule.attention_forward_with_lse(case.q, case.k, case.v, causal=case.causal)
        self.gradients = self.aule.attention_backward(case.q, case.k, case.v, o, case.dout, lse, causal=case.causal)

    def output(self):
        return self.gradients


common.serve(AuleVulkan())
