"""What became of the work of a program: multiply-accumulates and parameters, counted in what was lowered.

Nothing is taken from the plan here. A multiply-accumulate counts as int8 where the lowered program feeds
integers to both sides of the product, and as delegated where XNNPACK, or onnxruntime's provider, runs it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from dmedge.errors import require
from dmedge.manifest import Program
from dmedge.model.costs import TEXT_LENGTH

# Tensors that say how others are read, or that follow from settings.
_AUXILIARY = ("scale", "zero_point", "input_scale", "members", "heard", "cos", "sin")
_LIFTED = "_lifted_tensor_constant"  # numbers of the code itself, which torch makes tensors of
_PRODUCTS = ("linear", "addmm", "mm", "bmm", "convolution")
_ONNX_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "MatMulNBits")
_ONNX_SELF_ATTENTION = ("Attention", "QAttention")  # with the products that make query, key and value


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one program, for one picture or one text of at most `TEXT_LENGTH` tokens."""

    macs: int
    macs_int8: int  # int4 weights included
    macs_delegated: int
    parameters: int
    parameters_int8: int  # int4 included
    parameters_delegated: int

    def to_json(self) -> dict[str, float]:
        """The numbers by name, and their shares."""
        macs, parameters = max(1, self.macs), max(1, self.parameters)
        return asdict(self) | {
            "mac_share_int8": round(self.macs_int8 / macs, 4),
            "mac_share_delegated": round(self.macs_delegated / macs, 4),
            "parameter_share_int8": round(self.parameters_int8 / parameters, 4),
            "parameter_share_delegated": round(self.parameters_delegated / parameters, 4),
        }


@dataclass(frozen=True, slots=True)
class _Piece:
    """A count that is int8 or not, and delegated or not."""

    number: int
    is_int8: bool
    is_delegated: bool


def _sum(macs: list[_Piece], parameters: list[_Piece]) -> Counts:
    def both(pieces: list[_Piece]) -> tuple[int, int, int]:
        return (
            sum(piece.number for piece in pieces),
            sum(piece.number for piece in pieces if piece.is_int8),
            sum(piece.number for piece in pieces if piece.is_delegated),
        )

    return Counts(*both(macs), *both(parameters))


def count_edge(program: ExportedProgram, context_length: int) -> Counts:
    """Count a lowered ExecuTorch program, before it is turned into bytes."""
    length = min(TEXT_LENGTH, context_length)
    children = program.graph_module.named_children()
    delegates = [module.original_module for name, module in children if name.startswith("lowered_module")]
    macs, parameters = [], []
    for graph, is_delegated in [(program, False), *((delegate, True) for delegate in delegates)]:
        macs += [_Piece(number, is_int8, is_delegated) for number, is_int8 in _edge_products(graph.graph, length)]
        parameters += [_Piece(t.numel(), t.dtype == torch.int8, is_delegated) for t in _edge_parameters(graph)]
    return _sum(macs, parameters)


def _edge_products(graph: torch.fx.Graph, length: int) -> Iterator[tuple[int, bool]]:
    for node in graph.nodes:
        name = getattr(node.target, "__name__", str(node.target)).removeprefix("aten.").partition(".")[0]
        if node.op != "call_function" or name not in _PRODUCTS:
            continue
        left, right = node.args[1:3] if name == "addmm" else node.args[:2]
        outputs = _numbers(node.meta["val"], length)
        inner = right.meta["val"].shape[1:] if name == "convolution" else left.meta["val"].shape[-1:]
        yield outputs * prod(_size(size, length) for size in inner), _is_dequantized(left) and _is_dequantized(right)


def _is_dequantized(node: torch.fx.Node) -> bool:
    """Whether a value is that of integers, maybe turned around on its way."""
    if node.op != "call_function":
        return False
    name = str(getattr(node.target, "__name__", node.target))
    if any(word in name for word in ("permute", "t_copy", "transpose", "view_copy")):
        return _is_dequantized(node.all_input_nodes[0])
    return "dequantize" in name


def _numbers(value: torch.Tensor, length: int) -> int:
    return prod(_size(size, length) for size in value.shape)


def _size(size: int | torch.SymInt, length: int) -> int:
    """A size as a number; the one dimension that is free is the length of the text."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, length)))


def _edge_parameters(program: ExportedProgram) -> Iterator[torch.Tensor]:
    """The parameters that a program reads, be they torch's parameters or buffers."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.users and node.name in names:
            name = names[node.name]
            if name.rpartition(".")[2] not in _AUXILIARY and not name.startswith(_LIFTED):
                yield program.state_dict[name] if name in program.state_dict else program.constants[name]


def count_onnx(path: Path, program: Program, prefix: str, context_length: int) -> Counts:
    """Count an ONNX program, all of which onnxruntime's one provider runs.

    The exporter turns weights of linear layers around beforehand, and forgets their names: what a product reads counts
    as well. A scalar whose function was computed beforehand, such as that of the logit scale, has become a constant.

    Args:
        path: of the file, in which the exporter has written the shape of every value.
        program: that the file holds.
        prefix: of the names of what belongs to the model.
        context_length: of the model.
    """
    onnx: Any = require("onnx", "onnx")
    graph = onnx.load(path).graph
    lengths = {"batch": 1, "length": min(TEXT_LENGTH, context_length)}
    sizes = {  # an exporter may have names of its own for the dimensions of the manifest
        dim.dim_param: lengths[size]
        for spec, value in zip(program.inputs, graph.input, strict=True)
        for size, dim in zip(spec.shape, value.type.tensor_type.shape.dim, strict=True)
        if isinstance(size, str)
    }
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dims = {name: list(tensor.dims) for name, tensor in tensors.items()}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        dims[value.name] = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]

    def shape(name: str) -> list[int]:
        return [size if isinstance(size, int) else _evaluate(size, sizes) for size in dims[name]]

    makers = {name: node for node in graph.node for name in node.output}
    macs = [_Piece(*found, True) for node in graph.node for found in _onnx_products(node, shape, makers)]
    kinds = onnx.TensorProto
    read = {name for node in graph.node if node.op_type in ("Conv", "Concat", *_ONNX_PRODUCTS) for name in node.input}
    parameters = [
        _Piece(prod(tensor.dims) * (2 if is_packed else 1), is_packed or tensor.data_type == kinds.INT8, True)
        for name, tensor in tensors.items()
        if _is_parameter(name, prefix) or (not name.startswith(prefix) and name in read and len(tensor.dims) > 1)
        for is_packed in [tensor.data_type == kinds.UINT8]
    ]
    return _sum(macs, parameters)


def _is_parameter(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name.rpartition(".")[2] not in _AUXILIARY


def _evaluate(expression: str, sizes: Mapping[str, int]) -> int:
    """A size such as "4*batch" as a number."""
    import sympy  # comes with torch

    return int(sympy.sympify(expression, locals={name: sympy.Integer(size) for name, size in sizes.items()}))


def _onnx_products(
    node: Any, shape: Callable[[str], list[int]], makers: Mapping[str, Any]
) -> Iterator[tuple[int, bool]]:
    """Multiply-accumulates of every product of a node, and whether both of its sides are integers."""
    if node.op_type not in ("Conv", "MultiHeadAttention", *_ONNX_PRODUCTS, *_ONNX_SELF_ATTENTION):
        return
    outputs = prod(shape(node.output[0]))
    if node.op_type == "Conv":
        made_by = [makers[name].op_type if name in makers else "" for name in node.input[:2]]
        yield outputs * prod(shape(node.input[1])[1:]), made_by == ["DequantizeLinear"] * 2
    elif node.op_type in _ONNX_PRODUCTS:
        yield outputs * shape(node.input[0])[-1], node.op_type in ("MatMulInteger", "MatMulNBits")
    elif node.op_type in _ONNX_SELF_ATTENTION:
        keys, width = shape(node.input[0])[1:]
        yield 3 * outputs * width, node.op_type == "QAttention"
        yield 2 * outputs * keys, False  # scores, and the mixture of the values
    else:
        yield 2 * outputs * shape(node.input[1])[1], False
