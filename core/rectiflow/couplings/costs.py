"""What it costs to pair each source of a batch with each data point: squared distance, and a charge for another condition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rectiflow.batch import Cond, Mask, State, map_state, shape_of
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.space import Space


def squared_distances(x0: State, x1: State, mask: Mask = None, space: Space | None = None) -> Tensor:
    """Squared distance of x0[i] from x1[j] over what is valid in x1[j]: (B, B) float64, on the CPU where the device has none.

    Raises:
        ConfigError: x0 and x1 differ in shape.
        NonFiniteError: a state holds NaN or infinity where it is valid.
    """
    if shape_of(x0) != shape_of(x1):
        raise ConfigError(f"x0 and x1 have shapes {shape_of(x0)} and {shape_of(x1)}; they must agree")
    first, second = (map_state(_precise, state) for state in (x0, x1))
    cost = as_float64((space or flat_space(x1)).squared_distances(first, second, mask))
    if not bool(torch.isfinite(cost).all()):
        raise NonFiniteError("the coupling got a state with NaN or infinite values; check the data of this batch")
    return cost


def flat_space(state: State) -> Space:
    """The space that a coupling takes a state's entries for when it is told none: flat."""
    if not isinstance(state, dict):
        return Euclidean()
    components: dict[str, Space] = dict.fromkeys(state, Euclidean())
    return Product(weights=None, schedules=None, **components)


def pairing_costs(
    x0: State, x1: State, cond: Cond | None, mask: Mask, condition_weight: float, space: Space | None
) -> tuple[Tensor, float]:
    """Cost (B, B) of every pair, infinite where forbidden, and the mean squared distance that weights are measured in.

    Raises:
        ConfigError: shapes differ, or an infinite weight meets a real-valued condition.
        NonFiniteError: a state holds NaN or infinity.
    """
    return charge_mismatch(squared_distances(x0, x1, mask, space), cond, condition_weight)


def charge_mismatch(cost: Tensor, cond: Cond | None, condition_weight: float) -> tuple[Tensor, float]:
    """Costs (B, B) with the charge for pairs across conditions, and their mean before it.

    Row i of x0 counts as drawn for cond[i]. Pairing it with data of another condition adds condition_weight times the mean
    squared distance times the number of differing entries (integer conditions) or the squared distance (real ones) of the two
    conditions (C2OT, arXiv 2503.10636); an infinite weight forbids it.

    Raises:
        ConfigError: an infinite weight meets a real-valued condition.
    """
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


def _precise(part: Tensor) -> Tensor:
    """Free of gradients, in float32 or better."""
    return part.detach().to(torch.promote_types(part.dtype, torch.float32))
