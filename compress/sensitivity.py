"""Which parts of a model rounding hurts most, each measured alone."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from dmedge.compress.importance import TOWERS
from dmedge.compress.plan import plan_precision
from dmedge.compress.quantize import quantize_, sqnr_db
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import Range, Scheme

Outputs = Callable[[DualEncoder], Sequence[Tensor]]


def plan_groups(plan: Mapping[str, Scheme]) -> dict[str, tuple[str, ...]]:
    """The modules of a plan in groups that stay float32 together: blocks, and what stands beside them.

    A group is called by what the names of its modules share, so that `keep` understands it: in a tower up to the
    number of a block, or the first two parts; elsewhere the first part.
    """
    groups: dict[str, list[str]] = {}
    for name, scheme in plan.items():
        if scheme == "float32" or name.endswith("_point"):
            continue
        parts = name.split(".")
        least = 1 if parts[0] in TOWERS else 0
        number = next((place for place, part in enumerate(parts) if part.isdecimal()), least)
        groups.setdefault(".".join(parts[: number + 1]), []).append(name)
    return {group: tuple(names) for group, names in groups.items()}


@torch.no_grad()
def sensitivity_db(
    model: DualEncoder, plan: Mapping[str, Scheme], ranges: Mapping[str, Range], outputs: Outputs
) -> dict[str, float]:
    """The signal to noise ratio of a model of which one group alone is rounded.

    Args:
        model: float, with batch normalisation folded; left as it was.
        plan: of the whole model.
        ranges: of its activation points.
        outputs: runs a model on calibration data.

    Returns:
        group -> dB, the worst over the outputs; the most sensitive group first.
    """
    reference = outputs(model)
    groups = plan_groups(plan)
    found = {}
    for group in groups:
        alone = plan_precision(model, [other for other in groups if other != group])
        rounded = deepcopy(model)
        quantize_(rounded, alone, ranges)
        pairs = zip(reference, outputs(rounded), strict=True)
        found[group] = min(sqnr_db(before, after) for before, after in pairs)
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))
