"""What separation can reach at most: the ideal ratio mask."""

from __future__ import annotations

import torch
from torch import Tensor


def ideal_ratio_mask(target: Tensor, residual: Tensor, size: int = 1024, hop: int = 256) -> Tensor:
    """Estimates (..., 2, T) of target and residual by the mask that knows both: |S|^2 / (|S|^2 + |R|^2), on their sum.

    target, residual: (..., T). The best that a real mask on magnitudes can do, about: Wang and Chen 2018 (arXiv
    1708.07524), equation 4 with exponent 1.
    """
    length = target.shape[-1]
    window = torch.hann_window(size, dtype=target.dtype, device=target.device)

    def spectrum(wave: Tensor) -> Tensor:
        flat = wave.reshape(-1, length)
        return torch.stft(flat, size, hop, window=window, pad_mode="constant", return_complex=True)

    own, other = spectrum(target), spectrum(residual)
    power, rest = own.abs().square(), other.abs().square()
    mask = power / (power + rest).clamp_min(torch.finfo(power.dtype).tiny)
    masked = torch.istft(mask * (own + other), size, hop, window=window, length=length).reshape(target.shape)
    return torch.stack([masked, target + residual - masked], dim=-2)


def ideal_ratio_masks(stems: Tensor) -> Tensor:
    """Estimates (B, K, T) of stems (B, K, T), each by the ideal ratio mask between it and all others."""
    whole = stems.sum(1, keepdim=True)
    return ideal_ratio_mask(stems, whole - stems)[..., 0, :]
