"""Make docs/gallery.png, 2-D flows from a Gaussian to eight modes: `python docs/gallery.py` (about twenty seconds).

First row: trajectories of the closed-form flow on each interpolant, no network involved. Second row: the pairs that each coupling
makes in one batch, with Brownian bridges where they are its paths. Third row: samplers, and the flow
rectified by a small network.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from rectiflow import couplings, rectify
from rectiflow.analytic import MixtureFlow
from rectiflow.diagnostics import straightness, transport_cost
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, SubVariancePreserving, Trigonometric, VariancePreserving
from rectiflow.sampling import integrate
from rectiflow.stochastic_interpolant import BrownianLatent, StochasticInterpolant
from rectiflow.times import UShaped
from rectiflow.training.options import TrainingOptions

MODES, RADIUS, SPREAD, REACH = 8, 3.2, 0.22, 4.3
SHOWN, BATCH = 160, 112
INK, SOURCE, DATA = "#2b3138", "#a3abb4", "#24507a"
TIME = LinearSegmentedColormap.from_list("time", ["#d5d9de", "#8fb3d3", "#2f6ea5"])
"""Colours along a path, from t = 0 to t = 1."""
WALK = LinearSegmentedColormap.from_list("walk", ["#e3dcd3", "#dda878", "#c0632f"])
"""The same where noise is added on the way."""


class Panel(NamedTuple):
    """One picture: what it shows, a line of detail, paths (n, points, 2), and their colours."""

    title: str
    note: str
    paths: Tensor
    colours: LinearSegmentedColormap = TIME


class Perceptron(nn.Module):
    """A velocity network of four hidden layers: the rectified flow is a map with sharp creases between the modes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (3, width, width, width, width)
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, 2) at x (B, 2), t (B,)."""
        velocity: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return velocity


def eight_modes(interpolant: Interpolant) -> MixtureFlow:
    """Eight narrow Gaussians on a circle."""
    angle = (torch.arange(MODES) + 0.5) * (2 * torch.pi / MODES)
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return MixtureFlow([1.0] * MODES, means, SPREAD**2 * torch.eye(2).expand(MODES, 2, 2), interpolant)


def states(
    flow: Flow, x0: Tensor, steps: int, method: str = "midpoint", generator: torch.Generator | None = None
) -> Tensor:
    """(n, steps + 1, 2) states on the way."""
    return torch.stack(
        integrate(flow, x0, steps=steps, method=method, trajectory=True, generator=generator).trajectory or [], 1
    )


def interpolant_row(x0: Tensor) -> list[Panel]:
    """Trajectories of the exact flow, dotted at equal times."""
    latent = StochasticInterpolant(Linear(), BrownianLatent(1.0)).one_sided()
    paths: list[tuple[str, str, Interpolant]] = [
        ("linear", "$a=t,\\ s=1-t$", Linear()),
        ("trigonometric", "$a=\\sin\\,\\pi t/2,\\ s=\\cos\\,\\pi t/2$", Trigonometric()),
        ("variance preserving", "$a=e^{-T/2},\\ s^2=1-a^2$", VariancePreserving()),
        ("sub-VP", "$a=e^{-T/2},\\ s=1-a^2$", SubVariancePreserving()),
        ("latent noise", "$a=t,\\ s=1-t,\\ g^2=t(1-t)$", latent),
    ]
    return [Panel(title, note, states(eight_modes(path).flow(), x0, 64)) for title, note, path in paths]


def coupling_row(x0: Tensor, x1: Tensor, generator: torch.Generator) -> list[Panel]:
    """Pairs of one batch."""
    rules: list[tuple[str, couplings.Coupling]] = [
        ("independent", couplings.Independent()),
        ("entropic", couplings.EntropicOT(0.1)),
        ("exact optimal transport", couplings.MinibatchOT()),
        ("partial, 70 percent", couplings.PartialOT(0.7)),
    ]
    panels = []
    for title, rule in rules:
        pairs = rule(x0, x1, generator=generator)
        ends = torch.stack([pairs.x0, pairs.x1], 1)
        panels.append(Panel(title, f"cost {float(transport_cost(*ends.unbind(1))):.1f}", ends))
    return [*panels, bridges(1.0, x0, x1, generator)]


def bridges(sigma: float, x0: Tensor, x1: Tensor, generator: torch.Generator, steps: int = 64) -> Panel:
    """Brownian bridges between ends from the bridge's own plan: random walks, pinned at both ends."""
    pairs = couplings.SchroedingerBridge(sigma)(x0, x1, generator=generator)
    t = torch.linspace(0, 1, steps + 1)[:, None]
    walk = torch.randn(len(x0), steps, 2, generator=generator).cumsum(1) * (sigma / steps**0.5)
    walk = torch.cat([torch.zeros(len(x0), 1, 2), walk], 1)
    paths = torch.lerp(pairs.x0[:, None], pairs.x1[:, None], t) + walk - t * walk[:, -1:]
    cost = float(transport_cost(pairs.x0, pairs.x1))
    return Panel("Schrödinger bridge", f"cost {cost:.1f}, $\\sigma={sigma:g}$", paths, WALK)


def rectified(teacher: Flow, seed: int) -> Flow:
    """The teacher rectified once, with a network small enough to train while one watches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # initial weights come from torch's global generator
        network = Perceptron()
    options = TrainingOptions(steps=2500, batch=256, learning_rate=5e-3, warmup=50, ema=0.99, log_every=500, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        pairs = rectify.generate_pairs(
            teacher, folder, count=8000, shape=(2,), steps=40, method="midpoint", seed=seed, batch=1000
        )
        return rectify.reflow(teacher, pairs, student=network, times=UShaped(10.0), options=options)


def sampling_row(x0: Tensor, generator: torch.Generator, seed: int) -> list[Panel]:
    """From many steps to one."""
    flow = eight_modes(Linear()).flow()
    student = rectified(flow, seed)
    before, after = (float(straightness(which, x0, relative=True)) for which in (flow, student))
    noisy = states(flow, x0[: SHOWN // 2], 120, "euler_maruyama", generator)
    return [
        Panel("stochastic sampler", "120 steps, $\\varepsilon=s$", noisy, WALK),
        Panel("Euler, 4 steps", f"straightness {before:.3f}", states(flow, x0, 4, "euler")),
        Panel("Euler, 1 step", "the mean of all data", states(flow, x0, 1, "euler")),
        Panel("rectified, 64 steps", f"straightness {after:.3f}", states(student, x0, 64)),
        Panel("rectified, 1 step", "a learnt network", states(student, x0, 1, "euler")),
    ]


def fill(paths: Tensor, points: int = 17) -> Tensor:
    """Straight pieces cut up, so that colour can change along them."""
    between = -(-points // (paths.shape[1] - 1))
    share = (torch.arange(between) / between)[:, None]
    inner = torch.lerp(paths[:, :-1, None], paths[:, 1:, None], share).flatten(1, 2)
    return torch.cat([inner, paths[:, -1:]], 1)


def draw(axes: Axes, panel: Panel) -> None:
    """Paths coloured by time, with dots where they start and end."""
    paths = panel.paths.numpy()
    fine = fill(panel.paths)
    pieces = torch.stack([fine[:, :-1], fine[:, 1:]], 2).reshape(-1, 2, 2).numpy()
    time = torch.linspace(0, 1, fine.shape[1])[1:].repeat(len(fine)).numpy()
    lines = LineCollection(list(pieces), cmap=panel.colours, linewidths=0.5, alpha=0.8, capstyle="butt", zorder=1)
    lines.set(array=time, clim=(0, 1))
    axes.add_collection(lines)
    axes.scatter(paths[:, 0, 0], paths[:, 0, 1], s=3, color=SOURCE, linewidths=0, zorder=2)
    axes.scatter(paths[:, -1, 0], paths[:, -1, 1], s=5, color=DATA, linewidths=0, zorder=3)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    axes.set_frame_on(False)
    axes.set_title(panel.title, fontsize=8.5, color=INK, pad=2)
    axes.text(0.5, -0.01, panel.note, fontsize=7, color="#69727c", ha="center", va="top", transform=axes.transAxes)


def figure(rows: list[tuple[str, list[Panel]]]) -> Figure:
    """One row of panels under another, named at the left."""
    columns = max(len(panels) for _, panels in rows)
    sheet = Figure(figsize=(1.75 * columns + 0.3, 2.1 * len(rows)), dpi=140, facecolor="white")
    grid = sheet.subplots(len(rows), columns, squeeze=False)
    sheet.subplots_adjust(left=0.035, right=0.998, top=0.965, bottom=0.03, wspace=0.03, hspace=0.22)
    for (name, panels), line in zip(rows, grid, strict=True):
        line[0].text(
            -0.06, 0.5, name, fontsize=9, weight="bold", color=INK, rotation=90, ha="right", va="center",
            transform=line[0].transAxes,
        )  # fmt: skip
        for axes, panel in zip(line, panels, strict=True):
            draw(axes, panel)
    return sheet


def write(sheet: Figure, path: Path) -> None:
    """As a palette image: lines of few colours take a third of the room."""
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gallery.png"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    x0, a = (torch.randn(n, 2, generator=generator) for n in (SHOWN, BATCH))
    b = eight_modes(Linear()).sample(BATCH, generator)
    rows = [
        ("interpolants", interpolant_row(x0)),
        ("couplings", coupling_row(a, b, generator)),
        ("sampling", sampling_row(x0, generator, arguments.seed)),
    ]
    write(figure(rows), arguments.out)


if __name__ == "__main__":
    main()
