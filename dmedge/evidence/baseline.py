"""Which checkpoint an artifact must be compared with: the float one that it was made from."""

from collections.abc import Sequence
from pathlib import Path

from dmedge.artifact import Artifact, load_artifact
from dmedge.errors import ArtifactError
from dmedge.lineage import descent
from dmedge.manifest import Manifest

FLOAT = frozenset({"float32", "float16", "bfloat16"})
OTHER_ROLES = frozenset({"teacher", "data", "init"})  # parents that an artifact learned from, but is not judged by
RUNS = Path("runs")


def is_float(manifest: Manifest) -> bool:
    """Whether nothing is quantized. How floats lie on disk does not matter: they are float32 once loaded."""
    return set(manifest.precision.values()) <= FLOAT


def find_baseline(artifact: Artifact, places: Sequence[Path] = (RUNS,)) -> Artifact:
    """The eldest float checkpoint that `artifact` was made from; itself if it is the eldest.

    Raises:
        ArtifactError: none is found beside it or in `places`.
    """
    found = None
    if artifact.manifest.kind == "checkpoint" and is_float(artifact.manifest):
        found = artifact.root
    missing = []
    for ancestor in descent(artifact, places, OTHER_ROLES):
        if ancestor.manifest is None or ancestor.root is None:
            missing.append(f"{ancestor.role} {ancestor.digest[:12]}")
        elif ancestor.manifest.kind == "checkpoint" and is_float(ancestor.manifest):
            found = ancestor.root
    if found is None:
        lost = f"; not found: {', '.join(missing)}" if missing else ""
        raise ArtifactError(
            f"{artifact.root}: no float checkpoint among its ancestors beside it or under "
            f"{', '.join(map(str, places))}{lost}; name one with --baseline"
        )
    return load_artifact(found, kind="checkpoint")


def check_baseline(artifact: Artifact, baseline: Artifact, places: Sequence[Path] = (RUNS,)) -> None:
    """Refuse a baseline that would flatter the artifact, or has nothing to do with it.

    Raises:
        ArtifactError: the baseline is no checkpoint, is quantized, or is not an ancestor.
    """
    if baseline.manifest.kind != "checkpoint":
        raise ArtifactError(
            f"{baseline.root}: found a {baseline.manifest.kind}; expected the float checkpoint that "
            f"{artifact.name} was made from; name it with --baseline"
        )
    if not is_float(baseline.manifest):
        schemes = ", ".join(sorted(set(baseline.manifest.precision.values()) - FLOAT))
        raise ArtifactError(
            f"{baseline.root}: is quantized itself ({schemes}); expected a float checkpoint, since a loss "
            "that both share would not show; name the one it was compressed from with --baseline"
        )
    line = descent(artifact, (baseline.root.parent, *places), OTHER_ROLES)
    if baseline.digest not in {artifact.digest, *(ancestor.digest for ancestor in line)}:
        known = ", ".join(f"{ancestor.role} {ancestor.digest[:12]}" for ancestor in line) or "none"
        raise ArtifactError(
            f"{baseline.root}: its digest {baseline.digest[:12]} is not among the ancestors of {artifact.name} "
            f"({known}); expected the checkpoint it was made from; what lies between them must stand beside "
            "either, or under runs/"
        )
