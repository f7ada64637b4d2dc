"""What a domain tells the core. Training, sampling, reflow, evaluation and reports are written once, against this. Free of torch.

A domain package names its `DomainSpec` under the entry-point group `rectiflow.domains`; the spec is read without importing torch,
and its `implementation`, a `Domain`, is imported only when a verb runs.
"""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.errors import ConfigError, MissingDependency
from rectiflow.instantiation import instantiate
from rectiflow.records import Metric, Reference

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from rectiflow.batch import Batch, Cond, Mask, Shape, State
    from rectiflow.drawing import Drawn
    from rectiflow.flow import Draw, Flow
    from rectiflow.training.batches import Dataset
    from rectiflow.training.loop import Task

ENTRY_POINTS = "rectiflow.domains"


@dataclass(frozen=True)
class Verb:
    """A verb of a domain's own, with typed settings that the command line composes, prints (--help) and checks.

    Text is taken as it was typed, and a setting of type `list[str]` is given by repetition: `query="a dog" query=rain`.

    Attributes:
        function: "package.module:function" taking the spec and the configuration.
        settings: dataclass of what may be set; one that has `run` names the run whose configuration gives defaults.
        section: the section of that configuration which does.
        bare: the setting whose value may stand without its key.
    """

    function: str
    settings: type
    section: str = ""
    bare: str = ""


@dataclass(frozen=True)
class DomainSpec:
    """A domain as the command line sees it.

    Attributes:
        name: what is typed after the verb.
        summary: one line for `rectiflow domains`.
        implementation: "package.module:Class" of the `Domain`.
        recipes: package with the YAML recipes (`recipe=<name>` selects data, model and numbers that fit together).
        default_recipe: the recipe without a choice; it must train on embedded data, for `rectiflow demo`.
        groups: group -> option -> settings dataclass with a `_target_` of this package, at least for `data` and `model`; a group
            that the core does not know becomes a section of the configuration, chosen by the recipe like these.
        conditions: settings dataclass of what `rectiflow sample` may ask for (`cond.label=3`); None for no conditions.
        datasets: data set -> one line, fetchable by `rectiflow fetch`.
        fetcher: "package.module:function" that takes a data set's name and returns the folder it was put in.
        requires: import name -> extra that brings it, for `rectiflow doctor`.
        studies: what `rectiflow bench` can run, name -> "package.module:object", a `rectiflow.study.Study`.
        demo_runs: the two runs that `rectiflow demo` leaves, before and after, for benchmarks.
        peers: work that other libraries can do too, for `rectiflow bench peers`: what it is -> "package.module:function" taking a
            generator and returning a `rectiflow.benchmarking.contest.Contest`.
        lengths: condition -> values, of one that says how long a sample is, for `rectiflow bench scaling`.
        verbs: verbs that only this domain has, or does in a way of its own: name -> `Verb`, or "package.module:function" taking
            the arguments after the domain.
    """

    name: str
    summary: str
    implementation: str
    recipes: str
    default_recipe: str
    groups: Mapping[str, Mapping[str, type]]
    conditions: type | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    fetcher: str = ""
    requires: Mapping[str, str] = field(default_factory=dict)
    studies: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    demo_runs: tuple[str, str] = ("base", "rectified")
    verbs: Mapping[str, str | Verb] = field(default_factory=dict)

    @property
    def packages(self) -> tuple[str, ...]:
        """Top-level packages whose classes a configuration of this domain may name."""
        return tuple({self.implementation.split(".")[0].split(":")[0], self.recipes.split(".")[0]})


class Domain(ABC):
    """One domain, built from a run's configuration (`config.data`, `config.model`, …).

    A subclass is constructed with the run's configuration as its only argument and must do so cheaply: data are read when
    `dataset` is called.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """How the figures of `evaluate` are to be read; the first primary one is the headline."""

    @property
    def headline(self) -> str:
        """Name of the metric that stands for quality where domains are set side by side: the first primary one."""
        return next((metric for metric in self.metrics if metric.primary), self.metrics[0]).name

    @abstractmethod
    def dataset(self, split: str) -> Dataset:
        """The data of a split, "train" or "validation", collated to `Batch`es."""

    @abstractmethod
    def network(self, generator: torch.Generator) -> nn.Module:
        """A new network as `config.model` says, its weights drawn from `generator`."""

    @abstractmethod
    def flow(self, network: Callable[..., Any]) -> Flow:
        """The network read as a flow: its interpolant, prediction type, space, source and null conditions."""

    @abstractmethod
    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """Conditions (count, ...) to generate with: as asked for, else spread like the data; {} when there are none."""

    def teaching_conditions(self, count: int, generator: torch.Generator) -> Cond:
        """Conditions (count, ...) to make a teacher's pairs with; those of `conditions`, unless these are held out."""
        return self.conditions(count, generator)

    @abstractmethod
    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """Shape, batch axis included, of `count` states for these conditions."""

    def mask(self, cond: Cond) -> Mask:
        """What of the states with these conditions is data, where states of several sizes are padded; None: all of it."""
        return None

    @abstractmethod
    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """Write each sample as a file that a person can open, and return the files."""

    @abstractmethod
    def picture(self, x: State, cond: Cond) -> Image:
        """One picture of the samples, side by side in the given order, for progress and reports."""

    @abstractmethod
    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of generated samples; the names are those of `metrics`."""

    def measure(
        self, solve: Callable[[State, Cond], Drawn], x0: State, cond: Cond, seed: int
    ) -> tuple[Drawn, dict[str, float]]:
        """Samples of one sampler, carried from sources x0 (count, ...) by `solve`, and their figures.

        A domain whose samples act on what they are conditioned on next (a policy) runs its loop here: it calls `solve` with
        sources and conditions of its own, `count` times over, and takes all further chance from `seed`.
        """
        drawn = solve(x0, cond)
        return drawn, self.evaluate(drawn.x, cond)

    @abstractmethod
    def references(self, count: int, seed: int) -> list[Reference]:
        """The same figures at the same n for real data (the noise floor) and for something trivial (the baseline)."""

    def create(self, settings: Any, **arguments: Any) -> Any:
        """The object that a part of the configuration names by `_target_`: of this package, the core, torch.nn or torch.optim.

        Raises:
            ConfigError: another target, or settings that it does not take.
        """
        return instantiate(settings, [type(self).__module__.split(".")[0]], **arguments)

    def flow_of(self, network: Callable[..., Any], **traits: Any) -> Flow:
        """The network as a flow with the configuration's interpolant and prediction type; `traits` are further `Flow` fields.

        A run with a teacher was trained on stored pairs, and a coupling may tie x0 to x1: neither has a score. A run that
        never dropped its conditions knows no null condition, so it cannot be guided.
        """
        from rectiflow.flow import Flow

        config = self.config
        independent = not config.get("teacher") and self.create(config.coupling).independent
        interpolant = self.create(config.interpolant)
        if config.condition_drop == 0:
            traits["null"] = None
        return Flow(network, interpolant=interpolant, predicts=config.predicts, independent=independent, **traits)

    def view(self, x: State, cond: Cond) -> str | None:
        """A self-contained html page to look closer at the samples of a strip, or None; `report.html` shows it in a frame."""
        return None

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """How many samples a strip shows, and their conditions."""
        return 16, self.conditions(16, generator)

    def extra_loss(self, flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms beyond flow matching, name -> scalar; none by default."""
        return {}

    def quality(self, x: State, cond: Cond) -> Tensor:
        """Scores (count,) of samples, higher for better, by which the best of a teacher's pairs are kept.

        Raises:
            ConfigError: this domain has none.
        """
        raise ConfigError(f"{type(self).__name__} has no quality score to keep pairs by; use pairs.keep=1")

    def perceptual(self, x: State, target: State) -> Tensor:
        """Distance (count,) of samples and true data as a person sees it, through which a gradient flows to the samples.

        Few-step methods take it beside their own with `method.perceptual=true`.

        Raises:
            ConfigError: this domain has none.
        """
        raise ConfigError(f"{type(self).__name__} has no perceptual distance; use method.perceptual=null")

    def stage(self, name: str) -> tuple[Task, Dataset]:
        """What must be trained before the flow, by name: a task for the loop and its data.

        Raises:
            ConfigError: this domain has no such stage.
        """
        raise ConfigError(f"stage {name!r} is unknown to this domain; allowed: flow")


def installed() -> dict[str, EntryPoint]:
    """Entry points of the installed domains by name, in order of name."""
    return {point.name: point for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)}


def load_spec(name: str) -> DomainSpec:
    """The spec of an installed domain.

    Raises:
        ConfigError: no domain of that name, or its entry point is not a `DomainSpec`.
        MissingDependency: its package does not import.
    """
    points = installed()
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"domain {name!r} is unknown; installed: {', '.join(points) or 'none'}{hint}")
    try:
        spec = points[name].load()
    except ImportError as error:
        raise MissingDependency(
            f"domain {name!r} does not import: {error}; try pip install 'rectiflow[{name}]'"
        ) from error
    if not isinstance(spec, DomainSpec):
        raise ConfigError(
            f"entry point {points[name].value!r} of domain {name!r} is a {type(spec).__name__}; it must be a DomainSpec"
        )
    return spec


def build(spec: DomainSpec, config: Any) -> Domain:
    """The domain itself, for a run's configuration.

    Raises:
        MissingDependency: the implementation needs a package that is not installed.
    """
    implementation = load_object(spec.implementation, extra=spec.name)
    domain = implementation(config)
    if not isinstance(domain, Domain):
        raise ConfigError(
            f"{spec.implementation!r} is not a rectiflow.Domain; the spec of {spec.name!r} must name a subclass"
        )
    return domain


def load_object(path: str, *, extra: str) -> Any:
    """The object at "package.module:name".

    Raises:
        MissingDependency: the module does not import; the message names the pip extra.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{module} needs the package {error.name!r}, which is not installed; try pip install 'rectiflow[{extra}]'"
        ) from error
