"""ReinFlow's objective: one likelihood ratio for the whole denoising chain of a chunk (arXiv 2505.22094)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_robotics.chain import Path
from rectiflow_robotics.ppo import Surrogate, clipped_surrogate

REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True)
class ReinFlow:
    """PPO's clip on the ratio of chains x_0 … x_K.

    Args:
        clip: eps, on the ratio that `reduction` gives.
        reduction: sum, the chain's likelihood ratio itself (eps 0.2 to 0.4); or mean, its root of order
            (K + 1) actions components, the published form (eps 0.01): at K = 4 with 16 numbers a chunk that lets the true ratio
            move by e^0.8.

    Raises:
        ConfigError: another reduction, or a clip outside (0, 1).
    """

    clip: float = 0.4
    reduction: str = "sum"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ConfigError(f"reduction={self.reduction!r} is unknown; allowed: {', '.join(REDUCTIONS)}")
        if not 0 < self.clip < 1:
            raise ConfigError(f"clip={self.clip:g} is not allowed: it must lie between 0 and 1")

    def __call__(self, old: Path, new: Path, advantages: Tensor) -> Surrogate:
        """The clipped surrogate of chains under their present laws."""
        log_ratio = new.log_prob() - old.log_prob()
        if self.reduction == "mean":
            log_ratio = log_ratio / old.elements()
        return clipped_surrogate(log_ratio, advantages, self.clip)
