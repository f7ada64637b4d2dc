"""Training on built-in sounds: the query decides what comes out, held-out words included. Slow: minutes on two cores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rectiflow.cli import main
from rectiflow.records import read_metrics
from rectiflow_audio.data import HeldOut
from rectiflow_audio.domain import Audio
from rectiflow_audio.extracting import load_extractor
from rectiflow_audio.metrics import si_sdr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_short_training_separates_by_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    assert main(["train", "audio"]) == 0
    run = Path("runs/audio/base")
    assert main(["evaluate", "audio", f"run={run}", "samplers=[euler-1]", "count=96"]) == 0
    found = read_metrics(run)
    assert found["si_sdri.euler.nfe_1"] > 7
    assert found["improved.euler.nfe_1"] > 0.9
    assert found["si_sdri_wrong_query.euler.nfe_1"] < found["si_sdri.euler.nfe_1"] - 10
    assert found["si_sdri_paraphrase.euler.nfe_1"] > 0
    assert _asked_for_wins(run) > 0.9


def _asked_for_wins(run: Path) -> float:
    """Share of two-voice mixtures whose output is more like the sound that was asked for than like the other, for both."""
    from rectiflow.trained import open_run
    from rectiflow_audio import SPEC

    extractor, domain = load_extractor(run), open_run(SPEC, run).domain
    assert isinstance(domain, Audio)
    held_out: HeldOut = domain.held_out
    pairs = [number for number, item in enumerate(held_out.items) if len(item.kinds) == 2][:48]
    waves = held_out.waves[pairs]
    wins = []
    for asked in (0, 1):
        names = [held_out.items[number].kinds[asked] for number in pairs]
        out = extractor.extract(
            waves.sum(1), extractor.queries(names), generator=torch.Generator().manual_seed(0), steps=1
        )[:, 0]
        wins.append(si_sdr(out, waves[:, asked]) > si_sdr(out, waves[:, 1 - asked]))
    return float((wins[0].double().mean() + wins[1].double().mean()) / 2)
