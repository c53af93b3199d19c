"""Whatever differs between two encoders on the same inputs, with intervals that draw emoji."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.bands import half_widths
from dmedge.evidence.bootstrap import draw_weights
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.figures import Doubles, Figures
from dmedge.evidence.retrieval import Ints

_HELD = 1 << 22  # weights of inputs held at once, i.e. 32 MiB


class Interval(NamedTuple):
    """A figure, and the ends of its interval; an end that is NaN is unknown."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The three by name, rounded to what a reader can use; None where unknown."""
        return {name: _plain(number) for name, number in self._asdict().items()}


@dataclass(frozen=True, slots=True)
class Paired:
    """One figure of both sides on the same inputs; NaN where the inputs have none."""

    artifact: float
    baseline: float
    change: Interval  # artifact less baseline

    @property
    def drop(self) -> Interval:
        """Baseline less artifact."""
        value, low, high = self.change
        return Interval(0.0 - value, 0.0 - high, 0.0 - low)

    def to_json(self) -> dict[str, Any]:
        """The two figures and their difference; None where unknown."""
        sides = {"artifact": _plain(self.artifact), "baseline": _plain(self.baseline)}
        return sides | {"change": self.change.to_json()}


def worst_drop(of: Sequence[Paired]) -> Interval:
    """The greatest loss of several, whose intervals hold together; an end is unknown as soon as one is."""
    return Interval(
        *(max(ends) if all(map(isfinite, ends)) else nan for ends in zip(*(row.drop for row in of), strict=True))
    )


def compare_figures(
    artifact: Sequence[Figures],
    baseline: Sequence[Figures],
    cluster: Ints,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Paired]:
    """The figures of both sides and percentile intervals of their differences, in draws of clusters.

    Each draw weights the inputs of both sides alike. It is made in parts, so memory stays flat.

    Args:
        artifact: figures of Q inputs.
        baseline: the same figures of the same inputs.
        cluster: [Q] what each input belongs to.

    Source: Field and Welsh 2007, J. R. Stat. Soc. B 69:369 (the cluster bootstrap).
    """
    mine, theirs, draws = _paired_draws(artifact, baseline, cluster, resamples, seed)
    changes = percentile_intervals(mine - theirs, draws, confidence)
    names = [name for figures in artifact for name in figures.names]
    return {
        name: Paired(float(ours), float(other), change)
        for name, ours, other, change in zip(names, mine, theirs, changes, strict=True)
    }


def compare_parts(
    artifact: Sequence[Figures],
    baseline: Sequence[Figures],
    cluster: Ints,
    sizes: Doubles,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[dict[str, Paired]]:
    """As `compare_figures`, of the same figures in each of L parts of the inputs, such as languages.

    The intervals of one figure hold for all parts together.

    Args:
        artifact: L figures of Q inputs, by the same names.
        baseline: the same figures of the same inputs.
        sizes: [L] inputs of each part.
    """
    names = artifact[0].names
    mine, theirs, draws = _paired_draws(artifact, baseline, cluster, resamples, seed)
    found: list[dict[str, Paired]] = [{} for _ in artifact]
    for place, name in enumerate(names):
        of = slice(place, None, len(names))  # this figure, in every part
        changes = simultaneous_intervals(mine[of] - theirs[of], draws[:, of], confidence, sizes)
        for row, ours, other, change in zip(found, mine[of], theirs[of], changes, strict=True):
            row[name] = Paired(float(ours), float(other), change)
    return found


def mean_interval(
    values: NDArray[np.generic],
    cluster: Ints,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Mean of [Q] values of one side, with its percentile interval in draws of clusters."""
    column = np.asarray(values, np.float64)[:, None]
    return percentile_intervals(column.mean(0), mean_draws(cluster, column, resamples, seed), confidence)[0]


def _plain(number: float) -> float | None:
    return round(number, 6) + 0.0 if isfinite(number) else None


def _paired_draws(
    artifact: Sequence[Figures], baseline: Sequence[Figures], cluster: Ints, resamples: int, seed: int
) -> tuple[Doubles, Doubles, Doubles]:
    """[M] figures of each side, and [R, M] differences in draws that weight the inputs of both alike."""
    mine, theirs = (_columns(side, np.ones((1, len(cluster))))[0] for side in (artifact, baseline))
    parts = [
        _columns(artifact, weights) - _columns(baseline, weights)
        for weights in _input_weights(cluster, resamples, seed)
    ]
    return mine, theirs, np.concatenate(parts)


def _columns(side: Sequence[Figures], weights: Doubles) -> Doubles:
    return np.concatenate([figures.of(weights) for figures in side], axis=1)


def _input_weights(cluster: Ints, resamples: int, seed: int) -> Iterator[Doubles]:
    """[R, Q] how often each draw holds each input, in parts."""
    clusters, row = np.unique(cluster, return_inverse=True)
    step = max(1, _HELD // len(row))
    for weights in draw_weights(len(clusters), resamples, seed):
        for start in range(0, len(weights), step):
            yield weights[start : start + step, row].astype(np.float64)


def cluster_sums(cluster: Ints, values: Doubles) -> NDArray[np.float32]:
    """Sums of [Q, M] values over the queries of each cluster, float32 [C, M]."""
    clusters, row = np.unique(cluster, return_inverse=True)
    sums = np.zeros((len(clusters), values.shape[1]))
    np.add.at(sums, row, values)
    return sums.astype(np.float32)


def mean_draws(cluster: Ints, values: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> Doubles:
    """[R, M] means of [Q, M] values, in draws of clusters with replacement; every column sees the same draws."""
    table = cluster_sums(cluster, np.column_stack([values, np.ones(len(values))]))
    sums = np.concatenate([weights @ table for weights in draw_weights(len(table), resamples, seed)]).astype(np.float64)
    means: Doubles = sums[:, :-1] / sums[:, -1:]
    return means


def percentile_intervals(values: Doubles, draws: Doubles, confidence: float = CONFIDENCE) -> list[Interval]:
    """[M] values with percentiles of their [R, M] draws; each interval holds by itself."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(values, low, high, strict=True)]


def simultaneous_intervals(
    values: Doubles, draws: Doubles, confidence: float = CONFIDENCE, sizes: Doubles | None = None
) -> list[Interval]:
    """As `percentile_intervals`, but wide enough for all of them to hold together; unknown where a draw is NaN.

    Args:
        sizes: [M] inputs behind each value, where some may be few; see `half_widths`.
    """
    width = half_widths(values, draws, confidence, sizes)
    return [Interval(*map(float, ends)) for ends in zip(values, values - width, values + width, strict=True)]
