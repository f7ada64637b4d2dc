"""Models of other libraries as ours, and our flows and samplers as theirs, by signature alone: no other library is imported.

House convention: model(x, t, **cond), t (B,), t = 0 noise, t = 1 data, velocity x1 - x0 on the linear path. Models with x first,
such as those of flow_matching, need no adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.batch import map_state
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.solvers.catalogue import solver
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.times import check_grid, time_grid


class ReversedTime(nn.Module):
    """A velocity model with t = 1 at noise, read the house way: v(x, t) = -theirs(x, scale (1 - t)). Its own inverse at scale 1.

    Args:
        model: callable `model(x, tau, **cond)` with tau = 1 at noise.
        scale: what the model expects tau to be multiplied by (1000 in diffusers, 999 in some others).
    """

    def __init__(self, model: Callable[..., Any], scale: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.scale = scale

    def forward(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """Velocity of x's shape."""
        return map_state(torch.neg, self.model(x, self.scale * (1 - t), **cond))


class TimeFirst(nn.Module):
    """A model called with the time first, `model(t, x, **cond)` as in torchcfm and torchdyn, called the house way, and back.

    Args:
        model: callable that takes time and state in the other order.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Any, second: Any, **cond: Tensor) -> Any:
        """The model's output with its first two arguments exchanged."""
        return self.model(second, first, **cond)


class VectorField(nn.Module):
    """A flow's velocity as generic ODE solvers call it, `field(t, x)`, with t a number or a scalar tensor.

    Args:
        flow: what to follow.
        cond: name -> (B, ...).
    """

    def __init__(self, flow: Flow, cond: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.flow = flow
        self.cond = dict(cond or {})

    def forward(self, t: Tensor | float, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Velocity of x's shape; further arguments, which some solvers pass, are ignored."""
        rows = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
        velocity: Tensor = self.flow.velocity(x, rows, **self.cond)
        return velocity


class DiffusersModel(nn.Module):
    """A diffusers transformer or UNet trained with flow matching, as a velocity model on the linear path.

    It is called with the state, `timestep=scale * sigma` (sigma = 1 - t) and the conditions by name, and predicts noise - data;
    its output may be an object with `.sample`, a tuple, or a tensor.

    Args:
        model: the network.
        scale: 1000 for UNets and SD3, 1 for networks that multiply inside (FLUX).
        fixed: keyword arguments of every call that are not conditions with a batch axis (image ids, attention options).
    """

    def __init__(
        self, model: Callable[..., Any], scale: float = 1000.0, fixed: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.fixed = dict(fixed or {})

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """Velocity of x's shape.

        Raises:
            ConfigError: the output is nothing of the three.
        """
        output = self.model(x, timestep=self.scale * (1 - t), **self.fixed, **cond)
        if hasattr(output, "sample"):
            output = output.sample
        elif isinstance(output, tuple) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"the wrapped model returned {type(output).__name__}; allowed: a tensor, a tuple that starts with one, "
                "or an object with .sample"
            )
        return -output


class Stepped(NamedTuple):
    """What a scheduler's step returns: by name or as a tuple."""

    prev_sample: Tensor


class SchedulerConfig(dict[str, Any]):
    """The entries of a scheduler's configuration that pipelines read, by key or by name as they do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the scheduler's configuration has no {name!r}; it has {', '.join(self)}") from None


class _Asked(Exception):
    """A solver wants the velocity at a state and time that the pipeline has yet to evaluate."""

    def __init__(self, x: Tensor, time: float) -> None:
        super().__init__(f"velocity at t = {time:g}")
        self.x = x
        self.time = time


class _Known:
    """The field of one step, as solvers call it, of which the first velocities are known; `_Asked` comes out where they end."""

    def __init__(self, velocities: list[Tensor]) -> None:
        self._left = iter(velocities)

    def __call__(self, x: Tensor, time: float) -> Tensor:
        """The next velocity."""
        velocity = next(self._left, None)
        if velocity is None:
            raise _Asked(x, time)
        return velocity

    def untold(self, time: float) -> bool:
        """False: pipelines evaluate velocities, which there are at every time."""
        return False


class FlowScheduler:
    """One of our samplers as a diffusers scheduler: the pipeline evaluates the network, one call of `step` each.

    A step of the solver that takes several evaluations takes as many calls; `timesteps` lists them all, and a pipeline that edits
    the state should do so only where a solver's step ends (`order` calls apart). Velocities are noise - data, times run from
    1000 to 0, as there.

    Args:
        method: a single-step solver: euler, midpoint, rf_solver, heun or rk4.
        shift: time shift of the grid.

    Raises:
        ConfigError: another method.
    """

    init_noise_sigma = 1.0
    _ALLOWED = ("euler", "heun", "midpoint", "rf_solver", "rk4")

    def __init__(self, method: str = "euler", shift: float = 1.0) -> None:
        if method not in self._ALLOWED:
            raise ConfigError(f"FlowScheduler method is {method!r}; allowed: {', '.join(self._ALLOWED)}")
        self.config = SchedulerConfig(num_train_timesteps=1000, shift=shift)
        self._solve = solver(method)
        self.set_timesteps(1)

    @property
    def order(self) -> int:
        """Calls of `step` in one step of the solver."""
        return len(self._calls) // (len(self._grid) - 1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str = "cpu",
        *,
        sigmas: list[float] | None = None,
    ) -> None:
        """Start anew with a number of steps, or with noise levels that fall from at most 1 to 0 (a last 0 is added, no shift).

        Raises:
            ConfigError: both or neither, or levels that do not fall inside [0, 1].
        """
        if (num_inference_steps is None) == (sigmas is None):
            raise ConfigError("set_timesteps needs num_inference_steps or sigmas, one of them")
        if sigmas is not None:
            levels = torch.tensor(sigmas, dtype=torch.float64)
            grid = 1 - torch.cat([levels, levels.new_zeros(0 if float(levels[-1]) == 0 else 1)])
        else:
            grid = time_grid(num_inference_steps or 0, self.config.shift)
        self._grid = check_grid(grid)
        self._calls = [time for i in range(len(self._grid) - 1) for time in self._times_of(i)]
        scale = self.config.num_train_timesteps
        self.sigmas = torch.tensor([*(1 - time for time in self._calls), 1 - self._grid[-1]], device=device).float()
        self.timesteps = scale * self.sigmas[:-1]
        self.num_inference_steps = len(self._grid) - 1
        self._step = 0
        self._start: Tensor | None = None
        self._velocities: list[Tensor] = []

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **_: Any) -> Stepped:
        """Take one evaluation (noise - data, at the state last returned) and return the state to evaluate next.

        Raises:
            ConfigError: more calls than `timesteps` has entries.
        """
        if self._step == len(self._grid) - 1:
            raise ConfigError(
                f"all {len(self.timesteps)} timesteps are done; call set_timesteps before the next sample"
            )
        if self._start is None:
            self._start = sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample
        self._velocities.append(-model_output.to(self._start.dtype))
        try:
            after = self._replay(self._step, self._start, self._velocities)
        except _Asked as asked:
            after = asked.x
        else:
            self._step += 1
            self._start, self._velocities = None, []
        return Stepped(after.to(sample.dtype))

    def _replay(self, step: int, x: Tensor, velocities: list[Tensor]) -> Tensor:
        """Run the solver over one step on the velocities that are known."""
        end: Tensor = self._solve(_Known(velocities), x, self._grid[step : step + 2], Euclidean())
        return end

    def _times_of(self, step: int) -> list[float]:
        times: list[float] = []
        nothing = torch.zeros(1)
        while True:
            try:
                self._replay(step, nothing, [nothing] * len(times))
            except _Asked as asked:
                times.append(asked.time)
            else:
                return times
