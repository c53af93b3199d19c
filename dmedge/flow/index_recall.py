"""How much of the exact search an index keeps: the best pictures of either for the same queries."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dmedge.data.emoji import load_pack
from dmedge.evidence.retrieval import blocks

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TEXTS, PICTURES = 500, 200  # queries


@dataclass(frozen=True, slots=True)
class Kept:
    """Share of the best pictures of the exact float32 search that the index finds too, mean over queries."""

    n: int  # queries
    recall_at_1: float
    recall_at_10: float

    def to_json(self) -> dict[str, float]:
        """The figures by name, rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def probe_texts(languages: Sequence[str], n: int | None = None) -> list[str]:
    """Names of emoji, drawn from as many of `languages` as the embedded data has, the same ones every time.

    Args:
        languages: tags; if the data has none of them, all that it has.
        n: how many to draw; those drawn twice are in it once [default: 500].
    """
    pack, draws = load_pack(), random.Random(0)
    locales = [locale for locale in pack.locales if locale in languages] or list(pack.locales)
    found: dict[str, None] = {}
    for i in range(TEXTS if n is None else n):
        names = [name for name in pack.names(locales[i % len(locales)]) if name is not None]
        found[draws.choice(names)] = None
    return list(found)


def probe_pictures(count: int, n: int = PICTURES) -> Ints:
    """Places of `n` pictures, spread over all."""
    return np.unique(np.linspace(0, count - 1, min(n, count)).round().astype(np.int64))


def measure_kept(
    exact: Floats, queries: Floats, best_of: Callable[[Floats, int], Ints], own: Ints | None = None
) -> Kept:
    """Compare an index with the exact search over the embeddings that it was made from.

    Args:
        exact: [N, embed_dim] float32 embeddings of the pictures.
        queries: [Q, embed_dim].
        best_of: [Q, k] places, best first, that the index finds for queries.
        own: [Q] place of the picture that a query is, which is left out on both sides.
    """
    skipped = 0 if own is None else 1
    k = min(10, len(exact) - skipped)
    if k < 1 or not len(queries):
        return Kept(0, 1.0, 1.0)
    want = _exact_best(exact, queries, k + skipped)
    found = best_of(queries, k + skipped)
    firsts, shares = [], []
    for i in range(len(queries)):
        left_out = None if own is None else own[i]
        mine, theirs = ([place for place in row[i].tolist() if place != left_out][:k] for row in (want, found))
        firsts.append(theirs[:1] == mine[:1])
        shares.append(len(set(mine) & set(theirs)) / k)
    return Kept(len(queries), float(np.mean(firsts)), float(np.mean(shares)))


def best_places(scores: Floats, k: int) -> Ints:
    """[Q, min(k, N)] places of the largest scores of each row of [Q, N], best first; equal ones in their order."""
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]
        rows = []
        for row, limit in zip(scores, threshold, strict=True):
            candidates = np.flatnonzero(row >= limit)
            rows.append(candidates[np.argsort(-row[candidates], kind="stable")[:k]])
        return np.array(rows, np.int64)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _exact_best(exact: Floats, queries: Floats, k: int) -> Ints:
    parts = [best_places(queries[rows] @ exact.T, k) for rows in blocks(len(queries), len(exact))]
    return np.concatenate(parts)
