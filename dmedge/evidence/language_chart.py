"""Languages as bars, a row for each, coloured by script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dmedge.evidence.svg import caption, stroke, svg, ticks

# Scripts by family, since nobody tells thirty colours apart; the order is that of the colours.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Latin": ("Latn",),
    "Cyrillic": ("Cyrl",),
    "Arabic": ("Arab",),
    "Indic": ("Deva", "Beng", "Gujr", "Guru", "Knda", "Mlym", "Orya", "Sinh", "Taml", "Telu"),
    "East Asian": ("Hans", "Hant", "Jpan", "Kore"),
    "Southeast Asian": ("Khmr", "Laoo", "Mymr", "Thai"),
    "other scripts": (),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One language in a chart: a figure of the artifact, beside that of its baseline."""

    tag: str
    name: str
    script: str
    value: float
    baseline: float
    floor: float | None  # the least value that a limit allows, if there is one
    change: str  # what is kept or lost, and its interval, in words
    detail: str  # shown on hover
    is_worst: bool


def family_of(script: str) -> int:
    """Index into FAMILIES."""
    for index, scripts in enumerate(FAMILIES.values()):
        if script in scripts:
            return index
    return len(FAMILIES) - 1


def language_charts(bars: Sequence[Bar], what: str) -> str:
    """Keys and one chart, or two side by side where there are many languages.

    Args:
        bars: in the order that they are shown in.
        what: the figure, for those who cannot see it.
    """
    end = min(1.0, 1.04 * max(max(bar.value, bar.baseline) for bar in bars)) or 1.0
    half = (len(bars) + 1) // 2 if len(bars) > 8 else len(bars)
    charts = "".join(f"<div>{_chart(part, end, what)}</div>" for part in (bars[:half], bars[half:]) if part)
    present = {family_of(bar.script) for bar in bars}
    keys = "".join(
        f'<span class="key"><i style="background:var(--f{index})"></i>{name}</span>'
        for index, name in enumerate(FAMILIES)
        if index in present
    )
    return f'{keys}<div class="pair">{charts}</div>'


def _chart(bars: Sequence[Bar], end: float, what: str) -> str:
    """One bar per language, with ticks where the baseline and the floor stand; 0 to `end`."""
    row, left, width, right, top = 17.0, 194.0, 566.0, 154.0, 20.0
    span = width - left - right
    height = top + row * len(bars) + 4
    grid = [left + tick / end * span for tick in ticks(end)]
    parts = [stroke(x, top - 4, x, height, "grid") for x in grid]
    parts += [caption(x, top - 8, f"{tick:g}", "tick middle") for x, tick in zip(grid, ticks(end), strict=True)]
    for index, bar in enumerate(bars):
        y, shade = top + row * index, " worst" if bar.is_worst else ""
        name = bar.name if len(bar.name) <= 23 else f"{bar.name[:22]}…"
        marks = [(left + bar.baseline / end * span, "mark")]
        if bar.floor is not None:
            marks.append((left + max(bar.floor, 0.0) / end * span, "floor"))
        parts.append(
            f'<g class="row"><title>{escape(bar.detail)}</title>'
            f'<rect class="hit" x="0" y="{y:.1f}" width="{width:.0f}" height="{row:.0f}"/>'
            + caption(left - 8, y + 12, f"{name}  {bar.tag}", f"label end{shade}")
            + f'<rect class="family{family_of(bar.script)}" x="{left:.1f}" y="{y + 3:.1f}" rx="2" '
            f'width="{max(1.0, bar.value / end * span):.1f}" height="{row - 6:.0f}"/>'
            + "".join(stroke(x, y + 1, x, y + row - 1, kind) for x, kind in marks)
            + caption(width - right + 8, y + 12, bar.change, f"tick{shade}")
            + "</g>"
        )
    return svg(width, height, parts, f"{what} of {len(bars)} languages")
