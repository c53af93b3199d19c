"""What a plan promises before anything is lowered: which modules every program runs, and their bytes.

A bundle that keeps its plan is about as large as the tensors of the plan. One that is not stored a
tensor in another precision, or stored it twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dmedge.artifact import Program
from dmedge.model.checkpoint import checkpoint_programs
from dmedge.model.costs import blank_inputs
from dmedge.model.dual import DualEncoder

_LENGTH = 2  # tokens of the text that is run


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor that a program needs."""

    module: str
    numbers: int  # two in a byte where it is int4
    stored_bytes: int
    is_float: bool

    def size_bytes(self, float_bytes: int = 4) -> int:
        """Bytes in a file, where floats take 4 of them, or 2 in float16."""
        return self.stored_bytes * float_bytes // 4 if self.is_float else self.stored_bytes


def planned_tensors(
    model: DualEncoder, programs: Sequence[Program] | None = None
) -> dict[str, dict[str, PlannedTensor]]:
    """Program -> name -> tensor, of every module that the program runs; found by running it once.

    Args:
        programs: of those that the model can run [default: those of a checkpoint].
    """
    found = checkpoint_programs(model.config) if programs is None else programs
    return {program.name: _tensors(model, modules_run(model, program)) for program in found}


@torch.no_grad()
def modules_run(model: nn.Module, program: Program) -> set[str]:
    """Names of the modules that one program calls."""
    seen: set[str] = {""}  # the model itself holds the logit scale
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: seen.add(name))
        for name, module in model.named_modules()
    ]
    try:
        getattr(model, program.name)(*blank_inputs(program, length=_LENGTH))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _tensors(model: nn.Module, modules: set[str]) -> dict[str, PlannedTensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        module = name.rpartition(".")[0]
        if module in modules:
            numbers = tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)
            found[name] = PlannedTensor(module, numbers, tensor.nbytes, tensor.is_floating_point())
    return found
