"""What steps, and choosing among several attempts, buy over one step, which is a regression's answer.

    python benchmarks/audio_steps.py run=runs/audio/base encoder=runs/audio/encoder [steps=1,2,4,8] [count=256] [attempts=4]

On held-out mixtures: improvement of SI-SDR, power and squared error beside the true power, distance of log spectra, Frechet
distance to the true targets on the encoder's features, and likeness to the query, of one attempt; the same of the best of several
by the encoder (`encoder.best_of`) and, as its ceiling, of the best by SI-SDR itself. The encoder comes from
`rectiflow train audio stage=encoder`, with the run's text encoder. Results go to benchmarks/audio/steps.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.conditions import take
from rectiflow.drawing import carry
from rectiflow.records import machine_info, write_atomically
from rectiflow.trained import Trained, open_run
from rectiflow_audio import SPEC
from rectiflow_audio.domain import Audio
from rectiflow_audio.encoder import SoundTextEncoder, best_of, frechet_audio_distance, likeness, load_encoder
from rectiflow_audio.metrics import log_spectral_distance, si_sdr_improvement

RESULTS = Path(__file__).parent / "audio" / "steps.json"
DEFAULTS = {"run": "", "encoder": "", "steps": "1,2,4,8", "count": "256", "attempts": "4"}
PART = 16


def main() -> None:
    settings = {**DEFAULTS, **dict(text.split("=", 1) for text in sys.argv[1:])}
    if not settings["run"] or not settings["encoder"] or settings.keys() != DEFAULTS.keys():
        sys.exit(f"usage: run=FOLDER encoder=FOLDER and any of {', '.join(DEFAULTS)}")
    trained, encoder = open_run(SPEC, Path(settings["run"])), load_encoder(Path(settings["encoder"]))
    domain = trained.domain
    if not isinstance(domain, Audio):
        sys.exit(f"run={settings['run']} is not of the audio domain")
    count = min(int(settings["count"]), len(domain.mixes.held_out))
    numbers = torch.arange(count)
    truth, cond = domain.held_out.waves[:count], domain.held_out.conditions(numbers)
    rows: list[dict[str, str | float]] = []

    def report(what: str, targets: Tensor) -> None:
        rows.append({"what": what, **figures(encoder, targets, truth, cond["query"])})
        print(json.dumps(rows[-1]), flush=True)

    report("the mixture", truth.sum(1))
    for steps in map(int, settings["steps"].split(",")):
        # One step does not look at what was drawn: its attempts are all the same.
        tried = 1 if steps == 1 else int(settings["attempts"])
        attempts = torch.stack([stems(trained, domain, count, steps, seed) for seed in range(tried)])
        report(f"{steps} steps", attempts[0, :, 0])
        if tried > 1:
            chosen = torch.tensor([best_of(encoder, attempts[:, item], cond["query"][item]) for item in range(count)])
            report(f"{steps} steps, best of {tried} by the encoder", attempts[chosen, numbers, 0])
            gains = torch.stack([si_sdr_improvement(one[:, 0], truth[:, 0], truth.sum(1)) for one in attempts])
            report(f"{steps} steps, best of {tried} by SI-SDR", attempts[gains.nan_to_num(-100).argmax(0), numbers, 0])
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, json.dumps({"settings": settings, "machine": machine_info(), "rows": rows}, indent=1))


def stems(trained: Trained, domain: Audio, count: int, steps: int, seed: int) -> Tensor:
    """Waveforms (count, K, T) of the first held-out mixtures by Euler steps, from noise of this seed."""
    generator, found = torch.Generator().manual_seed(seed), []
    cond = domain.held_out.conditions(torch.arange(count))
    for rows in torch.arange(count).split(PART):
        part = take(cond, rows)
        shape = domain.sample_shape(len(rows), part)
        x0 = trained.flow.sample_source(shape, part, generator, dtype=torch.float32)
        found.append(domain.waves(carry(trained.flow, x0, part, method="euler", steps=steps).x, part))
    return torch.cat(found)


def figures(encoder: SoundTextEncoder, target: Tensor, truth: Tensor, queries: Tensor) -> dict[str, float]:
    """Figures of estimated targets (n, T) against the first of true stems (n, K, T)."""
    gains = si_sdr_improvement(target, truth[:, 0], truth.sum(1))
    whole = truth[:, 0].square().sum()
    return {
        "si_sdri": float(gains.nanmean()),
        "power": float(target.square().sum() / whole),
        "error": float((target - truth[:, 0]).square().sum() / whole),
        "lsd": float(log_spectral_distance(target, truth[:, 0]).nanmean()),
        "fad_soundtext": frechet_audio_distance(encoder, target, truth[:, 0]),
        "score_soundtext": float(likeness(encoder, target, queries).mean()),
    }


if __name__ == "__main__":
    main()
