"""Students of image flows: a second time that starts as if it were not there, and `rectiflow distill` end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rectiflow.cli import _newer_settings, _slow_times, main
from rectiflow.domain import load_spec
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.derivative import Direction, along
from rectiflow.trained import load_what_fits
from rectiflow_images.transformer import Transformer
from rectiflow_images.unet import UNet


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


def network(kind: str, until: bool, seed: int = 0, guidance: bool = False) -> nn.Module:
    """A small network, its weights moved off their first values, the zeros of a new second time excepted."""
    generator = torch.Generator().manual_seed(seed)
    made: nn.Module
    if kind == "unet":
        made = UNet(1, 8, 3, 8, head_width=4, until=until, guidance=guidance, generator=generator)
    else:
        made = Transformer(1, 8, 3, width=16, depth=2, heads=2, until=until, guidance=guidance, generator=generator)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "condition.step" not in name and "condition.scale" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
T, UNTIL = torch.tensor([0.1, 0.3, 0.5, 0.9]), torch.tensor([0.95, 0.4, 0.5, 0.95])
LABEL = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_a_student_starts_equal_to_its_teacher(kind: str) -> None:
    teacher, student = network(kind, until=False), network(kind, until=True, seed=5)
    load_what_fits(student, teacher.state_dict())
    expected = teacher(X, T, LABEL)
    assert torch.equal(student(X, T, LABEL, until=UNTIL), expected)
    assert torch.equal(student(X, T, LABEL), expected)
    student(X, T, LABEL, until=UNTIL).square().sum().backward()
    assert student.condition.step[2].weight.grad.abs().max() > 0  # type: ignore[union-attr,index]
    with torch.no_grad():
        student.condition.step[2].weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,index]
    moved = (student(X, T, LABEL, until=UNTIL) - student(X, T, LABEL)).flatten(1).abs().amax(1)
    assert (moved > 0).tolist() == (UNTIL > T).tolist()
    with pytest.raises(ConfigError, match="build it with until=True"):
        teacher(X, T, LABEL, until=UNTIL)
    with pytest.raises(ConfigError, match="use fresh=true"):
        load_what_fits(teacher, student.state_dict())


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_a_scale_of_guidance_starts_as_if_it_were_not_there(kind: str) -> None:
    teacher, student = network(kind, until=False), network(kind, until=False, seed=5, guidance=True)
    load_what_fits(student, teacher.state_dict())
    expected, scales = teacher(X, T, LABEL), torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert torch.equal(student(X, T, LABEL, guidance=scales), expected)
    with torch.no_grad():
        student.condition.scale[2].weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,index]
    moved = (student(X, T, LABEL, guidance=scales) - student(X, T, LABEL)).flatten(1).abs().amax(1)
    assert (moved > 0).tolist() == [True, False, True, True]  # without a scale it is 1
    with pytest.raises(ConfigError, match="build it with guidance=True"):
        teacher(X, T, LABEL, guidance=scales)


def test_a_run_from_before_a_setting_existed_may_change_it() -> None:
    model = {"_target_": "rectiflow_images.unet.UNet", "width": 16}
    asked = ["run=somewhere", "model.time_scale=10", "model.width=8", "model.unheard_of=1"]
    assert _newer_settings(load_spec("images"), model, asked) == {"time_scale": 1000.0}


def test_students_that_take_derivatives_in_time_embed_it_slowly() -> None:
    model = {"_target_": "rectiflow_images.unet.UNet", "width": 16}
    for asked, slow in (
        ([], True),
        (["method=marginal_transport"], True),
        (["method=dispersive"], True),
        (["method=shortcut"], False),
        (["method=unheard_of"], False),
    ):
        assert bool(_slow_times(load_spec("images"), model, asked)) == slow
    assert not _slow_times(load_spec("images"), {"_target_": "elsewhere.Network"}, [])


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_derivatives_of_the_networks_are_differences(kind: str) -> None:
    student = network(kind, until=True).double()
    if kind == "transformer":
        student.table = student.table.double()  # type: ignore[union-attr,operator,assignment]
    with torch.no_grad():
        student.condition.step[2].weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,index]
    x, t, until = X.double(), T.double(), UNTIL.double()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    flow = Flow(student, average=True)
    for direction in (Direction(v, 1.0, 0.0), Direction(None, 0.0, 1.0)):
        value, slope = along(flow, x, t, until, {"label": LABEL}, direction)
        again, difference = along(flow, x, t, until, {"label": LABEL}, direction, derivative="difference", step=1e-6)
        torch.testing.assert_close(value, again, atol=1e-12, rtol=1e-10)
        assert slope.abs().max() > 0.01
        torch.testing.assert_close(slope, difference, atol=1e-5 * float(slope.abs().max()), rtol=1e-4)
        gradients = []
        for way in ("forward", "difference"):
            _, live = along(
                flow, x, t, until, {"label": LABEL}, direction, derivative=way, step=1e-6, differentiable=True
            )
            weight = student.condition.second.weight  # type: ignore[union-attr]
            gradients.append(torch.autograd.grad(live.square().mean(), weight)[0])
        torch.testing.assert_close(*gradients, atol=1e-4 * float(gradients[0].abs().max()), rtol=1e-3)


def test_distill_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    few = ["training.steps=2", "training.batch=16", "training.log_every=1", "training.tensorboard=false"]
    assert main(["train", "images", "model.width=16", *few]) == 0
    run = "run=runs/images/base"
    assert (
        main(
            [
                "distill",
                "images",
                run,
                "name=mean",
                "method=mean_flow",
                "method.jumps=0.5",
                "method.times=u_shaped",
                "method.times.sharpness=2",
                *few,
            ]
        )
        == 0
    )
    place = "method.layers=[middle.0]"
    assert main(["distill", "images", run, "name=dm1", "method=dispersive", place, *few]) == 0
    smaller = ["model.width=8", "model.head_width=8", "fresh=true"]
    assert main(["distill", "images", run, "name=small", "method=shortcut", *smaller, *few]) == 0
    for name in ("mean", "dm1", "small"):
        assert main(["sample", "images", f"run=runs/images/{name}", "count=2", f"out={name}"]) == 0
        assert "2 samples, 1 evaluations" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "runs/images/dm1/metrics.jsonl").read_text().splitlines()]
    assert all("dispersion" in line and "error" in line for line in lines if "loss" in line)
    for wrong, says in {
        "method=meanflow": "allowed: mean_flow, ",
        "method.jumps=2": "jumps of MeanFlow is 2",
        "method.jump=1": "did you mean method.jumps",
        "model.patch=2": "use fresh=true for another network",
        "pairs.count=0": "pairs.count=0 is not allowed",
        "name=base": "the teacher's own folder",
    }.items():
        capsys.readouterr()
        assert main(["distill", "images", run, "name=wrong", wrong, *few]) != 0
        assert says in capsys.readouterr().err
        assert not (tmp_path / "runs/images/wrong").exists()


@pytest.mark.slow
def test_methods_on_pairs_and_what_the_pairs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    few = ["training.steps=2", "training.batch=16", "training.log_every=1", "training.tensorboard=false"]
    assert main(["train", "images", "model.width=16", *few]) == 0
    run = "run=runs/images/base"
    pairs = ["pairs.count=40", "pairs.steps=1", "pairs.keep=0.5", "pairs.real=0.25"]
    assert main(["distill", "images", run, "name=plus", "method=rectified_flow_plus", *pairs, *few]) == 0
    found = json.loads((tmp_path / "runs/images/plus/pairs.json").read_text())
    real, made = found["mixture"]
    assert (real["share"], made["share"]) == (0.25, 0.75)
    assert real["inverted"]
    assert (made["selection"]["kept"], made["selection"]["of"]) == (20, 40)
    same = ["pairs.folder=runs/images/plus/pairs"]
    slim = ["model.width=8", "model.head_width=8", "fresh=true"]
    evaluations = {"one": 1, "slim": 1, "guided": 1, "phased": 1, "marginal": 1, "turbo": 2, "online": 1}
    for name, settings in {
        "one": ["method=one_step", *same],
        "slim": ["method=slim_flow", "method.annealing.steps=1", *same, *slim],
        "guided": ["method=guided_distillation", *same],
        "phased": ["method=phased", "method.solver_steps=1"],
        "marginal": ["method=marginal_transport"],
        "turbo": ["method=flow_turbo", "model.refiner=8"],
        "online": ["method=online", "method.steps=1", "method.method={_target_: rectiflow.rectify.one_step.OneStep}"],
    }.items():
        assert main(["distill", "images", run, f"name={name}", *settings, *few]) == 0
        capsys.readouterr()
        assert main(["sample", "images", f"run=runs/images/{name}", "count=2", f"out={name}"]) == 0
        assert f"2 samples, {evaluations[name]} evaluations" in capsys.readouterr().out
    assert main(["distill", "images", run, "name=wrong", "method=one_step", "pairs.keep=0", *few]) != 0
    assert "what is kept is above 0" in capsys.readouterr().err
    assert main(["distill", "images", run, "name=wrong", "method=flow_turbo", *few]) != 0
    assert "build it with one: model.refiner=8" in capsys.readouterr().err


@pytest.mark.slow
def test_guidance_as_an_input_and_a_perceptual_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """InstaFlow in two commands: reflow over a range of scales, then one step on the same pairs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    few = ["training.steps=2", "training.batch=16", "training.log_every=1", "training.tensorboard=false"]
    assert main(["train", "images", "model.width=16", *few]) == 0
    run, pairs = "run=runs/images/base", ["pairs.count=40", "pairs.steps=1"]
    first = ["method=rectified_flow_plus", "method.perceptual=true", "guidance_range=[1,4]", *pairs, *few]
    assert main(["distill", "images", run, "name=guided", *first]) == 0
    lines = [json.loads(line) for line in (tmp_path / "runs/images/guided/metrics.jsonl").read_text().splitlines()]
    assert all(line["perceptual"] > 0 for line in lines if "loss" in line)
    same = ["run=runs/images/guided", "pairs.folder=runs/images/guided/pairs"]
    assert main(["distill", "images", *same, "name=insta", "method=one_step", *few]) == 0  # the range comes along
    assert main(["distill", "images", run, "name=mean", "method=mean_flow", "guidance_range=[1,4]", *few]) == 0
    for name in ("insta", "mean"):
        capsys.readouterr()
        assert main(["sample", "images", f"run=runs/images/{name}", "count=2", "guidance=3", f"out={name}"]) == 0
        assert "2 samples, 1 evaluations" in capsys.readouterr().out
    for words, says in [
        (["sample", "images", "run=runs/images/insta", "count=2", "guidance=6"], "trained for 1 to 4"),
        (["distill", "images", run, "name=x", "guidance_range=[4,1]", *few], "it is [low,high] with 0 < low"),
        (["distill", "images", run, "name=x", "method.guidance=2", "guidance_range=[1,4]", *few], "has guidance 2"),
        (["distill", "images", run, "name=x", "method=one_step", "method.perceptual=lpips", *few], "allowed: true"),
    ]:
        assert main(words) != 0
        assert says in capsys.readouterr().err
        assert not (tmp_path / "runs/images/x").exists()
    assert main(["train", "images", "name=plain", "condition_drop=0", "model.width=16", *few]) == 0
    capsys.readouterr()
    assert main(["distill", "images", "run=runs/images/plain", "name=x", "guidance_range=[1,4]", *few]) != 0
    assert "trained with condition_drop above 0" in capsys.readouterr().err
