"""ONNX programs: one file each, free batch and text length, the checkpoint's own integers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmedge.artifact import Program
from dmedge.errors import ExportError, require
from dmedge.export.onnx_ops import OPSET, OnnxLinear, onnx_model, translations
from dmedge.export.programs import evaluating, example_inputs, free_dimensions
from dmedge.export.quiet import quiet
from dmedge.model.dual import DualEncoder

MAX_BATCH = 65_536


def export_onnx(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> dict[str, object]:
    """Write every program below `root`.

    Args:
        model: float with batch normalisation folded, or quantized.
        programs: where each goes, and what it takes.
        root: of the bundle.

    Returns:
        facts for the manifest.

    Raises:
        ExportError: an integer tensor did not arrive in the files as it is in the model.
        DmedgeError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnx")
    limits = {"batch": MAX_BATCH, "length": model.config.context_length}
    exported = onnx_model(model)
    nodes = {}
    with quiet(), evaluating(exported, programs) as modules:
        for program in programs:
            (root / program.file).parent.mkdir(parents=True, exist_ok=True)
            written = torch.onnx.export(
                modules[program.name],
                example_inputs(program),
                dynamo=True,
                dynamic_shapes=(free_dimensions(program, limits),),
                custom_translation_table=translations(),
                input_names=[spec.name for spec in program.inputs],
                opset_version=OPSET,
                verbose=False,
            )
            assert written is not None
            _forget_sources(written.model)
            _name_outputs(written.model, [spec.name for spec in program.outputs])
            written.save(root / program.file, external_data=False)
            nodes[program.name] = sum(1 for _ in written.model.graph)
    _check_integers(exported, programs, root)
    return {"opset": OPSET, "nodes": nodes}


def _forget_sources(model: Any) -> None:
    """Drop stack traces, which name paths of this machine and differ from one machine to the next."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _name_outputs(model: Any, names: list[str]) -> None:
    """Name the outputs; an inner value may have the name already, as that of an `nn.Embedding` does."""
    for value in (value for node in model.graph.all_nodes() for value in node.outputs):
        if value.name in names:
            value.name = f"{value.name}_inner"
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name


def read_integers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The integer weights of one ONNX file, by the name of their tensor in the checkpoint."""
    onnx: Any = require("onnx", "onnx")
    return {
        tensor.name.removeprefix("model."): onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.endswith((".weight", ".bias"))
        and tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.INT32)
    }


def _check_integers(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> None:
    found: dict[str, np.ndarray[Any, Any]] = {}
    for program in programs:
        found |= read_integers(root / program.file)
    for name, want in integer_weights(model).items():
        if name not in found or not np.array_equal(found[name], want):
            raise ExportError(
                f"{name}: its integers are not in the ONNX files as they are in the checkpoint; report this"
            )


def integer_weights(model: DualEncoder) -> Mapping[str, np.ndarray[Any, Any]]:
    """Int8 weights and int32 biases of a model made by `onnx_model`, by name."""
    return {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.endswith((".weight", ".bias")) and tensor.dtype in (torch.int8, torch.int32)
    }


__all__ = ["OnnxLinear", "export_onnx", "integer_weights", "read_integers"]
