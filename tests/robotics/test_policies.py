from __future__ import annotations

import numpy as np
import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.derivative import Direction, along
from rectiflow_robotics.environments import Description, describe, make_environment
from rectiflow_robotics.evaluating import evaluate_policy, summarise, wilson
from rectiflow_robotics.experts import expert_policy, random_policy
from rectiflow_robotics.policies import PolicyNetwork
from rectiflow_robotics.rollout import Episode, Policy, flow_policy, rollout

REACH = Description("point-reach", (4,), 2, 40, True)


def network(until: bool = False, **settings: int) -> PolicyNetwork:
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(50, 4, generator=generator) * 2 - 1
    return PolicyNetwork(
        observations=seen,
        actions=(4, 2),
        width=16,
        depth=2,
        frequencies=8,
        until=until,
        generator=generator,
        **settings,
    )


def awake(net: PolicyNetwork) -> PolicyNetwork:
    with torch.no_grad():
        net.leave.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return net


def test_the_grid_is_k_over_k_and_one_step_looks_at_time_zero() -> None:
    times: list[float] = []

    def model(x: torch.Tensor, t: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        times.append(float(t[0]))
        return torch.ones_like(x)

    for steps in (1, 2, 4, 8):
        times.clear()
        policy = flow_policy(Flow(model), "point-reach", (4,), (4, 2), steps=steps)
        noise = torch.zeros(1, 4, 2)
        torch.testing.assert_close(policy.act(torch.zeros(1, 4), noise), torch.ones(1, 4, 2))
        np.testing.assert_allclose(times, np.arange(steps) / steps, atol=1e-7)


def test_a_network_sees_observation_and_time_and_starts_at_zero() -> None:
    net = network()
    x, t, seen = torch.randn(3, 4, 2), torch.rand(3), torch.rand(3, 4)
    assert (net(x, t, seen) == 0).all()
    awake(net)
    base = net(x, t, seen)
    assert base.shape == x.shape
    assert (net(x, t, seen + 0.1) - base).abs().max() > 1e-3
    assert (net(x, (t + 0.2) % 1, seen) - base).abs().max() > 1e-3
    torch.testing.assert_close(net(x[1:2], t[1:2], seen[1:2]), base[1:2])


def test_layers_that_add_nothing_let_everything_through() -> None:
    net = awake(network())
    for layer in net.layers:
        torch.nn.init.zeros_(layer.weight)
    out = net(torch.randn(2, 4, 2), torch.zeros(2), torch.zeros(2, 4))
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_an_average_velocity_of_no_length_is_the_velocity() -> None:
    plain, average = awake(network()), network(until=True)
    average.load_state_dict({**average.state_dict(), **plain.state_dict()})
    x, t, seen = torch.randn(3, 4, 2), torch.rand(3), torch.rand(3, 4)
    torch.testing.assert_close(average(x, t, seen), plain(x, t, seen))
    torch.testing.assert_close(average(x, t, seen, until=torch.ones(3)), plain(x, t, seen))  # zero until trained
    with torch.no_grad():
        assert average.time.step is not None
        average.time.step[2].weight.normal_(generator=torch.Generator().manual_seed(2))
    assert (average(x, t, seen, until=torch.ones(3)) - average(x, t, seen)).abs().max() > 1e-3


@pytest.mark.parametrize("until", [False, True])
def test_one_time_for_all_is_embedded_once_and_gives_the_same(until: bool) -> None:
    net = awake(network(until=until))
    if net.time.step is not None:
        with torch.no_grad():
            net.time.step[2].weight.normal_(generator=torch.Generator().manual_seed(2))
    x, seen = torch.randn(5, 4, 2), torch.rand(5, 4)
    found = []
    for spelled in (False, True):
        t, end = torch.tensor(0.25).expand(5), torch.tensor(0.5).expand(5)
        if spelled:
            t, end = t.clone(), end.clone()
        out = net(x, t, seen, end if until else None)
        gradients = torch.autograd.grad(out.square().sum(), list(net.time.parameters()))
        assert len(net.moment(t, end if until else None)) == (5 if spelled else 1)
        found.append((out.detach(), *gradients))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-4)
    # one start, but ends that differ
    if until:
        ends = torch.linspace(0.3, 1, 5)
        mixed = net(x, torch.tensor(0.25).expand(5), seen, ends)
        torch.testing.assert_close(mixed[2:3], net(x[2:3], torch.tensor([0.25]), seen[2:3], ends[2:3]))


def test_the_derivative_of_mean_flow_is_a_finite_difference_and_one_step_is_one_evaluation() -> None:
    net = awake(network(until=True)).double()
    with torch.no_grad():
        assert net.time.step is not None
        net.time.step[2].weight.normal_(generator=torch.Generator().manual_seed(2))
    flow, generator = Flow(net, average=True), torch.Generator().manual_seed(3)
    x, v = (torch.randn(6, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t, seen = 0.1 + 0.3 * torch.rand(6, generator=generator).double(), torch.rand(6, 4, generator=generator).double()
    until, h = t + 0.5, 1e-6
    _, slope = along(flow, x, t, until, {"observation": seen}, Direction(v, 1.0, 0.0))
    with torch.no_grad():
        difference = (net(x + h * v, t + h, seen, until) - net(x - h * v, t - h, seen, until)) / (2 * h)
    assert float((slope - difference).norm() / difference.norm()) < 1e-3
    one = flow_policy(flow, "point-reach", (4,), (4, 2), steps=1, method="jump").act(seen, x)
    with torch.no_grad():
        torch.testing.assert_close(
            one, x + net(x, torch.zeros(6).double(), seen, torch.ones(6).double()), atol=1e-12, rtol=0
        )


def test_pictures_are_seen_where_they_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    net = PolicyNetwork(
        observations=pictures,
        actions=(4, 2),
        width=16,
        depth=1,
        frequencies=8,
        until=False,
        patch=8,
        tokens=16,
        generator=generator,
    )
    awake(net)
    pictures[0, 0, :8, :8] = 255
    pictures[1, 0, -8:, -8:] = 255  # the same spot elsewhere
    out = net(torch.zeros(2, 4, 2), torch.zeros(2), pictures)
    assert (out[0] - out[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "patch", "said"),
    [((4,), 8, "model=perceptron"), ((3, 32, 32), 0, "model=vision"), ((3, 32, 32), 7, "divisor")],
)
def test_networks_that_cannot_see_what_is_shown_are_refused(shape: tuple[int, ...], patch: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PolicyNetwork(
            observations=torch.zeros(1, *shape),
            actions=(4, 2),
            width=8,
            depth=1,
            frequencies=8,
            until=False,
            patch=patch,
            tokens=16,
            generator=torch.Generator(),
        )


def chase(gain: float) -> Policy:
    """Towards the goal, with noise: chunks of two."""

    def act(seen: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return ((seen[:, 2:] - seen[:, :2]) * gain)[:, None].repeat(1, 2, 1) + 0.3 * noise

    return Policy("point-reach", (4,), (2, 2), act)


def test_episodes_do_not_depend_on_how_many_are_played_at_once() -> None:
    one = rollout(chase(4.0), [make_environment("point-reach")], episodes=7, seed=3, record=True)
    many = rollout(chase(4.0), [make_environment("point-reach") for _ in range(3)], episodes=7, seed=3)
    assert [episode.number for episode in one] == list(range(7))
    assert [(e.success, e.length) for e in one] == [(e.success, e.length) for e in many]
    np.testing.assert_allclose([e.total for e in one], [e.total for e in many], rtol=1e-5)
    for episode in one:
        assert episode.observations is not None
        assert episode.actions is not None
        assert len(episode.observations) == episode.length + 1 == len(episode.actions) + 1
    other = rollout(chase(4.0), [make_environment("point-reach")], episodes=7, seed=4)
    assert [e.length for e in one] != [e.length for e in other]


def test_every_episode_has_noise_of_its_own() -> None:
    drawn: list[torch.Tensor] = []

    def act(seen: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        drawn.append(noise)
        return torch.zeros_like(noise)

    environments = [make_environment("point-reach", limit=2) for _ in range(2)]
    rollout(Policy("point-reach", (4,), (2, 2), act), environments, episodes=4, seed=0)
    noise = torch.cat(drawn)
    assert len(noise) == 4
    assert (torch.cdist(noise.flatten(1), noise.flatten(1)) + torch.eye(4) > 1e-3).all()


def test_experts_succeed_where_chance_does_not() -> None:
    task = describe(make_environment("point-reach"))
    assert task == REACH
    expert, chance = expert_policy(task), random_policy(task)
    assert expert is not None
    assert evaluate_policy(expert, episodes=20, seed=0)["success"] == 1
    assert evaluate_policy(chance, episodes=20, seed=0)["success"] <= 0.1
    draws = chance.act(torch.zeros(20_000, 4), torch.randn(20_000, 1, 2, generator=torch.Generator().manual_seed(0)))
    # Uniform on [-1, 1]: variance 1/3; the standard error of a mean square over 40 000 is sqrt(4/45 / 40 000).
    assert abs(float(draws.square().mean()) - 1 / 3) < 4 * (4 / 45 / 40_000) ** 0.5


def test_a_policy_of_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="made for push-v3 and cannot act in point-reach"):
        rollout(Policy("push-v3", (39,), (4, 4), chase(1).act), [make_environment("point-reach")], episodes=1, seed=0)
    with pytest.raises(ConfigError, match="another version of the simulator"):
        rollout(
            Policy("point-reach", (5,), (4, 2), chase(1).act), [make_environment("point-reach")], episodes=1, seed=0
        )
    with pytest.raises(ConfigError, match="at least 1"):
        rollout(chase(1), [], episodes=1, seed=0)


def test_wilson_intervals_are_the_published_ones() -> None:
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for wins, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        np.testing.assert_allclose(wilson(wins, count), (low, high), atol=6e-5)
    assert wilson(20, 20)[1] == 1


def test_figures_of_episodes() -> None:
    played = [Episode(i, i < 3, float(i), 10 + i, i == 4) for i in range(5)]
    with_success = summarise(played, succeeds=True)
    assert (with_success["success"], with_success["length"], with_success["broken"]) == (0.6, 12, 1)
    without = summarise(played, succeeds=False)
    assert "success" not in without
    half = 1.959964 * np.sqrt(2.5 / 5)  # variance of 0..4 with n - 1 is 2.5
    np.testing.assert_allclose([without["return_low"], without["return_high"]], [2 - half, 2 + half])
