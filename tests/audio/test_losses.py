"""The distortion loss against torchmetrics, its limits, and silence."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from rectiflow.errors import ConfigError
from rectiflow_audio.losses import BEST, WORST, Objective, distortion_loss


def test_it_is_minus_the_mean_ratio(generator: torch.Generator) -> None:
    reference = torch.randn(4, 2, 3000, generator=generator)
    estimate = 0.5 * reference + 0.3 * torch.randn(4, 2, 3000, generator=generator)
    expected = -scale_invariant_signal_distortion_ratio(estimate, reference).mean()
    assert distortion_loss(estimate, reference) == pytest.approx(float(expected), abs=1e-3)


def test_limits_let_no_gradient_through(generator: torch.Generator) -> None:
    reference = torch.randn(1, 3000, generator=generator)
    for estimate, value in ((reference.clone(), -BEST), (torch.randn(1, 3000, generator=generator) * 1e3, -WORST)):
        estimate.requires_grad_()
        loss = distortion_loss(estimate, reference)
        loss.backward()
        assert estimate.grad is not None
        if value == -BEST:
            assert float(loss.detach()) == pytest.approx(value)
            assert (estimate.grad == 0).all()


def test_silent_references_do_not_count(generator: torch.Generator) -> None:
    reference = torch.randn(2, 3000, generator=generator)
    estimate = (reference + torch.randn(2, 3000, generator=generator)).requires_grad_()
    alone = distortion_loss(estimate[:1], reference[:1])
    with_silence = distortion_loss(estimate, torch.stack([reference[0], torch.zeros(3000)]))
    assert float(with_silence.detach()) == pytest.approx(float(alone.detach()), abs=1e-4)
    with_silence.backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    assert float(distortion_loss(estimate.detach(), torch.zeros(2, 3000))) == 0


def test_weights_are_not_negative() -> None:
    with pytest.raises(ConfigError, match="si_sdr"):
        Objective(si_sdr=-1.0)


def test_the_last_time_lies_within_the_path() -> None:
    with pytest.raises(ConfigError, match=r"objective.until=1.5"):
        Objective(until=1.5)
