"""The targets: where a bundle is to run, and what that decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dmedge.config import near_match
from dmedge.errors import ConfigError
from dmedge.export.engines import ENGINES, EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place to run a bundle."""

    engines: tuple[EngineName, ...]  # the first is what verify and bench judge unless they are told otherwise
    precision: Mapping[str, str]  # tower -> the int8 scheme that this target runs fastest
    place: str  # in words
    column_pairs: Mapping[EngineName, int] = field(default_factory=dict)  # engine -> `multiple` of `pair_columns`

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Of its engines, in their order."""
        return tuple(ENGINES[engine].runtime for engine in self.engines)

    @property
    def description(self) -> str:
        """What a bundle holds, in words."""
        return f"{'; '.join(ENGINES[engine].description for engine in self.engines)}: {self.place}"


_INT8 = {"image": "int8_static", "text": "int8_dynamic", "fusion": "int8_dynamic"}

TARGETS: Mapping[str, Target] = {
    "android": Target(engines=("xnnpack",), precision=_INT8, place="Android 8 or newer on arm64 and x86_64"),
    "ios": Target(engines=("xnnpack", "coreml"), precision=_INT8, place="iPhones and iPads with iOS 17 or newer"),
    "web": Target(engines=("onnxruntime-web",), precision=_INT8, place="browsers"),
    "linux-arm64": Target(
        engines=("onnxruntime", "xnnpack"), precision=_INT8, place="arm64 Linux, such as a Raspberry Pi"
    ),
    "linux-x86_64": Target(
        engines=("onnxruntime", "xnnpack"),
        precision=_INT8,
        place="Linux servers and PCs",
        column_pairs={"onnxruntime": 16, "xnnpack": 1},
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


def chosen_engines(target: str, runtimes: Sequence[str]) -> tuple[EngineName, ...]:
    """The engines of a target whose runtime is asked for, or all of them if none is.

    Raises:
        ConfigError: there is no such target, or it has no such runtime.
    """
    found = find_target(target)
    for runtime in runtimes:
        if runtime not in found.runtimes:
            raise ConfigError(f"target {target} has no runtime {runtime!r}{near_match(runtime, list(found.runtimes))}")
    return tuple(name for name in found.engines if not runtimes or ENGINES[name].runtime in runtimes)
