"""The ExecuTorch program: all methods in one file, lowered to XNNPACK, every integer stored once."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from dmedge.artifact import Program
from dmedge.errors import ExportError, require
from dmedge.export.counts import count_edge
from dmedge.export.programs import Lowering, evaluating, trace
from dmedge.export.quiet import quiet
from dmedge.export.settled import settled
from dmedge.export.xnnpack_rules import infer_one_size, suit_xnnpack_
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import ActivationPoint, DynamicLinear, Int4Linear, QuantConv2d, QuantEmbedding

# What costs time, or belongs to the integer arithmetic: none of it may be left to the portable kernels.
_CONVERSIONS = ("quantize_per", "dequantize_per", "choose_qparams")
_MUST_DELEGATE = ("linear", "addmm", "mm", "bmm", "convolution", *_CONVERSIONS)


def export_executorch(model: DualEncoder, programs: tuple[Program, ...], root: Path) -> Lowering:
    """Write all programs as methods of the one file that they name.

    Args:
        model: float with batch normalisation folded, or quantized.
        programs: all with the same file, at batch 1.
        root: of the bundle.

    Raises:
        ExportError: XNNPACK did not take an operation of the plan, or an integer tensor is not in the file.
        DmedgeError: executorch is not installed.
    """
    with quiet(), settled():
        exir = require("executorch.exir", "executorch")
        partition: Any = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        require("executorch.kernels.quantized", "executorch")
        edge = exir.to_edge_transform_and_lower(
            _trace(model, programs),
            transform_passes=[infer_one_size],
            partitioner={program.name: [partition.XnnpackPartitioner()] for program in programs},
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
            constant_methods=_constants(model),
        )
        lowered = {program.name: edge.exported_program(program.name) for program in programs}
        outside = {name: _outside(program, name) for name, program in lowered.items()}
        delegated = {name: _inside(program) for name, program in lowered.items()}
        counts = {name: count_edge(program, model.config.context_length) for name, program in lowered.items()}
        content = bytes(edge.to_executorch().buffer)  # rewrites the graphs that were counted
    path = root / programs[0].file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    check_integers(model, path)
    return Lowering(
        delegated={name: round(n / (n + outside[name].total()), 4) for name, n in delegated.items()},
        facts={"outside": {name: dict(sorted(found.items())) for name, found in outside.items()}},
        counts=counts,
    )


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
        traced = {program.name: trace(modules[program.name], program, limits) for program in programs}
    for program in traced.values():
        _split_dequantize_(program)
        suit_xnnpack_(program)
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


def _outside(program: ExportedProgram, name: str) -> Counter[str]:
    """Operations that portable kernels run, by name.

    Raises:
        ExportError: one of them is the work that XNNPACK is there for.
    """
    found = Counter(
        operation for operation in _operations(program.graph) if not operation.startswith("executorch_call_delegate")
    )
    left = sorted(operation for operation in found if operation.split(".")[1].startswith(_MUST_DELEGATE))
    if left:
        raise ExportError(
            f"{name}: XNNPACK left {', '.join(left)} to slower kernels; expected it to take them; report this"
        )
    return found


def _inside(program: ExportedProgram) -> int:
    """Number of operations within delegates; what only converts to or from integers does not count."""
    delegates = [module for name, module in program.graph_module.named_children() if name.startswith("lowered_module")]
    operations = [operation for delegate in delegates for operation in _operations(delegate.original_module.graph)]
    return sum(1 for operation in operations if not operation.split(".")[1].startswith(_CONVERSIONS))


def _operations(graph: torch.fx.Graph) -> list[str]:
    """Names such as "aten.mean.dim" of what a graph calls."""
    names = [getattr(node.target, "__name__", str(node.target)) for node in graph.nodes if node.op == "call_function"]
    return [name if "." in name else f"{name}.default" for name in names if name not in ("getitem", "sym_size.int")]


def check_integers(model: DualEncoder, path: Path) -> None:
    """Look for the integers of a quantized model in a `.pte`, where they stand as plain bytes.

    Raises:
        ExportError: a weight or a range is missing or differs.
    """
    content = path.read_bytes()
    for name, module in model.named_modules():
        if not isinstance(module, (QuantEmbedding, DynamicLinear, Int4Linear, QuantConv2d, ActivationPoint)):
            continue
        if stored_bytes(module) not in content:
            raise ExportError(f"{name}: its integers are not in the .pte as they are in the checkpoint; report this")


def stored_bytes(module: nn.Module) -> bytes:
    """What a `.pte` holds of an integer module: its weight, for XNNPACK with channels last, or its scale."""
    match module:
        case QuantConv2d():
            tensor = module.weight.permute(0, 2, 3, 1)
        case ActivationPoint():
            tensor = module.scale
        case _:
            tensor = module.get_buffer("weight")
    return tensor.contiguous().numpy().tobytes()
