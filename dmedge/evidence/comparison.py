"""Artifact and baseline side by side, query by query: recall, retention and intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dmedge.data.languages import describe
from dmedge.evidence.accuracy import DIRECTIONS, AccuracyReport, Direction
from dmedge.evidence.bootstrap import Bools, Estimate, Retention, bootstrap_retention, hit_table
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.retrieval import KS, Ints, Score

JUDGED_K = 10


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two encoders on one evaluation set; row q of both reports is the same query.

    Raises:
        ValueError: the reports are of different sets.
    """

    artifact: AccuracyReport
    baseline: AccuracyReport
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.artifact.data is not self.baseline.data:
            raise ValueError("both reports must be of the same evaluation set")

    @cached_property
    def cluster(self) -> Ints:
        """[N] index of the emoji that each image shows."""
        return np.unique(np.array(self.artifact.data.clusters, dtype=np.str_), return_inverse=True)[1]

    @cached_property
    def judged(self) -> Mapping[Direction, Retention]:
        """Retention of recall at 10 over all texts, with language intervals: what budgets look at."""
        return {direction: self.retention(direction, JUDGED_K) for direction in DIRECTIONS}

    def retention(self, direction: Direction, k: int, tag: str | None = None) -> Retention:
        """Retention of recall at `k` on texts that carry `tag` [default: all]."""
        queries, theirs = self.artifact.queries[direction], self.baseline.queries[direction]
        rows: Bools = np.ones(len(queries.text), dtype=np.bool_)
        if tag is not None:
            rows = self.artifact.data.tags[tag][queries.text]
        table = hit_table(
            self.cluster[queries.image[rows]],
            self.artifact.language[queries.text[rows]],
            theirs.rank[rows] <= k,
            queries.rank[rows] <= k,
        )
        return bootstrap_retention(table, resamples=self.resamples, confidence=self.confidence, seed=self.seed)

    def worst_language(self) -> str:
        """Language that keeps least of its text-to-image recall at 10; ties go to the first tag."""
        rows = self.judged["text_to_image"].languages
        values = {index: row.value for index, row in rows.items() if row.value is not None}
        return self.artifact.languages[min(values or rows, key=lambda index: values.get(index, 0.0))]

    def macro_json(self, tag: str | None = None) -> dict[str, Any]:
        """Both ways: the two macro rows, and at every k the retention; at 10 the recalls with intervals."""
        return {direction: self._direction_json(direction, tag) for direction in DIRECTIONS}

    def _direction_json(self, direction: Direction, tag: str | None) -> dict[str, Any]:
        found = {k: self.retention(direction, k, tag) for k in KS if tag is not None or k != JUDGED_K}
        judged = found.setdefault(JUDGED_K, self.judged[direction])
        return {
            "artifact": self.artifact.macro(direction, tag).to_json(),
            "baseline": self.baseline.macro(direction, tag).to_json(),
            f"recall_at_{JUDGED_K}": {
                "artifact": interval_json(judged.artifact),
                "baseline": interval_json(judged.baseline),
            },
            "retention": {f"recall_at_{k}": interval_json(found[k].macro) for k in KS},
        }

    def languages_json(self) -> dict[str, Any]:
        """One row per language; `low` and `high` are simultaneous over all languages."""
        rows = {direction: self._language_rows(direction) for direction in DIRECTIONS}
        return {
            tag: describe(tag)._asdict() | row | {"image_to_text": rows["image_to_text"][tag]}
            for tag, row in rows["text_to_image"].items()
        }

    def _language_rows(self, direction: Direction) -> dict[str, dict[str, Any]]:
        mine, theirs = self.artifact.by_language(direction), self.baseline.by_language(direction)
        estimates = self.judged[direction].languages
        return {
            tag: _language_json(mine[tag], theirs[tag], estimates[self.artifact.languages.index(tag)]) for tag in mine
        }


def interval_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate by name, with the clusters and baseline hits behind it."""
    return asdict(estimate)


def _language_json(artifact: Score, baseline: Score, estimate: Estimate) -> dict[str, Any]:
    theirs = {
        f"baseline_{name}": value for name, value in baseline.to_json().items() if name.startswith(("recall", "mrr"))
    }
    kept = {"retention_at_10": estimate.value, "low": estimate.low, "high": estimate.high}
    return artifact.to_json() | theirs | kept
