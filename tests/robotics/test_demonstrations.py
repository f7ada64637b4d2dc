from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rectiflow.errors import ConfigError, DataError
from rectiflow_robotics.collecting import collected, demonstrate
from rectiflow_robotics.demonstrations import UNITS, Chunks, Demonstrations, check, from_file, load, save
from rectiflow_robotics.experts import expert_of
from rectiflow_robotics.normalisation import Normalisation


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    return demonstrate("point-reach", expert_of("point-reach"), 3, 0, by="test")


def test_experts_succeed_and_what_they_did_is_stored(demos: Demonstrations) -> None:
    assert demos.success.all()
    assert len(demos) == 3
    assert demos.observations.shape == (demos.lengths.sum(), 4)
    start = 0
    for length in demos.lengths:  # playing an episode's own actions gives its own positions
        position = demos.observations[start : start + length, :2]
        np.testing.assert_allclose(
            position[:-1] + 0.1 * demos.actions[start : start + length - 1], position[1:], atol=1e-6
        )
        start += length
    assert (np.abs(demos.actions) <= 1).all()


def test_noise_moves_the_hand_but_not_what_is_learnt() -> None:
    noisy = demonstrate("point-reach", expert_of("point-reach"), 2, 0, noise=0.5, by="test")
    expected = np.stack([expert_of("point-reach")(seen) for seen in noisy.observations])
    np.testing.assert_allclose(noisy.actions, expected, atol=1e-6)


def test_collecting_twice_reads_the_cache(tmp_path: Path) -> None:
    path = collected("point-reach", 2, 0)
    stamp = path.stat().st_mtime_ns
    assert collected("point-reach", 2, 0) == path
    assert path.stat().st_mtime_ns == stamp
    assert collected("point-reach", 2, 1) != path
    provenance = json.loads(path.with_suffix(".json").read_text())
    assert provenance["environment"] == "point-reach"
    assert provenance["seed"] == 0
    assert "numpy" in provenance["versions"]
    assert provenance["sha256"] == load(path).digest()


def test_a_file_brings_everything_back(demos: Demonstrations, tmp_path: Path) -> None:
    back = load(save(demos, tmp_path / "demos.npz"))
    assert back.digest() == demos.digest()
    assert back.provenance["units"] == UNITS
    with pytest.raises(ConfigError, match=r"data\.env=point-reach"):
        from_file("push-v3", str(tmp_path / "demos.npz"), 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: {"actions": d.actions[:-1]}, "must be equal"),
        (lambda d: {"actions": d.actions[:, 0]}, "must be"),
        (lambda d: {"lengths": d.lengths + 1}, "must be equal"),
        (lambda d: {"success": d.success[:1]}, "one an episode"),
        (lambda d: {"observations": np.where(np.arange(4) == 1, np.nan, d.observations)}, "not finite"),
        (lambda d: {"actions": 3 * d.actions}, r"in \[-1, 1\]"),
        (lambda d: {"success": np.zeros(len(d), bool)}, "nothing to imitate"),
        (lambda d: {"provenance": {**d.provenance, "units": {"observations": "min-max"}}}, "other units"),
    ],
)
def test_bad_demonstrations_are_refused(demos: Demonstrations, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check(replace(demos, **change(demos)), "these")


def test_altered_cut_and_foreign_files_are_refused(demos: Demonstrations, tmp_path: Path) -> None:
    path = save(demos, tmp_path / "demos.npz")
    with np.load(path) as stored:
        parts = dict(stored)
    np.savez(tmp_path / "altered.npz", **{**parts, "actions": 0.5 * parts["actions"]})
    np.savez(tmp_path / "poor.npz", actions=parts["actions"])
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:200])
    for name, said in (("altered", "altered"), ("poor", "lacks"), ("cut", "not an npz"), ("none", "no such file")):
        with pytest.raises(DataError, match=said):
            load(tmp_path / f"{name}.npz")


def test_an_expert_that_keeps_failing_is_given_up() -> None:
    with pytest.raises(DataError, match="0 of 10 episodes"):
        demonstrate("point-reach", lambda seen: -np.ones(2), 2, 0, by="hopeless expert")


def test_tasks_without_an_expert_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="data=file"):
        expert_of("Hopper-v5")


def test_chunks_stay_in_their_episode_and_repeat_its_last_action(demos: Demonstrations) -> None:
    told_apart = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
    seen = np.arange(40, dtype=np.float32).reshape(10, 4)
    three = replace(demos, observations=seen, actions=told_apart, lengths=np.array([5, 4, 1]))
    chunks = Chunks(three, 4)
    assert len(chunks) == 10
    batch = chunks.__getitems__([0, 3, 5, 9])
    rows = [[0, 1, 2, 3], [3, 4, 4, 4], [5, 6, 7, 8], [9, 9, 9, 9]]
    np.testing.assert_array_equal(batch.x1, told_apart[rows])
    np.testing.assert_array_equal(batch.cond["observation"], seen[[0, 3, 5, 9]])
    with pytest.raises(ConfigError, match=r"data\.chunk=0"):
        Chunks(demos, 0)


def test_normalisation_stretches_ranges_and_spares_constants() -> None:
    seen = torch.tensor([[0.0, 5.0, -2.0], [4.0, 5.0, -2.0 + 1e-7]])
    normalise = Normalisation(seen)
    out = normalise(seen)
    torch.testing.assert_close(out[:, 0], torch.tensor([-1.0, 1.0]))
    assert out[:, 1:].abs().max() < 1e-4
    torch.testing.assert_close(
        normalise(torch.tensor([[3.0, 5.0025, 900.0]])), torch.tensor([[0.5, 0.5, 3.0]]), atol=1e-3, rtol=0
    )
    pictures = Normalisation(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    torch.testing.assert_close(pictures(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)), torch.ones(1, 3, 4, 4))
    assert set(normalise.state_dict()) == {"centre", "half_range"}
