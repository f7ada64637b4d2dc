"""Sounds out of files: splits that share nothing, excerpts that repeat, and bad files that are named and left out."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow.fetch import Package
from rectiflow_audio import real_sounds
from rectiflow_audio.excerpts import at_length, equaliser
from rectiflow_audio.later_packages import LATER
from rectiflow_audio.library import LibrarySounds
from rectiflow_audio.mixing import Mixtures
from rectiflow_audio.qt_resources import resources
from rectiflow_audio.real_packages import ORIGINS, Origin
from rectiflow_audio.real_sounds import convert, prepared
from rectiflow_audio.recordings import Recording, assign_splits, table, write_manifest


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tone(pitch: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def pitch_of(wave: torch.Tensor) -> float:
    return float(torch.fft.rfft(wave).abs().argmax()) * 16_000 / len(wave)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two kinds of tones, told apart by pitch, each file by its own; formats, rates and channels differ."""
    for kind, base in (("low", 200), ("high", 2000)):
        (tmp_path / kind).mkdir()
        for number in range(10):
            rate = (16_000, 44_100, 8_000)[number % 3]
            suffix = ("wav", "flac", "ogg")[number % 3]
            wave = tone(base + 40 * number, 1.0, rate, 1 + number % 2)
            soundfile.write(tmp_path / kind / f"take{number}.{suffix}", wave, rate)
    return tmp_path


def test_splits_share_no_file_and_cover_all(folder: Path) -> None:
    sounds = LibrarySounds(folder)
    assert sounds.kinds == ("high", "low")
    heard: dict[str, set[int]] = {}
    for split in ("train", "validation", "test"):
        generator = seeded(1)
        pitches = [pitch_of(sounds.draw("low", 8000, split, generator)) for _ in range(60)]
        heard[split] = {round((pitch - 200) / 40) for pitch in pitches}
    assert len(heard["train"]) == 8
    assert len(heard["validation"]) == len(heard["test"]) == 1
    assert not heard["train"] & heard["validation"]
    assert not heard["test"] & (heard["train"] | heard["validation"])


def test_excerpts_repeat_with_the_generator_and_mix(folder: Path) -> None:
    sounds = LibrarySounds(folder)
    assert torch.equal(sounds.draw("low", 3000, "train", seeded(1)), sounds.draw("low", 3000, "train", seeded(1)))
    item = Mixtures(sounds, 0.2, 4, voices=(2, 2))[1]
    assert torch.equal(item.mixture, item.target + item.residual)
    assert item.caption in sounds.captions(item.kind)
    assert not set(sounds.captions("low")) & set(sounds.captions("low", held_out=True))


def test_short_files_are_laid_out_again_and_again(tmp_path: Path) -> None:
    for kind in ("click", "hum"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            soundfile.write(tmp_path / kind / f"{number}.wav", tone(500, 0.05, 16_000), 16_000)
    wave = LibrarySounds(tmp_path).draw("click", 16_000, "train", seeded())
    assert wave.shape == (16_000,)
    halves = wave.reshape(4, 4000).square().mean(dim=1)
    assert (halves > 0).all()


def test_sounds_to_train_on_are_played_at_other_speeds(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(10):
            soundfile.write(tmp_path / kind / f"{number}.wav", tone(1000, 1.0, 16_000), 16_000)
    sounds = LibrarySounds(tmp_path, speed=2.0)
    found = [sounds.draw("a", 8000, "train", seeded(n)) for n in range(40)]
    semitones = [12 * math.log2(pitch_of(wave) / 1000) for wave in found]
    assert -2.1 < min(semitones) < -1.2
    assert 1.2 < max(semitones) < 2.1
    assert all(wave.shape == (8000,) and abs(float(wave.abs().amax()) - 0.5) < 0.1 for wave in found)
    for split in ("validation", "test"):
        assert all(abs(pitch_of(sounds.draw("a", 8000, split, seeded(n))) - 1000) < 3 for n in range(5))
    with pytest.raises(ConfigError, match="0 to 12 semitones"):
        LibrarySounds(tmp_path, speed=-1.0)


def test_sounds_to_train_on_are_coloured_alone(tmp_path: Path) -> None:
    """The levels of two tones differ by a random amount within twice the tone's decibels; held-out ones are as they lie."""
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(10):
            soundfile.write(
                tmp_path / kind / f"{number}.wav", tone(500, 1.0, 16_000) + 0.5 * tone(5000, 1.0, 16_000), 16_000
            )
    sounds = LibrarySounds(tmp_path, tone=6.0)

    def ratio(split: str, seed: int) -> float:
        power = torch.fft.rfft(sounds.draw("a", 16_000, split, seeded(seed))).abs().square()
        return float(10 * torch.log10(power[500] / power[5000])) - 20 * math.log10(2)

    found = [ratio("train", seed) for seed in range(40)]
    assert min(found) < -2.5
    assert max(found) > 2.5
    assert all(abs(value) < 12 for value in found)
    assert all(abs(ratio(split, 3)) < 0.1 for split in ("validation", "test"))
    with pytest.raises(ConfigError, match="0 to 24 dB"):
        LibrarySounds(tmp_path, tone=-1.0)


def test_equalisers_are_smooth_and_bounded() -> None:
    gains = torch.stack([equaliser(4001, 6.0, seeded(seed)) for seed in range(50)])
    level = 20 * gains.log10()
    assert level.shape == (50, 4001)
    assert float(level.abs().amax()) <= 6.001
    assert float(level.std()) > 2  # uniform knots have 3.5 dB, the lines between them less
    octave = level[:, [250, 500, 1000, 2000, 4000]]
    assert float(octave.diff(dim=1).abs().amax()) <= 12.01
    assert float(level.diff(dim=1).abs().amax()) < 0.2


@pytest.mark.parametrize(("length", "samples"), [(4096, 4096), (4608, 4096), (3648, 4096), (3648, 4095)])
def test_squeezed_waves_keep_whole_turns(length: int, samples: int) -> None:
    """A cosine of a whole number of turns is one of as many turns, of the same height, whatever the length."""
    turn = 2 * torch.pi * 100 * torch.arange(max(length, samples), dtype=torch.float64)
    found = at_length(torch.cos(turn[:length] / length), samples)
    assert torch.allclose(found, torch.cos(turn[:samples] / samples), atol=1e-9)


def test_a_single_long_file_is_split_in_time(tmp_path: Path) -> None:
    for kind, pitches in (("a", (300, 900, 1500)), ("b", (2000, 2500, 3000))):
        (tmp_path / kind).mkdir()
        parts = [tone(pitch, seconds, 16_000) for pitch, seconds in zip(pitches, (8.0, 1.0, 1.0), strict=True)]
        soundfile.write(tmp_path / kind / "long.wav", np.concatenate(parts), 16_000)
    sounds = LibrarySounds(tmp_path)
    for split, pitch in (("train", 300), ("validation", 900), ("test", 1500)):
        assert all(abs(pitch_of(sounds.draw("a", 4000, split, seeded(n))) - pitch) < 10 for n in range(5))


def test_bad_files_are_named_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "low" / "broken.wav").write_bytes(b"not a sound")
    (folder / "low" / "empty.flac").write_bytes(b"")
    soundfile.write(folder / "low" / "nothing.wav", np.zeros((0, 1)), 16_000)
    sounds = LibrarySounds(folder)
    assert "left out 3 of 23 files" in caplog.text
    assert "low/broken.wav" in caplog.text
    assert sounds.draw("low", 800, "train", seeded()).shape == (800,)


def test_silent_kind_and_lost_file_are_named(folder: Path) -> None:
    for number in range(3):
        (folder / "mute").mkdir(exist_ok=True)
        soundfile.write(folder / "mute" / f"{number}.wav", np.zeros((16_000, 1)), 16_000)
    sounds = LibrarySounds(folder)
    with pytest.raises(DataError, match=r"kind 'mute' were silent.*mute"):
        sounds.draw("mute", 800, "train", seeded())
    for file in (folder / "low").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        sounds.draw("low", 800, "train", seeded())
    with pytest.raises(ConfigError, match="no kind 'cat'"):
        sounds.draw("cat", 800, "train", seeded())


def test_wrong_libraries_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="neither a folder nor a manifest"):
        LibrarySounds(tmp_path / "gone")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no sub-folders"):
        LibrarySounds(tmp_path / "none")
    (folder / "third").mkdir()
    (folder / "third" / "x.wav").write_bytes(b"x")
    with pytest.raises(DataError, match="without any: third"):
        LibrarySounds(folder)


def test_manifest_says_kind_group_and_split(folder: Path) -> None:
    manifest = folder / "mine.csv"
    rows = [
        Recording(f"low/take{n}.{('wav', 'flac', 'ogg')[n % 3]}", kind, "g", split, 1.0)
        for n, (kind, split) in enumerate(
            [("a", "train"), ("a", "validation"), ("a", "test"), ("b", "train"), ("b", "validation"), ("b", "test")]
        )
    ]
    write_manifest(rows, manifest)
    sounds = LibrarySounds(manifest)
    assert pitch_of(sounds.draw("a", 8000, "validation", seeded())) == pytest.approx(240, abs=4)
    assert pitch_of(sounds.draw("b", 8000, "train", seeded())) == pytest.approx(320, abs=4)
    manifest.write_text("file,label\nx,y\n")
    with pytest.raises(DataError, match="columns file, label"):
        LibrarySounds(manifest)
    manifest.write_text("path,kind,split\nlow/take0.wav,a,dev\n")
    with pytest.raises(DataError, match="split 'dev'"):
        LibrarySounds(manifest)


def test_groups_stay_together_and_fractions_are_about_a_tenth() -> None:
    recordings = [Recording(f"{n}.flac", "k", f"group{n // 4}", "", 1.0) for n in range(400)]
    assigned = assign_splits(recordings)
    assert assign_splits(recordings[::-1]) == assigned
    of_group: dict[str, set[str]] = {}
    for recording in assigned:
        of_group.setdefault(recording.group, set()).add(recording.split)
    assert all(len(splits) == 1 for splits in of_group.values())
    shares = [sum(recording.split == split for recording in assigned) / 400 for split in ("validation", "test")]
    assert shares == pytest.approx([0.1, 0.1], abs=0.02)
    assert len(table(assigned)) == 2


def test_every_package_gives_its_tenth_to_what_is_held_out() -> None:
    """Packages of 200, 40 and 20 groups of one kind: each has as large a share in every split."""
    sizes = {"large": 200, "middle": 40, "small": 20}
    recordings = [
        Recording(f"{name}{n}.flac", "k", f"{name}{n}", "", 1.0, package=name)
        for name, size in sizes.items()
        for n in range(size)
    ]
    assigned = assign_splits(recordings)
    for name, size in sizes.items():
        for split in ("validation", "test"):
            held = sum(one.package == name and one.split == split for one in assigned)
            assert held == size // 10


def test_packages_that_join_later_move_nothing() -> None:
    """Names that sort before those of the first package, and a group that was there before, which goes with it."""
    first = [Recording(f"m{n}.flac", "k", f"m{n}", "", 1.0, package="m") for n in range(33)]
    before = {one.path: one.split for one in assign_splits(first)}
    joined = [Recording(f"a{n}.flac", "k", f"a{n}", "", 1.0, package="a") for n in range(20)]
    joined += [Recording(f"0{n}.flac", "k", f"m{n}", "", 1.0, package="a") for n in range(33)]
    after = {one.path: one.split for one in assign_splits([*joined, *first], later=["a"])}
    assert {path: after[path] for path in before} == before
    assert all(after[f"0{n}.flac"] == before[f"m{n}.flac"] for n in range(33))
    assert sum(after[f"a{n}.flac"] == "validation" for n in range(20)) == 2


@pytest.mark.parametrize("count", [3, 4, 5, 9, 11])
def test_few_groups_reach_every_split(count: int) -> None:
    assigned = assign_splits([Recording(f"{n}.flac", "k", f"g{n}", "", 1.0) for n in range(count)])
    assert {one.split for one in assigned} == {"train", "validation", "test"}


def container(files: dict[str, bytes], packed: bool) -> bytes:
    """A resource container of version 3 with one folder `sounds` that holds the files."""
    names, offsets = b"", []
    for name in ["sounds", *files]:
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, places = b"", []
    for body in files.values():
        places.append(len(data))
        stored = struct.pack(">I", len(body)) + zlib.compress(body) if packed else body
        data += struct.pack(">I", len(stored)) + stored
    tree = struct.pack(">IHII", 0, 2, 1, 1) + b"\0" * 8
    tree += struct.pack(">IHII", offsets[0], 2, len(files), 2) + b"\0" * 8
    for offset, place in zip(offsets[1:], places, strict=True):
        tree += struct.pack(">IHHHI", offset, int(packed), 0, 0, place) + b"\0" * 8
    head = 20
    start = [head, head + len(tree), head + len(tree) + len(data)]
    return b"qres" + struct.pack(">4I", 3, *start) + tree + data + names


@pytest.mark.parametrize("packed", [False, True])
def test_qt_containers_give_their_files_back(packed: bool) -> None:
    files = {"cow.ogg": b"moo" * 50, "böh.wav": b"x"}
    found = dict(resources(container(files, packed)))
    assert found == {f"sounds/{name}": body for name, body in files.items()}
    with pytest.raises(DataError, match="damaged"):
        dict(resources(container(files, packed)[:60]))
    with pytest.raises(DataError, match="qres"):
        dict(resources(b"RIFF" + bytes(40)))


def test_package_becomes_flac_with_kinds_groups_and_licences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = Package(registry="apt", name="farm", version="1", sha256="", licence="CC0", attribution="")
    source, target = tmp_path / "farm-1", tmp_path / "set"
    (source / "usr/share/doc/farm").mkdir(parents=True)
    target.mkdir()
    (source / "manifest.json").write_text(json.dumps({"archive": "farm_1.5_all.deb"}))
    (source / "usr/share/doc/farm/copyright").write_text("free")
    (source / "animals").mkdir()
    padded = np.concatenate([np.zeros((8000, 2)), tone(400, 0.5, 44_100, 2), np.zeros((9000, 2))])
    soundfile.write(source / "animals" / "Cow_02.wav", padded, 44_100)
    (source / "animals" / "bad.ogg").write_bytes(b"OggS")
    soundfile.write(source / "animals" / "word_desc.wav", tone(300, 0.5, 16_000), 16_000)
    soundfile.write(source / "horn.wav", tone(500, 0.3, 8_000), 8_000)
    (source / "more.rcc").write_bytes(container({"horn.wav": (source / "horn.wav").read_bytes()}, packed=True))
    (source / "horn.wav").unlink()
    rules = (("*_desc*", ""), ("*/animals/*", "animal"), ("*/birds/*", "animal"), ("*/sounds/*", "instrument"))
    found = convert(Origin(package, rules), source, target)
    assert [line for line in capsys.readouterr().err.splitlines() if "no file fits" in line] == [
        "rectiflow:   no file fits */birds/*"
    ]
    assert [(item.kind, item.group, item.version, item.licence) for item in found] == [
        ("animal", "cow", "1.5", "CC0"),
        ("instrument", "horn", "1.5", "CC0"),
    ]
    assert (target / "licences" / "farm.txt").read_text() == "free"
    wave, rate = soundfile.read(target / found[0].path)
    assert rate == 16_000
    assert len(wave) / rate == pytest.approx(0.5, abs=0.01)
    assert np.abs(wave).max() == pytest.approx(0.7, abs=0.01)
    assert not list(target.glob("tmp*"))


def test_silent_files_are_no_recordings(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((16_000, 1)), 16_000)
    with pytest.raises(DataError, match=r"less than 0\.15 s of sound"):
        prepared(tmp_path / "x.wav")


def test_without_apt_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(real_sounds.shutil, "which", lambda command: None)
    with pytest.raises(MissingDependency, match=r"needs apt-get.*data\.path=FOLDER"):
        real_sounds.fetch_real_sounds()


def test_every_origin_is_pinned() -> None:
    origins = (*ORIGINS, *LATER)
    assert len({origin.package.name for origin in origins}) == len(origins)
    assert all(len(origin.package.sha256) == 64 and origin.rules for origin in origins)
    kinds = {kind for origin in origins for _, kind in origin.rules if kind}
    assert kinds == set(real_sounds.REAL)


@pytest.mark.parametrize(
    ("package", "path", "kind"),
    [
        *(
            ("gcompris-qt-data", f"gcompris/src/activities/instruments/resource/{name}.ogg", "drums")
            for name in (
                *("bongo", "castanets", "cymbal", "drum_kit", "maracas"),
                *("snare_drum", "tambourine", "timpani", "triangle"),
            )
        ),
        ("gcompris-qt-data", "gcompris/src/activities/instruments/resource/electric_guitar.ogg", "guitar"),
        ("gcompris-qt-data", "gcompris/src/activities/instruments/resource/flute_traversiere.ogg", "instrument"),
        *(
            ("gcompris-qt-data", f"gcompris/src/activities/memory-sound/resource/{name}.ogg", kind)
            for name, kind in (
                ("LRBark_3_LA_cut", "animal"),
                ("LRFrogsInPondDuringStormLACut", "animal"),
                ("LRBuddhist_gong_05_LA", "drums"),
                ("guitar_son2", "guitar"),
                ("LRWeird_2_LA", ""),
                ("LRLaPause_short", ""),
                ("LRRain_in_garden_01_LA_cut", "everyday"),
            )
        ),
        ("sonic-pi-samples", "usr/share/sonic-pi/samples/guit_e_slide.flac", "guitar"),
        ("sonic-pi-samples", "usr/share/sonic-pi/samples/vinyl_hiss.flac", ""),
        ("scorched3d-data", "usr/share/games/scorched3d/data/globalmods/none/data/wav/misc/birds1.wav", "animal"),
        ("scorched3d-data", "usr/share/games/scorched3d/data/globalmods/none/data/wav/misc/beep.wav", ""),
        ("megaglest-data", "usr/share/games/megaglest/tilesets/autumn/sounds/rain.ogg", "everyday"),
        ("megaglest-data", "usr/share/games/megaglest/techs/megapack/commondata/sounds/cow_ack1.wav", "animal"),
        ("lugaru-data", "usr/share/games/lugaru/Sounds/FireEnd.ogg", ""),
    ],
)
def test_files_of_the_packages_are_filed_by_what_is_heard(package: str, path: str, kind: str) -> None:
    [origin] = [origin for origin in (*ORIGINS, *LATER) if origin.package.name == package]
    assert origin.rule(path)[1] == kind
