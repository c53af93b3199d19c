"""What the manifest says to those who write an app in another language: preprocessing, towers, runtimes."""

from collections.abc import Mapping

from dmedge.data.transforms import Preprocess
from dmedge.environment import package_version
from dmedge.export.counts import Counts
from dmedge.export.plan import PlannedTensor
from dmedge.export.programs import Lowering
from dmedge.manifest import Runtime
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.config import ModelConfig

# Program -> what it is made of; those of two variants hold a tower, or both, as well.
TOWERS = {
    "encode_image": "image",
    "encode_text": "text",
    "fuse": "fusion",
    "fuse_pair": "fusion",
    "classify": "image",
}
# The oldest that golden outputs were replayed on. 1.19 to 1.29 abort while they fuse the convolutions of an int8
# program, whose weights name no zero point.
ONNX_MINIMUM = "1.30"


def preprocessing_facts(preprocess: Preprocess, config: ModelConfig) -> dict[str, object]:
    """How any picture becomes the input of `encode_image`; docs/artifacts.md says in which order."""
    filter_name, _, antialias = preprocess.resample.partition("-")
    scaling: Mapping[str, object] = {"rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}
    if config.image == "hf":
        plain = {"rescale": 1 / 255, "mean": [0.0] * 3, "std": [1.0] * 3}
        scaling = {key: config.image_hf.get(key, default) for key, default in plain.items()}
    return {
        "orientation": "turned as EXIF says",
        "depth": "of 16-bit grey the upper 8 bits",
        "alpha": "blended over the background",
        "background": list(preprocess.background),
        "colour_order": "RGB",
        "fit": preprocess.fit,
        "resize": {
            "pad-centre": "longest side to size, the other in proportion, rounded half to even, at least 1",
            "squash": "both sides to size",
            "crop-centre": "shortest side to shortest_edge, the other in proportion, rounded down",
        }[preprocess.fit],
        "shortest_edge": preprocess.shortest_edge,
        "filter": filter_name,
        "antialias": antialias == "antialiased",
        "crop": "centre, size x size, black beyond the picture" if preprocess.fit == "crop-centre" else None,
        "pad": "both sides with the background, an odd pixel right and below"
        if preprocess.fit == "pad-centre"
        else None,
        "size": preprocess.size,
        "layout": "NHWC",
        "dtype": "uint8",
        "inside_the_program": {"formula": "(pixel * rescale - mean) / std", **scaling},
    }


def tower_facts(
    checkpoint: Checkpoint,
    planned: Mapping[str, Mapping[str, PlannedTensor]],
    counts: Mapping[Runtime, Mapping[str, Counts]],
) -> dict[str, object]:
    """Tower -> its precision by parameters, and what became of it in every runtime."""
    plan = checkpoint.quantization or {}
    facts: dict[str, object] = {}
    for program, tensors in planned.items():
        schemes: dict[str, int] = {}
        for name, tensor in tensors.items():
            if name.rpartition(".")[2] in ("weight", "bias") or tensor.module not in plan:
                scheme = plan.get(tensor.module, "float32")
                schemes[scheme] = schemes.get(scheme, 0) + tensor.numbers
        coverage = {runtime: found[program].to_json() for runtime, found in counts.items() if program in found}
        facts[TOWERS[program]] = {"program": program, "precision": dict(sorted(schemes.items())), "coverage": coverage}
    return facts


def minimum_versions(lowerings: Mapping[Runtime, Lowering]) -> dict[str, str]:
    """Runtime -> the oldest version that runs the programs; a `.pte` is for what wrote it, and later."""
    executorch = ".".join((package_version("executorch") or "").split(".")[:2])
    known = {"executorch": executorch, "onnxruntime": ONNX_MINIMUM}
    return {
        runtime: known.get(runtime) or str(lowering.facts["deployment_target"])
        for runtime, lowering in lowerings.items()
    }
