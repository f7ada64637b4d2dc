"""Whole processes, one or two, killed and stopped at random steps: what they resume to is what they would have become."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.training.batches import BatchOrder
from rectiflow.training.checkpoint import checkpoint_folders, load_latest, load_weights

SCRIPT = Path(__file__).with_name("tiny.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def command(folder: Path, pause: float = 0.0, **changes: Any) -> list[str]:
    return [str(SCRIPT), str(folder), json.dumps({"steps": 40, "tensorboard": True, **changes}), str(pause)]


def finish(folder: Path, launcher: list[str] | None = None, **changes: Any) -> None:
    line = [*(launcher or [sys.executable]), *command(folder, **changes)]
    done = subprocess.run(line, env=QUIET, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def stop_at(
    folder: Path, step: int, *numbers: int, launcher: list[str] | None = None, **changes: Any
) -> tuple[int, str]:
    """Run until `step` is logged, send the signals, and return exit code and stderr."""
    line = [*(launcher or [sys.executable]), *command(folder, pause=0.05, **changes)]
    with subprocess.Popen(line, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith(f"step {step}/"):
                break
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.01)
        started = time.monotonic()
        _, errors = process.communicate(timeout=40)
        assert time.monotonic() - started < 10 or launcher is not None
        return process.returncode, errors


def digest(value: Any) -> str:
    """SHA-256 over nested states, bit for bit."""
    running = hashlib.sha256()

    def fold(part: Any) -> None:
        if isinstance(part, Tensor):
            running.update(str((part.dtype, part.shape)).encode() + part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                running.update(str(key).encode())
                fold(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                fold(item)
        else:
            running.update(repr(part).encode())

    fold(value)
    return running.hexdigest()


def outcome(folder: Path) -> str:
    found = load_latest(folder)
    assert found is not None
    assert found.step == 40
    assert [path for path in (folder / "checkpoints").iterdir() if "tmp" in path.name] == []
    state = copy.deepcopy(found.state)
    state["progress"]["seconds"] = 0
    return digest([found.model, found.ema, state])


def logged(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.fault
def test_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    finish(tmp_path / "straight")
    dice = random.Random(0)  # noqa: S311
    folder = tmp_path / "killed"
    reached = 0
    while reached < 30:
        code, _ = stop_at(folder, reached + dice.randint(1, 9), signal.SIGKILL)
        assert code == -signal.SIGKILL
        kept = checkpoint_folders(folder)
        now = int(kept[-1].name.removeprefix("step-")) if kept else 0
        assert now >= reached
        reached = max(now, reached + 1)
    finish(folder)
    assert outcome(folder) == outcome(tmp_path / "straight")
    assert logged(folder) == logged(tmp_path / "straight")


@pytest.mark.fault
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_signal_and_resumed_equals_uninterrupted(tmp_path: Path, number: int, code: int) -> None:
    finish(tmp_path / "straight")
    folder = tmp_path / "stopped"
    returned, errors = stop_at(folder, 13, number)
    assert returned == code
    assert "its state is saved" in errors
    assert "Traceback" not in errors
    assert int(checkpoint_folders(folder)[-1].name.removeprefix("step-")) in (13, 14, 15)
    finish(folder)
    assert outcome(folder) == outcome(tmp_path / "straight")


@pytest.mark.fault
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    code, _ = stop_at(tmp_path, 7, signal.SIGTERM, signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert checkpoint_folders(tmp_path)[-1].name == "step-00000005"


WRITER = """
import sys, torch
from pathlib import Path
from rectiflow.training.batches import BatchOrder
from rectiflow.training.checkpoint import Checkpoint, load_latest, save_checkpoint, clean_checkpoints
folder = Path(sys.argv[1])
clean_checkpoints(folder)
last = load_latest(folder)
step = last.step if last else 0
while True:
    step += 1
    weights = {"w": torch.full((5_000_000,), float(step))}
    save_checkpoint(folder, Checkpoint(step, weights, weights, {"m": weights["w"]}, "", {}), keep=1)
    print(step, flush=True)
"""


@pytest.mark.fault
def test_killed_in_the_middle_of_writing_60_megabytes(tmp_path: Path) -> None:
    dice = random.Random(0)  # noqa: S311
    written = 0
    for _ in range(10):
        line = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(line, env=QUIET, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            written = int(process.stdout.readline())
            time.sleep(dice.random())
            process.kill()
            reported = process.stdout.read().split()
        found = load_latest(tmp_path)
        assert found is not None
        assert found.step >= int(reported[-1] if reported else written)
        assert float(found.model["w"].unique()) == float(found.state["m"].unique()) == found.step


@pytest.mark.fault
def test_killed_with_data_workers_and_a_checkpoint_every_step(tmp_path: Path) -> None:
    changes = {"checkpoint_every": 1, "workers": 2}
    finish(tmp_path / "straight", **changes)
    stop_at(tmp_path / "killed", 11, signal.SIGKILL, **changes)
    finish(tmp_path / "killed", **changes)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")


@pytest.mark.fault
def test_a_size_limit_ends_the_run_with_its_own_exit_code(tmp_path: Path) -> None:
    finish(tmp_path, steps=40)
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", sys.executable, *command(tmp_path, steps=60)]
    done = subprocess.run(limited, env=QUIET, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    outcome(tmp_path)


def parameters_of_ranks(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("rank-*"))]


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", [[sys.executable], TORCHRUN], ids=["own", "torchrun"])
def test_two_processes_agree_and_resume_after_a_kill_as_if_nothing_had_happened(
    tmp_path: Path, launcher: list[str]
) -> None:
    finish(tmp_path / "straight", launcher, devices=2)
    hashes = parameters_of_ranks(tmp_path / "straight")
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    folder = tmp_path / "killed"
    stop_at(folder, 13, signal.SIGKILL, launcher=launcher, devices=2)
    wait_for_release(folder)
    assert 5 <= int(checkpoint_folders(folder)[-1].name.removeprefix("step-")) <= 40
    finish(folder, launcher, devices=2)
    assert outcome(folder) == outcome(tmp_path / "straight")
    assert parameters_of_ranks(folder) == hashes


def wait_for_release(folder: Path) -> None:
    """torchrun's workers notice a little later that their agent was killed."""
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX)"
    subprocess.run([sys.executable, "-c", code, str(folder / ".lock")], check=True, timeout=60)


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", [[sys.executable], TORCHRUN], ids=["own", "torchrun"])
def test_a_signal_to_the_first_process_stops_both(tmp_path: Path, launcher: list[str]) -> None:
    code, errors = stop_at(tmp_path, 8, signal.SIGTERM, launcher=launcher, devices=2)
    assert code == 143 if launcher == [sys.executable] else code != 0  # torchrun answers 1 for any failure
    assert "SIGTERM stopped the run after step" in errors
    assert int(checkpoint_folders(tmp_path)[-1].name.removeprefix("step-")) in (8, 9, 10)


@pytest.mark.distributed
def test_another_number_of_processes_cannot_resume(tmp_path: Path) -> None:
    finish(tmp_path, steps=5)
    line = [sys.executable, *command(tmp_path, devices=2, steps=10)]
    done = subprocess.run(line, env=QUIET, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("world_size is 2, the run was started with 1") == 1


@pytest.mark.distributed
def test_a_nan_on_one_rank_is_skipped_on_both(tmp_path: Path) -> None:
    line = [*TORCHRUN, *command(tmp_path, devices=2, steps=10, nonfinite="skip"), "17"]
    subprocess.run(line, env=QUIET, capture_output=True, check=True, timeout=120)
    orders = [BatchOrder(50, 8, seed=0, rank=rank, world_size=2) for rank in range(2)]
    hit = [[17 in order.indices(step) for order in orders] for step in range(10)]
    assert [1, 1] not in hit
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] - 1 for line in lines if "event" in line] == [step for step in range(10) if any(hit[step])]
    assert lines[-2]["skipped"] == sum(map(any, hit)) > 1
    weights = load_weights(tmp_path)
    assert all(torch.isfinite(value).all() for value in weights.values())
    hashes = parameters_of_ranks(tmp_path)
    assert hashes[0] == hashes[1]


@pytest.mark.distributed
def test_a_lost_rank_is_restarted_by_torchrun_and_ends_the_same(tmp_path: Path) -> None:
    finish(tmp_path / "straight", TORCHRUN, devices=2)
    folder = tmp_path / "lost"
    line = [*TORCHRUN, "--max-restarts=1", *command(folder, pause=0.05, devices=2)]
    with subprocess.Popen(line, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("step 13/"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        process.communicate(timeout=100)
        assert process.returncode == 0
    assert outcome(folder) == outcome(tmp_path / "straight")
