"""Which languages keep less of the baseline's recall than the floor that a limit draws for each of them."""

from collections.abc import Mapping
from typing import Any

LIMIT = "worst_language_retention"
NAMED = 8  # languages, at most


def floor_of(report: Mapping[str, Any]) -> float | None:
    """The share of its baseline's recall that every language has to keep, where verify.json has such a limit."""
    return next((float(line["limit"]) for line in report["budgets"] if line["name"] == LIMIT), None)


def languages_below(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Rows of the languages that were measured under the floor, the lowest first, whatever their intervals."""
    floor = floor_of(report)
    if floor is None:
        return {}
    kept = {tag: row for tag, row in report["languages"].items() if row["retention_at_10"] is not None}
    low = sorted(kept.items(), key=lambda item: item[1]["retention_at_10"])
    return {tag: row for tag, row in low if row["retention_at_10"] < floor}


def floor_words(report: Mapping[str, Any]) -> str:
    """The languages under the floor by name, those first that keep least; "" without a floor."""
    floor, below = floor_of(report), languages_below(report)
    if floor is None:
        return ""
    if not below:
        return f"no language keeps less than {floor:g} of its baseline's recall@10"
    named = [f"{row['name']} ({tag}) {row['retention_at_10']:.3f}" for tag, row in list(below.items())[:NAMED]]
    more = f" and {len(below) - NAMED} more" if len(below) > NAMED else ""
    surely = sum(row["high"] is not None and row["high"] < floor for row in below.values())
    return (
        f"{len(below)} of {len(report['languages'])} languages keep less than {floor:g} of their baseline's recall@10, "
        f"{surely} of them beyond doubt: {', '.join(named)}{more}"
    )
