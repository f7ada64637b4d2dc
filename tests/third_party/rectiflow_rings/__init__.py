"""A domain as a third party would write it: points on a ring and their height, as a product state with a source of its own."""

from dataclasses import dataclass

from rectiflow.domain import DomainSpec


@dataclass
class RingSettings:
    """Rings of one radius."""

    _target_: str = "rectiflow_rings.domain.ring"
    radius: float = 2.0


@dataclass
class PerceptronSettings:
    """A small perceptron."""

    _target_: str = "rectiflow_rings.domain.Perceptron"
    width: int = 64
    until: bool = False


SPEC = DomainSpec(
    name="rings",
    summary="points on a ring with a height",
    implementation="rectiflow_rings.domain:Rings",
    recipes="rectiflow_rings.conf",
    default_recipe="small",
    groups={"data": {"ring": RingSettings}, "model": {"perceptron": PerceptronSettings}},
)
