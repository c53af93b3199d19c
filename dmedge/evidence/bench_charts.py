"""Charts of a benchmark's further passes, in the manner of `charts`."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dmedge.evidence.charts import _svg, _text

NAME_LETTERS = 38


def operator_chart(operators: Sequence[Mapping[str, Any]], program: str) -> str:
    """One bar per operator, as long as its share of the time of all."""
    row, left, width, right, top = 17.0, 250.0, 520.0, 104.0, 4.0
    longest = max((operator["share"] for operator in operators), default=0.0) or 1.0
    parts = []
    for index, operator in enumerate(operators):
        y, end = top + row * index, operator["share"] / longest * (width - left - right)
        words = f"{operator['us']:.3g} us, {100 * operator['share']:.0f} %"
        parts.append(
            f"<g><title>{escape(operator['name'])}, {escape(operator['kind'])}: {words}, "
            f"{operator['calls']:g} calls a run</title>"
            + _text(left - 8, y + 12, _short(operator["name"]), "label end")
            + f'<rect class="family0" x="{left:.1f}" y="{y + 3:.1f}" rx="2" width="{max(1.0, end):.1f}" '
            f'height="{row - 6:.0f}"/>' + _text(left + end + 6, y + 12, words, "tick") + "</g>"
        )
    heard = "; ".join(f"{operator['name']} {100 * operator['share']:.0f} %" for operator in operators)
    return _svg(width, top + row * len(operators) + 4, parts, f"Hottest operators of {program}: {heard}")


def _short(name: str) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
