"""Self-imitation: its distance against independent normal laws, what it leads to, what it remembers, and where it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow_robotics.chain import NoisyChain, Path
from rectiflow_robotics.experience import Rollout
from rectiflow_robotics.imitation import Achieved, Imitation, distance
from rectiflow_robotics.noise import NoiseNetwork

SHAPE = (2, 3)


class Linear(nn.Module):
    """velocity = (carry - 1) x + offset, so that one step from x0 ends at carry x0 + offset."""

    def __init__(self, carry: float) -> None:
        super().__init__()
        self.carry = nn.Parameter(torch.tensor(carry))
        self.offset = nn.Parameter(torch.zeros(SHAPE))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return (self.carry - 1) * x + self.offset


def make(carry: float, steps: int = 1) -> tuple[Linear, NoisyChain]:
    noise = NoiseNetwork(4, SHAPE, steps, low=0.1, high=0.4, generator=torch.Generator().manual_seed(0)).double()
    nn.init.normal_(noise.last.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    net = Linear(carry).double()
    return net, NoisyChain(Flow(net), noise, steps, lambda o: o)


def episodes(count: int) -> Achieved:
    generator = torch.Generator().manual_seed(2)
    observations = torch.randn(count, 4, generator=generator).double()
    return Achieved(observations, torch.randn((count, *SHAPE), generator=generator).double() * 0.3 + 0.5)


def test_the_distance_is_that_of_normal_log_densities() -> None:
    """-log N(a; mean, sigma) without its constants, from noise of the same generator; sigma does not learn from it."""
    net, chain = make(0.5)
    achieved = episodes(9)
    x0 = torch.randn((9, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    std = chain.noise(torch.zeros(9, dtype=torch.long), achieved.observations)
    at_best = Normal(torch.zeros(()), std).log_prob(torch.zeros(9, *SHAPE))
    nats = (at_best - Normal(0.5 * x0 + net.offset, std).log_prob(achieved.chunks)).sum((1, 2))
    found = distance(chain, achieved, torch.Generator().manual_seed(3))
    assert float(found.detach()) == pytest.approx(float(nats.mean().detach()), rel=1e-12)
    found.backward()
    assert all(parameter.grad is None for parameter in chain.noise.parameters())


def test_of_several_steps_it_is_the_deployed_chunk_that_is_drawn_there() -> None:
    """K = 3: where Euler's steps lead is x0 (1 + (carry - 1) / 3)^3 + offset / 3 (1 + g + g^2), g that ratio of a step."""
    net, chain = make(0.4, steps=3)
    net.offset.data.fill_(0.3)
    achieved = episodes(9)
    x0 = torch.randn((9, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    g = 1 - 0.6 / 3
    ends = x0 * g**3 + 0.1 * (1 + g + g**2)
    sigmas = [chain.noise(torch.full((9,), k), achieved.observations) for k in range(3)]
    variance = sum(sigma**2 for sigma in sigmas)
    expected = ((achieved.chunks - ends) ** 2 / (2 * variance)).sum((1, 2)).mean()
    found = distance(chain, achieved, torch.Generator().manual_seed(3))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    found.backward()
    assert net.carry.grad is not None
    assert all(parameter.grad is None for parameter in chain.noise.parameters())


def test_what_is_imitated_is_the_mean_from_every_noise() -> None:
    """In closed form: the step forgets x0, and ends at the mean of the chunks, weighted by 1 / sigma^2."""
    net, chain = make(0.8)
    achieved, generator = episodes(40), torch.Generator().manual_seed(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.002)
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 0.002 / (1 + step / 300)
        optimizer.zero_grad()
        distance(chain, achieved, generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weight = chain.noise(torch.zeros(40, dtype=torch.long), achieved.observations).detach() ** -2
    torch.testing.assert_close(net.offset.data, (weight * achieved.chunks).sum(0) / weight.sum(0), atol=0.02, rtol=0)
    assert abs(float(net.carry.detach())) < 0.02


def test_only_what_succeeded_is_remembered() -> None:
    found = Imitation(0.2, 5)
    _, chain = make(0.5)
    assert found.term(chain, 3, torch.Generator()) is None
    found.remember(torch.zeros(2, 4), torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.bool))
    assert found.term(chain, 3, torch.Generator()) is None
    for start in (0.0, 10.0):
        number = torch.arange(6.0).double() + start
        succeeded = torch.tensor([True, False, True, False, False, True])
        found.remember(number[:, None].expand(6, 4), number[:, None, None].expand(6, *SHAPE), succeeded)
    kept = found.memory.stored
    assert kept is not None
    assert sorted(kept.observations[:, 0].tolist()) == [2.0, 5.0, 10.0, 12.0, 15.0]
    assert bool((kept.chunks[:, 0, 0] == kept.observations[:, 0]).all())
    again = Imitation(0.2, 5)
    again.load_state_dict(found.state_dict())
    one, other = (each.term(chain, 3, torch.Generator().manual_seed(5)) for each in (found, again))
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


def test_an_episode_succeeds_as_a_whole_or_not_at_all() -> None:
    """Three environments of five chunks: a success then an episode cut off, a failure then a success, neither."""
    done = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]).bool().T
    success = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool().T
    nothing = torch.zeros(5, 3)
    path = Path(nothing, nothing, nothing)
    rollout = Rollout(nothing, nothing, path, nothing, nothing, success, done, success)
    expected = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).bool().T
    assert torch.equal(rollout.succeeded(), expected)


@pytest.mark.parametrize(
    ("weight", "capacity", "message"), [(-1.0, 10, "imitation.weight=-1"), (0.1, 0, "imitation.capacity=0")]
)
def test_what_cannot_be_imitated_is_refused(weight: float, capacity: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Imitation(weight, capacity)
