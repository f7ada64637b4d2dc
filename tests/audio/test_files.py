"""Sound files: every format that libsndfile reads, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow_audio.files import ENCODINGS, quantised, read_blocks, read_sound, survey, write, writing

RATE = 44100


def noise(frames: int, channels: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((frames, channels)) * 0.1).astype("float32")


@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels", "tolerance"),
    [
        ("a.wav", "PCM_16", 44100, 2, 1e-4),
        ("a.wav", "PCM_U8", 8000, 1, 2e-2),
        ("a.wav", "PCM_24", 96000, 2, 1e-6),
        ("a.wav", "FLOAT", 44101, 3, 0),
        ("a.wav", "DOUBLE", 16000, 6, 1e-8),
        ("a.flac", "PCM_24", 44100, 2, 1e-7),
        ("a.ogg", "VORBIS", 44100, 2, 1),
        ("a.aiff", "PCM_16", 22050, 1, 1e-4),
    ],
)
def test_any_format_rate_and_number_of_channels(
    name: str, subtype: str, rate: int, channels: int, tolerance: float, tmp_path: Path
) -> None:
    wave, path = noise(3001, channels), tmp_path / name
    soundfile.write(path, wave, rate, subtype=subtype)
    found = survey(path)
    assert (found.rate, found.channels, found.frames, found.remarks) == (rate, channels, 3001, ())
    assert found.encoding == subtype
    assert found.seconds == 3001 / rate
    read = torch.cat(list(read_blocks(path, size=700)), dim=1)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, torch.from_numpy(wave.T), atol=tolerance, rtol=0)
    assert found.peak == pytest.approx(float(read.abs().max()))


@pytest.mark.parametrize("name", ["b.mp3", "c.raw", "d", "e.txt"])
def test_what_is_in_a_file_counts_and_not_its_name(name: str, tmp_path: Path) -> None:
    with open(tmp_path / name, "wb") as file:
        soundfile.write(file, noise(500, 1), RATE, format="WAV")
    assert (survey(tmp_path / name).container, survey(tmp_path / name).frames) == ("WAV", 500)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_truncated_file_counts_as_far_as_it_goes(name: str, tmp_path: Path) -> None:
    whole = tmp_path / name
    soundfile.write(whole, noise(300_000, 1), RATE)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = survey(whole)
    assert abs(found.frames - 150_000) < 3 * 4096
    assert "truncated" in found.remarks[0]
    assert sum(block.shape[1] for block in read_blocks(whole)) == found.frames


def test_level_is_that_of_the_parts_that_sound(tmp_path: Path) -> None:
    wave = np.zeros((RATE * 4, 2), "float32")
    wave[RATE : 2 * RATE] = 0.25 * np.sin(np.arange(RATE)[:, None] * 0.3)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert survey(tmp_path / "a.wav").level == pytest.approx(
        0.25 / np.sqrt(2), rel=0.2
    )  # a gate at the rim is half full
    soundfile.write(tmp_path / "a.wav", 0 * wave, RATE)
    silent = survey(tmp_path / "a.wav")
    assert (silent.level, silent.peak) == (0, 0)
    assert "silent" in silent.remarks[0]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound" * 100)
    soundfile.write(tmp_path / "none.wav", noise(0, 1), RATE)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        wave = noise(RATE, 1)
        wave[RATE // 2] = value
        soundfile.write(tmp_path / name, wave, RATE, subtype="FLOAT")
    says = {
        "absent.wav": "No such file",
        "": "is a folder",
        "empty.wav": "0 bytes",
        "text.wav": "not a sound file",
        "none.wav": "no samples",
        "nan.wav": "NaN or infinite samples, the first at 0.500 s",
        "inf.wav": "NaN or infinite",
    }
    for name, text in says.items():
        with pytest.raises(DataError, match=text) as caught:
            survey(tmp_path / name)
        assert "\n" not in str(caught.value)
    soundfile.write(tmp_path / "long.wav", noise(RATE * 3, 1), RATE)
    with pytest.raises(DataError, match="lasts 3"):
        read_sound(tmp_path / "long.wav", limit=2.0)


def test_one_sample_is_a_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.full((1, 1), 0.5), RATE)
    assert (survey(tmp_path / "one.wav").frames, survey(tmp_path / "one.wav").level) == (1, 0.5)


@pytest.mark.parametrize(
    ("name", "encoding"), [("a.wav", "pcm16"), ("a.wav", "pcm24"), ("a.flac", "pcm16"), ("a.flac", "pcm24")]
)
def test_what_was_read_is_written_bit_for_bit(name: str, encoding: str, tmp_path: Path) -> None:
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, (5000, 2)).astype("int16")
    soundfile.write(tmp_path / "in.wav", integers, RATE)
    with writing(tmp_path / name, RATE, 2, encoding) as append:
        for block in read_blocks(tmp_path / "in.wav", size=777):
            append(block)
    assert survey(tmp_path / name).encoding == ENCODINGS[encoding]
    np.testing.assert_array_equal(soundfile.read(tmp_path / name, dtype="int16")[0], integers)


def test_a_signal_in_memory_is_written_and_read(tmp_path: Path) -> None:
    wave = torch.from_numpy(noise(1000, 3).T)
    write(tmp_path / "a.wav", wave, 48_000, "float")
    read, rate = read_sound(tmp_path / "a.wav")
    assert rate == 48_000
    assert torch.equal(read, wave)


def test_full_scale_clips_and_never_wraps() -> None:
    assert quantised(torch.tensor([2.0, 1.0, -1.0, -2.0]), "pcm16").tolist() == [32767, 32767, -32768, -32768]
    assert quantised(torch.tensor([1.0, -1.0]), "pcm24").tolist() == [(2**23 - 1) << 8, -(2**31)]


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(AttributeError), writing(tmp_path / "a.wav", RATE, 1) as append:
        append(None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match="cannot be written"), writing(tmp_path / "no" / "a.wav", RATE, 1):
        pass
    for name, encoding in (("a.mp3", "pcm16"), ("a.flac", "float"), ("a.wav", "int8")):
        with pytest.raises(ConfigError, match="allowed"), writing(tmp_path / name, RATE, 1, encoding):
            pass


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    import resource
    import signal

    before, previous = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"), writing(tmp_path / "a.wav", RATE, 1) as append:
            append(torch.zeros(1, 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert not list(tmp_path.iterdir())


def test_a_long_wav_file_is_written_in_its_64_bit_form(tmp_path: Path) -> None:
    with writing(tmp_path / "a.wav", RATE, 2, "float", frames=2**30) as append:
        append(torch.zeros(2, 10))
    assert survey(tmp_path / "a.wav").container == "RF64"
