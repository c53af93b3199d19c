"""Rank overlap, calibration error and paired intervals: bounds, limits, and values worked out by hand."""

import numpy as np
import pytest

from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.figures import BINS, Bools, Doubles, calibration
from dmedge.evidence.paired import mean_draws, percentile_intervals, simultaneous_intervals
from dmedge.evidence.rank_overlap import DEPTH, PERSISTENCE, rank_biased_overlap, shared_places
from dmedge.evidence.retrieval import Ints, ranks_of_replaced, text_to_image_ranks, top_k


def rankings(rows: int, candidates: int, depth: int, seed: int = 0) -> Ints:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(candidates)[:depth] for _ in range(rows)])


def test_equal_rankings_overlap_completely_and_strangers_not_at_all() -> None:
    mine = rankings(20, 200, DEPTH)
    assert rank_biased_overlap(shared_places(mine, mine)) == pytest.approx(np.ones(20))
    assert (rank_biased_overlap(shared_places(mine, mine + 200)) == 0).all()


def test_shared_places_are_counted_as_sets_are() -> None:
    mine, theirs = rankings(30, 60, 40), rankings(30, 60, 40, seed=1)
    shared = shared_places(mine, theirs)
    np.testing.assert_array_equal(shared, shared_places(theirs, mine))
    for row in range(30):
        for depth in (1, 7, 40):
            assert shared[row, depth - 1] == len(set(mine[row, :depth]) & set(theirs[row, :depth]))


def test_the_overlap_of_three_places_by_hand() -> None:
    """Of 0 1 2 and 1 0 3 none of 1, 2 of 2 and 2 of 3 are shared; the rest goes on as the last place."""
    shared = shared_places(np.array([[0, 1, 2]]), np.array([[1, 0, 3]]))
    np.testing.assert_array_equal(shared, [[0, 2, 2]])
    p = PERSISTENCE
    by_hand = (1 - p) * (0 + p * 1 + p**2 * 2 / 3) + p**3 * 2 / 3
    assert rank_biased_overlap(shared)[0] == pytest.approx(by_hand)


def test_a_swap_at_the_top_costs_more_than_one_further_down() -> None:
    order = np.arange(DEPTH)
    overlaps = []
    for place in (0, 5, 20):
        swapped = order.copy()
        swapped[[place, place + 1]] = swapped[[place + 1, place]]
        overlaps.append(rank_biased_overlap(shared_places(order[None], swapped[None]))[0])
    assert overlaps == sorted(overlaps)
    assert overlaps[0] == pytest.approx(PERSISTENCE)  # the first place is all that differs


def test_the_best_come_first_and_equals_in_the_order_of_the_gallery(rng: np.random.Generator) -> None:
    texts, images = (rng.standard_normal((n, 8)).astype(np.float32) for n in (40, 60))
    scores = texts @ images.T
    np.testing.assert_array_equal(top_k(texts, images, 12), np.argsort(-scores, axis=1, kind="stable")[:, :12])
    same = np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(top_k(same, same, 5), np.tile(np.arange(5), (5, 1)))


def test_a_picture_replaced_by_itself_keeps_its_rank(rng: np.random.Generator) -> None:
    texts, images = (rng.standard_normal((n, 8)).astype(np.float32) for n in (30, 20))
    match = rng.integers(0, 20, 30)
    np.testing.assert_array_equal(
        ranks_of_replaced(texts, images[match], images, match), text_to_image_ranks(texts, images, match)
    )
    assert (ranks_of_replaced(texts, 100 * texts, images, match) == 1).all()
    assert (ranks_of_replaced(texts, -100 * texts, images, match) == 20).all()


def calibration_error(confidence: Doubles, is_right: Bools) -> float:
    return calibration(confidence, is_right).whole(len(is_right))["calibration_error"]


def test_who_is_always_sure_and_always_right_has_no_calibration_error() -> None:
    assert calibration_error(np.ones(50), np.ones(50, np.bool_)) == 0
    assert calibration_error(np.ones(50), np.zeros(50, np.bool_)) == 1
    assert calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == 0


def test_over_and_underconfidence_in_two_bins_do_not_cancel() -> None:
    confidence, is_right = np.array([0.55, 0.55, 0.95, 0.95]), np.array([True, True, False, False])
    assert calibration_error(confidence, is_right) == pytest.approx((0.45 + 0.95) / 2)


def test_answers_as_right_as_they_are_sure_have_an_error_of_chance_alone(rng: np.random.Generator) -> None:
    confidence = rng.uniform(0, 1, 20_000)
    assert calibration_error(confidence, rng.random(20_000) < confidence) < 3 * np.sqrt(BINS / 4 / 20_000)
    assert calibration_error(confidence, rng.random(20_000) < confidence**3) > 0.2


def test_intervals_of_means_cover_the_truth_and_clusters_are_the_unit(rng: np.random.Generator) -> None:
    misses = 0
    for seed in range(60):
        drawn = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(80), 4)
        values = (drawn.standard_normal((80, 1)) + 0.3)[cluster]  # four copies add nothing
        draws = mean_draws(cluster, values, 200, seed)
        (found,) = percentile_intervals(values.mean(0), draws)
        assert found.low <= found.value <= found.high
        misses += not found.low <= 0.3 <= found.high
    assert misses <= 8  # three expected; more than eight in one of a hundred runs


def test_intervals_that_hold_together_are_wider(rng: np.random.Generator) -> None:
    values = rng.standard_normal((200, 12))
    draws = mean_draws(np.arange(200), values, 400)
    alone, together = (make(values.mean(0), draws) for make in (percentile_intervals, simultaneous_intervals))
    assert all(a.high - a.low < b.high - b.low for a, b in zip(alone, together, strict=True))
    assert set(simultaneous_intervals(np.zeros(1), np.zeros((10, 1)))[0]) == {0.0}


def test_a_sample_of_no_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="robustness_texts 0; expected 1 or more"):
        VerifyConfig(robustness_texts=0)
