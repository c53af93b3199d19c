"""Core ML packages: one ML program for each program, float16, with the checkpoint's own integers as weights.

The same model and versions give the same bytes: what coremltools makes up anew each time, identifiers and a date, is
derived from the content or left out.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import torch
from torch.export import ExportedProgram

from dmedge.artifact import Program
from dmedge.errors import require
from dmedge.export.coreml_check import check_arithmetic
from dmedge.export.coreml_weights import check_integers, has_groups, stored_model
from dmedge.export.programs import Lowering, evaluating, trace
from dmedge.export.quiet import quiet
from dmedge.manifest import TensorSpec
from dmedge.model.dual import DualEncoder

_DATE = "com.github.apple.coremltools.conversion_date"
_LENGTH, _DIVISION = "reduce_l2_norm", ("maximum", "tile", "real_div")  # of a vector by its length
_BARS = (  # module, name of the progress bar in it
    ("coremltools.converters.mil.frontend.torch.ops", "_tqdm"),
    ("coremltools.converters.mil.mil.passes.pass_pipeline", "tqdm"),
)


def export_coreml(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> Lowering:
    """Write every program into the `.mlpackage` that it names.

    Args:
        model: float with batch normalisation folded, or quantized.
        programs: at batch 1; pixels as float32.
        root: of the bundle.

    Raises:
        ExportError: an integer tensor is not in the packages, or they compute something else.
        DmedgeError: coremltools is not installed.
    """
    packages = {program.name: root / program.file for program in programs}
    weights_only = stored_model(model)
    with quiet():
        require("coremltools", "coreml")
        if has_groups(model):
            require("torchao.quantization.quant_primitives", "coreml")  # registers the operation that decompresses int4
        for program, traced in zip(programs, _trace(weights_only, programs), strict=True):
            _write_package(_convert(traced, program, model), packages[program.name])
        check_integers(model, packages)
        error = check_arithmetic(weights_only, programs, packages)
    return Lowering(
        delegated={},  # which unit runs an operation is decided on the device
        facts={
            "deployment_target": _deployment_target(model),
            "precision": "float16",
            "error_beside_rounded_activations": float(f"{error:.1e}"),
        },
    )


def _deployment_target(model: DualEncoder) -> str:
    return "iOS18" if has_groups(model) else "iOS17"


def _trace(model: DualEncoder, programs: tuple[Program, ...]) -> list[ExportedProgram]:
    limits = {"length": model.config.context_length}
    with evaluating(model, programs) as modules:
        traced = [trace(modules[program.name], program, limits).run_decompositions({}) for program in programs]
    for program in traced:
        _drop_aliases_(program)
    return traced


def _drop_aliases_(program: ExportedProgram) -> None:
    """Take every alias for what it stands for; coremltools has no word for it."""
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            for spec in program.graph_signature.output_specs:
                if spec.arg.name == node.name:
                    spec.arg.name = node.args[0].name
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _convert(traced: ExportedProgram, program: Program, model: DualEncoder) -> Any:
    tools = require("coremltools", "coreml")

    def tensor_type(spec: TensorSpec) -> Any:
        sizes = [
            tools.RangeDim(lower_bound=1, upper_bound=model.config.context_length, default=1)
            if isinstance(size, str)
            else size
            for size in spec.shape
        ]
        return tools.TensorType(name=spec.name, shape=sizes, dtype=np.dtype(spec.dtype).type)

    with _without_bars():
        return tools.convert(
            traced,
            inputs=[tensor_type(spec) for spec in program.inputs],
            outputs=[tools.TensorType(name=spec.name, dtype=np.float32) for spec in program.outputs],
            minimum_deployment_target=getattr(tools.target, _deployment_target(model)),
            compute_precision=tools.transform.FP16ComputePrecision(op_selector=_takes_float16(model.config.concepts)),
            skip_model_load=True,
        )


def _takes_float16(concepts: int) -> Callable[[Any], bool]:
    """Which operations of a program compute in float16: all but division by a length, and what follows the concepts.

    The share of one concept among many, and more so its square, is too small for normal numbers of float16. Hardware
    that takes such numbers for zero would divide by zero.
    """
    kept: dict[str, bool] = {}  # float32 operation -> whether it follows the concepts

    def takes_float16(operation: Any) -> bool:
        given = operation.inputs.values()
        arguments = [item for value in given for item in (value if isinstance(value, (tuple, list)) else [value])]
        sources = [item.op.name for item in arguments if item is not None and item.op is not None]
        follows = any(kept.get(name, False) for name in sources)
        makes_shares = operation.op_type == "softmax" and operation.x.shape[-1] == concepts
        divides = operation.op_type in _DIVISION and any(name in kept for name in sources)
        if makes_shares or follows or divides or operation.op_type == _LENGTH:
            kept[operation.name] = makes_shares or follows
        return operation.name not in kept

    return takes_float16


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep coremltools from drawing progress bars, which no setting of its own turns off."""
    places = [(require(module, "coreml"), name) for module, name in _BARS]
    bars = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, lambda items, **_: items)
        yield
    finally:
        for (module, name), bar in zip(places, bars, strict=True):
            setattr(module, name, bar)


def _write_package(converted: Any, package: Path) -> None:
    """Write what `converted` holds, without what differs from one conversion to the next."""
    spec = converted.get_spec()
    spec.description.metadata.userDefined.pop(_DATE, None)
    content = spec.SerializeToString(deterministic=True)
    folder = package / "Data/com.apple.CoreML"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.mlmodel").write_bytes(content)
    weights = folder / "weights/weight.bin"
    shutil.copyfile(Path(converted.weights_dir) / "weight.bin", weights)
    items = {
        _identifier(content): ("model.mlmodel", "CoreML Model Specification", "com.apple.CoreML/model.mlmodel"),
        _identifier(weights.read_bytes()): ("weights", "CoreML Model Weights", "com.apple.CoreML/weights"),
    }
    keys = ("name", "description", "path")
    table = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {"author": "com.apple.CoreML", **dict(zip(keys, values, strict=True))} for key, values in items.items()
        },
        "rootModelIdentifier": next(iter(items)),
    }
    (package / "Manifest.json").write_text(json.dumps(table, indent=4) + "\n", encoding="utf-8")


def _identifier(content: bytes) -> str:
    """A UUID that the content decides."""
    return str(UUID(bytes=sha256(content).digest()[:16], version=4)).upper()
