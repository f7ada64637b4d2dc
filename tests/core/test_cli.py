"""The command line: quick help, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rectiflow.cli import main


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    error = capsys.readouterr().err.strip()
    assert code != 0
    assert "\n" not in error
    assert "Traceback" not in error
    return code, error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian", "images"], "did you mean 'train'"),
        (["train"], "needs a domain"),
        (["train", "image"], "did you mean 'images'"),
        (["train", "images", "training.stepz=4"], "training.steps"),
        (["train", "images", "training.steps=-4"], "training.steps=-4"),
        (["train", "images", "predicts=speed"], "velocity, data, noise, score"),
        (["train", "images", "times.uniform=3"], "uniform"),
        (["train", "images", "--fast"], "--fast"),
        (["train", "images", "model.width=0"], "width"),
        (["sample", "images"], "run is not given"),
        (["sample", "images", "run=nowhere"], "config.yaml"),
        (["evaluate", "images", "run=nowhere"], "config.yaml"),
        (["fetch", "images", "cifar"], "mnist"),
        (["separate", "images"], "unknown"),
        (["domains", "extra"], "no arguments"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, *arguments)[1]
    assert not (tmp_path / "runs").exists()


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "rectiflow <verb> <domain>" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert main(["domains"]) == 0
    assert "images" in capsys.readouterr().out


def test_help_shows_groups_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "reflow", "sample", "evaluate", "demo"):
        assert main([verb, "images", "--help"]) == 0
        assert f"rectiflow {verb} images" in capsys.readouterr().out
    assert main(["train", "images", "--help"]) == 0
    text = capsys.readouterr().out
    assert "unet, unet_patch, transformer" in text
    assert "learning_rate" in text


@pytest.mark.parametrize(
    "arguments",
    [["train", "images", "--help"], ["train", "images", "training.stepz=3"], ["sample", "images", "run=no"]],
)
def test_help_and_configuration_errors_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom rectiflow.cli import main\n"
        f"main({arguments!r})\n"
        "loaded = [name for name in ('torch', 'matplotlib', 'sklearn') if name in sys.modules]\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
