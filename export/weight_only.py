"""Convolutions whose weights alone are int8: what a runtime computes whose integer convolutions are slow.

The substitution is made in the model before it is exported, so the golden outputs of a bundle are what
torch makes of it, and the bundle must come as near to them as any other.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import ActivationPoint, QuantConv2d, replace_module_


class WeightOnlyConv2d(nn.Module):
    """A `QuantConv2d` of the same integers that takes float activations as they come."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, module: QuantConv2d) -> None:
        super().__init__()
        self.stride, self.padding = module.stride, module.padding
        self.register_buffer("weight", module.weight)
        self.register_buffer("scale", module.scale)
        self.register_buffer("bias", module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 [B, inputs, H, W]."""
        weight = self.weight.to(x.dtype) * self.scale.reshape(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def make_weight_only_(model: DualEncoder) -> None:
    """Let activations of convolutions be float: their points go, the integers of their weights stay."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantConv2d):
            replace_module_(model, name, WeightOnlyConv2d(module))
        elif isinstance(module, ActivationPoint):
            replace_module_(model, name, nn.Identity())
