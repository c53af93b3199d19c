"""The engines: a file format, the runtime that carries it, and how near to torch it must come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dmedge.manifest import Runtime

EngineName = Literal["xnnpack", "onnxruntime", "onnxruntime-web"]

PROGRAMS = ("encode_image", "encode_text", "fuse")
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to write and run programs."""

    runtime: Runtime
    file: str  # of a program, with {name} where each has its own
    fixed: Mapping[str, int]  # dimensions that may not vary
    needs: tuple[tuple[str, str], ...]  # module, extra of this package
    int8_tolerances: Mapping[str, float]  # program -> greatest error, relative to the largest golden value
    description: str


# Greatest error on the conformance pack. Dynamic ranges follow float32 activations, so some value near
# a tie falls the other way, and the difference grows from layer to layer, more so where a runtime takes
# one range per call. Static ranges leave ties alone, which a picture of one colour can have everywhere
# at once.
ENGINES: Mapping[EngineName, Engine] = {
    "xnnpack": Engine(
        runtime="executorch",
        file="programs/model.pte",
        fixed={"batch": 1},
        needs=(("executorch.exir", "executorch"),),
        int8_tolerances={"encode_image": 0.1, "encode_text": 0.1, "fuse": 0.1},
        description="one ExecuTorch program for XNNPACK, batch 1",
    ),
    "onnxruntime": Engine(
        runtime="onnxruntime",
        file="programs/{name}.onnx",
        fixed={},
        needs=(("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx")),
        int8_tolerances={"encode_image": 0.1, "encode_text": 0.25, "fuse": 0.25},
        description="ONNX programs for onnxruntime's CPU provider, any batch",
    ),
    "onnxruntime-web": Engine(
        runtime="onnxruntime",
        file="programs/{name}.onnx",
        fixed={},
        needs=(("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx")),
        int8_tolerances={"encode_image": 0.1, "encode_text": 0.25, "fuse": 0.25},
        description="ONNX programs for onnxruntime-web in WebAssembly, any batch",
    ),
}


def tolerances(engine: EngineName, *, is_float: bool) -> dict[str, float]:
    """Program -> greatest error that `engine` may have."""
    return dict.fromkeys(PROGRAMS, FLOAT_TOLERANCE) if is_float else dict(ENGINES[engine].int8_tolerances)
