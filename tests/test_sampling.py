"""Orders of (record, text) pairs: what an epoch holds, and that any step can be asked for."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dmedge.errors import DataError
from dmedge.training.sampling import WINDOW, PairSampler, key, language_shares, make_sampler, shuffled

# 20 records: two English texts each, German for every other one, and a single one in Maltese.
TEXTS = [("en", "en", *(("de",) if i % 2 else ()), *(("mt",) if i == 7 else ())) for i in range(20)]
GROUPS = [(0, 3), (3, 11), (11, 12), (12, 20)]


def sampler(
    texts: Sequence[Sequence[str]] = TEXTS, balance: float = 0.0, groups: Sequence[tuple[int, int]] = (), seed: int = 0
) -> PairSampler:
    return make_sampler(texts, batch_size=8, seed=seed, balance=balance, groups=groups)


def epoch(order: PairSampler, number: int) -> NDArray[np.int64]:
    return order.epoch_rows(number, np.arange(order.pairs))


def languages(pairs: NDArray[np.int64]) -> NDArray[np.str_]:
    return np.array([language for tags in TEXTS for language in tags])[pairs]


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 65, 1000])
def test_a_shuffle_has_every_place_once(size: int) -> None:
    for number in range(5):
        order = shuffled(np.arange(size), size, key(0, number))
        assert sorted(order) == list(range(size))


def test_shuffles_put_every_item_everywhere() -> None:
    trials, size = 2000, 12
    places = shuffled(np.tile(np.arange(size), trials), size, np.repeat(key(np.arange(trials)), size))
    seen = np.bincount(np.tile(np.arange(size), trials) * size + places, minlength=size * size)
    # Five standard deviations of a share p over n draws: 5 * sqrt(p / n).
    assert np.abs(seen / trials - 1 / size).max() < 5 * (1 / size / trials) ** 0.5


def test_shuffles_of_several_sizes_are_those_of_each() -> None:
    sizes, keys = np.array([5, 90, 1]), key(np.array([3, 4, 5]))
    together = shuffled(np.array([2, 77, 0]), sizes, keys)
    alone = [shuffled(np.array([i]), int(n), k[None])[0] for i, n, k in zip((2, 77, 0), sizes, keys, strict=True)]
    assert together.tolist() == alone


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["one", "groups"])
def test_an_epoch_without_balance_shows_every_pair_once(groups: list[tuple[int, int]]) -> None:
    order = sampler(groups=groups)
    assert order.pairs == 51
    for number in range(3):
        assert sorted(epoch(order, number)) == list(range(51))


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["one", "groups"])
def test_steps_cross_epochs_and_drop_nothing(groups: list[tuple[int, int]]) -> None:
    order = sampler(groups=groups)
    rows = np.concatenate([order.rows(step) for step in range(51)])  # 51 steps of 8 are 8 epochs of 51
    assert np.array_equal(rows, np.concatenate([epoch(order, number) for number in range(8)]))
    assert (np.bincount(rows) == 8).all()


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other = sampler(), sampler(), sampler(seed=1)
    again.rows(99)
    assert np.array_equal(first.rows(3), again.rows(3))
    assert not np.array_equal(first.rows(3), other.rows(3))
    assert not np.array_equal(epoch(first, 0), epoch(first, 1))


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["one", "groups"])
def test_full_balance_shows_languages_equally_often(groups: list[tuple[int, int]]) -> None:
    order = sampler(balance=1.0, groups=groups)
    for number in range(3):
        assert np.unique_counts(languages(epoch(order, number))).counts.tolist() == [17, 17, 17]


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.7, 1.0])
def test_languages_have_their_share_of_every_epoch(balance: float) -> None:
    order = sampler(balance=balance)
    expected = np.array([40.0, 10.0, 1.0]) ** (1 - balance)  # of en, de and mt
    assert order.languages == ("en", "de", "mt")
    for number in range(2):
        shown = [(languages(epoch(order, number)) == language).sum() for language in order.languages]
        assert np.abs(shown - 51 * expected / expected.sum()).max() < 1


def test_no_pair_returns_before_all_of_its_language_were_shown() -> None:
    order = sampler(balance=1.0)
    shown = np.concatenate([epoch(order, number) for number in range(7)])
    counts = np.bincount(shown, minlength=51)
    for language in order.languages:
        of_one = counts[languages(np.arange(51)) == language]
        assert of_one.max() - of_one.min() <= 1


def test_reading_stays_within_a_window_of_groups() -> None:
    size, groups = 10, 3 * WINDOW
    order = sampler([("en",)] * size * groups, groups=[(i * size, (i + 1) * size) for i in range(groups)])
    read = epoch(order, 0) // size
    windows = [set(part.tolist()) for part in np.split(read, 3)]
    assert [len(window) for window in windows] == [WINDOW] * 3
    assert len(set(read[:WINDOW].tolist())) > WINDOW // 3  # and is mixed inside it
    assert windows[0] != set((epoch(order, 1)[: WINDOW * size] // size).tolist())


def test_a_pair_knows_its_record_and_text() -> None:
    order = sampler()
    found = [order.record(pair) for pair in range(order.pairs)]
    assert found == [(record, text) for record, tags in enumerate(TEXTS) for text in range(len(tags))]


def test_records_without_texts_are_left_out_unless_there_is_no_text() -> None:
    order = sampler([("en",), (), ("en", "de"), ()])
    assert {order.record(int(pair))[0] for pair in epoch(order, 0)} == {0, 2}
    pictures = sampler([()] * 5)
    assert sorted(pictures.record(int(pair)) for pair in epoch(pictures, 0)) == [(i, 0) for i in range(5)]


def test_an_epoch_is_over_when_as_many_texts_were_shown_as_there_are() -> None:
    captions = sampler([("en",) * 5] * 30)
    assert [captions.images_per_epoch(count) for count in (1, 2, 5, 9)] == [150, 75, 30, 30]


def test_the_chance_of_a_language_follows_the_balance() -> None:
    counts = np.array([900, 100, 0])
    np.testing.assert_allclose(language_shares(counts, 0.0), [0.9, 0.1, 0.0])
    np.testing.assert_allclose(language_shares(counts, 0.5), [0.75, 0.25, 0.0])
    np.testing.assert_allclose(language_shares(counts, 1.0), [0.5, 0.5, 0.0])


def test_no_records_and_gaps_between_groups_are_errors() -> None:
    with pytest.raises(DataError, match="holds no record; expected one or more"):
        sampler([])
    with pytest.raises(DataError, match="expected 20 records without a gap"):
        sampler(groups=[(0, 3), (4, 20)])


def test_millions_of_pairs_take_no_time() -> None:
    order = make_sampler([("en",)] * 1_000_000, batch_size=1024, seed=0, balance=1.0)
    rows = np.concatenate([order.rows(step) for step in (0, 976, 977, 10**9)])
    assert len(rows) == 4096
    assert rows.max() < 1_000_000
