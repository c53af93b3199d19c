"""What each engine makes of a plan: carries it out exactly, by a named substitute, or not at all."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import nn

from dmedge.errors import ExportError
from dmedge.export.engines import EngineName
from dmedge.model.quantized import ActivationPoint, DynamicLinear, Int4Linear, QuantConv2d, QuantEmbedding


class Support(NamedTuple):
    """How one engine computes one operation of one scheme."""

    verdict: Literal["exact", "substituted", "refused"]
    how: str


OPERATIONS: Mapping[type[nn.Module], str] = {
    nn.Embedding: "embedding",
    nn.Linear: "linear",
    nn.Conv2d: "convolution",
    QuantEmbedding: "embedding",
    DynamicLinear: "linear",
    Int4Linear: "linear",
    QuantConv2d: "convolution",
    ActivationPoint: "activation",
}

_PER_CALL = "uint8 activations with one range per call, not one per row"
_BLOCKS = "MatMulNBits, int8 activations with one symmetric range per 32 inputs, not one range per row"
_SHIFTED = "uint8 activations, zero point and codes shifted by 128"
_HALF = "float16 storage and arithmetic"
_WEIGHTS_ONLY = "the same int8 codes as weights, float16 scales; float16 activations, not rounded to int8"
_INT4_WEIGHTS_ONLY = "the same int4 codes as weights, float16 scales (iOS 18); float16 activations, not rounded to int8"
_NO_STATIC_LINEAR = "linear layers run with dynamic ranges here"

# (scheme, operation, engine)
_NATIVE: Mapping[tuple[str, str, EngineName], Support] = {
    ("float32", "embedding", "xnnpack"): Support("exact", "portable kernel"),
    ("float32", "linear", "xnnpack"): Support("exact", "XNNPACK f32"),
    ("float32", "convolution", "xnnpack"): Support("exact", "XNNPACK f32"),
    ("int8_rows", "embedding", "xnnpack"): Support("exact", "portable kernels, row times scale"),
    ("int8_dynamic", "linear", "xnnpack"): Support("exact", "XNNPACK qd8-f32-qc8w, one range per row"),
    ("int4_groups", "linear", "xnnpack"): Support("exact", "XNNPACK qd8-f32-qb4w, one range per row"),
    ("int8_static", "convolution", "xnnpack"): Support("exact", "XNNPACK qs8-qc8w, int32 bias"),
    ("int8_static", "activation", "xnnpack"): Support("exact", "XNNPACK qs8"),
    ("int8_static", "linear", "xnnpack"): Support("refused", _NO_STATIC_LINEAR),
    ("float32", "embedding", "onnxruntime"): Support("exact", "Gather"),
    ("float32", "linear", "onnxruntime"): Support("exact", "MatMul"),
    ("float32", "convolution", "onnxruntime"): Support("exact", "Conv"),
    ("int8_rows", "embedding", "onnxruntime"): Support("exact", "Gather, row times scale"),
    ("int8_dynamic", "linear", "onnxruntime"): Support("substituted", _PER_CALL),
    ("int4_groups", "linear", "onnxruntime"): Support("substituted", _BLOCKS),
    ("int8_static", "convolution", "onnxruntime"): Support("exact", _SHIFTED),
    ("int8_static", "activation", "onnxruntime"): Support("exact", _SHIFTED),
    ("int8_static", "linear", "onnxruntime"): Support("refused", _NO_STATIC_LINEAR),
    ("float32", "embedding", "coreml"): Support("substituted", _HALF),
    ("float32", "linear", "coreml"): Support("substituted", _HALF),
    ("float32", "convolution", "coreml"): Support("substituted", _HALF),
    ("int8_rows", "embedding", "coreml"): Support("substituted", _WEIGHTS_ONLY),
    ("int8_dynamic", "linear", "coreml"): Support("substituted", _WEIGHTS_ONLY),
    ("int4_groups", "linear", "coreml"): Support("substituted", _INT4_WEIGHTS_ONLY),
    ("int8_static", "convolution", "coreml"): Support("substituted", _WEIGHTS_ONLY),
    ("int8_static", "activation", "coreml"): Support("substituted", "float16, not rounded to int8"),
    ("int8_static", "linear", "coreml"): Support("refused", _NO_STATIC_LINEAR),
}

# onnxruntime-web is onnxruntime compiled to WebAssembly.
_WEB: Mapping[tuple[str, str, EngineName], Support] = {
    (scheme, operation, "onnxruntime-web"): support
    for (scheme, operation, engine), support in _NATIVE.items()
    if engine == "onnxruntime"
}

SUPPORT: Mapping[tuple[str, str, EngineName], Support] = {**_NATIVE, **_WEB}

_UNKNOWN = Support("refused", "this combination is unknown")


def check_support(model: nn.Module, plan: Mapping[str, str], engine: EngineName) -> dict[str, str]:
    """How `engine` carries out every scheme of `plan`, as "scheme operation" -> "verdict: how".

    Args:
        model: the plan carried out.
        plan: module -> scheme; a module that is not named is float32.

    Raises:
        ExportError: the engine refuses a module; the message says which to keep in float32.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if type(module) not in OPERATIONS:
            continue
        scheme, operation = plan.get(name, "float32"), OPERATIONS[type(module)]
        support = SUPPORT.get((scheme, operation, engine), _UNKNOWN)
        if support.verdict == "refused":
            raise ExportError(
                f"{name}: {scheme} {operation} is refused by {engine} ({support.how}); "
                f"expected a scheme that it runs; compress again with --keep {name}"
            )
        found[f"{scheme} {operation}"] = f"{support.verdict}: {support.how}"
    return found
