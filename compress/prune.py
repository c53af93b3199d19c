"""Structured pruning: take the least important channels, hidden units and heads out of both towers.

What is left is a smaller dense model. Scattered zeros would keep the shapes, and with them the time.
"""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from dmedge.compress.importance import tower_units
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.inner import InnerUnits, keep_units_

logger = logging.getLogger(__name__)
MULTIPLE = 8  # of channels and hidden units: what vector units and int8 kernels take at once


def kept_units(
    units: Mapping[str, InnerUnits], importance: Mapping[str, Tensor], ratio: float, scope: str
) -> dict[str, Tensor]:
    """Choose the units that stay.

    Args:
        units: of every module that may be pruned.
        importance: module -> [units].
        ratio: share of the units to take out, 0 to below 1.
        scope: "layer" takes that share of every module; "global" takes the least important ones wherever they
            are, importance being compared as a share of the mean of the module, and leaves each an eighth.

    Returns:
        module -> int64 numbers of the units kept, in rising order; numbers of channels and hidden units are
        rounded to the nearest multiple of 8, heads to whole ones, and one stays at least.
    """
    relative = {name: values / values.mean().clamp(min=1e-30) for name, values in importance.items()}
    if scope == "global":
        every = torch.cat([relative[name] for name in units])
        limit = float(every.sort().values[min(round(ratio * len(every)), len(every) - 1)])
        wanted = {name: max(int((relative[name] >= limit).sum()), own.count // 8) for name, own in units.items()}
    else:
        wanted = {name: round((1 - ratio) * own.count) for name, own in units.items()}
    kept = {}
    for name, own in units.items():
        count = own.count if ratio == 0 else _rounded(wanted[name], own)
        kept[name] = relative[name].sort(descending=True, stable=True).indices[:count].sort().values
    return kept


def _rounded(wanted: int, units: InnerUnits) -> int:
    multiple = MULTIPLE if units.size == 1 and units.count > MULTIPLE else 1
    return min(units.count, max(multiple, multiple * round(wanted / multiple)))


def prune(checkpoint: Checkpoint, importance: Mapping[str, Tensor], ratio: float, scope: str) -> Checkpoint:
    """The checkpoint without its least important units; with a ratio of 0 it is the same, bit for bit."""
    model = deepcopy(checkpoint.model)
    units = tower_units(model)
    kept = kept_units(units, importance, ratio, scope)
    keep_units_(model, kept)
    widths = {name: len(numbers) for name, numbers in kept.items() if len(numbers) < units[name].count}
    model.config = replace(model.config, inner_widths={**model.config.inner_widths, **widths})
    for name, width in widths.items():
        logger.info("%s: %d of %d left", name, width, units[name].count)
    return replace(checkpoint, model=model)
