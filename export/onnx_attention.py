"""Attention in ONNX as one operation of onnxruntime's own, where the traced graph has some twenty.

A text has about ten tokens, so the cost of its program is mostly the number of its operations. The kernels take the
mask as it is, so no bias has to be computed either. onnxruntime has them on x86, arm64 and WebAssembly. Its provider
for WebGPU takes no mask: programs that may run there stay as they are traced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dmedge.errors import require
from dmedge.model.attention import MASKED, Attention
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_rewrite import HiddenKeys, PoolingHead
from dmedge.model.quantized import replace_module_

DOMAIN = "com.microsoft"


class OnnxAttention(nn.Module):
    """An `Attention` as MultiHeadAttention, which `join_projections_` may put together with its linear layers."""

    def __init__(self, module: Attention) -> None:
        super().__init__()
        self.heads = module.heads
        self.query, self.key, self.value, self.out = module.query, module.key, module.value, module.out

    def bias(self, mask: Tensor) -> Tensor:
        """What hides padding: the [B, K] mask itself, from which the kernel makes what it adds to the scores."""
        return mask

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [B, Q, W]; keys where `bias`, an int32 mask [B, K], is 0 are not looked at."""
        query, key, value = self.query(x), self.key(context), self.value(context)
        mixed = torch.onnx.ops.symbolic(
            f"{DOMAIN}::MultiHeadAttention",
            (query, key, value, None, bias),
            {"num_heads": self.heads, "mask_filter_value": MASKED},
            dtype=torch.float32,
            shape=query.shape,
            version=1,
        )
        return self.out(mixed)  # type: ignore[no-any-return]


class OnnxPoolingHead(nn.Module):
    """A `PoolingHead` in float without products of patches and weights: its query is the same for every picture.

    What the query makes of the keys' weights is known beforehand, and the bias of the keys is the same for all patches.
    Patches are mixed before they are multiplied by the weights of the values, as a mixture is linear.
    """

    asked: Tensor
    values: Tensor

    @torch.no_grad()
    def __init__(self, module: PoolingHead) -> None:
        super().__init__()
        attention, width = module.attention, module.probe.shape[-1]
        by_head = attention.heads, attention.head_dim, width
        query = attention.query(module.probe[0]).view(attention.heads, 1, -1) * attention.head_dim**-0.5
        asked = query.double() @ attention.key.weight.view(by_head).double()  # [heads, 1, W]
        self.register_buffer("asked", asked[:, 0].float())
        self.register_buffer("values", attention.value.weight.view(by_head).transpose(1, 2).contiguous())
        self.offset, self.out = attention.value.bias, attention.out
        self.layernorm, self.mlp = module.layernorm, module.mlp

    def forward(self, patches: Tensor) -> Tensor:
        """Pool [B, P, W] patches to [B, W]."""
        shares = torch.softmax(self.asked @ patches.transpose(1, 2), dim=-1)  # [B, heads, P]
        mixed = (shares @ patches)[:, :, None] @ self.values  # [B, heads, 1, W of a head]
        x = self.out(mixed.reshape(patches.shape[0], 1, -1) + self.offset)
        x = x + self.mlp(self.layernorm(x))
        return x[:, 0]  # type: ignore[no-any-return]


def heads_apart(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | HiddenKeys | None, scale: float) -> Tensor:
    """Attention of an imported encoder as one operation; see `attention_traced_as`.

    onnxruntime cancels the turning of heads with that of the encoder.
    """
    batch, heads, queries, width = query.shape
    rows = [x.transpose(1, 2).reshape(batch, -1, heads * width) for x in (query, key, value)]
    settings: dict[str, Any] = {"num_heads": heads, "scale": scale, "mask_filter_value": MASKED}
    mask = None
    if isinstance(bias, HiddenKeys):
        mask, settings["unidirectional"] = bias.padding, int(bias.is_causal)
        bias, mask = None, None if mask is None else mask.to(torch.int32)
    elif bias is not None and isinstance(bias.shape[2], int):  # one row for all, where the kernel wants each query's
        bias = bias.expand(-1, -1, queries, -1)
    mixed: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::MultiHeadAttention",
        (*rows, None, mask, bias),
        settings,
        dtype=torch.float32,
        shape=(batch, queries, heads * width),
        version=1,
    )
    return mixed.view(batch, queries, heads, width)


def fuse_attention_(model: DualEncoder) -> None:
    """Replace every float `PoolingHead`, and every `Attention` but one with rotary positions, which turns its heads."""
    for name, module in list(model.named_modules()):
        if type(module) is PoolingHead and _is_float(module.attention):
            replace_module_(model, name, OnnxPoolingHead(module))
    for name, module in list(model.named_modules()):
        if type(module) is Attention and module.rotary is None:
            replace_module_(model, name, OnnxAttention(module))


def _is_float(attention: Attention) -> bool:
    return all(type(part) is nn.Linear for part in (attention.query, attention.key, attention.value))


def join_projections_(model: Any) -> None:
    """Make query, key and value one product, within the operation, where a sequence attends to itself.

    Three layers of one kind become one, float or int8; layers of several kinds stay apart. In int8 the sequence is
    rounded once for all three. The weights stay apart in the file, as the checkpoint has them; onnxruntime joins them
    when it loads it.

    Args:
        model: of onnx_ir.
    """
    ir: Any = require("onnx_ir", "onnx")
    for node in [node for node in model.graph if node.op_type == "MultiHeadAttention"]:
        parts = [part for part in map(_linear, node.inputs[:3]) if part is not None]
        has_bias = len(node.inputs) > 5 and node.inputs[5] is not None
        if len(parts) == 3 and len({part.source for part in parts}) == 1 and not (has_bias and parts[0].is_int):
            _join_(ir, node, parts)
    require("onnx_ir.passes.common", "onnx").RemoveUnusedNodesPass()(model)


@dataclass(frozen=True, eq=False, slots=True)
class _Linear:
    """A linear layer as it was traced."""

    source: tuple[Any, ...]  # the sequence, or its codes, their scale and their zero point
    weight: Any  # [inputs, outputs]
    bias: Any
    scale: Any = None  # of each output, in int8

    @property
    def is_int(self) -> bool:
        return self.scale is not None


def _linear(value: Any) -> _Linear | None:
    """The layer that made a value, if its weight and its bias are stored."""
    product, bias = _made_by(value, "Add", 2)
    x, weight = _made_by(product, "MatMul", 2)
    sums, scales = _made_by(product, "Mul", 2)
    codes, codes_weight, zero = _made_by(_made_by(sums, "Cast", 1)[0], "MatMulInteger", 3)
    codes_scale, scale = _made_by(scales, "Mul", 2)
    if codes is None:
        part = _Linear((x,), weight, bias)
    else:
        part = _Linear((codes, codes_scale, zero), codes_weight, bias, scale)
    stored = (part.weight, part.bias, *([part.scale] if part.is_int else []))
    return part if all(tensor is not None and tensor.is_initializer() for tensor in stored) else None


def _made_by(value: Any, operation: str, count: int) -> tuple[Any, ...]:
    """The inputs of the operation that made a value; as many of None where another did."""
    node = None if value is None else value.producer()
    return tuple(node.inputs) if node is not None and node.op_type == operation else (None,) * count


def _join_(ir: Any, node: Any, parts: Sequence[_Linear]) -> None:
    """Put the operation that makes query, key and value by itself in the place of one that is given them."""
    kinds = zip(*((part.weight, part.bias, part.scale) for part in parts), strict=True)
    joins = [ir.node("Concat", tensors, {"axis": -1}) for tensors in kinds if tensors[0] is not None]
    mask, bias = (*node.inputs[4:6], None, None)[:2]
    if parts[0].is_int:
        (codes, codes_scale, zero), (weight, offset, scale) = parts[0].source, (join.outputs[0] for join in joins)
        kind, inputs = "QAttention", (codes, weight, offset, codes_scale, scale, mask, zero)
    else:
        kind, inputs = "Attention", (*parts[0].source, *(join.outputs[0] for join in joins), mask, None, bias)
    fused = ir.node(kind, inputs, node.attributes, domain=DOMAIN, version=1)
    [old], [new] = node.outputs, fused.outputs
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [*joins, fused], [old], [new])
