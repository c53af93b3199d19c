"""What charts are drawn from: lines, words and marks of inline SVG, and round numbers along an axis."""

from collections.abc import Iterable
from html import escape

import numpy as np


def stroke(x1: float, y1: float, x2: float, y2: float, shade: str) -> str:
    """A straight line of the class `shade`."""
    return f'<line class="{shade}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def caption(x: float, y: float, words: str, shade: str) -> str:
    """Words that begin at a point, or end or centre there by their class."""
    return f'<text class="{shade}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def svg(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A chart that scales with the page, with `label` for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{width * 1.25:.0f}px">{"".join(parts)}</svg>'
    )


def mark(x: float, y: float, side: str) -> str:
    """A dot, or a square that still shows around a dot at the same place."""
    if side == "artifact":
        return f'<circle class="dot artifact" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<rect class="dot baseline" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'


def ticks(end: float) -> list[float]:
    """Round numbers from 0 to `end`, four to eight of them."""
    step = 10.0 ** np.floor(np.log10(end))
    for share in (1.0, 0.5, 0.25, 0.2, 0.1):
        if end / (step * share) >= 4:
            step *= share
            break
    return [round(float(value), 10) for value in np.arange(0, end + step * 1e-6, step)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive numbers; powers alone if those are many."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found = [round(digit * 10.0**power, 12) for power in powers for digit in (1, 2, 5)]
    found = [tick for tick in found if low <= tick <= high]
    return found if len(found) <= 10 else [tick for tick in found if f"{tick:e}".startswith("1.")]
