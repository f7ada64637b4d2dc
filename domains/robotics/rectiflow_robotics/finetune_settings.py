"""What may be set for `rectiflow finetune robotics`, with its defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

IMITATING = {
    "average": "0.7",
    "warm_up": "1",
    "ppo.target_kl": "1.6",
    "ppo.final_kl": "0.8",
    "ppo.epochs": "8",
    "imitation.weight": "3",
}
"""What fits a policy that imitates its own successes: larger updates, and less averaging."""


@dataclass
class NoiseSettings:
    """Bounds of the exploration noise of each denoising step, in units of actions; `schedule` lowers the upper one late."""

    low: float = 0.15
    high: float = 0.3
    learnt: bool = True
    schedule: bool = False


@dataclass
class CreditSettings:
    """Discount of an environment step, and lambda per chunk.

    A low lambda trusts the critic: with a sparse reward the noise of what comes later hides what a chunk did.
    """

    discount: float = 0.99
    trace: float = 0.6


@dataclass
class PPOSettings:
    """How an update goes; it may move the true denoising chain by `target_kl` nats, `final_kl` at the end of a run.

    `epochs` are the policy's passes over a rollout, `critic_epochs` the critic's.
    """

    epochs: int = 4
    critic_epochs: int = 4
    minibatch: int = 320
    target_kl: float = 0.3
    final_kl: float = 0.05
    adaptive: bool = True
    entropy: float = 0.0
    anchor: float = 0.0
    grad_clip: float = 1.0
    advantage_clip: float = 2.0


@dataclass
class ImitationSettings:
    """Weight of the policy's distance, in nats, from its own successes, of which the last `capacity` chunks are kept."""

    weight: float = 0.0
    capacity: int = 6000


@dataclass
class ReinFlowSettings:
    """Clip of the chain's likelihood ratio (`reduction` sum) or of its root per element (mean, the published form)."""

    clip: float = 0.4
    reduction: str = "sum"


@dataclass
class DPPOSettings:
    """Clips of the ratios of the first and the last denoising step, and the discount of a step."""

    first: float = 0.05
    last: float = 0.2
    discount: float = 0.99


@dataclass
class FQLSettings:
    """Weight `alpha` of staying close to the cloned flow, and the rest of an off-policy learner.

    `updates` is how many gradient steps an environment chunk is worth; `capacity` what the replay buffer holds, in chunks.
    """

    alpha: float = 10.0
    rate: float = 3e-4
    batch: int = 256
    tau: float = 0.005
    flow_steps: int = 10
    updates: float = 0.25
    capacity: int = 200_000


@dataclass
class FinetuneSettings:
    """`rectiflow finetune robotics`: a new run, the policy of `run` improved by what it does in the simulator.

    - `algorithm` is reinflow, dppo (a ratio for every denoising step) or fql (off-policy, one step, k=1 only).
    - An iteration is `chunks` chunks of actions in each of `envs` environments; the first `warm_up` teach the critic alone.
    - `workers` processes simulate, 0 for this one alone; episodes are the same.
    - What is judged and kept is the mean of the policy over the last iterations, with decay `average` an iteration; 0 for the
      policy as it is. An update follows the noise of its rollout more than its signal, and the mean has less of it.
    - Every `evaluate_every` iterations the policy plays `episodes` held-out episodes without noise. The best is kept (as "ema"
      weights; "model" are the last), and the run stops where it falls behind the best by more than chance, twice in a row.
    - At the end the policy before and the best one play the same `final_episodes` fresh episodes.
    - Every `restart_every` iterations all episodes begin anew, where what was not ended counts by the critic. A checkpoint, every
      `checkpoint_every` iterations, falls on such a place, so that a resumed run repeats an uninterrupted one bit for bit.
    """

    run: str = MISSING
    name: str = "finetuned"
    out: str = "runs"
    weights: str = "ema"
    algorithm: str = "reinflow"
    k: int = 1
    seed: int = 0
    iterations: int = 100
    envs: int = 32
    chunks: int = 50
    workers: int = 0
    reward: str = "sparse"
    limit: int | None = None
    warm_up: int = 3
    average: float = 0.9
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    clamp: float | None = None
    evaluate_every: int = 10
    episodes: int = 60
    final_episodes: int = 100
    restart_every: int = 1
    checkpoint_every: int = 5
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    credit: CreditSettings = field(default_factory=CreditSettings)
    ppo: PPOSettings = field(default_factory=PPOSettings)
    imitation: ImitationSettings = field(default_factory=ImitationSettings)
    reinflow: ReinFlowSettings = field(default_factory=ReinFlowSettings)
    dppo: DPPOSettings = field(default_factory=DPPOSettings)
    fql: FQLSettings = field(default_factory=FQLSettings)
