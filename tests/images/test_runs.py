"""Image runs through the command line: same bits by either door, exact resume, and every fault with a clear line."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rectiflow.cli import main
from rectiflow.records import read_evaluation

ROOT = Path(__file__).parents[2]
SMALL = ["training.steps=6", "training.batch=16", "training.warmup=2", "training.checkpoint_every=2", "model.width=16"]
SMALL += [
    "training.log_every=1",
    "training.tensorboard=false",
    "training.keep=3",
    "sampling.steps=2",
    "model.dropout=0.1",
]


def start(place: Path, *arguments: str, script: bool = False) -> subprocess.Popen[str]:
    command = [str(ROOT / "domains/images/train.py")] if script else ["-m", "rectiflow.cli"]
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        cwd=place,
        env={**os.environ, "RECTIFLOW_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(place: Path, *arguments: str, script: bool = False) -> subprocess.CompletedProcess[str]:
    process = start(place, *arguments, script=script)
    out, error = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def weights(run: Path) -> dict[str, bytes]:
    return {name: (newest(run) / name).read_bytes() for name in ("model.safetensors", "ema.safetensors")}


def moments(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(newest(run) / "state.pt", weights_only=True)
    return {f"{i}.{k}": v for i, part in state["optimizer"]["state"].items() for k, v in part.items()}


def logged(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs with spaces é")
    result = call(place, "train", "images", "name=base", *SMALL)
    assert result.returncode == 0, result.stderr
    assert "= 16 samples a step" in result.stdout
    return place


def test_script_and_verb_train_the_same_bits(trained: Path) -> None:
    assert call(trained, "name=script", *SMALL, script=True).returncode == 0
    assert weights(trained / "runs/images/script") == weights(trained / "runs/images/base")
    assert call(trained, "train", "images", "name=other", "training.seed=1", *SMALL).returncode == 0
    assert weights(trained / "runs/images/other") != weights(trained / "runs/images/base")


def test_samples_are_files_and_repeat(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    run = "run=runs/images/base"
    for out in ("first", "second"):
        drawn = ["sample", "images", run, "steps=2", "count=4", "cond.label=3", "guidance=2", f"out={out}"]
        assert main(drawn) == 0
    assert len(list((trained / "first").glob("*-3.png"))) == 4
    assert (trained / "first/all.png").read_bytes() == (trained / "second/all.png").read_bytes()
    for wrong, says in {
        "cond.label=12": "allowed: 0 to 9",
        "cond.lable=1": "label",
        "steps=-2": "steps=-2",
        "method=eular": "did you mean 'euler'",
        "weights=best": "'ema' or 'model'",
    }.items():
        capsys.readouterr()
        assert main(["sample", "images", run, wrong]) != 0
        assert says in capsys.readouterr().err


def test_adaptive_sampling(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(trained)
    sample = ["sample", "images", "run=runs/images/base", "count=4"]
    spent = []
    for tolerance in ("1e-2", "1e-5"):
        assert main([*sample, "method=dopri5", f"rtol={tolerance}", f"atol={tolerance}"]) == 0
        out = capsys.readouterr().out
        spent.append(float(out.split(" evaluations")[0].split()[-1]))
        assert f"dopri5-rtol{float(tolerance):g}-atol{float(tolerance):g}-seed0" in out
    assert 7 < spent[0] < spent[1]
    for wrong, says in {
        "method=euler rtol=1e-3": "solver 'euler' got the option 'rtol'; it takes: none",
        "method=dopri5 atol=0": "atol 0; allowed:",
        "method=dopri5 max_nfe=10": "allowed: 10 evaluations; raise max_nfe",
    }.items():
        assert main([*sample, *wrong.split()]) != 0
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_adaptive_samplers_are_evaluated(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    evaluate = ["evaluate", "images", "run=runs/images/base", "count=16"]
    assert main([*evaluate, "samplers=[dopri5,dopri5-1e-2,euler-2]", "max_nfe=500"]) == 0
    assert "dopri5-0.01" in capsys.readouterr().out
    rows = read_evaluation(trained / "runs/images/base").rows
    found = {(row.method, row.steps, row.tolerance): row for row in rows if row.method == "dopri5"}
    assert set(found) == {("dopri5", 0, None), ("dopri5", 0, 0.01)}
    assert found["dopri5", 0, 0.01].nfe < found["dopri5", 0, None].nfe
    assert "samplers=[dopri5-0.01]" in found["dopri5", 0, 0.01].command
    assert "max_nfe=500" in found["dopri5", 0, 0.01].command


def test_a_second_run_of_the_same_name(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert main(["train", "images", "name=base", *SMALL]) == 0
    assert main(["train", "images", "name=base", *SMALL, "training.learning_rate=1"]) != 0
    assert "training.learning_rate was 0.002, now 1.0" in capsys.readouterr().err


@pytest.mark.fault
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, processes: int) -> None:
    settings = [*SMALL, "training.steps=40", f"training.devices={processes}", "training.accelerator=cpu"]
    settings += ["training.strategy=ddp"] if processes > 1 else []
    assert call(tmp_path, "train", "images", "name=straight", *settings).returncode == 0
    victim = start(tmp_path, "train", "images", "name=killed", *settings)
    log = tmp_path / "runs/images/killed/metrics.jsonl"
    last = random.Random(processes).randint(6, 30)  # noqa: S311 - a step to kill at, not a secret
    while victim.poll() is None and (not log.exists() or log.read_text().count("\n") < last):
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    result = call(tmp_path, "train", "images", "name=killed", *settings)
    assert result.returncode == 0, result.stderr
    straight, killed = tmp_path / "runs/images/straight", tmp_path / "runs/images/killed"
    assert weights(straight) == weights(killed)
    before, after = moments(straight), moments(killed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert logged(straight) == logged(killed)  # every batch since the start, and none twice


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["truncated", "flipped", "pickle", "missing"])
def test_damaged_checkpoint_falls_back_and_says_so(trained: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", str(trained / "runs/images/base"), str(run)], check=True)
    path = newest(run) / "ema.safetensors"
    bomb = tmp_path / "executed"
    if damage == "missing":
        path.unlink()
    elif damage == "pickle":
        import pickle

        class Bomb:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(bomb),)

        path.write_bytes(pickle.dumps(Bomb()))
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    fallen_back = call(trained, "sample", "images", f"run={run}", "steps=1", "count=1", f"out={tmp_path / 'out'}")
    assert fallen_back.returncode == 0
    assert path.parent.name in fallen_back.stderr
    assert not bomb.exists()
    for checkpoint in (run / "checkpoints").glob("step-*"):
        (checkpoint / "ema.safetensors").write_bytes(b"nothing")
    assert "ema.safetensors" in one_line(call(trained, "sample", "images", f"run={run}", "steps=1", "count=1"))
    assert not bomb.exists()


@pytest.mark.fault
def test_storage_faults_are_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = call(trained, "train", "images", *SMALL, f"out={tmp_path / 'file'}")
    assert str(tmp_path / "file") in one_line(blocked)
    limited = subprocess.run(
        [sys.executable, "-m", "rectiflow.cli", "train", "images", "name=full", *SMALL],
        cwd=trained,
        env={**os.environ, "RECTIFLOW_CACHE": str(trained / "cache"), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert limited.returncode == 3
    assert "runs/images/full" in one_line(limited)


@pytest.mark.fault
def test_bad_folders_of_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = [*SMALL, "data=folder", "data.size=8", "data.channels=1"]
    assert "empty" in one_line(call(tmp_path, "train", "images", *settings, "data.path=empty"))
    assert "nowhere" in one_line(call(tmp_path, "train", "images", *settings, "data.path=nowhere"))
    assert "data.path is not given" in one_line(call(tmp_path, "train", "images", *settings))
    assert not (tmp_path / "runs").exists()
