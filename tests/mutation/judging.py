"""Judging one mutant: a copy of the library, one text replaced, the tests that should notice. Runs in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = ["torch", "pytest", "scipy.stats", "scipy.optimize", "scipy.spatial.transform"]
TIMEOUT = 120


class Verdict(NamedTuple):
    """What pytest said of a mutant, or of the library as it is: its exit code, its output and the seconds that it took."""

    code: int
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.code == pytest.ExitCode.OK

    @property
    def decided(self) -> bool:
        """Whether tests ran and passed, or failed, or could not even be imported."""
        return self.code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)


def test_files(mutant: Mutant) -> list[str]:
    """Paths below the repository."""
    names = [PurePosixPath(name) for name in mutant.tests.split()]
    return [str(PurePosixPath("tests/core") / name.parent / f"test_{name.name}.py") for name in names]


def judge(task: tuple[Mutant | None, list[str]]) -> Verdict:
    """Run test files against the library with a mutant in it, or against an unchanged copy."""
    mutant, files = task
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "core"
        shutil.copytree(ROOT / "core", copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = copy / "rectiflow" / mutant.file
            path.write_text(path.read_text().replace(mutant.source, mutant.mutated))
        output = Path(folder) / "output"
        code = _pytest(copy, files, output)
        return Verdict(code, output.read_text(), time.monotonic() - began)


def _pytest(copy: Path, files: list[str], output: Path) -> int:
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(copy)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    with output.open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:cov", "-o", f"timeout={TIMEOUT}"]
        code = int(pytest.main([*options, *files]))
        sys.stdout.flush()
        library = sys.modules.get("rectiflow")
        if library is not None and not str(library.__file__).startswith(str(copy)):
            print(f"tests imported {library.__file__}, not the copy", file=sink)
            code = int(pytest.ExitCode.INTERNAL_ERROR)
    return code
