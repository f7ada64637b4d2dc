from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rectiflow import cache
from rectiflow.cache import cache_folder
from rectiflow.errors import StorageError


def test_the_variable_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "with spaces é"))
    folder = cache_folder("images", "classifiers")
    assert folder == tmp_path / "with spaces é" / "images" / "classifiers"
    assert folder.is_dir()
    assert cache_folder("images", "classifiers") == folder


def test_the_users_cache_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECTIFLOW_CACHE", raising=False)
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    assert cache_folder("a") == tmp_path / "rectiflow" / "a"


def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").write_text("not a folder")
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    with pytest.raises(StorageError, match="RECTIFLOW_CACHE"):
        cache_folder("images", "x")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="no permission"):
        cache_folder("images")


def test_cache_and_fetch_import_no_torch() -> None:
    code = "import rectiflow.cache, rectiflow.fetch, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
