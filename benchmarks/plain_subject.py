"""What `benchmarks.plain_export` compares: a model, its two halves, inputs for both sides, and a plain writer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn
from torch.export import Dim

from dmedge.artifact import Artifact
from dmedge.compress.recipe import CompressConfig
from dmedge.manifest import Runtime
from dmedge.runtime.wire import Array

Row: TypeAlias = Mapping[str, Array]  # name of an input -> what the program is fed
Shapes: TypeAlias = dict[str, dict[int, Dim]]  # name of an input -> its axes that may vary

FILES: Mapping[Runtime, str] = {"executorch": "model.pte", "onnxruntime": "model.onnx"}


@dataclass(frozen=True, eq=False)
class Plain:
    """One half on its way through a plain exporter."""

    module: nn.Module
    example: dict[str, Tensor]  # what is traced
    calibration: list[dict[str, Tensor]]
    shapes: Shapes
    precision: str  # float32, int8
    outputs: tuple[str, ...]


Writer: TypeAlias = Callable[[Plain, Path], tuple[str, ...]]  # writes the file, returns the names of the outputs


@dataclass(frozen=True, eq=False)
class Subject:
    """One model, its halves in torch, and inputs in both forms."""

    name: str
    checkpoint: Callable[[Path], Artifact]  # what dmedge exports, in float32, made in the folder that is given
    int8: CompressConfig
    halves: Mapping[str, nn.Module]  # program -> from the inputs of `plain` to the embedding, or to a tuple with it
    ours: Mapping[str, list[list[Array]]]
    plain: Mapping[str, list[Row]]
    calibration: Mapping[str, list[Row]]  # as `plain`; what fixed ranges of the plain way are fitted to
    outputs: tuple[str, ...]  # of a half
    longest: int  # most tokens of a text
    writers: Mapping[Runtime, Writer]
