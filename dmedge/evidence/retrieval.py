"""Retrieval ranks of embeddings, in bounded memory, and the figures read off them.

Every rank is pessimistic: what scores as high as the match counts as ahead of it. So an encoder
that maps everything to one point ranks last instead of first, a NaN never wins, and the outcome
depends neither on the order of the gallery nor on how the work is cut into blocks.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TIE = 1e-6  # scores nearer than this are tied; rounding of a float32 dot product of unit vectors stays below it
BLOCK = 1 << 22  # scores held at once, i.e. 16 MiB of float32
KS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Score:
    """Retrieval figures of one set of queries; each recall stands beside what chance would give."""

    n: int  # queries
    gallery: float  # mean number of candidates per query
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mrr: float
    median_rank: float
    chance_at_1: float
    chance_at_5: float
    chance_at_10: float

    def to_json(self) -> dict[str, float]:
        """The figures by name, rounded to what a reader can use."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def text_to_image_ranks(texts: Floats, images: Floats, match: Ints) -> Ints:
    """Rank of the matching image of every text among all images.

    Args:
        texts: [T, D] unit-norm embeddings.
        images: [N, D] unit-norm embeddings, the gallery.
        match: [T] row of the image that each text belongs to.

    Returns:
        [T] ranks, 1 (best) to N.
    """
    ranks = np.empty(len(texts), np.int64)
    for rows in blocks(len(texts), len(images)):
        scores = texts[rows] @ images.T  # [b, N]
        own = scores[np.arange(len(scores)), match[rows]]
        ranks[rows] = len(images) - _below(scores, own)
    return ranks


def ranks_of_replaced(texts: Floats, replacements: Floats, images: Floats, match: Ints) -> Ints:
    """As `text_to_image_ranks`, the matching image of each text replaced: row t of [T, D] `replacements`."""
    ranks = np.empty(len(texts), np.int64)
    for rows in blocks(len(texts), len(images)):
        scores = texts[rows] @ images.T  # [b, N]
        own = np.einsum("td,td->t", texts[rows], replacements[rows])
        scores[np.arange(len(scores)), match[rows]] = own
        ranks[rows] = len(images) - _below(scores, own)
    return ranks


def ranks_both_ways(
    texts: Floats, images: Floats, match: Ints, advance: Callable[[int], object] = lambda texts: None
) -> tuple[Ints, Ints, Ints]:
    """Ranks of one gallery of texts and one of images, from a single pass over their scores.

    A second text of the same image is neither ahead nor behind its best one: it does not count.

    Args:
        texts: [T, D] unit-norm embeddings, the gallery of the images: the texts of one language.
        images: [N, D] unit-norm embeddings, the gallery of the texts.
        match: [T] row of the image that each text belongs to.
        advance: told after every block how many texts it had.

    Returns:
        [T] rank of the image of every text, 1 to N; [Q] rows of the images that have a text,
        ascending; [Q] rank of the best text of each of them, 1 to T.
    """
    queries, owner = np.unique(match, return_inverse=True)
    best = np.full(len(queries), -np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        for rows in blocks(len(texts), images.shape[1]):
            own = np.einsum("td,td->t", texts[rows], images[match[rows]])
            np.maximum.at(best, owner[rows], own)  # NaN wins, and then ranks last
    text_ranks = np.empty(len(texts), np.int64)
    ahead = np.zeros(len(queries), np.int64)  # of the best text of each image
    for rows in blocks(len(texts), len(images)):
        scores = texts[rows] @ images.T  # [b, N]
        own = scores[np.arange(len(scores)), match[rows]]
        text_ranks[rows] = len(images) - _below(scores, own)
        below = (scores if len(queries) == len(images) else scores[:, queries]) < best - TIE
        ahead += len(scores) - below.view(np.uint8).sum(axis=0, dtype=np.int64)
        ahead -= np.bincount(owner[rows][~(own < best[owner[rows]] - TIE)], minlength=len(queries))
        advance(len(scores))
    return text_ranks, queries, ahead + 1


def top_k(texts: Floats, images: Floats, k: int) -> Ints:
    """[T, min(k, N)] rows of the best images of every text, the best first; equals in the order of the gallery."""
    k = min(k, len(images))
    found = np.empty((len(texts), k), np.int64)
    for rows in blocks(len(texts), len(images)):
        scores = texts[rows] @ images.T
        best = np.sort(np.argpartition(scores, len(images) - k, axis=1)[:, len(images) - k :], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
    return found


def score(ranks: Ints, gallery: Ints) -> Score:
    """Figures of queries with these ranks.

    Args:
        ranks: [Q] ranks from 1.
        gallery: [Q] number of candidates of each query.

    Raises:
        ValueError: there are no queries.
    """
    if not len(ranks):
        raise ValueError("no queries to score")
    recall = {f"recall_at_{k}": float(np.mean(ranks <= k)) for k in KS}
    chance = {f"chance_at_{k}": float(np.mean(np.minimum(1.0, k / gallery))) for k in KS}
    return Score(
        n=len(ranks),
        gallery=float(np.mean(gallery)),
        mrr=float(np.mean(1.0 / ranks)),
        median_rank=float(np.median(ranks)),
        **recall,
        **chance,
    )


def macro(scores: Mapping[str, Score]) -> Score:
    """Mean of the figures over languages, every language alike; `n` is the sum.

    Raises:
        ValueError: there are none.
    """
    if not scores:
        raise ValueError("no languages to average")
    rows = [asdict(row) for row in scores.values()]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "n"}
    return Score(n=sum(row["n"] for row in rows), **means)


def blocks(rows: int, columns: int) -> list[slice]:
    """Cut `rows` so that a block of scores over `columns` candidates stays within `BLOCK`."""
    step = max(1, BLOCK // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _below(scores: Floats, own: Floats) -> Ints:
    """How many of each row of [b, N] `scores` are clearly below [b] `own`; comparisons with NaN are not."""
    below = scores < (own - TIE)[:, None]
    counts: Ints = below.view(np.uint8).sum(axis=1, dtype=np.int64)
    return counts
