"""What a compressed artifact keeps of its baseline's recall, with intervals that can be trusted.

All languages ask for the same pictures, so their queries are not independent: the bootstrap draws
emoji (clusters) with replacement, not queries, and every language is recomputed on the same draw
(Field and Welsh 2007, J. R. Stat. Soc. B 69:369, the cluster bootstrap). Both encoders answer the
same queries, so each draw gives a paired ratio. Recall is a sum over clusters, hence a draw is one
row of multinomial weights times a table of hits, and thousands of draws are two matrix products.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.bands import half_widths
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.retrieval import Ints

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

_WEIGHTS = 1 << 23  # weights held at once, i.e. 32 MiB of float32


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure and its interval; None where the data cannot tell."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # clusters (emoji) behind it
    hits: int  # queries that the baseline answered, i.e. those that could have been lost


@dataclass(frozen=True, eq=False)
class HitTable:
    """Queries and hits per cluster and language: all that the bootstrap needs to know."""

    language: Ints  # [L] the language of each column
    count: NDArray[np.float32]  # [C, L] queries
    baseline: NDArray[np.float32]  # [C, L] of them answered by the baseline
    artifact: NDArray[np.float32]  # [C, L] of them answered by the artifact


@dataclass(frozen=True, slots=True)
class Retention:
    """Artifact recall over baseline recall, and the two recalls themselves."""

    artifact: Estimate  # mean recall over languages
    baseline: Estimate  # mean recall over languages
    macro: Estimate  # ratio of the two
    languages: Mapping[int, Estimate]  # by index of the language; simultaneous intervals: all hold together
    worst: Estimate  # the least of `languages`


def hit_table(
    cluster: Ints, language: Ints, baseline_hit: NDArray[np.bool_], artifact_hit: NDArray[np.bool_]
) -> HitTable:
    """Sum queries by cluster and language.

    Args:
        cluster: [Q] index of the emoji that each query belongs to.
        language: [Q] index of its language.
        baseline_hit: [Q] whether the baseline ranks the match high enough.
        artifact_hit: [Q] the same of the artifact.

    Raises:
        ValueError: there are no queries, or the lengths differ.
    """
    if not len(cluster) or len({len(cluster), len(language), len(baseline_hit), len(artifact_hit)}) != 1:
        lengths = [len(cluster), len(language), len(baseline_hit), len(artifact_hit)]
        raise ValueError(f"need as many clusters, languages and hits, at least one of each; got {lengths}")
    clusters, row = np.unique(cluster, return_inverse=True)
    languages, column = np.unique(language, return_inverse=True)
    shape = (len(clusters), len(languages))

    def total(weights: Bools | None) -> NDArray[np.float32]:
        sums = np.bincount(row * shape[1] + column, weights=weights, minlength=shape[0] * shape[1])
        return sums.reshape(shape).astype(np.float32)

    return HitTable(languages, total(None), total(baseline_hit), total(artifact_hit))


def bootstrap_retention(
    table: HitTable, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Retention:
    """Retention over all languages and in each, with intervals.

    The macro interval takes percentiles of the draws. The language intervals are a sup-t band (see
    `half_widths`): all of them hold together with `confidence`, and so does the one of the worst
    language, which runs from the least lower to the least upper end. A separate interval for each
    of 100 languages would miss the truth in about five, and the worst of them is where one looks.

    A language whose baseline finds nothing, in the data or in a draw, has no ratio: its figures
    are None.
    """
    draws = _draws(table, resamples, seed)
    whole = _recalls(np.ones((1, len(table.count)), dtype=np.float32), table)
    clusters, hits = (table.count > 0).sum(axis=0), table.baseline.sum(axis=0)
    values = _ratio(*whole)[0]
    low, high = _band(values, _ratio(*draws), hits, confidence)
    languages = {
        int(index): _estimate(values[i], low[i], high[i], clusters[i], hits[i])
        for i, index in enumerate(table.language)
    }
    means, mean_draws = [_mean(recalls) for recalls in whole], [_mean(recalls) for recalls in draws]
    baseline, artifact, kept = (
        _estimate(value[0], *_percentiles(drawn, confidence), len(table.count), hits.sum())
        for value, drawn in zip([*means, _ratio(*means)], [*mean_draws, _ratio(*mean_draws)], strict=True)
    )
    return Retention(artifact, baseline, kept, languages, _least(tuple(languages.values())))


def bootstrap_groups(
    table: HitTable,
    group: Ints,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[int, Estimate]:
    """Retention of groups of columns: the ratio of the two mean recalls over the columns of each.

    All groups see the same draws of clusters, and their intervals are a sup-t band as those of languages
    are in `bootstrap_retention`: they hold together.

    Args:
        table: its columns are languages, or the parts of languages that fall into one group.
        group: [L] index of the group of each column.
    """
    draws = _draws(table, resamples, seed)
    whole = _recalls(np.ones((1, len(table.count)), dtype=np.float32), table)
    members = {int(index): group == index for index in np.unique(group)}
    values = np.array([_ratio(*(_mean(side[:, rows]) for side in whole))[0] for rows in members.values()])
    drawn = np.stack([_ratio(*(_mean(side[:, rows]) for side in draws)) for rows in members.values()], axis=1)
    hits = np.array([table.baseline[:, rows].sum() for rows in members.values()], dtype=np.float32)
    clusters = [int((table.count[:, rows] > 0).any(axis=1).sum()) for rows in members.values()]
    low, high = _band(values, drawn, hits, confidence)
    return {index: _estimate(values[i], low[i], high[i], clusters[i], hits[i]) for i, index in enumerate(members)}


def draw_weights(clusters: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """[R, C] how often each draw holds each cluster, read-only, in parts that fit in memory."""
    if clusters * resamples <= _WEIGHTS:
        yield _weights_of(clusters, resamples, seed)
        return
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS // clusters)
    for start in range(0, resamples, step):
        yield _drawn(clusters, min(step, resamples - start), rng)


@lru_cache(maxsize=2)  # a report asks for the same draws dozens of times
def _weights_of(clusters: int, resamples: int, seed: int) -> NDArray[np.float32]:
    return _drawn(clusters, resamples, np.random.default_rng(seed))


def _drawn(clusters: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    weights = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=draws).astype(np.float32)
    weights.flags.writeable = False
    return weights


def _draws(table: HitTable, resamples: int, seed: int) -> tuple[Doubles, Doubles]:
    """[R, L] recalls of baseline and artifact, one row per draw of clusters."""
    parts = [_recalls(weights, table) for weights in draw_weights(len(table.count), resamples, seed)]
    baseline, artifact = zip(*parts, strict=True)
    return np.concatenate(baseline), np.concatenate(artifact)


def _recalls(weights: NDArray[np.float32], table: HitTable) -> tuple[Doubles, Doubles]:
    """Recalls under [R, C] weights. Sums of integers below 2^24 are exact in float32, so equal hits stay equal."""
    count = (weights @ table.count).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (weights @ table.baseline) / count, (weights @ table.artifact) / count


def _ratio(baseline: Doubles, artifact: Doubles) -> Doubles:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(baseline > 0, artifact / baseline, np.nan)


def _mean(recalls: Doubles) -> Doubles:
    """[R] mean over the languages that the draw holds."""
    with np.errstate(invalid="ignore"):
        mean: Doubles = np.nansum(recalls, axis=1) / np.isfinite(recalls).sum(axis=1)
    return mean


def _band(values: Doubles, draws: Doubles, hits: NDArray[np.float32], confidence: float) -> tuple[Doubles, Doubles]:
    """Ends of the simultaneous intervals of [L] values; NaN for languages without a ratio."""
    width = half_widths(values, draws, confidence, hits)
    return np.maximum(values - width, 0.0), values + width


def _percentiles(draws: Doubles, confidence: float) -> tuple[float, float]:
    if not np.isfinite(draws).all():
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _least(languages: tuple[Estimate, ...]) -> Estimate:
    """The worst language; unknown as soon as one language is, but for an upper end that others already give."""
    values = [row.value for row in languages if row.value is not None]
    lows = [row.low for row in languages if row.low is not None]
    highs = [row.high for row in languages if row.high is not None]
    return Estimate(
        value=min(values, default=None),
        low=min(lows) if len(lows) == len(languages) else None,
        high=min(highs, default=None),
        n=min(row.n for row in languages),
        hits=min(row.hits for row in languages),
    )


def _estimate(value: float, low: float, high: float, n: float, hits: float) -> Estimate:
    return Estimate(_plain(value), _plain(low), _plain(high), n=int(n), hits=int(hits))


def _plain(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
