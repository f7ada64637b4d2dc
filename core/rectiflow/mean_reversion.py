"""Mean-reverting paths (arXiv 2502.07856): the path of x - mu instead of x, where mu may be a condition of each sample.

Between ends x0 ~ N(mu, lambda^2) and x1, x_t = mu + a (x1 - mu) + s (x0 - mu) is the plain path a x1 + s x0 plus a known shift,
(1 - a - s) mu. So nothing but the network has to see it: solvers, conversions, guidance and likelihoods work on the plain path.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Prediction
from rectiflow.sources import Centre, Gaussian, centre_of


class Offset(nn.Module):
    """A model of the mean-reverting path, called with states of the plain one.

    Args:
        model: callable `model(x, t, **cond)` with x on the mean-reverting path.
        mean: mu, a number, a tensor that broadcasts to the state, or the name of the condition that holds it.
        interpolant: a and s.
        predicts: velocity | data | noise | score; data and noise mean the ends x1 and x0.
    """

    def __init__(
        self, model: Callable[..., Tensor], mean: Centre, interpolant: Interpolant, predicts: Prediction = "velocity"
    ) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.interpolant = interpolant
        self.predicts = predicts

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """Prediction of x's shape for the plain path at x (B, ...), t (B,).

        Raises:
            ConfigError: the condition that mu stands in is missing.
        """
        prediction = self.model(self.reverting(x, t, **cond), t, **cond)
        if self.predicts != "velocity":
            return prediction
        c = self.interpolant.coefficients(t).expand_to(x)
        return (prediction + (c.da + c.ds) * self._mean(x, cond)).to(x.dtype)

    def reverting(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The state x + (1 - a - s) mu of the mean-reverting path that goes with x on the plain one; the same at both ends."""
        c = self.interpolant.coefficients(t).expand_to(x)
        return (x + (1 - c.a - c.s) * self._mean(x, cond)).to(x.dtype)

    def _mean(self, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(centre_of(self.mean, cond), dtype=x.dtype, device=x.device)


def mean_reverting(
    model: Callable[..., Tensor],
    mean: Centre,
    interpolant: Interpolant,
    *,
    scale: float = 1.0,
    predicts: Prediction = "velocity",
) -> Flow:
    """The flow of a mean-reverting diffusion: from N(mu, scale^2) to data, reverting to mu on the way.

    With the VP path of A = a and lambda = scale this is dx = f (mu - x) dt + g dw, g^2 = 2 lambda^2 f, and `ddim` on it is the
    first-order sampler of arXiv 2502.07856. Keep the condition that holds mu out of the null values.

    Args:
        model: callable `model(x, t, **cond)`, to be trained or trained on the mean-reverting path.
        mean: mu, see `Offset`.
        interpolant: a and s; on a convex path the shift is 0 and only the source differs.
        scale: lambda, above 0.
        predicts: what the model's output means.
    """
    offset = Offset(model, mean, interpolant, predicts)
    return Flow(offset, interpolant=interpolant, predicts=predicts, source=Gaussian(mean, scale))
