"""A flow: a network together with the path it was trained on, the space it lives in and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.batch import (
    Cond,
    Mask,
    Shape,
    State,
    batch_size,
    device_of,
    dtype_of,
    map_masked,
    map_state,
    parts,
    shape_of,
    time_dtype,
)
from rectiflow.coin import coin
from rectiflow.conditions import Null, drop
from rectiflow.couplings import Coupling, Independent
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.predictions import MARGIN, Prediction, check_prediction, span, velocity_weight
from rectiflow.sources import Gaussian, Source
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.space import Space
from rectiflow.stochastic_interpolant import StochasticInterpolant, add_latent, convert_latent
from rectiflow.times import TimeLaw, Uniform

Model = Callable[..., Any]


class Draw(NamedTuple):
    """One training draw: the coupled ends, the time, the state on the path, and what the network should predict there."""

    x0: State
    x1: State
    t: Tensor
    xt: State
    target: State
    cond: Cond
    mask: Mask
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, on purpose
    latent: State | None = None  # z, on a path with latent noise


@dataclass(frozen=True)
class Flow:
    """A network read as a flow from the source at t = 0 to data at t = 1.

    Args:
        model: callable `model(x, t, **cond)` with x (B, ...) and t (B,); returns a state-shaped prediction.
        interpolant: path x_t = a(t) x1 + s(t) x0.
        predicts: velocity | data | noise | score, what the model's output means; on a path with latent noise not data, and
            noise is the latent one.
        space: where states live.
        source: law of x0; None is the space's own prior.
        null: condition name -> value that means "no condition", for dropping and for classifier-free guidance.
        independent: whether x0 and x1 were independent in training; the score exists only then.
        self_conditioning: whether the model takes `self_condition`, its own last data prediction (zeros at first).
        score_model: callable like `model` that returns the score, where it does not follow from the model's output (latent
            noise, bridges).
        average: whether the model is `model(x, t, until=r, **cond)`, r (B,), and its output stands for the average velocity
            over [t, r] instead of the one at t; with r = t the two are the same.
        guidable: whether classifier-free guidance may be applied; False where the model was trained to have it already.
        guidance_range: lowest and highest scale of guidance that the model takes as a condition `guidance` (B,), for one
            evaluation instead of two; None for a model that takes none.
        refines: whether the model, called as `model(x, t, velocity=v, **cond)`, says by how much the velocity here differs
            from v, that of the place just before (FlowTurbo's refiner).

    Raises:
        ConfigError: `predicts` is unknown, latent noise on a curved space, or averages of scores or on a path with latent noise.
        ConversionError: a score-predicting flow without an independent Gaussian source, or data on a path with latent noise.
    """

    model: Model
    interpolant: Interpolant = field(default_factory=Linear)
    predicts: Prediction = "velocity"
    space: Space = field(default_factory=Euclidean)
    source: Source | None = None
    null: Null | None = None
    independent: bool = True
    self_conditioning: bool = False
    score_model: Model | None = None
    average: bool = False
    guidable: bool = True
    guidance_range: tuple[float, float] | None = None
    refines: bool = False

    def __post_init__(self) -> None:
        check_prediction(self.predicts)
        if self.average and (self.predicts == "score" or isinstance(self.interpolant, StochasticInterpolant)):
            raise ConfigError(
                f"a flow of average velocities predicts {self.predicts} on {self.interpolant!r}; "
                "allowed: velocity, data or noise on a path without latent noise"
            )
        if isinstance(self.interpolant, StochasticInterpolant):
            self._check_latent()
        if self.predicts == "score":
            self.require_score()

    def velocity(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Velocity E[x_t' | x_t = x] of x's shape at times t (B,), kept inside `predictions.span` here and below."""
        t = self._told(t, "velocity")
        return self.interpret(self.evaluate(x, t, cond), "velocity", x, t)

    def data(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Data estimate E[x1 | x_t = x] of x's shape."""
        t = self._told(t, "data")
        return self.interpret(self.evaluate(x, t, cond), "data", x, t)

    def noise(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Source estimate E[x0 | x_t = x] of x's shape."""
        t = self._told(t, "noise")
        return self.interpret(self.evaluate(x, t, cond), "noise", x, t)

    def score(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Score grad log p_t(x) = E[grad log p_0(x0) | x] / s(t) of x's shape.

        For x0 ~ N(0, I) that is -E[x0 | x] / s (Tweedie); with latent noise it is -E[z | x] / g.

        Raises:
            ConversionError: it does not follow from what the model predicts, and there is no `score_model`.
        """
        if self.score_model is not None:
            return self.score_model(x, t, **cond)
        self.require_score()
        t = self._told(t, "score")
        return self.interpret(self.evaluate(x, t, cond), "score", x, t, cond)

    def average_velocity(self, x: Any, t: Tensor, until: Tensor, **cond: Tensor) -> Any:
        """Average velocity u over [t, until], both (B,): exp_x((until - t) u) is the state at `until` (arXiv 2505.13447).

        Raises:
            ConfigError: the model takes no second time.
        """
        if not self.average:
            raise ConfigError("this flow's model takes no second time; an average velocity needs Flow(average=True)")
        return self.interpret(self.evaluate(x, t, cond, until), "velocity", x, t)

    def evaluate(self, x: Any, t: Tensor, cond: Mapping[str, Any], until: Tensor | None = None) -> Any:
        """The model's output at (x, t); a model of average velocities is told when the step ends, at t itself by default."""
        if self.average:
            return self.model(x, t, until=t if until is None else until, **cond)
        return self.model(x, t, **cond)

    def interpret(self, prediction: Any, target: Prediction, x: Any, t: Tensor, cond: Cond | None = None) -> Any:
        """What a model output at (x, t) says of `target`, without evaluating the model again."""
        return self.convert(prediction, self.predicts, target, x, t, cond)

    def convert(
        self, prediction: Any, kind: Prediction, target: Prediction, x: Any, t: Tensor, cond: Cond | None = None
    ) -> Any:
        """A prediction of one kind at (x, t) as another kind.

        Args:
            prediction: of x's shape.
            kind: what it is.
            target: what it shall be.
            x: (B, ...) state.
            t: (B,) times.
            cond: needed only for the score of a Gaussian source whose mean is a condition.

        Raises:
            ConversionError: the path or the space does not link the two.
        """
        if isinstance(self.interpolant, StochasticInterpolant):
            path = self.interpolant
            return map_state(lambda value, part: convert_latent(value, kind, target, part, t, path), prediction, x)
        if isinstance(self.source, Gaussian) and kind != target and "score" in (kind, target):
            return self._convert_by_source(self.source, prediction, kind, target, x, t, cond)
        return self.space.convert(prediction, kind, target, x, t, self.interpolant)

    def sample_source(
        self,
        shape: Shape,
        cond: Cond | None = None,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Draw x0 of the given shape, batch axis included."""
        if self.source is None:
            return self.space.sample_prior(shape, generator, device=device, dtype=dtype)
        return self.source(
            shape,
            cond=cond or {},
            generator=generator,
            device=torch.device(device),
            dtype=dtype or torch.get_default_dtype(),
        )

    def masked(self, mask: Mask) -> Flow:
        """This flow for sampling a batch whose padding is where the mask is False: spaces that take means leave it out."""
        return self if mask is None else replace(self, space=self.space.masked(mask))

    def draw(
        self,
        x1: State,
        cond: Cond | None = None,
        *,
        x0: State | None = None,
        mask: Mask = None,
        times: TimeLaw | Tensor | None = None,
        coupling: Coupling | None = None,
        condition_drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Draw source, coupling and time for a batch of data, and put the batch on the path.

        Args:
            x1: (B, ...) data.
            cond: name -> (B, ...).
            x0: (B, ...) stored partners of x1; None draws them and applies `coupling`.
            mask: bool, shape a prefix of x1's, True where x1 holds data; or one a component of a product, by name.
            times: law of t, uniform by default; or the times themselves (B,).
            coupling: independent by default.
            condition_drop: probability, per sample, of replacing the conditions by their null values.
            generator: source of all randomness.

        Raises:
            ConfigError: partners of another shape, or conditions of another batch size, than x1.
            ConversionError: a score-predicting flow without latent noise meets a coupling that ties x0 to x1.
        """
        cond = dict(cond or {})
        device, size = device_of(x1), batch_size(x1)
        _check_rows(x1, cond, x0)
        index = torch.arange(size, device=device)
        if x0 is None:
            stochastic = isinstance(self.interpolant, StochasticInterpolant)
            if self.predicts == "score" and not stochastic and coupling is not None and not coupling.independent:
                raise ConversionError(
                    f"a flow that predicts the score cannot be trained with {coupling!r}: x0 must be independent of x1; "
                    "use the independent coupling, or predict velocity, data or noise"
                )
            x0 = self.sample_source(shape_of(x1), cond, generator, device=device, dtype=dtype_of(x1))
            if not (coupling is None or type(coupling) is Independent):
                # What stands in the padding must not decide who is paired with whom.
                visible = map_masked(_clear_padding, mask, x1)
                x0, _, coupled_cond, index = coupling(
                    x0, visible, cond, mask=mask, space=self.space, generator=generator
                )
                x1 = map_state(lambda part: part[index], x1)
                cond = coupled_cond or {}
                mask = None if mask is None else map_state(lambda part: part[index], mask)
        if self.null is not None:
            cond = drop(cond, self.null, condition_drop, generator)
        if not isinstance(times, Tensor):
            times = (times or Uniform()).sample(size, generator, device=device)
        t = times.to(time_dtype(x1))
        masked = self.masked(mask)
        space = masked.space
        x0, x1 = space.project(x0), space.project(x1)
        xt, velocity = space.path(x0, x1, t, self.interpolant)
        if isinstance(self.interpolant, StochasticInterpolant):
            z = space.sample_prior(shape_of(xt), generator, device=device, dtype=dtype_of(xt))
            return add_latent(Draw(x0, x1, t, xt, velocity, cond, mask, index), self.predicts, self.interpolant, z)
        # Data and noise are replaced below, but the conversion refuses what the space does not define.
        target = masked.convert(velocity, "velocity", self.predicts, xt, t, cond)
        if self.predicts == "data":
            target = x1  # the same value without the rounding of the conversion
        elif self.predicts == "noise":
            target = x0
        return Draw(x0, x1, t, xt, target, cond, mask, index)

    def predict(self, draw: Draw, generator: torch.Generator | None = None) -> Any:
        """The model's output at a training draw; a self-conditioned model sees its own estimate in half of the draws."""
        return self.evaluate(draw.xt, draw.t, self.self_conditioned(draw, generator))

    def self_conditioned(
        self, draw: Draw, generator: torch.Generator | None = None, until: Tensor | None = None
    ) -> dict[str, Any]:
        """The conditions of a draw, and for a self-conditioned model its own estimate in half of the draws, zeros in the rest."""
        if not self.self_conditioning:
            return dict(draw.cond)
        previous = map_state(torch.zeros_like, draw.xt)
        if coin(generator, device_of(draw.xt)):
            with torch.no_grad():
                first = self.evaluate(draw.xt, draw.t, {**draw.cond, "self_condition": previous}, until)
                previous = map_state(torch.detach, self.interpret(first, "data", draw.xt, draw.t, draw.cond))
        return {**draw.cond, "self_condition": previous}

    def regression(
        self, prediction: State, draw: Draw, *, weight: str = "plain", weight_margin: float = MARGIN
    ) -> Tensor:
        """Squared error of a prediction at a draw: mean over a sample's valid entries, then over samples.

        Args:
            prediction: the model's output, of the state's shape.
            draw: what it was evaluated at.
            weight: "plain" weighs every time alike in the predicted quantity; "velocity" in the velocity it stands for.
            weight_margin: distance from the end where a velocity is singular at which that weight stops growing.

        Raises:
            ConfigError: unknown weight, or a prediction of another shape than its target.
        """
        if weight not in ("plain", "velocity"):
            raise ConfigError(f"loss weight {weight!r} is unknown; allowed: plain, velocity")
        if weight == "plain" and draw.mask is None:  # as many entries in each sample: one mean, and one pass backward
            errors = self._errors(prediction, draw.target, draw, self.predicts)
            return reduce(torch.add, (part.square().mean() for part in parts(errors)))
        per_sample = self.squared_error(prediction, draw.target, draw, self.predicts)
        if weight == "velocity":
            self._check_velocity_weight()
            per_sample = per_sample * velocity_weight(self.predicts, draw.t, self.interpolant, weight_margin)
        return per_sample.mean()

    def squared_error(self, prediction: State, target: State, draw: Draw, kind: Prediction = "velocity") -> Tensor:
        """Mean (B,), over a sample's valid entries, of the squared difference of a prediction of some kind and its target.

        Components of a product are added, each with its weight.
        """
        errors = self._errors(prediction, target, draw, kind)
        return reduce(torch.add, parts(map_masked(_mean_square, draw.mask, errors)))

    def _errors(self, prediction: State, target: State, draw: Draw, kind: Prediction) -> State:
        """Difference of a prediction and its target, of the state's shape, where the mask is True."""
        if shape_of(prediction) != shape_of(target):  # which subtraction would broadcast in silence
            raise ConfigError(
                f"the model gave a {kind} of shape {shape_of(prediction)}; its target has shape {shape_of(target)}"
            )
        # Padding is cleared before anything is computed from it: a NaN in it must reach neither the loss nor the gradient.
        prediction, target, x = (
            map_masked(_clear_padding, draw.mask, state) for state in (prediction, target, draw.xt)
        )
        errors: State = self.space.masked(draw.mask).residual(prediction, target, kind, x)
        return errors

    def loss(
        self,
        x1: State,
        cond: Cond | None = None,
        *,
        x0: State | None = None,
        mask: Mask = None,
        times: TimeLaw | None = None,
        coupling: Coupling | None = None,
        condition_drop: float = 0.0,
        weight: str = "plain",
        weight_margin: float = MARGIN,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Flow-matching loss E |prediction - target|^2, one line of a training loop; arguments as in `draw` and `regression`."""
        draw = self.draw(
            x1,
            cond,
            x0=x0,
            mask=mask,
            times=times,
            coupling=coupling,
            condition_drop=condition_drop,
            generator=generator,
        )
        return self.regression(self.predict(draw, generator), draw, weight=weight, weight_margin=weight_margin)

    def require_score(self) -> None:
        """Refuse a flow that has no score.

        Raises:
            ConversionError: it does not follow from what the model predicts, and there is no `score_model`.
        """
        if self.score_model is not None:
            return
        if isinstance(self.interpolant, StochasticInterpolant):
            if self.predicts == "velocity":
                raise ConversionError(
                    "the score does not follow from the velocity on a path with latent noise; give the flow a score_model"
                )
            return
        if not self.independent or not (self.source is None or isinstance(self.source, Gaussian)):
            reason = "a coupled" if not self.independent else "its own"
            raise ConversionError(
                f"the score is not defined for a flow with {reason} source; it needs a Gaussian x0 independent of x1: "
                "use velocity, data or noise, a flow trained with the independent coupling, or a score_model"
            )

    def _told(self, t: Tensor, target: Prediction) -> Tensor:
        """The times at which the model is asked for a quantity at t: itself, but where its prediction does not tell it."""
        low, high = span(self.predicts, target)
        return t.clamp(low, high) if low > 0 or high < 1 else t

    def _convert_by_source(
        self,
        source: Gaussian,
        prediction: Tensor,
        kind: Prediction,
        target: Prediction,
        x: Tensor,
        t: Tensor,
        cond: Cond | None,
    ) -> Tensor:
        """To or from the score by way of E[x0 | x], to which a Gaussian source ties it: s score = score of the source there."""
        s = self.interpolant.coefficients(t.clamp(max=1 - MARGIN)).expand_to(x).s
        if kind == "score":
            noise = source.state_of_score(s * prediction, cond)
            return self.space.convert(noise, "noise", target, x, t, self.interpolant)  # type: ignore[no-any-return]
        noise = self.space.convert(prediction, kind, "noise", x, t, self.interpolant)
        return source.score(noise, cond) / s

    def _check_latent(self) -> None:
        if not self.space.linear:
            raise ConfigError(
                f"latent noise needs a linear space such as Euclidean; got {self.space!r}; use a plain path"
            )
        if self.predicts == "data":
            raise ConversionError(
                "a flow on a path with latent noise cannot predict data: its velocity would not follow; "
                "predict velocity, noise (the latent one) or score"
            )

    def _check_velocity_weight(self) -> None:
        special = isinstance(self.interpolant, StochasticInterpolant) and self.predicts != "velocity"
        if special or (self.predicts == "score" and self.source is not None):
            raise ConversionError(
                f"no weight makes the error of a {self.predicts} prediction that of a velocity on this path and source; "
                "allowed: weight plain"
            )


def _mean_square(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Mean square (B,) over the entries where the mask, whose shape is a prefix of the difference's, is True."""
    if mask is None:
        return difference.flatten(1).square().mean(1)
    total = _clear_padding(difference, mask).flatten(1).square().sum(1)
    count = mask.reshape(len(mask), -1).sum(1) * (difference[0].numel() // mask[0].numel())
    return total / count.clamp(min=1)


def _check_rows(x1: State, cond: Cond, x0: State | None) -> None:
    """Refuse partners and conditions that would be broadcast to the data in silence."""
    if x0 is not None and shape_of(x0) != shape_of(x1):
        raise ConfigError(f"x0 has shape {shape_of(x0)}; its partners x1 have {shape_of(x1)}: they must agree")
    for name, value in cond.items():
        if value.shape[0] != batch_size(x1):
            raise ConfigError(f"condition {name!r} has {value.shape[0]} rows; the data has {batch_size(x1)}")


def _clear_padding(part: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros where the mask, whose shape is a prefix of the part's, is False."""
    return part if mask is None else part.masked_fill(~mask.reshape(mask.shape + (1,) * (part.ndim - mask.ndim)), 0)
