"""Fine-tuning on the point in the plane: it learns, repeats itself after a kill, changes nothing at rate 0, keeps the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from rectiflow.benchmarking.subject import demo_runs
from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import load_spec
from rectiflow.errors import ConfigError, NonFiniteError, StorageError
from rectiflow.runs import read_config
from rectiflow.trained import open_run
from rectiflow.training.checkpoint import load_latest, load_weights
from rectiflow.verbs import train
from rectiflow.verbs.evaluate import report
from rectiflow_robotics.chunks import ChunkedEnvironments
from rectiflow_robotics.curves import draw_comparison
from rectiflow_robotics.finetune_settings import FinetuneSettings
from rectiflow_robotics.finetuning import Progress, Session, judge
from rectiflow_robotics.finetuning import run as finetune
from rectiflow_robotics.point_reach import PointReach
from rectiflow_robotics.ppo import PPO, clipped_surrogate
from rectiflow_robotics.replay import ReplayBuffer, Stored
from rectiflow_robotics.trainers import PolicyGradient, domain_of
from rectiflow_robotics.workers import WorkerEnvironments

SMALL = [
    "envs=8",
    "chunks=10",
    "iterations=4",
    "evaluate_every=4",
    "episodes=4",
    "final_episodes=4",
    "checkpoint_every=1",
]


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the point in the plane, cloned in a few steps."""
    folder = tmp_path_factory.mktemp("cloned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFLOW_CACHE", str(folder / "cache"))
        spec = load_spec("robotics")
        settings = [f"out='{folder}'", "recipe=point_reach", "training.steps=60", "training.tensorboard=false"]
        return train.run(spec, compose_training(spec, [*settings, "training.preview_every=0"]))


def run(cloned: Path, folder: Path, *settings: str) -> Path:
    given = [f"run='{cloned}'", f"out='{folder}'", *SMALL, *settings]
    return finetune(load_spec("robotics"), compose_verb(FinetuneSettings, {}, given))


@pytest.fixture
def cache(cloned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(cloned.parents[1] / "cache"))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(("algorithm", "k"), [("reinflow", 4), ("dppo", 2), ("fql", 1)])
def test_a_run_leaves_what_other_verbs_read(algorithm: str, k: int, cloned: Path, tmp_path: Path) -> None:
    folder = run(cloned, tmp_path, f"algorithm={algorithm}", f"k={k}", "warm_up=1", "fql.batch=32", "fql.updates=0.05")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert {line["step"] for line in lines if "held_out" in line} == {0, 4}
    figures = json.loads((folder / "metrics.json").read_text())
    assert {"success.before", "success.after", "env_steps", "train_seconds"} <= set(figures)
    assert (folder / "curves.png").stat().st_size > 10_000
    config = read_config(folder)
    assert (config.sampling.method, config.sampling.steps) == ("euler", k)
    spec = load_spec("robotics")
    trained = open_run(spec, folder)
    assert domain_of(trained).policy(trained.flow, steps=k).chunk == (4, 2)
    assert demo_runs(spec, OmegaConf.create({"runs": {"robotics": str(folder)}})) == {
        "base": cloned,
        "rectified": folder,
    }
    assert "rectified flow" not in report(spec, folder).read_text()
    if algorithm != "fql":
        assert all(line["ratio_error"] <= 1e-6 for line in lines[1:])


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the bit, whatever is nested in them."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What is equal to the bit is computed by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", ["reinflow", "fql"])
def test_ten_iterations_are_five_a_kill_and_five_more(
    algorithm: str, cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"algorithm={algorithm}", "iterations=10", "checkpoint_every=5", "evaluate_every=10", "warm_up=1"]
    settings += ["imitation.weight=1", "imitation.capacity=60", "fql.batch=16", "fql.updates=0.02", "fql.capacity=150"]
    straight = run(cloned, tmp_path, *settings, "name=straight")
    steps = ChunkedEnvironments.step
    calls = 0

    def dies(self: ChunkedEnvironments, actions: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 65:  # in the seventh iteration, of ten chunks each
            raise KeyboardInterrupt
        return steps(self, actions)

    monkeypatch.setattr(ChunkedEnvironments, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(cloned, tmp_path, *settings, "name=stopped")
    saved = load_latest(tmp_path / "robotics" / "stopped")
    assert saved is not None
    assert saved.step == 5
    monkeypatch.setattr(ChunkedEnvironments, "step", steps)
    resumed = run(cloned, tmp_path, *settings, "name=stopped")
    one, other = load_latest(straight), load_latest(resumed)
    assert one is not None
    assert other is not None
    assert one.step == other.step == 10
    assert not same(saved.model, one.model)
    assert same(one.model, other.model)
    assert same(one.ema, other.ema)
    assert same(one.state["trainer"], other.state["trainer"])
    logs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (straight, resumed)
    ]
    drop = ("seconds", "update_seconds")
    assert [{k: v for k, v in line.items() if k not in drop} for line in logs[0]] == [
        {k: v for k, v in line.items() if k not in drop} for line in logs[1]
    ]


def test_at_rate_zero_the_policy_stays_bit_for_bit(cloned: Path, tmp_path: Path) -> None:
    folder = run(cloned, tmp_path, "actor_rate=0", "ppo.adaptive=false", "warm_up=0")
    before, after = load_weights(cloned), load_weights(folder, "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["success.before"] == figures["success.after"]


def test_without_any_reward_nothing_is_learnt_and_nothing_breaks(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ChunkedEnvironments.step

    def unpaid(self: ChunkedEnvironments, actions: Any) -> Any:
        transition = steps(self, actions)
        return transition._replace(reward=np.zeros_like(transition.reward))

    monkeypatch.setattr(ChunkedEnvironments, "step", unpaid)
    folder = run(cloned, tmp_path, "warm_up=0", "critic_rate=0")
    weights = load_weights(folder, "model")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    before = load_weights(cloned)
    assert all(torch.equal(before[name], weights[name]) for name in before)


def test_rewards_that_are_not_finite_stop_the_run_with_its_checkpoint_intact(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, calls = ChunkedEnvironments.step, 0

    def broken(self: ChunkedEnvironments, actions: Any) -> Any:
        nonlocal calls
        calls += 1
        transition = steps(self, actions)
        return transition if calls <= 20 else transition._replace(reward=transition.reward * np.nan)

    monkeypatch.setattr(ChunkedEnvironments, "step", broken)
    with pytest.raises(NonFiniteError, match="on end"):
        run(cloned, tmp_path, "ppo.minibatch=8")
    found = load_latest(tmp_path / "robotics" / "finetuned")
    assert found is not None
    assert found.step == 2
    assert all(bool(torch.isfinite(value).all()) for value in found.model.values())


@pytest.mark.fault
def test_a_run_goes_on_where_a_worker_is_killed(cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = WorkerEnvironments.step, 0

    def murderous(self: WorkerEnvironments, actions: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 25:  # in the third iteration, of ten chunks each
            self._workers[1].process.kill()
        return step(self, actions)

    monkeypatch.setattr(WorkerEnvironments, "step", murderous)
    folder = run(cloned, tmp_path, "workers=2")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["broken"] for line in lines[1:]] == [0, 0, 4, 4]  # the four environments of that worker
    assert "success.after" in json.loads((folder / "metrics.json").read_text())


def test_observations_that_are_not_finite_cost_an_episode_and_nothing_else(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = PointReach.step, 0

    def blind(self: PointReach, action: Any) -> Any:
        nonlocal calls
        calls += 1
        seen, *rest = step(self, action)
        return (seen * np.nan if calls in (50, 51, 400) else seen, *rest)

    monkeypatch.setattr(PointReach, "step", blind)
    folder = run(cloned, tmp_path, "warm_up=0")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in load_weights(folder, "model").values())


def test_a_full_disk_leaves_the_last_checkpoint_to_go_on_from(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rectiflow_robotics.finetuning as module

    save, calls = module.save_checkpoint, 0

    def full(*arguments: Any) -> Path:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StorageError("no space left")
        return save(*arguments)

    monkeypatch.setattr(module, "save_checkpoint", full)
    with pytest.raises(StorageError):
        run(cloned, tmp_path)
    found = load_latest(tmp_path / "robotics" / "finetuned")
    assert found is not None
    assert found.step == 2
    run(cloned, tmp_path)
    found = load_latest(tmp_path / "robotics" / "finetuned")
    assert found is not None
    assert found.step == 4


def session(best: list[float], weights: dict[str, Any]) -> Session:
    class Stub:
        def deployed(self) -> dict[str, Any]:
            return {"weight": torch.ones(1)}

    return Session(
        folder=Path(), config=None, trained=None, trainer=Stub(), sampler="euler",  # type: ignore[arg-type]
        progress=Progress(scores=best, iteration=7), best=weights, environments=[],
    )  # fmt: skip


def test_the_best_policy_is_kept_and_decline_beyond_chance_stops() -> None:
    half = [1.0, 0.0] * 20
    better = session(half, {})
    judge(better, [1.0, 1.0] * 20)
    assert better.progress.best_iteration == 7
    assert set(better.best) == {"weight"}
    worse = session(half, {})
    judge(worse, [0.0] * 40)
    assert (worse.progress.stopped, worse.progress.declines) == (False, 1)
    judge(worse, [0.0] * 40)
    assert worse.progress.stopped
    assert worse.best == {}
    chance = session(half, {})
    for _ in range(3):  # two episodes of 40 lost: within three standard errors of the difference
        judge(chance, [0.0, 0.0, 0.0, 0.0, *half[4:]])
    assert not chance.progress.stopped


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("algorithm=sac", "algorithm=sac is unknown; allowed: reinflow, dppo, fql"),
        ("reinflow.reduction=median", "reduction='median' is unknown; allowed: sum, mean"),
        ("noise.low=0.5", "noise bounds are 0.5 and 0.3"),
        ("k=0", "k=0 is not allowed"),
        ("restart_every=3", "is no multiple of restart_every=3"),
        ("ppo.target_kl=0", "ppo.target_kl=0"),
    ],
)
def test_what_is_not_allowed_is_said(settings: str, message: str, cloned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        run(cloned, tmp_path, settings)


def test_what_is_deployed_is_the_mean_over_iterations(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[dict[str, torch.Tensor]] = [load_weights(cloned)]
    kept: list[dict[str, torch.Tensor]] = []
    iterate = PolicyGradient.iterate

    def noted(self: PolicyGradient, iteration: int, *, restart: bool) -> dict[str, float]:
        figures = iterate(self, iteration, restart=restart)
        last.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        kept.append(self.deployed())
        return figures

    monkeypatch.setattr(PolicyGradient, "iterate", noted)
    run(cloned, tmp_path, "average=0.75", "warm_up=0", "reward=dense")
    shares = (0.75**4, 0.25 * 0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25)
    moved = [not torch.equal(last[0][name], last[-1][name]) for name in last[0]]
    assert any(moved)
    for name, tensor in kept[-1].items():
        mean = sum(share * weights[name] for share, weights in zip(shares, last, strict=True))
        torch.testing.assert_close(tensor, mean, atol=1e-6, rtol=1e-5)


def test_fql_takes_one_step(cloned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use k=1"):
        run(cloned, tmp_path, "algorithm=fql", "k=4")


def test_clip_acts_where_it_is_told_to() -> None:
    log_ratio = torch.log(torch.tensor([0.5, 1.0, 1.5, 1.5, 0.5]))
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    found = clipped_surrogate(log_ratio, advantages, 0.2)
    # -min(r A, clip(r) A), by hand
    assert float(found.loss) == pytest.approx(-(0.5 + 1.0 + 1.2 - 1.5 - 0.8) / 5)
    assert float(found.clipped) == pytest.approx(4 / 5)
    assert torch.isfinite(clipped_surrogate(torch.tensor([1e6]), torch.tensor([-1.0]), 0.2).loss)


def test_an_update_that_leaves_the_trust_region_goes_part_of_the_way_back(cloned: Path, tmp_path: Path) -> None:
    """One step at this rate moves the chain by tens of nats."""
    settings = ["actor_rate=0.003", "ppo.adaptive=false", "ppo.final_kl=0.3", "warm_up=0", "iterations=2"]
    folder = run(cloned, tmp_path, *settings)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    moved = [line["kl"] for line in lines if "kl" in line]  # without any success there is no update
    assert moved
    assert all(0.03 < kl < 0.6 for kl in moved)


def test_the_trust_region_narrows_linearly() -> None:
    options = PPO(target_kl=0.3, final_kl=0.1)
    assert [options.at(progress).target_kl for progress in (0.0, 0.25, 1.0)] == pytest.approx([0.3, 0.25, 0.1])
    assert options.at(0.5).epochs == options.epochs


def test_the_buffer_holds_the_last_chunks() -> None:
    buffer = ReplayBuffer(Stored, 5)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3).float()
        buffer.add(Stored(*(rows.clone() for _ in range(5))))
    assert buffer.stored is not None
    assert sorted(buffer.stored.rewards.tolist()) == [4.0, 5.0, 6.0, 7.0, 8.0]
    drawn = buffer.draw(500, torch.Generator().manual_seed(0))
    assert set(drawn.rewards.tolist()) == {4.0, 5.0, 6.0, 7.0, 8.0}


def test_a_comparison_draws_the_runs_of_several_seeds(cloned: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = [{"step": k, "env_steps": 100 * k, "seconds": 10.0 * k, "held_out": 0.1 * k} for k in range(4)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = draw_comparison({"reinflow": [tmp_path / "a", tmp_path / "b"]}, tmp_path / "all.png", title="point")
    assert path.stat().st_size > 5_000


def test_policy_and_critic_pass_over_a_rollout_as_often_as_asked(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rectiflow_robotics.ppo as module

    passes = {"_actor_step": 0, "_critic_step": 0}

    def counted(name: str) -> Any:
        step = getattr(module, name)

        def count(*arguments: Any) -> Any:
            passes[name] += 1
            return step(*arguments)

        return count

    for name in passes:
        monkeypatch.setattr(module, name, counted(name))
    settings = ["warm_up=0", "reward=dense", "ppo.target_kl=1e6", "ppo.minibatch=40"]  # 80 chunks an iteration
    run(cloned, tmp_path, *settings, "ppo.epochs=1", "ppo.critic_epochs=3")
    assert passes == {"_actor_step": 4 * 2, "_critic_step": 4 * 2 * 3}
