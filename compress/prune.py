"""Structured pruning: take the least important channels, hidden units and heads out of both towers.

What is left is a smaller dense model. Scattered zeros would keep the shapes, and with them the time.
"""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dmedge.compress.cost_table import module_macs
from dmedge.compress.importance import tower_units
from dmedge.compress.sensitivity import run_image, run_text
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.inner import InnerUnits, keep_units_

logger = logging.getLogger(__name__)
MULTIPLE = 8  # of channels and hidden units: what vector units and int8 kernels take at once


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one image, one text and one fusion of both."""

    total: int
    unit: Mapping[str, float]  # of one inner unit, by module


def kept_units(
    units: Mapping[str, InnerUnits],
    importance: Mapping[str, Tensor],
    ratio: float,
    scope: str,
    macs: Macs | None = None,
) -> dict[str, Tensor]:
    """Choose the units that stay.

    Args:
        units: of every module that may be pruned.
        importance: module -> [units].
        ratio: share of the units to take out, 0 to below 1.
        scope: "layer" takes that share of every module; "global" takes the least important ones wherever they
            are, importance being compared as a share of the mean of the module, and leaves each an eighth;
            "macs" takes units by their importance for each multiply-accumulate, until `ratio` of all are saved,
            and leaves each module an eighth too.
        macs: for "macs" what the model and each unit costs.

    Returns:
        module -> int64 numbers of the units kept, in rising order; numbers of channels and hidden units are
        rounded to the nearest multiple of 8, heads to whole ones, and one stays at least.
    """
    relative = {name: values / values.mean().clamp(min=1e-30) for name, values in importance.items()}
    if scope == "global":
        every = torch.cat([relative[name] for name in units])
        limit = float(every.sort().values[min(round(ratio * len(every)), len(every) - 1)])
        wanted = {name: max(int((relative[name] >= limit).sum()), own.count // 8) for name, own in units.items()}
    elif macs is not None:
        wanted = _worth_their_work(units, importance, ratio * macs.total, macs.unit)
    else:
        wanted = {name: round((1 - ratio) * own.count) for name, own in units.items()}
    kept = {}
    for name, own in units.items():
        count = own.count if ratio == 0 else _rounded(wanted[name], own)
        kept[name] = relative[name].sort(descending=True, stable=True).indices[:count].sort().values
    return kept


def _worth_their_work(
    units: Mapping[str, InnerUnits], importance: Mapping[str, Tensor], saving: float, macs: Mapping[str, float]
) -> dict[str, int]:
    """How many units of each module stay when `saving` multiply-accumulates are to go, at the least importance each.

    Source: after Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (cost-aware criterion).

    Raises:
        ConfigError: less than that can go.
    """
    spare = {name: importance[name].sort().values[: own.count - max(1, own.count // 8)] for name, own in units.items()}
    price = torch.cat([values / macs[name] for name, values in spare.items()])
    saved = torch.cat([torch.full((len(values),), macs[name]) for name, values in spare.items()])
    if float(saved.sum()) < saving:
        raise ConfigError(
            f"prune: {saving / 1e6:.1f} million multiply-accumulates to take out; expected at most "
            f"{float(saved.sum()) / 1e6:.1f}, which leave every module an eighth of its units; choose a smaller share"
        )
    order = price.argsort(stable=True)
    enough = int((saved[order].cumsum(0) < saving).sum())
    gone = torch.zeros(len(price), dtype=torch.bool).index_fill(0, order[:enough], True)
    parts = gone.split([len(values) for values in spare.values()])
    return {name: units[name].count - int(part.sum()) for name, part in zip(spare, parts, strict=True)}


@torch.inference_mode()
def unit_macs(model: DualEncoder, units: Mapping[str, InnerUnits]) -> Macs:
    """Count by running one image, one text and one fusion."""
    layers = {
        name: [
            layer
            for layer in (*own.producers, own.consumer)
            if isinstance(model.get_submodule(layer), (nn.Linear, nn.Conv2d))
        ]
        for name, own in units.items()
    }
    with module_macs(model, [layer for own in layers.values() for layer in own]) as macs:
        run_image(model)
        run_text(model)
    unit = {name: sum(macs.get(layer, 0) for layer in own) / units[name].count for name, own in layers.items()}
    return Macs(count_costs(model).macs, unit)


def _rounded(wanted: int, units: InnerUnits) -> int:
    multiple = MULTIPLE if units.size == 1 and units.count > MULTIPLE else 1
    return min(units.count, max(multiple, multiple * round(wanted / multiple)))


def prune(checkpoint: Checkpoint, importance: Mapping[str, Tensor], ratio: float, scope: str) -> Checkpoint:
    """The checkpoint without its least important units; with a ratio of 0 it is the same, bit for bit."""
    model = deepcopy(checkpoint.model)
    units = tower_units(model)
    kept = kept_units(units, importance, ratio, scope, unit_macs(model, units) if scope == "macs" else None)
    keep_units_(model, kept)
    widths = {name: len(numbers) for name, numbers in kept.items() if len(numbers) < units[name].count}
    model.config = replace(model.config, inner_widths={**model.config.inner_widths, **widths})
    for name, width in widths.items():
        logger.info("%s: %d of %d left", name, width, units[name].count)
    return replace(checkpoint, model=model)
