"""What every way from a flow to a few-step student has in common: a loss on a batch, and what its student is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond, State, map_state
from rectiflow.conditions import null_like
from rectiflow.control.guidance import SCALE
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.times import TimeLaw


@dataclass(frozen=True)
class Support:
    """What a method may look at beside the student: nothing here is trained.

    Attributes:
        teacher: the flow that the student is made from, in evaluation mode.
        average: the student on averaged weights, in evaluation mode.
        step: training steps done.
        steps: training steps in all.
    """

    teacher: Flow | None = None
    average: Flow | None = None
    step: int = 0
    steps: int = 1

    def require_teacher(self, method: Method) -> Flow:
        """The teacher.

        Raises:
            ConfigError: there is none.
        """
        if self.teacher is None:
            raise ConfigError(
                f"{type(method).__name__} asks a teacher; pass support=Support(teacher=…), or use `distill`"
            )
        return self.teacher

    def require_average(self, method: Method) -> Flow:
        """The averaged student.

        Raises:
            ConfigError: there is none.
        """
        if self.average is None:
            raise ConfigError(
                f"{type(method).__name__} takes its targets from the averaged student; "
                "pass support=Support(average=…), or use `distill`"
            )
        return self.average


ALONE = Support()


class Method(ABC):
    """A way to train a few-step student: subclasses are frozen dataclasses of its hyperparameters."""

    @property
    def trains_on(self) -> Literal["data", "pairs"]:
        """Whether a batch is real data, or stored pairs of the teacher (`batch.x0` and `batch.x1`)."""
        return "data"

    @property
    def average(self) -> bool:
        """Whether the student's model takes the end of a step as a second time, `until`; see `Flow.average`."""
        return False

    @property
    def sampler(self) -> str:
        """The solver that a student is sampled with unless another one is asked for."""
        return "jump" if self.average else "euler"

    def student(self, flow: Flow) -> Flow:
        """The teacher's flow on the student's network, as what this method trains it to be."""
        return replace(flow, average=self.average, independent=False, guidable=False)

    @abstractmethod
    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, a scalar, and its detached terms by name.

        Args:
            flow: the student, as `student` gives it.
            batch: data or pairs, as `trains_on` says.
            generator: source of all randomness.
            extra: the domain's terms beyond flow matching; methods whose prediction is no data estimate leave them out.
            support: what else there is to look at.

        Raises:
            ConfigError: the flow, the batch or the support is not what this method needs.
        """

    def require_linear(self, flow: Flow) -> None:
        """Refuse a space whose states cannot be added.

        Raises:
            ConfigError: the flow's space is curved.
        """
        if not flow.space.linear:
            raise ConfigError(
                f"{type(self).__name__} adds states, which {flow.space!r} does not allow; use reflow or shortcut there"
            )

    def require_pairs(self, batch: Batch) -> State:
        """The stored sources of a batch.

        Raises:
            ConfigError: the batch holds data without sources.
        """
        if batch.x0 is None:
            raise ConfigError(f"{type(self).__name__} trains on pairs; got data without x0: use `generate_pairs` first")
        return batch.x0


@torch.no_grad()
def velocity_of(flow: Flow, x: Any, t: Tensor, cond: Cond, guidance: float = 1.0) -> Any:
    """A flow's velocity at (x, t), guided, and without a gradient; a self-conditioned model sees its own first estimate.

    Args:
        flow: for example the teacher.
        x: (B, ...) states.
        t: (B,) times.
        cond: name -> (B, ...).
        guidance: scale of classifier-free guidance.

    Raises:
        ConfigError: guidance of a flow without a null condition.
    """
    velocity = _unguided(flow, x, t, cond)
    if guidance == 1:
        return velocity
    require_null(flow, guidance)
    empty = _unguided(flow, x, t, null_like(cond, flow.null or {}))
    return map_state(lambda with_, without: torch.lerp(without, with_, guidance), velocity, empty)


def target_velocity(flow: Flow, draw: Draw, teacher: Flow | None, guidance: float = 1.0) -> Any:
    """What an instantaneous velocity is regressed on: the teacher's at x_t, or without one that of the drawn path.

    The path's has the guidance mixed in as w v + (1 - w) u, where u is the student's own velocity without conditions
    (arXiv 2505.13447, section 4.2); w = 1 is the plain velocity. A student that takes the scale as a condition has w from there.

    Raises:
        ConfigError: guidance of a flow without a null condition.
    """
    if teacher is not None:
        return velocity_of(teacher, draw.xt, draw.t, draw.cond, guidance)
    _, velocity = flow.masked(draw.mask).space.path(draw.x0, draw.x1, draw.t, flow.interpolant)
    if guidance == 1 and flow.guidance_range is None:
        return velocity
    require_null(flow, guidance)
    with torch.no_grad():
        empty = _unguided(flow, draw.xt, draw.t, null_like(draw.cond, flow.null or {}))

    def mix(with_: Tensor, without: Tensor) -> Tensor:
        if flow.guidance_range is None:
            return torch.lerp(without, with_, guidance)
        return torch.lerp(without, with_, columns(draw.cond[SCALE].to(with_), with_))

    return map_state(mix, velocity, empty)


def require_null(flow: Flow, guidance: float) -> None:
    """Refuse guidance of a flow that knows no "no condition".

    Raises:
        ConfigError: as said.
    """
    if not flow.null:
        raise ConfigError(
            f"guidance {guidance:g} needs a flow with a null condition, trained with condition_drop above 0"
        )


def weighed(error: Tensor, power: float, offset: float) -> Tensor:
    """Mean of errors (B,), each times 1 / (error + offset)^power, through which no gradient flows (arXiv 2505.13447, eq. 22).

    Power 0 is the plain mean; at power 1 every sample has the same say, however large its error.
    """
    return ((error.detach() + offset).pow(-power) * error).mean()


def share_of(count: int, share: float, generator: torch.Generator, device: torch.device | str) -> int:
    """A share of a batch as a whole number of samples, which chance rounds."""
    return math.floor(share * count + float(torch.rand((), generator=generator, device=device)))


def two_times(
    times: TimeLaw, share: float, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> tuple[int, Tensor, Tensor]:
    """How many samples, the first ones, jump to a later time; starts and ends of all steps, (count,) each, alike in the rest."""
    jumps = share_of(count, share, generator, device)
    first, second = (times.sample(count, generator, device=device) for _ in range(2))
    jumping = torch.arange(count, device=device) < jumps
    start = torch.where(jumping, torch.minimum(first, second), first)
    return jumps, start, torch.where(jumping, torch.maximum(first, second), first)


def rows_of(state: Any, rows: slice) -> Any:
    """Some samples of a state, or of each of the conditions."""
    return {name: rows_of(part, rows) for name, part in state.items()} if isinstance(state, dict) else state[rows]


def rows_of_draw(draw: Draw, rows: slice) -> Draw:
    """Some samples of a training draw."""
    return Draw(*(None if part is None else rows_of(part, rows) for part in draw))  # type: ignore[arg-type]


def columns(values: Tensor, part: Tensor) -> Tensor:
    """Numbers a sample (B,) in a shape that multiplies a state (B, ...)."""
    return values.reshape((-1,) + (1,) * (part.ndim - 1))


def _unguided(flow: Flow, x: Any, t: Tensor, cond: Cond) -> Any:
    if not flow.self_conditioning:
        return flow.velocity(x, t, **cond)
    own: dict[str, Any] = {**cond, "self_condition": map_state(torch.zeros_like, x)}
    own["self_condition"] = flow.data(x, t, **own)
    return flow.velocity(x, t, **own)
