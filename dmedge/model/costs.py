"""What a model costs: parameters and multiply-accumulates, and the share of both that is int8 or int4."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmedge.artifact import Program
from dmedge.model.checkpoint import checkpoint_programs
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
    """Parameters, and multiply-accumulates of one run of every program: one image, one text, one fusion of both."""

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
def count_costs(model: DualEncoder, programs: Sequence[Program] | None = None) -> Costs:
    """Count a float or a quantized model, by running each of its programs once at batch 1.

    Args:
        programs: of those that the model can run [default: those of a checkpoint].
    """
    sizes = [
        (tensor.numel() * CODES_PER_ITEM.get(tensor.dtype, 1), tensor.dtype)
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] not in _AUXILIARY and ".norm.running" not in name
    ]
    with _int8_macs(model) as macs_int8, FlopCounterMode(display=False) as flops:
        run_once(model, programs)
    return Costs(
        parameters=sum(size for size, _ in sizes),
        parameters_int8=sum(size for size, dtype in sizes if dtype in (torch.int8, torch.uint8)),
        parameters_int4=sum(size for size, dtype in sizes if dtype == torch.uint8),
        macs=flops.get_total_flops() // 2,
        macs_int8=sum(macs_int8),
    )


def run_once(model: DualEncoder, programs: Sequence[Program] | None = None) -> None:
    """Run programs on blank inputs; those of a checkpoint unless they are named."""
    for program in checkpoint_programs(model.config) if programs is None else programs:
        inputs = blank_inputs(program, length=min(TEXT_LENGTH, model.config.context_length))
        getattr(model, program.name)(*inputs)


def blank_inputs(program: Program, *, length: int) -> tuple[Tensor, ...]:
    """Inputs of one run at batch 1, all ones; `length` is the number of tokens."""
    sizes = {"batch": 1, "length": length}
    shapes = [[sizes[size] if isinstance(size, str) else size for size in spec.shape] for spec in program.inputs]
    return tuple(
        torch.ones(shape, dtype=getattr(torch, spec.dtype)) for shape, spec in zip(shapes, program.inputs, strict=True)
    )


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
