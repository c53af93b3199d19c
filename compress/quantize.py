"""Carrying a plan out: float modules become integer modules, once, for every runtime."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmedge.compress.plan import conv_sites
from dmedge.model.dual import DualEncoder
from dmedge.model.nibbles import pack_nibbles, round_groups
from dmedge.model.quantized import (
    ActivationPoint,
    DynamicLinear,
    Int4Linear,
    QuantConv2d,
    QuantEmbedding,
    Range,
    Scheme,
    quantize_rows,
    quantized_shape,
    replace_module_,
)


@torch.no_grad()
def quantize_(
    model: DualEncoder,
    plan: Mapping[str, Scheme],
    ranges: Mapping[str, Range],
    groups: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Replace the modules of `plan` by integer modules that hold their rounded weights.

    Args:
        model: float, with batch normalisation folded.
        plan: module -> scheme.
        ranges: of every activation point that the plan names.
        groups: 4-bit codes and scales that were fitted to data; a linear that is not named is rounded to nearest.
    """
    modules, sites = dict(model.named_modules()), conv_sites(model)
    for name, scheme in plan.items():
        if scheme == "float32":
            continue
        quantized = quantized_shape(modules[name], scheme)
        if isinstance(quantized, ActivationPoint):
            quantized = ActivationPoint(*ranges[name])
        elif isinstance(quantized, QuantConv2d):
            _fill_conv_(quantized, modules[name], ranges[sites[name].input_point])
        elif isinstance(quantized, Int4Linear):
            _fill_groups_(quantized, modules[name], (groups or {}).get(name))
        else:
            _fill_rows_(quantized, modules[name])
        replace_module_(model, name, quantized)


def _fill_rows_(quantized: nn.Module, module: nn.Module) -> None:
    codes, scale = quantize_rows(module.get_parameter("weight"))
    match quantized:
        case QuantEmbedding():
            quantized.weight, quantized.scale = codes, scale[:, None]
        case DynamicLinear():
            quantized.weight, quantized.scale = codes, scale
            if quantized.bias is not None:
                quantized.bias = module.get_parameter("bias").detach().clone()


def _fill_groups_(quantized: Int4Linear, module: nn.Module, fitted: tuple[Tensor, Tensor] | None) -> None:
    quantized.codes, quantized.scale = fitted or round_groups(module.get_parameter("weight"))
    quantized.weight = pack_nibbles(quantized.codes)
    if quantized.bias is not None:
        quantized.bias = module.get_parameter("bias").detach().clone()


def _fill_conv_(quantized: QuantConv2d, module: nn.Module, input_range: Range) -> None:
    quantized.weight, quantized.scale = quantize_rows(module.get_parameter("weight"))
    quantized.input_scale = torch.tensor(input_range.scale)
    step = quantized.input_scale * quantized.scale  # of the int32 accumulator
    bias = getattr(module, "bias", None)
    if bias is not None:
        quantized.bias = torch.round(bias / step) * step


def sqnr_db(reference: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise ratio in dB; 20 is one part in ten, 40 one in a hundred."""
    noise = (reference - quantized).square().sum()
    return float(10 * torch.log10(reference.square().sum() / noise.clamp(min=1e-20)))
