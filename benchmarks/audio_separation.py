"""Speed, memory and seams of `rectiflow separate audio` on a long file.

    python benchmarks/audio_separation.py run=runs/audio/demo/base [seconds=600] [rate=44100] [steps=1,4,8] [threads=2]

The file holds built-in sounds, two at a time. Each row is a fresh process: the real-time factor is that of the verb (seconds of
work a second of sound, files and pictures included), the processor factor is seconds of processor time a second of sound beyond
ten seconds, memory the growth of the peak over that of ten seconds of the same file.
A seam is the jump of the target's level, in dB, between the halves of each cross-fade of the segments, less that of the same file
cut elsewhere. Results go to benchmarks/audio/separation.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import soundfile
import torch

from rectiflow.records import machine_info, write_atomically
from rectiflow.runs import read_config
from rectiflow_audio.files import read_blocks, writing
from rectiflow_audio.generator import KINDS, synthesise
from rectiflow_audio.representation import SAMPLE_RATE
from rectiflow_audio.resampling import resampled
from rectiflow_audio.separate_settings import SeparateSettings
from rectiflow_audio.separating import Segments

RESULTS = Path(__file__).parent / "audio" / "separation.json"
DEFAULTS = {
    "run": "",
    "seconds": "600",
    "rate": "44100",
    "channels": "2",
    "steps": "1,4,8",
    "threads": "2",
    "query": "a flute",
}
CHILD = """
import resource, sys
from rectiflow.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("USED", used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(code)
"""


def main() -> None:
    settings = {**DEFAULTS, **dict(text.split("=", 1) for text in sys.argv[1:])}
    if not settings["run"] or settings.keys() != DEFAULTS.keys():
        sys.exit(f"usage: run=FOLDER and any of {', '.join(DEFAULTS)}")
    seconds, rate, channels = (int(settings[name]) for name in ("seconds", "rate", "channels"))
    hop = int(read_config(Path(settings["run"])).spectra.hop)
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long.wav", Path(folder) / "short.wav"
        write_mixture(long, seconds, rate, channels)
        write_mixture(short, 10, rate, channels)
        rows = []
        for steps in settings["steps"].split(","):
            base = separate(short, Path(folder) / "short", settings, steps)
            row = separate(long, Path(folder) / "long", settings, steps)
            growth = (row["peak"] - base["peak"]) / 1e6
            info = soundfile.info(str(Path(folder) / "long" / "long_residual.wav"))
            same = (info.samplerate, info.channels, info.frames) == (rate, channels, seconds * rate)
            seam = seam_level(Path(folder) / "long", hop)
            rows.append(
                {
                    "steps": int(steps),
                    "real_time_factor": row["factor"],
                    "processor_factor": (row["processor"] - base["processor"]) / (seconds - 10),
                    "memory_growth_mb": growth,
                    "peak_mb": row["peak"] / 1e6,
                    "same_rate_channels_length": same,
                    "seam_db": seam,
                }
            )
            print(json.dumps(rows[-1]))
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, json.dumps({"settings": settings, "machine": machine_info(), "rows": rows}, indent=1))


def separate(mixture: Path, out: Path, settings: dict[str, str], steps: str) -> dict[str, float]:
    """Run the verb in a process of its own: real-time factor, peak memory in bytes, seconds of processor time."""
    words = ["separate", "audio", str(mixture), f"query={settings['query']}", f"run={settings['run']}"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words, f"steps={steps}", f"out={out}"],
        env={**os.environ, "OMP_NUM_THREADS": settings["threads"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr.strip() or "the verb failed")
    peak, processor = map(float, done.stdout.rsplit("USED", 1)[1].split())
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return {"factor": report["real_time_factor"], "peak": peak * 1024, "processor": processor}


def write_mixture(path: Path, seconds: int, rate: int, channels: int) -> None:
    """Two kinds of sound at a time, four seconds each, louder on one side or the other."""
    generator = torch.Generator().manual_seed(0)

    def blocks() -> Any:
        for place in range(0, seconds, 4):
            both = [synthesise(KINDS[(place // 4 + step) % len(KINDS)], 64000, generator) for step in (0, 3)]
            both = [0.1 * wave / wave.square().mean().sqrt().clamp(min=1e-4) for wave in both]
            yield torch.stack([both[0] * (1 - 0.3 * c) + both[1] * (0.7 + 0.3 * c) for c in range(channels)]).clamp(
                -1, 1
            )

    with writing(path, rate, channels, "pcm16") as append:
        left = seconds * rate
        for block in resampled(blocks(), 16000, rate):
            append(block[:, :left])
            left -= block[:, :left].shape[1]


def seam_level(folder: Path, hop: int) -> float:
    """Mean |jump| in dB of the target's level at the middles of cross-fades, less that a third of a segment later."""
    [path] = [path for path in folder.glob("long_*.wav") if "residual" not in path.name]
    wave = torch.cat(list(read_blocks(path)), dim=1)[0]
    rate = soundfile.info(str(path)).samplerate
    length = round(SeparateSettings.segment * SAMPLE_RATE / hop) * hop
    segments = Segments(length, int(length * SeparateSettings.overlap), hop)
    stride, fade = (samples * rate / SAMPLE_RATE for samples in (segments.stride, segments.overlap))
    window = rate // 20

    def jump(place: int) -> float | None:
        before, after = wave[place - window : place].norm(), wave[place : place + window].norm()
        return abs(float(20 * torch.log10(after / before))) if min(before, after) > 1e-3 else None

    count = int(len(wave) / stride) - 2
    at, off = (
        [found for step in range(1, count) if (found := jump(round(step * stride + fade / 2 + shift))) is not None]
        for shift in (0, stride / 3)
    )
    return sum(at) / max(1, len(at)) - sum(off) / max(1, len(off))


if __name__ == "__main__":
    main()
