"""Between spectra and a network: magnitudes in merged bands, cut into patches, go in; masks and doubts come back as stems."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow_audio.representation import POWER

FAINT = 1e-4
"""Power of a place in the spectrogram, of about 0.1 on average, below which its phase fades out."""
FIRST_MASK = 0.5
"""Mask that an untrained network puts on the mixture for every stem."""
_STEEP, _LEVEL = 0.3, 1.2
MERGED = ((0.25, 1), (0.25, 2), (0.5, 4))
"""Shares of the frequencies, from the lowest, and how many of them make a band: half as many bands as frequencies."""


class Masking(nn.Module):
    """What a network is shown of state and mixture as patches, and what its outputs for the patches mean.

    It sees no phases: those of the mixture go through its masks unseen. High frequencies are merged into bands, `MERGED`, and one
    mask is put on all of a band.

    Args:
        stems: K.
        frequencies: F.
        patch: bands and frames a patch, p and q.

    Raises:
        ConfigError: frequencies that cannot be merged, or bands that patches do not divide.
    """

    spread: Tensor
    merge: Tensor

    def __init__(self, stems: int, frequencies: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.stems = stems
        self.tall, self.wide = int(patch[0]), int(patch[1])
        if frequencies % 8:
            raise ConfigError(
                f"the spectra have {frequencies} frequencies; networks merge them by eights: use another spectra.n_fft"
            )
        membership = bands_of(frequencies)
        self.bands = len(membership)
        if self.bands % self.tall:
            raise ConfigError(
                f"patches of {self.tall} bands do not divide the {self.bands} bands of {frequencies} frequencies; "
                "allowed: a divisor of them"
            )
        self.register_buffer("spread", membership.T.contiguous(), persistent=False)
        self.register_buffer("merge", membership / membership.sum(1, keepdim=True), persistent=False)

    @property
    def size(self) -> int:
        """Places p q a patch."""
        return self.tall * self.wide

    @property
    def inputs(self) -> int:
        """Numbers that a patch is shown as."""
        return (2 * self.stems + 2) * self.size

    @property
    def outputs(self) -> int:
        """Numbers that a patch is answered by."""
        return 3 * self.stems * self.size

    @torch.no_grad()
    def patches(self, x: Tensor, mixture: Tensor, multiple: int = 1) -> Tensor:
        """Patches (B, H, W, inputs) of stems (B, K, 2, F, N) and mixture (B, 1, 2, F, N), W padded to a `multiple`.

        Numbers are ordered (kind, row, column). Kinds: the mixture's logarithmic level and its magnitude, then each stem turned
        by minus the mixture's phase, real and imaginary parts, all shifted and stretched to about mean 0 and variance 1.
        """
        power = mixture.square().sum(2)
        cosine, sine = (mixture * torch.rsqrt(power + FAINT)[:, :, None]).unbind(2)
        real, imaginary = x.unbind(2)
        turned = torch.cat([real * cosine + imaginary * sine, imaginary * cosine - real * sine], dim=1)
        merged = self.merge @ torch.cat([power, turned], dim=1)
        power, turned = merged[:, :1] + FAINT, merged[:, 1:]
        seen = torch.cat([_STEEP * torch.log(power) + _LEVEL, 3 * power.sqrt() - 0.6, 2 * turned], dim=1)
        padded = F.pad(seen, (0, -seen.shape[-1] % (self.wide * multiple)))
        return rearrange(padded, "b c (h p) (w q) -> b h w (c p q)", p=self.tall, q=self.wide)

    def masked(self, mixture: Tensor, patches: Tensor, output: Tensor, profile: Tensor) -> tuple[Tensor, Tensor]:
        """Stems M y with masks M in [0, 1], (B, K, 2, F, N), and the logarithm of the variance that they leave open beside
        `POWER`, (B, K, 1, F, N).

        M is the logistic function of twice l + a + c (e - mean e), e the level of the mixture and its mean that of the patch:
        by c a patch says that its loud places are what is asked for, or the places between them. The variance is exp(2 d) times
        the mixture's: nothing is hidden where nothing sounds.

        Args:
            mixture: y, (B, 1, 2, F, N).
            patches: of it and of the state, as shown.
            output: of the network (B, H, W, outputs), ordered (kind, stem, row, column): l, d and c.
            profile: a, (B, K bands), the same in all frames.
        """
        kinds = output.float().reshape(*output.shape[:-1], 3, self.stems, self.tall, self.wide)
        level = patches[..., : self.size]
        contrast = (level - level.mean(-1, keepdim=True)).reshape(*level.shape[:-1], 1, self.tall, self.wide)
        steady = rearrange(profile.float(), "b (k h p) -> b h 1 k p 1", k=self.stems, p=self.tall)
        logits = torch.addcmul(kinds[..., 0, :, :, :] + steady, kinds[..., 2, :, :, :], contrast)
        # The mixture's power is that of two parts, real and imaginary.
        loud = ((level - _LEVEL) / _STEEP - math.log(2 * POWER)).reshape(*level.shape[:-1], 1, self.tall, self.wide)
        both = torch.stack([torch.sigmoid(2 * logits), loud + 2 * kinds[..., 1, :, :, :]], dim=3)
        whole = rearrange(both, "b h w z k p q -> b (z k) (h p) (w q)")[..., : mixture.shape[-1]]
        mask, doubt = (self.spread @ whole)[:, :, None].chunk(2, dim=1)
        return mask * mixture, doubt


def bands_of(frequencies: int) -> Tensor:
    """Which of the frequencies, a multiple of 8, each band of `MERGED` holds: 1 or 0, (bands, frequencies)."""
    widths = [width for share, width in MERGED for _ in range(round(share * frequencies) // width)]
    return F.one_hot(torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))).T.float()
