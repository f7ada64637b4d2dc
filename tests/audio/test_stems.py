"""Tracks with stems: excerpts are in step, splits share no track, and broken tracks are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rectiflow.errors import ConfigError, DataError
from rectiflow_audio.mixing import mix
from rectiflow_audio.stems import MUSDB, StemTracks


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tracks whose stems are one ramp of time, scaled by stem and track, so that place and origin can be read off."""
    ramp = np.linspace(0, 1, 16_000)[:, None] * np.ones((1, 2))
    for number in range(10):
        track = tmp_path / ("train" if number < 8 else "test") / f"track {number}"
        track.mkdir(parents=True)
        for place, stem in enumerate(MUSDB):
            wave = ramp * (0.9 - 0.2 * place) / (1 + number)
            soundfile.write(track / f"{stem}.wav", wave, 16_000, subtype="FLOAT")
    return tmp_path


def test_stems_are_in_step(folder: Path) -> None:
    tracks = StemTracks(folder)
    for seed in range(5):
        stems = tracks.together(4000, "train", seeded(seed))
        assert stems.shape == (4, 4000)
        expected = stems[0] * torch.tensor([1, 0.7 / 0.9, 0.5 / 0.9, 0.3 / 0.9])[:, None]
        torch.testing.assert_close(stems, expected, atol=1e-6, rtol=0)
    starts = {round(float(tracks.together(4000, "test", seeded(seed))[0, 0]), 4) for seed in range(8)}
    assert len(starts) > 4


def test_splits_share_no_track(folder: Path) -> None:
    tracks = StemTracks(folder)
    slopes: dict[str, set[float]] = {}
    for split in ("train", "validation", "test"):
        waves = [tracks.together(8000, split, seeded(seed)) for seed in range(40)]
        slopes[split] = {round(0.9 / 15_999 / float(wave[0].diff().mean())) - 1 for wave in waves}
    assert slopes["test"] == {8, 9}
    assert slopes["validation"]
    assert not slopes["train"] & slopes["validation"]
    assert slopes["train"] | slopes["validation"] <= set(range(8))


def test_stems_are_single_sounds_too(folder: Path) -> None:
    found = mix(StemTracks(folder), ["vocals", "drums"], 2000, (0, 0), seeded())
    assert torch.equal(found.mixture, found.target + found.residual)
    assert "vocals" in found.caption


def test_broken_tracks_are_named_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / "track 1" / "bass.wav").unlink()
    (folder / "test" / "track 9" / "drums.wav").write_bytes(b"x")
    StemTracks(folder)
    assert "left out 2 tracks" in caplog.text
    assert "track 1 (no bass)" in caplog.text


def test_wrong_folders_and_stems_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        StemTracks(tmp_path / "gone")
    with pytest.raises(ConfigError, match="all different"):
        StemTracks(folder, ["vocals", "vocals"])
    with pytest.raises(DataError, match="no whole track for train, validation, test"):
        StemTracks(folder, ["vocals", "piano"])
    with pytest.raises(ConfigError, match="no stem 'piano'"):
        StemTracks(folder).draw("piano", 100, "train", seeded())
