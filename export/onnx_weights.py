"""What a program does to weights' inputs and outputs, done to the weights: fewer passes over the numbers of a picture.

Pixels are scaled by the weights that they are multiplied by, the patches that a picture is cut into are rows of one
product, and the factor within `x * sigmoid(1.702 x)` is part of the layer before. Computed in float64, once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.errors import require

FLOAT = 1  # of onnx.TensorProto
NHWC_TO_NCHW, ROWS_TOGETHER, PARTS_FIRST = [0, 3, 1, 2], [0, 1, 3, 2, 4], [0, 2, 1]


def compute_weights_(model: Any) -> None:
    """Change weights where operations beside them become fewer by it.

    Args:
        model: of onnx_ir, with float layers that it may change.
    """
    rewriter: Any = require("onnxscript.rewriter", "onnx")
    rule = require("onnxscript.rewriter.pattern", "onnx").RewriteRule
    rules = [rule(_scaled_then_cut, _cut_then_scaled, _is_cut), rule(_sharp_gate, _gate, _is_alone)]
    rewriter.rewrite(model, pattern_rewrite_rules=rules)


def _scaled_then_cut(op: Any, pixels: Any, factor: Any, mean: Any, deviation: Any, weight: Any, shape: Any) -> Any:
    x = op.Mul(op.Cast(op.Transpose(pixels, perm=NHWC_TO_NCHW), to=FLOAT), factor)
    x = op.Div(op.Sub(x, mean), deviation)
    maps = op.Conv(x, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["maps"])
    return op.Transpose(op.Reshape(maps, shape), perm=PARTS_FIRST, _outputs=["patches"])


def _is_cut(_: Any, pixels: Any, weight: Any, maps: Any, patches: Any, **scaling: Any) -> bool:
    """Whether every pixel is in one patch, and numbers are known that scale it."""
    found = maps.producer().attributes
    size = list(weight.shape)[2:]
    is_plain = (
        list(found["strides"].as_ints()) == size and not any(found["pads"].as_ints()) and found["group"].as_int() == 1
    )
    fits = all(isinstance(side, int) and side % size[0] == 0 for side in pixels.shape[1:3])
    known = (scaling[name].const_value is not None for name in ("factor", "mean", "deviation"))
    return (
        size[0] == size[1]
        and is_plain
        and fits
        and patches.shape is not None
        and all(known)
        and all(map(_is_own, maps.producer().inputs[1:]))
    )


def _cut_then_scaled(
    op: Any, pixels: Any, factor: Any, mean: Any, deviation: Any, weight: Any, maps: Any, patches: Any, **_: Any
) -> Any:
    ir: Any = require("onnx_ir", "onnx")
    side, kernel = int(weight.shape[2]), _numbers(weight)  # [V, 3, side, side]
    spread = _numbers(deviation)
    offset = -(kernel * (_numbers(mean) / spread)).sum((1, 2, 3))
    product = (kernel * (_numbers(factor) / spread)).transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])
    _put_(ir, weight, product)

    given = maps.producer().inputs[2:]
    if given:
        _put_(ir, given[0], _numbers(given[0]) + offset)

    _, rows, columns, colours = pixels.shape
    shapes = (
        [0, rows // side, side, columns // side, side * colours],
        [0, rows // side * (columns // side), len(product)],
    )
    constants = [*shapes, *([] if given else [offset.astype(np.float32)])]  # 0: as many as there are
    grid, flat, *added = (
        op.initializer(ir.tensor(numbers, name=f"{kind}_of_{weight.name}"))
        for kind, numbers in zip(("grid", "rows", "offset"), constants, strict=False)
    )
    x = op.Reshape(op.Transpose(op.Reshape(pixels, grid), perm=ROWS_TOGETHER), flat)
    floats = _shaped(op.Cast(x, to=FLOAT), patches.type, ir.Shape([patches.shape[0], *shapes[1][1:]]))
    return op.Add(_shaped(op.MatMul(floats, weight), patches.type, patches.shape), *given, *added)


def _sharp_gate(op: Any, x: Any, w1: Any, b1: Any, factor: Any, w2: Any) -> Any:
    h = op.Add(op.MatMul(x, w1), b1, _outputs=["h"])
    return op.MatMul(op.Mul(h, op.Sigmoid(op.Mul(h, factor))), w2)


def _is_alone(_: Any, w1: Any, b1: Any, factor: Any, w2: Any, **others: Any) -> bool:
    return factor.const_value is not None and _numbers(factor).size == 1 and all(map(_is_own, (w1, b1, w2)))


def _gate(op: Any, x: Any, w1: Any, b1: Any, factor: Any, w2: Any, h: Any) -> Any:
    """`x sigmoid(c x)` is `y sigmoid(y) / c` of `y = c x`: one pass less over the widest numbers of a block."""
    ir: Any = require("onnx_ir", "onnx")
    by = _numbers(factor).item()
    for value, times in ((w1, by), (b1, by), (w2, 1 / by)):
        _put_(ir, value, _numbers(value) * times)
    gate = op.Add(_shaped(op.MatMul(x, w1), h.type, h.shape), b1)
    return op.MatMul(_shaped(op.Mul(gate, op.Sigmoid(gate)), h.type, h.shape), w2)


def _shaped(value: Any, kind: Any, shape: Any) -> Any:
    """A value whose type and shape are known, as those who count products want it."""
    value.type, value.shape = kind, shape
    return value


def _is_own(value: Any) -> bool:
    """Whether a weight belongs to one operation."""
    return value.is_initializer() and len(value.uses()) == 1


def _numbers(value: Any) -> NDArray[np.float64]:
    return value.const_value.numpy().astype(np.float64)  # type: ignore[no-any-return]


def _put_(ir: Any, value: Any, numbers: NDArray[np.float64]) -> None:
    value.const_value = ir.tensor(numbers.astype(np.float32), name=value.name)
    value.shape = ir.Shape(numbers.shape)
