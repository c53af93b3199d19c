"""What each module would take on this host, in float32 and in int8: a table whose entries add up.

Every linear and convolution is timed alone, with torch's own kernels, on the shapes that one picture and one text
give it. It ranks plans; the latency of a program is measured once a bundle stands.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dmedge.model.costs import run_once
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import Scheme

RUNS = 30  # of which the fastest counts


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one module."""

    float_s: float
    int8_s: float


@torch.no_grad()
def cost_table(model: DualEncoder) -> dict[str, Cost]:
    """Time every linear and convolution of a float model, on one thread."""
    shapes: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            shapes.setdefault(name, given[0])

        return hook

    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    hooks = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    try:
        run_once(model)
    finally:
        for hook in hooks:
            hook.remove()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: Cost(_seconds(layers[name], x), _seconds_int8(layers[name], x)) for name, x in shapes.items()}
    finally:
        torch.set_num_threads(threads)


def latency_ratio(costs: Mapping[str, Cost], plan: Mapping[str, Scheme]) -> float:
    """Estimated time under a plan over that in float32."""
    whole = sum(cost.float_s for cost in costs.values())
    planned = sum(
        cost.float_s if plan.get(name, "float32") == "float32" else cost.int8_s for name, cost in costs.items()
    )
    return planned / whole


def _fastest(call: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _seconds(layer: nn.Module, x: Tensor) -> float:
    return _fastest(lambda: layer(x))


def _seconds_int8(layer: nn.Module, x: Tensor) -> float:
    """The same layer with random int8 weights in torch's quantized kernels."""
    ops: Any = torch.ops.quantized
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that these kernels will move
        weight = torch.quantize_per_tensor(layer.get_parameter("weight").detach(), 0.01, 0, torch.qint8)
        if isinstance(layer, nn.Linear):
            packed = ops.linear_prepack(weight, layer.bias)
            return _fastest(lambda: ops.linear_dynamic(x.reshape(-1, x.shape[-1]), packed, False))
        assert isinstance(layer, nn.Conv2d)
        packed = ops.conv2d_prepack(
            weight,
            layer.bias,
            list(layer.stride),
            list(layer.padding),
            list(layer.dilation),
            layer.groups,
        )
        codes = torch.quantize_per_tensor(x, 0.05, 64, torch.quint8).contiguous(memory_format=torch.channels_last)
        return _fastest(lambda: ops.conv2d(codes, packed, 0.05, 64))
