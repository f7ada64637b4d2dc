"""The flow of backbones: where states live, what noise is, and how a network's estimate of data becomes a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, Shape, State
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.zero_mean import ZeroMean

NOISE_SCALE = 10.0
TRANSLATION_WEIGHT = 0.02
FREE_CONTENT = -1.0
FREE_LABEL = 3
NULL = {"content": FREE_CONTENT, "labels": FREE_LABEL, "motif": 0}
"""What stands in a condition that is not given."""


def backbone_space(translation_weight: float = TRANSLATION_WEIGHT) -> Product:
    """Translations (B, N, 3) in Angstrom without a common shift, and rotations (B, N, 4).

    The weight is that of squared Angstrom against squared radians, in losses and transport costs: 2 a squared nm (Yue et al.
    2025, arXiv 2502.14637).
    """
    return Product(translations=ZeroMean(), rotations=SO3(), weights={"translations": translation_weight})


class FrameNoise:
    """Frames without structure: places from a centred normal law of sd 10 A, rotations uniform; padding stays put.

    The condition `mask`, bool (B, N), says which residues there are; without it, all.

    Args:
        scale: standard deviation of places in Angstrom, above 0.

    Raises:
        ConfigError: the scale is not positive.
    """

    def __init__(self, scale: float = NOISE_SCALE) -> None:
        if not scale > 0:
            raise ConfigError(f"FrameNoise got scale {scale}; allowed: above 0, in Angstrom")
        self.scale = scale

    def __call__(
        self, shape: Shape, *, cond: Cond, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> State:
        """Translations (B, N, 3) and rotations (B, N, 4).

        Raises:
            ConfigError: the shape is not that of frames.
        """
        if not isinstance(shape, dict) or set(shape) != {"translations", "rotations"}:
            raise ConfigError(f"frames have translations and rotations; the shape asked for is {shape}")
        mask = cond["mask"] if "mask" in cond else torch.ones(shape["translations"][:2], dtype=torch.bool)
        options: dict[str, Any] = {"generator": generator, "device": device, "dtype": dtype}
        places = self.scale * torch.randn(shape["translations"], **options)
        turns = SO3().sample_prior(shape["rotations"], **options)
        return settled({"translations": places, "rotations": turns}, mask.to(device))


def settled(state: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Frames centred over the residues of a mask (B, N), with the identity at the origin in the padding."""
    translations = ZeroMean().masked(mask).project(state["translations"]).masked_fill(~mask[..., None], 0)
    identity = torch.zeros_like(state["rotations"])
    identity[..., 0] = 1
    return {"translations": translations, "rotations": torch.where(mask[..., None], state["rotations"], identity)}


def backbone_flow(network: Callable[..., Any], interpolant: Interpolant | None = None, **traits: Any) -> Flow:
    """A network that predicts clean frames, as a flow from `FrameNoise`; `traits` are further `Flow` fields."""
    return Flow(
        network,
        **{
            "interpolant": interpolant or Linear(),
            "predicts": "data",
            "space": backbone_space(),
            "source": FrameNoise(),
            "self_conditioning": True,
            "null": NULL,
            **traits,
        },
    )
