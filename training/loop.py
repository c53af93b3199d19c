"""The training loop: steps, the weight average, evaluation, and a state that survives a kill."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dmedge.errors import ConfigError, DmedgeError
from dmedge.logs import progress
from dmedge.model.dual import DualEncoder
from dmedge.training.augment import shrink
from dmedge.training.average import Average
from dmedge.training.batch import TrainBatch
from dmedge.training.config import TrainConfig
from dmedge.training.distill import Distillation
from dmedge.training.early_stop import EarlyStop
from dmedge.training.engine import average_scalars_, clip_, find_parts, no_sync, prepare_model_, shard_
from dmedge.training.grad_cache import LOCAL, cached_backward
from dmedge.training.loader import Waiting, batches
from dmedge.training.objective import Objective, freeze_idle_
from dmedge.training.optimizer import (
    cooldown_start,
    freeze_,
    hold_frozen_norms_,
    learning_rate,
    make_optimizer,
    set_learning_rate_,
)
from dmedge.training.run_log import RunLog, metrics_row, note
from dmedge.training.shown import restore_shown_, shown_state
from dmedge.training.source import BatchSource
from dmedge.training.state import StateStore, capture, capture_random, restore_, restore_random_
from dmedge.training.style_mixing import style_mixing
from dmedge.training.summary import RunMeter
from dmedge.training.validation import Evaluate

logger = logging.getLogger(__name__)
RANDOM_STREAM = 7919  # between the seeds of two ranks


@dataclass
class Run:
    """All that the next step depends on; the same on every rank but for its share of the batches."""

    config: TrainConfig
    steps: int
    accelerator: Accelerator
    source: BatchSource
    evaluate: Evaluate
    model: DualEncoder
    objective: nn.Module  # wrapped or sharded
    optimizer: torch.optim.Optimizer
    average: Average
    store: StateStore
    step: int = 0
    meter: RunMeter = field(default_factory=RunMeter)
    history: list[dict[str, float]] = field(default_factory=list)
    early: EarlyStop = field(default_factory=lambda: EarlyStop("", 1))
    parts: int = 1
    has_ended: bool = False

    @property
    def epoch(self) -> float:
        """Passes over the data until now."""
        return self.step * self.config.batch_size / max(1, self.source.images_per_epoch)


def new_run(
    model: DualEncoder,
    source: BatchSource,
    evaluate: Evaluate,
    *,
    config: TrainConfig,
    steps: int,
    accelerator: Accelerator,
    folder: Path,
    distillation: Distillation | None = None,
) -> Run:
    """A run before its first step, or where the states in `folder` left it.

    Raises:
        ConfigError: settings do not fit the model, or the states are of another run.
    """
    bare = Objective(model, config, distillation)
    freeze_(model, config.freeze)
    freeze_idle_(bare)
    prepare_model_(model, config, accelerator)
    torch.manual_seed(config.seed + RANDOM_STREAM * accelerator.process_index)
    objective: nn.Module = bare.to(accelerator.device)
    if config.sharding == "fsdp":
        shard_(objective, accelerator)
        optimizer = accelerator.prepare_optimizer(make_optimizer(objective, config))
    else:
        objective, optimizer = accelerator.prepare(objective, make_optimizer(objective, config))
    run = Run(
        config=config,
        steps=steps,
        accelerator=accelerator,
        source=source,
        evaluate=evaluate,
        model=model,
        objective=objective,
        optimizer=optimizer,
        average=Average(model, config.ema_decay),
        store=StateStore(folder, config.keep_last),
        early=EarlyStop(config.early_stop, config.patience),
        parts=config.grad_cache_parts,
    )
    _resume_(run)
    return run


def run_steps(run: Run, log: RunLog) -> None:
    """Train from `run.step` to `run.steps`, saving on the way.

    Raises:
        DmedgeError: the loss stopped being a number; the message names the step, the pictures, and the
            file that holds the batch.
    """
    config, accelerator = run.config, run.accelerator
    _train_mode_(run)
    if config.find_batch_size and run.step < run.steps:
        run.parts = _find_parts(run)
    waiting = Waiting()
    stream = batches(
        run.source,
        run.step,
        run.steps,
        workers=config.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        waiting=waiting,
    )
    with (
        closing(stream),
        progress("train", total=run.steps, is_shown=accelerator.is_main_process) as advance,
        style_mixing(run.model.image, config.style_mixing),
    ):
        advance(run.step)
        last: dict[str, float] = run.history[-1] if run.history else {}
        while run.step < run.steps and not run.has_ended:
            began, waited = time.perf_counter(), waiting.waited_s
            batch = next(stream).to(accelerator.device)
            row = train_step(run, batch)
            seconds = time.perf_counter() - began
            world = accelerator.num_processes
            texts = sum(len(chunk.key) for chunk in batch.chunks) * world
            run.meter.count(
                images=len(batch.key) * world, texts=texts, seconds=seconds, waited_s=waiting.waited_s - waited
            )
            with waiting.aside():
                found = _evaluate(run) if run.step % config.eval_every == 0 or run.step == run.steps else {}
                rates = {"learning_rate": row.pop("learning_rate"), "grad_norm": row.pop("grad_norm")}
                metrics = metrics_row(row, found, epoch=run.epoch, meter=run.meter) | rates
                log.metrics(run.step, metrics)
                last = found or last
                if found:
                    log.draw()
                    run.has_ended = run.early.update({"step": run.step, **row, **found})
                    _keep_best(run)
                if run.step % config.save_every == 0 or run.step == run.steps or run.has_ended:
                    save_run(run)
            advance(1, note(metrics | last, run.meter.recent_images_per_s))
    if not run.history:  # a run of no steps
        _evaluate(run)


def train_step(run: Run, batch: TrainBatch) -> dict[str, float]:
    """One forward, backward and optimiser step on the batch of `run.step`, which it counts.

    Returns:
        the losses by name, "loss" their sum, each the mean over the ranks; the learning rate; the norm of
        the gradient.

    Raises:
        DmedgeError: the loss is no number.
    """
    config, accelerator = run.config, run.accelerator
    rate = learning_rate(run.step, run.steps, config)
    set_learning_rate_(run.optimizer, rate)
    run.optimizer.zero_grad(set_to_none=True)
    if run.step < config.low_resolution_steps:
        batch = replace(batch, pixels=shrink(batch.pixels))
    losses = backward(run, batch, run.parts)
    average_scalars_(run.objective, accelerator)
    names = sorted(losses)
    values = accelerator.reduce(torch.stack([losses[name].detach().float() for name in names]), reduction="mean")
    row = dict(zip(names, values.tolist(), strict=True))
    row["loss"] = sum(row.values())
    if not torch.isfinite(values).all():
        raise DmedgeError(_not_finite(run, batch, row))
    norm = clip_(run.objective, config.clip_norm, accelerator)
    run.optimizer.step()
    run.step += 1
    run.average.update(run.model, run.step)
    return row | {"learning_rate": rate, "grad_norm": float(norm)}


def backward(run: Run, batch: TrainBatch, parts: int) -> Mapping[str, Tensor]:
    """Add the gradients of one batch, with cached gradients where it is cut into parts."""
    accelerator = run.accelerator
    if parts > 1:
        return cached_backward(
            run.objective,
            batch,
            parts,
            autocast=accelerator.autocast,
            backward=accelerator.backward,
            no_sync=no_sync(run.objective, accelerator),
        )
    with accelerator.autocast():
        encoded = run.objective(batch)
        bare: Any = run.objective.module if hasattr(run.objective, "module") else run.objective
        losses = bare.joint(encoded) | {name: loss for name, loss in encoded.items() if name.startswith(LOCAL)}
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
    accelerator.backward(total)
    return losses  # type: ignore[no-any-return]


def _train_mode_(run: Run) -> None:
    run.objective.train()
    hold_frozen_norms_(run.objective)


def _find_parts(run: Run) -> int:
    """Try the first batch in ever more parts, and leave everything as it was.

    Without DDP, which could not go on after a backward pass that was broken off.
    """
    accelerator = run.accelerator
    batch = run.source.batch(run.step, accelerator.process_index, accelerator.num_processes).to(accelerator.device)
    random = capture_random()
    statistics = [(buffer, buffer.clone()) for buffer in run.model.buffers()]

    alone = replace(run, objective=getattr(run.objective, "module", run.objective))

    def attempt(parts: int) -> None:
        try:
            backward(alone, batch, parts)
        finally:
            run.optimizer.zero_grad(set_to_none=True)

    parts = find_parts(attempt, run.config.grad_cache_parts, len(batch.key))
    for buffer, before in statistics:
        buffer.copy_(before)
    restore_random_(random)
    if parts > run.config.grad_cache_parts:
        logger.info("the batch of %d fits into memory in %d parts", run.config.batch_size, parts)
    return parts


@contextmanager
def averaged(run: Run) -> Iterator[DualEncoder]:
    """The bare model with the averaged weights, whole on every rank, in evaluation mode."""
    if run.config.sharding == "fsdp":
        whole = DualEncoder(run.model.config).to(run.accelerator.device)
        run.average.copy_to(whole)
        yield whole.eval()
        return
    with run.average.swapped_into(run.model):
        run.objective.eval()
        yield run.model
    _train_mode_(run)


def _evaluate(run: Run) -> dict[str, float]:
    """Figures of the average; every rank computes them, so that all decide alike."""
    with averaged(run) as model:
        found = run.evaluate(model)
    run.history.append({"step": float(run.step), **{name: value for name, value in found.items() if "/" not in name}})
    return found


def _keep_best(run: Run) -> None:
    if run.config.early_stop and run.early.is_new_best:
        table = {"average": run.average.state_dict(), "step": run.step}
        if run.accelerator.is_main_process:
            run.store.save_best(table)


def load_best_(run: Run) -> None:
    """Give the average the weights of the best evaluation, where one was asked for."""
    best = run.store.load_best() if run.config.early_stop else None
    if best is not None:
        run.average.load_state_dict(best["average"])
        logger.info("keeping step %d, the best by %s", best["step"], run.config.early_stop)


def _not_finite(run: Run, batch: TrainBatch, row: Mapping[str, float]) -> str:
    """Save the batch and say which it was."""
    path = run.store.folder / f"not-finite-step-{run.step}-rank-{run.accelerator.process_index}.pt"
    torch.save({"losses": dict(row), **_plain(batch)}, path)
    shown = ", ".join(batch.names[:5] or [f"key {int(key)}" for key in batch.key[:5]])
    parts = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "loss")
    return (
        f"step {run.step}: the loss is {row['loss']} ({parts}) on {shown}, …; expected a finite number; "
        f"the batch is in {path}; run again with a smaller learning_rate, or with precision = 'float32'"
    )


def _plain(batch: TrainBatch) -> dict[str, Any]:
    """A batch as tensors and lists, which `torch.load(weights_only=True)` reads."""
    return {
        "pixels": batch.pixels.cpu(),
        "key": batch.key.cpu(),
        "ids": [chunk.ids.cpu() for chunk in batch.chunks],
        "mask": [chunk.mask.cpu() for chunk in batch.chunks],
        "text_key": [chunk.key.cpu() for chunk in batch.chunks],
        "names": list(batch.names),
    }


def save_run(run: Run) -> None:
    """Write the state whole; every rank has to call."""
    table = {
        **capture(run.objective, run.optimizer),
        "average": run.average.state_dict(),
        "random": capture_random(),
        "shown": shown_state(run.source),
        "step": run.step,
        "steps": run.steps,
        "history": run.history,
        "early": run.early.state_dict(),
        "has_ended": run.has_ended,
        "meter": run.meter.state(run.accelerator.device),
    }
    if run.accelerator.is_main_process:
        run.store.save(table, run.step)
    run.accelerator.wait_for_everyone()


def _resume_(run: Run) -> None:
    """Continue from the newest state, perhaps to another number of steps.

    Raises:
        ConfigError: the cool-down of the run has begun and the number of steps is another one, or the state
            is of another version.
    """
    table = run.store.load_newest()  # every rank reads the same file; what counts is what the first one read
    if table is None:
        return
    advice = f"remove {run.store.folder}, or choose another --out"
    try:
        plateau = min(cooldown_start(steps, run.config) for steps in (table["steps"], run.steps))
        if table["steps"] != run.steps and table["step"] > plateau:
            raise ConfigError(
                f"{run.store.folder}: belongs to a run of {table['steps']} steps, whose cool-down has begun; "
                f"expected {run.steps} steps; {advice}"
            )
        restore_(run.objective, run.optimizer, table)
        run.average.load_state_dict(table["average"])
        restore_random_(table["random"])
        restore_shown_(run.source, table["shown"])
        run.step, run.history, run.has_ended = table["step"], table["history"], table["has_ended"]
        run.early.load_state_dict(table["early"])
        run.meter = RunMeter(**table["meter"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{run.store.folder}: cannot be continued ({error}); expected the state of this run; {advice}"
        ) from error
