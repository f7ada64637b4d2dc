"""What may be set for robotics: demonstrations, policies and verbs, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class ExpertSettings:
    """`episodes` successful demonstrations of `env` by its scripted expert, collected once and kept in the cache.

    A policy acts in chunks of `chunk` actions.
    """

    _target_: str = "rectiflow_robotics.collecting.from_expert"
    env: str = "push-v3"
    episodes: int = 10
    seed: int = 0
    chunk: int = 4


@dataclass
class PointSettings(ExpertSettings):
    """The same for the point in the plane, which needs no simulator."""

    env: str = "point-reach"
    episodes: int = 20


@dataclass
class FileSettings:
    """Demonstrations of `env` out of an npz file (`rectiflow collect`)."""

    _target_: str = "rectiflow_robotics.demonstrations.from_file"
    env: str = MISSING
    path: str = MISSING
    chunk: int = 4


@dataclass
class PerceptronSettings:
    """Residual perceptron over chunk, time and observation."""

    _target_: str = "rectiflow_robotics.policies.PolicyNetwork"
    width: int = 256
    depth: int = 3
    frequencies: int = 32
    until: bool = False


@dataclass
class VisionSettings(PerceptronSettings):
    """The same on pictures: one transformer layer over patches of `patch` pixels before it."""

    patch: int = 8
    tokens: int = 64


@dataclass
class ObservationSettings:
    """What a chunk answers: an observation, a list of numbers, or several; by default observations of the demonstrations."""

    observation: Any = None


@dataclass
class CollectSettings:
    """`rectiflow collect robotics`: demonstrations of an environment by its scripted expert, as one npz with its provenance.

    `noise` is the standard deviation of what is added to the expert's actions while it acts (its own action is what is stored);
    `out` a folder, the cache by default. Locomotion has no scripted expert: a policy is trained until its episodes return
    `expert_return` (what who stands still returns in Hopper and Walker2d), for at most `expert_steps`
    environment steps, and its episodes are stored.
    """

    env: str = "push-v3"
    episodes: int = 10
    seed: int = 0
    noise: float = 0.0
    expert_return: float = 1000.0
    expert_steps: int = 60_000
    out: str = ""


@dataclass
class VideoSettings:
    """`rectiflow video robotics`: a success and a failure of a run's policy as MP4; `out` is a folder, the run's by default."""

    run: str = MISSING
    method: str = "euler"
    steps: int = 1
    weights: str = "ema"
    episodes: int = 20
    seed: int = 1
    size: int = 320
    out: str = ""


@dataclass
class DemoSettings:
    """`rectiflow demo robotics`: clone a recipe's demonstrations, fine-tune the policy, film it before and after.

    Cloning stops after `steps`, early, at about a third of successes, so that something is left to learn, as the published
    experiments do; fine-tuning goes on for `iterations` in a simulation of `workers` processes, with episodes of `limit` steps,
    twice what an expert needs: what has not succeeded by then tells little.
    """

    name: str = "demo"
    out: str = "runs"
    recipe: str = ""
    steps: int = 350
    iterations: int = 50
    limit: int = 100
    workers: int = 2


DATA: dict[str, type] = {"expert": ExpertSettings, "point": PointSettings, "file": FileSettings}
MODELS: dict[str, type] = {"perceptron": PerceptronSettings, "vision": VisionSettings}
