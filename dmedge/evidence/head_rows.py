"""Heads as verify.json holds them, whatever its schema, and their figures as rows for whoever shows them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmedge.evidence.heads import VQA

HEADS = {
    "match": "match of picture and text",
    "class": "class of the pair",
    "label": "label of the picture",
    "answer": "answer to the question",
}
FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "auc": "AUC",
    VQA: "VQA accuracy",
    "mean_confidence": "mean confidence",
    "calibration_error": "calibration error",
}
FEW = 8  # languages that are all named
_UNKNOWN = {"value": None, "low": None, "high": None}


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One figure of both sides."""

    head: str
    figure: str  # in words
    n: int
    artifact: float | None
    baseline: float | None
    change: Mapping[str, float | None]  # value, low and high; all None where it was not compared


def heads_of(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The heads of a verify.json; of schema 1 what it says of them, without intervals of the accuracies."""
    if "heads" in report:
        return dict(report["heads"] or {})
    heads: dict[str, dict[str, Any]] = {}
    for name, row in (report.get("choices") or {}).items():
        accuracy = {"artifact": row["accuracy"], "baseline": row["baseline_accuracy"], "change": _UNKNOWN}
        heads[name] = {
            "n": row["n"],
            "n_known": row["n_known"],
            "most_common": row["most_common"],
            "agreement": {"value": row["agreement"], "low": row["low"], "high": row["high"]},
            "figures": {"accuracy": accuracy} if row["n_known"] else {},
        }
    for name, row in (report.get("reliability") or {}).items():
        found = heads.setdefault(name, {"n": row["n"], "n_known": row["n"], "agreement": _UNKNOWN, "figures": {}})
        for key in ("accuracy", "mean_confidence", "calibration_error"):
            change = row.get(f"{key}_change", _UNKNOWN)
            found["figures"].setdefault(
                key, {"artifact": row[key], "baseline": row[f"baseline_{key}"], "change": change}
            )
    return heads


def head_rows(heads: Mapping[str, Mapping[str, Any]]) -> Iterator[HeadRow]:
    """Every figure of every head, and the first of them in every language, or in the worst one of many."""
    for name, head in heads.items():
        for key, row in head["figures"].items():
            yield HeadRow(name, FIGURES.get(key, key), head["n_known"], row["artifact"], row["baseline"], row["change"])
        if not (languages := head.get("languages")):
            continue
        key, worst = leading_figure(head), worst_language(head)
        for tag in languages if len(languages) <= FEW else [worst]:
            row = languages[tag]
            words = f"{FIGURES[key]}, {tag}" if len(languages) <= FEW else f"{FIGURES[key]}, worst language: {tag}"
            yield HeadRow(name, words, row["n"], row[key]["artifact"], row[key]["baseline"], row[key]["change"])


def leading_figure(head: Mapping[str, Any]) -> str:
    """The figure that a head is known by: the first that is measured in every language."""
    figures: Mapping[str, Any] = head["figures"]
    return next(key for key in figures if all(key in row for row in head["languages"].values()))


def worst_language(head: Mapping[str, Any]) -> str:
    """Tag of the language that loses most of that figure; of equal ones that whose interval reaches lowest."""
    key = leading_figure(head)
    rows: Mapping[str, Mapping[str, Any]] = head["languages"]

    def lost(tag: str) -> tuple[float, float]:
        change = rows[tag][key]["change"]
        low = change["low"]
        return change["value"], change["value"] if low is None else low

    return min(rows, key=lost)


def signed(change: Mapping[str, float | None]) -> str:
    """A difference and its interval in words."""
    value, low, high = (change[key] for key in ("value", "low", "high"))
    if value is None:
        return "not compared"
    if low is None or high is None:
        return f"{value:+.4f} (?)"
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
