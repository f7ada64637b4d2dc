"""Average velocities: MeanFlow, shortcut models, flow maps, dispersive regularisation, and how their flows are called."""

from __future__ import annotations

from mutant import Mutant

MEAN, SHORT, MAP = "rectify/mean_flow.py", "rectify/shortcut.py", "rectify/flow_map.py"
DISPERSIVE, DERIVATIVE, METHOD = "rectify/dispersive.py", "rectify/derivative.py", "rectify/method.py"

MUTANTS = (
    Mutant(MEAN, "v + columns(end - start, v) * du", "v - columns(end - start, v) * du", "rectify/mean_flow"),
    Mutant(MEAN, "columns(end - start, v) * du", "columns(start, v) * du", "rectify/mean_flow"),
    Mutant(MEAN, "Direction(v, 1.0, 0.0)", "Direction(v, 1.0, 1.0)", "rectify/mean_flow"),
    Mutant(MEAN, "Direction(v, 1.0, 0.0)", "Direction(v, -1.0, 0.0)", "rectify/mean_flow"),
    Mutant(METHOD, ".pow(-power)", ".pow(power)", "rectify/mean_flow"),
    Mutant(METHOD, "error.detach() + offset", "error.detach().square() + offset", "rectify/mean_flow"),
    Mutant(METHOD, "(error.detach() +", "(error +", "rectify/mean_flow"),
    Mutant(METHOD, "device=device) < jumps", "device=device) > jumps", "rectify/mean_flow"),
    Mutant(METHOD, "math.floor(share * count +", "math.ceil(share * count +", "rectify/mean_flow"),
    Mutant(METHOD, "torch.minimum(first, second), first)", "torch.maximum(first, second), first)", "rectify/mean_flow"),
    Mutant(MEAN, "LogitNormal(mean=0.4)", "LogitNormal(mean=-0.4)", "rectify/mean_flow"),
    Mutant(DERIVATIVE, "columns(forth - back, ahead)", "columns(forth, ahead)", "rectify/mean_flow"),
    Mutant(DERIVATIVE, "(1 - time if speed > 0 else time)", "(time if speed > 0 else 1 - time)", "rectify/derivative"),
    Mutant(DERIVATIVE, "speed = rate if step > 0 else -rate", "speed = rate", "rectify/derivative"),
    Mutant(METHOD, "columns(draw.cond[SCALE].to(with_), with_)", "1.0", "rectify/guidance_input"),
    Mutant(
        "rectify/guidance_condition.py", "low * (high / low) ** u", "low + (high - low) * u", "rectify/guidance_input"
    ),
    Mutant("nn/embeddings.py", "torch.log1p(ratio)", "ratio", "nn/embeddings"),
    Mutant("nn/embeddings.py", "scale=other.time_scale", "scale=own.time_scale", "nn/embeddings"),
    Mutant(DERIVATIVE, "until + by * direction.duntil", "until", "rectify/mean_flow rectify/shortcut"),
    Mutant(DERIVATIVE, "_dual(until, direction.duntil)", "_dual(until, direction.dt)", "rectify/mean_flow"),
    Mutant(
        METHOD,
        "torch.lerp(without, with_, guidance), velocity, empty)\n\n\ndef target",
        "torch.lerp(with_, without, guidance), velocity, empty)\n\n\ndef target",
        "rectify/mean_flow",
    ),
    Mutant(
        METHOD,
        "return torch.lerp(without, with_, guidance)",
        "return torch.lerp(with_, without, guidance)",
        "rectify/mean_flow",
    ),
    Mutant("nn/plain_operations.py", "1 / math.sqrt(query.shape[-1])", "1 / query.shape[-1]", "nn/plain_operations"),
    Mutant("nn/plain_operations.py", "attn_mask = torch.ones(", "attn_mask = ~torch.ones(", "nn/plain_operations"),
    Mutant("nn/plain_operations.py", "masked_fill(~attn_mask", "masked_fill(attn_mask", "nn/plain_operations"),
    Mutant("nn/plain_operations.py", "keepdim=True) + eps)", "keepdim=True))", "nn/plain_operations"),
    Mutant(SHORT, "half = length / 2", "half = length", "rectify/shortcut"),
    Mutant(
        SHORT, "rows_of_draw(draw, slice(jumps, None))", "rows_of_draw(draw, slice(size - jumps))", "rectify/shortcut"
    ),
    Mutant(SHORT, "            t = t + half\n", "", "rectify/shortcut"),
    Mutant(SHORT, "torch.where(shortest, t, t + half)", "torch.where(shortest, t, t + length)", "rectify/shortcut"),
    Mutant(SHORT, "torch.where(shortest, t, t + half)", "t + half", "rectify/shortcut"),
    Mutant(SHORT, "2.0 ** (1 - self.levels)", "2.0 ** (2 - self.levels)", "rectify/shortcut"),
    Mutant(SHORT, "part / columns(length, part)", "part / columns(half, part)", "rectify/shortcut"),
    Mutant(SHORT, "return place / pieces, 1 / pieces", "return place / pieces, 2 / pieces", "rectify/shortcut"),
    Mutant(SHORT, "[draw.t[:jumps] + length, draw.t[jumps:]]", "[draw.t[:jumps], draw.t[jumps:]]", "rectify/shortcut"),
    Mutant(
        MAP,
        "part + columns(end - start, part) * du",
        "part - columns(end - start, part) * du",
        "rectify/shortcut",
    ),
    Mutant(MAP, "(x + columns(until - draw.t, part) * part)", "(x + columns(until, part) * part)", "rectify/shortcut"),
    Mutant(MAP, "Direction(None, 0.0, 1.0)", "Direction(None, 1.0, 0.0)", "rectify/shortcut"),
    Mutant(MAP, "differentiable=True", "differentiable=False", "rectify/shortcut"),
    Mutant(MAP, "velocity_of(teacher, end, until,", "velocity_of(teacher, end, draw.t,", "rectify/shortcut"),
    Mutant(
        DISPERSIVE,
        "_log_mean_exp(-distances / temperature)",
        "_log_mean_exp(distances / temperature)",
        "rectify/dispersive",
    ),
    Mutant(
        DISPERSIVE, "(unit @ unit.mT - 1) / temperature", "(1 - unit @ unit.mT) / temperature", "rectify/dispersive"
    ),
    Mutant(DISPERSIVE, "/ h.shape[1]", "/ h.shape[0] ** 2", "rectify/dispersive"),
    Mutant(DISPERSIVE, "margin - distances[other]", "distances[other] - margin", "rectify/dispersive"),
    Mutant(DISPERSIVE, "math.log(values.numel())", "math.log(len(values))", "rectify/dispersive"),
    Mutant(DISPERSIVE, "centred = unit - unit.mean(0)", "centred = unit", "rectify/dispersive"),
    Mutant(DISPERSIVE, "total + self.weight * spread", "total - self.weight * spread", "rectify/dispersive"),
    Mutant("solvers/jump.py", "space.step(x, u, t_next - t)", "space.step(x, u, t - t_next)", "rectify/shortcut"),
    Mutant("solvers/jump.py", "field.average(x, t, t_next)", "field.average(x, t, t)", "rectify/shortcut"),
    Mutant("flow.py", "until=t if until is None else until", "until=t", "rectify/mean_flow"),
    Mutant(
        "analytic.py",
        "(self.flow_map(x, t, until) - x) / length",
        "(x - self.flow_map(x, t, until)) / length",
        "rectify/mean_flow",
    ),
    Mutant(
        "training/ema.py", "parameter.data = average  #", "parameter.data = average.clone()  #", "rectify/distillation"
    ),
)
