"""What heads decide, on the same inputs as the float checkpoint: figures of both sides, and how far they are apart.

A head is "match" or "class" of a fusion, "answer" of one that answers questions, or "label" of the variant `prompts`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from dmedge.evidence.choices import UNKNOWN, wilson
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.figures import (
    Bools,
    Doubles,
    Figures,
    area_under_curve,
    calibration,
    classification,
    joined,
    mean_of,
    of_rows,
)
from dmedge.evidence.paired import Interval, Paired, compare_figures, compare_parts
from dmedge.evidence.retrieval import Floats, Ints

VQA = "vqa_accuracy"

T = TypeVar("T")


class Sides(NamedTuple, Generic[T]):
    """The same of both sides."""

    artifact: T
    baseline: T


class Inputs(NamedTuple):
    """Where N inputs come from."""

    cluster: Ints  # [N] what each belongs to: an emoji, or a picture
    languages: Sequence[str] = ()  # [N] of their texts; () where they have none


@dataclass(frozen=True, slots=True)
class InLanguage:
    """One head of both sides on the inputs of one language."""

    n: int  # inputs whose truth is known
    clusters: int
    hits: int  # of these inputs the baseline has right
    figures: Mapping[str, Paired]  # the intervals of one figure hold for all languages together

    def to_json(self) -> dict[str, Any]:
        """Counts and figures by name."""
        counts = {"n": self.n, "clusters": self.clusters, "hits": self.hits}
        return counts | {name: paired.to_json() for name, paired in self.figures.items()}


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
    languages: Mapping[str, InLanguage]  # none where there are no texts, or those of one language

    def to_json(self) -> dict[str, Any]:
        """Everything by name."""
        counts = {name: getattr(self, name) for name in ("n", "n_known", "clusters", "hits", "most_common")}
        return counts | {
            "agreement": self.agreement.to_json(),
            "figures": {name: paired.to_json() for name, paired in self.figures.items()},
            "languages": {tag: row.to_json() for tag, row in self.languages.items()},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """What both sides decided on N inputs, and how that is judged."""

    told: Sides[Ints]  # [N] each
    known: Bools  # [N] whether the truth is known
    right: Doubles  # [N] score of what the baseline decided, 0 to 1
    most_common: float | None
    figures: Callable[[Ints], Sides[Figures]]  # of the inputs of some rows
    confidence: Sides[Figures] | None = None  # of the known inputs, where a head says how sure it is


def match_head(logits: Sides[Floats], is_own: Ints, inputs: Inputs, config: VerifyConfig) -> Head:
    """Whether a text is a picture's own: right or wrong, ranked by the logits, and how sure.

    Args:
        logits: [N] of each side.
        is_own: [N] 1 where it is.
        inputs: clusters and languages of the texts.
    """
    is_ranked = 0 < is_own.sum() < len(is_own)  # else there is nothing to rank

    def ranked(logits: Floats, own: Ints) -> Figures:
        right = mean_of("accuracy", (logits > 0) == own)
        return joined([right, area_under_curve(logits, own == 1)]) if is_ranked else right

    told = Sides(*((side > 0).astype(np.int64) for side in logits))
    decided = Decisions(
        told=told,
        known=np.ones(len(is_own), bool),
        right=(told.baseline == is_own).astype(np.float64),
        most_common=_most_common(is_own),
        figures=lambda rows: Sides(*(ranked(side[rows], is_own[rows]) for side in logits)),
        confidence=Sides(*(calibration(_match_confidence(side), (side > 0) == is_own) for side in logits)),
    )
    return compare_decisions(decided, inputs, config)


def class_head(logits: Sides[Floats], truth: Ints, inputs: Inputs, config: VerifyConfig) -> Head:
    """Which class a pair belongs to.

    Args:
        logits: [N, C] of each side.
        truth: [N] classes, UNKNOWN where nobody knows.
        inputs: clusters of the pictures, languages of the texts.
    """
    known = truth != UNKNOWN
    sure = Sides(*(calibration(_softmax(side[known]).max(1), side[known].argmax(1) == truth[known]) for side in logits))
    return compare_decisions(_classes(Sides(*(side.argmax(1) for side in logits)), truth, sure), inputs, config)


def label_head(told: Sides[Ints], truth: Ints, cluster: Ints, config: VerifyConfig) -> Head:
    """Which label fits a picture best: no training, hence no probabilities; no text, hence no language.

    Args:
        told: [N] labels by each side.
        truth: [N], UNKNOWN where nobody knows.
        cluster: [N] of the picture.
    """
    return compare_decisions(_classes(told, truth), Inputs(cluster), config)


def answer_head(
    logits: Sides[Floats],
    vocabulary: Sequence[str],
    asked: Sequence[Mapping[str, float]],
    inputs: Inputs,
    config: VerifyConfig,
) -> Head:
    """What is answered to questions, by the score that people's answers give it.

    Args:
        logits: [N, A] of each side.
        vocabulary: A answers to choose from.
        asked: of every question, the score of every answer that people gave.
        inputs: pictures that the questions are about, and their languages.
    """
    told = Sides(*(side.argmax(1) for side in logits))
    scores = Sides(*(answer_scores(side, vocabulary, asked) for side in told))
    decided = Decisions(
        told=told,
        known=np.ones(len(asked), bool),
        right=scores.baseline,
        most_common=_best_of_all(vocabulary, asked),
        figures=lambda rows: Sides(*(mean_of(VQA, side[rows]) for side in scores)),
    )
    return compare_decisions(decided, inputs, config)


def answer_scores(told: Ints, vocabulary: Sequence[str], asked: Sequence[Mapping[str, float]]) -> Doubles:
    """[N] score of the answer told to every question, 0 where nobody gave it.

    Args:
        told: [N] places in `vocabulary`.
        vocabulary: answers to choose from.
        asked: of every question, the score of every answer that people gave.
    """
    pairs = zip(told.tolist(), asked, strict=True)
    return np.array([scores.get(vocabulary[place], 0.0) for place, scores in pairs], np.float64)


def compare_decisions(decided: Decisions, inputs: Inputs, config: VerifyConfig) -> Head:
    """Count, and compare the figures of the inputs whose truth is known, of all and of every language."""
    rows = np.flatnonzero(decided.known)
    cluster = inputs.cluster[rows]
    return Head(
        n=len(decided.known),
        n_known=len(rows),
        clusters=len(np.unique(cluster)),
        hits=int(decided.right[rows].sum()),
        agreement=_agreement(decided.told),
        most_common=decided.most_common,
        figures=_figures(decided, rows, cluster, config) if len(rows) else {},
        languages=_by_language(decided, rows, inputs, config) if len(inputs.languages) else {},
    )


def _figures(decided: Decisions, rows: Ints, cluster: Ints, config: VerifyConfig) -> dict[str, Paired]:
    parts = [decided.figures(rows), *([decided.confidence] if decided.confidence else [])]
    artifact, baseline = zip(*parts, strict=True)
    return compare_figures(
        artifact, baseline, cluster, resamples=config.resamples, confidence=config.confidence, seed=config.seed
    )


def _by_language(decided: Decisions, rows: Ints, inputs: Inputs, config: VerifyConfig) -> dict[str, InLanguage]:
    """The head in every language of the known inputs; nothing of one language alone."""
    cluster = inputs.cluster[rows]
    tags, code = np.unique(np.array(inputs.languages, dtype=np.str_)[rows], return_inverse=True)
    if len(tags) < 2:
        return {}
    places = [np.flatnonzero(code == index) for index in range(len(tags))]
    sizes = np.array([len(among) for among in places], np.float64)
    parts = [Sides(*(of_rows(among, side) for side in decided.figures(rows[among]))) for among in places]
    artifact, baseline = zip(*parts, strict=True)
    found = compare_parts(
        artifact, baseline, cluster, sizes, resamples=config.resamples, confidence=config.confidence, seed=config.seed
    )
    return {
        str(tag): InLanguage(
            n=len(among),
            clusters=len(np.unique(cluster[among])),
            hits=int(decided.right[rows[among]].sum()),
            figures=figures,
        )
        for tag, among, figures in zip(tags, places, found, strict=True)
    }


def _classes(told: Sides[Ints], truth: Ints, confidence: Sides[Figures] | None = None) -> Decisions:
    return Decisions(
        told=told,
        known=truth != UNKNOWN,
        right=(told.baseline == truth).astype(np.float64),
        most_common=_most_common(truth),
        figures=lambda rows: Sides(*(classification(truth[rows], side[rows]) for side in told)),
        confidence=confidence,
    )


def _most_common(truth: Ints) -> float | None:
    known = truth[truth != UNKNOWN]
    return float(np.bincount(known).max() / len(known)) if len(known) else None


def _best_of_all(vocabulary: Sequence[str], asked: Sequence[Mapping[str, float]]) -> float:
    """What the best single answer to every question would reach."""
    totals = dict.fromkeys(vocabulary, 0.0)
    for answer, score in (pair for scores in asked for pair in scores.items() if pair[0] in totals):
        totals[answer] += score
    return max(totals.values()) / len(asked)


def _agreement(told: Sides[Ints]) -> Interval:
    return Interval(*wilson(int((told.artifact == told.baseline).sum()), len(told.artifact)))


def _match_confidence(logits: Floats) -> Doubles:
    confidence: Doubles = 1 / (1 + np.exp(-np.abs(logits.astype(np.float64))))  # of the side that it decides for
    return confidence


def _softmax(logits: Floats) -> Doubles:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: Doubles = shares / shares.sum(axis=1, keepdims=True)
    return found
