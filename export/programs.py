"""What every exporter needs of a model: its programs as modules, with example inputs and free dimensions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dmedge.artifact import Program
from dmedge.errors import require
from dmedge.export.counts import Counts
from dmedge.export.engines import Engine
from dmedge.model.dual import DualEncoder
from dmedge.model.hf import quietly

EXAMPLE = {"batch": 2, "length": 7}  # sizes of the free dimensions while tracing; 0 and 1 would be baked in
DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """What an exporter wrote."""

    delegated: Mapping[str, float]  # program -> share of its operations that a delegate or provider runs
    facts: Mapping[str, object]  # for the manifest
    counts: Mapping[str, Counts] = field(default_factory=dict)  # program -> what its work and its weights became


class ProgramModule(nn.Module):
    """One program of a model as the `forward` of a module, which is what exporters take."""

    def __init__(self, model: DualEncoder, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        """Run the program; inputs come in their order, by name or not."""
        outputs: tuple[Tensor, ...] = getattr(self.model, self.name)(*inputs, **named)
        return outputs


def bundle_programs(programs: Sequence[Program], engine: Engine) -> tuple[Program, ...]:
    """The programs of a model as the bundle of an engine carries them: where, by what, and of which free dimensions."""

    def shape(sizes: tuple[int | str, ...]) -> tuple[int | str, ...]:
        return tuple(engine.fixed.get(size, size) if isinstance(size, str) else size for size in sizes)

    return tuple(
        Program(
            program.name,
            engine.file.format(name=program.name),
            engine.runtime,
            tuple(
                replace(spec, shape=shape(spec.shape), dtype=engine.dtypes.get(spec.dtype, spec.dtype))
                for spec in program.inputs
            ),
            tuple(replace(spec, shape=shape(spec.shape)) for spec in program.outputs),
        )
        for program in programs
    )


def example_inputs(program: Program) -> tuple[Tensor, ...]:
    """Blank inputs of the shapes that a program takes."""
    shapes = [[EXAMPLE[size] if isinstance(size, str) else size for size in spec.shape] for spec in program.inputs]
    return tuple(
        torch.ones(shape, dtype=DTYPES[spec.dtype]) for shape, spec in zip(shapes, program.inputs, strict=True)
    )


def free_dimensions(program: Program, limits: Mapping[str, int]) -> tuple[dict[int, Dim], ...]:
    """Which dimensions of each input may vary, and up to what size.

    Tracing takes 2 as the least size, since it would bake in 1; the exported programs run with 1 as well.
    """
    dims = {name: Dim(name, min=2, max=limit) for name, limit in limits.items()}
    return tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in program.inputs
    )


def is_imported(model: DualEncoder, program: Program) -> bool:
    """Whether a program runs an encoder of transformers; only such programs take pixels or ids."""
    towers = {"pixels": model.config.image, "ids": model.config.text}
    return any(towers.get(spec.name) == "hf" for spec in program.inputs)


def trace(module: ProgramModule, program: Program, limits: Mapping[str, int]) -> ExportedProgram:
    """One program as a graph: of an own tower by `torch.export`, of an imported one by transformers' exporter.

    `DynamoExporter` is `torch.export` as well, with what transformers knows of its own code: what it patches while
    one of its models is traced, and the state that it puts aside. Its exporters for ExecuTorch and ONNX end where a
    bundle begins. They write one program, the bare encoder from scaled floats on, into a file of its own, quantize
    only by themselves, and leave to XNNPACK what it computes differently; so lowering is the same as for own towers.
    """
    shapes = free_dimensions(program, limits)
    if not is_imported(module.model, program):
        return torch.export.export(module, example_inputs(program), dynamic_shapes=(shapes,), strict=False)
    names = [spec.name for spec in program.inputs]
    with quietly():
        exporters = require("transformers.exporters.exporter_dynamo", "train")
        traced: ExportedProgram = exporters.DynamoExporter().export_program(
            module,
            dict(zip(names, example_inputs(program), strict=True)),
            exporters.DynamoConfig(dynamic_shapes=dict(zip(names, shapes, strict=True))),
        )[0]
    return traced


@contextmanager
def evaluating(model: DualEncoder, programs: Sequence[Program]) -> Iterator[Mapping[str, ProgramModule]]:
    """The programs of `model` as modules, without gradients."""
    with torch.no_grad():
        yield {program.name: ProgramModule(model, program.name).eval() for program in programs}
