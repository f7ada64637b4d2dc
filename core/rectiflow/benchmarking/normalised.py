"""Quality between a baseline and a floor, so that domains can be set side by side. Free of torch."""

from __future__ import annotations

import math
from typing import Literal


def normalised(value: float, floor: float, baseline: float, better: Literal["lower", "higher", "one"]) -> float:
    """(value - baseline) / (floor - baseline): 1 for what real data gets, 0 for something trivial, more or less beyond.

    Of a metric that is best at one, it is the distance to one that counts. NaN where the floor is no better than the baseline,
    or a number is missing.
    """
    if better == "one":
        value, floor, baseline = abs(value - 1), abs(floor - 1), abs(baseline - 1)
    span = floor - baseline if better == "higher" else baseline - floor
    gain = value - baseline if better == "higher" else baseline - value
    return gain / span if math.isfinite(span) and span > 0 else math.nan
