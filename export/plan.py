"""What a plan promises before anything is lowered: which modules every program runs, and their bytes.

A bundle that keeps its plan is about as large as the tensors of the plan. One that is not stored a
tensor in another precision, or stored it twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dmedge.model.dual import DualEncoder


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


def planned_tensors(model: DualEncoder) -> dict[str, dict[str, PlannedTensor]]:
    """Program -> name -> tensor, of every module that the program runs; found by running it once."""
    config = model.config
    pixels = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    ids = torch.ones(1, 2, dtype=torch.int32)
    with torch.no_grad():
        patches, tokens = model.encode_image(pixels)[1], model.encode_text(ids, torch.ones_like(ids))[1]
        programs: dict[str, Callable[[], object]] = {
            "encode_image": lambda: model.encode_image(pixels),
            "encode_text": lambda: model.encode_text(ids, torch.ones_like(ids)),
        }
        if model.fusion is not None:
            programs["fuse"] = lambda: model.fuse(patches, tokens, torch.ones_like(ids))
        return {name: _tensors(model, _modules_run(model, run)) for name, run in programs.items()}


def _modules_run(model: nn.Module, run: Callable[[], object]) -> set[str]:
    seen: set[str] = {""}  # the model itself holds the logit scale
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: seen.add(name))
        for name, module in model.named_modules()
    ]
    try:
        run()
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
