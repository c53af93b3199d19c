"""Laws of retrieval ranks: what cannot depend on order, and what chance, luck and collapse must score."""

import numpy as np
import pytest

from dmedge.evidence import retrieval
from dmedge.evidence.retrieval import Floats, Ints, macro, ranks_both_ways, score, text_to_image_ranks, top_k


def unit_rows(n: int, width: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def full(n: int, value: int) -> Ints:
    return np.full(n, value, dtype=np.int64)


def brute_force_rank(scores: Floats, relevant: set[int]) -> int:
    best = max(scores[i] for i in relevant)
    return 1 + sum(1 for i, value in enumerate(scores) if i not in relevant and value >= best)


def test_perfect_embeddings_rank_first_both_ways() -> None:
    images = unit_rows(50, 16, seed=0)
    match = np.random.default_rng(1).permutation(50)
    text_ranks, queries, image_ranks = ranks_both_ways(images[match], images, match)
    assert (text_ranks == 1).all()
    assert (image_ranks == 1).all()
    assert queries.tolist() == list(range(50))


def test_constant_embeddings_rank_last() -> None:
    flat = np.full((40, 16), 0.25, dtype=np.float32)  # unit norm: 16 * 0.25**2 == 1
    text_ranks, _, image_ranks = ranks_both_ways(flat, flat, np.arange(40))
    assert (text_ranks == 40).all()
    assert (image_ranks == 40).all()


def test_nan_never_wins() -> None:
    images, texts = unit_rows(30, 8, seed=0), unit_rows(30, 8, seed=0)
    texts[3] = np.nan
    text_ranks, _, image_ranks = ranks_both_ways(texts, images, np.arange(30))
    assert (text_ranks[3], image_ranks[3]) == (30, 30)
    assert (np.delete(text_ranks, 3) == 1).all()


def test_ranks_equal_brute_force_with_several_texts_per_image() -> None:
    images, texts = unit_rows(20, 6, seed=0), unit_rows(45, 6, seed=1)
    match = np.random.default_rng(2).integers(0, 17, size=45)  # images 17 to 19 have no text
    scores = texts @ images.T
    expected = [brute_force_rank(scores[t], {int(match[t])}) for t in range(45)]
    text_ranks, queries, ranks = ranks_both_ways(texts, images, match)
    assert text_ranks.tolist() == text_to_image_ranks(texts, images, match).tolist() == expected
    assert queries.tolist() == sorted(set(match.tolist()))
    assert ranks.tolist() == [brute_force_rank(scores[:, i], set(np.flatnonzero(match == i))) for i in queries]


def test_order_of_gallery_and_queries_does_not_matter() -> None:
    images, texts, match = unit_rows(200, 12, seed=0), unit_rows(300, 12, seed=1), np.arange(300) % 200
    rng = np.random.default_rng(3)
    gallery, queries = rng.permutation(200), rng.permutation(300)
    place = np.argsort(gallery)
    text_ranks, _, image_ranks = ranks_both_ways(texts, images, match)
    shuffled, rows, ranks = ranks_both_ways(texts[queries], images[gallery], place[match[queries]])
    assert (shuffled == text_ranks[queries]).all()
    assert (ranks[place[np.arange(200)]] == image_ranks).all()
    assert rows.tolist() == list(range(200))


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, match = unit_rows(61, 12, seed=0), unit_rows(97, 12, seed=1), np.arange(97) % 61
    whole = ranks_both_ways(texts, images, match)
    found = np.sort(top_k(texts, images, 7), axis=1)
    monkeypatch.setattr(retrieval, "BLOCK", 300)
    for found_ranks, expected in zip(ranks_both_ways(texts, images, match), whole, strict=True):
        assert (found_ranks == expected).all()
    assert (text_to_image_ranks(texts, images, match) == whole[0]).all()
    assert (np.sort(top_k(texts, images, 7), axis=1) == found).all()


def test_random_embeddings_score_chance() -> None:
    images, texts = unit_rows(100, 32, seed=0), unit_rows(5000, 32, seed=1)
    match = np.arange(5000) % 100
    row = score(text_to_image_ranks(texts, images, match), full(5000, 100))
    # standard error of recall@10 at chance 0.1 is sqrt(0.1 * 0.9 / 5000) = 0.0042
    assert row.recall_at_10 == pytest.approx(0.1, abs=0.02)
    assert (row.chance_at_1, row.chance_at_5, row.chance_at_10) == pytest.approx((0.01, 0.05, 0.1))
    assert row.median_rank == pytest.approx(50.5, abs=3)


def test_chance_is_certain_in_a_small_gallery() -> None:
    row = score(np.array([1, 2, 3]), full(3, 3))
    assert (row.recall_at_5, row.chance_at_5, row.chance_at_10) == (1.0, 1.0, 1.0)
    assert row.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_macro_weighs_languages_alike() -> None:
    large, small = score(full(90, 1), full(90, 100)), score(full(10, 50), full(10, 20))
    mean = macro({"de": large, "to": small})
    assert (mean.recall_at_1, mean.n, mean.gallery) == (0.5, 100, 60.0)
    assert mean.chance_at_1 == pytest.approx((0.01 + 0.05) / 2)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no queries"):
        score(full(0, 1), full(0, 1))
    with pytest.raises(ValueError, match="no languages"):
        macro({})
