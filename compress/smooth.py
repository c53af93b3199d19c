"""Smoothing: a channel with large activations takes its size to the weights, where rounding has a scale per row.

A range that is found for a whole row of activations is as coarse as its largest channel asks for. Dividing that
channel in the LayerNorm before, and multiplying the weights that read it, changes nothing in float32 and evens out
what is rounded.

Source: Xiao et al. 2022, arXiv:2211.10438.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dmedge.compress.quantize import sqnr_db
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import DynamicLinear, quantize_rows

logger = logging.getLogger(__name__)
STRENGTH = 0.5  # how much of the difference between channels goes to the weights
LEAST_GAIN_DB = 0.5  # of the signal to noise ratio, from which a site is smoothed
MOST_ROWS = 2048  # of activations that a site is judged by

# Names below a block: the LayerNorm, and all that reads it; only blocks that normalise first have such.
_SITES = (
    ("attention_norm", ("attention.query", "attention.key", "attention.value")),
    ("feed_forward_norm", ("feed_forward.up",)),
    ("layer_norm1", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("layer_norm2", ("mlp.fc1",)),
)


def smooth_sites(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """LayerNorm -> the linears that read it, and nothing else does."""
    modules = dict(model.named_modules())
    found = {}
    for name in modules:
        for norm, readers in _SITES:
            names = [f"{name}.{part}".lstrip(".") for part in (norm, *readers)]
            if all(part in modules for part in names) and isinstance(modules[names[0]], nn.LayerNorm):
                found[names[0]] = tuple(names[1:])
    return found


@torch.no_grad()
def smooth_(model: DualEncoder, run: Callable[[DualEncoder], object], only: Sequence[str]) -> dict[str, float]:
    """Smooth every site where rounding then hurts less, in place.

    Args:
        model: float.
        run: gives the model the calibration data.
        only: modules that will be int8 with ranges found on the fly; a site counts if all its readers are.

    Returns:
        LayerNorm -> dB that the worst of its readers gained; only those that were changed.
    """
    sites = {norm: readers for norm, readers in smooth_sites(model).items() if set(readers) <= set(only)}
    modules = dict(model.named_modules())
    with _collected(modules, list(sites)) as seen:
        run(model)
    gains = {}
    for name, readers in sites.items():
        if name not in seen:
            continue
        x, weights = seen[name], [modules[reader].get_parameter("weight") for reader in readers]
        scale = smoothing_scale(x, weights)
        before = min(_fidelity_db(x, weight) for weight in weights)
        after = min(_fidelity_db(x / scale, weight * scale) for weight in weights)
        if after - before >= LEAST_GAIN_DB:
            gains[name] = after - before
            norm = modules[name]
            for parameter in (norm.get_parameter("weight"), norm.get_parameter("bias")):
                parameter.div_(scale)
            for weight in weights:
                weight.mul_(scale)
            logger.info("%s: smoothed, %.1f dB less noise", name, after - before)
    return gains


def smoothing_scale(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Divisor [W] of the channels of [N, W] activations that [O, W] weights read; powers of two, so nothing rounds."""
    activation = x.abs().amax(0).clamp(min=1e-5)
    weight = torch.stack([one.abs().amax(0) for one in weights]).amax(0).clamp(min=1e-5)
    scale = activation**STRENGTH / weight ** (1 - STRENGTH)
    return torch.exp2(torch.round(torch.log2(scale / scale.median())))


def _fidelity_db(x: Tensor, weight: Tensor) -> float:
    """Signal to noise ratio of a linear, once it is int8."""
    linear = DynamicLinear(weight.shape[1], weight.shape[0], has_bias=False)
    linear.weight, linear.scale = quantize_rows(weight)
    return sqnr_db(x @ weight.T, linear(x))


@contextmanager
def _collected(modules: dict[str, nn.Module], names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Rows of what some modules return, while they are run."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            rows = output.reshape(-1, output.shape[-1])
            before = seen.get(name, rows[:0])
            seen[name] = torch.cat([before, rows[: MOST_ROWS - len(before)]])

        return hook

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
