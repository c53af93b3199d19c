"""Bundles of several runs side by side: which of them no other beats in size, recall and latency at once.

Only like is compared with like: bundles for one target, judged on the same data, timed on the same machine and
device with the same threads. Where times cannot be compared, nobody is beaten, since the slower might be the faster.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dmedge.artifact import Artifact, find_artifacts, load_artifact
from dmedge.devices.webgpu import Adapter
from dmedge.errors import ArtifactError
from dmedge.evidence.report_data import REPORTS
from dmedge.evidence.standing import Standing, standing
from dmedge.manifest import Manifest, read_manifest

TIMED = ("encode_image", "encode_text", "classify", "fuse_pair")  # what one picture and one text take


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a latency was measured."""

    device: str
    cpu: str
    cores: int | None
    threads: int

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Self:
        """From bench.json; a GPU is part of the device, for a browser may find another."""
        host, runtime, device = report["host"]["before"], report["runtime"], report["device"]
        if "adapter" in runtime:
            device += f" by {Adapter(**runtime['adapter'])}"
        return cls(device, str(host.get("cpu")), host.get("cores"), runtime["threads"])

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device}: {self.cpu}, {self.cores or 'unknown'} cores, {threads}"


@dataclass(frozen=True, slots=True)
class Contender:
    """One verified bundle."""

    standing: Standing
    latency_ms: Mapping[Place, float] = field(default_factory=dict)  # p50 of a picture and a text together

    @property
    def quality(self) -> float:
        """Recall at 10, or of a bundle that decides the decisions that are those of the baseline."""
        return self.standing.recall_at_10 if self.standing.recall_at_10 is not None else (self.standing.kept.value or 0)

    @property
    def arena(self) -> tuple[object, ...]:
        """Bundles with the same one are alternatives."""
        found = self.standing
        return found.target, found.data_sha256, found.recall_at_10 is None

    def beats(self, other: "Contender") -> bool:
        """Whether it is no worse in anything that both were measured by, and better in something."""
        shared = self.latency_ms.keys() & other.latency_ms.keys()
        if self.arena != other.arena or (not shared and (self.latency_ms or other.latency_ms)):
            return False
        costs = [(self.standing.program_bytes, other.standing.program_bytes), (-self.quality, -other.quality)]
        costs += [(self.latency_ms[place], other.latency_ms[place]) for place in shared]
        return all(mine <= theirs for mine, theirs in costs) and any(mine < theirs for mine, theirs in costs)


@dataclass(frozen=True, slots=True)
class Contest:
    """All contenders, the best first where they are alternatives."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]  # what was not compared, and why

    def beaten_by(self, contender: Contender) -> list[str]:
        """Names of those that are better in everything; empty for one on the front."""
        return [other.standing.name for other in self.contenders if other.beats(contender)]

    def to_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {"contenders": [self._row_json(contender) for contender in self.contenders], "notes": list(self.notes)}

    def _row_json(self, contender: Contender) -> dict[str, Any]:
        beaten_by = self.beaten_by(contender)
        places = [
            {"device": p.device, "cpu": p.cpu, "cores": p.cores, "threads": p.threads, "p50_ms": ms}
            for p, ms in contender.latency_ms.items()
        ]
        return contender.standing.to_json() | {"latency": places, "front": not beaten_by, "beaten_by": beaten_by}


def compare_folders(folders: Sequence[Path]) -> Contest:
    """Read the evidence below some folders; of each kind the newest counts.

    Raises:
        ArtifactError: there is no such folder, no verification in any, or damaged evidence.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(f"{folder}: no such directory; expected the evidence of a run; run dmedge verify")
    known = {folder: dict(_manifests(folder)) for folder in folders}
    names = _names(known)
    evidence = [(path, m) for found in known.values() for path, m in found.items() if m.stage in REPORTS]
    reports = [(manifest, _read(load_artifact(path, kind="evidence"))) for path, manifest in evidence]
    contenders: dict[tuple[str, ...], Contender] = {}
    for manifest, report in reports:
        if manifest.stage == "verify" and "failure" not in report:
            digest = report["artifact_sha256"]
            row = standing(names.get(digest, digest[:12]), manifest.target, report)
            contenders.setdefault((digest, row.runtime, row.data_sha256), Contender(row, _latencies(row, reports)))
    if not contenders:
        raise ArtifactError(f"{', '.join(map(str, folders))}: no verification; expected some; run dmedge verify")
    order = sorted(contenders.values(), key=lambda found: (str(found.arena), -found.quality))
    return Contest(tuple(order), tuple(_notes(order, reports)))


def _manifests(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """Of every artifact below, the newest first; a damaged one says nothing."""
    for path in find_artifacts(folder):
        with suppress(ArtifactError):
            yield path, read_manifest(path)


def _names(known: Mapping[Path, Mapping[Path, Manifest]]) -> dict[str, str]:
    """Digest of every bundle -> its directory, below its folder where there is one folder alone."""
    found: dict[str, str] = {}
    for folder, manifests in known.items():
        for path, manifest in manifests.items():
            if manifest.kind == "bundle":
                found.setdefault(manifest.digest, str(path.relative_to(folder if len(known) == 1 else folder.parent)))
    return found


def _read(evidence: Artifact) -> dict[str, Any]:
    name = REPORTS[evidence.manifest.stage]
    table: dict[str, Any] = json.loads(evidence.file(name).read_text(encoding="utf-8"))
    return table


def _latencies(row: Standing, reports: Sequence[tuple[Manifest, Mapping[str, Any]]]) -> dict[Place, float]:
    """The newest figure of every place; none where a program had too few samples for a median."""
    found: dict[Place, float] = {}
    for manifest, report in reports:
        is_own = manifest.stage == "bench" and report["artifact_sha256"] == row.digest
        if is_own and report["runtime"]["runtime"] == row.runtime:
            times = [report["programs"][name]["artifact"].get("p50_ms") for name in TIMED if name in report["programs"]]
            known = [ms for ms in times if ms is not None]
            if times and len(known) == len(times):
                found.setdefault(Place.read(report), sum(known))
    return found


def _notes(contenders: Sequence[Contender], reports: Sequence[tuple[Manifest, Mapping[str, Any]]]) -> Iterator[str]:
    """What was not compared."""
    arenas: dict[object, list[Contender]] = {}
    for contender in contenders:
        arenas.setdefault(contender.arena, []).append(contender)
    if len(arenas) > 1:
        yield "bundles for different targets, or judged on different data, are no alternatives and were not compared"
    for rivals in arenas.values():
        apart = [
            f"{one.standing.name} and {other.standing.name}"
            for i, one in enumerate(rivals)
            for other in rivals[i + 1 :]
            if (one.latency_ms or other.latency_ms) and not one.latency_ms.keys() & other.latency_ms.keys()
        ]
        if apart:
            yield (
                f"latency of {'; '.join(apart)}: not timed on the same machine and device with the same threads, so "
                "neither can beat the other"
            )
    failed = [report for manifest, report in reports if "failure" in report]
    if failed:
        yield f"{len(failed)} bundles could not be judged, for what their programs did; see dmedge report"
    judged = {contender.standing.digest for contender in contenders}
    timed = {report["artifact_sha256"] for manifest, report in reports if manifest.stage == "bench"}
    if timed - judged:
        yield f"{len(timed - judged)} bundles were timed and not verified: a latency without accuracy is no result"
