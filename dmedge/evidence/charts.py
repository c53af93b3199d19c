"""Charts as inline SVG: no script, no font, no request; colours come from the page's variables."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.language_chart import FAMILIES
from dmedge.evidence.svg import caption, log_ticks, mark, stroke, svg, ticks

BINS = 90


@dataclass(frozen=True, slots=True)
class Point:
    """One artifact in the size chart."""

    name: str
    megabytes: float
    recall: float
    low: float | None
    high: float | None
    is_baseline: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Recall of both sides over the strength of one perturbation."""

    name: str
    strengths: tuple[int, ...]  # from 0, the clean item
    artifact: tuple[float, ...]
    baseline: tuple[float, ...]
    apart: tuple[tuple[float, float], ...]  # ends of the interval of artifact less baseline


@dataclass(frozen=True, slots=True)
class Node:
    """One artifact in the lineage."""

    digest: str
    name: str
    caption: str
    kind: str
    parents: tuple[str, ...]  # digests


def size_chart(points: Sequence[Point], chance: float) -> str:
    """Program size against recall at 10; whiskers are intervals."""
    width, height, left, bottom, top, right = 640.0, 320.0, 56.0, 44.0, 16.0, 130.0
    x_end = 1.12 * max(point.megabytes for point in points)
    y_end = min(1.0, 1.15 * max(point.high or point.recall for point in points))

    def x(megabytes: float) -> float:
        return left + megabytes / x_end * (width - left - right)

    def y(recall: float) -> float:
        return height - bottom - recall / y_end * (height - top - bottom)

    parts = [stroke(left, y(tick), width - right, y(tick), "grid") for tick in ticks(y_end)]
    parts += [caption(left - 8, y(tick) + 4, f"{tick:g}", "tick end") for tick in ticks(y_end)]
    parts += [caption(x(tick), height - bottom + 18, f"{tick:g}", "tick middle") for tick in ticks(x_end)]
    parts.append(stroke(left, y(chance), width - right, y(chance), "chance"))
    parts.append(caption(width - right + 8, y(chance) + 4, f"chance {chance:.4f}", "tick"))
    parts.append(caption((left + width - right) / 2, height - 6, "programs, MB", "axis middle"))
    parts.append(caption(14, top - 4, "recall@10, text to image", "axis"))
    for is_baseline in (True, False):
        parts += _labelled_dots([point for point in points if point.is_baseline == is_baseline], x, y)
    return svg(width, height, parts, "Program size against recall at 10")


def _labelled_dots(points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """Dots with whiskers, and their names in rows below, the rightmost first, so that no line crosses a name."""
    parts, row = [], 0.0
    for point in sorted(points, key=lambda point: -point.megabytes):
        shade, left, middle = "baseline" if point.is_baseline else "artifact", x(point.megabytes), y(point.recall)
        row = max(middle + 26, row + 15)
        parts.append(stroke(left, middle, left, row - 4, "grid"))
        if point.low is not None and point.high is not None:
            parts.append(stroke(left, y(point.low), left, y(point.high), f"whisker {shade}"))
        title = escape(f"{point.name}: {point.megabytes:.2f} MB, recall@10 {point.recall:.4f}")
        dot = f'<circle class="dot {shade}" cx="{left:.1f}" cy="{middle:.1f}" r="4.5"><title>{title}</title></circle>'
        parts += [dot, caption(left + 5, row, point.name, "label")]
    return parts


def interval_chart(line: Mapping[str, Any]) -> str:
    """A budget line as a small picture: interval, value, and the limit as an upright stroke."""
    known = [line[key] for key in ("limit", "value", "low", "high") if line[key] is not None]
    margin = 0.15 * (max(known) - min(known)) or 0.1 * max(abs(known[0]), 0.1)
    start, end = float(min(known) - margin), float(max(known) + margin)
    shade = {"pass": "pass", "fail": "fail"}.get(line["verdict"], "unsure")

    def x(value: float) -> float:
        return 8 + (value - start) / (end - start) * 164

    parts = [stroke(4, 12, 176, 12, "grid")]
    if line["low"] is not None and line["high"] is not None:
        parts.append(stroke(x(line["low"]), 12, x(line["high"]), 12, f"span {shade}"))
    if line["value"] is not None:
        parts.append(f'<circle class="value {shade}" cx="{x(line["value"]):.1f}" cy="12" r="4"/>')
    parts.append(stroke(x(line["limit"]), 3, x(line["limit"]), 21, "limit"))
    return svg(180, 24, parts, f"limit {line['limit']:g}, found {line['value']}")


def sensitivity_chart(errors: Mapping[str, float], kept: Set[str], scheme: str, kept_as: str) -> str:
    """One bar per group of modules, as long as its error in `scheme`; those in `kept` are marked."""
    row, left, width, right, top = 17.0, 184.0, 520.0, 90.0, 4.0
    longest = max(errors.values()) or 1.0
    parts = []
    for index, (group, error) in enumerate(errors.items()):
        y, shade = top + row * index, " worst" if group in kept else ""
        parts.append(caption(left - 8, y + 12, group, f"label end{shade}"))
        parts.append(
            f'<rect class="family{0 if group in kept else len(FAMILIES) - 1}" x="{left:.1f}" y="{y + 3:.1f}" rx="2" '
            f'width="{max(1.0, error / longest * (width - left - right)):.1f}" height="{row - 6:.0f}"/>'
        )
        words = f"{error:.2e}" + (f", {kept_as}" if group in kept else "")
        parts.append(caption(left + error / longest * (width - left - right) + 6, y + 12, words, f"tick{shade}"))
    return svg(width, top + row * len(errors) + 4, parts, f"Sensitivity of {len(errors)} groups of modules to {scheme}")


def latency_chart(artifact_ms: NDArray[np.float64], fp32_ms: NDArray[np.float64]) -> str:
    """Distributions of both sides over one logarithmic axis that holds every sample."""
    width, height, bottom, top = 520.0, 150.0, 34.0, 30.0
    sides = {"baseline": fp32_ms.ravel(), "artifact": artifact_ms.ravel()}
    low = 0.9 * min(float(samples.min()) for samples in sides.values())
    high = 1.1 * max(float(samples.max()) for samples in sides.values())
    edges = np.geomspace(low, high, BINS + 1)

    def x(milliseconds: float) -> float:
        return 8 + float(np.log(milliseconds / low) / np.log(high / low)) * (width - 16)

    parts = [stroke(8, height - bottom, width - 8, height - bottom, "grid")]
    parts += [caption(x(tick), height - bottom + 16, f"{tick:g}", "tick middle") for tick in log_ticks(low, high)]
    parts.append(caption(width - 8, height - 4, "ms, logarithmic", "tick end"))
    densities = {side: _density(samples, edges) for side, samples in sides.items()}
    tallest = max(float(density.max()) for density in densities.values())
    for side, samples in sides.items():
        corners = [x(centre) for centre in np.sqrt(edges[:-1] * edges[1:]).tolist()]
        parts.append(_area(densities[side] / tallest, corners, height - bottom, height - bottom - top, side))
        median = float(np.median(samples))
        parts.append(stroke(x(median), top - 6, x(median), height - bottom, f"median {side}"))
        words = "this bundle" if side == "artifact" else "fp32"
        parts.append(
            caption(x(median) + 4, top - (14 if side == "artifact" else 0), f"{words} {median:.3g}", f"tick {side}")
        )
    return svg(width, height, parts, "Distribution of latency")


def curve_chart(curve: Curve, end: float) -> str:
    """Two lines, told apart by dashes and marks as well as by colour; 0 to `end`.

    Whiskers stand where the artifact would be at either end of the interval of its distance to the baseline.
    """
    width, height, left, bottom, top, right = 300.0, 170.0, 38.0, 26.0, 12.0, 12.0

    def x(strength: float) -> float:
        return left + strength / max(curve.strengths) * (width - left - right)

    def y(recall: float) -> float:
        return height - bottom - min(max(recall, 0.0), end) / end * (height - top - bottom)

    parts = [stroke(left, y(tick), width - right, y(tick), "grid") for tick in ticks(end)]
    parts += [caption(left - 6, y(tick) + 4, f"{tick:g}", "tick end") for tick in ticks(end)]
    parts += [
        caption(x(step), height - bottom + 16, f"{step}" if step else "clean", "tick middle")
        for step in curve.strengths
    ]
    for step, theirs, (low, high) in zip(curve.strengths, curve.baseline, curve.apart, strict=True):
        parts.append(stroke(x(step), y(theirs + low), x(step), y(theirs + high), "whisker artifact"))
    for side, values in (("baseline", curve.baseline), ("artifact", curve.artifact)):
        points = [(x(step), y(value)) for step, value in zip(curve.strengths, values, strict=True)]
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        parts.append(f'<path class="curve {side}" d="M{path}"/>')
        parts += [mark(across, down, side) for across, down in points]
    words = "; ".join(
        f"{'clean' if step == 0 else f'strength {step}'}: {mine:.3f}, baseline {theirs:.3f}"
        for step, mine, theirs in zip(curve.strengths, curve.artifact, curve.baseline, strict=True)
    )
    return svg(width, height, parts, f"Recall at 10 under {curve.name}. {words}")


def lineage_chart(nodes: Sequence[Node]) -> str:
    """Artifacts from left to right, each with lines from its parents."""
    box, tall, gap_x, gap_y = 190.0, 48.0, 60.0, 20.0
    depth = _depths(nodes)
    columns = [[node for node in nodes if depth[node.digest] == level] for level in range(max(depth.values()) + 1)]
    rows = max(len(column) for column in columns)
    height = rows * (tall + gap_y) + gap_y
    place = {
        node.digest: (
            16 + level * (box + gap_x),
            (height - len(column) * (tall + gap_y) + gap_y) / 2 + i * (tall + gap_y),
        )
        for level, column in enumerate(columns)
        for i, node in enumerate(column)
    }
    parts = []
    for node in nodes:
        x, y = place[node.digest]
        for parent in node.parents:
            if parent in place:
                start_x, start_y = place[parent][0] + box, place[parent][1] + tall / 2
                bend = (start_x + x) / 2
                curve = f"C{bend:.1f} {start_y:.1f} {bend:.1f} {y + tall / 2:.1f} {x:.1f} {y + tall / 2:.1f}"
                parts.append(f'<path class="edge" d="M{start_x:.1f} {start_y:.1f}{curve}"/>')
    for node in nodes:
        x, y = place[node.digest]
        parts.append(f'<rect class="node {node.kind}" x="{x:.1f}" y="{y:.1f}" width="{box}" height="{tall}" rx="8"/>')
        parts.append(caption(x + 12, y + 20, node.name, "label strong"))
        parts.append(caption(x + 12, y + 37, node.caption, "tick"))
    return svg(16 + len(columns) * (box + gap_x) - gap_x + 16, height, parts, "Lineage")


def _depths(nodes: Sequence[Node]) -> dict[str, int]:
    known = {node.digest: node for node in nodes}

    def depth(digest: str) -> int:
        return 1 + max((depth(parent) for parent in known[digest].parents if parent in known), default=-1)

    return {digest: depth(digest) for digest in known}


def _density(samples: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.histogram(samples, edges)[0].astype(np.float64)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    smooth: NDArray[np.float64] = np.convolve(counts, kernel, mode="same") / max(1, len(samples))
    return smooth


def _area(density: NDArray[np.float64], corners: Sequence[float], floor: float, tall: float, shade: str) -> str:
    outline = [f"L{x:.1f} {floor - share * tall:.1f}" for x, share in zip(corners, density.tolist(), strict=True)]
    path = f"M{corners[0]:.1f} {floor:.1f}{''.join(outline)}L{corners[-1]:.1f} {floor:.1f}Z"
    return f'<path class="area {shade}" d="{path}"/>'
