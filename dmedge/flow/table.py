"""One row per artifact of a run: size, what it finds, how fast, and the verdict."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dmedge.artifact import Artifact, program_bytes
from dmedge.flow.run import Outcome

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Text to image, mean over languages."""

    at_1: float
    at_10: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the evidence says of one artifact; None where it says nothing."""

    name: str
    kind: str
    path: str
    program_bytes: int
    known: Recall | None = None  # texts that were trained on
    novel: Recall | None = None  # texts whose string occurs nowhere in the training text
    worst_language: str | None = None  # the one that keeps least of the baseline's recall@10
    worst_retention: float | None = None
    latency_ratio: Mapping[str, float] | None = None  # program -> of the fp32 bundle for the same target
    verdict: str | None = None


def table_rows(outcomes: Sequence[Outcome]) -> tuple[Row, ...]:
    """A row for every checkpoint and bundle of a run, in its order.

    What an artifact finds is read from the verification of it, or, for a checkpoint, from the
    verification of what was made from it, where it is the baseline.
    """
    verified = [_report(outcome.artifact, "verify.json") for outcome in outcomes if outcome.stage.kind == "verify"]
    benched = [_report(outcome.artifact, "bench.json") for outcome in outcomes if outcome.stage.kind == "bench"]
    return tuple(
        _row(outcome.artifact, verified, benched)
        for outcome in outcomes
        if outcome.artifact.manifest.kind in ("checkpoint", "bundle")
    )


def rows_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for machines."""
    return [asdict(row) for row in rows]


def draw_table(rows: Sequence[Row], title: str) -> "Table":
    """The rows for people, 80 columns wide."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("artifact", no_wrap=True)
    for column in ("size", "known\ntext", "novel\ntext"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("worst\nlanguage", justify="right", min_width=len("language"))  # may wrap after a long tag
    table.add_column("latency", justify="right", no_wrap=True)
    table.add_column("verdict", min_width=len("enough"))
    for row in rows:
        table.add_row(escape(row.name), *_cells(row))
    table.caption = (
        "size: of the programs alone; known and novel text: recall@1/recall@10, text to image in an unseen style; "
        "worst language: share kept of its recall@10; latency: image/text program, of the full-precision bundle; "
        "an int8 checkpoint is measured through the bundles made from it"
    )
    table.caption_justify = "left"
    return table


def _cells(row: Row) -> tuple[str, ...]:
    recalls = [f"{found.at_1:.3f}/{found.at_10:.3f}" if found else UNKNOWN for found in (row.known, row.novel)]
    worst = UNKNOWN if row.worst_retention is None else f"{row.worst_language} {row.worst_retention:.1%}"
    ratios = row.latency_ratio or {}
    shown = [f"{ratios[name]:.2f}x" for name in ("encode_image", "encode_text") if name in ratios]
    return (f"{row.program_bytes / 1e6:.1f} MB", *recalls, worst, "/".join(shown) or UNKNOWN, row.verdict or UNKNOWN)


def _row(artifact: Artifact, verified: Sequence[Mapping[str, Any]], benched: Sequence[Mapping[str, Any]]) -> Row:
    mine = _about(artifact, "artifact_sha256", verified)
    theirs = _about(artifact, "baseline_sha256", verified)
    timed = _about(artifact, "artifact_sha256", benched)
    side, report = ("artifact", mine) if mine else ("baseline", theirs)
    worst = mine.get("worst_language") if mine else None  # a bundle that decides has none
    return Row(
        name=artifact.name,
        kind=artifact.manifest.kind,
        path=str(artifact.root),
        program_bytes=program_bytes(artifact),
        known=_recall(report, "known", side),
        novel=_recall(report, "novel", side),
        worst_language=worst,
        worst_retention=mine["languages"][worst]["retention_at_10"] if mine and worst else None,
        latency_ratio={name: row["ratio"]["value"] for name, row in timed["programs"].items()} if timed else None,
        verdict=_verdict(mine, timed),
    )


def _about(artifact: Artifact, role: str, reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last report in which `artifact` has this role."""
    return next((report for report in reversed(reports) if report[role] == artifact.digest), None)


def _recall(report: Mapping[str, Any] | None, tag: str, side: str) -> Recall | None:
    """None where the data of the report has no such texts."""
    if report is None or tag not in report.get("tags", {}):
        return None
    found = report["tags"][tag]["text_to_image"][side]
    return Recall(at_1=found["recall_at_1"], at_10=found["recall_at_10"])


def _verdict(*reports: Mapping[str, Any] | None) -> str | None:
    """The worst of the verdicts; a benchmark without a latency budget has none."""
    verdicts = {report["verdict"] for report in reports if report and report["verdict"]}
    return next((verdict for verdict in ("fail", "not enough data", "pass") if verdict in verdicts), None)


def _report(evidence: Artifact, name: str) -> Mapping[str, Any]:
    report: Mapping[str, Any] = json.loads(evidence.file(name).read_text(encoding="utf-8"))
    return report
