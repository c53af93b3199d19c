"""Integer modules as Core ML stores them: int8 or int4 weights that are decompressed, and activations left in float16.

A checkpoint's own codes go into the package; its scales become float16, the type of what they are multiplied into.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.errors import ExportError, require
from dmedge.model.dual import DualEncoder
from dmedge.model.nibbles import CODE_MAX, CODE_MIN, GROUP
from dmedge.model.quantized import (
    WEIGHT_MAX,
    WEIGHT_MIN,
    ActivationPoint,
    DynamicLinear,
    Int4Linear,
    QuantConv2d,
    QuantEmbedding,
    replace_module_,
)

INTEGER_MODULES = (QuantEmbedding, DynamicLinear, Int4Linear, QuantConv2d)
_SCALE_ERROR = 2.0**-11  # of a number rounded to float16


class _Stored(nn.Module):
    """The weight of an integer module; one int8 scale for a row, or one int4 scale for a group of a row."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        codes = module.get_buffer("codes" if isinstance(module, Int4Linear) else "weight")
        scale = module.get_buffer("scale")
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale if isinstance(module, Int4Linear) else scale.reshape(-1))
        self.register_buffer("zero_point", torch.zeros_like(self.scale, dtype=torch.int8))
        self.register_buffer("bias", getattr(module, "bias", None))
        self.is_grouped = isinstance(module, Int4Linear)

    def weight(self) -> Tensor:
        """Float32 weight, by the operation that coremltools keeps in its compressed form."""
        if self.is_grouped:
            return torch.ops.torchao.dequantize_affine(  # type: ignore[no-any-return]
                self.codes, [1, GROUP], self.scale, self.zero_point, torch.int8, CODE_MIN, CODE_MAX
            )
        return torch.ops.quantized_decomposed.dequantize_per_channel.default(  # type: ignore[no-any-return]
            self.codes, self.scale, self.zero_point, 0, WEIGHT_MIN, WEIGHT_MAX, torch.int8
        )


class _StoredEmbedding(_Stored):
    def forward(self, ids: Tensor) -> Tensor:
        """Look up int [B, L] ids."""
        return F.embedding(ids, self.weight())


class _StoredLinear(_Stored):
    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight(), self.bias)


class _StoredConv2d(_Stored):
    def __init__(self, module: QuantConv2d) -> None:
        super().__init__(module)
        self.stride, self.padding = module.stride, module.padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, inputs, H, W]."""
        return F.conv2d(x, self.weight(), self.bias, self.stride, self.padding)


def stored_model(model: DualEncoder) -> DualEncoder:
    """A copy of `model` whose integer modules only decompress their weights; a float model stays as it is."""
    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        match module:
            case QuantEmbedding():
                replace_module_(copy, name, _StoredEmbedding(module))
            case DynamicLinear() | Int4Linear():
                replace_module_(copy, name, _StoredLinear(module))
            case QuantConv2d():
                replace_module_(copy, name, _StoredConv2d(module))
            case ActivationPoint():
                replace_module_(copy, name, nn.Identity())
    return copy


def has_groups(model: nn.Module) -> bool:
    """Whether a weight has a scale per group, which Core ML stores since iOS 18."""
    return any(isinstance(module, Int4Linear) for module in model.modules())


def check_integers(model: DualEncoder, packages: Mapping[str, Path]) -> None:
    """Read the integers of a quantized model back from saved packages.

    Args:
        model: quantized, as in its checkpoint.
        packages: program -> its `.mlpackage`.

    Raises:
        ExportError: the codes of a module are in none of them, or its scales are not the same to float16.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, INTEGER_MODULES)}
    if not modules:
        return
    found = [weight for package in packages.values() for weight in _compressed(package)]
    for name, module in modules.items():
        stored = _Stored(module)
        codes, scale = stored.codes.numpy(), stored.scale.numpy()
        if not any(np.array_equal(codes, other) and _is_near(scale, its) for other, its in found):
            raise ExportError(f"{name}: its integers are not in the Core ML packages as in the checkpoint; report this")


def _compressed(package: Path) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Codes and scales of every compressed weight in a package."""
    reader = require("dmedge.runtime.mil_program", "coreml")
    for operation in reader.operations_of(reader.read_package(package)):
        match operation.op_type:
            case "constexpr_affine_dequantize":
                yield operation.quantized_data.val, operation.scale.val
            case "constexpr_blockwise_shift_scale":
                yield operation.data.val, operation.scale.val


def _is_near(scale: NDArray[Any], found: NDArray[Any]) -> bool:
    """Whether float32 scales and those found are the same numbers to float16; tiny ones belong to rows of zeros."""
    wide = found.astype(np.float32)
    if wide.size != scale.size:
        return False
    return bool(np.allclose(wide.reshape(scale.shape), scale, rtol=_SCALE_ERROR, atol=2.0**-24))
