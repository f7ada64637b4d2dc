"""Couplings and bridges."""

from __future__ import annotations

from mutant import Mutant

COSTS, PLANS, BRIDGE = "couplings/costs.py", "couplings/plans.py", "couplings/bridge.py"

MUTANTS = (
    Mutant(COSTS, "(rows[:, None] != rows[None])", "(rows[:, None] == rows[None])", "couplings"),
    Mutant(
        COSTS,
        "cost = cost + condition_weight * scale * mismatch",
        "cost = cost - condition_weight * scale * mismatch",
        "couplings",
    ),
    Mutant(
        "couplings/optimal_transport.py",
        "index = assignment(cost)",
        "index = assignment(-cost)",
        "couplings",
    ),
    Mutant("couplings/optimal_transport.py", "assignment(cost).to", "assignment(cost).argsort().to", "couplings"),
    Mutant("couplings/assignment.py", "(reduced.numpy())[1]", "(reduced.numpy())[0]", "couplings"),
    Mutant("couplings/assignment.py", "kernel).add_(f[:, None])", "kernel).sub_(f[:, None])", "couplings/assignment"),
    Mutant("couplings/assignment.py", "regularisation * u.log()", "u.log()", "couplings/assignment"),
    Mutant("couplings/assignment.py", "(reduced - f.double()", "(reduced + f.double()", "couplings/assignment"),
    Mutant(
        "couplings/permutation.py",
        "places[assignment(cost)]",
        "places[assignment(cost).argsort()]",
        "couplings/permutation",
    ),
    Mutant(
        "couplings/permutation.py",
        "permutation[sample, places] = places[assignment(cost)]",
        "permutation[sample, places] = places[assignment(-cost)]",
        "couplings/permutation",
    ),
    Mutant(
        "couplings/permutation.py",
        "space = space.components[self.by] if isinstance(space, Product) else None",
        "space = None",
        "couplings/permutation",
    ),
    Mutant("couplings/aligned.py", "(squares - 2 * gain)", "(squares - gain)", "couplings/aligned"),
    Mutant("couplings/aligned.py", '"ina,jnb->ijab"', '"ina,jnb->ijba"', "couplings/aligned"),
    Mutant(
        "couplings/aligned.py",
        "multiply(turn.reshape(-1, *(1,) * (frames.ndim - 2), 4), frames)",
        "multiply(frames, turn.reshape(-1, *(1,) * (frames.ndim - 2), 4))",
        "couplings/aligned",
    ),
    Mutant("spaces/superposition.py", "(yz - zy, xx - yy - zz", "(zy - yz, xx - yy - zz", "couplings/aligned"),
    Mutant(
        "couplings/partial.py",
        "round(self.share * batch_size(x1))",
        "round(self.share * batch_size(x1)) - 1",
        "couplings/partial",
    ),
    Mutant(
        "couplings/partial.py",
        "source[rows], index[rows] = rows, columns",
        "source[rows], index[rows] = rows, rows",
        "couplings/partial",
    ),
    Mutant(PLANS, "penalty / (penalty + reg)", "reg / (penalty + reg)", "couplings/unbalanced couplings/sinkhorn"),
    Mutant(
        PLANS,
        "torch.exp((f[:, None] + g - self.cost) / reg",
        "torch.exp((f[:, None] + g + self.cost) / reg",
        "couplings/sinkhorn",
    ),
    Mutant(
        PLANS,
        "torch.exp(self.log_a - f / self.source_penalty)",
        "torch.exp(self.log_a + f / self.source_penalty)",
        "couplings/unbalanced couplings/sinkhorn",
    ),
    Mutant(
        "couplings/entropic.py",
        "self.regularisation * (scale if self.relative else 1.0)",
        "self.regularisation * (1.0 if self.relative else scale)",
        "couplings/entropic",
    ),
    Mutant(
        "couplings/entropic.py",
        "(gumbel - cost / regularisation)",
        "(gumbel + cost / regularisation)",
        "couplings/entropic",
    ),
    Mutant(BRIDGE, "            2 * self.sigma**2,", "            self.sigma**2,", "couplings/bridge"),
    Mutant("score_and_flow.py", "part * (2 / self.sigma**2)", "part * (1 / self.sigma**2)", "score_and_flow"),
    Mutant(
        "score_and_flow.py",
        "(draw.t * (1 - draw.t)).sqrt() / self.sigma",
        "(draw.t * (1 - draw.t)) / self.sigma",
        "score_and_flow",
    ),
    Mutant("score_and_flow.py", "map_state(torch.neg, draw.latent)", "draw.latent", "score_and_flow"),
    Mutant("score_and_flow.py", "BrownianLatent(self.sigma**2)", "BrownianLatent(self.sigma)", "score_and_flow"),
)
