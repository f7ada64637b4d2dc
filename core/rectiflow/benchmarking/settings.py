"""Settings of the core's studies. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DomainsSettings:
    """`rectiflow bench domains`: every domain's demo before and after rectification, by solver and number of evaluations.

    `domains` are all installed ones by default; `runs` names, for a domain, a folder with its demo's two runs or one rectified
    run, whose teacher is found, in place of out/<domain>/demo. `flows` are base and rectified; `methods` are solvers, boss
    (Euler's method on the grid of least error) and own (what the run itself samples with). `samples` (0: what the run is
    evaluated with) are drawn from the same noise in every cell, in batches of the run's. `parts` are quality and cost (paths,
    updates a second, memory). `quick` trains what is missing for a small share of its recipe's steps.
    """

    name: str = "domains"
    out: str = "runs"
    quick: bool = False
    demo: str = "demo"
    domains: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    flows: list[str] = field(default_factory=lambda: ["base", "rectified"])
    parts: list[str] = field(default_factory=lambda: ["quality", "cost"])
    methods: list[str] = field(default_factory=lambda: ["own", "euler", "midpoint", "heun", "ab2", "boss", "dopri5"])
    nfe: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    samples: int = 0
    max_nfe: int = 400
    seed: int = 1


@dataclass
class PeersSettings:
    """`rectiflow bench peers`: ours and other libraries on the same work, runs taking turns.

    `parts` are sampling, training, transport, error, adaptive, learning and domains. A contest of speed ends after `rounds`
    rounds, or after `seconds` and at least five; everyone learns from `seeds` seeds for `updates` updates. `quick` takes
    fewer of each. What is not installed is named with its pip command.
    """

    name: str = "peers"
    out: str = "runs"
    quick: bool = False
    parts: list[str] = field(
        default_factory=lambda: ["sampling", "training", "transport", "error", "adaptive", "learning", "domains"]
    )
    rounds: int = 100
    seconds: float = 40.0
    seeds: int = 5
    updates: int = 2000
    seed: int = 0


@dataclass
class ScalingSettings:
    """`rectiflow bench scaling`: how cost grows with batch, state, sequence, evaluations and processes.

    `parts` are core, domains and processes. A domain's network is that of its run under out/<domain>/<demo> or named in `runs`,
    else fresh from its recipe. Each size is timed for `seconds` of processor time; `updates` are made by each training.
    """

    name: str = "scaling"
    out: str = "runs"
    quick: bool = False
    demo: str = "demo"
    runs: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=lambda: ["core", "domains", "processes"])
    domains: list[str] = field(default_factory=list)
    seconds: float = 1.0
    updates: int = 60
    seed: int = 0


@dataclass
class ReportSettings:
    """`rectiflow bench report`: one page of all studies under out/bench, compared with the baseline.

    `keep` names a folder to write the present figures to, as the baseline of later runs.
    """

    name: str = "report"
    out: str = "runs"
    baseline: str = "benchmarks/baseline"
    keep: str = ""
