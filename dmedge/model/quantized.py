"""Integer modules: a quantization plan carried out, and stored as what every runtime computes with.

Weights are symmetric int8 with one float32 scale per output row, or int4 with one per group of a row; activations
are asymmetric int8.
The modules speak torch's `quantized_decomposed` operations, so `torch.export` of a quantized model
is the graph that XNNPACK takes whole; the ONNX exporter translates the same modules.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.config import near_match
from dmedge.errors import ArtifactError
from dmedge.model.image import fold_batch_norm_
from dmedge.model.nibbles import CODE_MAX, CODE_MIN, GROUP, pack_nibbles, unpack_nibbles

Scheme = Literal["int8_rows", "int8_dynamic", "int8_static", "int4_groups", "float32"]

ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
WEIGHT_MIN, WEIGHT_MAX = -127, 127  # symmetric: -128 stays unused
LEAST_SCALE = 1e-8  # of a row that is all zeros

_ops = torch.ops.quantized_decomposed


class Range(NamedTuple):
    """How int8 codes of one activation are read: real = scale * (code - zero_point)."""

    scale: float
    zero_point: int


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8 with one symmetric scale per row of its first dimension.

    Returns:
        int8 codes shaped like `weight`, within -127..127, and float32 scales [rows].
    """
    scale = (weight.abs().flatten(1).amax(1) / WEIGHT_MAX).clamp(min=LEAST_SCALE)
    codes = torch.round(weight / _along_rows(scale, weight.dim()))
    return codes.clamp(WEIGHT_MIN, WEIGHT_MAX).to(torch.int8), scale


def _along_rows(scale: Tensor, dims: int) -> Tensor:
    return scale.reshape(-1, *[1] * (dims - 1))


class QuantEmbedding(nn.Module):
    """Rows of int8 with a scale each, looked up in plain aten, which all runtimes have."""

    weight: Tensor
    scale: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, width, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(rows, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up int [B, L] ids as float32 [B, L, W]."""
        flat = ids.reshape(-1)
        rows = torch.index_select(self.weight, 0, flat).to(torch.float32)
        return (rows * torch.index_select(self.scale, 0, flat)).reshape(ids.shape[0], ids.shape[1], -1)


class DynamicLinear(nn.Module):
    """Int8 weights times activations that are quantized on the fly, one range per row.

    A range per row, not per tensor, is what XNNPACK computes, and keeps a row's result
    independent of its neighbours: of padding, and of the other items of a batch.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int, outputs: int, *, has_bias: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("zero_point", torch.zeros(outputs, dtype=torch.int64), persistent=False)
        self.register_buffer("bias", torch.zeros(outputs) if has_bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [..., inputs] to [..., outputs]."""
        return F.linear(_round_per_row(x), _dequantize_weight(self.weight, self.scale, self.zero_point), self.bias)


class Int4Linear(nn.Module):
    """A `DynamicLinear` whose weights are int4, with one scale for every `GROUP` inputs of a row.

    `weight` is what is stored, two codes in a byte; `codes` are the same numbers, one in a byte.
    """

    weight: Tensor
    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int, outputs: int, *, has_bias: bool) -> None:
        super().__init__()
        codes = torch.zeros(outputs, inputs, dtype=torch.int8)
        self.register_buffer("weight", pack_nibbles(codes))
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", torch.ones(outputs, inputs // GROUP))
        self.register_buffer("zero_point", torch.zeros(outputs, inputs // GROUP, dtype=torch.int8), persistent=False)
        self.register_buffer("bias", torch.zeros(outputs) if has_bias else None)
        self.register_load_state_dict_post_hook(_unpack_)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [..., inputs] to [..., outputs]."""
        weight = _ops.dequantize_per_channel_group.default(
            self.codes, self.scale, self.zero_point, CODE_MIN, CODE_MAX, torch.int8, GROUP, torch.float32
        )
        return F.linear(_round_per_row(x), weight, self.bias)


def _unpack_(linear: Int4Linear, _: object = None) -> None:
    linear.codes = unpack_nibbles(linear.weight)


def _round_per_row(x: Tensor) -> Tensor:
    """Round float32 [..., W] to int8 in a range of each row's own, and return it as float32."""
    scale, zero = _ops.choose_qparams_per_token_asymmetric.default(x, torch.int8)
    codes = _ops.quantize_per_token.default(x, scale, zero, ACTIVATION_MIN, ACTIVATION_MAX, torch.int8)
    return _ops.dequantize_per_token.default(  # type: ignore[no-any-return]
        codes, scale, zero, ACTIVATION_MIN, ACTIVATION_MAX, torch.int8, torch.float32
    )


class QuantConv2d(nn.Module):
    """Int8 convolution of an activation whose range an `ActivationPoint` has fixed.

    The bias is float32 but lies on the grid of the int32 accumulator, whose step is
    `input_scale * scale`, so that runtimes with an integer bias add the same number.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor
    input_scale: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("weight", torch.zeros(outputs, inputs, *kernel, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("zero_point", torch.zeros(outputs, dtype=torch.int64), persistent=False)
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("input_scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 [B, inputs, H, W], as exactly as the int32 sums of the runtimes.

        Float32 sums would be off by a little, enough to round some activation the other way, and
        that difference would grow from layer to layer.
        """
        weight = _dequantize_weight(self.weight, self.scale, self.zero_point)
        if torch.compiler.is_exporting():  # the pattern that XNNPACK knows
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)
        return F.conv2d(x.double(), weight.double(), self.bias.double(), self.stride, self.padding).to(x.dtype)

    def integer_bias(self) -> Tensor:
        """Int32 [outputs] codes of the bias, in steps of `input_scale * scale`."""
        return torch.round(self.bias / (self.input_scale * self.scale)).to(torch.int32)


class ActivationPoint(nn.Module):
    """Where an activation takes int8 values, in a range that calibration has fixed."""

    scale: Tensor
    zero_point: Tensor
    range: Range  # the buffers as plain numbers

    def __init__(self, scale: float = 1.0, zero_point: int = 0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))
        self.register_load_state_dict_post_hook(_read_range_)  # type: ignore[no-untyped-call]
        _read_range_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Round float32 `x` to the int8 grid, and return it as float32."""
        codes = _ops.quantize_per_tensor.default(x, *self.range, ACTIVATION_MIN, ACTIVATION_MAX, torch.int8)
        return _ops.dequantize_per_tensor.default(  # type: ignore[no-any-return]
            codes, *self.range, ACTIVATION_MIN, ACTIVATION_MAX, torch.int8
        )


def _read_range_(point: ActivationPoint, _: object = None) -> None:
    """Copy the range out of the buffers: exporters want plain numbers in the graph."""
    point.range = Range(point.scale.item(), int(point.zero_point.item()))


def _dequantize_weight(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return _ops.dequantize_per_channel.default(  # type: ignore[no-any-return]
        codes, scale, zero_point, 0, WEIGHT_MIN, WEIGHT_MAX, torch.int8
    )


def quantized_shape(module: nn.Module, scheme: str) -> nn.Module:
    """An integer module, still empty, in the shape of a float one.

    Raises:
        ValueError: `scheme` does not apply to such a module.
    """
    match module, scheme:
        case nn.Embedding(), "int8_rows":
            return QuantEmbedding(module.num_embeddings, module.embedding_dim)
        case nn.Linear(), "int8_dynamic":
            return DynamicLinear(module.in_features, module.out_features, has_bias=module.bias is not None)
        case nn.Linear(), "int4_groups" if module.in_features % GROUP == 0:
            return Int4Linear(module.in_features, module.out_features, has_bias=module.bias is not None)
        case nn.Conv2d(), "int8_static" if module.groups == 1 and isinstance(module.padding, tuple):
            return QuantConv2d(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding
            )
        case nn.Identity(), "int8_static":
            return ActivationPoint()
    raise ValueError(f"scheme {scheme!r} does not apply to {type(module).__name__}")


def rebuild_quantized_(model: nn.Module, plan: Mapping[str, str]) -> None:
    """Replace the modules that `plan` names by integer modules, still empty, for a state dict to fill.

    Batch normalisation is folded first, as it was when the plan was carried out.

    Args:
        model: a float model of the same shape as the one that was quantized.
        plan: module -> scheme; "float32" leaves a module as it is.

    Raises:
        ArtifactError: the plan names a module or scheme that does not fit the model.
    """
    fold_batch_norm_(model)
    modules = dict(model.named_modules())
    for name, scheme in plan.items():
        if name not in modules:
            raise ArtifactError(f"quantization: no module {name!r}{near_match(name, list(modules))}")
        if scheme == "float32":
            continue
        try:
            replace_module_(model, name, quantized_shape(modules[name], scheme))
        except ValueError as error:
            raise ArtifactError(f"quantization of {name!r}: {error}; make the checkpoint again") from error


def replace_module_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `model` has the submodule `name`."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
