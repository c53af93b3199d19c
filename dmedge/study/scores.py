"""Figures of a classification, and how sure they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.figures import classification
from dmedge.study.task import Doubles, Ints, Pairs
from dmedge.training.validation import average_precision


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over pairs with its interval, by resampling clusters: the emoji or pictures that several pairs share."""

    value: float
    low: float
    high: float
    n: int  # pairs
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "n", "clusters")}


def figures_of(pairs: Pairs, logits: NDArray[np.float32]) -> dict[str, Any]:
    """What is asked of [N, C] logits for pairs of one, several or the most given class; accuracy first.

    The accuracy is the share of pairs whose likeliest class is a true one, and for answers the official one.
    """
    predicted = logits.argmax(1)
    accuracy = {"accuracy": float(pairs.right(predicted).mean())}
    if pairs.kind == "several":
        truth = pairs.targets(np.arange(len(pairs)), logits.shape[1]).numpy() > 0
        return accuracy | several_classes(truth, logits)
    return classification(pairs.label, predicted).whole(len(predicted)) | accuracy


def several_classes(truth: NDArray[np.bool_], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Precision, recall and F1 as means over the classes that occur, F1 over all decisions, average precision.

    A class is named where its probability, the sigmoid of its logit, is above a half. One that never is has a
    precision of 0.

    Args:
        truth: [N, C].
        logits: [N, C].

    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4 (average precision, over all ranks).
    """
    is_named = logits > 0
    hit, named, there = (part.sum(0).astype(np.float64) for part in (truth & is_named, is_named, truth))
    own = np.flatnonzero(there)
    precisions = {str(c): average_precision(logits[:, c], truth[:, c]) for c in own.tolist()}
    return {
        "mean_average_precision": float(np.mean(list(precisions.values()))),
        "macro_f1": float((2 * hit[own] / (named + there)[own]).mean()),
        "micro_f1": float(2 * hit.sum() / (named.sum() + there.sum())),
        "macro_precision": float((hit[own] / np.maximum(named[own], 1)).mean()),
        "macro_recall": float((hit[own] / there[own]).mean()),
        "average_precision": precisions,
    }


def clustered(values: Doubles, cluster: Ints, seed: int = 0) -> Figure:
    """The mean of [N] values and its percentile interval under the cluster bootstrap.

    Values may be differences of two predictions of the same pairs; the interval is then a paired one.

    Source: Field and Welsh 2007, J. R. Stat. Soc. B 69:369.
    """
    _, row = np.unique(cluster, return_inverse=True)
    count = np.bincount(row).astype(np.float64)
    total = np.bincount(row, weights=values)
    weights = np.random.default_rng(seed).multinomial(len(count), np.full(len(count), 1 / len(count)), size=RESAMPLES)
    means = (weights @ total) / (weights @ count)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Figure(float(values.mean()), float(low), float(high), len(values), len(count))


def over_seeds(values: list[float]) -> dict[str, float]:
    """Mean of the runs of all seeds, and half the width of its 95 % t interval.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} runs; an interval over seeds needs 2 or more")
    spread = float(np.std(values, ddof=1))
    return {"mean": float(np.mean(values)), "half_width": _t_quantile(len(values) - 1) * spread / len(values) ** 0.5}


# Student's t at 0.975 by degrees of freedom; the normal's beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def _t_quantile(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else 1.96
