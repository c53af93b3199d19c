"""The engines: a file format, the runtime that carries it, and how near to torch it must come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dmedge.manifest import Runtime

EngineName = Literal["xnnpack", "onnxruntime", "coreml", "onnxruntime-web"]

PROGRAMS = ("encode_image", "encode_text", "fuse", "fuse_pair", "classify")
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to write and run programs."""

    runtime: Runtime
    file: str  # of a program, or its directory, with {name} where each has its own
    fixed: Mapping[str, int]  # dimensions that may not vary
    needs: tuple[tuple[str, str], ...]  # module, extra of this package
    int8_tolerances: Mapping[str, float]  # program -> greatest error, relative as `dmedge.evidence.parity` says
    float_tolerances: Mapping[str, float] | None = None  # of a float checkpoint [default: FLOAT_TOLERANCE for each]
    dtypes: Mapping[str, str] = field(default_factory=dict)  # of inputs that the runtime lacks -> taken in their place
    float_bytes: int = 4  # of a float that is stored
    description: str


def _int8_tolerances(*, image: float, text: float) -> dict[str, float]:
    """Of programs that look at pictures alone, and of those that read text."""
    return {"encode_image": image, "encode_text": text, "fuse": text, "fuse_pair": text, "classify": image}


# Greatest error on the conformance pack. Dynamic ranges follow float32 activations, so some value near
# a tie falls the other way, and the difference grows from layer to layer, more so where a runtime takes
# one range per call. Static ranges leave ties alone, which a picture of one colour can have everywhere
# at once. Core ML rounds no activation to int8, so it differs by all that rounding costs there; what it computes from
# the same weights is compared more narrowly when it is written.
ENGINES: Mapping[EngineName, Engine] = {
    "xnnpack": Engine(
        runtime="executorch",
        file="programs/model.pte",
        fixed={"batch": 1},
        needs=(("executorch.exir", "executorch"), ("tokenizers", "executorch")),
        int8_tolerances=_int8_tolerances(image=0.1, text=0.1),
        description="one ExecuTorch program for XNNPACK, batch 1",
    ),
    "onnxruntime": Engine(
        runtime="onnxruntime",
        file="programs/{name}.onnx",
        fixed={},
        needs=(("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx"), ("tokenizers", "onnx")),
        int8_tolerances=_int8_tolerances(image=0.1, text=0.25),
        description="ONNX programs for onnxruntime's CPU provider, any batch",
    ),
    "coreml": Engine(
        runtime="coreml",
        file="programs/{name}.mlpackage",
        fixed={"batch": 1},
        needs=(("coremltools", "coreml"), ("tokenizers", "coreml")),
        int8_tolerances=_int8_tolerances(image=0.35, text=0.2),
        float_tolerances=dict.fromkeys(PROGRAMS, 0.01),
        dtypes={"uint8": "float32"},
        float_bytes=2,
        description="Core ML packages in float16, batch 1",
    ),
    "onnxruntime-web": Engine(
        runtime="onnxruntime",
        file="programs/{name}.onnx",
        fixed={},
        needs=(("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx"), ("tokenizers", "onnx")),
        int8_tolerances=_int8_tolerances(image=0.1, text=0.25),
        description="ONNX programs for onnxruntime-web in WebAssembly, any batch",
    ),
}


def tolerances(engine: EngineName, *, is_float: bool) -> dict[str, float]:
    """Program -> greatest error that `engine` may have."""
    found = ENGINES[engine]
    if not is_float:
        return dict(found.int8_tolerances)
    return dict(found.float_tolerances or dict.fromkeys(PROGRAMS, FLOAT_TOLERANCE))
