"""Speed, memory and seams of `rectiflow separate audio` on a long file.

    python benchmarks/audio_separation.py run=runs/audio/demo/base [seconds=600] [rate=44100] [steps=1,4,8] [threads=2]

The file holds built-in sounds, two at a time. Each row is a fresh process: the real-time factor is that of the verb (seconds of
work a second of sound, files and pictures included), the processor factor is seconds of processor time a second of sound beyond
ten seconds, memory the growth of the peak over that of ten seconds of the same file.
A seam is the jump of the target's level, in dB, between the quarters of a second before and after the middle of a cross-fade of
segments, less the jump at the same place where the same file, with the same noise, is cut elsewhere; `apart` is how far the two
cuttings are apart, in dB of the mixture. Results go to benchmarks/audio/separation.json.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import soundfile
import torch

from rectiflow.records import machine_info, write_atomically
from rectiflow_audio.extracting import load_extractor
from rectiflow_audio.files import read_blocks, writing
from rectiflow_audio.generator import KINDS, synthesise
from rectiflow_audio.representation import SAMPLE_RATE
from rectiflow_audio.resampling import resampled
from rectiflow_audio.separate import segments_of
from rectiflow_audio.separate_settings import SeparateSettings

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
AUDIBLE = 0.003
CUTS = (SeparateSettings.segment, 1.3 * SeparateSettings.segment)
"""Seconds a segment: as the verb has it, and for the same file cut elsewhere."""
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
    extractor = load_extractor(Path(settings["run"]))
    cuts = [segments_of(extractor, cut, SeparateSettings.overlap) for cut in CUTS]
    total = seconds * SAMPLE_RATE
    seams = [[start + cut.overlap / 2 for start in cut.starts(total)[1:-1]] for cut in cuts]
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
            separate(long, Path(folder) / "elsewhere", settings, steps, CUTS[1])
            stems = [stem_of(Path(folder) / name) for name in ("long", "elsewhere")]
            seam, error, count = seam_level(
                stems, [[place * rate / SAMPLE_RATE for place in one] for one in seams], rate
            )
            mixture = next(read_blocks(long, size=seconds * rate))[0]
            apart = 20 * math.log10(float((stems[0] - stems[1]).norm() / mixture.norm()))
            rows.append(
                {
                    "steps": int(steps),
                    "real_time_factor": row["factor"],
                    "processor_factor": (row["processor"] - base["processor"]) / (seconds - 10),
                    "memory_growth_mb": growth,
                    "peak_mb": row["peak"] / 1e6,
                    "same_rate_channels_length": same,
                    "seam_db": seam,
                    "seam_standard_error_db": error,
                    "seams": count,
                    "apart_db": apart,
                }
            )
            print(json.dumps(rows[-1]))
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, json.dumps({"settings": settings, "machine": machine_info(), "rows": rows}, indent=1))


def separate(
    mixture: Path, out: Path, settings: dict[str, str], steps: str, segment: float = CUTS[0]
) -> dict[str, float]:
    """Run the verb in a process of its own: real-time factor, peak memory in bytes, seconds of processor time."""
    words = ["separate", "audio", str(mixture), f"query={settings['query']}", f"run={settings['run']}"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words, f"steps={steps}", f"segment={segment}", f"out={out}"],
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


def stem_of(folder: Path) -> torch.Tensor:
    """The first channel (T,) of what was asked for."""
    [path] = [path for path in folder.glob("long_*.wav") if "residual" not in path.name]
    return torch.cat([block[0] for block in read_blocks(path)])


def seam_level(stems: list[torch.Tensor], seams: list[list[float]], rate: int) -> tuple[float, float, int]:
    """By how many dB the level of stems (T,) jumps more at their seams, in samples, than that of the other one there.

    The mean, its standard error, and of how many seams: those that sound and are half a second away from any of the other's.
    """
    window = rate // 4

    def jump(wave: torch.Tensor, place: float) -> float:
        before, after = wave[round(place) - window : round(place)], wave[round(place) : round(place) + window]
        return abs(20 * math.log10(max(float(after.norm()), 1e-9) / max(float(before.norm()), 1e-9)))

    found = []
    for one, other in ((0, 1), (1, 0)):
        for place in seams[one]:
            near = min(abs(place - elsewhere) for elsewhere in seams[other]) < rate / 2
            around = stems[one][round(place) - window : round(place) + window]
            if not near and float(around.square().mean().sqrt()) > AUDIBLE:
                found.append(jump(stems[one], place) - jump(stems[other], place))
    gaps = torch.tensor(found)
    return float(gaps.mean()), float(gaps.std() / len(gaps) ** 0.5), len(gaps)


if __name__ == "__main__":
    main()
