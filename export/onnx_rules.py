"""Patterns of a traced graph for which ONNX has fewer operations, rewritten by onnxscript."""

from typing import Any

from dmedge.errors import require


def fuse_patterns_(model: Any) -> None:
    """Write what `F.normalize` and `masked_mean` were traced as with LpNormalization, and scale sums of integers anew.

    LpNormalization leaves a vector of zeros as it is, as both do. Shapes that are changed back go.

    Args:
        model: of onnx_ir.
    """
    rewriter: Any = require("onnxscript.rewriter", "onnx")
    rule = require("onnxscript.rewriter.pattern", "onnx").RewriteRule
    rules = [
        rule(_divided, _unit_length, _is_unit_length),
        rule(_summed_and_counted, _mean, _is_mean),
        rule(_scaled_each_first, _scaled_all_first, _is_number),
        rule(_shaped_and_back, _as_it_was, _is_as_it_was),
    ]
    rewriter.rewrite(model, pattern_rewrite_rules=rules)
    require("onnx_ir.passes.common", "onnx").IdentityEliminationPass()(model)


def _divided(op: Any, x: Any, axes: Any, least: Any, shape: Any) -> Any:
    length = op.ReduceL2(x, axes, keepdims=1, noop_with_empty_axes=0)
    return op.Div(x, op.Expand(op.Clip(length, least), shape))


def _unit_length(op: Any, x: Any, **_: Any) -> Any:
    return op.LpNormalization(x, axis=-1, p=2)


def _is_unit_length(_: Any, x: Any, axes: Any, **others: Any) -> bool:
    return _numbers(axes) in ([-1], [len(x.shape) - 1])


def _summed_and_counted(op: Any, tokens: Any, keep: Any, last: Any, rows: Any, one: Any) -> Any:
    kept = op.Unsqueeze(keep, last)
    total = op.ReduceSum(op.Mul(tokens, kept), rows, keepdims=0, noop_with_empty_axes=0)
    return op.Div(total, op.Clip(op.ReduceSum(kept, rows, keepdims=0, noop_with_empty_axes=0), one))


def _mean(op: Any, tokens: Any, keep: Any, last: Any, rows: Any, **_: Any) -> Any:
    """A sum weighted by the mask of zeros and ones, which is divided by the number of its ones beforehand."""
    weights = op.Unsqueeze(op.LpNormalization(keep, axis=-1, p=1), last)
    return op.ReduceSum(op.Mul(tokens, weights), rows, keepdims=0)


def _is_mean(_: Any, last: Any, rows: Any, one: Any, **others: Any) -> bool:
    return _numbers(last) in ([2], [-1]) and _numbers(rows) == [1] and _numbers(one) == 1


def _scaled_each_first(op: Any, sums: Any, codes: Any, scales: Any, factor: Any) -> Any:
    return op.Mul(op.Mul(sums, op.Mul(codes, scales)), factor)


def _scaled_all_first(op: Any, sums: Any, codes: Any, scales: Any, factor: Any) -> Any:
    """What sums are multiplied by first, onnxruntime fuses with them, slowly where each of many outputs has its own."""
    return op.Mul(op.Mul(sums, op.Mul(codes, factor)), scales)


def _is_number(_: Any, scales: Any, factor: Any, **others: Any) -> bool:
    return len(scales.shape) == 1 and isinstance(_numbers(factor), float)


def _shaped_and_back(op: Any, x: Any, there: Any, back: Any) -> Any:
    return op.Reshape(op.Reshape(x, there), back, _outputs=["again"])


def _as_it_was(op: Any, x: Any, **_: Any) -> Any:
    return op.Identity(x)


def _is_as_it_was(_: Any, x: Any, again: Any, **others: Any) -> bool:
    """Heads are told apart by the encoder and put together for the kernel; shapes name the dimensions that vary."""
    return x.shape is not None and x.shape == again.shape


def _numbers(value: Any) -> Any:
    return None if value.const_value is None else value.const_value.numpy().tolist()
