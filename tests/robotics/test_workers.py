"""Environments in processes: the same as in one, whatever a worker suffers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from rectiflow.errors import ConfigError, DataError
from rectiflow_robotics import workers as module
from rectiflow_robotics.chunks import ChunkedEnvironments, Transition
from rectiflow_robotics.workers import WorkerEnvironments, environments_of

LIMIT = 6
AWAY = np.full((3, 4, 2), -1.0)


@pytest.fixture
def environments() -> Iterator[WorkerEnvironments]:
    """Two and one environments in two processes."""
    made = WorkerEnvironments("point-reach", 3, workers=2, limit=LIMIT)
    yield made
    made.close()


def same(one: Transition, other: Transition, rows: slice = slice(None)) -> None:
    for name, left, right in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(left[rows], right[rows], err_msg=name)


def kill(environments: WorkerEnvironments, number: int) -> None:
    process = environments._workers[number].process
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.fault
def test_processes_play_the_episodes_of_one_and_a_death_ends_only_those_of_its_worker(
    environments: WorkerEnvironments,
) -> None:
    alone = ChunkedEnvironments("point-reach", 3, limit=LIMIT)
    np.testing.assert_array_equal(environments.reset(5), alone.reset(5))
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 4, 2))
    for chunk in actions[:3]:  # the second ends episodes
        here = alone.step(chunk)
        there = environments.step(chunk)
        same(there, here)
    kill(environments, 1)
    cut, here = environments.step(actions[3]), alone.step(actions[3])
    same(cut, here, slice(0, 2))
    assert (cut.truncated[2], cut.terminated[2], cut.executed[2], cut.reward[2]) == (True, False, 0, 0.0)
    np.testing.assert_array_equal(cut.final[2], there.observation[2])
    # the next episode of that environment, as it would have been
    third = alone.reset(5, episodes=[0, 0, 2])
    np.testing.assert_array_equal(cut.observation[2], third[2])
    assert environments.broken == 1
    environments.step(AWAY)
    assert environments.broken == 1
    np.testing.assert_array_equal(environments.reset(5), alone.reset(5))


@pytest.mark.fault
def test_a_death_between_reset_and_its_answer_is_made_good(environments: WorkerEnvironments) -> None:
    kill(environments, 0)
    np.testing.assert_array_equal(environments.reset(3), ChunkedEnvironments("point-reach", 3).reset(3))


@pytest.mark.fault
def test_a_worker_that_hangs_counts_as_dead(environments: WorkerEnvironments, monkeypatch: pytest.MonkeyPatch) -> None:
    environments.reset(0)
    worker = environments._workers[0]
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    started = worker._start

    def patient() -> None:  # the one that follows gets the time to start
        monkeypatch.setattr(module, "PATIENCE", 60.0)
        started()

    monkeypatch.setattr(worker, "_start", patient)
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    worker.send(("step", AWAY[:2]))
    assert worker.stepped().truncated.all()
    assert worker.broken == 2


@pytest.mark.fault
def test_a_worker_that_keeps_dying_is_given_up(
    environments: WorkerEnvironments, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments.reset(0)
    monkeypatch.setattr(module, "DEATHS", 2)
    worker = environments._workers[0]
    started = worker._start

    def dead() -> None:
        started()
        worker.process.kill()

    monkeypatch.setattr(worker, "_start", dead)
    kill(environments, 0)
    with pytest.raises(DataError, match="died 2 times on end, with code -9"):
        environments.step(AWAY)


@pytest.mark.fault
def test_what_a_worker_refuses_is_said_in_the_parent() -> None:
    made = WorkerEnvironments("point-reech", 1, workers=1)
    with pytest.raises(ConfigError, match="did you mean point-reach"):
        made.reset(0)
    made.close()


@pytest.mark.parametrize(("count", "workers"), [(2, 3), (2, -1), (0, 1)])
def test_numbers_of_workers_that_make_no_sense_are_refused(count: int, workers: int) -> None:
    with pytest.raises(ConfigError, match=f"workers={workers} is not allowed with envs={count}"):
        environments_of("point-reach", count, workers=workers)
