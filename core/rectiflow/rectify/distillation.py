"""Distillation: a student trained from a flow by any method."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rectiflow.batch import Batch, batch_size, device_of
from rectiflow.control.guidance import SCALE
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, FlowTask, no_extra_loss
from rectiflow.nn.modes import evaluating
from rectiflow.rectify.counting import CountedModel
from rectiflow.rectify.guidance_condition import Scales, draw_scales, guided_student, guided_teacher
from rectiflow.rectify.method import Method, Support
from rectiflow.rectify.mixture import Mixture
from rectiflow.rectify.pairs import PairStore
from rectiflow.rectify.selection import Selection
from rectiflow.training.batches import Dataset
from rectiflow.training.ema import EMA
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow.training.resume import Progress

EVALUATIONS = "teacher_evaluations"
"""Name of the term that counts them, in the metrics of a run."""


def distill(
    flow: Flow,
    data: Dataset,
    *,
    method: Method,
    options: TrainingOptions | None = None,
    student: nn.Module | None = None,
    guidance_range: Scales | None = None,
    folder: Path | None = None,
) -> Flow:
    """A few-step student of a flow.

    Args:
        flow: the teacher; the student keeps its path, space, source and prediction type.
        data: what the method trains on: real data, or a `PairStore` of the teacher, which serves either kind.
        method: how, for example `rf.rectify.MeanFlow()`.
        options: training settings.
        student: network to train; a copy of the teacher's by default.
        guidance_range: scales of classifier-free guidance that the student takes as an input, `model(x, t, guidance=w, **cond)`;
            pairs must hold theirs (`with_scales`).
        folder: run folder with logs and checkpoints; None writes nothing.

    Returns:
        The student's flow on averaged weights, in evaluation mode; it has no score, and takes no guidance but that of its range.

    Raises:
        ConfigError: data instead of pairs, no network to train, or one without a second time where the method needs it; else
            see the method's loss and `fit`.
    """
    name = type(method).__name__
    if method.trains_on == "pairs" and not isinstance(data, (PairStore, Selection, Mixture)):
        raise ConfigError(f"{name} trains on pairs; got a {type(data).__name__}: give the store of `generate_pairs`")
    if student is None:
        if not isinstance(flow.model, nn.Module):
            raise ConfigError(
                f"distill got a flow on a {type(flow.model).__name__}; give student=<a torch module> to train"
            )
        student = copy.deepcopy(flow.model)
    if method.average and not {"until", "cond"} & set(inspect.signature(student.forward).parameters):
        raise ConfigError(
            f"{name} trains average velocities, model(x, t, until=r); {type(student).__name__} takes no `until`: "
            "give a student= that does"
        )
    student.train().requires_grad_(True)
    options = options or TrainingOptions()
    task = _PlainTask(flow, Distillation(flow, method, options.steps, guidance_range), student)
    with evaluating(flow.model):
        fitted = fit(task, data, options, folder=folder)
    student.load_state_dict(fitted.ema)
    return guided_student(method, replace(flow, model=student.eval().requires_grad_(False)), guidance_range)


@dataclass
class Distillation:
    """A method at work: it hands the method the teacher, the averaged student and the step, which the loop keeps.

    With a range of guidance scales each sample has its own, and the teacher is guided at it. `teacher_evaluations` among the
    terms says at how many samples the teacher was evaluated for a batch.
    """

    teacher: Flow
    method: Method
    steps: int
    guidance_range: Scales | None = None
    _average: nn.Module | None = field(default=None, init=False, repr=False)
    _progress: Progress = field(default_factory=Progress, init=False, repr=False)
    _counted: CountedModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._counted = CountedModel(self.teacher.model)
        self.teacher = guided_teacher(replace(self.teacher, model=self._counted), self.guidance_range)

    def student(self, flow: Flow) -> Flow:
        """The flow of a student's network as what it is trained to be."""
        return guided_student(self.method, flow, self.guidance_range)

    def follow(self, ema: EMA, progress: Progress) -> None:
        """Look at a run's average and progress from now on."""
        self._average, self._progress = ema.network(), progress

    def loss(
        self, flow: Flow, batch: Batch, generator: torch.Generator, extra: ExtraLoss = no_extra_loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss of a batch for the student's flow."""
        average = None if self._average is None else replace(flow, model=self._average)
        support = Support(self.teacher, average, self._progress.step, self.steps)
        before = self._counted.samples
        total, terms = self.method.loss(flow, self._scaled(batch, generator), generator, extra, support)
        evaluations = torch.tensor(float(self._counted.samples - before))
        return total, {**terms, EVALUATIONS: evaluations} if evaluations else terms

    def _scaled(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with a guidance scale a sample, where the student takes one."""
        if self.guidance_range is None or SCALE in batch.cond:
            return batch
        if self.method.trains_on == "pairs":
            raise ConfigError(
                "the pairs do not say which guidance scale each was made with, which this student takes as an input; "
                "make them with scales (`with_scales`)"
            )
        scales = draw_scales(batch_size(batch.x1), self.guidance_range, generator, device_of(batch.x1))
        return replace(batch, cond={**batch.cond, SCALE: scales})


@dataclass
class StudentTask(FlowTask):
    """Distillation of a domain's flow: as flow matching, but that the network is read as the method's student."""

    method: Distillation

    def follow(self, ema: EMA, progress: Progress) -> None:
        """As `Distillation.follow`."""
        self.method.follow(ema, progress)

    def read(self, network: nn.Module) -> Flow:
        """The method's student."""
        return self.method.student(self.domain.flow(network))


@dataclass
class _PlainTask:
    """Distillation of flows without a domain."""

    flow: Flow
    distillation: Distillation
    network: nn.Module

    def follow(self, ema: EMA, progress: Progress) -> None:
        """As `Distillation.follow`."""
        self.distillation.follow(ema, progress)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch."""
        flow = self.distillation.student(replace(self.flow, model=network))
        return self.distillation.loss(flow, batch, generator)

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Nothing to show without a domain."""
        return {}
