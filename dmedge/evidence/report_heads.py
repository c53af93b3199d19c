"""Sections of the report on what heads decide, of all inputs and of every language."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dmedge.data.languages import count_languages, describe
from dmedge.evidence.head_rows import FIGURES, HEADS, head_rows, heads_of, leading_figure, signed, worst_language
from dmedge.evidence.language_chart import Bar, language_charts
from dmedge.evidence.report_data import Judged
from dmedge.evidence.report_text import figure, interval, section, table
from dmedge.evidence.verdict import WORST_DROPS


def heads(entry: Judged) -> str:
    """What each head decides, beside the baseline."""
    assert entry.verify is not None
    found = heads_of(entry.verify)
    if not found:
        return ""
    alike = [_agreement_cells(name, head) for name, head in found.items()]
    rows = [
        [
            f"{escape(HEADS.get(row.head, row.head))}<small>{escape(row.figure)}</small>",
            f"{row.n:,}",
            figure(row.artifact),
            figure(row.baseline),
            signed(row.change),
        ]
        for row in head_rows(found)
    ]
    note = (
        "Both sides on the same pairs, pictures or questions, where the truth is known; changes with 95 % intervals "
        "that draw emoji, or pictures in data of one's own. Macro figures are means over the classes that occur. AUC: "
        "chance that a text scores higher with its own picture than another with a strange one. Calibration error: "
        "the gap between how sure a head is and how often it is right, in 15 bins of confidence of equal width. VQA "
        "accuracy: the score that people's answers give. Worst language: the one that loses most."
    )
    body = table(["", "n", "decides as fp32", "same answer to all"], alike)
    body += table(["", "n", "this bundle", "fp32", "change"], rows) if rows else ""
    by_language = "".join(_languages(entry, name, head) for name, head in found.items() if head.get("languages"))
    return section(f"{escape(entry.name)}: what its heads decide", body, note=note) + by_language


def _languages(entry: Judged, name: str, head: Mapping[str, Any]) -> str:
    """A bar per language of the first figure of a head, the one that loses most marked."""
    key, rows = leading_figure(head), head["languages"]
    worst, limit = worst_language(head), _limit(entry, name, key)
    bars = [_bar(tag, row, key, limit, is_worst=tag == worst) for tag, row in rows.items()]
    bars.sort(key=lambda bar: -bar.value)
    fewest = min(row["n"] for row in rows.values())
    floor = "" if limit is None else f" Dashed: the baseline less {limit:g}, the least that the limit allows."
    note = (
        f"Upright tick: fp32 baseline.{floor} Right: the change in points, with intervals that hold for all "
        f"languages together. Marked: the language that loses most, {escape(describe(worst).name)}. "
        f"{fewest:,} decisions of each language at least."
    )
    what = f"{HEADS[name]}, {FIGURES[key]}"
    title = f"{escape(entry.name)}: {escape(what)}, {count_languages(rows)}"
    return section(title, language_charts(bars, what), note=note)


def _bar(tag: str, row: Mapping[str, Any], key: str, limit: float | None, *, is_worst: bool) -> Bar:
    found, (name, script) = row[key], describe(tag)
    others = "; ".join(
        f"{FIGURES[other]} {figure(row[other]['artifact'])}, baseline {figure(row[other]['baseline'])}"
        for other in FIGURES
        if other in row
    )
    return Bar(
        tag,
        name,
        script,
        found["artifact"],
        found["baseline"],
        None if limit is None else found["baseline"] - limit,
        _points(found["change"]),
        f"{name} ({tag}): {others}; {row['n']:,} decisions on {row['clusters']:,} emoji or pictures",
        is_worst,
    )


def _points(change: Mapping[str, float | None]) -> str:
    """A difference and its interval in percentage points: there is little room beside a bar."""
    value, low, high = change["value"], change["low"], change["high"]
    if value is None or low is None or high is None:
        return "unknown" if value is None else f"{100 * value:+.1f}"
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _limit(entry: Judged, name: str, key: str) -> float | None:
    """How much of a figure any language may lose, if there is such a limit."""
    found = [line["limit"] for line in entry.budgets if WORST_DROPS.get(line["name"]) == (name, key)]
    return float(found[0]) if found else None


def _agreement_cells(name: str, head: Mapping[str, Any]) -> list[str]:
    alike, common = head["agreement"], head.get("most_common")
    drawn = f"; {head['clusters']:,} emoji or pictures" if "clusters" in head else ""
    return [
        escape(HEADS.get(name, name)),
        f"{head['n']:,}<small>truth known of {head['n_known']:,}{drawn}</small>",
        "unknown" if alike["value"] is None else f"{figure(alike['value'])}<small>{interval(alike)}</small>",
        f"right {figure(common)}" if common is not None else "unknown",
    ]
