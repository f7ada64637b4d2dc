"""Solvers, the field they see, guidance and sampling."""

from __future__ import annotations

from mutant import Mutant

FIELD, SAMPLING = "solvers/field.py", "sampling.py"

MUTANTS = (
    Mutant(
        "solvers/dopri5.py",
        "space.pull(x, space.combine(slopes, weights), h, found)",
        "space.pull(x, space.combine(slopes, weights), -h, found)",
        "spaces/solving",
    ),
    Mutant(
        "solvers/dopri5.py",
        "return y, slopes, space.tangent(y, found)",
        "return y, slopes, slopes[-1]",
        "spaces/solving",
    ),
    Mutant(
        "solvers/implicit_midpoint.py",
        "space.transport(halfway, x, field(halfway, middle))",
        "space.transport(x, halfway, field(halfway, middle))",
        "spaces/solving",
    ),
    Mutant("solvers/euler.py", "x = space.step(x, v, t_next - t)", "x = space.step(x, v, t - t_next)", "solvers"),
    Mutant("solvers/euler.py", "v = field(x, t)", "v = field(x, t_next)", "solvers"),
    Mutant("solvers/midpoint.py", "space.step(x, v, h / 2), t + h / 2)", "space.step(x, v, h / 2), t + h)", "solvers"),
    Mutant("solvers/midpoint.py", "field(space.step(x, v, h / 2), t", "field(space.step(x, v, h), t", "solvers"),
    Mutant("solvers/heun.py", "(0.5, 0.5)", "(0.6, 0.4)", "solvers"),
    Mutant("solvers/heun.py", "field(space.step(x, v, h), t_next)", "field(space.step(x, v, h), t)", "solvers"),
    Mutant("solvers/rk4.py", "(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "(1 / 3, 1 / 6, 1 / 6, 1 / 3)", "solvers"),
    Mutant(
        "solvers/rk4.py",
        "field(space.step(x, v2, h / 2), middle)",
        "field(space.step(x, v1, h / 2), middle)",
        "solvers",
    ),
    Mutant("solvers/rk4.py", "field(space.step(x, v3, h), t_next)", "field(space.step(x, v3, h), middle)", "solvers"),
    Mutant("solvers/rk4.py", "(1 / 4, 3 / 4)", "(3 / 4, 1 / 4)", "solvers/ends"),
    Mutant("solvers/rk4.py", "near, far = h / 3, 2 * h / 3", "near, far = h / 4, 3 * h / 4", "solvers/ends"),
    Mutant("solvers/heun.py", "if field.untold(t_next):", "if False:", "solvers/ends"),
    Mutant("solvers/pseudo_corrector.py", "if field.untold(t_next):", "if False:", "solvers/ends"),
    Mutant("solvers/dopri5.py", "space.step(x, v, times[-1] - t)", "x", "solvers/ends"),
    Mutant(SAMPLING, "(times[0] + times[1]) / 2", "times[0]", "solvers/ends"),
    Mutant(FIELD, "self._inside[0] if time < 0.5 else self._inside[1]", "time", "solvers/ends"),
    Mutant("predictions.py", 'kind == "data" or target == "score"', 'kind == "data"', "solvers/ends"),
    Mutant("flow.py", "return t.clamp(low, high) if low > 0 or high < 1 else t", "return t", "solvers/ends"),
    Mutant("solvers/ab2.py", "(1 + r / 2, -r / 2)", "(1 + r, -r)", "solvers/multistep"),
    Mutant("solvers/ab2.py", "r = h / h_behind", "r = h_behind / h", "solvers/multistep"),
    Mutant("solvers/fireflow.py", "v_mid = field(x_mid, t + h / 2)", "v_mid = field(x_mid, t)", "solvers/multistep"),
    Mutant(
        "solvers/fireflow.py", "x_mid = space.step(x, v, h / 2)", "x_mid = space.step(x, v, h)", "solvers/multistep"
    ),
    Mutant(
        "solvers/pseudo_corrector.py", "v_end = field(x_end, t_next)", "v_end = field(x_end, t)", "solvers/multistep"
    ),
    Mutant("solvers/pseudo_corrector.py", "(0.5, 0.5)", "(1.0, 0.0)", "solvers/multistep"),
    Mutant(
        "solvers/exponential.py",
        "return ratio, self.lead[i + 1] - ratio * self.lead[i]",
        "return ratio, self.lead[i + 1] + ratio * self.lead[i]",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/exponential.py",
        "lead, fade = (a, s) if forwards else (s, a)",
        "lead, fade = (a, s)",
        "solvers/exponential",
    ),
    Mutant("solvers/exponential.py", "zeroth = -math.expm1(-h)", "zeroth = math.expm1(h)", "solvers/exponential"),
    Mutant("solvers/exponential.py", "second = h * h - 2 * first", "second = h * h - first", "solvers/exponential"),
    Mutant(
        "solvers/dpmpp_2m.py",
        "(keep, weight * (1 + ahead), -weight * ahead)",
        "(keep, weight * (1 - ahead), weight * ahead)",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/dpmpp_2m.py",
        "(2 * (path.clock[i] - path.clock[i - 1]))",
        "(path.clock[i] - path.clock[i - 1])",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/exponential.py",
        "slope = (first - d0 * zeroth) / (d1 - d0)",
        "slope = (first + d0 * zeroth) / (d1 - d0)",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/exponential.py",
        "near, far = bend / (d0 - d2), bend / (d1 - d2)",
        "near, far = bend / (d1 - d2), bend / (d0 - d2)",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/exponential.py",
        "return min(known, newest - self.first + 1)",
        "return min(known, newest - self.first)",
        "solvers/exponential",
    ),
    Mutant(
        "solvers/exponential.py", "self.first <= i < self.last", "self.first < i < self.last", "solvers/exponential"
    ),
    Mutant(
        "solvers/noise.py",
        "(amount * weights[0], 1 + amount * weights[1])",
        "(amount * weights[0], 1 - amount * weights[1])",
        "solvers/stochastic",
    ),
    Mutant(
        "solvers/reinterpolate.py",
        "(path.lead[i + 1], path.fade[i + 1])",
        "(path.lead[i], path.fade[i])",
        "solvers/reinterpolate",
    ),
    Mutant("solvers/norms.py", "** 2", "** 1", "solvers/dopri5"),
    Mutant("times.py", "shift_time(i / steps, shift)", "shift_time(i / steps, 1 / shift)", "times sampling"),
    Mutant("coin.py", "return bool(toss < 0.5)", "return bool(toss < 0.25)", "coin"),
    Mutant(FIELD, "if found != wanted:", "if found[1:] != wanted[1:]:", "solvers/integrate"),
    Mutant("solvers/dopri5.py", "-2187 / 6784", "2187 / 6784", "solvers/dopri5"),
    Mutant(
        "solvers/dopri5.py",
        "NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9",
        "NODES = (1 / 5, 3 / 10, 8 / 9, 4 / 5",
        "solvers/dopri5",
    ),
    Mutant("solvers/dopri5.py", "share * share * (3 - 2 * share)", "share * share * (2 - share)", "solvers/dopri5"),
    Mutant("solvers/dopri5.py", "if error > 1:", "if error > 100:", "solvers/dopri5"),
    Mutant("solvers/reversible_heun.py", "(2.0, -1.0, h)", "(2.0, -1.0, h / 2)", "solvers/reversible"),
    Mutant(
        "solvers/implicit_midpoint.py", "space.step(x, slope, h / 2)", "space.step(x, slope, h)", "solvers/reversible"
    ),
    Mutant(
        FIELD,
        "torch.lerp(unconditional, conditional, scale)",
        "torch.lerp(conditional, unconditional, scale)",
        "guidance",
    ),
    Mutant(
        FIELD, "conditional, unconditional = pair.chunk(2)", "unconditional, conditional = pair.chunk(2)", "guidance"
    ),
    Mutant(FIELD, "        self.evaluations += 1\n\n        def guide", "\n        def guide", "guidance sampling"),
    Mutant(
        "control/guidance.py",
        "return self.scale if low <= time <= high else 1.0",
        "return self.scale if low <= time < high else 1.0",
        "guidance",
    ),
    Mutant("control/guidance.py", "if low <= time <= high else 1.0", "if low <= time <= high else 0.0", "guidance"),
    Mutant(SAMPLING, "bad.append(step + 1)", "bad.append(step)", "sampling"),
)
