"""Dispersive regularisation: inner features of a batch pushed apart, beside any method (arXiv 2506.09027)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.matching import ExtraLoss, no_extra_loss
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import ALONE, Method, Support

FORMS = ("infonce_l2", "infonce_cosine", "hinge", "covariance")


def dispersion(features: Tensor, form: str = "infonce_l2", *, temperature: float = 0.5, margin: float = 1.0) -> Tensor:
    """How close together the features of a batch are, a scalar: the less, the further apart.

    With D features a sample and d_ij = |h_i - h_j|^2 / D, over all pairs, i = j too, so that the logarithms are bounded:

    - infonce_l2: log mean exp(-d_ij / temperature), at most 0;
    - infonce_cosine: log mean exp(-(1 - cos(h_i, h_j)) / temperature), at most 0;
    - hinge: mean of max(0, margin - d_ij)^2 over i != j;
    - covariance: sum of the squared off-diagonal entries of the covariance of h / |h|.

    Args:
        features: (B, …), flattened a sample; B of at least 2.
        form: one of the four.
        temperature: above 0.
        margin: above 0.

    Raises:
        ConfigError: an unknown form, a number that is not above 0, or fewer than two samples.
    """
    if form not in FORMS:
        raise ConfigError(f"form of dispersion is {form!r}; allowed: {', '.join(FORMS)}")
    if not (temperature > 0 and margin > 0):
        raise ConfigError(f"dispersion has temperature {temperature} and margin {margin}; both must be above 0")
    if len(features) < 2:
        raise ConfigError(f"dispersion got {len(features)} sample; it needs at least 2 to push apart")
    h = features.flatten(1)
    if form == "covariance":
        unit = F.normalize(h, dim=1)
        centred = unit - unit.mean(0)
        covariance = centred.mT @ centred / len(h)
        return (covariance - torch.diag(covariance.diagonal())).square().sum()
    if form == "infonce_cosine":
        unit = F.normalize(h, dim=1)
        return _log_mean_exp((unit @ unit.mT - 1) / temperature)
    # Not by the expanded square, which loses small distances to rounding, and their gradient with them.
    distances = torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist").square() / h.shape[1]
    if form == "infonce_l2":
        return _log_mean_exp(-distances / temperature)
    other = ~torch.eye(len(h), dtype=torch.bool, device=h.device)
    return (margin - distances[other]).clamp(min=0).square().mean()


@dataclass(frozen=True)
class Dispersive(Method):
    """Another method plus `weight` times the mean dispersion of some inner features of the student.

    With MeanFlow and several layers it is DM1 (arXiv 2510.07865). Features are the outputs of modules, found by name, in all of
    the student's evaluations that carry a gradient.

    Args:
        base: the method; MeanFlow by default.
        layers: names of modules of the student's network as `named_modules` gives them, "middle.0" for example.
        weight: of the regularisation.
        form: infonce_l2 | infonce_cosine | hinge | covariance; see `dispersion`.
        temperature: of the first two.
        margin: of the third.
    """

    base: Method = field(default_factory=MeanFlow)
    layers: Sequence[str] = ()
    weight: float = 0.5
    form: Literal["infonce_l2", "infonce_cosine", "hinge", "covariance"] = "infonce_l2"
    temperature: float = 0.5
    margin: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise ConfigError(
                f"layers of Dispersive is {self.layers!r}; give a list with at least one name of a module"
            )
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"weight of Dispersive is {self.weight}; allowed: a finite number of at least 0")
        dispersion(torch.eye(2), self.form, temperature=self.temperature, margin=self.margin)

    @property
    def trains_on(self) -> Literal["data", "pairs"]:
        """What the other method does."""
        return self.base.trains_on

    @property
    def average(self) -> bool:
        """What the other method's student is."""
        return self.base.average

    @property
    def sampler(self) -> str:
        """The other method's."""
        return self.base.sampler

    def student(self, flow: Flow) -> Flow:
        """The other method's student."""
        return self.base.student(flow)

    def loss(
        self,
        flow: Flow,
        batch: Batch,
        generator: torch.Generator,
        extra: ExtraLoss = no_extra_loss,
        support: Support = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The other method's loss and the weighted dispersion.

        Raises:
            ConfigError: a layer that the network does not have, or that gave no tensor; and as the other method.
        """
        with recorded(flow.model, self.layers) as features:
            total, terms = self.base.loss(flow, batch, generator, extra, support)
        missing = [name for name in self.layers if name not in features]
        if missing:
            raise ConfigError(
                f"layer {missing[0]!r} gave no tensor with a gradient; choose a module that the loss passes"
            )
        spread = torch.stack(
            [
                dispersion(features[name], self.form, temperature=self.temperature, margin=self.margin)
                for name in self.layers
            ]
        ).mean()
        return total + self.weight * spread, {**terms, "dispersion": spread.detach()}


@contextmanager
def recorded(model: Any, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """A dict that fills, inside the `with` block, with the outputs of some modules at their calls with a gradient, row on row.

    Raises:
        ConfigError: a name that is no module's, or that fits several.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            value = forward_ad.unpack_dual(output).primal if isinstance(output, Tensor) else None  # type: ignore[no-untyped-call]
            if value is not None and value.requires_grad:
                found[name] = torch.cat([found[name], value]) if name in found else value

        return hook

    with ExitStack() as stack:
        for name in layers:
            handle = _module(model, name).register_forward_hook(keep(name))
            stack.callback(handle.remove)
        yield found


def _module(model: Any, name: str) -> nn.Module:
    """The module of that name; wrappers (Fabric, DDP) put theirs before it."""
    modules: dict[str, nn.Module] = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    fitting = [full for full in modules if full == name or full.endswith(f".{name}")]
    shortest = [full for full in fitting if full.count(".") == min(text.count(".") for text in fitting)]
    if len(shortest) != 1:
        some = ", ".join(text for text in list(modules)[1:9])
        seen = f"fits {', '.join(shortest)}" if shortest else "is no module of the network"
        raise ConfigError(f"layer {name!r} {seen}; names are those of named_modules(), for example {some or 'none'}")
    return modules[shortest[0]]


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values.flatten(), 0) - math.log(values.numel())
