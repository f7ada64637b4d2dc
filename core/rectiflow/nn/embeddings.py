"""Embeddings of time, class labels and places in a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.layers import embedding, linear


def timestep_embedding(t: Tensor, width: int, *, scale: float = 1000.0, period: float = 10000.0) -> Tensor:
    """Embed times as the cosines, then the sines, of geometrically spaced frequencies.

    `t` has shape (B,) and lies in [0, 1]; it is stretched by `scale` first, for in [0, 1] itself only the fastest
    frequencies would move. Returns (B, width) in at least float32; frequency k is period^(-2k / width).

    Raises ConfigError for an odd width. Source: arXiv 2212.09748 (DiT), after arXiv 1706.03762.
    """
    if width % 2 or width < 2:
        raise ConfigError(f"timestep embedding width is {width}; it must be even and at least 2: choose another width")
    dtype = torch.promote_types(t.dtype, torch.float32)
    exponent = torch.arange(width // 2, device=t.device, dtype=dtype) / (width // 2)
    angle = scale * t.to(dtype)[:, None] * torch.exp(-math.log(period) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


TIME_SCALE = 1000.0
STEP_SCALE = 100.0  # at most; a step's length enters the derivative of an average velocity, where fast waves rule


GUIDANCE_SCALE = 10.0  # log(1 + w) of the usual scales w spans about 1: its fastest wave turns once or twice there


class ConditionEmbedding(nn.Module):
    """Map time, label, the end of a step (of average velocities) and a scale of guidance to one vector, as far as asked for.

    Times pass through `timestep_embedding` and a two-layer SiLU network; labels look up a table of classes + 1 rows
    whose last row, label == classes, is the null label of classifier-free guidance. With `until` the length until - t of
    the step passes through a network of its own, whose last layer starts at zero: weights of a network without it can be
    loaded, and give the same output. With `guidance` so does log(1 + w) of a scale w of classifier-free guidance that the
    network is to have by itself (arXiv 2210.03142). All are added.

    The fastest wave turns `time_scale` radians over [0, 1]. What a network has of it, however little, counts `time_scale` times
    in its derivative in time: networks that are trained on that derivative want about 10 (arXiv 2410.11081, section 4.1).

    Raises ConfigError for negative `classes`, and on a call whose label end or scale is missing, unexpected or of another shape.
    """

    def __init__(
        self,
        width: int,
        classes: int = 0,
        *,
        frequencies: int = 256,
        until: bool = False,
        guidance: bool = False,
        time_scale: float = TIME_SCALE,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if classes < 0:
            raise ConfigError(f"classes is {classes}; it must be at least 0: use 0 for an unconditional network")
        if not 0 < time_scale < math.inf:
            raise ConfigError(
                f"time_scale is {time_scale}; it must be above 0: 1000 is usual, 10 for MeanFlow's students"
            )
        self.time_scale = time_scale
        self.classes = classes
        self.frequencies = frequencies
        self.first = linear(frequencies, width, generator=generator)
        self.second = linear(width, width, generator=generator)
        self.table = embedding(classes + 1, width, generator=generator) if classes else None
        self.step = _added(frequencies, width, generator) if until else None
        self.scale = _added(frequencies, width, generator) if guidance else None

    def forward(
        self,
        t: Tensor,
        label: Tensor | None = None,
        until: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Return (B, width) for times (B,) in [0, 1], labels (B,) of integers in 0..classes, ends (B,) and scales (B,) >= 0.

        Ends are t and scales 1 by default.
        """
        wave = timestep_embedding(t, self.frequencies, scale=self.time_scale).to(self.first.weight.dtype)
        vector: Tensor = self.second(F.silu(self.first(wave)))
        if self.step is not None:
            length = torch.zeros_like(t) if until is None else until - t
            wave = timestep_embedding(length, self.frequencies, scale=min(STEP_SCALE, self.time_scale))
            wave = wave.to(self.first.weight.dtype)
            vector = vector + self.step(wave)
        elif until is not None:
            raise ConfigError("until was given to a network without a second time; build it with until=True")
        if self.scale is not None:
            ratio = torch.ones_like(t) if guidance is None else guidance
            wave = timestep_embedding(torch.log1p(ratio), self.frequencies, scale=GUIDANCE_SCALE)
            vector = vector + self.scale(wave.to(self.first.weight.dtype))
        elif guidance is not None:
            raise ConfigError(
                "a guidance scale was given to a network without an input for it; build it with guidance=True"
            )
        if self.table is None:
            if label is not None:
                raise ConfigError("label was given to a network with classes=0; drop it, or build it with classes > 0")
            return vector
        if label is None:
            raise ConfigError(
                f"label is missing; this network needs integers in 0..{self.classes}: pass {self.classes} for no label"
            )
        if label.shape != t.shape:
            raise ConfigError(f"label has shape {tuple(label.shape)}; it must be that of t, {tuple(t.shape)}")
        conditioned: Tensor = vector + self.table(label)
        return conditioned


def take_over_times(student: nn.Module, teacher: nn.Module) -> None:
    """Where a student that starts from a teacher's weights embeds times by slower waves, fit these to the teacher's.

    The first layer becomes the ridge regression, over t in [0, 1], of the teacher's first layer on the slower waves: what
    of it is smooth stays, and what waves faster than they can is gone.

    Args:
        student: network with the teacher's weights.
        teacher: network of the same form; only the `time_scale` of embeddings may differ.
    """
    theirs = dict(teacher.named_modules())
    for name, own in student.named_modules():
        other = theirs.get(name)
        if not (isinstance(own, ConditionEmbedding) and isinstance(other, ConditionEmbedding)):
            continue
        if own.time_scale != other.time_scale:
            grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
            slow = timestep_embedding(grid, own.frequencies, scale=own.time_scale)
            fast = timestep_embedding(grid, other.frequencies, scale=other.time_scale)
            wanted = fast @ other.first.weight.detach().to("cpu", torch.float64).mT
            ridge = 1e-6 * torch.eye(own.frequencies, dtype=torch.float64)
            fitted = torch.linalg.solve(slow.mT @ slow / len(grid) + ridge, slow.mT @ wanted / len(grid))
            with torch.no_grad():
                own.first.weight.copy_(fitted.mT)


def _added(frequencies: int, width: int, generator: torch.Generator) -> nn.Sequential:
    """A two-layer network on waves whose output starts at zero."""
    first = linear(frequencies, width, generator=generator)
    return nn.Sequential(first, nn.SiLU(), linear(width, width, generator=generator, zero=True))


def grid_coordinates(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Return the integer (row, column) of each cell of a grid, row by row, as a tensor (height * width, 2)."""
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns)


def sincos_positions(coordinates: Tensor, width: int, *, period: float = 10000.0) -> Tensor:
    """Embed places in a 2-D grid: the first half of the channels encodes the row, the second half the column.

    `coordinates` is (..., N, 2); returns (..., N, width) in the default dtype. Each half holds the sines, then the
    cosines, of width / 4 frequencies period^(-4k / width).

    Raises ConfigError for a width that four does not divide. Source: arXiv 2212.09748 (DiT).
    """
    if width % 4 or width < 4:
        raise ConfigError(f"width is {width}; two axes of sines and cosines need a multiple of 4: choose another width")
    frequencies = period ** (-torch.arange(width // 4, device=coordinates.device) / (width // 4))
    angle = coordinates[..., None].to(frequencies.dtype) * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
