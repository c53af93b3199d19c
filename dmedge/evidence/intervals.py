"""Means of independent samples, with bootstrap intervals."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.config import CONFIDENCE, RESAMPLES

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean, the ends of its interval, and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def direction(self) -> str:
        """Which side of 0 the whole interval lies on."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "unclear"


def mean_figure(
    values: NDArray[np.floating], *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Figure:
    """Mean of [N] independent samples, with a percentile interval.

    Source: Efron 1979, Ann. Statist. 7:1.
    """
    samples = np.asarray(values, np.float64)
    draws = _weights(len(samples), resamples, seed) @ samples
    return _figure(float(samples.mean()), draws, len(samples), confidence)


def rank_correlation(
    x: NDArray[np.generic],
    y: NDArray[np.floating],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Figure:
    """Spearman's correlation of [N] paired samples, with a percentile interval; 0 where a side never changes.

    Ranks are those of all samples, in every draw, which is what makes thousands of draws quick.

    Source: Spearman 1904, Am. J. Psychol. 15:72.
    """
    ranks = np.stack([midranks(np.asarray(side)) for side in (x, y)])
    count = ranks.shape[1]
    draws = _correlations(_weights(count, resamples, seed), ranks)
    return _figure(float(_correlations(np.full((1, count), 1 / count), ranks)[0]), draws, count, confidence)


def midranks(values: NDArray[np.generic]) -> Doubles:
    """Ranks of [N] values from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Doubles = (last - (counts + 1) / 2)[inverse]
    return middle


@lru_cache(maxsize=4)
def _weights(count: int, resamples: int, seed: int) -> Doubles:
    """[R, N] weights that sum to 1: how often each sample was drawn. Figures of the same samples share the draws."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights: Doubles = draws / count
    return weights


def _correlations(weights: Doubles, ranks: Doubles) -> Doubles:
    """[R] correlations of two rows of ranks under [R, N] weights that sum to 1."""
    x, y = ranks
    mean_x, mean_y = weights @ x, weights @ y
    covariance = weights @ (x * y) - mean_x * mean_y
    variance = (weights @ (x * x) - mean_x**2) * (weights @ (y * y) - mean_y**2)
    found: Doubles = np.where(variance > 1e-9, covariance / np.sqrt(np.maximum(variance, 1e-9)), 0.0)
    return found


def _figure(value: float, draws: Doubles, n: int, confidence: float) -> Figure:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Figure(value, float(low), float(high), n)
