"""A bundle without a model: one big matrix product in float32 and one in int8, to measure what a runtime can reach."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dmedge.artifact import Artifact, Program, TensorSpec, load_artifact, new_artifact
from dmedge.environment import tool_versions
from dmedge.errors import ArtifactError, DmedgeError, require
from dmedge.export.onnx_ops import OPSET
from dmedge.export.quiet import quiet
from dmedge.manifest import Runtime, canonical_json
from dmedge.model.quantized import DynamicLinear

SIZE = 1024  # rows and columns of both factors: what 8 MB of float32 hold, and far more work than a call costs
FLOAT, INT8 = "product_float32", "product_int8"
_OUTPUT = TensorSpec("product", (SIZE, SIZE), "float32")


def probe_bundle(runtime: Runtime, cache: Path) -> Artifact:
    """The probe for one runtime, from `cache`, or into it.

    Raises:
        DmedgeError: there is none for `runtime`, or a package that writes its programs is not installed.
    """
    versions = hashlib.sha256(canonical_json([tool_versions(), SIZE])).hexdigest()
    place = cache / f"probe-{runtime}-{versions[:8]}"
    if place.is_dir():
        return load_artifact(place, kind="bundle")
    try:
        return _write(runtime, place)
    except ArtifactError:
        if not place.is_dir():  # else another process was quicker
            raise
        return load_artifact(place, kind="bundle")


def _write(runtime: Runtime, place: Path) -> Artifact:
    if runtime not in ("onnxruntime", "executorch"):
        raise DmedgeError(f"{runtime}: has no peak to measure here; expected onnxruntime or executorch; see --runtime")
    with new_artifact(place) as draft:
        (draft.path / "programs").mkdir()
        write = _onnx_programs if runtime == "onnxruntime" else _executorch_programs
        programs = write(draft.path / "programs")
        return draft.finish(kind="bundle", stage="probe", config={"size": SIZE}, programs=programs)


def _onnx_programs(folder: Path) -> tuple[Program, ...]:
    onnx: Any = require("onnx", "onnx")
    kinds, rng = onnx.TensorProto, np.random.default_rng(0)
    weights = {
        FLOAT: rng.standard_normal((SIZE, SIZE)).astype(np.float32),
        INT8: rng.integers(-127, 128, (SIZE, SIZE), np.int8),
    }
    takes = {FLOAT: ("MatMul", kinds.FLOAT, "float32"), INT8: ("MatMulInteger", kinds.UINT8, "uint8")}
    gives = {FLOAT: (kinds.FLOAT, "float32"), INT8: (kinds.INT32, "int32")}
    programs = []
    for name, weight in weights.items():
        operation, kind, dtype = takes[name]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(operation, ["x", "weight"], ["product"])],
            name,
            [onnx.helper.make_tensor_value_info("x", kind, [SIZE, SIZE])],
            [onnx.helper.make_tensor_value_info("product", gives[name][0], [SIZE, SIZE])],
            [onnx.numpy_helper.from_array(weight, "weight")],
        )
        opset = [onnx.helper.make_opsetid("", OPSET)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / f"{name}.onnx")
        x, product = TensorSpec("x", (SIZE, SIZE), dtype), TensorSpec("product", (SIZE, SIZE), gives[name][1])
        programs.append(Program(name, f"programs/{name}.onnx", "onnxruntime", (x,), (product,)))
    return tuple(programs)


@torch.no_grad()
def _executorch_programs(folder: Path) -> tuple[Program, ...]:
    """Both as linear layers: XNNPACK has no other product of int8, and counts the rounding of the input as its work."""
    torch.manual_seed(0)
    linear = DynamicLinear(SIZE, SIZE, has_bias=False)
    linear.weight.random_(-127, 128)
    modules = {FLOAT: nn.Linear(SIZE, SIZE, bias=False), INT8: linear}
    with quiet():
        exir = require("executorch.exir", "executorch")
        partition: Any = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        edge = exir.to_edge_transform_and_lower(
            {name: torch.export.export(module.eval(), (torch.ones(SIZE, SIZE),)) for name, module in modules.items()},
            partitioner={name: [partition.XnnpackPartitioner()] for name in modules},
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
        )
        (folder / "probe.pte").write_bytes(bytes(edge.to_executorch().buffer))
    x = TensorSpec("x", (SIZE, SIZE), "float32")
    return tuple(Program(name, "programs/probe.pte", "executorch", (x,), (_OUTPUT,)) for name in modules)
