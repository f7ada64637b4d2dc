"""The engine for long signals: cutting changes nothing, sums are kept, and repeats are exact."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_audio.separating import Segments, Separator, aligned, consistent, place_noise, separate

CUT = Segments(length=2048, overlap=512, hop=128)
SHAPE = (2, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def identity(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
    return torch.stack((mixture, torch.zeros_like(mixture)), dim=1)


def noisy(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
    """The mixture, times noise of the frame at hand and the query's first number."""
    frames = noise[:, 0, 0, : mixture.shape[1] // 128].repeat_interleave(128, dim=1)
    scale = 1 if query is None else query[:, :1]
    target = mixture * frames * scale
    return torch.stack((target, mixture - target), dim=1)


def run(
    extract: object,
    wave: Tensor,
    queries: Tensor | None = None,
    cut: Segments = CUT,
    size: int = 700,
    **options: object,
) -> Tensor:
    separator = Separator(extract, SHAPE, kept=options.pop("kept", 1), unordered=options.pop("unordered", False))  # type: ignore[arg-type]
    blocks = separate(
        separator,
        wave.split(size, dim=1),
        wave.shape[1],
        queries,
        segments=cut,
        seed=0,
        **options,  # type: ignore[arg-type]
    )
    return torch.cat(list(blocks), dim=-1)


@pytest.mark.parametrize("total", [1, 127, 2047, 2048, 2049, 3583, 3584, 3585, 5120, 5121, 10_007])
def test_identity_gives_the_signal_back(total: int) -> None:
    wave = torch.randn(2, total, generator=generator())
    for batch in (1, 3):
        got = run(lambda y, q, z: torch.stack((y, 0 * y), dim=1), wave, batch=batch)
        assert got.shape == (2, 1, total)
        torch.testing.assert_close(got[:, 0], wave, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 9000),
    hops=st.integers(2, 20),
    share=st.floats(0.05, 0.5),
    size=st.integers(1, 4000),
    channels=st.integers(1, 3),
)
def test_any_cutting_gives_the_signal_back(total: int, hops: int, share: float, size: int, channels: int) -> None:
    cut = Segments(hops * 128, max(1, min(int(hops * 128 * share), hops * 128 - 128)), 128)
    wave = torch.randn(channels, total, generator=generator(total))
    starts = cut.starts(total)
    assert starts[-1] + cut.length >= total
    assert all(0 < b - a <= cut.stride for a, b in itertools.pairwise(starts))
    torch.testing.assert_close(run(identity, wave, cut=cut, size=size)[:, 0], wave, atol=1e-6, rtol=0)


def test_fades_of_neighbours_sum_to_one() -> None:
    rise, fall = CUT.fade(False, True)[: CUT.overlap], CUT.fade(True, False)[-CUT.overlap :]
    torch.testing.assert_close(rise + fall, torch.ones(CUT.overlap), atol=1e-6, rtol=0)
    assert torch.equal(CUT.fade(True, True), torch.ones(CUT.length))
    assert 0 < CUT.fade(False, False).min() < 1e-5


def test_noise_belongs_to_its_place() -> None:
    whole = place_noise(3, 0, 300, SHAPE)
    assert whole.shape == (*SHAPE, 300)
    for first, frames in ((0, 1), (63, 2), (64, 64), (100, 200), (299, 1)):
        assert torch.equal(place_noise(3, first, frames, SHAPE), whole[..., first : first + frames])
    assert not torch.equal(place_noise(4, 0, 300, SHAPE), whole)
    assert abs(whole.mean()) < 4 / math.sqrt(whole.numel())
    assert abs(whole.std() - 1) < 4 / math.sqrt(2 * whole.numel())
    assert abs((whole[..., :64] * whole[..., 64:128]).mean()) < 4 / math.sqrt(64 * 6)


def test_a_model_that_follows_its_noise_does_not_see_the_cuts() -> None:
    """Segments that drew noise of their own would disagree at every seam."""
    wave = torch.randn(1, 9000, generator=generator())
    whole = run(noisy, wave, cut=Segments(9088, 128, 128))
    torch.testing.assert_close(run(noisy, wave), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(whole[:, 0], wave, atol=0.1)


def test_a_local_model_in_segments_is_the_model_as_a_whole() -> None:
    wave = torch.randn(1, 20_000, generator=generator())
    kernel = torch.randn(1, 1, 255, generator=generator(1)) / 16

    def local(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        target = torch.nn.functional.conv1d(mixture[:, None], kernel, padding=127)[:, 0]
        return torch.stack((target, mixture - target), dim=1)

    whole, cut = (run(local, wave, cut=cut)[0, 0] for cut in (Segments(20_096, 128, 128), CUT))
    inside = slice(300, -300)
    error = (whole - cut)[inside].square().mean() / whole[inside].square().mean()
    assert 10 * math.log10(error) < -40
    for seam in CUT.starts(20_000)[1:]:
        near = slice(seam, seam + CUT.overlap)
        step = 20 * torch.log10(cut[near].norm() / whole[near].norm())
        assert abs(step) < 0.1


def test_stems_that_are_projected_sum_to_the_mixture() -> None:
    mixture = torch.randn(2, 5000, generator=generator())
    stems = torch.randn(2, 3, 5000, generator=generator(1))
    projected = consistent(stems, mixture)
    assert (projected.sum(dim=1) - mixture).abs().max() < 1e-5
    torch.testing.assert_close(consistent(projected, mixture), projected, atol=1e-6, rtol=0)
    # The nearest such stems: the correction is the same for all, and half of it or twice as much is farther.
    torch.testing.assert_close((projected - stems).diff(dim=1), torch.zeros(2, 2, 5000), atol=1e-6, rtol=0)
    four = run(lambda y, q, z: torch.randn(len(y), 4, y.shape[1], generator=generator(2)), mixture, kept=4)
    assert (four.sum(dim=1) - mixture).abs().max() < 1e-5


def test_queries_one_after_the_other() -> None:
    wave, queries = torch.randn(2, 5000, generator=generator()), torch.tensor([[1.0, 9.0], [2.0, 9.0], [-1.0, 9.0]])
    got = run(noisy, wave, queries, batch=2)
    assert got.shape == (2, 3, 5000)
    torch.testing.assert_close(got[:, 1], 2 * got[:, 0])
    torch.testing.assert_close(got[:, 2], -got[:, 0])


def test_channels_are_alike_and_repeats_are_exact() -> None:
    left, right = torch.randn(2, 1, 9000, generator=generator())
    weights = torch.randn(40, 40, generator=generator(1))

    def dense(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        target = (mixture.reshape(-1, 40)[: mixture.numel() // 40] @ weights).reshape(mixture.shape) + noise.mean()
        return torch.stack((target, mixture - target), dim=1)

    cut = Segments(2560, 512, 128)
    one, two = (run(dense, torch.cat(pair), cut=cut) for pair in ((left, right), (right, left)))
    assert torch.equal(one, two.flip(0))
    assert torch.equal(run(dense, torch.cat((left, right)), cut=cut), one)
    same = run(dense, torch.cat((left, left)), cut=cut)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], one[0])


def test_silence_is_not_asked_about() -> None:
    asked = []

    def loud(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        asked.append(len(mixture))
        return torch.ones(len(mixture), 2, mixture.shape[1])

    wave = torch.zeros(2, 9000)
    assert run(loud, wave).abs().max() == 0
    assert not asked
    wave[1, :100] = 1.0
    got = run(loud, wave, batch=8)
    assert asked == [1]
    assert got[0].abs().max() == 0
    assert got[1].abs().max() > 0


def test_speakers_stay_who_they_are() -> None:
    """A model that names its speakers anew in every segment and channel."""
    time = torch.arange(9000) / 16000
    speakers = torch.stack(
        [torch.sin(2 * math.pi * f * time) * torch.rand(9000, generator=generator(f)) for f in (200, 331)]
    )
    calls = iter(range(1000))

    def tricky(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        call = next(calls)
        start = CUT.starts(9000)[call // 2]
        stems = torch.nn.functional.pad(speakers, (0, CUT.length))[:, start : start + CUT.length]
        return stems[None].flip(1) if call in (1, 2, 5, 6) else stems[None]

    wave = speakers.sum(dim=0).expand(2, -1) * torch.tensor([[1.0], [1.001]])
    got = run(tricky, wave, kept=2, unordered=True)
    for channel in got:
        assert (channel - speakers).square().mean() < 1e-4


def test_alignment_follows_the_reference() -> None:
    stems = torch.randn(3, 4, 100, generator=generator())
    order = torch.tensor([[1, 0, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]])
    mixed = torch.stack([channel[row] for channel, row in zip(stems, order, strict=True)])
    assert torch.equal(aligned(mixed, stems), stems)


@pytest.mark.parametrize(("length", "overlap"), [(2000, 500), (2048, 0), (2048, 1025), (128, 64)])
def test_cuts_that_lead_nowhere(length: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        Segments(length, overlap, 128)
