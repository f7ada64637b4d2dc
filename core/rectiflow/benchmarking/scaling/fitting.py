"""Power laws and straight lines fitted to measured costs, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.stats import t as student_t

from rectiflow.benchmarking.contest import Interval
from rectiflow.errors import ConfigError

FEWEST = 3


class PowerLaw(NamedTuple):
    """y = factor x^exponent, the exponent with its 95 % interval."""

    exponent: Interval
    factor: float


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Least squares of log y on log x, with Student's interval of the slope.

    Raises:
        ConfigError: fewer than three points, points at one x, or numbers that are not above 0.
    """
    if len(x) < FEWEST or len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ConfigError(f"a power law needs three points above 0 at several x; got x={list(x)}, y={list(y)}")
    slope, offset = _line([math.log(value) for value in x], [math.log(value) for value in y])
    return PowerLaw(slope, math.exp(offset.value))


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Offset and slope of y = offset + slope x by weighted least squares, weights 1 / y^2: relative errors are alike.

    Raises:
        ConfigError: fewer than three points, or a y that is not above 0.
    """
    if len(x) < FEWEST or min(y) <= 0:
        raise ConfigError(f"a line needs three points with y above 0; got x={list(x)}, y={list(y)}")
    weights = 1 / torch.tensor(y, dtype=torch.float64)
    columns = torch.stack([torch.ones(len(x), dtype=torch.float64), torch.tensor(x, dtype=torch.float64)], 1)
    # Columns of one size: bytes by the million beside ones would lose half the digits.
    scale = (columns * weights[:, None]).norm(dim=0)
    found = torch.linalg.lstsq(columns * weights[:, None] / scale, torch.ones(len(x), 1, dtype=torch.float64)).solution
    offset, slope = (found[:, 0] / scale).tolist()
    return offset, slope


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[Interval, Interval]:
    """Slope and offset of y on x."""
    a, b = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    spread = (a - a.mean()).square().sum()
    slope = float(((a - a.mean()) * (b - b.mean())).sum() / spread)
    offset = float(b.mean()) - slope * float(a.mean())
    left = float((b - offset - slope * a).square().sum())
    reach = float(student_t.ppf(0.975, len(x) - 2)) * math.sqrt(left / (len(x) - 2) / float(spread))
    return Interval(slope, slope - reach, slope + reach), Interval(offset, math.nan, math.nan)
