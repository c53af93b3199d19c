"""Quantization-aware training: weights that learn to be rounded, for what rounding afterwards cannot hold.

The model computes in float32 with weights and fixed ranges rounded as they will be, and the gradient passes
through the rounding as if it were not there. Ranges that are found on the fly need no training.

Source: Jacob et al. 2018, arXiv:1712.05877, section 3; Bengio et al. 2013, arXiv:1308.3432 (straight-through).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dmedge.model.dual import DualEncoder
from dmedge.model.nibbles import GROUP, round_groups
from dmedge.model.quantized import ACTIVATION_MAX, ACTIVATION_MIN, Range, Scheme, quantize_rows, replace_module_


class RoundedRows(nn.Module):
    """A weight as its int8 rows will be read."""

    def forward(self, weight: Tensor) -> Tensor:
        """Round [rows, ...] within 127 steps of each row's largest."""
        codes, scale = quantize_rows(weight.detach())
        rounded = codes.to(weight.dtype) * scale.reshape(-1, *[1] * (weight.dim() - 1))
        return weight + (rounded - weight).detach()


class RoundedGroups(nn.Module):
    """A weight as its 4-bit codes will be read, `GROUP` of a row with one scale."""

    def forward(self, weight: Tensor) -> Tensor:
        """Round [rows, width] to the nearest codes."""
        codes, scale = round_groups(weight.detach())
        rounded = codes.to(weight.dtype) * scale.repeat_interleave(GROUP, 1)
        return weight + (rounded - weight).detach()


class RoundedPoint(nn.Module):
    """An activation as its fixed range will hold it; beyond the range there is no gradient."""

    def __init__(self, range: Range) -> None:
        super().__init__()
        self.range = range

    def forward(self, x: Tensor) -> Tensor:
        """Clamp and round."""
        scale, zero_point = self.range
        clamped = x.clamp((ACTIVATION_MIN - zero_point) * scale, (ACTIVATION_MAX - zero_point) * scale)
        rounded = (clamped.detach() / scale).round() * scale
        return clamped + (rounded - clamped).detach()


def insert_rounding_(model: DualEncoder, plan: Mapping[str, Scheme], ranges: Mapping[str, Range]) -> None:
    """Have `model` compute as if `plan` were carried out, and stay trainable."""
    modules = dict(model.named_modules())
    for name, scheme in plan.items():
        if scheme == "float32":
            continue
        if name in ranges:
            replace_module_(model, name, RoundedPoint(ranges[name]))
        else:
            rounding = RoundedGroups() if scheme == "int4_groups" else RoundedRows()
            parametrize.register_parametrization(modules[name], "weight", rounding)


def remove_rounding_(model: DualEncoder, plan: Mapping[str, Scheme], ranges: Mapping[str, Range]) -> None:
    """Give back a plain float model with the weights that were learned."""
    modules = dict(model.named_modules())
    for name, scheme in plan.items():
        if scheme == "float32":
            continue
        if name in ranges:
            replace_module_(model, name, nn.Identity())
        else:
            parametrize.remove_parametrizations(modules[name], "weight", leave_parametrized=False)
