"""The velocity field of one sampling run: conditions bound, guidance applied, network evaluations counted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from rectiflow.batch import Cond, State, batch_size, device_of, dtype_of, map_state, shape_of, time_dtype
from rectiflow.conditions import concatenate, null_like
from rectiflow.control.guidance import NO_GUIDANCE, Guidance, scale_condition
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow, Model
from rectiflow.predictions import MARGIN, Prediction, span
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.stochastic_interpolant import StochasticInterpolant

Observer = Callable[[int, float, Any, Any], None]
"""Sees (step, t, x, velocity) before each step; what it returns is ignored.

The velocity is the slope that the step starts with: v(x, t) for most solvers, also for the stochastic ones (its probability
flow, without the score term) and for the exponential ones (their prediction, converted); the slope carried over from the
step before for fireflow, pseudo_corrector and reversible_heun; the slope at the middle of the step for implicit_midpoint;
the derivative of the dense output at inner times for dopri5, whose steps are the entries of the grid that was asked for.
"""


class VelocityField:
    """v(x, t) as solvers call it, with t a plain number.

    Everything that does not change from step to step is made here, once: the time tensors of the grid, the doubled
    conditions of guidance. Times off the announced grid work too, at the price of one small allocation.

    At a time where the prediction does not tell what is asked (`predictions.span`), the network is asked for it a little inside
    instead, with the state as it is. Solvers that can do without such a time look it up with `untold`.

    Args:
        flow: what to evaluate.
        like: a state of the run's shape, device and dtype.
        cond: name -> (B, ...).
        guidance: classifier-free guidance.
        times: times that the solver is going to ask for.
        checkpoint: forget the network's activations and recompute them for the gradient, one evaluation at a time.
        inside: the two times to ask at instead of those next to 0 and next to 1; an error of the network counts there by about
            the step over the distance.

    Raises:
        ConfigError: guidance without conditions or without a null value, or of a model that has it already; or conditions of
            another batch size. Evaluations raise it for a model whose output has another shape than the state.
    """

    def __init__(
        self,
        flow: Flow,
        like: State,
        cond: Cond | None = None,
        guidance: Guidance | None = None,
        times: Sequence[float] = (),
        checkpoint: bool = False,
        inside: tuple[float, float] = (MARGIN, 1 - MARGIN),
    ) -> None:
        self.flow = flow
        self._spans = {kind: span(flow.predicts, kind) for kind in get_args(Prediction)}
        self._inside = inside
        guidance = NO_GUIDANCE if guidance is None else guidance
        self.evaluations = 0
        self._cond: dict[str, Any] = dict(cond or {})
        self._size = batch_size(like)
        self._options: dict[str, Any] = {"device": device_of(like), "dtype": time_dtype(like)}
        if flow.guidance_range is not None:
            self._cond = scale_condition(self._cond, flow.guidance_range, guidance, self._size, **self._options)
            guidance = NO_GUIDANCE
        self.guidance = guidance
        for name, value in self._cond.items():
            if value.shape[0] != self._size:
                raise ConfigError(f"condition {name!r} has {value.shape[0]} rows; the state has {self._size}")
        self._rows = self._time_rows([*times, *inside] if times and flow.predicts != "velocity" else times)
        self._checkpoint = checkpoint
        self._unseen = True
        self._scalar = (
            flow.space.linear
            and not isinstance(flow.interpolant, StochasticInterpolant)
            and dtype_of(like) is self._options["dtype"]
        )
        self._tracing = torch.compiler.is_compiling()
        self._weights: dict[tuple[Prediction, Prediction], dict[float, tuple[float, float]]] = {}
        self._guided = guidance.scale != 1.0
        self._bare = not (self._guided or checkpoint or flow.self_conditioning or flow.average)
        self._direct = self._bare and flow.predicts == "velocity"  # nothing to do but to call the network
        if self._guided:
            if not flow.guidable:
                raise ConfigError(
                    f"guidance scale {guidance.scale:g} is refused: this student was trained at a scale of its own; use scale 1"
                )
            if not self._cond or flow.null is None:
                missing = (
                    "conditions"
                    if not self._cond
                    else "a null condition (Flow(null=…), and training with condition_drop above 0)"
                )
                raise ConfigError(
                    f"guidance scale {guidance.scale} needs {missing}; use scale 1 to sample without guidance"
                )
            self._null = null_like(self._cond, flow.null)
            self._both = concatenate(self._cond, self._null)
        self._previous: Any = map_state(torch.zeros_like, like) if flow.self_conditioning else None

    @property
    def cost(self) -> int:
        """Network evaluations that one call takes at most."""
        return 2 if self._guided else 1

    def __call__(self, x: Any, time: float) -> Any:
        """Velocity at state x and time t in [0, 1]."""
        if not self._direct:
            return self.predict(x, time, "velocity")
        self.evaluations += 1
        velocity = self.flow.model(x, self._row(time), **self._cond)
        if self._unseen:
            self._check_shape(velocity, x)
        return velocity

    def untold(self, time: float, kind: Prediction = "velocity") -> bool:
        """Whether the prediction does not tell that quantity at time t, because the conversion is 0/0 there."""
        low, high = self._spans[kind]
        return not (low <= time <= high or (kind == "score" and self.flow.score_model is not None))

    def average(self, x: Any, time: float, until: float) -> Any:
        """Average velocity over [time, until] at state x; a model without a second time knows no better than the one at t."""
        if not self.flow.average:
            return self(x, time)
        return self._evaluate(x, self._row(time), self._cond, "velocity", time, self._row(until))

    def refined(self, x: Any, time: float, velocity: Any) -> Any:
        """Velocity at (x, t) from that of the place just before, by the flow's refiner; by the flow where it has none."""
        if not self.flow.refines:
            return self(x, time)
        correction = self.flow.model(x, self._row(time), velocity=velocity, **self._cond)
        return self.flow.space.combine((velocity, correction), (1, 1))

    def data(self, x: Any, time: float) -> Any:
        """Data estimate E[x1 | x_t = x] at state x and time t, at the price of one velocity."""
        return self.predict(x, time, "data")

    def score(self, x: Any, time: float) -> Any:
        """Score of p_t at x, at the price of one velocity.

        Raises:
            ConversionError: the flow has none.
        """
        self.flow.require_score()
        return self.predict(x, time, "score")

    def velocity_and_score(self, x: Any, time: float) -> tuple[Any, Any]:
        """Both at state x and time t, from one evaluation, or from one of each network where the score has its own."""
        if self.flow.score_model is not None:
            return self(x, time), self.score(x, time)
        time = self._ask(self._ask(time, "velocity"), "score")
        prediction = self.predict(x, time, self.flow.predicts)
        return (
            self.convert(prediction, self.flow.predicts, "velocity", x, time),
            self.convert(prediction, self.flow.predicts, "score", x, time),
        )

    def predict(self, x: Any, time: float, kind: Prediction) -> Any:
        """Velocity, data, noise or score at state x and time t, guided like the velocity: all are affine in one another."""
        time = self._ask(time, kind)
        t = self._row(time)
        if self._bare and not (kind == "score" and self.flow.score_model is not None):
            self.evaluations += 1
            prediction = self.flow.model(x, t, **self._cond)
            if self._unseen:
                self._check_shape(prediction, x)
            return self._read(prediction, self.flow.predicts, kind, x, t, self._cond, time)
        scale = self.guidance.scale_at(time) if self._guided else 1.0
        if scale == 1.0:
            return self._evaluate(x, t, self._cond, kind, time)
        if scale == 0.0:
            return self._evaluate(x, t, self._null, kind, time)
        twice = self._evaluate(
            map_state(lambda part: torch.cat([part, part]), x), torch.cat([t, t]), self._both, kind, time
        )
        self.evaluations += 1

        def guide(pair: Tensor) -> Tensor:
            conditional, unconditional = pair.chunk(2)
            return torch.lerp(unconditional, conditional, scale)

        return map_state(guide, twice)

    def convert(self, prediction: Any, kind: Prediction, target: Prediction, x: Any, time: float) -> Any:
        """What a prediction of one kind at (x, t) says of another kind, without evaluating the network."""
        return self._read(prediction, kind, target, x, self._row(time), self._cond, time)

    def weights(self, kind: Prediction, target: Prediction, time: float) -> tuple[float, float] | None:
        """Weights of state and prediction in `convert`, where it is a weighted sum with numbers known beforehand, else None."""
        table = self._weights.get((kind, target))
        if table is None:
            table = self._weights[kind, target] = self._conversion_weights(kind, target)
        return table.get(time)

    def _ask(self, time: float, kind: Prediction) -> float:
        """The time at which the network is asked for a quantity at time t."""
        if not self.untold(time, kind):
            return time
        return self._inside[0] if time < 0.5 else self._inside[1]

    def _row(self, time: float) -> Tensor:
        t = self._rows.get(time)
        return torch.full((self._size,), time, **self._options) if t is None else t

    def _read(
        self,
        prediction: Any,
        kind: Prediction,
        target: Prediction,
        x: Any,
        t: Tensor,
        cond: dict[str, Any],
        time: float,
    ) -> Any:
        """`Flow.convert`; on a linear space by two plain numbers, since a conversion is a weighted sum at any one time."""
        if kind == target:
            return prediction
        weights = self.weights(kind, target, time)
        if weights is not None:
            return self.flow.space.combine((x, prediction), weights)
        if self._scalar and self._tracing:
            t = torch.full_like(t, time, dtype=torch.float64)  # as exact as plain numbers, which tracing cannot read
        return self.flow.convert(prediction, kind, target, x, t, cond)

    def _conversion_weights(self, kind: Prediction, target: Prediction) -> dict[float, tuple[float, float]]:
        """Weights of state and prediction at every announced time, by converting (1, 0) and (0, 1)."""
        times = list(self._rows)
        sourced = self.flow.source is not None and "score" in (kind, target)
        if not times or not self._scalar or sourced or self._tracing:
            return {}
        t = torch.tensor(times, dtype=torch.float64)
        state, prediction = torch.eye(2, dtype=torch.float64)[:, None].expand(2, len(times), 2)
        weights = Euclidean().convert(prediction, kind, target, state, t, self.flow.interpolant).tolist()
        return {time: (of_state, of_prediction) for time, (of_state, of_prediction) in zip(times, weights, strict=True)}

    def _evaluate(
        self, x: Any, t: Tensor, cond: dict[str, Any], kind: Prediction, time: float, until: Tensor | None = None
    ) -> Any:
        self.evaluations += 1
        flow = self.flow
        if kind == "score" and flow.score_model is not None:
            return self._network(flow.score_model, x, t, cond)
        if flow.average:
            cond = {**cond, "until": t if until is None else until}
        if self._previous is None:
            prediction = self._network(flow.model, x, t, cond)
            return self._read(prediction, flow.predicts, kind, x, t, cond, time)
        previous = self._previous
        if t.shape[0] != self._size:  # guided: both halves see the same last estimate
            previous = map_state(lambda part: torch.cat([part, part]), previous)
        prediction = self._network(flow.model, x, t, {**cond, "self_condition": previous})
        estimate = flow.interpret(prediction, "data", x, t, cond)
        self._previous = map_state(lambda part: part[: self._size].detach(), estimate)
        return self._read(prediction, flow.predicts, kind, x, t, cond, time)

    def _network(self, network: Model, x: Any, t: Tensor, cond: dict[str, Any]) -> Any:
        call = functools.partial(recompute, network, use_reentrant=False) if self._checkpoint else network
        prediction = call(x, t, **cond)
        if self._unseen:
            self._check_shape(prediction, x)
        return prediction

    def _check_shape(self, prediction: Any, x: Any) -> None:
        """Refuse a first output that addition would broadcast to the state in silence."""
        space = self.flow.space
        wanted = shape_of(x if space.linear or self.flow.predicts == "data" else space.log(x, x))
        found = shape_of(prediction)
        if found != wanted:
            raise ConfigError(
                f"the model gave a {self.flow.predicts} of shape {found} at a state of shape {shape_of(x)}; it must be {wanted}"
            )
        self._unseen = False

    def _time_rows(self, times: Sequence[float]) -> dict[float, Tensor]:
        if not times:
            return {}
        column = torch.tensor(list(times), **self._options)[:, None]
        return dict(zip(times, column.expand(-1, self._size).unbind(0), strict=True))
