"""The training loop: steps, the weight average, evaluation, and a state that survives a kill."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dmedge.errors import ConfigError, DmedgeError
from dmedge.logs import progress
from dmedge.model.dual import DualEncoder
from dmedge.training.batches import Batcher
from dmedge.training.config import TrainConfig
from dmedge.training.fusion import fusion_loss
from dmedge.training.objective import DualObjective
from dmedge.training.optimizer import (
    cooldown_start,
    learning_rate,
    make_optimizer,
    set_learning_rate_,
    update_average_,
)

Evaluate = Callable[[DualEncoder], dict[str, float]]
FUSION_SEED_STEP = 1 << 40  # fusion batches never repeat those of the towers


@dataclass
class TrainState:
    """All that the next step depends on."""

    model: DualEncoder
    average: DualEncoder
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def pick_precision(config: TrainConfig) -> str:
    """bf16 where the device multiplies it natively, else float32, unless the recipe says.

    Returns:
        accelerate's name: "bf16" or "no".
    """
    if config.precision != "auto":
        return "bf16" if config.precision == "bfloat16" else "no"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def new_state(model: DualEncoder, config: TrainConfig) -> TrainState:
    """State before the first step."""
    average = copy.deepcopy(model).eval().requires_grad_(False)
    return TrainState(model, average, make_optimizer(model, config))


def run_steps(state: TrainState, batcher: Batcher, config: TrainConfig, evaluate: Evaluate, state_file: Path) -> None:
    """Train the towers from `state.step` to `config.steps`, saving to `state_file` on the way.

    Raises:
        DmedgeError: the loss stopped being a number; the message names the step.
    """
    accelerator = Accelerator(mixed_precision=pick_precision(config), cpu=not torch.cuda.is_available())
    objective = DualObjective(state.model, config.contrastive_weight, config.label_smoothing)
    objective, state.optimizer = accelerator.prepare(objective, state.optimizer)
    objective.train()
    with progress("train", total=config.steps) as advance:
        advance(state.step)
        while state.step < config.steps:
            set_learning_rate_(state.optimizer, learning_rate(state.step, config.steps, config))
            losses = train_step(state, objective, accelerator, batcher, config)
            state.step += 1
            update_average_(state.average, state.model, state.step, config.ema_decay)
            if state.step % config.eval_every == 0 or state.step == config.steps:
                row = {"step": float(state.step), **losses, **evaluate(state.average)}
                state.history.append(row)
            note = " ".join(f"{name} {value:.2f}" for name, value in losses.items())
            if state.history:
                note += f" | recall@10 {state.history[-1].get('recall_at_10', math.nan):.3f}"
            advance(1, note)
            if state.step % config.save_every == 0 or state.step == config.steps:
                save_state(state, state_file, config.steps)


def train_step(
    state: TrainState, objective: nn.Module, accelerator: Accelerator, batcher: Batcher, config: TrainConfig
) -> dict[str, float]:
    """One forward, backward and optimiser step; returns the losses."""
    batch, rng, generator = batcher.draw(state.step)
    device = accelerator.device
    pixels = batcher.images(batch, rng, generator).to(device)
    chunks = [
        type(chunk)(chunk.ids.to(device), chunk.mask.to(device), chunk.row.to(device))
        for chunk in batcher.text_chunks(batch, rng)
    ]
    with accelerator.autocast():
        losses = objective(pixels, chunks, torch.from_numpy(batch.concepts).to(device))
    _require_number(losses["loss"], state.step)
    state.optimizer.zero_grad(set_to_none=True)
    accelerator.backward(losses["loss"])
    accelerator.clip_grad_norm_(objective.parameters(), config.clip_norm)
    state.optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def train_fusion(model: DualEncoder, batcher: Batcher, config: TrainConfig) -> None:
    """Train the fusion of `model` in place; the towers stay as they are."""
    if model.fusion is None or config.fusion_steps == 0:
        return
    model.eval().requires_grad_(False)
    model.fusion.train().requires_grad_(True)
    model.fusion.image_projection.load_state_dict(model.image_projection.state_dict())  # so that both sides
    model.fusion.text_projection.load_state_dict(model.text_projection.state_dict())  # start in one space
    optimizer = make_optimizer(model.fusion, config)
    accelerator = Accelerator(mixed_precision=pick_precision(config), cpu=not torch.cuda.is_available())
    with progress("train fusion", total=config.fusion_steps) as advance:
        for step in range(config.fusion_steps):
            set_learning_rate_(optimizer, learning_rate(step, config.fusion_steps, config))
            with accelerator.autocast():
                loss = fusion_loss(model, batcher, FUSION_SEED_STEP + step)
            _require_number(loss, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.fusion.parameters(), config.clip_norm)
            optimizer.step()
            advance(1, f"loss {float(loss.detach()):.2f}")
    model.eval().requires_grad_(False)


def _require_number(loss: torch.Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise DmedgeError(
            f"step {step}: the loss is {float(loss.detach())}; expected a finite number; "
            "run again with a smaller learning_rate, or with precision = 'float32'"
        )


def save_state(state: TrainState, path: Path, steps: int) -> None:
    """Write the state whole: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {
        "step": state.step,
        "steps": steps,
        "history": state.history,
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    partial = path.with_suffix(".partial")
    torch.save(table, partial)
    partial.replace(path)


def load_state_(state: TrainState, path: Path, config: TrainConfig) -> None:
    """Continue `state` from `path`, perhaps to another number of steps.

    Raises:
        ConfigError: the cool-down of the run has begun and the number of steps is another one, or
            the file is damaged or of another version.
    """
    advice = f"remove {path.parent}, or choose another --out"
    try:
        table = torch.load(path, weights_only=True)
        plateau = min(cooldown_start(steps, config) for steps in (table["steps"], config.steps))
        if table["steps"] != config.steps and table["step"] > plateau:
            raise ConfigError(
                f"{path}: belongs to a run of {table['steps']} steps, whose cool-down has begun; "
                f"expected {config.steps} steps; {advice}"
            )
        state.model.load_state_dict(table["model"])
        state.average.load_state_dict(table["average"])
        state.optimizer.load_state_dict(table["optimizer"])
        state.step, state.history = table["step"], table["history"]
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise ConfigError(f"{path}: cannot be continued ({error}); expected the state of this run; {advice}") from error
