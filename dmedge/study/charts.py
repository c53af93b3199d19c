"""Line charts of a study as inline SVG, in the colours of the page."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460.0, 240.0, 44.0, 118.0, 14.0, 40.0
COLOURS = 7  # of the page, after which dashes begin
GAP = 12.0  # between two names beside a chart


def line_chart(series: Mapping[str, Points], x_label: str, y_label: str, *, x_ticks: Sequence[str] = ()) -> str:
    """One line for every name, over a vertical axis from 0.

    Args:
        series: name -> (x, y), ascending in x; all lines have the same x.
        x_ticks: text below each x, where the numbers themselves say less.
    """
    xs = [x for x, _ in next(iter(series.values()))]
    top = max(max(y for _, y in points) for points in series.values()) * 1.08 or 1.0
    span = (xs[-1] - xs[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - xs[0]) / span * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [_axis(place(xs[0], tick)[1], f"{tick:.2f}") for tick in (0.0, top / 4, top / 2, 3 * top / 4)]
    for x, name in zip(xs, x_ticks or [f"{x:g}" for x in xs], strict=True):
        parts.append(
            f'<text class="tick middle" x="{place(x, 0)[0]:.1f}" y="{HEIGHT - BOTTOM + 16:.0f}">{escape(name)}</text>'
        )
    parts.append(
        f'<text class="axis middle" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6:.0f}">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="axis" x="4" y="10">{escape(y_label)}</text>')
    ends = {name: place(*points[-1])[1] for name, points in series.items()}
    labels = _apart(ends)
    for number, (name, points) in enumerate(series.items()):
        colour, dash = f"var(--f{number % COLOURS})", ' stroke-dasharray="5 3"' if number >= COLOURS else ""
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        values = ", ".join(f"{y:.3f}" for _, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}>'
            f"<title>{escape(name)}: {values}</title></polyline>"
            f'<text x="{WIDTH - RIGHT + 8:.0f}" y="{labels[name] + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    label = f"{y_label} over {x_label}: {', '.join(series)}"
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{1.2 * WIDTH:.0f}px">{"".join(parts)}</svg>'
    )


def _axis(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT:.0f}" y1="{y:.1f}" x2="{WIDTH - RIGHT:.0f}" y2="{y:.1f}"/>'
        f'<text class="tick end" x="{LEFT - 6:.0f}" y="{y + 4:.1f}">{text}</text>'
    )


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Heights of the names, near the ends of their lines and never over each other."""
    placed: dict[str, float] = {}
    last = -GAP
    for name in sorted(ends, key=ends.__getitem__):
        last = max(ends[name], last + GAP)
        placed[name] = last
    over = last - (HEIGHT - 8)
    return {name: y - max(0.0, over) for name, y in placed.items()}
