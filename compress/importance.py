"""How much each inner unit of a model matters, measured on training batches."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dmedge.compress.config import CompressConfig
from dmedge.compress.learn import train_config
from dmedge.logs import progress
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.inner import InnerUnits, inner_units
from dmedge.training.batch import TrainBatch
from dmedge.training.fit import load_materials
from dmedge.training.grad_cache import LOCAL
from dmedge.training.objective import Objective

LossOf = Callable[[TrainBatch], Tensor]
TOWERS = ("image", "text")
BATCHES = 24  # that importance is measured on


def tower_units(model: DualEncoder) -> dict[str, InnerUnits]:
    """The inner units of both towers; the fusion learns anew what the towers tell it."""
    return {name: units for name, units in inner_units(model).items() if name.partition(".")[0] in TOWERS}


def measured_importance(checkpoint: Checkpoint, config: CompressConfig) -> dict[str, Tensor]:
    """Importance of all units of both towers for the training loss, on batches of the data that `config` names.

    Raises:
        ConfigError: the data does not fit the model.
        DataError: the data cannot be read.
    """
    settings = train_config(checkpoint, config)
    model = deepcopy(checkpoint.model)
    with TemporaryDirectory() as folder:
        materials = load_materials(settings, Path(folder), replace(checkpoint, model=model))
    objective = Objective(model, settings)

    def loss_of(batch: TrainBatch) -> Tensor:
        encoded = objective(batch)
        local = {name: loss for name, loss in encoded.items() if name.startswith(LOCAL)}
        return torch.stack([*local.values(), *objective.joint(encoded).values()]).sum()

    batches = (materials.source.batch(step, 0, 1) for step in range(BATCHES))
    with progress("importance", total=BATCHES) as advance:
        return unit_importance(model, _counted(batches, advance), loss_of)


def _counted(batches: Iterable[TrainBatch], advance: Callable[..., object]) -> Iterator[TrainBatch]:
    for batch in batches:
        yield batch
        advance(1)


def unit_importance(model: DualEncoder, batches: Iterable[TrainBatch], loss_of: LossOf) -> dict[str, Tensor]:
    """Estimate how much the loss would change without each unit.

    The change is that of the first term of a Taylor series, the product of an activation and its gradient,
    summed over the places of one item and over the numbers of one unit, and squared.

    Args:
        model: whose statistics of batch normalisation stay as they are.
        batches: to sum over.
        loss_of: maps a batch to [].

    Returns:
        module -> float32 [units].

    Source: Molchanov et al. 2019, arXiv:1906.10771, for gates; Michel et al. 2019, arXiv:1905.10650, for heads.
    """
    units = tower_units(model)
    inputs: dict[str, list[Tensor]] = {name: [] for name in units}
    totals = {name: torch.zeros(own.count) for name, own in units.items()}
    was_asked = [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(True)
    with _watched(model, units, inputs), torch.enable_grad():
        for batch in batches:
            for given in inputs.values():
                given.clear()
            loss = loss_of(batch)
            watched = [(name, activation) for name in units for activation in inputs[name]]
            gradients = torch.autograd.grad(loss, [activation for _, activation in watched], allow_unused=True)
            for (name, activation), gradient in zip(watched, gradients, strict=True):
                if gradient is not None:
                    totals[name] += _squared_change(activation.detach() * gradient, units[name])
    for parameter, asked in zip(model.parameters(), was_asked, strict=True):
        parameter.requires_grad_(asked)
    return totals


@contextmanager
def _watched(model: nn.Module, units: dict[str, InnerUnits], inputs: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collect what the consumers of all units are given."""

    def collect(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, given: inputs[name].append(given[0])

    modules = dict(model.named_modules())
    hooks = [modules[own.consumer].register_forward_pre_hook(collect(name)) for name, own in units.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _squared_change(product: Tensor, units: InnerUnits) -> Tensor:
    """Sum over the items of [B, units, ...] or [B, ..., units] squares, places summed before."""
    per_item = product.flatten(2).sum(2) if product.dim() == 4 else product.reshape(len(product), -1, product.shape[-1])
    if per_item.dim() == 3:
        per_item = per_item.sum(1)
    return per_item.view(len(product), units.count, units.size).sum(2).square().sum(0).cpu()
