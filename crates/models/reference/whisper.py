"""What faster-whisper writes down and its encoder hears, in f32: what crates/models is compared with.

Needs: pip install faster-whisper safetensors
Run:   python3 crates/models/reference/whisper.py MODEL_FOLDER RECORDING.wav …
Writes whisper.safetensors beside itself. For each recording NAME: `NAME.tokens` i32 (all windows), and in the metadata its
text; of its first window `NAME.heard` f32 [30, 384], the encoder's rows 0, 50, 100 … The transcripts are those of windows of
30 seconds, beam 1, without timestamps, each window by itself.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel, decode_audio
from faster_whisper.audio import pad_or_trim
from safetensors.numpy import save_file


def main():
    folder, recordings = sys.argv[1], [Path(name) for name in sys.argv[2:]]
    model = WhisperModel(folder, device="cpu", compute_type="float32")
    tensors, texts = {}, {}
    for recording in recordings:
        name = recording.stem
        audio = decode_audio(str(recording))
        features = pad_or_trim(model.feature_extractor(audio)[:, :-1][:, :3000])
        heard = np.array(model.encode(features))[0]
        tensors[f"{name}.heard"] = np.ascontiguousarray(heard[::50].astype(np.float32))
        clock = time.monotonic()
        segments, _ = model.transcribe(
            audio,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        segments = list(segments)
        texts[name] = [segment.text for segment in segments]
        tensors[f"{name}.tokens"] = np.array([t for segment in segments for t in segment.tokens], np.int32)
        print(name, texts[name], f"{time.monotonic() - clock:.1f} s")
    save_file(tensors, Path(__file__).with_suffix(".safetensors"), {"texts": json.dumps(texts)})


main()
