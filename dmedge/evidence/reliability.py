"""Whether the heads of a fusion are as sure as they are right, before and after compression.

An app that asks for a confirmation below some confidence depends on it: rounding may leave every decision
alone and still make the model surer than it should be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmedge.data.evalset import EvalSet
from dmedge.evidence.bootstrap import draw_weights
from dmedge.evidence.choices import UNKNOWN, Pairs, draw_pairs, true_classes
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.fusion import PairEncoder
from dmedge.evidence.paired import Interval, cluster_sums, percentile_intervals
from dmedge.evidence.retrieval import Floats, Ints

PAIRS = 500  # matching ones, and as many that do not match
BINS = 15  # of equal width, as in the source

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Logits(NamedTuple):
    """What the fusion says of pairs."""

    match: Floats  # [N]
    classes: Floats  # [N, C]; C is 0 without a class head


class Answers(NamedTuple):
    """Decisions of one head of one side."""

    confidence: Doubles  # [N] probability that the head gives to what it decides
    is_right: Bools  # [N]


@dataclass(frozen=True, slots=True)
class Reliability:
    """One head of both sides on the same pairs."""

    n: int
    accuracy: float
    baseline_accuracy: float
    mean_confidence: float
    baseline_mean_confidence: float
    calibration_error: float
    baseline_calibration_error: float
    calibration_error_change: Interval  # artifact less baseline

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self) | {"calibration_error_change": self.calibration_error_change.to_json()}


def pair_logits(encoder: PairEncoder, data: EvalSet, drawn: Pairs) -> Logits:
    """What one side says of the pairs that were drawn."""
    return Logits(*encoder.pairs([data.images[index] for index in drawn.image], drawn.texts))


def measure_reliability(
    artifact: PairEncoder, baseline: PairEncoder, data: EvalSet, config: VerifyConfig
) -> Mapping[str, Reliability]:
    """Both sides on pairs drawn from `data`, head by head."""
    drawn = draw_pairs(data, PAIRS, config.seed)
    mine, theirs = (pair_logits(side, data, drawn) for side in (artifact, baseline))
    return compare_reliability(mine, theirs, drawn, data, artifact.labels, config)


def compare_reliability(
    artifact: Logits, baseline: Logits, drawn: Pairs, data: EvalSet, labels: Sequence[str], config: VerifyConfig
) -> Mapping[str, Reliability]:
    """Of the match head and, where the truth is known, of the class head on pictures with their own texts."""
    cluster = np.unique(np.array(data.clusters, dtype=np.str_), return_inverse=True)[1][drawn.own]
    sides = [_match_answers(logits.match, drawn.is_own) for logits in (artifact, baseline)]
    found = {"match": _reliability(sides[0], sides[1], cluster, config)}
    half = len(drawn.own) // 2
    truth = true_classes(labels, data)[drawn.own[:half]]
    known = np.flatnonzero(truth != UNKNOWN)
    if artifact.classes.shape[1] and len(known):
        sides = [_class_answers(logits.classes[known], truth[known]) for logits in (artifact, baseline)]
        found["class"] = _reliability(sides[0], sides[1], cluster[known], config)
    return found


def calibration_error(confidence: Doubles, is_right: Bools) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by their size; 0 to 1.

    Few answers make it look larger than it is, on both sides alike.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3, with 15 bins of equal width.
    """
    return float(np.abs(_gaps(confidence, is_right).sum(axis=0)).sum() / len(confidence))


def _gaps(confidence: Doubles, is_right: Bools) -> Doubles:
    """[N, BINS] confidence less truth of each answer, in the column of its bin."""
    column = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.zeros((len(confidence), BINS))
    gaps[np.arange(len(confidence)), column] = confidence - is_right
    return gaps


def _reliability(artifact: Answers, baseline: Answers, cluster: Ints, config: VerifyConfig) -> Reliability:
    errors = [calibration_error(*side) for side in (artifact, baseline)]
    gaps = [_gaps(*side) for side in (artifact, baseline)]
    table = cluster_sums(cluster, np.column_stack([*gaps, np.ones(len(cluster))]))
    parts = [weights @ table for weights in draw_weights(len(table), config.resamples, config.seed)]
    sums = np.concatenate(parts).astype(np.float64)
    mine, theirs = (np.abs(side).sum(axis=1) for side in (sums[:, :BINS], sums[:, BINS:-1]))
    change = ((mine - theirs) / sums[:, -1])[:, None]
    (interval,) = percentile_intervals(np.array([errors[0] - errors[1]]), change, config.confidence)
    return Reliability(
        n=len(cluster),
        accuracy=float(artifact.is_right.mean()),
        baseline_accuracy=float(baseline.is_right.mean()),
        mean_confidence=float(artifact.confidence.mean()),
        baseline_mean_confidence=float(baseline.confidence.mean()),
        calibration_error=errors[0],
        baseline_calibration_error=errors[1],
        calibration_error_change=interval,
    )


def _match_answers(logits: Floats, is_own: Ints) -> Answers:
    sure = 1 / (1 + np.exp(-np.abs(logits.astype(np.float64))))  # of the side that it decides for
    return Answers(sure, (logits > 0) == (is_own == 1))


def _class_answers(logits: Floats, truth: Ints) -> Answers:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Answers(shares.max(axis=1), shares.argmax(axis=1) == truth)
