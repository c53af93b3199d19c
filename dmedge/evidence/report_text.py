"""Words and numbers of the report."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dmedge.evidence.head_rows import heads_of
from dmedge.evidence.report_data import Judged

CASE_NAMES = {
    "encode_image": "image",
    "encode_text": "text, lengths as in the data",
    "encode_text_longest": "text, full context",
    "fuse": "fusion of both",
    "fuse_pair": "picture and text",
    "classify": "picture",
}
CHIPS = {"pass": "pass", "fail": "fail", "not enough data": "unsure", "not verified": "unsure"}


def chip(verdict: str) -> str:
    """A coloured word."""
    return f'<span class="chip {CHIPS.get(verdict, "plain")}">{escape(verdict)}</span>'


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "unknown" if share is None else f"{100 * share:.1f} %"


def interval(estimate: Mapping[str, Any]) -> str:
    """The ends of an interval."""
    if estimate["low"] is None or estimate["high"] is None:
        return "interval unknown"
    return f"{estimate['low']:.3f} to {estimate['high']:.3f}"


def percent_interval(estimate: Mapping[str, Any]) -> str:
    """A share and its interval as percentages."""
    if estimate["low"] is None or estimate["high"] is None:
        return f"{percent(estimate['value'])} (?)"
    return f"{percent(estimate['value'])} ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"


def bytes_text(size_bytes: float) -> str:
    """A size in decimal units."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes < 1e8 else f"{size_bytes / 1e6:.0f} MB"


def lead_text(entry: Judged) -> str:
    """What one bundle keeps and saves, in one sentence."""
    name = f"<b>{escape(entry.name)}</b>"
    if entry.verify is None:
        return f"{name} was timed but not verified; a latency without its accuracy is no result."
    verify = entry.verify
    share = f" in {percent(verify['size']['ratio'])} of the fp32 program size" if verify["size"].get("ratio") else ""
    if "failure" in verify:
        return f"{name} could not be judged: {escape(verify['failure'])}."
    if entry.recalls is None:
        found = ", ".join(f"{name} {percent_interval(head['agreement'])}" for name, head in heads_of(verify).items())
        return f"{name} decides as its baseline does{share}: {found}."
    kept = verify["macro"]["text_to_image"]["retention"]["recall_at_10"]
    worst = verify["languages"][verify["worst_language"]]
    parts = [f"{name} keeps {percent_interval(kept)} of its baseline's recall@10{share}"]
    parts.append(f"; {escape(worst['name'])}, its worst language, keeps {percent(worst['retention_at_10'])}")
    if entry.bench:
        ratios = {case: row["ratio"]["value"] for case, row in entry.bench["programs"].items()}
        words = {"encode_image": "an image", "encode_text": "a text"}
        taken = " and ".join(f"{word} takes ×{ratios[case]:.2f}" for case, word in words.items() if case in ratios)
        parts.append(f". On this host (no phone) {taken} of the fp32 time")
    return "".join(parts) + "."


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells; the first column names the row."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="{"" if i else "name"}">{cell}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def section(title: str, body: str, *, note: str = "", shade: str = "") -> str:
    """One block of the page."""
    below = f'<p class="note">{note}</p>' if note else ""
    return f'<section class="{shade}"><h2>{title}</h2>{below}<div class="scroll">{body}</div></section>'


def chance_at_10(verify: Mapping[str, Any]) -> float:
    """Recall at 10, text to image, of an encoder that guesses."""
    return float(verify["macro"]["text_to_image"]["artifact"]["chance_at_10"])


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def figure(value: float | None) -> str:
    """A number with four digits."""
    return "unknown" if value is None else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    """A duration with three digits; None where there were too few samples for the percentile."""
    return "too few samples" if value is None else f"{value:.3g} ms"
