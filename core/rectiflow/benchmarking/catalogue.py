"""The core's studies by name, as `rectiflow bench` finds them, and the pages of all studies. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.benchmarking.layout import BenchStudy, StudyPage, Watch
from rectiflow.benchmarking.settings import DomainsSettings, PeersSettings, ScalingSettings

FOLDER = "bench"

STUDIES: dict[str, BenchStudy] = {
    "domains": BenchStudy(
        "quality against evaluations of every domain's demo, before and after rectification",
        DomainsSettings,
        "rectiflow.benchmarking.domains:run",
        StudyPage(
            "rectiflow.benchmarking.domains_layout:layout",
            watched={
                "normalised": Watch("higher", relative=0.1, absolute=0.03),
                "straightness": Watch("lower", relative=0.2, absolute=0.002),
                "network_share": Watch("higher", relative=0.1, absolute=0.05),
            },
        ),
    ),
    "peers": BenchStudy(
        "other libraries on the same work in the same run: overhead, training, transport, error, learning",
        PeersSettings,
        "rectiflow.benchmarking.peers.study:run",
        StudyPage(
            "rectiflow.benchmarking.peers.layout:layout",
            watched={
                "ratio": Watch("lower", relative=0.25, absolute=0.05),
                "error": Watch("lower", relative=0.05, absolute=1e-9),
                "difference": Watch("lower", absolute=1e-4),
            },
        ),
    ),
    "scaling": BenchStudy(
        "how cost grows with batch, state, sequence, evaluations and processes",
        ScalingSettings,
        "rectiflow.benchmarking.scaling.study:run",
        StudyPage(
            "rectiflow.benchmarking.scaling.layout:layout",
            watched={
                "exponent": Watch("lower", relative=0.1, absolute=0.1),
                "efficiency": Watch("higher", relative=0.2),
                "equal": Watch("higher", relative=0.0),
            },
        ),
    ),
}

STUDENTS = "students"
"""What measurements of a domain's study of few-step students call themselves, whatever the study's name."""

PAGES: dict[str, StudyPage] = {
    **{name: study.page for name, study in STUDIES.items()},
    STUDENTS: StudyPage(
        "rectiflow.benchmarking.students_layout:layout",
        watched={"to_bar": Watch("lower", relative=0.25, absolute=0.05)},
    ),
}


def study_folder(config: Any) -> Path:
    """Where a study leaves its measurements and page: out/bench/<name>, and <name>-quick for a quick one."""
    return Path(str(config.out), FOLDER, str(config.name) + ("-quick" if config.quick else ""))
