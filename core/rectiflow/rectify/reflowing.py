"""Reflow: train on the flow's own (source, sample) pairs, which makes its paths straight (arXiv 2209.03003)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import FlowMatching
from rectiflow.rectify.selection import Pairs
from rectiflow.times import TimeLaw, Uniform
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions


def reflow(
    flow: Flow,
    pairs: Pairs,
    *,
    options: TrainingOptions | None = None,
    times: TimeLaw | None = None,
    student: nn.Module | None = None,
    condition_drop: float = 0.0,
    folder: Path | None = None,
) -> Flow:
    """The rectified flow: a student trained on stored pairs of a teacher.

    Args:
        flow: the teacher that made the pairs; the student keeps its path, space and prediction type.
        pairs: see `generate_pairs`; or a `Selection` or `Mixture` of such stores.
        options: training settings.
        times: law of training times; uniform by default.
        student: network to train; a copy of the teacher's by default.
        condition_drop: probability of training a pair without its conditions.
        folder: run folder with logs and checkpoints; None writes nothing.

    Returns:
        The student's flow on averaged weights, in evaluation mode, marked as coupled (it has no score).

    Raises:
        ConfigError: the teacher's model is not a module and no student is given; else see `fit`.
    """
    if student is None:
        if not isinstance(flow.model, nn.Module):
            raise ConfigError(
                f"reflow got a flow on a {type(flow.model).__name__}; give student=<a torch module> to train"
            )
        student = copy.deepcopy(flow.model)
    student.train().requires_grad_(True)
    method = FlowMatching(times=times or Uniform(), condition_drop=condition_drop)
    fitted = fit(_PairTask(flow, student, method), pairs, options or TrainingOptions(), folder=folder)
    student.load_state_dict(fitted.ema)
    return replace(flow, model=student.eval().requires_grad_(False), independent=False)


@dataclass
class _PairTask:
    """Regression of a student on stored pairs, for flows without a domain."""

    teacher: Flow
    network: nn.Module
    method: FlowMatching

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of pairs."""
        return self.method.loss(replace(self.teacher, model=network, independent=False), batch, generator)

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Nothing to show without a domain."""
        return {}
