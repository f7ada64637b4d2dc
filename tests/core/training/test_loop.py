"""The loop against a loop written out by hand, and its promises about resuming, faults and side effects."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError, Interrupted, NonFiniteError, StorageError
from rectiflow.training.checkpoint import checkpoint_folders, load_latest, load_weights
from rectiflow.training.loop import Fitted, fit
from rectiflow.training.schedule import learning_rate


def same(first: Any, second: Any) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def final(folder: Path) -> dict[str, Any]:
    """Everything a checkpoint says but the time it took."""
    found = load_latest(folder)
    assert found is not None
    state = copy.deepcopy(found.state)
    state["progress"]["seconds"] = 0
    return {"step": found.step, "model": found.model, "ema": found.ema, "state": state, "config": found.config}


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class Regression:
    """Mean squared error of a linear map: no noise, so that runs with other batch shapes can be compared."""

    def __init__(self) -> None:
        self.network = nn.Linear(2, 1)
        with torch.no_grad():
            self.network.weight.copy_(torch.tensor([[0.5, -0.3]]))
            self.network.bias.zero_()

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(batch.x1, Tensor)
        loss = (network(batch.x1)[:, 0] - 3 * batch.x1[:, 0] + batch.x1[:, 1] - 5).square().mean()
        return loss, {}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("clip", [0.7, 0.0, 1e9], ids=["clipped", "off", "never reached"])
def test_equals_a_loop_written_out_by_hand(tiny: ModuleType, clip: float) -> None:
    options = tiny.small_options(steps=15, clip=clip, weight_decay=0.1, learning_rate=0.05, final_fraction=0.1)
    data, task = tiny.TinyData(), Regression()
    fitted = fit(task, data, options)

    hand = Regression()
    optimizer = torch.optim.AdamW(hand.network.parameters(), betas=(0.9, 0.99), weight_decay=0.1, foreach=False)
    for step, indices in enumerate(data.read):
        loss, _ = hand.loss(hand.network, Batch(data.points[indices]), torch.Generator())
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in hand.network.parameters() if p.grad is not None]).norm()
        assert norm > 0.7  # so clipping is at work
        for parameter in hand.network.parameters():
            assert parameter.grad is not None
            parameter.grad *= clip / norm if clip == 0.7 else 1.0
        optimizer.param_groups[0]["lr"] = learning_rate(step, options)
        optimizer.step()
        optimizer.zero_grad()
    assert len(data.read) == 15
    for name, value in hand.network.state_dict().items():
        torch.testing.assert_close(fitted.network.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_norm_is_that_of_all_groups_of_parameters(tiny: ModuleType, tmp_path: Path) -> None:
    norms = []
    for optimizer in ("adamw", "muon"):
        options = tiny.small_options(steps=1, log_every=1, optimizer=optimizer)
        fit(Regression(), tiny.TinyData(), options, folder=tmp_path / optimizer)
        norms.append(figures(tmp_path / optimizer)[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_accumulated_micro_steps_equal_one_large_batch(tiny: ModuleType, tmp_path: Path) -> None:
    tasks = [Regression(), Regression()]
    fit(tasks[0], tiny.TinyData(), tiny.small_options(batch=12), folder=tmp_path / "large")
    fit(tasks[1], tiny.TinyData(), tiny.small_options(batch=4, accumulate=3), folder=tmp_path / "small")
    torch.testing.assert_close(tasks[0].network.weight, tasks[1].network.weight, rtol=1e-5, atol=1e-6)
    for large, small in zip(figures(tmp_path / "large"), figures(tmp_path / "small"), strict=True):
        assert small["loss"] == pytest.approx(large["loss"], rel=1e-5)
        assert small["grad_norm"] == pytest.approx(large["grad_norm"], rel=1e-4)
        assert small["samples"] == large["samples"] == 12 * large["step"]


def test_training_learns_and_the_average_follows(tiny: ModuleType) -> None:
    options = tiny.small_options(steps=300, batch=32, learning_rate=0.1, clip=0.0, ema=0.9)
    fitted = fit(Regression(), tiny.TinyData(), options)
    torch.testing.assert_close(fitted.network.weight, torch.tensor([[3.0, -1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(fitted.ema["weight"], torch.tensor([[3.0, -1.0]]), atol=1e-3, rtol=0)


class Crash(Exception):
    """Stands for a kill within one process."""


class CrashingTask:
    """The tiny task, until its loss is asked for the n-th time."""

    def __init__(self, task: Any, calls: int) -> None:
        self.task, self.network, self.calls = task, task.network, calls

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls -= 1
        if self.calls == 0:
            raise Crash
        loss, terms = self.task.loss(network, batch, generator)
        return loss, terms

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        shown: dict[str, float] = self.task.preview(network, step, folder)
        return shown


@pytest.mark.parametrize(("calls", "accumulate"), [(3, 1), (6, 1), (9, 1), (23, 2)])
def test_a_crashed_and_resumed_run_equals_a_straight_one(
    tiny: ModuleType, tmp_path: Path, calls: int, accumulate: int
) -> None:
    options = tiny.small_options(accumulate=accumulate, preview_every=4)
    straight = tiny.TinyData()
    fit(tiny.TinyTask(), straight, options, folder=tmp_path / "straight", config="a: 1\n")
    broken = tiny.TinyData()
    with pytest.raises(Crash):
        fit(CrashingTask(tiny.TinyTask(), calls), broken, options, folder=tmp_path / "broken", config="a: 1\n")
    torch.rand(7)  # the resumed process has another past
    resumed = tiny.TinyData()
    fit(tiny.TinyTask(), resumed, options, folder=tmp_path / "broken", config="a: 1\n")
    assert same(final(tmp_path / "straight"), final(tmp_path / "broken"))
    assert resumed.read == straight.read[-len(resumed.read) :]
    assert 0 < len(resumed.read) <= len(straight.read)
    assert figures(tmp_path / "straight") == figures(tmp_path / "broken")


def test_dropout_is_part_of_what_the_resume_test_compares(tiny: ModuleType) -> None:
    results = []
    for rate in (0.2, 0.0):
        task = tiny.TinyTask()
        task.network[1].p = rate
        results.append(fit(task, tiny.TinyData(), tiny.small_options()).ema)
    assert not same(*results)


def test_same_seed_same_bits_and_another_seed_others(tiny: ModuleType) -> None:
    runs = []
    for seed in (0, 0, 1):
        torch.rand(3)
        runs.append(fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(seed=seed)))
    assert same(runs[0].ema, runs[1].ema)
    assert not same(runs[0].ema, runs[2].ema)


def test_global_generators_are_left_alone(tiny: ModuleType) -> None:
    task, data = tiny.TinyTask(), tiny.TinyData()
    before = torch.get_rng_state()
    fit(task, data, tiny.small_options())
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_folder_nothing_is_written(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task = tiny.TinyTask()
    fitted = fit(task, tiny.TinyData(), tiny.small_options())
    assert isinstance(fitted, Fitted)
    assert (fitted.step, fitted.rank, fitted.skipped, fitted.network) == (12, 0, 0, task.network)
    assert os.listdir(tmp_path) == []
    assert "batch 8 x accumulate 1 x processes 1 = 8" in capsys.readouterr().out


def test_a_finished_run_is_returned_as_it_is_and_can_be_extended(tiny: ModuleType, tmp_path: Path) -> None:
    first = fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    data = tiny.TinyData()
    again = fit(tiny.TinyTask(), data, tiny.small_options(), folder=tmp_path)
    assert same(first.ema, again.ema)
    assert data.read == []
    longer = fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(steps=14), folder=tmp_path)
    assert longer.step == 14
    assert same(load_weights(tmp_path, "ema"), longer.ema)
    assert same(load_weights(tmp_path, "model"), dict(longer.network.state_dict()))


class Watching:
    """Notes what a preview is given, and draws from the global generator as careless code would."""

    def __init__(self, task: Any) -> None:
        self.task, self.network = task, task.network
        self.loss = task.loss
        self.seen: list[tuple[int, bool, bool, dict[str, Tensor]]] = []

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        torch.rand(5)
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        self.seen.append((step, network.training, torch.is_grad_enabled(), weights))
        (folder / f"sample-{step}").write_text("")
        return {"score": step / 2}


def test_previews_show_the_average_in_eval_mode_and_change_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    watched = Watching(tiny.TinyTask())
    often = fit(watched, tiny.TinyData(), tiny.small_options(preview_every=5), folder=tmp_path / "often")
    once = Watching(tiny.TinyTask())
    rarely = fit(once, tiny.TinyData(), tiny.small_options(preview_every=0), folder=tmp_path / "rarely")
    assert [step for step, *_ in watched.seen] == [5, 10, 12]
    assert [step for step, *_ in once.seen] == [12]
    assert same(often.ema, rarely.ema)
    assert same(dict(often.network.state_dict()), dict(rarely.network.state_dict()))
    _, training, gradients, weights = watched.seen[-1]
    assert (training, gradients) == (False, False)
    assert same(weights, often.ema)
    assert not same(weights, dict(often.network.state_dict()))
    assert often.network.training
    assert often.figures == {"score": 6.0}
    assert {"step": 10, "preview/score": 5.0} in figures(tmp_path / "often")
    assert (tmp_path / "often" / "sample-10").exists()


class Poisoned:
    """Data whose batches numbered in `bad` (from 0) hold a NaN, or make only the gradient infinite."""

    def __init__(self, data: Any, bad: set[int], value: float = float("nan")) -> None:
        self.data, self.bad, self.value = data, bad, value

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        number = len(self.data.read)
        batch: Batch = self.data.__getitems__(indices)
        if number in self.bad:
            assert isinstance(batch.x1, Tensor)
            batch.x1 = batch.x1.clone()
            batch.x1[0, 0] = self.value
        return batch


def test_nan_raises_before_the_update_and_names_everything(tiny: ModuleType, tmp_path: Path) -> None:
    clean = fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(steps=12), folder=tmp_path / "clean")
    task, data = tiny.TinyTask(), Poisoned(tiny.TinyData(), {10})
    with pytest.raises(
        NonFiniteError, match=r"step 11 is not finite: loss nan, gradient norm nan, samples \["
    ) as caught:
        fit(task, data, tiny.small_options(steps=12), folder=tmp_path / "bad")
    assert ", ".join(map(str, data.data.read[10])) in str(caught.value)
    after_ten = load_weights(tmp_path / "clean" / "checkpoints" / "step-00000010", "model")
    assert same(dict(task.network.state_dict()), after_ten)
    assert same(load_weights(tmp_path / "bad", "model"), after_ten)
    assert clean.skipped == 0
    event = figures(tmp_path / "bad")[-1]
    assert (event["event"], event["step"], event["samples"]) == ("nonfinite", 11, data.data.read[10])


class SteepRoot:
    """A finite loss whose gradient is infinite where a sample is exactly zero."""

    def __init__(self) -> None:
        self.network = nn.Linear(2, 1, bias=False)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return network(batch.x1 * 0).abs().sqrt().sum(), {}

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        return {}


def test_the_policy_holds_for_the_gradient_alone(tiny: ModuleType) -> None:
    task = SteepRoot()
    before = task.network.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"loss 0\.0, gradient norm nan"):
        fit(task, tiny.TinyData(), tiny.small_options())
    assert torch.equal(task.network.weight, before)


def test_skipping_makes_no_update_and_goes_on(tiny: ModuleType, tmp_path: Path) -> None:
    options = tiny.small_options(nonfinite="skip", steps=6, max_skips=2)
    fitted = fit(tiny.TinyTask(), Poisoned(tiny.TinyData(), {2, 4}), options, folder=tmp_path)
    assert (fitted.step, fitted.skipped) == (6, 2)
    assert all(torch.isfinite(value).all() for value in fitted.ema.values())
    lines = figures(tmp_path)
    assert [line["step"] for line in lines if line.get("event") == "nonfinite"] == [3, 5]
    assert lines[-2]["skipped"] == 2

    one_short = fit(tiny.TinyTask(), Poisoned(tiny.TinyData(), {2}), tiny.small_options(nonfinite="skip", steps=3))
    straight = tiny.TinyTask()
    reference = fit(straight, tiny.TinyData(), tiny.small_options(steps=2, schedule="constant"))
    assert same(dict(one_short.network.state_dict()), dict(reference.network.state_dict()))


def test_too_many_skips_in_a_row_end_the_run(tiny: ModuleType) -> None:
    options = tiny.small_options(nonfinite="skip", max_skips=3)
    with pytest.raises(NonFiniteError, match=r"3 steps in a row.*training\.max_skips=3.*step 6"):
        fit(tiny.TinyTask(), Poisoned(tiny.TinyData(), {1, 3, 4, 5}), options)


class Signalled:
    """The tiny task, which is sent a signal in the middle of a step."""

    def __init__(self, task: Any, number: int, call: int) -> None:
        self.task, self.network, self.number, self.call = task, task.network, number, call
        self.preview = task.preview

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.call -= 1
        if self.call == 0:
            os.kill(os.getpid(), self.number)
        loss, terms = self.task.loss(network, batch, generator)
        return loss, terms


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_says_so(
    tiny: ModuleType, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path / "straight")
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match=f"{number.name} stopped the run after step 7.*resume") as caught:
        fit(Signalled(tiny.TinyTask(), number, 7), tiny.TinyData(), tiny.small_options(), folder=folder)
    assert caught.value.exit_code == code
    assert checkpoint_folders(folder)[-1].name == "step-00000007"
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=folder)
    assert same(final(tmp_path / "straight"), final(folder))


def test_a_signal_in_the_last_preview_is_answered_with_the_run_complete(tiny: ModuleType, tmp_path: Path) -> None:
    task = Watching(tiny.TinyTask())
    look = task.preview

    def interrupted(network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return look(network, step, folder)

    task.preview = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        fit(task, tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    assert checkpoint_folders(tmp_path)[-1].name == "step-00000012"


@pytest.mark.parametrize(
    ("changes", "samples", "name"),
    [
        ({"batch": 4}, 50, "batch"),
        ({"accumulate": 2}, 50, "accumulate"),
        ({"seed": 1}, 50, "seed"),
        ({}, 49, "samples"),
    ],
)
def test_what_decides_the_data_cannot_change_on_a_resume(
    tiny: ModuleType, tmp_path: Path, changes: dict[str, int], samples: int, name: str
) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    with pytest.raises(ConfigError, match=f"cannot resume at step 12: {name} is"):
        fit(tiny.TinyTask(), tiny.TinyData(samples), tiny.small_options(steps=20, **changes), folder=tmp_path)


def test_a_resume_takes_todays_optimiser_settings(tiny: ModuleType, tmp_path: Path) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(steps=13, weight_decay=0.25), folder=tmp_path)
    assert final(tmp_path)["state"]["optimizer"]["param_groups"][0]["weight_decay"] == 0.25


def test_another_network_cannot_resume(tiny: ModuleType, tmp_path: Path) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"0\.bias is \(16,\) in the checkpoint and absent"):
        fit(Regression(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)


def test_a_fresh_start_never_tramples_an_old_run(tiny: ModuleType, tmp_path: Path) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
    with pytest.raises(ConfigError, match="holds checkpoints and resume is off"):
        fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path, resume=False)


def test_resume_falls_back_over_a_corrupt_checkpoint_and_ends_the_same(tiny: ModuleType, tmp_path: Path) -> None:
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path / "straight")
    folder = tmp_path / "damaged"
    with pytest.raises(Crash):
        fit(CrashingTask(tiny.TinyTask(), 12), tiny.TinyData(), tiny.small_options(), folder=folder)
    path = checkpoint_folders(folder)[-1] / "state.pt"
    assert path.parent.name == "step-00000010"
    path.write_bytes(path.read_bytes()[:-1])
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=folder)
    assert same(final(tmp_path / "straight"), final(folder))


def test_two_processes_cannot_write_one_run(tiny: ModuleType, tmp_path: Path) -> None:
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True);"
        " sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use by another process"):
            fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path)
        assert holder.stdin is not None
        holder.stdin.close()
    assert fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path).step == 12


def test_a_folder_that_cannot_be_made_is_a_storage_error(tiny: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="run"):
        fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=tmp_path / "file" / "run")


def test_spaces_and_other_alphabets_in_the_path(tiny: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "a run — пробный 走"
    fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(), folder=folder)
    assert load_weights(folder).keys() == tiny.TinyTask().network.state_dict().keys()


def test_without_bfloat16_arithmetic_training_is_in_float32(
    tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_f": True})
    asked, plain = (
        fit(Regression(), tiny.TinyData(), tiny.small_options(precision=precision))
        for precision in ("bf16-mixed", "32-true")
    )
    assert all(torch.equal(asked.ema[name], plain.ema[name]) for name in plain.ema)
    assert capsys.readouterr().out.count("no bfloat16 arithmetic") == 1
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    fit(Regression(), tiny.TinyData(), tiny.small_options(precision="bf16-mixed", steps=1))
    assert "no bfloat16 arithmetic" not in capsys.readouterr().out


def test_bf16_trains_close_to_float32_and_keeps_float32_weights(tiny: ModuleType) -> None:
    options = {"steps": 300, "batch": 32, "learning_rate": 0.1}
    fitted = fit(Regression(), tiny.TinyData(), tiny.small_options(precision="bf16-mixed", **options))
    assert fitted.network.weight.dtype == torch.float32
    torch.testing.assert_close(fitted.network.weight, torch.tensor([[3.0, -1.0]]), atol=0.1, rtol=0)


@pytest.mark.parametrize(("precision", "bare"), [("32-true", True), ("bf16-mixed", False)])
def test_a_loss_calls_the_network_itself_unless_something_is_to_convert(
    tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, precision: str, bare: bool
) -> None:
    monkeypatch.setattr("rectiflow.training.processes.fast_bfloat16", lambda: True)
    task, called = tiny.TinyTask(), []
    plain = task.loss

    def loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Any:
        called.append(network is task.network)
        return plain(network, batch, generator)

    task.loss = loss
    fit(task, tiny.TinyData(), tiny.small_options(steps=2, precision=precision))
    assert called == [bare, bare]


@pytest.mark.skipif(torch.cuda.is_available(), reason="NVML is there to be asked")
def test_without_a_gpu_optimisers_do_not_ask_nvml_for_one_at_every_step() -> None:
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_bf16_is_inside_the_network_only(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and places go in with all their digits."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    seen = []
    task = Regression()
    task.network.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    fit(task, tiny.TinyData(), tiny.small_options(precision="bf16-mixed", steps=1))
    assert seen == [(torch.float32, torch.bfloat16)]


def test_an_absent_gpu_is_named(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="has 0 CUDA devices"):
        fit(tiny.TinyTask(), tiny.TinyData(), tiny.small_options(accelerator="cuda"))
