"""Run folders: what may be continued, what is refused, and where a run came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rectiflow.errors import ConfigError, StorageError
from rectiflow.runs import create_run, lineage, read_config


def test_same_settings_continue_others_do_not(tmp_path: Path) -> None:
    config = OmegaConf.create({"domain": "d", "training": {"steps": 3, "rate": 1e-3}, "weight": float("inf")})
    assert create_run(tmp_path / "run", config) is False
    assert create_run(tmp_path / "run", config) is True
    changed = OmegaConf.merge(config, {"training": {"steps": 4}})
    with pytest.raises(ConfigError, match=r"training.steps was 3, now 4"):
        create_run(tmp_path / "run", changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "a: ${oc.env:HOME}\n"])
def test_configurations_that_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_config(tmp_path)


def test_no_run_and_no_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        read_config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        create_run(tmp_path / "file" / "run", OmegaConf.create({}))


def test_lineage_survives_a_move(tmp_path: Path) -> None:
    for name, teacher in (("base", None), ("second", "../base"), ("third", "../second"), ("orphan", "../gone")):
        config = {"domain": "d", **({"teacher": teacher} if teacher else {})}
        create_run(tmp_path / "here" / name, OmegaConf.create(config))
    (tmp_path / "here").rename(tmp_path / "there")
    assert [run.name for run in lineage(tmp_path / "there/third")] == ["base", "second", "third"]
    assert [run.name for run in lineage(tmp_path / "there/orphan")] == ["orphan"]
