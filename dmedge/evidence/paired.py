"""Whatever differs between two encoders on the same inputs, with intervals that draw emoji."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.bootstrap import draw_weights
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.figures import Doubles, Figures
from dmedge.evidence.retrieval import Ints

_HELD = 1 << 20  # weights of inputs held at once, i.e. 8 MiB


class Interval(NamedTuple):
    """A figure, and the ends of its interval; an end that is NaN is unknown."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The three by name, rounded to what a reader can use; None where unknown."""
        return {name: round(number, 6) + 0.0 if isfinite(number) else None for name, number in self._asdict().items()}


@dataclass(frozen=True, slots=True)
class Paired:
    """One figure of both sides on the same inputs."""

    artifact: float
    baseline: float
    change: Interval  # artifact less baseline

    @property
    def drop(self) -> Interval:
        """Baseline less artifact."""
        value, low, high = self.change
        return Interval(0.0 - value, 0.0 - high, 0.0 - low)

    def to_json(self) -> dict[str, Any]:
        """The two figures and their difference."""
        sides = {name: round(getattr(self, name), 6) for name in ("artifact", "baseline")}
        return sides | {"change": self.change.to_json()}


def compare_figures(
    artifact: Sequence[Figures],
    baseline: Sequence[Figures],
    cluster: Ints,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    are_simultaneous: bool = False,
) -> dict[str, Paired]:
    """The figures of both sides and percentile intervals of their differences, in draws of clusters.

    Each draw weights the inputs of both sides alike. It is made in parts, so memory stays flat.

    Args:
        artifact: figures of Q inputs.
        baseline: the same figures of the same inputs.
        cluster: [Q] what each input belongs to.
        are_simultaneous: widen the intervals until all of them hold together.

    Source: Field and Welsh 2007, J. R. Stat. Soc. B 69:369 (the cluster bootstrap).
    """
    sides = [_columns(side, np.ones((1, len(cluster))))[0] for side in (artifact, baseline)]
    draws = np.concatenate(
        [
            _columns(artifact, weights) - _columns(baseline, weights)
            for weights in _input_weights(cluster, resamples, seed)
        ]
    )
    make = simultaneous_intervals if are_simultaneous else percentile_intervals
    changes = make(sides[0] - sides[1], draws, confidence)
    names = [name for figures in artifact for name in figures.names]
    return {
        name: Paired(float(mine), float(theirs), change)
        for name, mine, theirs, change in zip(names, *sides, changes, strict=True)
    }


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


def simultaneous_intervals(values: Doubles, draws: Doubles, confidence: float = CONFIDENCE) -> list[Interval]:
    """As `percentile_intervals`, but wide enough for all of them to hold together; unknown where a draw is NaN.

    Source: Montiel Olea and Plagborg-Møller 2019, J. Appl. Econometrics 34:1 (sup-t bands).
    """
    width, is_known = np.full(len(values), np.nan), np.isfinite(draws).all(axis=0)
    if is_known.any():
        deviation = draws[:, is_known].std(axis=0, ddof=1)
        standard = np.where(deviation > 0, deviation, 1.0)
        greatest = np.abs((draws[:, is_known] - values[is_known]) / standard).max(axis=1)
        width[is_known] = np.quantile(greatest, confidence) * deviation
    return [Interval(*map(float, ends)) for ends in zip(values, values - width, values + width, strict=True)]
