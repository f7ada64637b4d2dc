"""What is asked of an estimate beside the flow's own loss: how it sounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_audio.representation import SILENCE

WORST, BEST = -20.0, 30.0


@dataclass(frozen=True)
class Objective:
    """Weights of the extra loss terms.

    Args:
        si_sdr: of a dB of scale-invariant distortion ratio, at least 0.
        until: the last time, in [0, 1], whose estimates are asked for that. It is best for estimates that are not means, and
            only means lead to samples: it suits the first step, which the others leave.

    Raises:
        ConfigError: a value out of range.
    """

    si_sdr: float = 0.005
    until: float = 0.05

    def __post_init__(self) -> None:
        if not self.si_sdr >= 0:
            raise ConfigError(f"objective.si_sdr={self.si_sdr} is not allowed: it must be at least 0")
        if not 0 <= self.until <= 1:
            raise ConfigError(f"objective.until={self.until} is not allowed: it must be from 0 to 1")


def distortion_loss(estimate: Tensor, reference: Tensor) -> Tensor:
    """Minus the mean SI-SDR in dB of waveforms (..., T), each kept within [-20, 30] dB, where no gradient flows beyond.

    Silent references, for which it is not defined, do not count; 0 if all are silent.
    Source: arXiv 1811.02508, equation 3, without removal of the mean.
    """
    energy = reference.square().sum(-1)
    sounding = energy / reference.shape[-1] > SILENCE**2
    scale = (estimate * reference).sum(-1, keepdim=True) / energy[..., None].clamp(min=1e-12)
    target = scale * reference
    error = (estimate - target).square().sum(-1)
    ratio = 10 * (torch.log10(target.square().sum(-1) + 1e-9) - torch.log10(error + 1e-9))
    kept = torch.where(sounding, ratio.clamp(WORST, BEST), torch.zeros_like(ratio))
    return -kept.sum() / sounding.sum().clamp(min=1)
