"""Integer sums in ONNX Runtime are exact on every processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.artifact import Program, TensorSpec
from dmedge.runtime.onnx_backend import OnnxBackend

onnx: Any = pytest.importorskip("onnx")


def write_product(path: Path, weight: np.ndarray[Any, np.dtype[np.int8]]) -> Program:
    """A uint8 row times an int8 matrix, as a quantized linear layer has it."""
    helper, kinds = onnx.helper, onnx.TensorProto
    size, outputs = weight.shape
    nodes = [
        helper.make_node("MatMulInteger", ["x", "weight"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=kinds.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kinds.UINT8, [1, size])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, [1, outputs])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    x = TensorSpec("x", (1, size), "uint8", (0, 255))
    return Program("product", path.name, "onnxruntime", (x,), (TensorSpec("y", (1, outputs), "float32"),))


def test_the_largest_products_do_not_overflow(tmp_path: Path) -> None:
    # 255 * 127 twice is 64,770: x86 without VNNI adds such pairs in int16, up to 32,767.
    weight = np.full((64, 16), 127, np.int8)
    weight[:, ::2] = -127
    program = write_product(tmp_path / "product.onnx", weight)
    backend = OnnxBackend(threads=1)
    backend.load(tmp_path, [program])
    x = np.full((1, 64), 255, np.uint8)
    (found,) = backend.run("product", [x], [0])
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))
