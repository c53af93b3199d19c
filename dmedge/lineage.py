"""Where an artifact came from: its parents' digests, resolved to the directories that hold them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmedge.artifact import SHIPPED, Artifact, find_artifacts
from dmedge.errors import ArtifactError
from dmedge.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One artifact that another was made from."""

    role: str  # what it was to its child, e.g. "parent" or "teacher"
    digest: str
    depth: int  # 1 for a parent, 2 for a grandparent
    root: Path | None  # None: nothing with this digest was found
    manifest: Manifest | None


def trace_lineage(artifact: Artifact, places: Sequence[Path] = (Path("runs"),)) -> tuple[Ancestor, ...]:
    """All ancestors of `artifact`, each before its own parents.

    Args:
        places: where to look for them, besides the directory that `artifact` stands in; what is
            damaged there is no ancestor, since no digest vouches for it.
    """
    known: dict[str, tuple[Path, Manifest]] = {}
    for folder in [folder for place in (artifact.root.parent, *places, SHIPPED) for folder in find_artifacts(place)]:
        with suppress(ArtifactError):
            manifest = read_manifest(folder)
            known.setdefault(manifest.digest, (folder, manifest))
    return tuple(_ancestors(artifact.manifest, known, depth=1))


def descent(artifact: Artifact, places: Sequence[Path], without: frozenset[str]) -> list[Ancestor]:
    """Ancestors of `artifact`, nearest first, but for those that were something in `without` to a child, and theirs."""
    found: list[Ancestor] = []
    skipped_depth: int | None = None
    for ancestor in trace_lineage(artifact, places):
        if skipped_depth is not None and ancestor.depth > skipped_depth:
            continue
        skipped_depth = ancestor.depth if ancestor.role in without else None
        if skipped_depth is None:
            found.append(ancestor)
    return found


def _ancestors(child: Manifest, known: dict[str, tuple[Path, Manifest]], depth: int) -> list[Ancestor]:
    found = []
    for role, digest in child.parents.items():
        root, manifest = known.get(digest, (None, None))
        found.append(Ancestor(role, digest, depth, root, manifest))
        if manifest is not None:  # a digest covers those of the parents, so this ends
            found += _ancestors(manifest, known, depth + 1)
    return found


def inherited(parent: Manifest) -> dict[str, object]:
    """What the summary of everything made from `parent` says too: the licence of imported weights."""
    return {key: parent.summary[key] for key in ("license",) if key in parent.summary}
