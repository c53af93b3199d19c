"""Patterns of a traced graph for which ONNX has one operation, rewritten by onnxscript."""

from typing import Any

from dmedge.errors import require


def fuse_unit_length_(model: Any) -> None:
    """Write the four operations of `F.normalize` along the last axis as LpNormalization.

    It leaves a vector of zeros as it is, as `F.normalize` does.

    Args:
        model: of onnx_ir.
    """
    rewriter: Any = require("onnxscript.rewriter", "onnx")
    norms: Any = require("onnxscript.rewriter.pattern", "onnx")
    rule = norms.RewriteRule(_divided_by_length, _unit_length, _is_last_axis)
    rewriter.rewrite(model, pattern_rewrite_rules=[rule])


def _divided_by_length(op: Any, x: Any, axes: Any, least: Any, shape: Any) -> Any:
    length = op.ReduceL2(x, axes, keepdims=1, noop_with_empty_axes=0)
    return op.Div(x, op.Expand(op.Clip(length, least), shape))


def _unit_length(op: Any, x: Any, axes: Any, least: Any, shape: Any) -> Any:
    return op.LpNormalization(x, axis=-1, p=2)


def _is_last_axis(context: Any, x: Any, axes: Any, **_: Any) -> bool:
    found = axes.const_value
    return found is not None and found.numpy().tolist() in ([-1], [len(x.shape) - 1])
