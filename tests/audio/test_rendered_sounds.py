"""Sounds without Debian: a SoundFont made by hand, pieces played on it, and the set that takes the place of the real one."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.fetch import Package
from rectiflow_audio import fetching, rendered_sounds, rendered_tracks
from rectiflow_audio.arranging import DRUM_BANK, PARTS, band, band_parts, drumming, effect, melody
from rectiflow_audio.espeak import Speaking
from rectiflow_audio.library import LibrarySounds
from rectiflow_audio.soundfont import SoundFont, read_soundfont
from rectiflow_audio.stems import StemTracks

RATE = 8000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def listed(kind: bytes, *chunks: bytes) -> bytes:
    return chunk(b"LIST", kind + b"".join(chunks))


def soundfont(presets: list[tuple[int, int]]) -> bytes:
    """Presets of one instrument: keys up to 84 are a looped tone of 500 Hz whose root is key 60; 90 and above a click that ends.

    Loud keys of 70 to 80 have a sample of their own, of 1000 Hz; soft ones are in a zone that is not to be taken.
    """
    time = np.arange(800) / RATE
    tones = [8000 * np.sin(2 * np.pi * 500 * time), 8000 * np.sin(2 * np.pi * 1000 * time), 8000 * np.ones(80)]
    samples = np.concatenate([np.concatenate([tone, np.zeros(46)]) for tone in tones]).astype("<i2")
    headers, first = b"", 0
    for name, tone, root in ((b"low", tones[0], 60), (b"high", tones[1], 72), (b"click", tones[2], 95)):
        end = first + len(tone)
        headers += struct.pack("<20s5IBb2H", name, first, end, first, end, RATE, root, 0, 0, 1)
        first = end + 46
    headers += struct.pack("<20s5IBb2H", b"EOS", *[0] * 9)

    def keys(low: int, high: int) -> tuple[int, int]:
        return 43, low | high << 8

    zones = [
        [(54, 1)],  # global: all loop
        [keys(0, 69), (53, 0)],
        [keys(70, 80), (44, 0 | 60 << 8), (53, 0)],
        [keys(70, 80), (44, 61 | 127 << 8), (53, 1)],
        [keys(81, 84), (36, 0), (37, 200), (58, 81), (52, 1200), (53, 0)],
        [keys(90, 127), (54, 0), (53, 2)],
    ]
    inner = b"".join(struct.pack("<2H", *pair) for zone in zones for pair in zone)
    starts = np.cumsum([0, *(len(zone) for zone in zones)])
    bags = b"".join(struct.pack("<2H", start, 0) for start in starts)
    outer = b"".join(
        struct.pack("<20s3H3I", b"preset", program, bank, n, 0, 0, 0) for n, (bank, program) in enumerate(presets)
    )
    outer += struct.pack("<20s3H3I", b"EOP", 0, 0, len(presets), 0, 0, 0)
    pdta = listed(
        b"pdta",
        chunk(b"phdr", outer),
        chunk(b"pbag", b"".join(struct.pack("<2H", n, 0) for n in range(len(presets) + 1))),
        chunk(b"pmod", bytes(10)),
        chunk(b"pgen", struct.pack("<2H", 41, 0) * len(presets) + bytes(4)),
        chunk(b"inst", struct.pack("<20sH", b"tone", 0) + struct.pack("<20sH", b"EOI", len(zones))),
        chunk(b"ibag", bags),
        chunk(b"imod", bytes(10)),
        chunk(b"igen", inner + bytes(4)),
        chunk(b"shdr", headers),
    )
    body = (
        b"sfbk" + listed(b"INFO", chunk(b"ifil", bytes(4))) + listed(b"sdta", chunk(b"smpl", samples.tobytes())) + pdta
    )
    return chunk(b"RIFF", body)


@pytest.fixture
def font(tmp_path: Path) -> SoundFont:
    (tmp_path / "x.sf2").write_bytes(soundfont([(0, 0), (0, 5), (DRUM_BANK, 0)]))
    return read_soundfont(tmp_path / "x.sf2")


def pitch_of(wave: Tensor) -> float:
    return float(torch.fft.rfft(wave * torch.hann_window(len(wave)), 1 << 17).abs().argmax()) * 16_000 / (1 << 17)


@pytest.mark.parametrize(("key", "pitch"), [(60, 500.0), (67, 749.15), (48, 250.0), (72, 1000.0), (75, 1189.2)])
def test_notes_have_the_pitch_of_their_keys_for_as_long_as_held(font: SoundFont, key: int, pitch: float) -> None:
    note = font.note(0, 0, key, 0.5)
    assert note is not None
    assert len(note) == pytest.approx(8000, abs=8)
    assert pitch_of(note) == pytest.approx(pitch, rel=2e-3)
    middle = note[1000:-2000]
    assert float(middle.abs().amax()) == pytest.approx(8000 / 32768, rel=0.05)
    assert float(note[-1]) == pytest.approx(0, abs=1e-3)


def test_notes_decay_and_are_tuned_as_the_file_says(font: SoundFont) -> None:
    """100 dB a second down to 20 dB below the peak; root 81 in place of 60, and 1200 cents up."""
    note = font.note(0, 0, 81, 1.0)
    assert note is not None
    assert pitch_of(note[8000:]) == pytest.approx(1000, rel=2e-3)
    peaks = [float(note[place - 80 : place + 80].abs().amax()) for place in (1600, 3000, 8000)]
    assert 20 * np.log10(peaks[0] / 0.2441) == pytest.approx(-10, abs=0.8)
    assert 20 * np.log10(peaks[1] / 0.2441) == pytest.approx(-18.75, abs=0.8)
    assert 20 * np.log10(peaks[2] / 0.2441) == pytest.approx(-20, abs=0.3)


def test_presets_keys_and_loops(font: SoundFont) -> None:
    assert font.names == {(0, 0): "preset", (0, 5): "preset", (DRUM_BANK, 0): "preset"}
    assert font.note(0, 0, 85, 1.0) is None
    assert font.note(0, 7, 60, 1.0) is None
    click = font.note(0, 0, 95, 1.0)
    assert click is not None
    assert len(click) == pytest.approx(160, abs=2)  # not looped: a hundredth of a second


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = soundfont([(0, 0)])
    for content in (b"", b"RIFF" + bytes(60), whole[:2500], whole[:-40]):
        (tmp_path / "bad.sf2").write_bytes(content)
        with pytest.raises(DataError, match="not a SoundFont 2 file"):
            read_soundfont(tmp_path / "bad.sf2")


def test_pieces_repeat_with_the_generator_and_sound(font: SoundFont) -> None:
    for play in (
        lambda own: melody(font, 0, 2.0, own),
        lambda own: drumming(font, 0, 2.0, own),
        lambda own: band(font, (0,), 2.0, own),
        lambda own: effect(font, 5, 2.0, own),
    ):
        first, again, other = play(seeded()), play(seeded()), play(seeded(1))
        assert first.shape == (32_000,)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert float(first.square().mean()) > 1e-6


def test_a_band_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """Bass and chords are always there, drums and lead in four bands of five."""
    (tmp_path / "x.sf2").write_bytes(soundfont([(DRUM_BANK, 0), *((0, number) for number in range(128))]))
    font, silent = read_soundfont(tmp_path / "x.sf2"), torch.zeros(4)
    for seed in range(40):
        parts = band_parts(font, (0,), 1.0, seeded(seed))
        torch.testing.assert_close(parts.sum(0), band(font, (0,), 1.0, seeded(seed)))
        assert float((parts[1] + parts[2]).square().mean()) == pytest.approx(1, rel=1e-3)
        silent += (parts.abs().amax(1) == 0).float()
    assert silent[1:3].sum() == 0
    assert all(1 <= count <= 18 for count in silent[[0, 3]].tolist())  # 4 standard deviations around 8


class Voice:
    """Says a hum for as many hundredths of a second as a text has letters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, text: str, voice: str, pace: int, pitch: int) -> Tensor:
        return 0.1 * torch.sin(torch.arange(160 * len(text)) * 0.05)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("speaks", [True, False])
def test_without_apt_rendered_sounds_take_the_place_of_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], speaks: bool
) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(fetching.shutil, "which", lambda command: None)
    for name, fewer in (("DRUM_KITS", (0,)), ("GUITARS", (0, 5)), ("INSTRUMENTS", (5,)), ("EFFECTS", (0,))):
        monkeypatch.setattr(rendered_sounds, name, fewer)
    monkeypatch.setattr(rendered_sounds, "VOICES", ("a", "b"))
    monkeypatch.setattr(rendered_sounds, "PIECES", 5)
    for play, seconds in (("melody", 0.3), ("drumming", 0.3), ("band", 0.3), ("effect", 0.3)):
        made = getattr(rendered_sounds, play)
        monkeypatch.setattr(
            rendered_sounds, play, lambda font, what, _, own, made=made, seconds=seconds: made(font, what, seconds, own)
        )

    def fetched(package: Package) -> Path:
        if package.name == "pretty-midi":
            (tmp_path / "pretty_midi").mkdir(exist_ok=True)
            presets = [(0, 0), (0, 5), (DRUM_BANK, 0), *((0, program) for program in range(20, 60))]
            (tmp_path / package.wanted[0]).write_bytes(soundfont(presets))
        elif not speaks:
            raise DataError("no such wheel")
        return tmp_path

    monkeypatch.setattr(rendered_sounds, "fetch_package", fetched)
    monkeypatch.setattr(rendered_sounds, "Speaking", Voice)
    folder = fetching.fetch("real-sounds")
    told = capsys.readouterr().err
    assert "apt-get is not here" in told
    assert "rendered, not recorded" in told
    assert ("going on without speech: no such wheel" in told) == (not speaks)
    with (folder / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    kinds = {"drums", "guitar", "instrument", "everyday", "music"} | ({"speech"} if speaks else set())
    assert {row["kind"] for row in rows} == kinds
    assert all(row["licence"] and row["package"] and row["split"] for row in rows)
    record = json.loads((folder / "manifest.json").read_text())
    assert rendered_sounds.NOTES.sha256 in record["sha256"]
    assert "GPL" in (folder / "ATTRIBUTION.md").read_text()
    sounds = LibrarySounds(folder)
    assert set(sounds.kinds) == kinds
    assert sounds.draw("music", 2000, "train", seeded()).shape == (2000,)


def test_melodies_of_a_soundfont_join_the_real_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_sounds, "GUITARS", (0,))
    monkeypatch.setattr(rendered_sounds, "INSTRUMENTS", (5,))
    monkeypatch.setattr(rendered_sounds, "melody", lambda font, program, _, own: melody(font, program, 0.3, own))
    with pytest.raises(DataError, match="no SoundFont"):
        rendered_sounds.played_notes(tmp_path, tmp_path)
    (tmp_path / "x.sf2").write_bytes(soundfont([(0, 0), (0, 5)]))
    found = rendered_sounds.played_notes(tmp_path, tmp_path)
    assert [one.kind for one in found] == ["guitar"] * 7 + ["instrument"] * 3
    assert all(one.package == "timgm6mb-soundfont" and (tmp_path / one.path).is_file() for one in found)


def test_tracks_are_laid_out_as_fixed_stems_take_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(rendered_tracks, "TRACKS", {"train": 8, "test": 2})
    monkeypatch.setattr(rendered_tracks, "SECONDS", 0.4)
    monkeypatch.setattr(rendered_tracks, "DRUM_KITS", (0,))

    def fetched(package: Package) -> Path:
        (tmp_path / "pretty_midi").mkdir()
        (tmp_path / package.wanted[0]).write_bytes(soundfont([(DRUM_BANK, 0), *((0, number) for number in range(128))]))
        return tmp_path

    monkeypatch.setattr(rendered_tracks, "fetch_package", fetched)
    folder = fetching.fetch("rendered-tracks")
    assert "GPL" in json.loads((folder / "manifest.json").read_text())["licence"]
    assert fetching.fetch("rendered-tracks") == folder
    tracks = StemTracks(folder, PARTS)
    mixture = tracks.together(3200, "test", seeded())
    assert mixture.shape == (4, 3200)
    assert 0 < float(mixture.sum(0).abs().amax()) <= 0.7 + 1e-3
    assert not torch.equal(tracks.together(3200, "train", seeded()), mixture)


def test_a_system_without_a_pinned_synthesiser_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_sounds.platform, "machine", lambda: "s390x")
    with pytest.raises(DataError, match="s390x"):
        rendered_sounds._speech_package()
    with pytest.raises(DataError, match="holds none of"):
        Speaking(tmp_path)
