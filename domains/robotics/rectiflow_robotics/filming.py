"""Frames of episodes: by the simulator's own renderer where there is one, else the scene from above, drawn from observations."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rectiflow.errors import StorageError
from rectiflow_robotics.chunks import episode_seed
from rectiflow_robotics.environments import make_environment, suite_of
from rectiflow_robotics.point_reach import draw_plane
from rectiflow_robotics.rollout import Episode
from rectiflow_robotics.simulators import View, Viewpoint, simulator

Array = NDArray[Any]

BACKENDS = ("egl", "osmesa")
"""What mujoco can draw with when there is no screen: a graphics driver, or software (apt-get install libosmesa6)."""
FRAMES = 60
FRAME_RATE = 15
PATIENCE = 300.0  # seconds for one film; software takes a tenth of a second a frame
COLOURS = {"hand": (200, 40, 40), "object": (40, 90, 180), "goal": (40, 160, 80)}


class Film(NamedTuple):
    """Frames (F, H, W, 3) as bytes, and what drew them."""

    frames: Array
    by: str


def film(environment: str, episode: Episode, seed: int, *, size: int = 320) -> Film | None:
    """Frames of a recorded episode of a run's seed, at most FRAMES; None where neither a renderer nor a drawing exists.

    Never fails for want of a renderer. mujoco chooses its renderer when it is imported, so it draws in a process of its own.
    """
    suite = suite_of(environment)
    if episode.observations is None or episode.actions is None:
        return None
    if suite.camera is not None:
        for backend in BACKENDS:
            frames = _rendered(environment, episode_seed(seed, episode.number), episode.actions, size, backend)
            if frames is not None:
                return Film(frames, backend)
    shown = every(len(episode.observations))
    if suite.name == "point":
        return Film(np.stack([_point(seen, size) for seen in episode.observations[shown]]), "drawing")
    if suite.view is None:
        return None
    return Film(from_above(episode.observations, suite.view, size)[shown], "drawing")


def every(count: int) -> Array:
    """Which of `count` moments are shown: at most FRAMES, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int))


def _rendered(environment: str, seed: int, actions: Array, size: int, backend: str) -> Array | None:
    with tempfile.TemporaryDirectory() as scratch:
        order, result = Path(scratch, "order.npz"), Path(scratch, "frames.npy")
        np.savez(order, environment=environment, seed=seed, actions=actions, size=size)
        variables = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        command = [sys.executable, "-m", "rectiflow_robotics.filming", str(order), str(result)]
        try:
            subprocess.run(command, env=variables, check=True, capture_output=True, timeout=PATIENCE)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None
        frames: Array = np.load(result)
        return frames


def render(environment: str, seed: int, actions: Array, size: int) -> Array:
    """Play actions (T, Da) again in the episode of this seed, with the simulator's camera; frames as `every` says."""
    mujoco = simulator("mujoco")
    task = make_environment(environment)
    task.reset(seed=seed)
    base: Any = task.base.unwrapped
    camera: Any = task.suite.camera
    if isinstance(camera, Viewpoint):
        place, camera = camera, mujoco.MjvCamera()
        camera.lookat[:] = place.place
        camera.distance, camera.azimuth, camera.elevation = place.distance, place.azimuth, place.elevation
    mark_goal = getattr(base, "_render_callback", lambda: None)  # Fetch moves its goal's mark only when it is drawn
    frame = base.model.vis.global_  # some simulators provide for small pictures only
    frame.offwidth, frame.offheight = max(frame.offwidth, size), max(frame.offheight, size)
    renderer = mujoco.Renderer(base.model, size * 3 // 4, size)
    shown = set(every(len(actions) + 1).tolist())
    frames = []
    try:
        for step in range(len(actions) + 1):
            if step:
                task.step(actions[step - 1])
            if step in shown:
                mark_goal()
                renderer.update_scene(base.data, camera=camera)
                frames.append(renderer.render().copy())
    finally:
        renderer.close()
    return np.stack(frames)


def _point(observation: Array, size: int) -> Array:
    if observation.ndim == 3:
        picture = Image.fromarray(observation.transpose(1, 2, 0)).resize((size, size), Image.Resampling.NEAREST)
        return np.asarray(picture)
    return draw_plane(observation[:2], observation[2:4], size)


def from_above(observations: Array, view: View, size: int) -> Array:
    """Frames (T, size, size, 3): places in the plane as discs, with the way that hand and object have come."""
    places = [view(observation) for observation in observations]
    points = np.array([[place[name] for name in place] for place in places])  # (T, names, 2)
    low, high = points.min((0, 1)), points.max((0, 1))
    span = max(float((high - low).max()), 1e-3) * 1.3
    corner = (low + high) / 2 - span / 2

    def pixel(place: Array) -> tuple[float, float]:
        right, up = (place - corner) / span * size
        return float(right), float(size - up)

    frames = []
    names = list(places[0])
    for moment in range(len(places)):
        picture = Image.new("RGB", (size, size), "white")
        pen = ImageDraw.Draw(picture)
        for index, name in reversed(list(enumerate(names))):
            trail = [pixel(point) for point in points[: moment + 1, index]]
            if name != "goal" and len(trail) > 1:
                pen.line(trail, fill=COLOURS[name], width=2)
            x, y = trail[-1]
            radius = size / (28 if name == "hand" else 22)
            outline = None if name != "goal" else COLOURS[name]
            pen.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=None if name == "goal" else COLOURS[name],
                outline=outline,
                width=3,
            )
        for line, name in enumerate(names):
            pen.text((8, 8 + 14 * line), name, fill=COLOURS[name])
        frames.append(np.asarray(picture))
    return np.stack(frames)


def write_film(frames: Array, path: Path) -> Path:
    """Frames (F, H, W, 3) as MP4 (H.264), the last one held for a second; sides are cut to multiples of 16.

    Raises:
        MissingDependency: imageio-ffmpeg is not installed.
        StorageError: the file cannot be written.
    """
    ffmpeg = simulator("imageio_ffmpeg")
    height, width = (side // 16 * 16 for side in frames.shape[1:3])
    cut = np.ascontiguousarray(frames[:, :height, :width])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ffmpeg.write_frames(str(path), (width, height), fps=FRAME_RATE, quality=7)
        writer.send(None)
        for frame in (*cut, *[cut[-1]] * FRAME_RATE):
            writer.send(frame)
        writer.close()
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}; choose another out=") from error
    return path


def filmstrip(films: dict[str, Array], columns: int = 6) -> Image.Image:
    """A row of moments a film, its name before it."""
    height, width = next(iter(films.values())).shape[1:3]
    label = 70
    canvas = Image.new("RGB", (label + columns * (width + 4), len(films) * (height + 4)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (name, frames) in enumerate(films.items()):
        pen.text((6, row * (height + 4) + height // 2), name, fill="black")
        for column, moment in enumerate(np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            canvas.paste(Image.fromarray(frames[moment]), (label + column * (width + 4), row * (height + 4)))
    return canvas


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as given:
        np.save(
            sys.argv[2], render(str(given["environment"]), int(given["seed"]), given["actions"], int(given["size"]))
        )
