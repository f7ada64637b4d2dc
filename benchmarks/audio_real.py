"""Real sounds by split: a run of `recipe=real` on files held out for validation and for test, and what is hard in them.

For each split the mean, median and share improved of SI-SDRi of one step, by kind, by SNR, in words of training and in others;
without the melodies that are played on a SoundFont's notes; and on mixtures of any two kinds, of which one query may mean both
(`data.overlap`).

    python benchmarks/audio_real.py run=runs/audio/real count=192
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.conditions import take
from rectiflow.trained import Trained, open_run
from rectiflow_audio import SPEC
from rectiflow_audio.data import HeldOut
from rectiflow_audio.domain import Audio
from rectiflow_audio.library import LibrarySounds
from rectiflow_audio.metrics import by_kind, by_snr, si_sdr_improvement, summary
from rectiflow_audio.mixing import Mixtures
from rectiflow_audio.real_packages import SOUNDFONT
from rectiflow_audio.recordings import MANIFEST, Recording, write_manifest
from rectiflow_audio.sounds import Sounds

BATCH = 32
LEVELS = (-2.5, 0.0, 2.5)


def main() -> None:
    """Measure, print a line a series, and write the figures beside the run's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="run=FOLDER count=192 threads=1")
    settings = {"count": "192", "threads": "1"} | dict(text.split("=", 1) for text in parser.parse_args().settings)
    if "run" not in settings or set(settings) > {"run", "count", "threads"}:
        sys.exit("name the run, and count and threads if you like: run=runs/audio/real count=192 threads=1")
    torch.set_num_threads(int(settings["threads"]))
    trained = open_run(SPEC, Path(settings["run"]))
    domain = trained.domain
    if not isinstance(domain, Audio):
        sys.exit(f"run={settings['run']} is not of the audio domain")
    found = {}
    for name, rules in (
        ("validation", {"split": "validation"}),
        ("test", {"split": "test"}),
        ("validation, new words", {"split": "validation", "held_out": True}),
        ("test, new words", {"split": "test", "held_out": True}),
        ("test, any two kinds", {"split": "test", "overlap": True}),
        ("trained on", {"split": "train"}),
    ):
        found[name] = measured(trained, domain.mixes.sounds, int(settings["count"]), rules)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    sounds = recorded(cache_folder("audio") / "real-sounds")
    for split in ("validation", "test"):
        name = f"{split}, recordings alone"
        found[name] = measured(trained, sounds, int(settings["count"]), {"split": split})
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    (trained.folder / "splits.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def recorded(folder: Path) -> LibrarySounds:
    """The fetched real sounds without those that a SoundFont played."""
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["package"] != SOUNDFONT.name]
    kept = [Recording(**{**row, "path": str(folder / row["path"]), "seconds": float(row["seconds"])}) for row in rows]  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        write_manifest(kept, Path(place) / MANIFEST)
        return LibrarySounds(place)


def measured(trained: Trained, sounds: Sounds, count: int, rules: dict[str, Any]) -> dict[str, Any]:
    """Figures of one step on mixtures of two kinds of sounds."""
    domain: Any = trained.domain
    settings: dict[str, Any] = {"voices": (2, 2), "overlap": False, "seed": 0} | rules
    mixtures = Mixtures(sounds, domain.config.data.seconds, count, **settings)
    series = HeldOut(mixtures, domain.spectra, domain.captions)
    estimate = torch.cat([one_step(trained, series, rows) for rows in torch.split(torch.arange(count), BATCH)])
    wanted, mixture = series.waves[:, 0], series.waves.sum(1)
    gains = si_sdr_improvement(estimate, wanted, mixture)
    whole = summary(gains)
    kinds, levels = [item.kind for item in series.items], [item.snr for item in series.items]
    pairs: defaultdict[str, list[float]] = defaultdict(list)
    for item, gain in zip(series.items, gains.tolist(), strict=True):
        pairs[" in ".join(item.kinds)].append(round(gain, 1))
    return {
        "si_sdri": round(whole.mean, 2),
        "standard_error": round(float(gains.std() / count**0.5), 2),
        "median": round(whole.median, 2),
        "improved": round(whole.improved, 3),
        "kinds": {kind: [round(one.mean, 1), kinds.count(kind)] for kind, one in by_kind(gains, kinds).items()},
        "levels": {name: round(one.mean, 1) for name, one in by_snr(gains, levels, LEVELS).items()},
        "worst_pairs": {pair: found for pair, found in sorted(pairs.items()) if min(found) < -5},
    }


@torch.no_grad()
def one_step(trained: Trained, series: HeldOut, rows: Tensor) -> Tensor:
    """Waveforms (B, T) of what was asked for in the mixtures with these numbers (B,)."""
    domain: Any = trained.domain
    cond = take(series.conditions(torch.arange(len(series.mixtures))), rows)
    x0 = cond["mixture"].expand(-1, 2, -1, -1, -1)
    estimate = trained.flow.model(x0, torch.zeros(len(rows)), **cond)
    return domain.waves(estimate, cond)[:, 0]  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
