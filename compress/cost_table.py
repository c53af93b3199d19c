"""An estimate of how long a plan takes, module by module, before any runtime has seen it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmedge.compress.sensitivity import Sides, run_image, run_text
from dmedge.model.dual import DualEncoder

# Whole programs at batch 1 with one thread over float32, ExecuTorch with XNNPACK on x86 servers that have VNNI:
# transformers took 0.33 to 0.51 of the float time in int8 and 0.40 to 0.58 with 4-bit weights, convolutional towers
# 0.46 to 0.61. The slow end of each.
TIME: Mapping[str, float] = {"int8_dynamic": 0.51, "int4_groups": 0.58, "int8_static": 0.61}
METHOD = "multiply-accumulates, weighted by precision with time ratios measured on x86 servers; no figure of a phone"


@dataclass(frozen=True, slots=True)
class CostTable:
    """Multiply-accumulates of one image and of one text, by module."""

    sides: Sides
    image: Mapping[str, int]
    text: Mapping[str, int]
    image_rest: int  # outside of all modules that can be quantized
    text_rest: int

    def latency_ratio(self, plan: Mapping[str, str]) -> float:
        """Estimated time of the slower of both programs under `plan`, as a share of its float time."""
        return max(_ratio(self.image, self.image_rest, plan), _ratio(self.text, self.text_rest, plan))


def _ratio(macs: Mapping[str, int], rest: int, plan: Mapping[str, str]) -> float:
    spent = rest + sum(count * TIME.get(plan[name], 1.0) for name, count in macs.items())
    return spent / (rest + sum(macs.values()))


@torch.inference_mode()
def cost_table(model: DualEncoder, sides: Sides) -> CostTable:
    """Count by running one image and one text through a float model."""
    image, image_rest = _count(model, sides.image, lambda: run_image(model))
    text, text_rest = _count(model, sides.text, lambda: run_text(model))
    return CostTable(sides, image, text, image_rest, text_rest)


def _count(model: DualEncoder, names: tuple[str, ...], run: Callable[[], object]) -> tuple[dict[str, int], int]:
    with _macs(model, names) as macs, FlopCounterMode(display=False) as flops:
        run()
    return macs, max(0, flops.get_total_flops() // 2 - sum(macs.values()))


@contextmanager
def _macs(model: DualEncoder, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Fills with the multiply-accumulates of each linear and each convolution that runs."""
    counts: dict[str, int] = {}

    def counter(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, 0) + output.numel() * module.get_parameter("weight")[0].numel()

        return count

    modules = {name: model.get_submodule(name) for name in names}
    hooks = [
        module.register_forward_hook(counter(name))
        for name, module in modules.items()
        if not isinstance(module, nn.Embedding)
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
