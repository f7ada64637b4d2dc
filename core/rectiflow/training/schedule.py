"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from rectiflow.training.options import TrainingOptions


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Learning rate of a step, counted from 0.

    A linear rise over `warmup` steps to the peak, then a half cosine down to `final_fraction` of it at `steps`, or a
    constant.
    """
    peak = options.learning_rate
    if step < options.warmup:
        return peak * (step + 1) / options.warmup
    if options.schedule == "constant":
        return peak
    progress = min(1.0, (step - options.warmup) / max(1, options.steps - options.warmup))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (options.final_fraction + (1.0 - options.final_fraction) * cosine)
