"""One task, one cloned policy, the same environment steps: ReinFlow, DPPO, FQL, plain cloning, and PPO from scratch.

    python benchmarks/robotics_finetuning.py run=runs/robotics/base steps=250000 seeds=0,1,2 [key=value …]

Further settings are those of `rectiflow finetune robotics`. Plain cloning is "success.before". Results go to
benchmarks/robotics/<name>.json and, as curves, beside it. A run that is there is continued, or kept.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rectiflow.config import compose_verb
from rectiflow.domain import load_spec
from rectiflow.records import machine_info, read_lines, write_atomically
from rectiflow.runs import read_config
from rectiflow_robotics.curves import draw_comparison
from rectiflow_robotics.finetune_settings import FinetuneSettings
from rectiflow_robotics.finetuning import run as finetune

RESULTS = Path(__file__).parent / "robotics"
OWN = ("run", "steps", "seeds", "algorithms", "name", "threshold")
CHUNKED = ("reinflow", "dppo", "fql")


def main(arguments: list[str]) -> None:
    given = dict(text.split("=", 1) for text in arguments)
    source, steps = Path(given["run"]), int(given.get("steps", 250_000))
    seeds = [int(text) for text in given.get("seeds", "0").split(",")]
    algorithms = given.get("algorithms", "reinflow,dppo,fql,sb3").split(",")
    name, threshold = given.get("name", "point-reach"), float(given.get("threshold", 0.8))
    settings = {key: value for key, value in given.items() if key not in OWN}
    folder = source.parent / "finetuning"
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[Path]] = {}
    for algorithm in algorithms:
        for seed in seeds:
            place = folder / f"{name}-{algorithm}-{seed}"
            if algorithm in CHUNKED:
                place = tuned(source, place, algorithm, seed, steps, settings)
            else:
                from_scratch(source, place, seed, steps)
            groups.setdefault(algorithm, []).append(place)
            rows.append({"algorithm": algorithm, "seed": seed, **summary(place, threshold)})
            print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    report = {"task": str(read_config(source).data.env), "steps": steps, "rows": rows, "machine": machine_info()}
    write_atomically(RESULTS / f"{name}.json", json.dumps(report, indent=1) + "\n")
    draw_comparison(groups, RESULTS / f"{name}.png", title=report["task"])


def tuned(source: Path, place: Path, algorithm: str, seed: int, steps: int, settings: dict[str, str]) -> Path:
    """A run of ours, of as many iterations as the steps allow when no episode ends early."""
    config = compose_verb(FinetuneSettings, {}, [f"run='{source}'", *(f"{k}={v}" for k, v in settings.items())])
    chunk = int(read_config(source).data.chunk)
    iterations = max(1, round(steps / (config.envs * config.chunks * chunk)))
    # a run is kept in <out>/robotics/<name>
    out, name = source.parents[1], place.relative_to(source.parent)
    changes = [f"run='{source}'", f"out='{out}'", f"name='{name}'", f"algorithm={algorithm}", f"seed={seed}"]
    given = [f"{key}={value}" for key, value in {"iterations": str(iterations), **settings}.items()]
    return finetune(load_spec("robotics"), compose_verb(FinetuneSettings, {}, [*changes, *given]))


def from_scratch(source: Path, place: Path, seed: int, steps: int) -> None:
    """Stable-Baselines3's PPO with its own settings on single actions and the same sparse reward, without demonstrations."""
    import stable_baselines3
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    from rectiflow_robotics.environments import make_environment

    if (place / "metrics.json").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    env = str(read_config(source).data.env)
    model = stable_baselines3.PPO("MlpPolicy", Monitor(make_environment(env)), seed=seed, device="cpu")
    lines: list[dict[str, float]] = []
    judged, seconds, success = Monitor(make_environment(env)), 0.0, 0.0
    for part in range(11):
        if part:
            started = time.perf_counter()
            model.learn(steps // 10, reset_num_timesteps=False)
            seconds += time.perf_counter() - started
        judged.reset(seed=seed + 10_000)
        success = float(evaluate_policy(model, judged, n_eval_episodes=50)[0])  # the reward is 1 at success
        lines.append({"step": part, "env_steps": model.num_timesteps, "seconds": seconds, "held_out": success})
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {"success.after": success, "env_steps": model.num_timesteps, "train_seconds": seconds}
    (place / "metrics.json").write_text(json.dumps(found) + "\n")


def summary(place: Path, threshold: float) -> dict[str, Any]:
    """Final figures, and seconds and steps until the held-out figure first passed the threshold."""
    figures = json.loads((place / "metrics.json").read_text())
    passed = [line for line in read_lines(place / "metrics.jsonl") if line.get("held_out", 0.0) >= threshold]
    reached = {f"{key}_to_{threshold:g}": passed[0][key] if passed else None for key in ("seconds", "env_steps")}
    names = ("success.before", "success.after", "return.before", "return.after", "env_steps", "train_seconds")
    return {name: figures[name] for name in names if name in figures} | reached


if __name__ == "__main__":
    main(sys.argv[1:])
