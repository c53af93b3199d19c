"""Sections of the report beyond clean recall: groups of texts, and perturbations.

Evidence that was written before one of them was measured has no such section.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from dmedge.evidence.charts import Curve, curve_chart
from dmedge.evidence.report_data import Judged
from dmedge.evidence.report_text import percent, percent_interval, section, table

TITLES = {"script": "script", "resource": "training text of the language", "category": "kind of emoji"}
PERTURBATIONS = {
    "noise": "noise",
    "blur": "blur",
    "jpeg": "JPEG",
    "brightness": "brightness",
    "rotation": "rotation",
    "occlusion": "a covered part",
    "typos": "typos",
    "case": "capitals",
    "diacritics": "dropped diacritics",
    "short": "short text",
    "long": "long text",
    "code_switching": "two languages in one text",
}


def groups(entry: Judged) -> str:
    """Recall kept by script, by training text and by kind of emoji."""
    assert entry.verify is not None
    found = entry.verify.get("groups") or {}
    if not found:
        return ""
    parts = []
    for kind, grouping in found.items():
        names = [TITLES.get(kind, kind), "languages", "recall@10", "MRR", "recall@10 kept"]
        parts.append(table(names, [_group_row(name, row) for name, row in grouping["groups"].items()]))
        parts.append(f'<p class="note">{escape(grouping["definition"])}.</p>')
    note = (
        "Text to image, means over the languages of a group; small print: fp32. Intervals hold for all groups of a "
        "table together."
    )
    return section(f"{escape(entry.name)}: groups", "".join(parts), note=note)


def robustness(entry: Judged) -> str:
    """A small chart for every perturbation, where they were measured."""
    assert entry.verify is not None
    found = entry.verify.get("robustness")
    if not found:
        return ""
    curves = found["perturbations"]
    end = min(1.0, 1.08 * max(max(*row["artifact"], *row["baseline"]) for row in curves.values()) or 1.0)
    cards = "".join(f"<div>{_card(name, row, found, end)}</div>" for name, row in curves.items())
    note = (
        f"Recall@10, text to image, of {found['n_texts']:,} texts in {escape(found['languages'])} among "
        f"{found['gallery']:,} images; either the text is changed, or the picture that it looks for. Solid with dots: "
        "this bundle; dashed with squares: fp32 baseline, on the same changed items. Whiskers: where the bundle would "
        "stand at the ends of the 95 % interval of its distance to the baseline. Beyond the baseline: recall that the "
        "bundle loses more than the baseline does, mean over strengths; these intervals hold together."
    )
    title = f"{escape(entry.name)}: loses {_points(found['drop'])} more than its baseline when items are perturbed"
    return section(title, f'<div class="cards">{cards}</div>', note=note)


def _group_row(name: str, row: Mapping[str, Any]) -> list[str]:
    kept = {"value": row["retention_at_10"], "low": row["low"], "high": row["high"]}
    return [
        f"{escape(name)}<small>n {row['n']:,}</small>",
        str(len(row["languages"])),
        f"{row['recall_at_10']:.4f}<small>fp32 {row['baseline_recall_at_10']:.4f}</small>",
        f"{row['mrr']:.4f}<small>fp32 {row['baseline_mrr']:.4f}</small>",
        percent_interval(kept),
    ]


def _card(name: str, row: Mapping[str, Any], found: Mapping[str, Any], end: float) -> str:
    apart = tuple((point["low"], point["high"]) for point in row["difference"])
    title = PERTURBATIONS.get(name, name)
    curve = Curve(title, tuple(found["strengths"]), tuple(row["artifact"]), tuple(row["baseline"]), apart)
    touched = f"{percent(row['changed'][-1])} of the {row['of']}s changed at strength 5"
    return (
        f"<h3>{escape(title)}</h3>{curve_chart(curve, end)}"
        f'<p class="note">{touched}; beyond the baseline {_signed(row["drop"])}</p>'
    )


def _points(drop: Mapping[str, float]) -> str:
    return f"{100 * drop['value']:.1f} points of recall ({100 * drop['low']:.1f} to {100 * drop['high']:.1f})"


def _signed(change: Mapping[str, float]) -> str:
    return f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"
