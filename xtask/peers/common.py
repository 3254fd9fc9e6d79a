"""What the Python peers of `cargo xtask compare` share: the loop that answers its commands (xtask/src/compare/peer.rs)."""

import json
import sys
import time

import numpy as np


class Case:
    def __init__(self, command):
        self.batch, self.heads, self.kv_heads, self.seq_q, self.seq_kv, self.dim = command["shape"]
        self.causal = command["causal"]
        self.lengths = command["lengths"]
        read = lambda name: np.fromfile(f"{command['folder']}/{name}.bin", np.float32)
        self.q = read("q").reshape(self.batch, self.heads, self.seq_q, self.dim)
        self.k = read("k").reshape(self.batch, self.kv_heads, self.seq_kv, self.dim)
        self.v = read("v").reshape(self.batch, self.kv_heads, self.seq_kv, self.dim)

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
    """`peer` has about() -> dict, prepare(case) -> dict, run(), output() -> [batch, heads, seq_q, dim]."""
    # What libraries print goes elsewhere.
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = reply(peer, command)
        except Exception as error:  # the peer's own words are the reason that is shown
            answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


def reply(peer, command):
    match command["do"]:
        case "about":
            return peer.about()
        case "prepare":
            return peer.prepare(Case(command)) or {}
        case "run":
            wall, cpu = time.perf_counter(), time.process_time()
            peer.run()
            return {
                "ms": (time.perf_counter() - wall) * 1e3,
                "cpu_ms": (time.process_time() - cpu) * 1e3,
            }
        case "output":
            np.ascontiguousarray(peer.output(), np.float32).tofile(command["path"])
            return {}
