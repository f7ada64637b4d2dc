"""The velocity field of one sampling run: conditions bound, guidance applied, network evaluations counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State, batch_size, device_of, map_state, time_dtype
from rectiflow.conditions import concatenate, null_like
from rectiflow.control.guidance import NO_GUIDANCE, Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow

Observer = Callable[[int, float, Any, Any], None]
"""Sees (step, t, x, velocity at x) before each step; what it returns is ignored."""


class VelocityField:
    """v(x, t) as solvers call it, with t a plain number.

    Everything that does not change from step to step is made here, once: the time tensors of the grid, the doubled
    conditions of guidance. Times off the announced grid work too, at the price of one small allocation.

    Args:
        flow: what to evaluate.
        like: a state of the run's shape, device and dtype.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.
        times: times that the solver is going to ask for.

    Raises:
        ConfigError: guidance without conditions or without a null value, or conditions of another batch size.
    """

    def __init__(
        self,
        flow: Flow,
        like: State,
        cond: Cond | None = None,
        guidance: Guidance = NO_GUIDANCE,
        times: Sequence[float] = (),
    ) -> None:
        self.flow = flow
        self.guidance = guidance
        self.evaluations = 0
        self._cond: dict[str, Any] = dict(cond or {})
        self._size = batch_size(like)
        for name, value in self._cond.items():
            if value.shape[0] != self._size:
                raise ConfigError(f"condition {name!r} has {value.shape[0]} rows; the state has {self._size}")
        self._options: dict[str, Any] = {"device": device_of(like), "dtype": time_dtype(like)}
        self._rows = self._time_rows(times)
        self._guided = guidance.scale != 1.0
        if self._guided:
            if not self._cond or flow.null is None:
                missing = "conditions" if not self._cond else "a null condition (Flow(null=...))"
                raise ConfigError(
                    f"guidance scale {guidance.scale} needs {missing}; use scale 1 to sample without guidance"
                )
            self._null = null_like(self._cond, flow.null)
            self._both = concatenate(self._cond, self._null)
        self._previous: Any = map_state(torch.zeros_like, like) if flow.self_conditioning else None

    def __call__(self, x: Any, time: float) -> Any:
        """Velocity at state x and time t in [0, 1]."""
        scale = self.guidance.scale_at(time) if self._guided else 1.0
        t = self._rows.get(time)
        if t is None:
            t = torch.full((self._size,), time, **self._options)
        if scale == 1.0:
            return self._evaluate(x, t, self._cond)
        if scale == 0.0:
            return self._evaluate(x, t, self._null)
        twice = self._evaluate(map_state(lambda part: torch.cat([part, part]), x), torch.cat([t, t]), self._both)
        self.evaluations += 1

        def guide(pair: Tensor) -> Tensor:
            conditional, unconditional = pair.chunk(2)
            return torch.lerp(unconditional, conditional, scale)

        return map_state(guide, twice)

    def _evaluate(self, x: Any, t: Tensor, cond: dict[str, Any]) -> Any:
        self.evaluations += 1
        flow = self.flow
        if self._previous is None:
            prediction = flow.model(x, t, **cond)
            return prediction if flow.predicts == "velocity" else flow.interpret(prediction, "velocity", x, t)
        previous = self._previous
        if t.shape[0] != self._size:  # guided: both halves see the same last estimate
            previous = map_state(lambda part: torch.cat([part, part]), previous)
        prediction = flow.model(x, t, **cond, self_condition=previous)
        estimate = flow.interpret(prediction, "data", x, t)
        self._previous = map_state(lambda part: part[: self._size].detach(), estimate)
        return flow.interpret(prediction, "velocity", x, t)

    def _time_rows(self, times: Sequence[float]) -> dict[float, Tensor]:
        if not times:
            return {}
        column = torch.tensor(list(times), **self._options)[:, None]
        return dict(zip(times, column.expand(-1, self._size).unbind(0), strict=True))
