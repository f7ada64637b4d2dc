"""Few-step students of one time: pairs, segments, step costs, refined steps."""

from __future__ import annotations

from mutant import Mutant

ANNEALING, PHASED, COSTS = "rectify/annealing.py", "rectify/phased.py", "rectify/optimal_steps.py"
COUNTING = "rectify/counting.py"
TURBO, MARGINAL, GUIDED = "solvers/flow_turbo.py", "rectify/marginal_transport.py", "rectify/guided_distillation.py"
DISTANCES, REINTERPOLATE = "rectify/distances.py", "solvers/reinterpolate.py"
RECTIFIED, REFINER = "rectify/rectified_flow.py", "rectify/refiner.py"

MUTANTS = (
    Mutant(ANNEALING, "keep = math.sqrt(1 - beta**2)", "keep = 1 - beta", "rectify/annealing"),
    Mutant(PHASED, "(c.a - a[0]) / reach, Linear()", "c.a, Linear()", "rectify/phased"),
    Mutant(PHASED, "columns(c.da / reach, part) * part", "columns(c.da, part) * part", "rectify/phased"),
    Mutant(
        PHASED, "determinant = s[0] * a[1] - s[1] * a[0]", "determinant = s[0] * a[1] + s[1] * a[0]", "rectify/phased"
    ),
    Mutant(COSTS, "value = self.costs[:, fine]", "value = self.costs[:, fine - 1]", "rectify/optimal_steps"),
    Mutant(COSTS, "for _ in range(steps - 1):", "for _ in range(steps):", "rectify/optimal_steps"),
    Mutant(
        COSTS,
        "space.step(states[i], velocity, grid[j] - grid[i])",
        "space.step(states[i], velocity, grid[j])",
        "rectify/optimal_steps",
    ),
    Mutant(
        TURBO,
        "(start, space.pull(x, start, h, end)), (0.5, 0.5), h)",
        "(start, space.pull(x, start, h, end)), (1.0, 0.0), h)",
        "solvers/flow_turbo",
    ),
    Mutant(
        TURBO,
        "return reached, space.transport(predicted, reached, end)",
        "return reached, space.transport(x, reached, start)",
        "solvers/flow_turbo",
    ),
    Mutant(
        TURBO, "2 * self.heun + self.pseudo + (self.heun == 0)", "2 * self.heun + self.pseudo", "solvers/flow_turbo"
    ),
    Mutant(MARGINAL, "support.step >= self.dist", "support.step <= self.dist", "rectify/marginal_transport"),
    Mutant(MARGINAL, "weighed(error, self.power,", "weighed(error, -self.power,", "rectify/marginal_transport"),
    Mutant(COUNTING, "self.samples += batch_size(x)", "self.samples += 1", "rectify/distillation"),
    Mutant(MARGINAL, "rest = 1 - draw.t", "rest = draw.t", "rectify/marginal_transport"),
    Mutant(
        MARGINAL,
        "s - (u - v), step, average, target)",
        "s + (u - v), step, average, target)",
        "rectify/marginal_transport",
    ),
    Mutant(GUIDED, "_scaled(rest, 1 - t)", "_scaled(rest, t)", "rectify/guided_distillation"),
    Mutant(GUIDED, "_scaled(velocity, t)", "_scaled(velocity, 1 - t)", "rectify/guided_distillation"),
    Mutant(DISTANCES, "c = self.scale * d", "c = self.scale * d.sqrt()", "peer_bugs rectify/distances"),
    Mutant(
        DISTANCES,
        "squares / ((squares + c.square()).sqrt() + c) / d",
        "squares / ((squares + c.square()).sqrt() + c)",
        "peer_bugs rectify/distances",
    ),
    Mutant(
        REINTERPOLATE,
        "space.combine((data, x0)",
        "space.combine((data, x)",
        "solvers/reinterpolate",
    ),
    Mutant(RECTIFIED, "error = draw.t * error", "error = (1 - draw.t) * error", "rectify/rectified_flow"),
    Mutant(RECTIFIED, "(1 - draw.t).clamp(min=MARGIN)", "draw.t.clamp(min=MARGIN)", "rectify/rectified_flow"),
    Mutant(
        RECTIFIED,
        "kind = self.compare or flow.predicts",
        "kind = flow.predicts",
        "rectify/rectified_flow",
    ),
    Mutant(MARGINAL, "times=torch.zeros(size", "times=torch.ones(size", "rectify/marginal_transport"),
    Mutant("rectify/one_step.py", "times=step / self.steps", "times=(step + 1) / self.steps", "rectify/one_step"),
    Mutant(REFINER, "draw.t + later, xt=x", "draw.t, xt=x", "rectify/refiner"),
    Mutant(REFINER, "columns(later, v) * v, before", "-columns(later, v) * v, before", "rectify/refiner"),
    Mutant(REFINER, "times=u * (1 - later)", "times=u", "rectify/refiner"),
    Mutant(
        "rectify/guidance_condition.py",
        "torch.lerp(unconditional, conditional, scale)",
        "torch.lerp(conditional, unconditional, scale)",
        "rectify/online",
    ),
    Mutant("rectify/online.py", "replace(batch, x0=x0, x1=x1)", "replace(batch, x0=x1, x1=x0)", "rectify/online"),
    Mutant("rectify/selection.py", "descending=True", "descending=False", "rectify/selection"),
    Mutant("rectify/selection.py", "scores >= least", "scores < least", "rectify/selection"),
    Mutant("rectify/mixture.py", "(wanted[mine] - part.first)", "wanted[mine]", "rectify/selection"),
    Mutant("rectify/mixture.py", "torch.cat(places).argsort()", "torch.cat(places)", "rectify/selection"),
)
