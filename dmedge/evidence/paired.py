"""Means over queries of whatever differs between two encoders, with intervals that draw emoji."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.bootstrap import draw_weights
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.retrieval import Ints

Doubles = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure, and the ends of its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The three by name, rounded to what a reader can use."""
        return {name: round(number, 6) + 0.0 for name, number in self._asdict().items()}  # no -0.0


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
    """As `percentile_intervals`, but wide enough for all of them to hold together.

    Source: Montiel Olea and Plagborg-Møller 2019, J. Appl. Econometrics 34:1 (sup-t bands).
    """
    deviation = draws.std(axis=0, ddof=1)
    greatest = np.abs((draws - values) / np.where(deviation > 0, deviation, 1.0)).max(axis=1)
    width = np.quantile(greatest, confidence) * deviation
    return [Interval(*map(float, ends)) for ends in zip(values, values - width, values + width, strict=True)]
