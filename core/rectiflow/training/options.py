"""The settings of a training run, free of torch so that the command line can read them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rectiflow.errors import ConfigError

CHOICES = {
    "optimizer": ("adamw", "muon"),
    "schedule": ("cosine", "constant"),
    # 16-mixed is absent: its loss scaler overflows on purpose, which the non-finite policy could not tell from a fault.
    "precision": ("32-true", "64-true", "bf16-mixed"),
    "accelerator": ("auto", "cpu", "cuda"),
    "strategy": ("auto", "ddp"),
    "nonfinite": ("raise", "skip"),
}
AT_LEAST_ONE = (
    "steps",
    "batch",
    "accumulate",
    "devices",
    "nodes",
    "max_skips",
    "checkpoint_every",
    "keep",
    "log_every",
)
AT_LEAST_ZERO = ("warmup", "seed", "preview_every", "workers")


@dataclass
class TrainingOptions:
    """How to train; a structured hydra config, so every field is a plain type.

    `batch` counts samples per process and micro-step; `accumulate` micro-steps make one optimiser step. `optimizer=muon` moves
    matrices by their orthogonalised momentum (`training.muon`): fewer steps, each of more work. `warmup` is in
    steps; the learning rate ends at `final_fraction` of its peak (cosine) or stays (constant). `clip` is the largest
    gradient norm, 0 for none. `ema` is the final decay per step. `preview_every=0` previews only at the end. `keep`
    checkpoints stay on disk.
    """

    steps: int = 1000
    batch: int = 128
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    warmup: int = 100
    schedule: str = "cosine"
    final_fraction: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    seed: int = 0
    nonfinite: str = "raise"
    max_skips: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 50
    preview_every: int = 0
    workers: int = 0
    compile: bool = False
    tensorboard: bool = True

    def validate(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is outside its range; the message names the key, the value and the range.
        """
        for name in AT_LEAST_ONE:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")
        for name in AT_LEAST_ZERO:
            _require(name, getattr(self, name), getattr(self, name) >= 0, "an integer of at least 0")
        for name, allowed in CHOICES.items():
            _require(name, getattr(self, name), getattr(self, name) in allowed, "one of " + ", ".join(allowed))
        for name in ("weight_decay", "clip"):
            value = getattr(self, name)
            _require(name, value, math.isfinite(value) and value >= 0, "a finite number of at least 0")
        _require(
            "learning_rate",
            self.learning_rate,
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "a finite number above 0",
        )
        _require("final_fraction", self.final_fraction, 0 <= self.final_fraction <= 1, "a number in [0, 1]")
        _require("ema", self.ema, 0 <= self.ema < 1, "a number in [0, 1)")
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require("betas", list(self.betas), betas_fit, "two numbers in [0, 1)")


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"training.{name}={value} is not allowed: it must be {allowed}; change it and start again.")
