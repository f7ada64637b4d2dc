"""Interpolants, predictions, latent noise, sources, times, draws and losses."""

from __future__ import annotations

from mutant import Mutant

INTERPOLANTS, PREDICTIONS, TIMES, FLOW = "interpolants.py", "predictions.py", "times.py", "flow.py"
LATENT, SOURCES = "stochastic_interpolant.py", "sources.py"

MUTANTS = (
    Mutant(INTERPOLANTS, "self.rate * s, -self.rate * s", "s, -self.rate * s", "interpolants"),
    Mutant(INTERPOLANTS, "torch.log1p(ratio) / self.rate", "torch.log1p(ratio) * self.rate", "interpolants"),
    Mutant(
        INTERPOLANTS,
        "return self.da * self.s - self.ds * self.a",
        "return self.da * self.s + self.ds * self.a",
        "interpolants predictions",
    ),
    Mutant(INTERPOLANTS, "return self.a / self.s", "return self.s / self.a", "interpolants"),
    Mutant(
        INTERPOLANTS,
        "return Coefficients(t, 1 - t, one, -one)",
        "return Coefficients(1 - t, t, -one, one)",
        "interpolants",
    ),
    Mutant(INTERPOLANTS, "quarter * cosine, -quarter * sine", "quarter * cosine, quarter * sine", "interpolants"),
    Mutant(INTERPOLANTS, "quarter = math.pi / 2", "quarter = math.pi / 4", "interpolants"),
    Mutant(INTERPOLANTS, "self.power * t ** (self.power - 1)", "t ** (self.power - 1)", "interpolants"),
    Mutant(
        INTERPOLANTS, "(1 / (1 / ratio + 1)) ** (1 / self.power)", "(1 / (1 / ratio + 1)) ** self.power", "interpolants"
    ),
    Mutant(
        INTERPOLANTS,
        "u * u * ((self.beta_max - self.beta_min) / 2)",
        "u * u * (self.beta_max - self.beta_min)",
        "interpolants",
    ),
    Mutant(INTERPOLANTS, "a, s, self._rate(u) * a / 2, ds", "a, s, -self._rate(u) * a / 2, ds", "interpolants"),
    Mutant(
        INTERPOLANTS,
        "rate * a / 2, -rate * torch.exp(-integral)",
        "rate * a / 2, -rate * torch.exp(-integral) / 2",
        "interpolants",
    ),
    Mutant(
        INTERPOLANTS,
        "self._time_of_integral(torch.log1p(ratio**-2))",
        "self._time_of_integral(torch.log1p(ratio**2))",
        "interpolants",
    ),
    Mutant(INTERPOLANTS, "slope = 1 - self.sigma_min", "slope = 1 + self.sigma_min", "interpolants"),
    Mutant(INTERPOLANTS, "early = c.a * cosine < c.s * sine", "early = c.a * sine < c.s * cosine", "interpolants"),
    Mutant(
        INTERPOLANTS,
        "torch.sqrt(u * (1 + t)), torch.ones_like(t)",
        "torch.sqrt(u * (1 - t)), torch.ones_like(t)",
        "interpolants",
    ),
    Mutant(
        PREDICTIONS,
        "(c.ds * x + c.determinant * prediction) / c.s",
        "(c.ds * x - c.determinant * prediction) / c.s",
        "predictions",
    ),
    Mutant(
        PREDICTIONS,
        "(c.da * x - c.determinant * noise) / c.a",
        "(c.da * x + c.determinant * noise) / c.a",
        "predictions",
    ),
    Mutant(
        PREDICTIONS,
        'noise = prediction if kind == "noise" else -c.s * prediction',
        'noise = prediction if kind == "noise" else -prediction',
        "predictions",
    ),
    Mutant(
        PREDICTIONS,
        "(c.s * velocity - c.ds * x) / c.determinant",
        "(c.s * velocity + c.ds * x) / c.determinant",
        "predictions",
    ),
    Mutant(
        PREDICTIONS,
        "(c.da * x - c.a * velocity) / c.determinant",
        "(c.da * x - c.s * velocity) / c.determinant",
        "predictions",
    ),
    Mutant(PREDICTIONS, "return -noise / interpolant", "return noise / interpolant", "predictions"),
    Mutant(PREDICTIONS, 'factor = 1 / c.s if kind == "data"', 'factor = 1 / c.a if kind == "data"', "predictions"),
    Mutant(PREDICTIONS, "else c.s / c.a)", "else c.a / c.s)", "predictions"),
    Mutant(PREDICTIONS, "(c.determinant * factor).square()", "c.determinant * factor", "predictions"),
    Mutant(
        PREDICTIONS,
        'low = margin if kind in ("noise", "score") and target',
        'low = margin if kind == "data" and target',
        "predictions",
    ),
    Mutant(TIMES, "torch.sigmoid(self.mean + self.std *", "torch.sigmoid(-self.mean + self.std *", "times"),
    Mutant(TIMES, "torch.where(pick < self.uniform, u, t)", "torch.where(pick < self.uniform, t, u)", "times"),
    Mutant(
        TIMES, "math.sinh(self.sharpness / 2)) / self.sharpness", "math.sinh(self.sharpness)) / self.sharpness", "times"
    ),
    Mutant(TIMES, "(1 - u - self.scale *", "(1 - u + self.scale *", "times"),
    Mutant(TIMES, "t + shift * (1 - t)", "t * shift + (1 - t)", "times"),
    Mutant(
        TIMES,
        "shift_time(i / steps, shift) for i in range(steps + 1)",
        "shift_time(i / steps, shift) for i in range(1, steps + 1)",
        "times sampling",
    ),
    Mutant(
        FLOW, "x1 = map_state(lambda part: part[index], x1)", "x1 = map_state(lambda part: part, x1)", "flow product"
    ),
    Mutant(FLOW, "            target = x1  #", "            target = x0  #", "flow"),
    Mutant("coin.py", "toss < 0.5", "toss < 0.9", "flow"),
    Mutant(
        FLOW,
        'self.interpret(first, "data", draw.xt',
        'self.interpret(first, "velocity", draw.xt',
        "flow",
    ),
    Mutant(
        FLOW,
        "per_sample * velocity_weight(self.predicts",
        "per_sample / velocity_weight(self.predicts",
        "flow predictions",
    ),
    Mutant(FLOW, "self.interpolant, weight_margin)", "self.interpolant)", "weight_margin"),
    Mutant(
        FLOW, "source.state_of_score(s * prediction, cond)", "source.state_of_score(prediction, cond)", "sources flow"
    ),
    Mutant(FLOW, "return source.score(noise, cond) / s", "return source.score(noise, cond) * s", "sources flow"),
    Mutant(
        "conditions.py", "device=first.device) < probability", "device=first.device) > probability", "conditions flow"
    ),
    Mutant(
        "conditions.py",
        "torch.where(coin.reshape((-1,) + (1,) * (value.ndim - 1)), empty[name], value)",
        "torch.where(coin.reshape((-1,) + (1,) * (value.ndim - 1)), value, empty[name])",
        "conditions",
    ),
    Mutant(
        LATENT, "product = self.scale * (1 - 2 * t) / 2", "product = self.scale * (1 - 2 * t)", "stochastic_interpolant"
    ),
    Mutant(LATENT, "g, dg = t * (1 - t), 1 - 2 * t", "g, dg = t * (1 - t), 2 * t - 1", "stochastic_interpolant"),
    Mutant(
        LATENT, "math.pi * torch.sin(2 * math.pi * t)", "math.pi * torch.sin(math.pi * t)", "stochastic_interpolant"
    ),
    Mutant(
        LATENT,
        "dg = f * (left * (1 - left) - right * (1 - right))",
        "dg = f * (left * (1 - left) + right * (1 - right))",
        "stochastic_interpolant",
    ),
    Mutant(LATENT, "dk = -gdg / k", "dk = gdg / k", "stochastic_interpolant"),
    Mutant(LATENT, "torch.cat([part, -part])", "torch.cat([part, part])", "stochastic_interpolant"),
    Mutant(
        LATENT,
        "ds = (near.s * near.ds + near_latent.gdg)",
        "ds = (near.s * near.ds - near_latent.gdg)",
        "stochastic_interpolant",
    ),
    Mutant(LATENT, "return drift - gdg.reshape(", "return drift + gdg.reshape(", "stochastic_interpolant"),
    Mutant(
        SOURCES,
        "return -centred / _like(self.scale, x0).square()",
        "return -centred / _like(self.scale, x0)",
        "sources",
    ),
    Mutant(SOURCES, "torch.sqrt(self.degrees / (2 * gamma))", "torch.sqrt(self.degrees / gamma)", "sources"),
    Mutant(
        SOURCES,
        "shape_parameter = torch.full((len(normal),), self.degrees / 2,",
        "shape_parameter = torch.full((len(normal),), self.degrees,",
        "sources",
    ),
    Mutant(SOURCES, "(entries + degrees) / 2 * torch.log1p(", "(entries + degrees) * torch.log1p(", "likelihood"),
    Mutant(
        "path_conversion.py",
        "gain = (new.da * old.s - new.ds * old.a)",
        "gain = (new.da * old.s + new.ds * old.a)",
        "path_conversion",
    ),
    Mutant("path_conversion.py", "prediction, inner)", "prediction, x)", "path_conversion"),
    Mutant(
        "adapters.py",
        "self.model(x, self.scale * (1 - t), **cond)",
        "self.model(x, self.scale * t, **cond)",
        "adapters",
    ),
    Mutant("adapters.py", "return -output", "return output", "adapters"),
    Mutant("mean_reversion.py", "(x + (1 - c.a - c.s) *", "(x - (1 - c.a - c.s) *", "mean_reversion"),
)
