"""Robotics needs its extra; what needs a simulator beyond the point in the plane is marked `sim`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gymnasium", reason="tests of robotics need pip install 'rectiflow[robotics]'")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demonstrations of tests stay among the tests."""
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
