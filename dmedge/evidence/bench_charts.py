"""Charts of a benchmark's further passes, in the manner of `charts`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dmedge.evidence.svg import caption, log_ticks, mark, stroke, svg, ticks

NAME_LETTERS = 34
LETTER = 7.0  # width of one, about


def operator_chart(operators: Sequence[Mapping[str, Any]], program: str) -> str:
    """One bar per operator, as long as its share of the time of all."""
    row, left, width, right, top = 17.0, 230.0, 620.0, 250.0, 4.0
    longest = max((operator["share"] for operator in operators), default=0.0) or 1.0
    parts = []
    for index, operator in enumerate(operators):
        y, end = top + row * index, operator["share"] / longest * (width - left - right)
        said = f"{_microseconds(operator['us'])}, {100 * operator['share']:.0f} %, {operator['kind']}"
        parts.append(
            f"<g><title>{escape(operator['name'])}: {escape(said)}, {operator['calls']:g} calls a run</title>"
            + caption(left - 8, y + 12, _short(operator["name"]), "label end")
            + f'<rect class="family0" x="{left:.1f}" y="{y + 3:.1f}" rx="2" width="{max(1.0, end):.1f}" '
            f'height="{row - 6:.0f}"/>' + caption(left + end + 6, y + 12, said, "tick") + "</g>"
        )
    heard = "; ".join(f"{operator['name']} {100 * operator['share']:.0f} %" for operator in operators)
    return svg(width, top + row * len(operators) + 4, parts, f"Hottest operators of {program}: {heard}")


def roofline_chart(peaks: Mapping[str, Any], programs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Both axes logarithmic: work per byte against work per second, below the roofs of float32 and of int8.

    Sides are told apart by the form of their marks as well as by colour, the roofs by dashes and names.
    """
    points = [
        (side, name, row) for side, rows in programs.items() for name, row in rows.items() if row["macs_per_byte"]
    ]
    width, height, left, bottom, top, right = 640.0, 340.0, 58.0, 44.0, 22.0, 128.0
    roofs = {kind: peaks[f"{kind}_macs_per_s"] / 1e9 for kind in ("float32", "int8")}
    slope = peaks["bytes_per_s"] / 1e9 if peaks["bytes_per_s"] else None
    ridge = [roof / slope for roof in roofs.values()] if slope else []
    across = [row["macs_per_byte"] for _, _, row in points] + ridge
    up = [row["macs_per_s"] / 1e9 for _, _, row in points] + [*roofs.values()]
    x = _LogScale(min(across, default=1.0) / 2, max(across, default=10.0) * 2, left, width - right)
    y = _LogScale(min(up) / 2, max(up) * 1.5, height - bottom, top)
    parts = [stroke(left, y(tick), width - right, y(tick), "grid") for tick in y.ticks]
    parts += [caption(left - 8, y(tick) + 4, f"{tick:g}", "tick end") for tick in y.ticks]
    parts += [caption(x(tick), height - bottom + 18, f"{tick:g}", "tick middle") for tick in x.ticks]
    parts.append(caption((left + width - right) / 2, height - 6, "multiply-accumulates per byte", "axis middle"))
    parts.append(caption(4, 12, "GMAC/s", "axis"))
    for kind, roof in roofs.items():
        parts += _roof(x, y, (kind, roof), slope)
    for side, name, row in points:
        place = x(row["macs_per_byte"]), y(row["macs_per_s"] / 1e9)
        words = f"{name}, {side}: {row['macs_per_byte']:.3g} MACs per byte, {row['macs_per_s'] / 1e9:.3g} GMAC/s"
        shade = "artifact" if side == "artifact" else "baseline"
        parts.append(f"<g><title>{escape(words)}</title>{mark(*place, shade)}</g>")
        parts.append(_beside(place, name, shade, width - right))
    heard = [f"{name} of {side} at {100 * row['of_roof']:.0f} % of its roof" for side, name, row in points]
    heard = [f"peak {kind} {roof:.3g} GMAC/s" for kind, roof in roofs.items()] + heard
    return svg(width, height, parts, f"Roofline: {'; '.join(heard)}")


def sustained_chart(sustained: Mapping[str, Any]) -> str:
    """The median of every window from 0 on, with the height from which the last one counts as throttled."""
    rows, found = sustained["windows"], sustained["slowdown"]
    width, height, left, bottom, top, right = 640.0, 240.0, 58.0, 44.0, 22.0, 128.0
    limit = rows[0]["median_ms"] * found["limit"]
    end: float = 1.15 * max(limit, *(row["median_ms"] for row in rows))
    last: float = rows[-1]["start_s"] + rows[-1]["elapsed_s"]
    floor = height - bottom

    def x(seconds: float) -> float:
        return left + seconds / last * (width - left - right)

    def y(milliseconds: float) -> float:
        return floor - milliseconds / end * (floor - top)

    unit, per = ("minutes", 60.0) if last >= 120 else ("seconds", 1.0)
    parts = [stroke(left, y(tick), width - right, y(tick), "grid") for tick in ticks(end)]
    parts += [caption(left - 8, y(tick) + 4, f"{tick:g}", "tick end") for tick in ticks(end)]
    parts += [caption(x(tick * per), floor + 18, f"{tick:g}", "tick middle") for tick in ticks(last / per)]
    parts.append(caption((left + width - right) / 2, height - 6, unit, "axis middle"))
    parts.append(caption(4, 12, "median, ms", "axis"))
    parts.append(stroke(left, y(limit), width - right, y(limit), "chance"))
    parts.append(caption(width - right + 8, y(limit) + 4, f"throttled {limit:.3g}", "tick"))
    points = [(x(row["start_s"] + row["elapsed_s"] / 2), y(row["median_ms"])) for row in rows]
    parts.append(f'<path class="curve artifact" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>')
    parts += [
        f"<g><title>{_window_words(row)}</title>{mark(*point, 'artifact')}</g>"
        for row, point in zip(rows, points, strict=True)
    ]
    heard = "; ".join(map(_window_words, rows))
    return svg(width, height, parts, f"{sustained['case']} without a pause, {found['verdict']}: {heard}")


def _window_words(row: Mapping[str, Any]) -> str:
    units = {"temperature_c": "C", "frequency_mhz": "MHz"}
    state = "".join(f", {row[key]:g} {unit}" for key, unit in units.items() if row[key] is not None)
    return f"from {row['start_s']:.3g} s {row['median_ms']:.3g} ms{state}"


def _beside(place: tuple[float, float], name: str, shade: str, end: float) -> str:
    """A name to the right of its mark, or to the left where it would run over `end`."""
    if place[0] + 9 + LETTER * len(name) < end:
        return caption(place[0] + 9, place[1] + (4 if shade == "artifact" else -6), name, f"tick {shade}")
    return caption(place[0] - 9, place[1] + (16 if shade == "artifact" else -6), name, f"tick end {shade}")


@dataclass(frozen=True, slots=True)
class _LogScale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + math.log(value / self.low) / math.log(self.high / self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high)


def _roof(x: _LogScale, y: _LogScale, named: tuple[str, float], slope: float | None) -> list[str]:
    """A flat roof, and the slope of memory that leads up to it."""
    kind, roof = named
    shade = "roof" if kind == "float32" else "roof dashed"
    start = max(x.low, roof / slope) if slope else x.low
    parts = [stroke(x(start), y(roof), x.end, y(roof), shade)]
    parts.append(caption(x.end + 8, y(roof) + 4, f"{kind} {roof:.3g}", "label"))
    if slope and start > x.low:
        foot = max(x.low, y.low / slope)
        parts.append(stroke(x(foot), y(foot * slope), x(start), y(roof), shade))
    return parts


def _microseconds(value: float) -> str:
    return f"{value:,.0f} us" if value >= 100 else f"{value:.3g} us"


def _short(name: str) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
