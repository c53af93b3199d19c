"""Laws of the cluster bootstrap: exactness where nothing differs, coverage where something does."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dmedge.evidence.bootstrap import HitTable, Retention, bootstrap_retention, hit_table
from dmedge.evidence.verdict import judge_retention

Bools = NDArray[np.bool_]


def full_table(baseline: Bools, artifact: Bools) -> HitTable:
    """A table of [C, L] hits where every cluster is asked for in every language."""
    cluster, language = (index.ravel() for index in np.indices(baseline.shape))
    return hit_table(cluster, language, baseline.ravel(), artifact.ravel())


def simulate(
    clusters: int, languages: int, *, loss: float, gain: float, shared: float, seed: int
) -> tuple[Retention, float]:
    """Retention of simulated hits, and its true value, which is the same in every language.

    A share `shared` of the losses befalls a cluster in all languages at once, as a worse picture
    embedding does; clusters differ in how easy they are (Beta(2, 1.5), mean 4/7).
    """
    rng = np.random.default_rng(seed)
    baseline = rng.random((clusters, languages)) < rng.beta(2, 1.5, size=(clusters, 1))
    everywhere, here = loss * shared, loss * (1 - shared)
    lost = (rng.random((clusters, 1)) < everywhere) | (rng.random(baseline.shape) < here)
    artifact = np.where(baseline, ~lost, rng.random(baseline.shape) < gain)
    kept = (1 - everywhere) * (1 - here)
    truth = kept + (3 / 4) * gain  # misses per hit: (3/7) / (4/7)
    return bootstrap_retention(full_table(baseline, artifact), resamples=400, seed=seed), truth


def test_identical_hits_retain_exactly_one_without_width() -> None:
    hits = np.random.default_rng(0).random((300, 12)) < 0.6
    retention = bootstrap_retention(full_table(hits, hits), resamples=200)
    for row in (retention.macro, retention.worst, *retention.languages.values()):
        assert (row.value, row.low, row.high) == (1.0, 1.0, 1.0)


def test_same_seed_gives_the_same_interval_in_any_order_of_queries() -> None:
    rng = np.random.default_rng(0)
    cluster, language = rng.integers(0, 80, 900), rng.integers(0, 5, 900)
    baseline, artifact = rng.random(900) < 0.7, rng.random(900) < 0.65
    order = rng.permutation(900)
    first = bootstrap_retention(hit_table(cluster, language, baseline, artifact), resamples=300)
    second = bootstrap_retention(
        hit_table(cluster[order], language[order], baseline[order], artifact[order]), resamples=300
    )
    assert first == second


def test_clusters_are_the_unit_not_queries() -> None:
    """Asking for every picture in nine copies of a language adds queries, but no knowledge."""
    rng = np.random.default_rng(0)
    baseline = rng.random((400, 1)) < 0.7
    artifact = baseline & (rng.random((400, 1)) < 0.95)
    one = bootstrap_retention(full_table(baseline, artifact), resamples=500).macro
    nine = bootstrap_retention(full_table(baseline.repeat(9, 1), artifact.repeat(9, 1)), resamples=500).macro
    assert (nine.low, nine.high) == pytest.approx((one.low, one.high))


def test_macro_interval_covers_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(120):
        retention, truth = simulate(250, 6, loss=0.06, gain=0.02, shared=0.5, seed=seed)
        low, high = retention.macro.low, retention.macro.high
        assert low is not None and high is not None
        inside += low <= truth <= high
    assert inside >= 107  # 95 % of 120 is 114; at true coverage 0.95 fewer than 107 has probability 0.3 %


@pytest.mark.parametrize(
    ("loss", "gain", "shared"),
    [(0.03, 0.01, 0.5), (0.05, 0.05, 0.0), (0.004, 0.002, 0.3)],
    ids=["mixed", "own", "rare"],
)
def test_language_intervals_hold_all_together(loss: float, gain: float, shared: float) -> None:
    missed = 0
    for seed in range(60):
        retention, truth = simulate(300, 40, loss=loss, gain=gain, shared=shared, seed=seed)
        missed += any(not (row.low or 0) <= truth <= (row.high or 9) for row in retention.languages.values())
    assert missed <= 8  # 5 % of 60 is 3; at a true family-wise error of 5 % more than 8 has probability 0.2 %


def test_no_language_is_called_failed_when_none_is_below_its_floor() -> None:
    """Forty languages exactly at the floor: the worst one observed lies far below it, by luck alone."""
    failed = 0
    for seed in range(60):
        retention, truth = simulate(300, 40, loss=0.06, gain=0.0, shared=0.3, seed=seed)
        assert retention.worst.value is not None and retention.worst.value < truth
        failed += judge_retention("worst_language_retention", truth, retention.worst, languages=40).verdict == "fail"
    assert failed <= 5


def test_a_language_that_really_lost_is_found() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random((1000, 50)) < 0.7
    artifact = baseline & (rng.random((1000, 50)) < 0.99)
    artifact[:, 17] &= rng.random(1000) < 0.8
    retention = bootstrap_retention(full_table(baseline, artifact))
    assert min(retention.languages, key=lambda index: retention.languages[index].value or 0) == 17
    assert judge_retention("worst_language_retention", 0.95, retention.worst, languages=50).verdict == "fail"


def test_language_without_baseline_hits_is_unknown_not_perfect() -> None:
    hits = np.ones((50, 3), dtype=np.bool_)
    hits[:, 1] = False
    retention = bootstrap_retention(full_table(hits, hits), resamples=100)
    assert retention.languages[1].value is None
    assert retention.languages[1].low is None
    assert retention.worst.low is None
    assert retention.macro.value == 1.0


def test_languages_keep_their_index_when_some_are_absent() -> None:
    cluster, language = np.arange(60), np.where(np.arange(60) % 2, 7, 3)
    hits = np.ones(60, dtype=np.bool_)
    assert list(bootstrap_retention(hit_table(cluster, language, hits, hits), resamples=50).languages) == [3, 7]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="at least one of each"):
        hit_table(np.arange(3), np.arange(2), np.ones(3, np.bool_), np.ones(3, np.bool_))
