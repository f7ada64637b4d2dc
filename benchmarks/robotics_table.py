"""Policies of several tasks before and after fine-tuning on the sparse reward (locomotion: the return), as one table.

    python benchmarks/robotics_table.py [rows=push-k1,peg-k4,…] [seeds=0,1,2] [steps=250000] [out=runs] [key=value …]

Each row clones its demonstrations, for a few-step policy trains the student, fine-tunes it, and is written at once to
benchmarks/robotics/results/<row>-seed<seed>.json; a stopped run is continued by the same command, and a row whose json is
there is not run again. Further settings are those of `rectiflow finetune robotics`. The seed is that of cloning and fine-tuning;
demonstrations are the same for all. `table` alone prints what is there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectiflow.cli import main as rectiflow
from rectiflow.config import compose_verb
from rectiflow.records import machine_info, read_lines, read_metrics, write_atomically
from rectiflow.runs import read_config
from rectiflow_robotics.environments import suite_of
from rectiflow_robotics.finetune_settings import IMITATING, FinetuneSettings

RESULTS = Path(__file__).parent / "robotics" / "results"
OWN = ("rows", "seeds", "steps", "out")
CHUNK = 4
STUDENT = 600
"""Updates of a student of average velocities: as good as its teacher by then."""
POINT = {"envs": "64", "chunks": "20", "noise.low": "0.3", "noise.high": "0.5"}
FOUR = {"noise.low": "0.08", "noise.high": "0.16", "ppo.epochs": "2"}
"""The noise of four steps adds up to 1.85 times that of one, and a pass over a rollout costs four times as much."""
LIMIT = {"push-v3": "100", "pick-place-v3": "100", "peg-insert-side-v3": "150"}
"""Steps of an episode that is learnt from: successes take 54 to 99 in the mean, and what fails tells little in the rest."""
LOCOMOTION = {
    "ppo.target_kl": "0.4",
    "ppo.final_kl": "0.2",
    "average": "0.8",
    "ppo.epochs": "1",
    "ppo.critic_epochs": "2",
    "restart_every": "5",
    "episodes": "20",
    "final_episodes": "50",
}
PUBLISHED = {"success": 40.34, "return": 135.36}
"""Mean growth of ReinFlow's own experiments (arXiv 2505.22094), points or per cent."""


@dataclass(frozen=True)
class Row:
    """A task, how little of it is cloned, the kind of policy, its denoising steps and its width."""

    task: str
    episodes: int
    cloning: int
    k: int
    policy: str = "rectified"
    width: int = 256


ROWS = {
    "point-k1": Row("point-reach", 20, 1000, 1, width=64),
    "point-k4": Row("point-reach", 10, 600, 4, width=64),
    "point-shortcut-k1": Row("point-reach", 20, 1000, 1, "shortcut", 64),
    "point-meanflow-k1": Row("point-reach", 20, 1000, 1, "mean_flow", 64),
    "push-k1": Row("push-v3", 10, 350, 1),
    "push-k1-early": Row("push-v3", 10, 350, 1),
    "push-k4": Row("push-v3", 10, 300, 4),
    "push-shortcut-k1": Row("push-v3", 10, 350, 1, "shortcut"),
    "push-meanflow-k1": Row("push-v3", 10, 350, 1, "mean_flow"),
    "pick-place-k1": Row("pick-place-v3", 10, 350, 1),
    "pick-place-k4": Row("pick-place-v3", 10, 320, 4),
    "peg-k1": Row("peg-insert-side-v3", 10, 200, 1),
    "peg-k4": Row("peg-insert-side-v3", 10, 180, 4),
    "door-k1": Row("door-open-v3", 10, 50, 1),
    "door-k4": Row("door-open-v3", 10, 60, 4),
    "hopper-k1": Row("Hopper-v5", 50, 2000, 1, width=128),
    "hopper-k4": Row("Hopper-v5", 50, 2000, 4, width=128),
    "halfcheetah-k1": Row("HalfCheetah-v5", 20, 2000, 1, width=128),
    "halfcheetah-k4": Row("HalfCheetah-v5", 20, 2000, 4, width=128),
    "halfcheetah-shortcut-k1": Row("HalfCheetah-v5", 20, 2000, 1, "shortcut", width=128),
}


def main(arguments: list[str]) -> None:
    """Run the rows that are asked for and print the table of all that are there."""
    given = dict(text.split("=", 1) for text in arguments if text != "table")
    settings = {key: value for key, value in given.items() if key not in OWN}
    names = [] if arguments == ["table"] else given.get("rows", "push-k1").split(",")
    for name in names:
        for seed in given.get("seeds", "0").split(","):
            path = RESULTS / f"{name}-seed{seed}.json"
            if not path.exists():
                found = measure(name, int(seed), int(given.get("steps", 250_000)), given.get("out", "runs"), settings)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(found, indent=1) + "\n")
    print(table())


def measure(name: str, seed: int, steps: int, out: str, settings: dict[str, str]) -> dict[str, Any]:
    """Clone, distil where the row says so, fine-tune; figures and what made them."""
    row, place = ROWS[name], f"table/{name}-seed{seed}"
    recipe = "point_reach" if row.task == "point-reach" else "push"
    policy = f"{place}/cloned"
    call(
        "train",
        *(f"recipe={recipe}", f"out={out}", f"name={policy}", f"training.seed={seed}", f"data.env={row.task}"),
        *(f"data.episodes={row.episodes}", f"training.steps={row.cloning}", "training.tensorboard=false"),
        f"model.width={row.width}",
    )
    if row.policy != "rectified":
        policy = f"{place}/student"
        call(
            "distill",
            *(f"run={out}/robotics/{place}/cloned", f"out={out}", f"name={policy}", f"method={row.policy}"),
            *(f"training.steps={STUDENT}", "training.tensorboard=false"),
        )
    chosen = {**usual(row), **settings}
    config = compose_verb(FinetuneSettings, {}, [f"run={out}", *(f"{key}={value}" for key, value in chosen.items())])
    chosen.setdefault("iterations", str(max(1, round(steps / (config.envs * config.chunks * CHUNK)))))
    call(
        "finetune",
        *(f"run={out}/robotics/{policy}", f"out={out}", f"name={place}/finetuned", f"k={row.k}", f"seed={seed}"),
        *(f"{key}={value}" for key, value in chosen.items()),
    )
    folder = Path(out, "robotics", place, "finetuned")
    return {
        "row": name,
        **row.__dict__,
        "seed": seed,
        "figures": read_metrics(folder),
        "held_out": held_out(folder),
        "update_share": update_share(folder),
        "settings": json.loads(json.dumps(dict(read_config(folder).finetune), default=dict)),
        "machine": machine_info(),
    }


def usual(row: Row) -> dict[str, str]:
    """Settings of fine-tuning that fit a row's task and steps."""
    suite = suite_of(row.task).name
    if suite == "point":
        return POINT
    noise = {"noise.low": "0.08", "noise.high": "0.2"} if row.k > 1 else {}
    if suite == "locomotion":
        return {**LOCOMOTION, **noise}
    limit = {"limit": LIMIT[row.task]} if row.task in LIMIT else {}
    return {**IMITATING, "evaluate_every": "6", **(FOUR if row.k > 1 else {}), **limit}


def held_out(folder: Path) -> list[dict[str, float]]:
    """The run's held-out figures, and the noisy policy's, against environment steps."""
    names = ("env_steps", "held_out", "train_success", "train_return")
    lines = [line for line in read_lines(folder / "metrics.jsonl") if "held_out" in line]
    return [{name: line[name] for name in names if name in line} for line in lines]


def update_share(folder: Path) -> float:
    """Share of an iteration's time that updates took."""
    lines = read_lines(folder / "metrics.jsonl")
    return sum(line.get("update_seconds", 0.0) for line in lines) / max(line["seconds"] for line in lines)


def call(verb: str, *arguments: str) -> None:
    """A verb of the command line; its message is on stderr already where it fails."""
    code = rectiflow([verb, "robotics", *arguments])
    if code:
        raise SystemExit(code)


def table() -> str:
    """What was measured, in Markdown; the change is in points of success, or per cent of the return."""
    lines = [
        "| task | policy | K | seed | before | after | change | environment steps | minutes | of it updates |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    changes: dict[tuple[str, int], list[float]] = {(name, k): [] for name in PUBLISHED for k in (1, 4)}
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        figures = found["figures"]
        name = "success" if "success.before" in figures else "return"
        before, after = figures[f"{name}.before"], figures[f"{name}.after"]
        change = 100 * (after - before) if name == "success" else 100 * (after / before - 1)
        digits = 2 if name == "success" else 0
        if found["task"] != "point-reach":
            changes[name, found["k"]].append(change)
        lines.append(
            f"| {found['task']} | {found.get('policy', 'rectified')} | {found['settings']['k']} | {found['settings']['seed']} | "
            f"{before:.{digits}f} | {after:.{digits}f} | {change:+.0f} {'points' if name == 'success' else '%'} | "
            f"{figures['env_steps']:.0f} | {figures['train_seconds'] / 60:.1f} | {share_text(found.get('update_share'))} |"
        )
    for (name, k), found_changes in changes.items():
        if found_changes:
            mean, unit = sum(found_changes) / len(found_changes), "points" if name == "success" else "%"
            lines.append(
                f"\nMean growth of {name} at K = {k} over {len(found_changes)} runs in a simulator: {mean:+.1f} {unit} "
                f"(published, other tasks and more steps: +{PUBLISHED[name]} %)."
            )
    return "\n".join(lines)


def share_text(share: float | None) -> str:
    """A share in per cent, or nothing where it was not measured."""
    return "" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    main(sys.argv[1:])
