"""What a report is made of: the artifacts below a directory, and the evidence that belongs to each."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact, find_artifacts, load_artifact
from dmedge.errors import ArtifactError
from dmedge.evidence import bench, measured
from dmedge.manifest import Manifest, read_manifest

REPORTS = {"verify": measured.REPORT, "bench": bench.REPORT}


@dataclass(frozen=True, eq=False)
class Judged:
    """One bundle with the newest evidence of each kind."""

    digest: str
    name: str
    verify: Mapping[str, Any] | None
    bench: Mapping[str, Any] | None
    samples: Mapping[str, NDArray[np.int64]]  # of the benchmark, by name; ns

    @property
    def recalls(self) -> Mapping[str, Any] | None:
        """The verification, if it says what is found; that of a bundle that decides has heads alone."""
        return self.verify if self.verify and "macro" in self.verify else None

    @property
    def verdict(self) -> str:
        """The worse of the two verdicts; "not verified" without a verification, whatever a benchmark says."""
        found = [report["verdict"] for report in (self.verify, self.bench) if report and report["verdict"]]
        if "fail" in found:
            return "fail"
        return self.verify["verdict"] if self.verify else "not verified"

    @property
    def budgets(self) -> list[dict[str, Any]]:
        """All budget lines."""
        return [line for report in (self.verify, self.bench) if report for line in report["budgets"]]


@dataclass(frozen=True, eq=False)
class Collection:
    """Everything that one report shows."""

    title: str
    manifests: Mapping[str, tuple[Path, Manifest]]  # digest -> where, what
    judged: Sequence[Judged]

    def name_of(self, digest: str) -> str:
        """Name of the directory of an artifact, or the start of its digest."""
        return self.manifests[digest][0].name if digest in self.manifests else digest[:12]


def collect(*places: Path) -> Collection:
    """Gather evidence below directories, or pieces of evidence and what lies beside each.

    Bundles of several places that are called alike are named with the directory that they stand in.

    Raises:
        ArtifactError: there is no such directory, no evidence in it, or damaged evidence.
    """
    parts = [_collect(place) for place in places]
    manifests = {digest: found for part in reversed(parts) for digest, found in part.manifests.items()}
    judged = {entry.digest: entry for part in reversed(parts) for entry in reversed(part.judged)}
    called = Counter(entry.name for entry in judged.values())
    named = [
        replace(entry, name=f"{manifests[entry.digest][0].resolve().parent.name}/{entry.name}")
        if called[entry.name] > 1 and entry.digest in manifests
        else entry
        for entry in reversed(judged.values())
    ]
    return Collection(", ".join(dict.fromkeys(part.title for part in parts)), manifests, named)


def _collect(place: Path) -> Collection:
    """One place: see `collect`."""
    if not place.is_dir():
        raise ArtifactError(f"{place}: no such directory; expected evidence, or a directory that holds some")
    only = _judged_digest(place)
    root = place.parent if only else place
    manifests: dict[str, tuple[Path, Manifest]] = {}
    for folder in find_artifacts(root):  # newest first
        with suppress(ArtifactError):  # what is damaged has no digest to be named by
            manifest = read_manifest(folder)
            manifests.setdefault(manifest.digest, (folder, manifest))
    evidence = [(where, manifest) for where, manifest in manifests.values() if manifest.stage in REPORTS]
    digests = dict.fromkeys(manifest.parents["artifact"] for _, manifest in reversed(evidence))
    judged = [_judged(digest, manifests, evidence) for digest in digests if only in (None, digest)]
    if not judged:
        raise ArtifactError(f"{root}: holds no evidence; expected some to report; run dmedge verify")
    return Collection(title=root.resolve().name, manifests=manifests, judged=judged)


def _judged_digest(place: Path) -> str | None:
    """Which artifact `place` is evidence of; None if it is no artifact."""
    if not (place / "manifest.json").is_file():
        return None
    manifest = load_artifact(place, kind="evidence").manifest
    if manifest.stage not in REPORTS:
        raise ArtifactError(
            f"{place}: evidence by {manifest.stage}; expected that of {' or '.join(REPORTS)}; "
            "name such, or open the page that lies in it"
        )
    return manifest.parents["artifact"]


def _judged(
    digest: str, manifests: Mapping[str, tuple[Path, Manifest]], evidence: Sequence[tuple[Path, Manifest]]
) -> Judged:
    newest: dict[str, Artifact] = {}
    for where, manifest in evidence:
        if manifest.parents["artifact"] == digest and manifest.stage not in newest:
            newest[manifest.stage] = load_artifact(where, kind="evidence")
    reports = {stage: _read(artifact.file(REPORTS[stage])) for stage, artifact in newest.items()}
    samples = _samples(newest["bench"].file(bench.SAMPLES)) if "bench" in newest else {}
    name = manifests[digest][0].name if digest in manifests else digest[:12]
    return Judged(digest, name, reports.get("verify"), reports.get("bench"), samples)


def _read(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def _samples(path: Path) -> dict[str, NDArray[np.int64]]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)
