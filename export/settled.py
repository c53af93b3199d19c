"""What ExecuTorch would do again to a graph that is as it was left, left out: a good part of a lowering."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule

from dmedge.errors import require

# Passes that look for a pattern, which takes seconds to make, and an operation without which no graph holds it.
_PATTERNS: Mapping[tuple[str, str], str] = {
    ("convert_to_upsample_bilinear2d", "ConvertToUpsampleBilinear2d"): "aten.upsample_bilinear2d.vec",
    ("convert_to_sdpa", "ConvertToSDPAPass"): "aten.any.dim",
}
_KEPT = {torch.ops.aten.sym_size.int}  # stands in the table of decompositions, and comes out of it as it went in


@contextmanager
def settled() -> Iterator[None]:
    """Within the block a pass does nothing that cannot change the graph; what is written is the same to the byte.

    XNNPACK leads each of its delegates through seventeen passes. Nearly all of them end by interpreting the whole
    graph anew for the shapes of what they may have changed, also where they have found nothing to change. A graph that
    comes out of an interpretation comes out of a second one the same. Before that, every program is traced anew three
    times: to make it functional, to decompose what no partitioner wants, and to decompose what it refused; the second
    time does the work of the first, and the third has nothing to do where nothing was refused. And every change of a
    graph writes and compiles it as Python, which hardly any of them ever runs.
    """
    passes: Any = require("executorch.exir.pass_base", "executorch")
    base, common = passes._ExportPassBase, passes.ExportPass
    with ExitStack() as stack:
        stack.enter_context(_calling(base, "call", _once(base, common, passes.PassResult)))
        stack.enter_context(_calling(ExportedProgram, "run_decompositions", _needed(ExportedProgram)))
        stack.enter_context(_calling(GraphModule, "recompile", _late(GraphModule.recompile)))
        for (module, name), operation in _PATTERNS.items():
            found: Any = importlib.import_module(f"executorch.backends.xnnpack._passes.{module}")
            kind = getattr(found, name)
            stack.enter_context(_calling(kind, "call", _where(kind, base, operation)))
        yield


@contextmanager
def _calling(kind: Any, method: str, instead: Callable[..., Any]) -> Iterator[None]:
    original = getattr(kind, method)
    setattr(kind, method, instead)
    try:
        yield
    finally:
        setattr(kind, method, original)


def _needed(kind: Any) -> Callable[..., Any]:
    """Decompositions that find something to decompose; what comes out of one of them is functional already."""
    decompose = kind.run_decompositions
    functional: WeakSet[Any] = WeakSet()

    def run(self: Any, table: Any = None, **options: Any) -> Any:
        called = {node.target for node in self.graph.nodes if node.op == "call_function"}
        if table is not None and not table and not any(_writes(target) for target in called):
            return self  # the decomposition that follows traces it anew by itself
        if table is not None and self in functional and not any(target in table for target in called - _KEPT):
            return self
        found = decompose(self, table, **options)
        functional.add(found)
        return found

    return run


def _late(compile_: Callable[[GraphModule], Any]) -> Callable[[GraphModule], None]:
    """Python code of a graph that is called; of a hundred graphs, ninety-nine are only read and rewritten."""

    def recompile(self: GraphModule) -> None:
        codegen: Any = self.graph._codegen
        if info := getattr(codegen, "pytree_info", None):
            self._in_spec, self._out_spec = info.in_spec, info.out_spec

        def forward(self: GraphModule, *inputs: Any, **named: Any) -> Any:
            compile_(self)
            return type(self).forward(self, *inputs, **named)

        self._code = ""  # what is logged of a graph; there is none yet
        type(self).forward = forward  # every graph is of a class of its own

    return recompile


def _writes(target: Any) -> bool:
    """Whether an operation changes an input, so that a graph that calls it is not functional."""
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


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
