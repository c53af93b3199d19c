"""The comparison of runs as one HTML page: self-contained, no script, no request."""

from collections.abc import Sequence
from html import escape

from dmedge.evidence.charts import Point, size_chart
from dmedge.evidence.compare import Contender, Contest
from dmedge.evidence.report import page_html
from dmedge.evidence.report_text import bytes_text, chip, figure, milliseconds, section, table
from dmedge.evidence.standing import kept_text


def comparison_page(contest: Contest) -> str:
    """The page as text: a chart and a table for all bundles that are alternatives."""
    arenas: dict[object, list[Contender]] = {}
    for contender in contest.contenders:
        arenas.setdefault(contender.arena, []).append(contender)
    notes = "".join(f'<p class="lead">{escape(note)}.</p>' for note in contest.notes)
    header = f'<header><p class="eyebrow">dmedge evidence</p><h1>Bundles compared</h1>{notes}</header>'
    return page_html("bundles compared", header + "".join(_section(contest, found) for found in arenas.values()))


def _section(contest: Contest, rivals: Sequence[Contender]) -> str:
    rows = []
    for rival in rivals:
        row, beaten_by = rival.standing, contest.beaten_by(rival)
        times = "".join(f"{milliseconds(ms)}<small>{escape(str(p))}</small>" for p, ms in rival.latency_ms.items())
        rows.append(
            [
                f"{escape(row.name)}<small>{row.digest[:12]}, {escape(row.runtime)}</small>",
                f"beaten by {escape(', '.join(beaten_by))}" if beaten_by else "<b>on the front</b>",
                bytes_text(row.program_bytes),
                f"{figure(row.recall_at_10)}<small>keeps {escape(kept_text(row.kept))}</small>",
                "" if row.worst_language is None else f"{escape(row.worst_language)} {figure(row.worst_kept)}",
                times or "not timed",
                chip(row.verdict),
            ]
        )
    names = ["", "", "programs", "recall@10", "worst language keeps", "picture and text, p50", ""]
    note = (
        "On the front: no other is at least as small, as good and as quick, and better in one of them. Grey: beaten. "
        "Whiskers: the interval of what is kept of the baseline's recall, at its recall."
    )
    title = f"For {escape(str(rivals[0].standing.target))}, judged on {escape(rivals[0].standing.data)}"
    return section(title, _chart(contest, rivals) + table(names, rows), note=note)


def _chart(contest: Contest, rivals: Sequence[Contender]) -> str:
    """Size against recall; those that are beaten in the colour of baselines. Empty for bundles that decide."""
    points = []
    for rival in rivals:
        row, kept = rival.standing, rival.standing.kept
        if row.recall_at_10 is not None:
            scale = row.recall_at_10 / kept.value if kept.value else None
            low, high = (None if end is None or scale is None else end * scale for end in (kept.low, kept.high))
            times = f" · {min(rival.latency_ms.values()):.3g} ms" if rival.latency_ms else ""
            is_beaten = bool(contest.beaten_by(rival))
            points.append(Point(row.name + times, row.program_bytes / 1e6, row.recall_at_10, low, high, is_beaten))
    return size_chart(points, rivals[0].standing.chance_at_10 or 0.0) if points else ""
