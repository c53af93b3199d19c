"""How alike two encoders answer: same results, and whether their embeddings can be mixed.

A gallery is often embedded once, on a server in full precision, and searched on phones with the
compressed text tower. Recall of either side alone says nothing about that pairing.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dmedge.data.evalset import EvalSet
from dmedge.evidence.accuracy import Measurement
from dmedge.evidence.rank_overlap import DEPTH, PERSISTENCE, rank_biased_overlap, shared_places
from dmedge.evidence.retrieval import Floats, Ints, text_to_image_ranks, top_k

SAMPLE = 10_000  # texts; the standard error of a share is then at most half a point
K = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """Artifact against baseline on a sample of texts; recalls are text to image at 10, over all queries."""

    n: int
    same_first: float  # share of texts whose best image is the same
    overlap_at_10: float  # mean share of the best ten images in common
    rank_biased_overlap: float  # of the rankings of all images, mean; 1 where they are the same
    rank_biased_residual: float  # weight in it of the places that were not compared, whose overlap is extrapolated
    recall_at_10: float  # artifact finds in its own gallery
    recall_at_10_baseline: float  # baseline finds in its own gallery
    recall_at_10_baseline_gallery: float | None  # artifact finds in the baseline's gallery; None: other width
    recall_at_10_baseline_query: float | None  # baseline finds in the artifact's gallery

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


def agreement(artifact: Measurement, baseline: Measurement) -> Agreement:
    """Compare two encoders on the texts that both measurements kept.

    Raises:
        ValueError: they kept different texts.
    """
    if not np.array_equal(artifact.kept, baseline.kept):
        raise ValueError("both measurements must keep the same texts")
    match = artifact.report.data.text_image[artifact.kept]
    mine, theirs = artifact.texts, baseline.texts
    is_mixable = mine.shape[1] == theirs.shape[1]
    best, their_best = top_k(mine, artifact.images, DEPTH), top_k(theirs, baseline.images, DEPTH)
    shared = shared_places(best, their_best)
    depth, is_whole = shared.shape[1], shared.shape[1] == len(artifact.images)
    return Agreement(
        n=len(match),
        same_first=float(shared[:, 0].mean()),
        overlap_at_10=float(shared[:, min(K, depth) - 1].mean() / min(K, depth)),
        rank_biased_overlap=float(rank_biased_overlap(shared).mean()),
        rank_biased_residual=0.0 if is_whole else PERSISTENCE**depth,
        recall_at_10=_recall(mine, artifact.images, match),
        recall_at_10_baseline=_recall(theirs, baseline.images, match),
        recall_at_10_baseline_gallery=_recall(mine, baseline.images, match) if is_mixable else None,
        recall_at_10_baseline_query=_recall(theirs, artifact.images, match) if is_mixable else None,
    )


def draw_sample(data: EvalSet, size: int = SAMPLE) -> Ints:
    """Rows of at most `size` texts, ascending, chosen by hash: the same whatever else the set holds."""
    if len(data.texts) <= size:
        return np.arange(len(data.texts))
    keys = [
        hashlib.sha256(f"{language}:{text}".encode()).digest()[:8]
        for language, text in zip(data.languages, data.texts, strict=True)
    ]
    return np.sort(np.argsort(np.array(keys), kind="stable")[:size])


def _recall(texts: Floats, images: Floats, match: Ints) -> float:
    return float(np.mean(text_to_image_ranks(texts, images, match) <= K))
