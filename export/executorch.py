"""The ExecuTorch program: all methods in one file, lowered to XNNPACK, every integer stored once."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from dmedge.artifact import Program
from dmedge.errors import ExportError, require
from dmedge.export.programs import evaluating, example_inputs, free_dimensions
from dmedge.export.quiet import quiet
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import QuantConv2d

# What costs time, or belongs to the integer arithmetic: none of it may be left to the portable kernels.
_MUST_DELEGATE = ("linear", "addmm", "mm", "bmm", "convolution", "quantize_per", "dequantize_per", "choose_qparams")
_BYTES_SEARCHED = 64  # a shorter weight might be found by chance


def export_executorch(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> dict[str, object]:
    """Write all programs as methods of the one file that they name.

    Args:
        model: float with batch normalisation folded, or quantized.
        programs: all with the same file, at batch 1.
        root: of the bundle.

    Returns:
        facts for the manifest: per program the delegates, and the operations outside of them.

    Raises:
        ExportError: XNNPACK did not take an operation of the plan, or an integer tensor is not in the file.
        DmedgeError: executorch is not installed.
    """
    with quiet():
        exir = require("executorch.exir", "executorch")
        partition: Any = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        require("executorch.kernels.quantized", "executorch")
        edge = exir.to_edge_transform_and_lower(
            _trace(model, programs),
            partitioner={program.name: [partition.XnnpackPartitioner()] for program in programs},
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
            constant_methods=_constants(model),
        )
        facts: dict[str, object] = {
            program.name: _delegation(edge.exported_program(program.name), program.name) for program in programs
        }
        content = bytes(edge.to_executorch().buffer)
    _check_integers(model, content)
    path = root / programs[0].file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return facts


def _constants(model: DualEncoder) -> dict[str, int]:
    """What an app may ask of the file itself, each a method without arguments."""
    config = model.config
    return {
        "embed_dim": config.embed_dim,
        "context_length": config.context_length,
        "image_size": config.image_size,
        "vocab_size": config.vocab_size,
    }


def _trace(model: DualEncoder, programs: tuple[Program, ...]) -> dict[str, ExportedProgram]:
    limits = {"length": model.config.context_length}
    with evaluating(model, programs) as modules:
        traced = {
            program.name: torch.export.export(
                modules[program.name],
                example_inputs(program),
                dynamic_shapes=(free_dimensions(program, limits),),
                strict=False,
            )
            for program in programs
        }
    for program in traced.values():
        _split_dequantize_(program)
        _drop_unused_(program)
    return traced


def _split_dequantize_(program: ExportedProgram) -> None:
    """Give every user of an int8 activation its own dequantize, or XNNPACK takes only one of them."""
    graph, target = program.graph, torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in [node for node in graph.nodes if node.op == "call_function" and node.target is target]:
        for user in list(node.users)[1:]:
            with graph.inserting_before(user):
                user.replace_input_with(node, graph.node_copy(node))
    program.graph_module.recompile()


def _drop_unused_(program: ExportedProgram) -> None:
    """Drop what belongs to the other programs: ExecuTorch would store unused buffers, though no parameters."""
    graph, kept = program.graph, []
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.BUFFER and not node.users:
            graph.erase_node(node)
            store: Mapping[str, Any] = program.state_dict if spec.persistent else program.constants
            store.pop(spec.target)  # type: ignore[attr-defined]
        else:
            kept.append(spec)
    program.graph_signature.input_specs = kept
    program.graph_module.recompile()


def _delegation(program: ExportedProgram, name: str) -> dict[str, object]:
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    delegates = [node for node in called if "executorch_call_delegate" in str(node.target)]
    outside = Counter(
        getattr(node.target, "__name__", str(node.target))
        for node in called
        if node not in delegates and "getitem" not in str(node.target)
    )
    left = sorted(op for op in outside if op.split(".")[1].startswith(_MUST_DELEGATE))
    if left:
        raise ExportError(
            f"{name}: XNNPACK left {', '.join(left)} to slower kernels; expected it to take them; report this"
        )
    return {"delegates": len(delegates), "outside": dict(sorted(outside.items()))}


def _check_integers(model: DualEncoder, content: bytes) -> None:
    for name, weight in integer_weights(model).items():
        if len(weight) >= _BYTES_SEARCHED and weight not in content:
            raise ExportError(f"{name}: its integers are not in the .pte as they are in the checkpoint; report this")


def integer_weights(model: DualEncoder) -> dict[str, bytes]:
    """Int8 weights of a quantized model as a `.pte` stores them, convolutions with channels last, by name."""
    convolutions = {name for name, module in model.named_modules() if isinstance(module, QuantConv2d)}
    return {
        name: (weight.permute(0, 2, 3, 1) if name.rpartition(".")[0] in convolutions else weight)
        .contiguous()
        .numpy()
        .tobytes()
        for name, weight in model.state_dict().items()
        if weight.dtype == torch.int8
    }
