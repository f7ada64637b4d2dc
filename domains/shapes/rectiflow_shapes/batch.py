"""`rectiflow batch shapes`: a table of prompts to meshes, row by row; a run that was stopped goes on where it was."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow.settings import SamplingSettings

if TYPE_CHECKING:
    import trimesh

    from rectiflow.batch import State

COLUMNS = ("name", "kind", "caption", "seed", "count")
RESULTS = "results.jsonl"


@dataclass
class BatchSettings(SamplingSettings):
    """Shapes for each row of the CSV `prompts`: its columns are any of name, kind, caption, seed and count.

    The meshes go to `out` (a folder, the run's own by default) as `format`, with at most `max_faces` faces (0: all), and what
    became of each row to results.jsonl there; rows that stand in it are not drawn again.
    """

    run: str = MISSING
    prompts: str = MISSING
    out: str = ""
    format: str = "glb"
    max_faces: int = 0
    weights: str = "ema"


@dataclass(frozen=True)
class Prompt:
    """One row of the table."""

    name: str
    request: dict[str, str]
    seed: int
    count: int


def run(spec: DomainSpec, config: DictConfig) -> Path:
    """Draw what each row asks for and is not there yet, and return the folder.

    Raises:
        ConfigError: a bad run, table, format or sampler, or a row that asks for what the run cannot be told.
        StorageError: the folder cannot be written.
    """
    import torch

    from rectiflow.drawing import carry, draw_sources, tolerances
    from rectiflow.schedules import exponentials, scheduled
    from rectiflow.trained import open_run
    from rectiflow.verbs.boss import walk
    from rectiflow_shapes.domain import Shapes
    from rectiflow_shapes.meshes import WRITABLE

    if f".{config.format}" not in WRITABLE or config.max_faces < 0 or config.steps < 1:
        raise ConfigError(
            f"format={config.format}, max_faces={config.max_faces}, steps={config.steps}: one of "
            f"{', '.join(suffix[1:] for suffix in WRITABLE)}, 0 or more, and 1 or more"
        )
    prompts = read_prompts(Path(config.prompts).expanduser())
    trained = open_run(spec, Path(config.run), config.weights)
    domain = trained.domain
    if not isinstance(domain, Shapes):
        raise ConfigError(f"run={config.run} is not a run of shapes")
    flow = scheduled(trained.flow, exponentials(config.exponential))
    method, times = walk(trained, flow, config.method, config.steps, config.guidance)

    def draw(prompt: Prompt) -> State:
        generator = torch.Generator().manual_seed(prompt.seed)
        cond = domain.conditions(prompt.count, generator, **prompt.request)
        x: State = carry(
            flow,
            draw_sources(domain, trained.flow, cond, prompt.count, generator),
            cond,
            method=method,
            times=times,
            steps=config.steps,
            shift=config.shift,
            guidance=config.guidance,
            batch=prompt.count,
            device=trained.device,
            seed=prompt.seed,
            tolerances=tolerances(config),
        ).x
        return x

    folder = Path(config.out).expanduser() if config.out else trained.folder / "batch" / Path(config.prompts).stem
    how = [str(trained.folder), config.weights, config.format, config.max_faces]
    how += [str(config[item.name]) for item in fields(SamplingSettings)]
    wanted = {prompt.name: json.dumps([prompt.request, prompt.seed, prompt.count, *how]) for prompt in prompts}
    done = _finished(folder / RESULTS)
    left = [prompt for prompt in prompts if done.get(prompt.name) != wanted[prompt.name]]
    print(f"{len(prompts)} prompts, {len(prompts) - len(left)} of them done before")
    for prompt in left:
        try:
            meshes = domain.representation.meshes(draw(prompt))
            rows = _written(meshes, prompt.name, folder, config.format, config.max_faces or None)
            with (folder / RESULTS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"name": prompt.name, "key": wanted[prompt.name], "shapes": rows}) + "\n")
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another out=") from error
        valid = sum(row["valid"] for row in rows)
        print(f"{prompt.name}: {valid} of {len(rows)} valid", flush=True)
    print(f"meshes and {RESULTS}: {folder}")
    return folder


def read_prompts(path: Path) -> list[Prompt]:
    """The rows of a table of prompts, in UTF-8.

    Raises:
        ConfigError: what of the table is not as it should be, with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            rows, columns = list(table), table.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"prompts={path} cannot be read: {error}; it must be a CSV table in UTF-8") from error
    if not rows or not columns or set(columns) - set(COLUMNS):
        raise ConfigError(
            f"prompts={path} has {len(rows)} rows of {', '.join(columns) or 'nothing'}; "
            f"it needs rows, and columns among {', '.join(COLUMNS)}"
        )
    prompts = [_prompt(row, number, path) for number, row in enumerate(rows)]
    names = [prompt.name for prompt in prompts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"prompts={path} has the name {name!r} {names.count(name)} times; names must differ")
    return prompts


def _prompt(row: Mapping[str | None, Any], number: int, path: Path) -> Prompt:
    line = number + 2
    values = {key: (value or "").strip() for key, value in row.items() if key is not None}
    if None in row:
        raise ConfigError(f"prompts={path} line {line} has more fields than the table; put commas within quotes")
    name = values.get("name") or f"{number:05d}"
    if not re.fullmatch(r"[\w][\w .+-]{0,99}", name):
        raise ConfigError(f"prompts={path} line {line}: name {name!r} must be a file name of letters, digits, - and _")
    numbers = {}
    for column, default, least in (("seed", number, 0), ("count", 1, 1)):
        text = values.get(column) or str(default)
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            raise ConfigError(
                f"prompts={path} line {line}: {column} is {text!r}; it must be a whole number from {least} on"
            )
        numbers[column] = int(text)
    request = {key: values[key] for key in ("kind", "caption") if values.get(key)}
    return Prompt(name, request, numbers["seed"], numbers["count"])


def _written(
    meshes: list[trimesh.Trimesh], name: str, folder: Path, suffix: str, most_faces: int | None
) -> list[dict[str, Any]]:
    """Write the meshes of one row, and say of each what it is; "file" is None where it is empty or "refused" says why."""
    from rectiflow_shapes.meshes import export, inspect, simplify

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, mesh in enumerate(meshes):
        written, file, refused = mesh, None, {}
        if len(mesh.faces):
            try:
                written = simplify(mesh, most_faces) if most_faces else mesh
                file = export(written, folder / f"{name}-{number}.{suffix}").name
            except DataError as error:  # a shape that cannot be written as asked is no reason to stop the others
                refused = {"refused": str(error)}
        rows.append({**asdict(inspect(written)), "faces": len(written.faces), "file": file, **refused})
    return rows


def _finished(path: Path) -> dict[str, str]:
    """Name -> what was asked, of the rows that an earlier run ended; a line that it did not end is passed over."""
    if not path.is_file():
        return {}
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[row["name"]] = row["key"]
    return done
