"""ONNX programs: one file each, free batch and text length, the checkpoint's own integers."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmedge.artifact import Program
from dmedge.errors import ExportError, require
from dmedge.export.counts import count_onnx
from dmedge.export.onnx_attention import heads_apart, join_projections_
from dmedge.export.onnx_library import one_library
from dmedge.export.onnx_ops import (
    OPSET,
    OnnxActivation,
    OnnxConv2d,
    OnnxInt4Linear,
    OnnxLinear,
    onnx_model,
    translations,
)
from dmedge.export.onnx_rules import fuse_patterns_
from dmedge.export.onnx_weights import compute_weights_
from dmedge.export.programs import Lowering, evaluating, trace
from dmedge.export.quiet import quiet
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_rewrite import attention_traced_as
from dmedge.model.quantized import QuantEmbedding

MAX_BATCH = 65_536
PREFIX = "model."  # of every initializer: the name of the model in `ProgramModule`
INTEGERS = (torch.int8, torch.int32, torch.uint8)


def export_onnx(model: DualEncoder, programs: tuple[Program, ...], root: Path, *, fuses: bool = True) -> Lowering:
    """Write every program below `root`.

    Args:
        model: float with batch normalisation folded, or quantized.
        programs: where each goes, and what it takes.
        root: of the bundle.
        fuses: whether operations are put together that onnxruntime has on CPUs only.

    Raises:
        ExportError: an integer tensor did not arrive in the files as it is in the model.
        DmedgeError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnx")
    limits = {"batch": MAX_BATCH, "length": model.config.context_length}
    exported = onnx_model(model, fuses=fuses)
    nodes = {}
    attention = attention_traced_as(heads_apart) if fuses else nullcontext()
    with quiet(), one_library(), attention, evaluating(exported, programs) as modules:
        for program in programs:
            (root / program.file).parent.mkdir(parents=True, exist_ok=True)
            written = torch.onnx.export(
                trace(modules[program.name], program, limits),
                dynamo=True,
                dynamic_shapes=(_free_names(program),),
                custom_translation_table=translations(),
                input_names=[spec.name for spec in program.inputs],
                opset_version=OPSET,
                verbose=False,
            )
            assert written is not None
            if fuses:
                fuse_patterns_(written.model)
                join_projections_(written.model)
                compute_weights_(written.model)
            _forget_sources(written.model)
            _name_outputs(written.model, [spec.name for spec in program.outputs])
            written.save(root / program.file, external_data=False)
            nodes[program.name] = sum(1 for _ in written.model.graph)
    check_integers(exported, [root / program.file for program in programs])
    return Lowering(
        delegated={program.name: 1.0 for program in programs},  # one provider runs everything
        facts={"opset": OPSET, "nodes": nodes},
        counts={
            program.name: count_onnx(root / program.file, program, PREFIX, model.config.context_length)
            for program in programs
        },
    )


def export_onnx_for_web(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> Lowering:
    """As `export_onnx`; float programs, which may run on WebGPU, keep to the operations that it has."""
    is_float = not any(tensor.dtype in INTEGERS for tensor in model.buffers())
    return export_onnx(model, programs, root, fuses=not is_float)


def _free_names(program: Program) -> tuple[dict[int, str], ...]:
    """Axis -> name of the dimensions of each input that may vary; a traced program has forgotten their names."""
    return tuple(
        {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in program.inputs
    )


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


def check_integers(exported: DualEncoder, paths: Sequence[Path]) -> None:
    """Read the integers back from ONNX files and compare them with those of the model.

    Args:
        exported: what `onnx_model` made of a quantized model.
        paths: of the files.

    Raises:
        ExportError: a weight, a bias or a range is missing or differs.
    """
    onnx: Any = require("onnx", "onnx")
    tensors: dict[str, NDArray[Any]] = {}
    ranges: set[tuple[float, int]] = set()
    for graph in (onnx.load(path).graph for path in paths):
        found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        tensors |= found
        ranges |= {
            (found[node.input[1]].item(), found[node.input[2]].item())
            for node in graph.node
            if node.op_type == "QuantizeLinear"
        }
    for name, module in exported.named_modules():
        if isinstance(module, OnnxActivation):
            is_found = (module.scale.item(), int(module.zero_point.item())) in ranges
        elif isinstance(module, (OnnxLinear, OnnxInt4Linear, OnnxConv2d, QuantEmbedding)):
            is_found = all(
                _is_stored(f"{PREFIX}{name}.{key}", tensor.numpy(), tensors)
                for key, tensor in module.state_dict().items()
                if tensor.dtype in INTEGERS
            )
        else:
            continue
        if not is_found:
            raise ExportError(
                f"{name}: its integers are not in the ONNX files as they are in the checkpoint; report this"
            )


def _is_stored(name: str, want: NDArray[Any], tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a tensor is there; equal ones, such as biases of zeros, are stored under the name of one of them."""
    candidates = [tensors[name]] if name in tensors else list(tensors.values())
    return any(found.dtype == want.dtype and np.array_equal(found, want) for found in candidates)
