"""The training curve as one picture: losses, evaluation, learning rate."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmedge.errors import require
from dmedge.training.summary import best_row, is_loss, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

# The colours of the report (dmedge.evidence.report_style), for paper.
INK, MUTED, GRID, CARD, ACCENT = "#1d2433", "#667085", "#e2e0d8", "#fffefb", "#0f766e"
HUES = ("#4c78a8", "#e45756", "#f58518", "#b279a2", "#54a24b", "#12a5a5", "#8d7b68")

# Numbers of a row that are neither a loss nor an evaluation.
ACCOUNTS = frozenset(
    (
        *("step", "epoch", "seconds", "images", "texts", "images_per_s", "texts_per_s", "waiting_share"),
        *("learning_rate", "grad_norm", "scale", "bias"),
    )
)
FIRST = ("recall_at_10", "recall_at_1", "worst_language_recall_at_10")  # the metrics that are drawn before others
MAX_METRICS = 6
LOG_SPAN = 10.0  # largest loss over smallest, from which the axis is logarithmic
SMOOTH_FROM = 100  # points of a line, from which its running mean is drawn over it
HEIGHTS = {"loss": 3.2, "evaluation": 2.6, "learning rate": 1.1}  # inches


def draw_curve(rows: Rows, out: Path, *, name: str = "") -> None:
    """Write the curve of a run as a PNG, whole or not at all; nothing is written for a run without numbers.

    Args:
        rows: of the run's log, in the order of their steps; None stands for a number that was none.
        name: of the run [default: that of the folder of `out`, without ".log"].

    Raises:
        DmedgeError: matplotlib is not installed.
    """
    require("matplotlib.figure", "train")
    lines = {panel: found for panel, found in _panels(rows).items() if found}
    if not lines:
        return
    figure = _figure(lines, name or out.resolve().parent.name.removesuffix(".log"), rows)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=144, facecolor=CARD)
    write_atomically(out, stream.getvalue())


Line = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values


def _panels(rows: Rows) -> dict[str, dict[str, Line]]:
    """Lines by panel and name."""
    names = dict.fromkeys(name for row in rows for name in row)
    losses = [name for name in names if is_loss(name)]
    metrics = [name for name in names if not is_loss(name) and name not in ACCOUNTS and "/" not in name]
    metrics.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    chosen = {"loss": losses, "evaluation": metrics[:MAX_METRICS], "learning rate": ["learning_rate"]}
    found = {panel: {name: _line(rows, name) for name in wanted} for panel, wanted in chosen.items()}
    return {panel: {name: line for name, line in lines.items() if len(line[0])} for panel, lines in found.items()}


def _line(rows: Rows, name: str) -> Line:
    known = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    points = np.array(known, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[:, 0], points[:, 1]


def _figure(panels: Mapping[str, Mapping[str, Line]], name: str, rows: Rows) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [HEIGHTS[panel] for panel in panels]
    figure = Figure(figsize=(9.0, sum(heights) + 1.0), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(name, x=0.02, ha="left", color=INK, fontsize=15, fontweight="bold")
    for axis, (panel, lines) in zip(axes, panels.items(), strict=True):
        _style(axis, panel)
        if panel == "loss":
            _draw_losses(axis, lines)
        elif panel == "evaluation":
            _draw_metrics(axis, lines, rows)
        else:
            _draw_learning_rate(axis, *lines["learning_rate"])
    axes[-1].set_xlabel("step", color=MUTED, fontsize=10)
    last = max(float(steps[-1]) for lines in panels.values() for steps, _ in lines.values())
    axes[-1].set_xlim(0, last * 1.02 or 1)
    return figure


def _style(axis: "Axes", title: str) -> None:
    axis.set_facecolor(CARD)
    axis.set_title(title, loc="left", color=INK, fontsize=11)
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=9, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def _draw_losses(axis: "Axes", lines: Mapping[str, Line]) -> None:
    hues = iter(HUES * len(lines))
    for name, (steps, values) in lines.items():
        is_sum = name == "loss"
        colour = ACCENT if is_sum else next(hues)
        label, width = name.removeprefix("loss/"), 2.2 if is_sum else 1.4
        style: dict[str, Any] = {"color": colour, "zorder": 3 if is_sum else 2, "ms": 3}
        if len(steps) >= SMOOTH_FROM:
            axis.plot(steps, values, lw=0.7, alpha=0.22, **style)
            values = _running_mean(values, len(values) // 50)
        axis.plot(steps, values, lw=width, label=f"{label}  {values[-1]:.3g}", marker=_marker(steps), **style)
    every = np.concatenate([values for _, values in lines.values()])
    if every.min() > 0 and every.max() > LOG_SPAN * every.min():
        _make_logarithmic(axis)
    elif every.min() >= 0:
        axis.set_ylim(bottom=0)
    _legend(axis)


def _draw_metrics(axis: "Axes", lines: Mapping[str, Line], rows: Rows) -> None:
    for index, (name, (steps, values)) in enumerate(lines.items()):
        colour = ACCENT if index == 0 else HUES[index - 1]
        label = f"{name.replace('_', ' ').replace(' at ', '@')}  {values[-1]:.3f}"
        axis.plot(steps, values, color=colour, lw=2.0 if index == 0 else 1.4, marker="o", ms=3, label=label)
    axis.set_ylim(0, 1.12 * max(float(values.max()) for _, values in lines.values()) or 1)
    name = next(iter(lines))
    best = best_row(rows, name)
    if best is not None:
        axis.plot(best["step"], best[name], "o", ms=9, mfc="none", mec=ACCENT, mew=1.5)
        is_late = best["step"] > rows[-1]["step"] / 2
        place: dict[str, Any] = {
            "xytext": (-8 if is_late else 8, 6),
            "ha": "right" if is_late else "left",
            "va": "bottom",
        }
        text = f"best {best[name]:.3f}, step {best['step']:g}"
        spot = (best["step"], best[name])
        axis.annotate(text, spot, textcoords="offset points", color=ACCENT, fontsize=9, **place)
    _legend(axis)


def _draw_learning_rate(axis: "Axes", steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    peak = float(values.max())
    axis.plot(steps, values, color=MUTED, lw=1.6, marker=_marker(steps), ms=3)
    axis.set_ylim(0, 1.15 * peak or 1)
    axis.set_yticks([0, peak], ["0", f"{peak:.3g}"])


def _marker(steps: NDArray[np.float64]) -> str:
    """Dots where the points are few: a single one would not be seen as a line."""
    return "o" if len(steps) <= 30 else ""


def _legend(axis: "Axes") -> None:
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=1.2, **place)


def _make_logarithmic(axis: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_title(f"{axis.get_title(loc='left')}, logarithmic", loc="left", color=INK, fontsize=11)


def _running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Mean of each value and its neighbours up to `reach` away; the ends have fewer."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    mean: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean
