"""`rectiflow demo robotics`: a one-step policy cloned from demonstrations, fine-tuned on success alone, and a page about it."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import DomainSpec
from rectiflow.records import read_metrics, write_atomically
from rectiflow.trained import open_run
from rectiflow.verbs import train
from rectiflow_robotics import finetuning
from rectiflow_robotics.evaluating import evaluation_environments
from rectiflow_robotics.filming import film, filmstrip, write_film
from rectiflow_robotics.finetune_settings import IMITATING, FinetuneSettings
from rectiflow_robotics.rollout import Episode, rollout
from rectiflow_robotics.trainers import domain_of

FILMED = 30
"""Episodes among which one is looked for that fails before and succeeds after."""
SEED = 1_000_003  # of the episodes that are filmed

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>rectiflow · robotics</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}}
img{{max-width:100%}}figure{{display:inline-block;margin:0 1em 1em 0;width:46%}}video{{width:100%;border:1px solid #ccc}}
td,th{{padding:.2em 1em .2em 0;text-align:right}}td:first-child,th:first-child{{text-align:left}}</style>
<h1>{title}</h1><p>{summary}</p><table>{rows}</table>{films}<h2>Fine-tuning</h2>{curves}
<h2>Again</h2><pre>{commands}</pre></html>
"""


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Clone, fine-tune, film, and return the page's path; what is done already is not done again.

    Raises:
        RectiflowError: see the verbs.
    """
    started = time.perf_counter()
    recipe = config.recipe or spec.default_recipe
    _say(1, "clone demonstrations")
    commands = [
        [f"recipe={recipe}", f"training.steps={config.steps}", f"name={config.name}/cloned", f"out={config.out}"]
    ]
    cloned = train.run(spec, compose_training(spec, commands[0]))
    _say(2, "fine-tune the policy by what it does in the simulator")
    commands.append([f"run={cloned}", "k=1", f"name={config.name}/finetuned", f"out={config.out}"])
    commands[1] += [f"{key}={config[key]}" for key in ("iterations", "limit", "workers")]
    commands[1] += [f"{key}={value}" for key, value in IMITATING.items()]
    finetuned = finetuning.run(spec, compose_verb(FinetuneSettings, {}, commands[1]))
    _say(3, "film the same episode before and after")
    films = record_pair(spec, cloned, finetuned)
    verbs = [
        f"rectiflow {verb} robotics {' '.join(text)}"
        for verb, text in zip(("train", "finetune"), commands, strict=True)
    ]
    page = write_page(finetuned, films, verbs)
    print(f"\ndone in {(time.perf_counter() - started) / 60:.1f} minutes. Open {page}")
    return page


def record_pair(spec: DomainSpec, before: Path, after: Path) -> dict[str, Path]:
    """Films of one episode by two runs' one-step policies: where there is one, an episode that only the second succeeds in."""
    played: list[list[Episode]] = []
    environments = None
    for folder in (before, after):
        trained = open_run(spec, folder)
        domain = domain_of(trained)
        environments = environments or evaluation_environments(domain.environment, FILMED)
        method = "jump" if trained.flow.average else "euler"
        policy = domain.policy(trained.flow, steps=1, method=method, device=trained.device)
        played.append(rollout(policy, environments, episodes=FILMED, seed=SEED, record=True))
    number = telling(*played)
    films, strips = {}, {}
    for label, episodes in zip(("before", "after"), played, strict=True):
        shot = film(domain.environment, episodes[number], SEED)
        if shot is not None:
            strips[label] = shot.frames
            films[label] = write_film(shot.frames, after / "videos" / f"{label}.mp4")
    if strips:
        filmstrip(strips).save(after / "videos" / "episodes.png")
    return films


def telling(before: Sequence[Episode], after: Sequence[Episode]) -> int:
    """Number of the episode that shows most: won after and not before, else won after, else the first."""
    return max(range(len(before)), key=lambda i: (after[i].success - before[i].success, after[i].success, -i))


def write_page(folder: Path, films: dict[str, Path], commands: Sequence[str]) -> Path:
    """One self-contained page about a fine-tuned run.

    Raises:
        StorageError: it cannot be written.
    """
    figures = read_metrics(folder)
    rows = ["<tr><th></th><th>before</th><th>after</th></tr>"]
    for name in ("success", "return", "length"):
        if f"{name}.after" in figures:
            values = "".join(f"<td>{figures[f'{name}.{when}']:.3g}</td>" for when in ("before", "after"))
            rows.append(f"<tr><td>{name}</td>{values}</tr>")
    curves = sorted(folder.glob("*.png"))
    page = PAGE.format(
        title=f"Robotics: {html.escape(folder.parent.name)}",
        summary=html.escape(
            f"A flow policy that acts in one network evaluation a chunk: cloned, then fine-tuned in {figures['env_steps']:.0f} "
            f"environment steps ({figures['train_seconds'] / 60:.1f} minutes) on the reward of success alone. Fresh episodes, "
            "the same for both, without exploration noise."
        ),
        rows="".join(rows),
        films="".join(_video(label, path) for label, path in films.items())
        or "<p>No film: neither egl nor osmesa works here.</p>",
        curves="".join(f'<img alt="{path.stem}" src="{_uri(path, "image/png")}">' for path in curves),
        commands=html.escape("\n".join(commands)),
    )
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def _video(label: str, path: Path) -> str:
    video = f'<video controls loop muted src="{_uri(path, "video/mp4")}"></video>'
    return f"<figure>{video}<figcaption>{label}</figcaption></figure>"


def _uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _say(number: int, what: str) -> None:
    print(f"\n[{number}/3] {what}", flush=True)
