"""What ExecuTorch would do again to a graph that is as it was left, left out: a good part of a lowering."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.fx import Graph

from dmedge.errors import require

# Passes that look for a pattern, which takes seconds to make, and an operation without which no graph holds it.
_PATTERNS: Mapping[tuple[str, str], str] = {
    ("convert_to_upsample_bilinear2d", "ConvertToUpsampleBilinear2d"): "aten.upsample_bilinear2d.vec",
    ("convert_to_sdpa", "ConvertToSDPAPass"): "aten.any.dim",
}


@contextmanager
def settled() -> Iterator[None]:
    """Within the block a pass does nothing that cannot change the graph; what is written is the same to the byte.

    XNNPACK leads each of its delegates through seventeen passes. Nearly all of them end by interpreting the whole
    graph anew for the shapes of what they may have changed, also where they have found nothing to change. A graph that
    comes out of an interpretation comes out of a second one the same.
    """
    passes: Any = require("executorch.exir.pass_base", "executorch")
    base, common = passes._ExportPassBase, passes.ExportPass
    with ExitStack() as stack:
        stack.enter_context(_calling(base, _once(base, common, passes.PassResult)))
        for (module, name), operation in _PATTERNS.items():
            found: Any = importlib.import_module(f"executorch.backends.xnnpack._passes.{module}")
            kind = getattr(found, name)
            stack.enter_context(_calling(kind, _where(kind, base, operation)))
        yield


@contextmanager
def _calling(kind: Any, call: Callable[[Any, Any], Any]) -> Iterator[None]:
    original = kind.call
    kind.call = call
    try:
        yield
    finally:
        kind.call = original


def _once(base: Any, common: Any, result: Any) -> Callable[[Any, Any], Any]:
    """The interpretation of `base`, but not of what came out of the last one and has not changed since."""
    interpret = base.call
    hooks = {name for kind in (base, common) for name in vars(kind) if not name.startswith(("__", "_abc_"))} - {"call"}
    last: list[Any] = [None, None, None]  # what came out of the last interpretation, how it looked, and its values

    def call(self: Any, graph_module: Any) -> Any:
        own = (vars(kind).keys() for kind in type(self).__mro__ if not issubclass(common, kind))
        is_plain = not any(hooks & names for names in own)
        if is_plain and graph_module is last[0] and _look(graph_module.graph) == last[1]:
            return result(graph_module, True)
        found = interpret(self, graph_module)
        graph = found.graph_module.graph
        last[:] = found.graph_module, _look(graph), [node.meta.get("val") for node in graph.nodes]
        return found

    return call


def _where(kind: Any, base: Any, operation: str) -> Callable[[Any, Any], Any]:
    """A pass where the operation that it looks for occurs; elsewhere the interpretation that it would end by."""
    whole = kind.call

    def call(self: Any, graph_module: Any) -> Any:
        names = (getattr(node.target, "__name__", "") for node in graph_module.graph.nodes)
        return whole(self, graph_module) if operation in names else base.call(self, graph_module)

    return call


def _look(graph: Graph) -> list[tuple[Any, ...]]:
    """All that an interpretation depends on; a value by its identity, which is its own for as long as it is kept."""
    return [(node, node.op, node.target, node.args, node.kwargs, id(node.meta.get("val"))) for node in graph.nodes]
