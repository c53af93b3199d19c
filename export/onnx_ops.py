"""The integer modules in ONNX: the same integers, in the operations that onnxruntime fuses.

Each module is replaced by one that calls a custom operation, and each custom operation has a
translation, or is one of onnxruntime's own. A linear becomes DynamicQuantizeLinear, MatMulInteger and
a scaling, which onnxruntime fuses into one kernel, or MatMulNBits where its weights are int4; a
convolution between activation points becomes QLinearConv, and the addition of a residual block
QLinearAdd. Activations are uint8, since the int8 kernels are slow on x86.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.errors import require
from dmedge.export.onnx_attention import fuse_attention_
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_rewrite import TanhGelu
from dmedge.model.nibbles import GROUP
from dmedge.model.quantized import (
    ACTIVATION_MIN,
    ActivationPoint,
    DynamicLinear,
    Int4Linear,
    QuantConv2d,
    QuantEmbedding,
    replace_module_,
)

OPSET = 20
FLOAT = 1  # onnx.TensorProto.FLOAT
INT8_ACTIVATIONS = 4  # accuracy_level of MatMulNBits: what its kernels multiply the weights by

torch.library.define("dmedge::dynamic_linear", "(Tensor x, Tensor weight, Tensor scale, Tensor? bias) -> Tensor")
torch.library.define(
    "dmedge::static_conv2d",
    "(Tensor x, Tensor weight, Tensor scale, Tensor bias, Tensor bias_scale, int[] stride, int[] padding) -> Tensor",
)
torch.library.define("dmedge::activation", "(Tensor x, Tensor scale, Tensor zero_point) -> Tensor")


def _fake_dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))


def _fake_static_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    bias_scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    return F.conv2d(x, weight.to(x.dtype), None, tuple(stride), tuple(padding))


def _fake_activation(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


torch.library.register_fake("dmedge::dynamic_linear", _fake_dynamic_linear)
torch.library.register_fake("dmedge::static_conv2d", _fake_static_conv2d)
torch.library.register_fake("dmedge::activation", _fake_activation)


class OnnxLinear(nn.Module):
    """A `DynamicLinear` with its weight the way MatMulInteger wants it, [inputs, outputs]."""

    def __init__(self, module: DynamicLinear) -> None:
        super().__init__()
        self.register_buffer("weight", module.weight.t().contiguous())
        self.register_buffer("scale", module.scale)
        self.register_buffer("bias", module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        result: Tensor = torch.ops.dmedge.dynamic_linear.default(x, self.weight, self.scale, self.bias)
        return result


class OnnxInt4Linear(nn.Module):
    """An `Int4Linear` with its weight the way MatMulNBits wants it, [outputs, groups, bytes of a group]."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, module: Int4Linear) -> None:
        super().__init__()
        self.outputs, self.inputs = module.codes.shape
        self.register_buffer("weight", module.weight.reshape(self.outputs, -1, GROUP // 2))
        self.register_buffer("scale", module.scale)
        self.register_buffer("bias", module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        shape = {"K": self.inputs, "N": self.outputs, "bits": 4, "block_size": GROUP}
        product = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, self.weight, self.scale),
            {**shape, "accuracy_level": INT8_ACTIVATIONS},
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.outputs),
            version=1,
        )
        return product if self.bias is None else product + self.bias


class OnnxEmbedding(QuantEmbedding):
    """A `QuantEmbedding` that looks up ids as they come: Gather, unlike `index_select`, takes them in any shape."""

    def __init__(self, module: QuantEmbedding) -> None:
        super().__init__(*module.weight.shape)
        self.weight, self.scale = module.weight, module.scale

    def forward(self, ids: Tensor) -> Tensor:
        """Look up int [B, L] ids as float32 [B, L, W]."""
        return F.embedding(ids, self.weight).to(torch.float32) * F.embedding(ids, self.scale)


class OnnxConv2d(nn.Module):
    """A `QuantConv2d` with the integers of its bias."""

    def __init__(self, module: QuantConv2d) -> None:
        super().__init__()
        self.stride, self.padding = list(module.stride), list(module.padding)
        self.register_buffer("weight", module.weight)
        self.register_buffer("scale", module.scale)
        self.register_buffer("bias", module.integer_bias())
        self.register_buffer("bias_scale", module.input_scale * module.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, inputs, H, W]."""
        result: Tensor = torch.ops.dmedge.static_conv2d.default(
            x, self.weight, self.scale, self.bias, self.bias_scale, self.stride, self.padding
        )
        return result


class OnnxActivation(nn.Module):
    """An `ActivationPoint` in uint8."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, module: ActivationPoint) -> None:
        super().__init__()
        self.register_buffer("scale", module.scale)
        self.register_buffer("zero_point", (module.zero_point - ACTIVATION_MIN).to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Round `x` to the grid."""
        result: Tensor = torch.ops.dmedge.activation.default(x, self.scale, self.zero_point)
        return result


class OnnxTanhGelu(nn.Module):
    """A `TanhGelu` as one operation, which onnxruntime computes as it was asked to."""

    def __init__(self, _: TanhGelu) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Map [...] to [...]."""
        return F.gelu(x, approximate="tanh")


REPLACEMENTS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    QuantEmbedding: OnnxEmbedding,
    DynamicLinear: OnnxLinear,
    Int4Linear: OnnxInt4Linear,
    QuantConv2d: OnnxConv2d,
    ActivationPoint: OnnxActivation,
    TanhGelu: OnnxTanhGelu,
}


def onnx_model(model: DualEncoder, *, fuses: bool = True) -> DualEncoder:
    """A copy of `model` whose integer modules call the custom operations; such a copy can be exported, not run.

    Args:
        model: float or quantized.
        fuses: whether attention is one operation; see `dmedge.export.onnx_attention`.
    """
    copied = deepcopy(model)
    if fuses:
        fuse_attention_(copied)
    for name, module in list(copied.named_modules()):
        if type(module) in REPLACEMENTS:
            replace_module_(copied, name, REPLACEMENTS[type(module)](module))
    return copied.eval()


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Custom operation -> the function that writes it in ONNX operations."""
    op: Any = require("onnxscript", "onnx").opset20

    def dynamic_linear(x: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
        codes, codes_scale, codes_zero = op.DynamicQuantizeLinear(x)
        sums = op.Cast(op.MatMulInteger(codes, weight, codes_zero), to=FLOAT)
        product = op.Mul(sums, op.Mul(codes_scale, scale))
        return product if bias is None else op.Add(product, bias)

    def static_conv2d(
        x: Any, weight: Any, scale: Any, bias: Any, bias_scale: Any, stride: Sequence[int], padding: Sequence[int]
    ) -> Any:
        kernel = op.DequantizeLinear(weight, scale, axis=0)
        offset = op.DequantizeLinear(bias, bias_scale, axis=0)
        return op.Conv(x, kernel, offset, strides=list(stride), pads=[*padding, *padding])

    def activation(x: Any, scale: Any, zero_point: Any) -> Any:
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)

    own = torch.ops.dmedge
    return {
        own.dynamic_linear.default: dynamic_linear,
        own.static_conv2d.default: static_conv2d,
        own.activation.default: activation,
    }
