"""What evidence says of one bundle, on one line: the row of a table, a point of a chart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmedge.evidence.bootstrap import Estimate
from dmedge.evidence.head_rows import heads_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One verification; None where it says nothing."""

    name: str
    digest: str
    target: str | None
    runtime: str
    data: str
    data_sha256: str  # recall on other data is not compared
    program_bytes: int
    recall_at_10: float | None  # text to image, mean over languages; None of a bundle that decides
    chance_at_10: float | None
    kept: Estimate  # of the baseline's recall, or of its decisions
    worst_language: str | None
    worst_kept: float | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return {
            "artifact": self.name,
            "artifact_sha256": self.digest,
            "target": self.target,
            "runtime": self.runtime,
            "data": self.data,
            "data_sha256": self.data_sha256,
            "program_bytes": self.program_bytes,
            "recall_at_10": self.recall_at_10,
            "chance_at_10": self.chance_at_10,
            "kept": {"value": self.kept.value, "low": self.kept.low, "high": self.kept.high},
            "worst_language": self.worst_language,
            "worst_language_kept": self.worst_kept,
            "verdict": self.verdict,
        }


def standing(name: str, target: str | None, report: Mapping[str, Any]) -> Standing:
    """The line of one verify.json.

    Args:
        name: of the bundle.
        target: that it was exported for.
        report: what verify.json holds.
    """
    recall = chance = worst = worst_kept = None
    if "macro" in report:
        found = report["macro"]["text_to_image"]
        recall, chance = (found["artifact"][name] for name in ("recall_at_10", "chance_at_10"))
        worst = report["worst_language"]
        worst_kept = report["languages"][worst]["retention_at_10"]
        kept = Estimate(**found["retention"]["recall_at_10"])
    else:
        kept = _least_agreement(heads_of(report))
    return Standing(
        name=name,
        digest=report["artifact_sha256"],
        target=target,
        runtime=report["runtime"]["runtime"],
        data=f"{report['data']['name']}, {report['data']['n_texts']:,} texts",
        data_sha256=report["data"]["sha256"],
        program_bytes=report["size"]["program_bytes"],
        recall_at_10=recall,
        chance_at_10=chance,
        kept=kept,
        worst_language=worst,
        worst_kept=worst_kept,
        verdict=report["verdict"],
    )


def kept_text(kept: Estimate) -> str:
    """A share and its interval in words, as percentages."""
    if kept.value is None:
        return "unknown"
    if kept.low is None or kept.high is None:
        return f"{kept.value:.1%}"
    return f"{kept.value:.1%} ({100 * kept.low:.1f} to {100 * kept.high:.1f})"


def _least_agreement(heads: Mapping[str, Mapping[str, Any]]) -> Estimate:
    """The head that agrees least; nothing is known of a bundle that could not be judged."""
    if not heads:
        return Estimate(None, None, None, 0, 0)
    head = min(heads.values(), key=lambda head: head["agreement"]["value"])
    return Estimate(**head["agreement"], n=head["n"], hits=head["n"])
