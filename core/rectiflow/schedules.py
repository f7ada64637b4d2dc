"""Sampling on another schedule than the one that was trained: a network's data prediction, approached faster or slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Exponential, Interpolant
from rectiflow.spaces.product import Product


def scheduled(flow: Flow, schedule: Interpolant | Mapping[str, Interpolant]) -> Flow:
    """The flow for sampling whose states approach the data prediction on another schedule, for some components or for all.

    The velocity is a'/(1 - a) log_x(x1_hat) with the schedule's a(t); the network sees the times it was trained on. Unlike
    `convert_path` this changes the marginals, and with them what comes out: `Exponential(10)` for rotations beside linear
    translations is what frame-based protein models are sampled with (arXiv 2310.05297, 2502.14637). Solve it with "ddim", which
    steps exactly while x1_hat stays put, however few the steps; Euler's step overshoots where rate times step is above 1.

    Args:
        flow: predicts data.
        schedule: one for the whole state, or name -> schedule for components of a product, the others keeping the flow's path.

    Raises:
        ConfigError: a flow that does not predict data at a time, or names on a space that does not have them.
    """
    if isinstance(schedule, Mapping) and not schedule:
        return flow
    if flow.predicts != "data" or flow.average:
        kind = "average velocities" if flow.average else flow.predicts
        raise ConfigError(
            f"a sampling schedule needs a flow that predicts data; this one predicts {kind}, which belongs to its own path"
        )
    if isinstance(schedule, Interpolant):
        return replace(flow, interpolant=schedule)
    if not isinstance(flow.space, Product):
        raise ConfigError(
            f"schedules are given by name, {sorted(schedule)}, but {flow.space!r} has no components; give one schedule for all"
        )
    return replace(flow, space=flow.space.scheduled(schedule))


def exponentials(rates: Mapping[str, float]) -> dict[str, Interpolant]:
    """Exponential schedules by component from their rates, as settings spell them."""
    return {name: Exponential(float(rate)) for name, rate in rates.items()}
