"""The section of the report on recall in every language."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dmedge.data.languages import count_languages
from dmedge.evidence.floors import floor_of, floor_words
from dmedge.evidence.language_chart import Bar, language_charts
from dmedge.evidence.report_data import Judged
from dmedge.evidence.report_text import chance_at_10, percent_interval, section


def languages(entry: Judged) -> str:
    """A bar per language, weakest retention marked."""
    assert entry.verify is not None
    rows = dict(sorted(entry.verify["languages"].items(), key=lambda row: -row[1]["recall_at_10"]))
    worst, floor = entry.verify["worst_language"], floor_of(entry.verify)
    bars = [_bar(tag, row, floor, is_worst=tag == worst) for tag, row in rows.items()]
    galleries = sorted({row["gallery"] for row in rows.values()})
    words = floor_words(entry.verify)
    below = f" Dashed: {floor:g} of the baseline, the floor; {escape(words)}." if words else ""
    note = (
        f"Recall@10, text to image, among {galleries[0]:,.0f} images; chance {chance_at_10(entry.verify):.4f}. "
        f"Upright tick: fp32 baseline.{below} Right: share of the baseline's recall kept, with intervals that hold "
        f"for all languages together. Marked: the language that keeps least, {escape(rows[worst]['name'])}."
    )
    title = f"{escape(entry.name)}: {count_languages(rows)}"
    return section(title, language_charts(bars, "Recall at 10"), note=note)


def _bar(tag: str, row: Mapping[str, Any], floor: float | None, *, is_worst: bool) -> Bar:
    kept = {"value": row["retention_at_10"], "low": row["low"], "high": row["high"]}
    detail = (
        f"{row['name']} ({tag}): recall@1 {row['recall_at_1']:.3f}, @5 {row['recall_at_5']:.3f}, "
        f"@10 {row['recall_at_10']:.3f}; baseline @10 {row['baseline_recall_at_10']:.3f}; {row['n']:,} texts among "
        f"{row['gallery']:,.0f} images, chance @10 {row['chance_at_10']:.4f}; image to text @10 "
        f"{row['image_to_text']['recall_at_10']:.3f}"
    )
    name, recall, baseline = row["name"], row["recall_at_10"], row["baseline_recall_at_10"]
    least = None if floor is None else floor * baseline
    return Bar(tag, name, row["script"], recall, baseline, least, percent_interval(kept), detail, is_worst)
