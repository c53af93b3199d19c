"""The targets: where a bundle is to run, and what that decides."""

from collections.abc import Mapping
from dataclasses import dataclass

from dmedge.config import near_match
from dmedge.errors import ConfigError
from dmedge.manifest import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place to run a bundle."""

    runtime: Runtime
    file: str  # of a program, with {name} where each has its own
    fixed: Mapping[str, int]  # dimensions that may not vary
    precision: Mapping[str, str]  # tower -> the int8 scheme that this target runs fastest
    description: str


TARGETS: Mapping[str, Target] = {
    "android": Target(
        runtime="executorch",
        file="programs/model.pte",
        fixed={"batch": 1},
        precision={"image": "int8_static", "text": "int8_dynamic", "fusion": "int8_dynamic"},
        description="one ExecuTorch program for XNNPACK, arm64 and x86_64, batch 1",
    ),
    "linux-x86_64": Target(
        runtime="onnxruntime",
        file="programs/{name}.onnx",
        fixed={},
        precision={"image": "int8_static", "text": "int8_dynamic", "fusion": "int8_dynamic"},
        description="ONNX programs for onnxruntime's CPU provider, any batch",
    ),
}


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name not in TARGETS:
        raise ConfigError(f"no target {name!r}{near_match(name, list(TARGETS))}")
    return TARGETS[name]
