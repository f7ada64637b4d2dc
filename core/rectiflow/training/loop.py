"""The training loop: one page on Lightning Fabric, the same for every domain and for one process or many."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError, Interrupted, NonFiniteError, RectiflowError
from rectiflow.training.batches import BatchOrder, Dataset, order_of, read_batches, worker_died
from rectiflow.training.checkpoint import checkpoint_folders, clean_checkpoints, load_latest, save_checkpoint
from rectiflow.training.ema import EMA
from rectiflow.training.interrupts import Interrupts
from rectiflow.training.logs import Logs
from rectiflow.training.muon import Muon
from rectiflow.training.options import TrainingOptions
from rectiflow.training.processes import gather, locked, on_first_rank, raise_together, start_fabric
from rectiflow.training.randomness import global_states, isolated_global_states, step_generator, stream_seed
from rectiflow.training.resume import Progress, capture, restore
from rectiflow.training.schedule import learning_rate

if TYPE_CHECKING:
    from lightning_fabric.wrappers import _FabricModule


class Task(Protocol):
    """What is trained: a network, the loss of one batch, and a look at how far it has come.

    `loss` calls the `network` it is given (wrapped, where several processes or another precision ask for it) and draws
    only from `generator`; it returns the total to minimise, a scalar, and detached scalars to log. `preview` runs on the
    first process with averaged weights, in evaluation mode and without gradients; it writes into the run's folder and
    returns figures to log.
    """

    network: nn.Module

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Total to minimise and detached terms, all scalars."""
        ...

    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Figures by name, for the log."""
        ...


@runtime_checkable
class Follower(Protocol):
    """A task that also looks at the averaged weights and at how far the run is, both of which change while it trains."""

    def follow(self, ema: EMA, progress: Progress) -> None:
        """Called once, before the first step of a run or of its resume."""
        ...


class Fitted(NamedTuple):
    """A finished training: the network with its raw weights, the averaged state dict, and how it went.

    `loss` is the running mean at the end, `seconds` the training time over all resumes, `figures` the last preview's
    (empty off the first process), `rank` this process's number.
    """

    network: nn.Module
    ema: dict[str, Tensor]
    step: int
    loss: float
    seconds: float
    skipped: int
    figures: dict[str, float]
    rank: int


class StepResult(NamedTuple):
    """One step seen by all ranks: mean loss, gradient norm before clipping, logged terms and the stop signal, if any."""

    loss: float
    norm: float
    terms: dict[str, Tensor]
    finite: bool
    stop: int


@dataclass
class Run:
    """The parts of one run."""

    task: Task
    model: _FabricModule
    called: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    fabric: Fabric
    options: TrainingOptions
    order: BatchOrder
    progress: Progress
    folder: Path | None
    config: str
    figures: dict[str, float]


def fit(
    task: Task,
    dataset: Dataset,
    options: TrainingOptions,
    *,
    folder: Path | None = None,
    config: str | None = None,
    resume: bool = True,
) -> Fitted:
    """Train a task's network in place.

    With a `folder` the run is logged, checkpointed and, if it holds checkpoints and `resume` is true, continued to the
    same bits as an uninterrupted one; without, nothing is written. `config` (resolved yaml) is kept with each checkpoint.
    Draws come from streams numbered by (seed, step, process); global generators are given back as they were.

    Raises:
        ConfigError: an option is not allowed, the folder is in use or holds a run that cannot be continued this way.
        DataError: the data is empty, unreadable, or a worker process died.
        CheckpointCorrupt: the folder holds checkpoints and none is intact.
        StorageError: a file could not be written.
        NonFiniteError: loss or gradient is not finite and the policy says to stop.
        Interrupted: SIGTERM or SIGINT came; the step was finished and saved.
    """
    options.validate()
    fabric = start_fabric(options)
    seed = stream_seed(options.seed, "global", fabric.global_rank)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        if folder is not None:
            on_first_rank(fabric, lambda: _enter_folder(stack, folder, resume))
        stack.enter_context(isolated_global_states(fabric.device, seed))
        try:
            run = _prepare(task, dataset, options, fabric, folder, config or "")
        except RectiflowError as error:
            raise_together(fabric, error)
        logs = on_first_rank(fabric, lambda: Logs(folder, options.steps, run.progress.step, options.tensorboard))
        if logs is not None:
            stack.enter_context(logs)
        try:
            _train(run, dataset, interrupts, logs)
        except RuntimeError as error:
            lost = worker_died(error)
            if lost is None:
                raise
            raise lost from error
    progress = run.progress
    return Fitted(
        task.network,
        run.ema.state_dict(),
        progress.step,
        progress.loss,
        progress.seconds,
        progress.skipped,
        run.figures,
        fabric.global_rank,
    )


def _enter_folder(stack: ExitStack, folder: Path, resume: bool) -> None:
    stack.enter_context(locked(folder))
    clean_checkpoints(folder)
    if not resume and checkpoint_folders(folder):
        raise ConfigError(f"run folder {folder} holds checkpoints and resume is off: resume, or choose another folder.")


def _prepare(
    task: Task, dataset: Dataset, options: TrainingOptions, fabric: Fabric, folder: Path | None, config: str
) -> Run:
    """Build the parts of a run and, where there is a checkpoint, bring them to it."""
    rank, world_size = fabric.global_rank, fabric.world_size
    order = order_of(dataset, options.batch, options.seed, rank, world_size)
    optimizer = _optimizer(task.network, options)
    module: nn.Module = torch.compile(task.network) if options.compile else task.network  # type: ignore[assignment]  # a compiled module is one
    model, _ = fabric.setup(module, optimizer)
    model.train()
    ema = EMA(task.network, options.ema)
    # Fabric's wrapper casts and synchronises; where neither is wanted it would cost a small network a twentieth of its update.
    called = model if fabric.world_size > 1 or type(fabric.strategy.precision) is not Precision else module
    run = Run(task, model, called, optimizer, ema, fabric, options, order, Progress(), folder, config, {})
    checkpoint = load_latest(folder) if folder is not None else None
    if checkpoint is not None:
        run.progress = restore(checkpoint, task.network, ema, optimizer, _identity(run), rank, fabric.device)
    if isinstance(task, Follower):
        task.follow(ema, run.progress)
    if rank == 0:
        total = options.batch * options.accumulate * world_size
        parts = f"batch {options.batch} x accumulate {options.accumulate} x processes {world_size} = {total}"
        start = f"resuming after step {run.progress.step}" if checkpoint else "starting"
        print(f"{start}: {parts} samples a step, {fabric.device}", flush=True)
    return run


def _optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    betas = options.betas[0], options.betas[1]
    if options.optimizer == "muon":
        return Muon(network, options.learning_rate, betas, options.weight_decay)
    return torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=options.learning_rate,
        betas=betas,
        weight_decay=options.weight_decay,
        fused=True,  # one pass over parameters and moments, where the others make about ten
    )


def _identity(run: Run) -> dict[str, int]:
    """What decides which samples and draws a step sees: another value would break an exact resume."""
    options = run.options
    return {
        "world_size": run.fabric.world_size,
        "batch": options.batch,
        "accumulate": options.accumulate,
        "seed": options.seed,
        "samples": run.order.length,
    }


def _train(run: Run, dataset: Dataset, interrupts: Interrupts, logs: Logs | None) -> None:
    """Step until `steps` are done or a signal comes; log, preview and save on the way."""
    options, progress = run.options, run.progress
    started = time.perf_counter() - progress.seconds
    with closing(read_batches(dataset, run.order, progress.step * options.accumulate, options.workers)) as batches:
        while progress.step < options.steps:
            result = _step(run, batches, interrupts, logs)
            progress.seconds = time.perf_counter() - started
            last = progress.step == options.steps
            if logs is not None:
                logs.advance(progress.step, progress.loss, result.norm)
            if last or progress.step % options.log_every == 0:
                _log(run, result, logs)
            if not result.stop and (last or _due(progress.step, options.preview_every)):
                _preview(run, logs)
            if last or result.stop or progress.step % options.checkpoint_every == 0:
                _save(run)
            if result.stop:
                raise_together(run.fabric, _interrupted(run, result.stop))
    # A signal that came during the last step's preview or save is still owed its answer.
    late = max(gather(run.fabric, interrupts.received))
    if late:
        raise_together(run.fabric, _interrupted(run, late))


def _step(run: Run, batches: Iterator[Batch], interrupts: Interrupts, logs: Logs | None) -> StepResult:
    """Accumulate gradients, agree with all ranks that they are sound, and update parameters and their average."""
    options, progress = run.options, run.progress
    rate = learning_rate(progress.step, options)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss, terms = _gradients(run, batches)
    groups = run.optimizer.param_groups
    touched = [parameter for group in groups for parameter in group["params"] if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in touched])
    result = _agree(run.fabric, loss, norm, terms, interrupts.received)
    if result.finite:
        if 0 < options.clip < result.norm:
            nn.utils.clip_grads_with_norm_(touched, options.clip, norm)
        run.optimizer.step()
        run.ema.update()
        progress.add_loss(result.loss)
        progress.skipped_in_a_row = 0
    else:
        _refuse(run, result, logs)
    for parameter in touched:
        parameter.grad = None
    progress.step += 1
    return result


def _gradients(run: Run, batches: Iterator[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss and terms over this rank's micro-steps, their gradients accumulated."""
    options, fabric, step = run.options, run.fabric, run.progress.step
    losses: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for micro in range(options.accumulate):
        batch = next(batches).to(fabric.device)
        generator = step_generator(options.seed, step, micro, fabric.global_rank, fabric.device)
        with fabric.no_backward_sync(run.model, enabled=micro < options.accumulate - 1):
            loss, terms = run.task.loss(run.called, batch, generator)
            fabric.backward(loss if options.accumulate == 1 else loss / options.accumulate)
        losses.append(loss.detach())
        for name, value in terms.items():
            part = value.detach() / options.accumulate
            sums[name] = sums[name] + part if name in sums else part
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(), sums


def _agree(fabric: Fabric, loss: Tensor, norm: Tensor, terms: dict[str, Tensor], received: int) -> StepResult:
    """The same verdict on every rank: finite only if all are, and stopping if any was told to."""
    local_loss, local_norm = torch.stack([loss, norm]).tolist()
    finite = math.isfinite(local_loss) and math.isfinite(local_norm)
    if fabric.world_size == 1:
        return StepResult(local_loss, local_norm, terms, finite, received)
    told = [float(received == number) for number in (signal.SIGTERM, signal.SIGINT)]
    sums = torch.tensor([local_loss, float(not finite), *told], dtype=torch.float64, device=fabric.device)
    torch.distributed.all_reduce(sums)
    loss_sum, faults, terminated, interrupted = sums.tolist()
    stop = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
    return StepResult(loss_sum / fabric.world_size, local_norm, terms, faults == 0, int(stop))


def _refuse(run: Run, result: StepResult, logs: Logs | None) -> None:
    """Count an update that is not made because loss or gradient is not finite, and stop if the policy says so."""
    options, progress = run.options, run.progress
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    first = progress.step * options.accumulate
    own = [index for micro in range(options.accumulate) for index in run.order.indices(first + micro)]
    indices = [index for part in gather(run.fabric, own) for index in part]
    number = progress.step + 1
    if logs is not None:
        logs.event(
            number, {"event": "nonfinite", "loss": str(result.loss), "grad_norm": str(result.norm), "samples": indices}
        )
    if options.nonfinite == "skip" and progress.skipped_in_a_row < options.max_skips:
        return
    raise_together(run.fabric, NonFiniteError(_nonfinite_message(options, progress, result, indices)))


def _nonfinite_message(options: TrainingOptions, progress: Progress, result: StepResult, indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:16])) + (f" and {len(indices) - 16} more" if len(indices) > 16 else "")
    seen = f"loss {result.loss}, gradient norm {result.norm}, samples [{shown}]"
    advice = "parameters are as before the step; lower training.learning_rate or check these samples"
    if options.nonfinite == "skip":
        row = f"{progress.skipped_in_a_row} steps in a row were not finite (training.max_skips={options.max_skips})"
        return f"{row}, the last was step {progress.step + 1}: {seen}; {advice}."
    return f"step {progress.step + 1} is not finite: {seen}; {advice}, or set training.nonfinite=skip."


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _log(run: Run, result: StepResult, logs: Logs | None) -> None:
    """One line of figures: this step's, averaged over ranks."""
    progress, options = run.progress, run.options
    own = {name: float(value) for name, value in result.terms.items()}
    ranks = gather(run.fabric, own)
    if logs is None:
        return
    figures = {name: sum(rank[name] for rank in ranks) / len(ranks) for name in own}
    figures |= {
        "loss": result.loss,
        "loss_average": progress.loss,
        "grad_norm": result.norm,
        "learning_rate": learning_rate(progress.step - 1, options),
        "samples": progress.step * options.batch * options.accumulate * run.fabric.world_size,
        "skipped": progress.skipped,
        "seconds": round(progress.seconds, 3),
    }
    logs.figures(progress.step, figures, loss=progress.loss, norm=result.norm)


def _preview(run: Run, logs: Logs | None) -> None:
    """Let the task look at the averaged weights, on the first rank, leaving no trace in modes and generators."""
    folder = run.folder
    if folder is None:
        return

    def look() -> dict[str, float]:
        network, step = run.task.network, run.progress.step
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with isolated_global_states(run.fabric.device), run.ema.applied(), torch.no_grad():
            figures = run.task.preview(network, step, folder)
        for module, training in modes:
            module.training = training
        if logs is not None:
            logs.preview(step, figures)
        return figures

    run.figures = on_first_rank(run.fabric, look) or {}


def _save(run: Run) -> None:
    if run.folder is None:
        return
    folder = run.folder
    states = gather(run.fabric, global_states(run.fabric.device))

    def save() -> None:
        identity = _identity(run)
        found = capture(run.task.network, run.ema, run.optimizer, run.progress, identity, states, run.config)
        save_checkpoint(folder, found, run.options.keep)

    on_first_rank(run.fabric, save)


def _interrupted(run: Run, number: int) -> Interrupted:
    name, step = signal.Signals(number).name, run.progress.step
    saved = "its state is saved, start again to resume" if run.folder else "it has no folder, so nothing was saved"
    return Interrupted(f"{name} stopped the run after step {step}; {saved}.", number)
