"""What a program does to numbers beside its products, done to the weights, in float64 and once.

Pixels are scaled by the weights that they are multiplied by; the patches of a picture are the rows of one product, not
the windows of a convolution, which would turn the picture before and its result after; the factor within
`x * sigmoid(1.702 x)` is part of the layer before.
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
    """Whether every pixel is in one patch, and all numbers are known."""
    settings, (height, width) = maps.producer().attributes, weight.shape[2:]
    is_square = height == width and list(settings["strides"].as_ints()) == [height, width]
    is_whole = not any(settings["pads"].as_ints()) and settings["group"].as_int() == 1
    fits = all(isinstance(side, int) and side % height == 0 for side in pixels.shape[1:3])
    is_known = all(scaling[name].const_value is not None for name in ("factor", "mean", "deviation"))
    has_own = all(map(_is_own, maps.producer().inputs[1:]))
    return is_square and is_whole and fits and is_known and has_own and patches.shape is not None


def _cut_then_scaled(
    op: Any, pixels: Any, factor: Any, mean: Any, deviation: Any, weight: Any, maps: Any, patches: Any, **_: Any
) -> Any:
    """Patches as rows of bytes, times weights in their order; ((f x - m) / d) w is x (w f / d) and an offset."""
    ir: Any = require("onnx_ir", "onnx")
    kernel, spread = _numbers(weight), _numbers(deviation)  # [V, 3, side, side]; [3, 1, 1] or one for all
    offset = -(kernel * (_numbers(mean) / spread)).sum((1, 2, 3))
    product = (kernel * (_numbers(factor) / spread)).transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    _put_(ir, weight, product)
    if bias := maps.producer().inputs[2:]:
        _put_(ir, bias[0], _numbers(bias[0]) + offset)
    else:
        bias = [op.initializer(ir.tensor(offset.astype(np.float32), name=f"offset_of_{weight.name}"))]

    side, (_, height, width, colours) = kernel.shape[-1], pixels.shape
    down, across = height // side, width // side
    shapes = {"grid": [0, down, side, across, side * colours], "rows": [0, down * across, len(product)]}  # 0: any
    grid, rows = (op.initializer(ir.tensor(shape, name=f"{name}_of_{weight.name}")) for name, shape in shapes.items())
    codes = op.Reshape(op.Transpose(op.Reshape(pixels, grid), perm=ROWS_TOGETHER), rows)
    floats = _shaped(op.Cast(codes, to=FLOAT), patches.type, ir.Shape([patches.shape[0], *shapes["rows"][1:]]))
    return op.Add(_shaped(op.MatMul(floats, weight), patches.type, patches.shape), bias[0])


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
