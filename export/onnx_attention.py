"""Attention in ONNX as one operation of onnxruntime's own, where the traced graph has some twenty.

A text has about ten tokens, so the cost of its program is mostly the number of its operations. The kernels take the
mask as it is, so no bias has to be computed either. onnxruntime has them on x86, arm64 and WebAssembly. Its provider
for WebGPU takes no mask: programs that may run there stay as they are traced.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmedge.errors import require
from dmedge.model.attention import MASKED, Attention, Block
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import DynamicLinear, replace_module_

DOMAIN = "com.microsoft"
PARTED = "dmedge"  # domain of nodes whose weights `join_weights_` has yet to put together

Size = int | torch.SymInt


class OnnxAttention(nn.Module):
    """An `Attention` as MultiHeadAttention: over a context of its own, or with linear layers of several kinds."""

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
        mixed = self._fused(f"{DOMAIN}::MultiHeadAttention", (query, key, value, None, bias), query.shape)
        return self.out(mixed)  # type: ignore[no-any-return]

    def _fused(self, operation: str, inputs: Sequence[Tensor | None], shape: Sequence[Size]) -> Tensor:
        settings: dict[str, Any] = {"num_heads": self.heads, "mask_filter_value": MASKED}
        return torch.onnx.ops.symbolic(operation, inputs, settings, dtype=torch.float32, shape=shape, version=1)


class OnnxSelfAttention(OnnxAttention):
    """Float attention of a sequence over itself: query, key and value are one product, within the operation."""

    weight: Tensor
    offset: Tensor

    def __init__(self, module: Attention) -> None:
        super().__init__(module)
        parts = module.query, module.key, module.value
        self.register_buffer("weight", torch.cat([part.weight for part in parts]).t().contiguous())
        self.register_buffer("offset", torch.cat([part.bias for part in parts]))
        del self.query, self.key, self.value

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `OnnxAttention`; `context` is `x`."""
        shape = (*x.shape[:-1], len(self.offset) // 3)
        return self.out(self._fused(f"{DOMAIN}::Attention", (x, self.weight, self.offset, bias), shape))  # type: ignore[no-any-return]


class OnnxIntSelfAttention(OnnxAttention):
    """The same in int8, as QAttention: `x` is rounded once for all three.

    The three weights stay apart in the file, as the checkpoint has them; onnxruntime joins them when it loads it.
    """

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `OnnxAttention`; `context` is `x`."""
        codes: Any = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            (x,),
            dtypes=(torch.uint8, torch.float32, torch.uint8),
            shapes=(x.shape, (), ()),
            version=11,
        )
        parts = self.query, self.key, self.value  # each an OnnxLinear
        weights = [part.get_buffer(key) for key in ("weight", "bias", "scale") for part in parts]
        shape = (*x.shape[:-1], weights[0].shape[1])
        return self.out(self._fused(f"{PARTED}::QAttention", (*codes, bias, *weights), shape))  # type: ignore[no-any-return]


def heads_apart(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attention of an imported encoder as one operation; see `attention_traced_as`.

    onnxruntime cancels the turning of heads with that of the encoder.
    """
    batch, heads, queries, width = query.shape
    rows = [x.transpose(1, 2).reshape(batch, -1, heads * width) for x in (query, key, value)]
    if bias is not None and isinstance(bias.shape[2], int):  # one row for all queries, where the kernel wants each's
        bias = bias.expand(-1, -1, queries, -1)
    mixed: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::MultiHeadAttention",
        (*rows, None, None, bias),
        {"num_heads": heads, "scale": scale},
        dtype=torch.float32,
        shape=(batch, queries, heads * width),
        version=1,
    )
    return mixed.view(batch, queries, heads, width)


def fuse_attention_(model: DualEncoder) -> None:
    """Replace every `Attention` of own towers and fusions; one with rotary positions turns its heads, and stays."""
    for block in [module for module in model.modules() if type(module) is Block]:
        if block.attention.rotary is None:
            block.attention = _of_itself(block.attention)  # type: ignore[assignment]
    for name, module in list(model.named_modules()):
        if type(module) is Attention and module.rotary is None:
            replace_module_(model, name, OnnxAttention(module))


def _of_itself(module: Attention) -> nn.Module:
    parts = module.query, module.key, module.value
    if any(part.bias is None for part in parts):
        return OnnxAttention(module)
    kinds: set[type[nn.Module]] = {type(part) for part in parts}
    if kinds == {nn.Linear}:
        return OnnxSelfAttention(module)
    return OnnxIntSelfAttention(module) if kinds == {DynamicLinear} else OnnxAttention(module)


def join_weights_(model: Any) -> None:
    """Finish the nodes of `OnnxIntSelfAttention`, after the exporter, which would compute what joins the weights.

    Args:
        model: of onnx_ir.
    """
    ir: Any = require("onnx_ir", "onnx")
    graph = model.graph
    for node in [node for node in graph if node.domain == PARTED]:
        codes, scale, zero, mask, *parts = node.inputs
        joins = [ir.node("Concat", parts[at : at + 3], {"axis": -1}) for at in (0, 3, 6)]
        weight, bias, scales = (_joined(ir, join) for join in joins)
        fused = ir.node(
            node.op_type, (codes, weight, bias, scale, scales, mask, zero), node.attributes, domain=DOMAIN, version=1
        )
        [old], [new] = node.outputs, fused.outputs
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_nodes_and_values(graph, node, [node], [*joins, fused], [old], [new])
    if model.opset_imports.pop(PARTED, None):
        model.opset_imports[DOMAIN] = 1


def _joined(ir: Any, join: Any) -> Any:
    """The output of a Concat along the last axis, with its shape."""
    first, [value] = join.inputs[0], join.outputs
    value.type = first.type
    value.shape = ir.Shape([*first.shape[:-1], sum(part.shape[-1] for part in join.inputs)])
    return value
