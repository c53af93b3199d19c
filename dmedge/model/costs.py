"""What a model costs: parameters and multiply-accumulates, and the share of both that is int8 or int4."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import DynamicLinear, Int4Linear, QuantConv2d

TEXT_LENGTH = 16  # tokens of the text that is counted
CODES_PER_ITEM = {torch.uint8: 2}  # int4 is packed

_AUXILIARY = (
    "scale",
    "zero_point",
    "input_scale",
    "members",
)  # buffers that say how others are read, or what belongs together


@dataclass(frozen=True, slots=True)
class Costs:
    """Parameters, and multiply-accumulates of one image, one text and one fusion of both."""

    parameters: int
    parameters_int8: int  # int4 included
    parameters_int4: int
    macs: int
    macs_int8: int

    @property
    def parameter_share_int8(self) -> float:
        """Share of the parameters that is stored in int8, or in int4."""
        return self.parameters_int8 / self.parameters

    @property
    def parameter_share_int4(self) -> float:
        """Share of the parameters that is stored in int4."""
        return self.parameters_int4 / self.parameters

    @property
    def mac_share_int8(self) -> float:
        """Share of the multiply-accumulates whose two factors are int8, or int8 and int4."""
        return self.macs_int8 / self.macs


@torch.no_grad()
def count_costs(model: DualEncoder) -> Costs:
    """Count a float or a quantized model, by running each of its programs once at batch 1."""
    sizes = [
        (tensor.numel() * CODES_PER_ITEM.get(tensor.dtype, 1), tensor.dtype)
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] not in _AUXILIARY and ".norm.running" not in name
    ]
    with _int8_macs(model) as macs_int8, FlopCounterMode(display=False) as flops:
        run_once(model)
    return Costs(
        parameters=sum(size for size, _ in sizes),
        parameters_int8=sum(size for size, dtype in sizes if dtype in (torch.int8, torch.uint8)),
        parameters_int4=sum(size for size, dtype in sizes if dtype == torch.uint8),
        macs=flops.get_total_flops() // 2,
        macs_int8=sum(macs_int8),
    )


def run_once(model: DualEncoder) -> None:
    """Run all programs on blank inputs."""
    config = model.config
    pixels = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    ids = torch.ones(1, min(TEXT_LENGTH, config.context_length), dtype=torch.int32)
    _, patches = model.encode_image(pixels)
    _, tokens = model.encode_text(ids, torch.ones_like(ids))
    if model.fusion is not None:
        model.fuse(patches, tokens, torch.ones_like(ids))


@contextmanager
def _int8_macs(model: nn.Module) -> Iterator[list[int]]:
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight = module.get_buffer("codes" if isinstance(module, Int4Linear) else "weight")
        counts.append(output.numel() * weight[0].numel())

    integer = [module for module in model.modules() if isinstance(module, (DynamicLinear, Int4Linear, QuantConv2d))]
    hooks = [module.register_forward_hook(count) for module in integer]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
