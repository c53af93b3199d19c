"""Patterns of a traced graph for which ONNX has fewer operations, rewritten by onnxscript."""

from typing import Any

from dmedge.errors import require

INT32, INT64, BOOL = 6, 7, 9  # of onnx.TensorProto


def fuse_patterns_(model: Any) -> None:
    """Write what was traced with fewer operations, or with those that onnxruntime has faster kernels for.

    LpNormalization leaves a vector of zeros as it is, as `F.normalize` and `masked_mean` do. Shapes and types that are
    changed back go, and so do the types of ids, which onnxruntime looks up as they come.

    Args:
        model: of onnx_ir.
    """
    rewriter: Any = require("onnxscript.rewriter", "onnx")
    rule = require("onnxscript.rewriter.pattern", "onnx").RewriteRule
    passes: Any = require("onnx_ir.passes.common", "onnx")
    steps = [
        [
            rule(_divided, _unit_length, _is_unit_length),
            rule(_summed_and_counted, _mean, _is_mean),
            rule(_scaled_each_first, _scaled_all_first, _is_number),
            rule(_shaped_and_back, _as_it_was, _is_as_it_was),
            rule(_chosen_by_pairs, _chosen_in_each, _is_in_each),
            rule(_added_and_normed, _summed_and_normed),
        ],
        [rule(_shaped, _as_it_was, _is_as_it_was)],
        [rule(_mask_of_mask, _as_it_was, _is_mask)],
        [
            rule(pattern, replacement, _is_int32, remove_nodes=False)  # what one rule takes another may need as well
            for pattern, replacement in ((_type_and_back, _as_it_was), (_looked_up_long, _looked_up))
        ],
    ]
    for rules in steps:
        rewriter.rewrite(model, pattern_rewrite_rules=rules)
        passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)


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


def _shaped(op: Any, x: Any, there: Any) -> Any:
    return op.Reshape(x, there, _outputs=["again"])


def _chosen_by_pairs(op: Any, tokens: Any, first: Any, count: Any, step: Any, last: Any, scores: Any) -> Any:
    """A token of every text, as transformers asks for it: by the number of the text and that of the token."""
    texts = op.Unsqueeze(op.Range(first, count, step, _outputs=["texts"]), last)
    best = op.Unsqueeze(op.ArgMax(scores, axis=-1, keepdims=0), last)
    return op.GatherND(tokens, op.Concat(texts, best, axis=-1))


def _chosen_in_each(op: Any, tokens: Any, scores: Any, **_: Any) -> Any:
    return op.GatherND(tokens, op.ArgMax(scores, axis=-1, keepdims=1), batch_dims=1)


def _is_in_each(_: Any, tokens: Any, first: Any, step: Any, last: Any, texts: Any, scores: Any, **others: Any) -> bool:
    counts_all = (_numbers(first), _numbers(step)) == (0, 1) and texts.shape[0] == tokens.shape[0]
    return counts_all and _numbers(last) in ([-1], [1]) and len(scores.shape) == 2


def _added_and_normed(op: Any, x: Any, y: Any, gain: Any, offset: Any) -> Any:
    return op.LayerNormalization(op.Add(x, y), gain, offset, _outputs=["normed"])


def _summed_and_normed(op: Any, x: Any, y: Any, gain: Any, offset: Any, normed: Any) -> Any:
    """Add and what follows it onnxruntime puts together, in a kernel that takes over twice as long."""
    return op.LayerNormalization(op.Sum(x, y), gain, offset, **normed.producer().attributes)


def _mask_of_mask(op: Any, x: Any) -> Any:
    return op.Cast(op.Cast(op.Cast(x, to=INT64), to=BOOL), to=INT32)


def _is_mask(_: Any, x: Any, **others: Any) -> bool:
    """A mask is of zeros and ones; of other numbers it would become that."""
    return bool(x.name == "mask" and x.dtype == INT32)


def _type_and_back(op: Any, x: Any) -> Any:
    return op.Cast(op.Cast(x, to=INT64), to=INT32)


def _looked_up_long(op: Any, table: Any, x: Any) -> Any:
    return op.Gather(table, op.Cast(x, to=INT64), axis=0)


def _looked_up(op: Any, table: Any, x: Any) -> Any:
    return op.Gather(table, x, axis=0)


def _is_int32(_: Any, x: Any, **others: Any) -> bool:
    return bool(x.dtype == INT32)


def _numbers(value: Any) -> Any:
    return None if value.const_value is None else value.const_value.numpy().tolist()
