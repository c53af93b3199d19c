"""What heads decide, on the same inputs as the float checkpoint: figures of both sides, and how far they are apart.

A head is "match" or "class" of a fusion, "answer" of one that answers questions, or "label" of the variant `prompts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from dmedge.evidence.choices import UNKNOWN, wilson
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.figures import (
    Doubles,
    Figures,
    area_under_curve,
    calibration,
    classification,
    mean_of,
)
from dmedge.evidence.paired import Interval, Paired, compare_figures
from dmedge.evidence.retrieval import Floats, Ints

VQA = "vqa_accuracy"

T = TypeVar("T")


class Sides(NamedTuple, Generic[T]):
    """The same of both sides."""

    artifact: T
    baseline: T


@dataclass(frozen=True, slots=True)
class Head:
    """One head of both sides on the same inputs."""

    n: int  # inputs that both decided
    n_known: int  # of them those whose truth is known: all figures but the agreement are of these
    clusters: int  # emoji or pictures that they belong to, which intervals draw
    hits: int  # known inputs that the baseline has right, which could have been lost
    agreement: Interval  # share of the inputs that both decide alike; Wilson, 95 %
    most_common: float | None  # share of the most common truth: what the same answer to everything would reach
    figures: Mapping[str, Paired]  # by name; none where no truth is known
    languages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of questions in several languages

    def to_json(self) -> dict[str, Any]:
        """Everything by name."""
        counts = {name: getattr(self, name) for name in ("n", "n_known", "clusters", "hits", "most_common")}
        return counts | {
            "agreement": self.agreement.to_json(),
            "figures": {name: paired.to_json() for name, paired in self.figures.items()},
            "languages": {tag: dict(row) for tag, row in self.languages.items()},
        }


def match_head(logits: Sides[Floats], is_own: Ints, cluster: Ints, config: VerifyConfig) -> Head:
    """Whether a text is a picture's own: right or wrong, ranked by the logits, and how sure.

    Args:
        logits: [N] of each side.
        is_own: [N] 1 where it is.
        cluster: [N] of the text.
    """
    told = Sides(*((side > 0).astype(np.int64) for side in logits))
    figures = Sides[list[Figures]]([], [])
    for side, decided, found in zip(logits, told, figures, strict=True):
        is_right = decided == is_own
        found.append(mean_of("accuracy", is_right))
        if 0 < is_own.sum() < len(is_own):  # else there is nothing to rank
            found.append(area_under_curve(side, is_own == 1))
        found.append(calibration(_match_confidence(side), is_right))
    return _head(told, is_own, figures, cluster, config)


def class_head(logits: Sides[Floats], truth: Ints, cluster: Ints, config: VerifyConfig) -> Head:
    """Which class a pair belongs to.

    Args:
        logits: [N, C] of each side.
        truth: [N] classes, UNKNOWN where nobody knows.
        cluster: [N] of the picture.
    """
    known = truth != UNKNOWN
    told = Sides(*(side.argmax(1) for side in logits))
    figures = Sides[list[Figures]]([], [])
    for side, decided, found in zip(logits, told, figures, strict=True):
        is_right = decided[known] == truth[known]
        found += [classification(truth[known], decided[known]), calibration(_softmax(side[known]).max(1), is_right)]
    return _head(told, truth, figures, cluster, config)


def label_head(told: Sides[Ints], truth: Ints, cluster: Ints, config: VerifyConfig) -> Head:
    """Which label fits a picture best: no training, hence no probabilities.

    Args:
        told: [N] labels by each side.
        truth: [N], UNKNOWN where nobody knows.
        cluster: [N] of the picture.
    """
    known = truth != UNKNOWN
    figures = Sides(*([classification(truth[known], side[known])] for side in told))
    return _head(told, truth, figures, cluster, config)


def answer_head(
    logits: Sides[Floats],
    vocabulary: Sequence[str],
    asked: Sequence[Mapping[str, float]],
    languages: Sequence[str],
    cluster: Ints,
    config: VerifyConfig,
) -> Head:
    """What is answered to questions, by the score that people's answers give it; by language if there are several.

    Args:
        logits: [N, A] of each side.
        vocabulary: A answers to choose from.
        asked: of every question, the score of every answer that people gave.
        languages: of the questions.
        cluster: [N] picture that each question is about.
    """
    told = Sides(*(side.argmax(1) for side in logits))
    scores = Sides(*(answer_scores(side, vocabulary, asked) for side in told))
    return Head(
        n=len(asked),
        n_known=len(asked),
        clusters=len(np.unique(cluster)),
        hits=int(scores.baseline.sum()),
        agreement=_agreement(told),
        most_common=_best_of_all(vocabulary, asked),
        figures=_compared(Sides(*([mean_of(VQA, side)] for side in scores)), cluster, config),
        languages=_by_language(scores, languages, cluster, config),
    )


def answer_scores(told: Ints, vocabulary: Sequence[str], asked: Sequence[Mapping[str, float]]) -> Doubles:
    """[N] score of the answer told to every question, 0 where nobody gave it.

    Args:
        told: [N] places in `vocabulary`.
        vocabulary: answers to choose from.
        asked: of every question, the score of every answer that people gave.
    """
    pairs = zip(told.tolist(), asked, strict=True)
    return np.array([scores.get(vocabulary[place], 0.0) for place, scores in pairs], np.float64)


def _head(told: Sides[Ints], truth: Ints, figures: Sides[list[Figures]], cluster: Ints, config: VerifyConfig) -> Head:
    """Count, and compare the figures of the inputs whose truth is known."""
    known = truth != UNKNOWN
    return Head(
        n=len(truth),
        n_known=int(known.sum()),
        clusters=len(np.unique(cluster[known])),
        hits=int((told.baseline[known] == truth[known]).sum()),
        agreement=_agreement(told),
        most_common=float(np.bincount(truth[known]).max() / known.sum()) if known.any() else None,
        figures=_compared(figures, cluster[known], config) if known.any() else {},
    )


def _best_of_all(vocabulary: Sequence[str], asked: Sequence[Mapping[str, float]]) -> float:
    """What the best single answer to every question would reach."""
    totals = dict.fromkeys(vocabulary, 0.0)
    for answer, score in (pair for scores in asked for pair in scores.items() if pair[0] in totals):
        totals[answer] += score
    return max(totals.values()) / len(asked)


def _agreement(told: Sides[Ints]) -> Interval:
    return Interval(*wilson(int((told.artifact == told.baseline).sum()), len(told.artifact)))


def _compared(
    figures: Sides[list[Figures]], cluster: Ints, config: VerifyConfig, *, are_simultaneous: bool = False
) -> dict[str, Paired]:
    return compare_figures(
        figures.artifact,
        figures.baseline,
        cluster,
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
        are_simultaneous=are_simultaneous,
    )


def _by_language(
    scores: Sides[Doubles], languages: Sequence[str], cluster: Ints, config: VerifyConfig
) -> dict[str, dict[str, Any]]:
    """Accuracy of the answers in every language; the intervals hold together. Nothing of one language alone."""
    tags, code = np.unique(np.array(languages, dtype=np.str_), return_inverse=True)
    if len(tags) < 2:
        return {}
    rows = {str(tag): code == place for place, tag in enumerate(tags)}
    sides = Sides(*([mean_of(tag, side, among) for tag, among in rows.items()] for side in scores))
    found = _compared(sides, cluster, config, are_simultaneous=True)
    return {
        tag: {"n": int(among.sum()), "clusters": len(np.unique(cluster[among])), VQA: found[tag].to_json()}
        for tag, among in rows.items()
    }


def _match_confidence(logits: Floats) -> Doubles:
    confidence: Doubles = 1 / (1 + np.exp(-np.abs(logits.astype(np.float64))))  # of the side that it decides for
    return confidence


def _softmax(logits: Floats) -> Doubles:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: Doubles = shares / shares.sum(axis=1, keepdims=True)
    return found
