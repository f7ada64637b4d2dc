"""The typed settings of every verb: what may be written on the command line, with its defaults. Free of torch.

Groups (data, model, interpolant, times, coupling) hold objects named by `_target_`; the core registers its own options here and
a domain adds its own through `DomainSpec.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rectiflow.rectify.settings import MeanFlowSettings
from rectiflow.training.options import TrainingOptions


@dataclass
class LinearSettings:
    """The straight path."""

    _target_: str = "rectiflow.interpolants.Linear"


@dataclass
class TrigonometricSettings:
    """The variance-preserving path."""

    _target_: str = "rectiflow.interpolants.Trigonometric"


@dataclass
class PolynomialSettings:
    """Straight, and slow to leave the noise for power > 1."""

    _target_: str = "rectiflow.interpolants.Polynomial"
    power: float = 2.0


@dataclass
class VariancePreservingSettings:
    """The diffusion path with a linear noise rate."""

    _target_: str = "rectiflow.interpolants.VariancePreserving"
    beta_min: float = 0.1
    beta_max: float = 20.0


@dataclass
class SubVariancePreservingSettings:
    """The diffusion path with less noise at the same rate."""

    _target_: str = "rectiflow.interpolants.SubVariancePreserving"
    beta_min: float = 0.1
    beta_max: float = 20.0


@dataclass
class LinearVariancePreservingSettings:
    """a = t with the variance kept."""

    _target_: str = "rectiflow.interpolants.LinearVariancePreserving"


@dataclass
class LipmanSettings:
    """The straight path that leaves a little noise on data."""

    _target_: str = "rectiflow.interpolants.Lipman"
    sigma_min: float = 1e-5


@dataclass
class StochasticSettings:
    """A path with latent noise, trained on antithetic pairs: each step sees twice the batch."""

    _target_: str = "rectiflow.stochastic_interpolant.StochasticInterpolant"
    base: Any = field(default_factory=lambda: {"_target_": "rectiflow.interpolants.Linear"})
    latent: Any = field(default_factory=lambda: {"_target_": "rectiflow.stochastic_interpolant.BrownianLatent"})
    preserving: bool = False
    antithetic: bool = True


@dataclass
class UniformSettings:
    """t ~ U(0, 1)."""

    _target_: str = "rectiflow.times.Uniform"


@dataclass
class LogitNormalSettings:
    """t = sigmoid(mean + std n), a share `uniform` of the draws from U(0, 1), without which one-step samplers suffer."""

    _target_: str = "rectiflow.times.LogitNormal"
    mean: float = 0.0
    std: float = 1.0
    uniform: float = 0.1


@dataclass
class UShapedSettings:
    """Weight on both ends; for training on stored pairs."""

    _target_: str = "rectiflow.times.UShaped"
    sharpness: float = 4.0


@dataclass
class ModeSettings:
    """Weight in the middle for scale > 0."""

    _target_: str = "rectiflow.times.Mode"
    scale: float = 1.29


@dataclass
class IndependentSettings:
    """Noise and data paired as they come."""

    _target_: str = "rectiflow.couplings.Independent"


@dataclass
class MinibatchOTSettings:
    """Noise and data paired by exact optimal transport inside the batch."""

    _target_: str = "rectiflow.couplings.MinibatchOT"
    condition_weight: float = float("inf")


@dataclass
class AlignedOTSettings:
    """The same for sets of points in space, each noise set turned onto its data."""

    _target_: str = "rectiflow.couplings.AlignedOT"
    points: str = "translations"
    frames: str | None = "rotations"
    condition_weight: float = float("inf")


@dataclass
class EntropicOTSettings:
    """Noise and data paired at random, by the entropic transport plan of the batch."""

    _target_: str = "rectiflow.couplings.EntropicOT"
    regularisation: float = 0.05
    relative: bool = True
    replacement: bool = True
    condition_weight: float = float("inf")
    tolerance: float = 1e-6
    max_iterations: int = 1000


@dataclass
class UnbalancedOTSettings:
    """The same, with data rows that are far from all noise drawn seldom."""

    _target_: str = "rectiflow.couplings.UnbalancedOT"
    data_penalty: float = 1.0
    source_penalty: float = float("inf")
    regularisation: float = 0.05
    relative: bool = True
    condition_weight: float = float("inf")
    tolerance: float = 1e-6
    max_iterations: int = 1000


@dataclass
class PartialOTSettings:
    """Exact optimal transport of the share of the batch that is cheapest to pair."""

    _target_: str = "rectiflow.couplings.PartialOT"
    share: float = 0.9
    condition_weight: float = float("inf")


@dataclass
class SchroedingerBridgeSettings:
    """Ends of a Schroedinger bridge with reference noise sigma."""

    _target_: str = "rectiflow.couplings.SchroedingerBridge"
    sigma: float = 1.0
    condition_weight: float = float("inf")
    tolerance: float = 1e-6
    max_iterations: int = 1000


@dataclass
class RowPermutationSettings:
    """Rows of each noise set matched to the rows of its data set, by the component `by` where there are several."""

    _target_: str = "rectiflow.couplings.RowPermutation"
    by: str | None = None


CORE_GROUPS: dict[str, dict[str, type]] = {
    "interpolant": {
        "linear": LinearSettings,
        "trigonometric": TrigonometricSettings,
        "polynomial": PolynomialSettings,
        "variance_preserving": VariancePreservingSettings,
        "sub_variance_preserving": SubVariancePreservingSettings,
        "linear_variance_preserving": LinearVariancePreservingSettings,
        "lipman": LipmanSettings,
        "stochastic": StochasticSettings,
    },
    "times": {
        "uniform": UniformSettings,
        "logit_normal": LogitNormalSettings,
        "u_shaped": UShapedSettings,
        "mode": ModeSettings,
    },
    "coupling": {
        "independent": IndependentSettings,
        "minibatch_ot": MinibatchOTSettings,
        "aligned_ot": AlignedOTSettings,
        "entropic_ot": EntropicOTSettings,
        "unbalanced_ot": UnbalancedOTSettings,
        "partial_ot": PartialOTSettings,
        "schroedinger_bridge": SchroedingerBridgeSettings,
        "row_permutation": RowPermutationSettings,
    },
}


@dataclass
class SamplingSettings:
    """How samples are drawn unless a verb says otherwise; `method` is a solver's name, or boss.

    An adaptive method leaves `steps` unused and takes `rtol`, `atol` and `max_nfe`, the most evaluations that it may spend.
    `exponential` puts components of a state on schedules of their own, by name and rate, with method ddim: for example
    `exponential.rotations=10` (rectiflow.schedules); the network must predict data.
    """

    method: str = "euler"
    steps: int = 20
    guidance: float = 1.0
    shift: float = 1.0
    rtol: float | None = None
    atol: float | None = None
    max_nfe: int | None = None
    exponential: dict[str, float] = field(default_factory=dict)


@dataclass
class EvaluationSettings:
    """What `evaluate` measures; `exponential` as for sampling.

    Figures are of `count` samples, straightness and transport cost of the paths of `paths` of them.
    Each sampler is written method-steps, for example euler-10; an adaptive one stands alone or with what rtol and atol both are,
    dopri5 or dopri5-1e-3, and may spend `max_nfe` evaluations.
    """

    samplers: list[str] = field(default_factory=lambda: ["euler-1", "euler-2", "euler-4", "euler-10", "midpoint-20"])
    count: int = 1000
    paths: int = 256
    batch: int = 500
    guidance: float = 1.0
    seed: int = 1
    max_nfe: int | None = None
    exponential: dict[str, float] = field(default_factory=dict)


@dataclass
class ReflowSettings:
    """How pairs are made from the teacher, and how the student is trained on them.

    `fresh` starts the student from new weights; by default it starts from the teacher's. `condition_drop` is 0 because a
    pair's sample follows from its noise *and* its condition: without the latter the student can only blur, and the share of
    steps is lost. Give the guidance to the teacher instead. Its `exponential`, `rtol`, `atol` and `max_nfe` are as for sampling;
    `student_exponential` is the schedule that the student is sampled and evaluated on. By default that is none: its paths are the
    pairs' own, whatever schedule they were made on.
    """

    pairs: int = 10000
    method: str = "midpoint"
    steps: int = 12
    guidance: float = 1.0
    rtol: float | None = None
    atol: float | None = None
    max_nfe: int | None = None
    exponential: dict[str, float] = field(default_factory=dict)
    student_exponential: dict[str, float] = field(default_factory=dict)
    pair_batch: int = 500
    seed: int = 1
    fresh: bool = False
    condition_drop: float = 0.0
    times: Any = MISSING
    training: TrainingOptions = field(default_factory=TrainingOptions)


@dataclass
class TrainSettings:
    """`rectiflow train`: the run, what it learns from, and how."""

    defaults: list[Any] = field(
        default_factory=lambda: [
            {"interpolant": "linear"},
            {"times": "uniform"},
            {"times@reflow.times": "uniform"},
            {"coupling": "independent"},
            "_self_",
        ]
    )
    domain: str = MISSING
    name: str = "base"
    out: str = "runs"
    stage: str = "flow"
    data: Any = MISSING
    model: Any = MISSING
    interpolant: Any = MISSING
    times: Any = MISSING
    coupling: Any = MISSING
    predicts: str = "velocity"
    condition_drop: float = 0.1
    weight: str = "plain"
    weight_margin: float = 1e-3
    training: TrainingOptions = field(default_factory=TrainingOptions)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    reflow: ReflowSettings = field(default_factory=ReflowSettings)


@dataclass
class ReflowVerbSettings(ReflowSettings):
    """`rectiflow reflow`: a new run, rectified from `run`; what is not given comes from that run's own reflow settings."""

    run: str = MISSING
    name: str = "rectified"
    out: str = "runs"


@dataclass
class PairsSettings:
    """How pairs are made from a teacher, for methods that train on them; `folder` holds those of another run to use instead.

    `keep` is the share of them that is kept, the best by the domain's quality score; `real` the share of training data, each
    sample with the noise that it is carried back to, among what is trained on.
    """

    count: int = 10000
    method: str = "midpoint"
    steps: int = 12
    guidance: float = 1.0
    exponential: dict[str, float] = field(default_factory=dict)
    batch: int = 500
    seed: int = 1
    folder: str = ""
    keep: float = 1.0
    real: float = 0.0


@dataclass
class DistillSettings:
    """`rectiflow distill`: a new run, a few-step student of `run` by `method`.

    What is not given comes from that run: its network, and pairs and training from its reflow settings. `fresh` starts the
    student from new weights, as another `model` needs; by default it starts from the teacher's. `guidance_range`, for example
    [1,4], makes the scale of guidance an input of the student, which then has any scale of that range at one evaluation a
    step; each pair is made at a scale of its own, whatever `pairs.guidance` says.
    """

    run: str = MISSING
    name: str = "distilled"
    out: str = "runs"
    method: Any = field(default_factory=MeanFlowSettings)
    fresh: bool = False
    guidance_range: list[float] = field(default_factory=list)
    model: Any = MISSING
    pairs: PairsSettings = field(default_factory=PairsSettings)
    training: TrainingOptions = field(default_factory=TrainingOptions)


@dataclass
class SampleSettings(SamplingSettings):
    """`rectiflow sample`: artefacts drawn from a run; `cond` asks for particular conditions, `out` is a folder."""

    run: str = MISSING
    count: int = 64
    batch: int = 500
    seed: int = 0
    weights: str = "ema"
    out: str = ""
    cond: Any = field(default_factory=dict)


@dataclass
class EvaluateSettings(EvaluationSettings):
    """`rectiflow evaluate`: quality of a run for each sampler, against the noise floor and a trivial baseline."""

    run: str = MISSING
    weights: str = "ema"


@dataclass
class DemoSettings:
    """`rectiflow demo`: train, rectify, evaluate both and write the report, from embedded data."""

    name: str = "demo"
    out: str = "runs"
    recipe: str = ""


@dataclass
class BenchSettings:
    """`rectiflow bench <study>`: students by many methods from one teacher, measured side by side.

    `updates` of each student and `pairs` of the teacher make the budget, by default two evaluations of the teacher for each of
    128 samples of 1500 updates, or 24 for each of 16000 pairs, which no student exceeds but for BOSS's grid. `methods` is a
    choice of the study's entries (all by default), `teacher` settings of its training, `jobs` how many processes of one thread
    work at a time.
    """

    name: str = "few-step"
    out: str = "runs"
    updates: int = 1500
    pairs: int = 16000
    count: int = 1440
    jobs: int = 2
    methods: list[str] = field(default_factory=list)
    teacher: list[str] = field(default_factory=list)
