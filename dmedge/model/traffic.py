"""Bytes that one run of a program moves at least, if nothing but its products went through memory.

Counted are the convolutions and matrix products: their weights as they are stored, what they read and what they
write. What lies between them (normalisation, activation functions, sums) is taken as fused, and rows of an embedding
table as nothing. So a runtime moves more, and the multiply-accumulates per byte are an upper bound.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dmedge.model.quantized import DynamicLinear, Int4Linear, QuantConv2d

FLOAT_BYTES = 4.0
WEIGHT_BYTES: dict[type[nn.Module], float] = {DynamicLinear: 1.0, Int4Linear: 0.5, QuantConv2d: 1.0}
ACTIVATION_BYTES: dict[type[nn.Module], float] = {QuantConv2d: 1.0}  # its input and output are int8 in a runtime

_aten = torch.ops.aten
_WEIGHTED = (_aten.mm, _aten.convolution)  # activation, weight
_BOTH = (_aten.bmm,)  # two activations


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one run."""

    weight_bytes: int
    activation_bytes: int


@torch.no_grad()
def count_traffic(model: nn.Module, program: str, inputs: Sequence[Tensor]) -> Traffic:
    """Count by running `program`, a method of a float or a quantized model, once."""
    counter = _Counter()
    with _watched(model, counter), counter:
        getattr(model, program)(*inputs)
    return Traffic(round(counter.weight_bytes), round(counter.activation_bytes))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weight_bytes = self.activation_bytes = 0.0
        self.within: list[type[nn.Module]] = []  # integer modules that are running

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind, factors = func._overloadpacket, args
        if kind is _aten.addmm:
            kind, factors = _aten.mm, args[1:]
        if kind in _WEIGHTED:
            self._add(factors[1].numel(), factors[0].numel() + out.numel())
        elif kind in _BOTH:
            self._add(0, factors[0].numel() + factors[1].numel() + out.numel())
        return out

    def _add(self, weights: int, activations: int) -> None:
        module = self.within[-1] if self.within else nn.Module
        self.weight_bytes += weights * WEIGHT_BYTES.get(module, FLOAT_BYTES)
        self.activation_bytes += activations * ACTIVATION_BYTES.get(module, FLOAT_BYTES)


@contextmanager
def _watched(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Let `counter` know which integer module is running."""

    def enter(module: nn.Module, _: Any) -> None:
        counter.within.append(type(module))

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        counter.within.pop()

    integer = [module for module in model.modules() if type(module) in WEIGHT_BYTES]
    hooks = [module.register_forward_pre_hook(enter) for module in integer]
    hooks += [module.register_forward_hook(leave) for module in integer]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
