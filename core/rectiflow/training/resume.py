"""What a run must remember to go on as if it had never stopped, taken from it and given back to it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.errors import ConfigError
from rectiflow.training.checkpoint import Checkpoint
from rectiflow.training.ema import EMA
from rectiflow.training.randomness import restore_global_states


@dataclass
class Progress:
    """How far a run is: steps done, running mean of the loss, updates skipped (ever, and in a row), seconds spent."""

    step: int = 0
    loss: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0

    def add_loss(self, loss: float) -> None:
        """Fold a step's loss in: the mean over the first 50 steps, then an average with decay 0.98 per step."""
        decay = min(0.98, self.step / (self.step + 1))
        self.loss = decay * self.loss + (1.0 - decay) * loss


def capture(
    network: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Mapping[str, int],
    states: list[dict[str, Any]],
    config: str,
) -> Checkpoint:
    """A checkpoint of the run; `identity` is what may not change on a resume, `states` the ranks' global generators."""
    state = {
        "optimizer": optimizer.state_dict(),
        "ema_updates": ema.updates,
        "progress": asdict(progress),
        "identity": dict(identity),
        "global_states": states,
    }
    return Checkpoint(
        progress.step, network.state_dict(), ema.state_dict(), state, config, dict(identity) | _versions()
    )


def restore(
    checkpoint: Checkpoint,
    network: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, int],
    rank: int,
    device: torch.device,
) -> Progress:
    """Bring a run, freshly built, to where the checkpoint was taken.

    Raises:
        ConfigError: the number of processes, the batch, the seed, the data's size or the network is another one.
    """
    for name, value in identity.items():
        stored = checkpoint.state["identity"][name]
        if stored != value:
            raise ConfigError(
                f"cannot resume at step {checkpoint.step}: {name} is {value}, the run was started with {stored}; "
                f"set it back to {stored}, or start a new run."
            )
    _check_fit(checkpoint.model, network.state_dict())
    network.load_state_dict(checkpoint.model)
    ema.load_state_dict(checkpoint.ema, checkpoint.state["ema_updates"])
    hyperparameters = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    # Moments come from the checkpoint; learning rate, decay and the like from today's options.
    for group, today in zip(optimizer.param_groups, hyperparameters, strict=True):
        group.update(today)
    restore_global_states(checkpoint.state["global_states"][rank], device)
    return Progress(**checkpoint.state["progress"])


def _check_fit(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        seen = tuple(stored[name].shape) if name in stored else "absent"
        needed = tuple(wanted[name].shape) if name in wanted else "absent"
        if seen != needed:
            raise ConfigError(
                f"cannot resume: {name} is {seen} in the checkpoint and {needed} in the network; "
                "use the model settings the run was started with, or start a new run."
            )


def _versions() -> dict[str, str]:
    try:
        own = version("rectiflow")
    except PackageNotFoundError:
        own = "unknown"
    return {"rectiflow": own, "torch": torch.__version__, "python": platform.python_version(), "git": _git_commit()}


def _git_commit() -> str:
    """Commit of a source checkout, empty for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
