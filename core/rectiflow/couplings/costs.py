"""What it costs to pair each source of a batch with each data point: squared distance, and a charge for another condition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, map_masked, parts
from rectiflow.errors import ConfigError, NonFiniteError


def squared_distances(x0: State, x1: State, mask: Mask = None) -> Tensor:
    """|x0[i] - x1[j]|^2 over the entries that are valid in x1[j], (B, B) float64, on the states' device where it has float64.

    Raises:
        ConfigError: x0 and x1 differ in shape.
        NonFiniteError: a state holds NaN or infinity where it is valid.
    """
    first, second = _coordinates(x0), _coordinates(x1)
    if first.shape != second.shape:
        raise ConfigError(
            f"x0 and x1 have shapes {tuple(first.shape)} and {tuple(second.shape)} once flattened; they must agree"
        )
    if mask is not None:
        valid = _valid_coordinates(x1, mask)
        second = second.masked_fill(~valid, 0)
    # Distances do not change under a common shift, and small numbers lose less to rounding.
    centre = second.mean(0)
    first, second = first - centre, second - centre
    if mask is None:
        cost = first.square().sum(1)[:, None] - 2 * first @ second.mT + second.square().sum(1)
    else:
        weight = valid.to(first.dtype)
        second = second * weight
        cost = first.square() @ weight.mT - 2 * first @ second.mT + second.square().sum(1)
    if not bool(torch.isfinite(cost).all()):
        raise NonFiniteError("the coupling got a state with NaN or infinite values; check the data of this batch")
    return as_float64(cost).clamp(min=0)


def pairing_costs(x0: State, x1: State, cond: Cond | None, mask: Mask, condition_weight: float) -> tuple[Tensor, float]:
    """Cost (B, B) of every pair, infinite where forbidden, and the mean squared distance that weights are measured in.

    Row i of x0 counts as drawn for cond[i]. Pairing it with data of another condition adds condition_weight times the mean
    squared distance times the number of differing entries (integer conditions) or the squared distance (real ones) of the two
    conditions (C2OT, arXiv 2503.10636); an infinite weight forbids it.

    Raises:
        ConfigError: shapes differ, or an infinite weight meets a real-valued condition.
        NonFiniteError: a state holds NaN or infinity.
    """
    cost = squared_distances(x0, x1, mask)
    scale = float(cost.mean())
    if cond and condition_weight > 0:
        mismatch = _mismatch(cond, condition_weight).to(cost.device)
        if math.isinf(condition_weight):
            cost = cost.masked_fill(mismatch > 0, math.inf)
        else:
            cost = cost + condition_weight * scale * mismatch
    return cost, scale


def check_condition_weight(weight: float) -> None:
    """Raises ConfigError unless the weight lies in [0, infinity]."""
    if not weight >= 0:
        raise ConfigError(f"condition_weight is {weight}; allowed: 0 to infinity")


def as_float64(x: Tensor) -> Tensor:
    """The tensor in float64, on the CPU where its device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _mismatch(cond: Cond, weight: float) -> Tensor:
    total = torch.zeros(())
    for name, value in cond.items():
        rows = value.detach().reshape(len(value), -1)
        if not rows.is_floating_point():
            total = total + as_float64((rows[:, None] != rows[None]).sum(-1))
        elif math.isfinite(weight):
            rows = as_float64(rows)
            total = total + torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            raise ConfigError(
                f"condition {name!r} is real-valued; give the coupling a finite condition_weight (for example 1)"
            )
    return total


def _coordinates(state: State) -> Tensor:
    """(B, d), in float32 or better."""
    joined = torch.cat([part.detach().flatten(1) for part in parts(state)], dim=1)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def _valid_coordinates(state: State, mask: Mask) -> Tensor:
    """The mask, whose shape is a prefix of every component's, for each coordinate: bool (B, d)."""

    def spread(part: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return torch.ones_like(part, dtype=torch.bool)
        return valid.reshape(valid.shape + (1,) * (part.ndim - valid.ndim)).expand_as(part)

    return torch.cat([part.flatten(1) for part in parts(map_masked(spread, mask, state))], dim=1)
