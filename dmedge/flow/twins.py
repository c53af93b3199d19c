"""Full-precision twins: the baseline exported as the bundle that is judged, made once and kept.

    python -m dmedge.flow.twins BASELINE CACHE TARGET/RUNTIME ...

makes them ahead, in a process of its own, while the stages before a verification run.
"""

import fcntl
import hashlib
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact, find_artifacts, load_artifact
from dmedge.config import load_config
from dmedge.environment import child_environment, tool_versions
from dmedge.errors import ArtifactError
from dmedge.evidence.baseline import is_float
from dmedge.manifest import Manifest, Runtime, canonical_json, read_manifest
from dmedge.runtime.session import runtime_of
from dmedge.variants import bundle_name

logger = logging.getLogger(__name__)

ALL: Mapping[str, Any] = {"variant": "full", "prompts": []}  # which programs of a model
CACHE = ".cache"  # beside the artifacts; hidden from the search for the newest


def fp32_twin(baseline: Artifact, bundle: Artifact, cache: Path, wanted: str | None = None) -> Artifact:
    """The baseline exported for the target of `bundle`: one that stands beside it, or made once and kept in `cache`.

    Args:
        wanted: the runtime that it must have programs for [default: that of the first program of `bundle`].

    Raises:
        ArtifactError: the bundle names no target, or has no programs for `wanted`.
        ExportError: the baseline cannot be exported.
    """
    target = bundle.manifest.target
    if target is None:
        raise ArtifactError(f"{bundle.root}: names no target; expected a bundle; run dmedge export")
    runtime, programs = runtime_of(bundle, wanted), _programs(bundle.manifest)
    for folder in (bundle.root, *find_artifacts(baseline.root.parent)):
        if _is_twin(folder, baseline, target, runtime, programs):
            return load_artifact(folder, kind="bundle")
    return make_twin(baseline, target, runtime, cache, programs)


def make_twin(
    baseline: Artifact, target: str, runtime: Runtime, cache: Path, programs: Mapping[str, Any] | None = None
) -> Artifact:
    """The baseline exported for one runtime of a target, from `cache`, or into it.

    Whoever comes while another process makes it waits for that one.

    Args:
        programs: the settings of the export that say which: `variant` and `prompts` [default: all].

    Raises:
        ExportError: the baseline cannot be exported.
    """
    programs = programs or ALL
    versions = hashlib.sha256(canonical_json([tool_versions(), programs])).hexdigest()
    name = bundle_name(target, programs["variant"])
    place = cache / f"{baseline.digest[:16]}-{name}-{runtime}-{versions[:8]}"
    with _alone_at(place):
        if _is_twin(place, baseline, target, runtime, programs):
            return load_artifact(place, kind="bundle")
        from dmedge.export.bundle import ExportConfig, export_bundle

        logger.info("exporting the fp32 baseline for %s to compare with; it is kept in %s", name, cache)
        config = load_config(ExportConfig, {"target": target, "runtimes": [runtime], **programs})
        return export_bundle(baseline, config, place)


def _programs(manifest: Manifest) -> dict[str, Any]:
    """The settings of an export that say which programs a bundle has."""
    return {key: manifest.config.get(key, default) for key, default in ALL.items()}


@contextmanager
def _alone_at(place: Path) -> Iterator[None]:
    """Hold the lock of `place`; it goes with its process, so one that died is no obstacle."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_twin(folder: Path, baseline: Artifact, target: str, runtime: str, programs: Mapping[str, Any]) -> bool:
    """Whether `folder` holds `baseline` itself, exported for both with the tools that are installed."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:  # absent, damaged, or no artifact
        return False
    is_bundle = manifest.kind == "bundle" and manifest.target == target and dict(manifest.tools) == tool_versions()
    has_runtime = any(program.runtime == runtime for program in manifest.programs)
    is_fitting = is_bundle and has_runtime and _programs(manifest) == dict(programs)
    return is_fitting and is_float(manifest) and baseline.digest in manifest.parents.values()


class TwinsAhead:
    """Twins that another process makes meanwhile; if it fails, whoever needs one makes it and sees the error."""

    def __init__(self, baseline: Artifact, wanted: Sequence[tuple[str, str]], cache: Path) -> None:
        """Start.

        Args:
            wanted: target and runtime of each.
        """
        names = [f"{target}/{runtime}" for target, runtime in wanted]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dmedge.flow.twins", str(baseline.root.resolve()), str(cache), *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )

    def wait(self) -> None:
        """Wait until nothing is made any more, so that a measurement of time is alone on the machine."""
        self._process.wait()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def main(arguments: Sequence[str]) -> None:
    """Make the twins that the arguments name."""
    baseline, cache = load_artifact(Path(arguments[0]), kind="checkpoint"), Path(arguments[1])
    for name in arguments[2:]:
        target, _, runtime = name.partition("/")
        make_twin(baseline, target, runtime, cache)  # type: ignore[arg-type]  # export refuses an unknown one


if __name__ == "__main__":
    main(sys.argv[1:])
