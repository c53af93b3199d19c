"""Figures of decisions on weighted inputs: one computation for a data set and for every draw of the bootstrap.

A figure reads [R, Q] weights, how often each of R draws holds each of Q inputs; all of them once is the data itself.
So what is shown and its interval cannot come from different formulas.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.retrieval import Ints

BINS = 15  # of a calibration error, of equal width, as in the source

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
OfWeights = Callable[[Doubles], Doubles]  # [R, Q] weights -> [R, M]


@dataclass(frozen=True, slots=True)
class Figures:
    """M figures of the decisions of one side."""

    names: tuple[str, ...]
    of: OfWeights

    def whole(self, count: int) -> dict[str, float]:
        """The figures of all `count` inputs."""
        return dict(zip(self.names, self.of(np.ones((1, count)))[0].tolist(), strict=True))


def joined(figures: Sequence[Figures]) -> Figures:
    """All of several figures of the same inputs."""
    names = tuple(name for part in figures for name in part.names)
    return Figures(names, lambda weights: np.concatenate([part.of(weights) for part in figures], axis=1))


def of_rows(rows: Ints, figures: Figures) -> Figures:
    """Figures of the inputs `rows` alone, in draws of all inputs: NaN in a draw that holds none of them."""

    def found(weights: Doubles) -> Doubles:
        with np.errstate(invalid="ignore", divide="ignore"):
            return figures.of(weights[:, rows])

    return Figures(figures.names, found)


def mean_of(name: str, values: NDArray[np.generic]) -> Figures:
    """Mean of [Q] values."""
    column = np.asarray(values, np.float64)
    return Figures((name,), lambda weights: ((weights @ column) / weights.sum(1))[:, None])


def classification(truth: Ints, predicted: Ints) -> Figures:
    """Accuracy, and F1, precision and recall as means over the classes that are true of some input.

    A class that is never named has a precision of 0. A class that is named and never true has no recall, so it is none
    of the mean; what it was named for counts against the recall of the true class. In a draw the classes are those
    that the draw holds.

    Args:
        truth: [Q] classes from 0; below 0 is no class, which counts as missed by the accuracy alone.
        predicted: [Q] classes from 0.

    Source: Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002 (macro averages); F1 as the mean of the classes'
    F1, see Opitz and Burst 2019, arXiv:1911.03347.
    """
    classes = np.unique(truth[truth >= 0])
    own, named = (_places(side, classes) for side in (truth, predicted))
    sums_own, sums_named = _sums_by(own, len(classes)), _sums_by(named, len(classes))
    sums_hit = _sums_by(np.where(own == named, own, -1), len(classes))

    def figures(weights: Doubles) -> Doubles:
        there, told, hit = sums_own(weights), sums_named(weights), sums_hit(weights)
        is_there = there > 0
        parts = [2 * hit / np.maximum(there + told, 1), hit / np.maximum(told, 1), hit / np.maximum(there, 1)]
        means = [np.where(is_there, part, 0).sum(1) / is_there.sum(1) for part in parts]
        return np.stack([hit.sum(1) / weights.sum(1), *means], axis=1)

    return Figures(("accuracy", "macro_f1", "macro_precision", "macro_recall"), figures)


def area_under_curve(scores: NDArray[np.floating], is_positive: Bools) -> Figures:
    """Chance that a positive scores above a negative, ties counting half; NaN in a draw that lacks either.

    Args:
        scores: [Q].
        is_positive: [Q].

    Source: Mann and Whitney 1947, the U statistic over n * m.
    """
    order = np.argsort(scores, kind="stable")
    groups = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # where each group of equal scores begins
    has_ties = len(groups) < len(order)
    sign = is_positive[order].astype(np.float64)

    def area(weights: Doubles) -> Doubles:
        ordered = weights[:, order]
        positive, either = ordered * sign, ordered
        if has_ties:
            positive, either = (np.add.reduceat(column, groups, axis=1) for column in (positive, either))
        negative = either - positive
        below = np.cumsum(negative, axis=1) - negative / 2
        with np.errstate(invalid="ignore"):
            found: Doubles = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
        return found[:, None]

    return Figures(("auc",), area)


def calibration(confidence: Doubles, is_right: Bools) -> Figures:
    """Mean confidence, and the mean gap between it and accuracy over bins of confidence, weighted by their size.

    Few answers make the gap look larger than it is, on both sides alike.

    Args:
        confidence: [Q] probability that a head gives to what it decides.
        is_right: [Q].

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3, with 15 bins of equal width.
    """
    column = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.zeros((len(confidence), BINS))
    gaps[np.arange(len(confidence)), column] = confidence - is_right
    values = np.column_stack([confidence, gaps])

    def figures(weights: Doubles) -> Doubles:
        sums = weights @ values
        found = np.stack([sums[:, 0], np.abs(sums[:, 1:]).sum(1)], axis=1)
        means: Doubles = found / weights.sum(1, keepdims=True)
        return means

    return Figures(("mean_confidence", "calibration_error"), figures)


def _places(side: Ints, classes: Ints) -> Ints:
    """[Q] place of each class among the sorted `classes`, -1 where it is none of them."""
    place = np.searchsorted(classes, side)
    is_known = np.isin(side, classes)
    return np.where(is_known, place, -1)


def _sums_by(group: Ints, count: int) -> OfWeights:
    """[R, count] sums of the weights by the [Q] groups of the inputs; those of group -1 are left out."""
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.argsort(group[rows], kind="stable")]
    present, starts = np.unique(group[rows], return_index=True)

    def sums(weights: Doubles) -> Doubles:
        found = np.zeros((len(weights), count))
        if len(rows):
            found[:, present] = np.add.reduceat(weights[:, rows], starts, axis=1)
        return found

    return sums
