"""Operations of a traced program that XNNPACK leaves to portable kernels, as others that it takes.

The portable kernels go number by number: a power of 1816 numbers, or the turning of a small picture, takes as long as
a convolution of it. What is computed stays the same, but for the rounding of a root or a mean.
"""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dmedge.errors import require

_ATEN = torch.ops.aten


def suit_xnnpack_(program: ExportedProgram) -> None:
    """Rewrite what XNNPACK does not take in the form that tracing gave it."""
    graph = program.graph
    _compute_once_(graph)
    _measure_length_by_products_(graph)
    _divide_by_one_number_(graph)
    _turn_floats_(graph)
    _average_in_place_(graph)
    _copy_one_row_(graph)
    _part_heads_of_one_(graph)
    _hide_keys_of_all_heads_(graph)
    graph.eliminate_dead_code()
    graph.lint()
    program.graph_module.recompile()


def _compute_once_(graph: Graph) -> None:
    """What a program computes twice of the same is computed once: two heads take the mean of the patches."""
    operations = [node for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if any(node.target._schema.is_mutable for node in operations):
        return  # of two equal values one may be written to
    first: dict[tuple[object, str, str], Node] = {}
    for node in operations:
        if node.target.namespace == "aten" and not any(user.op == "output" for user in node.users):
            same = first.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)  # nodes by their names
            if same is not node:
                _replace(node, same)


def _measure_length_by_products_(graph: Graph) -> None:
    """The length of a vector as the root of a sum of products, where ExecuTorch would take powers."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.linalg_vector_norm.default):
        x, power, axes, keeps = node.args
        if power == 2:
            length = node.meta["val"]
            squares = _before(node, _ATEN.mul.Tensor, (x, x), x.meta["val"])
            total = _before(node, _ATEN.sum.dim_IntList, (squares, axes, keeps), length)
            _replace(node, _before(node, _ATEN.sqrt.default, (total,), length))


def _divide_by_one_number_(graph: Graph) -> None:
    """A division by what was repeated to the size of the dividend does the repeating itself."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.expand_as.default):
        for user in [user for user in node.users if user.target is _ATEN.div.Tensor and user.args[1] is node]:
            user.replace_input_with(node, node.args[0])
        if not node.users:
            graph.erase_node(node)


def _turn_floats_(graph: Graph) -> None:
    """Bytes of a picture become floats before their axes change places, not after: XNNPACK turns floats alone."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.to.dtype):
        turned, kind, *options = node.args
        if turned.target is _ATEN.permute.default and turned.meta["val"].dtype == torch.uint8 and not node.kwargs:
            x, axes = turned.args
            floats = _before(node, _ATEN.to.dtype, (x, kind, *options), x.meta["val"].to(kind))
            _replace(node, _before(node, _ATEN.permute.default, (floats, axes), node.meta["val"]))


def _average_in_place_(graph: Graph) -> None:
    """The mean of a picture's channels keeps its axes of size 1, as XNNPACK wants it, and loses them afterwards.

    The mean of patches is a sum, of which the portable kernel is four times as quick, and a division.
    """
    for node in graph.find_nodes(op="call_function", target=_ATEN.mean.dim):
        x, axes, *options = node.args
        value = x.meta["val"]
        if value.dim() == 4 and sorted(axis % 4 for axis in axes) == [2, 3] and not options and not node.kwargs:
            mean = _before(node, _ATEN.mean.dim, (x, axes, True), value.mean(axes, keepdim=True))
            _replace(node, _before(node, _ATEN.view.default, (mean, list(value.shape[:2])), node.meta["val"]))
        elif value.dim() == 3 and axes == [1] and isinstance(value.shape[1], int) and not options and not node.kwargs:
            total = _before(node, _ATEN.sum.dim_IntList, (x, axes), node.meta["val"])
            _replace(node, _before(node, _ATEN.div.Tensor, (total, value.shape[1]), node.meta["val"]))


def _copy_one_row_(graph: Graph) -> None:
    """The token that a text is pooled to is copied whole; looked up by two numbers, it is gathered number by number."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.index.Tensor):
        x, indices = node.args
        value = x.meta["val"]
        if value.dim() == 3 and value.shape[0] == 1 and [tuple(i.meta["val"].shape) for i in indices] == [(1,), (1,)]:
            row = _before(node, _ATEN.index_select.default, (x, 1, indices[1]), value[:, :1])
            _replace(node, _before(node, _ATEN.select.int, (row, 1, 0), node.meta["val"]))


def _part_heads_of_one_(graph: Graph) -> None:
    """Heads change places with tokens in three dimensions: in a batch of one the fourth is two more views."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.reshape.default):
        turned = node.args[0]
        if turned.target is not _ATEN.permute.default or list(turned.args[1]) != [0, 2, 1, 3]:
            continue
        x, made, value = turned.args[0], _sizes(node), node.meta["val"]
        one, *sizes = _sizes(turned)
        if one != 1 or len(made) != 3 or x.target not in (_ATEN.view.default, _ATEN.reshape.default):
            continue
        rows, within = x.args[0], turned.meta["val"][0]
        if made[0] == sizes[0] > 0 and made[2] == sizes[2] > 0:  # [heads, L, d] of [1, L, W]
            parted = _before(node, _ATEN.reshape.default, (rows, [-1, sizes[0], sizes[2]]), within.transpose(0, 1))
            _replace(node, _before(node, _ATEN.permute.default, (parted, [1, 0, 2]), value))
        elif made == [1, sizes[0], sizes[1] * sizes[2]] and _sizes(rows) == [sizes[1], sizes[0], sizes[2]]:  # and back
            joined = _before(node, _ATEN.permute.default, (rows, [1, 0, 2]), within)
            _replace(node, _before(node, _ATEN.reshape.default, (joined, [1, -1, made[2]]), value))


def _hide_keys_of_all_heads_(graph: Graph) -> None:
    """What hides padding from the scores of every head is added to all at once, where it was repeated for each."""
    for node in graph.find_nodes(op="call_function", target=_ATEN.reshape.default):
        repeated, value = node.args[0], node.meta["val"]
        if repeated.target is not _ATEN.expand.default or value.dim() != 3 or _sizes(node)[1] != 1:
            continue
        x = repeated.args[0]
        if _sizes(x)[:3] == [1, 1, 1] and all(_has_heads_without(user, node) for user in node.users):
            while x.target is _ATEN.unsqueeze.default:
                x = x.args[0]
            _replace(node, _before(node, _ATEN.view.default, (x, [1, 1, -1]), value[:1]))


def _has_heads_without(added: Node, bias: Node) -> bool:
    """Whether `added` is a sum of `bias` and of something that has as many heads itself."""
    others = [node for node in added.all_input_nodes if node is not bias]
    return added.target is _ATEN.add.Tensor and any(_sizes(other)[:1] == _sizes(bias)[:1] for other in others)


def infer_one_size(module: GraphModule) -> PassResult:
    """Leave the one size of a view that varies to be inferred from the rest: XNNPACK takes no view that computes it.

    A view that it does not take cuts a program in two, and every piece is set up anew in every run.

    Args:
        module: of a program in ExecuTorch's edge dialect, where sizes to be inferred are computed again.
    """
    edge: Any = require("executorch.exir.dialects._ops", "executorch").ops.edge
    found = False
    for node in module.graph.find_nodes(op="call_function", target=edge.aten.view_copy.default):
        x, sizes = node.args
        known = _sizes(node)
        if known.count(-1) == 1 and known != sizes:
            node.args = (x, known)
            found = True
    module.recompile()
    return PassResult(module, found)


def _sizes(node: Node) -> list[int]:
    """Of the tensor that a node makes; -1 where one varies, which may not be compared with a number."""
    return [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]


def _before(node: Node, target: torch._ops.OpOverload, inputs: tuple[object, ...], value: torch.Tensor) -> Node:
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, inputs)  # type: ignore[arg-type]
    made.meta["val"] = value
    return made


def _replace(node: Node, by: Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
