"""Environments in processes of their own: the same episodes as in one process; a worker's death costs episodes, not the run."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rectiflow.errors import ConfigError, DataError, RectiflowError
from rectiflow_robotics.chunks import Array, ChunkedEnvironments, Environments, Transition
from rectiflow_robotics.environments import Reward

DEATHS = 3
"""On end, of one worker, after which its task is given up."""
PATIENCE = 120.0
"""Seconds after which a worker that does not answer counts as dead; building one and a chunk take a few."""


def environments_of(
    name: str, count: int, *, workers: int, reward: Reward = "sparse", limit: int | None = None
) -> Environments:
    """N environments of a task, simulated here (`workers` 0) or by so many processes; episodes are the same.

    Raises:
        ConfigError: fewer than one environment, or a number of workers that is negative or above that of environments.
    """
    if not 0 <= workers <= max(count, 0):
        raise ConfigError(f"workers={workers} is not allowed with envs={count}; choose 0 to {count}")
    if workers == 0:
        return ChunkedEnvironments(name, count, reward=reward, limit=limit)
    return WorkerEnvironments(name, count, workers=workers, reward=reward, limit=limit)


class WorkerEnvironments:
    """N environments of one task, shared out evenly over processes; as `ChunkedEnvironments`, episode for episode.

    A worker that dies or hangs is started anew. Its environments give a truncated transition that ends where the last one did, of
    no steps and no reward, and go on with their next episodes; `broken` counts them.

    Raises:
        RectiflowError: what building the environments raises.
    """

    def __init__(
        self, name: str, count: int, *, workers: int, seed: int = 0, reward: Reward = "sparse", limit: int | None = None
    ) -> None:
        shares = np.array_split(np.arange(count), workers)
        self.seed = seed
        self._count = count
        self._workers = [
            _Worker({"name": name, "count": len(share), "reward": reward, "limit": limit, "first": int(share[0])})
            for share in shares
        ]
        self._cuts = np.cumsum([len(share) for share in shares])[:-1]

    def __len__(self) -> int:
        return self._count

    @property
    def broken(self) -> int:
        """Simulator failures so far, and environments of workers that died."""
        return sum(worker.broken for worker in self._workers)

    def reset(self, seed: int | None = None) -> Array:
        """Begin anew everywhere, with another seed if one is given, and return the observations (N, …).

        Raises:
            DataError: a worker that keeps dying.
        """
        self.seed = self.seed if seed is None else seed
        for worker in self._workers:
            worker.begin(self.seed)
        return np.concatenate([worker.begun() for worker in self._workers])

    def step(self, actions: Array) -> Transition:
        """Execute a chunk (N, Ta, Da), all workers at once.

        Raises:
            ConfigError: actions of another shape.
            DataError: a worker that keeps dying.
        """
        if len(actions) != self._count:
            raise ConfigError(f"{len(actions)} chunks for {self._count} environments; one each is needed")
        for worker, part in zip(self._workers, np.split(actions, self._cuts), strict=True):
            worker.send(("step", part))
        parts = [worker.stepped() for worker in self._workers]
        return Transition(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """One process, and what is needed to replace it: its seed, the episodes it is in, what it showed last."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.broken = 0
        self._lost = 0  # failures of processes that are gone
        self._deaths = 0
        self._seed = 0
        self._episodes = np.zeros(given["count"], int)
        self._last: Array | None = None
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pipe, other = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(other, self.given), daemon=True)
        self.process.start()
        other.close()

    def send(self, message: Sequence[Any]) -> None:
        try:
            self._pipe.send(message)
        except OSError:  # it is dead, which the answer tells
            return

    def begin(self, seed: int, episodes: Sequence[int] | None = None) -> None:
        self._seed = seed
        self._episodes[:] = 0 if episodes is None else episodes
        self.send(("reset", (seed, self._episodes.tolist())))

    def begun(self) -> Array:
        found = self._answer()
        while found is None:
            self._replace()
            self.begin(self._seed, self._episodes.tolist())
            found = self._answer()
        self._last = np.asarray(found)
        return self._last

    def stepped(self) -> Transition:
        found = self._answer()
        if found is None:
            return self._cut()
        self._deaths = 0
        transition = Transition(*found)
        self._episodes += transition.done
        self._last = transition.observation
        return transition

    def _cut(self) -> Transition:
        """Episodes that a death ended, and the first observations of the next ones."""
        final, count = self._last, self.given["count"]
        if final is None:
            raise ConfigError("environments were stepped before they were reset")
        self._replace()
        self._lost += count
        self.begin(self._seed, (self._episodes + 1).tolist())
        following = self.begun()
        none, ended = np.zeros(count, bool), np.ones(count, bool)
        return Transition(following, final, np.zeros(count), np.zeros(count, int), none, ended, none)

    def _answer(self) -> Any:
        """What the process says; None if it died or does not answer."""
        try:
            if not self._pipe.poll(PATIENCE):
                return None
            found, broken = self._pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(found, RectiflowError):
            raise found
        self.broken = self._lost + broken
        return found

    def _replace(self) -> None:
        self.end()
        self._deaths += 1
        self._lost = self.broken
        if self._deaths == DEATHS:
            raise DataError(
                f"a process that simulates {self.given['name']} died {DEATHS} times on end, with code {self.process.exitcode}; "
                "look for its message above and at the memory left, or simulate in one process: workers=0"
            )
        self._start()

    def end(self) -> None:
        self._pipe.close()
        self.process.kill()
        self.process.join()


def serve(pipe: Connection, given: dict[str, Any]) -> None:
    """A worker's life: build the environments, answer until the pipe closes.

    Signals are the parent's affair: it finishes its iteration first, and its end closes the pipe.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        environments = ChunkedEnvironments(**given)
        while True:
            name, value = pipe.recv()
            if name == "reset":
                seed, episodes = value
                found: Any = environments.reset(seed, episodes=episodes)
            else:
                found = tuple(environments.step(value))
            pipe.send((found, environments.broken))
    except RectiflowError as error:
        pipe.send((error, 0))
    except (EOFError, OSError):
        return
