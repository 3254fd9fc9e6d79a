"""What the Python peers of `cargo xtask compare` share: the loop that answers its commands (lab/src/compare/peer.rs)."""

import json
import os
import sys
import time

import numpy as np

# What libraries print goes elsewhere, from Python or not, also while they are imported: peers import this first.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Case:
    def __init__(self, command):
        self.batch, self.heads, self.kv_heads, self.seq_q, self.seq_kv, self.dim = command["shape"]
        self.causal = command["causal"]
        self.lengths = command["lengths"]
        self.backward = command["backward"]
        read = lambda name: np.fromfile(f"{command['folder']}/{name}.bin", np.float32)
        self.q = read("q").reshape(self.batch, self.heads, self.seq_q, self.dim)
        self.k = read("k").reshape(self.batch, self.kv_heads, self.seq_kv, self.dim)
        self.v = read("v").reshape(self.batch, self.kv_heads, self.seq_kv, self.dim)
        self.dout = read("dout").reshape(self.q.shape) if self.backward else None

    def keep(self):
        """[batch or 1, 1, seq_q, seq_kv], or None where every key is kept."""
        keep = None
        if self.causal:
            last = np.arange(self.seq_q)[:, None] + (self.seq_kv - self.seq_q)
            keep = (np.arange(self.seq_kv)[None, :] <= last)[None, None]
        if self.lengths is not None:
            padded = np.arange(self.seq_kv)[None, :] < np.array(self.lengths)[:, None]
            padded = np.broadcast_to(padded[:, None, None, :], (self.batch, 1, self.seq_q, self.seq_kv))
            keep = padded if keep is None else keep & padded
        return keep


def serve(peer):
    """`peer` has about() -> dict, prepare(case) -> dict, run(), output() -> [batch, heads, seq_q, dim], or of both passes a
    tuple of dq, dk and dv. PASSES says which cases it takes: "forward", "backward" (both passes) or both words."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = reply(peer, command)
        except Exception as error:  # the peer's own words are the reason that is shown
            answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def reply(peer, command):
    match command["do"]:
        case "about":
            return peer.about()
        case "prepare":
            case = Case(command)
            if ("backward" if case.backward else "forward") not in peer.PASSES:
                raise ValueError("there is no backward pass" if case.backward else "it runs for its gradients alone")
            return peer.prepare(case) or {}
        case "run":
            wall, cpu = time.perf_counter(), time.process_time()
            peer.run()
            return {
                "ms": (time.perf_counter() - wall) * 1e3,
                "cpu_ms": (time.process_time() - cpu) * 1e3,
            }
        case "output":
            output = peer.output()
            tensors = output if isinstance(output, tuple) else (output,)
            np.concatenate([np.asarray(x, np.float32).reshape(-1) for x in tensors]).tofile(command["path"])
            return {}
