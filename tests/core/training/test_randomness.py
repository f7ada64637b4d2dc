"""Streams by counter are unrelated, and the global generators come back as they were."""

from __future__ import annotations

import random

import numpy as np
import torch
from scipy import stats

from rectiflow.training.randomness import (
    global_states,
    isolated_global_states,
    restore_global_states,
    step_generator,
    stream_seed,
)

CPU = torch.device("cpu")


def test_labels_are_not_run_together() -> None:
    labels = [(1, 23), (12, 3), (123,), ("1", "2", 3), (0, 123), (3, 12)]
    seeds = {stream_seed(0, *parts) for parts in labels} | {stream_seed(1, *parts) for parts in labels}
    assert len(seeds) == 2 * len(labels)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_first_draws_of_neighbouring_streams_are_independent_normals() -> None:
    count = 4000
    draws = {
        name: np.array([float(torch.randn((), generator=step_generator(*key(k)))) for k in range(count)])
        for name, key in {
            "step": lambda k: (0, k, 0, 0),
            "micro": lambda k: (0, 0, k, 0),
            "rank": lambda k: (0, 0, 0, k),
            "seed": lambda k: (k, 0, 0, 0),
        }.items()
    }
    for name, values in draws.items():
        assert stats.kstest(values, "norm").pvalue > 1e-4, name
        lagged = np.corrcoef(values[1:], values[:-1])[0, 1]
        assert abs(lagged) < 4 / np.sqrt(count), name
    across = np.corrcoef(np.stack(list(draws.values())))[np.triu_indices(4, 1)]
    assert np.abs(across).max() < 4 / np.sqrt(count)


def test_same_counters_give_the_same_draws() -> None:
    first, second = (torch.randn(5, generator=step_generator(3, 4, 1, 2)) for _ in range(2))
    assert torch.equal(first, second)


def draw() -> list[float]:
    python = [random.random(), random.gauss(0, 1)]  # noqa: S311  the global generator is what is tested
    legacy = [float(np.random.rand()), float(np.random.randn())]  # noqa: NPY002
    return [float(torch.rand(())), *python, *legacy]


def test_global_states_go_round_as_plain_types() -> None:
    random.gauss(0, 1)  # leaves a second normal waiting, which is part of the state
    states = global_states(CPU)
    expected = draw()
    restore_global_states(states, CPU)
    assert draw() == expected


def test_isolation_leaves_no_trace_and_starts_from_the_seed() -> None:
    states = global_states(CPU)
    expected = draw()
    restore_global_states(states, CPU)
    inside = []
    for _ in range(2):
        with isolated_global_states(CPU, seed=11):
            inside.append(draw())
    assert inside[0] == inside[1]
    assert draw() == expected
