"""Splits: fixed by hash, disjoint, and nothing held out reaches training."""

from collections import Counter

import pytest

from dmedge.data.emoji import load_pack
from dmedge.data.languages import base_language, count_languages
from dmedge.data.splits import (
    Split,
    Text,
    cell_split,
    count_training_texts,
    is_unseen_emoji,
    training_strings,
    training_texts,
)


@pytest.fixture(scope="module")
def texts() -> tuple[Text, ...]:
    return training_texts(load_pack())


def test_sibling_locales_always_share_a_split() -> None:
    pack = load_pack()
    siblings = [tag for tag in pack.locales if base_language(tag) != tag]
    assert len(siblings) == 4
    for tag in siblings:
        for emoji in pack.emoji:
            assert cell_split(emoji.hexcode, tag) == cell_split(emoji.hexcode, base_language(tag))


def test_shares_are_what_they_are_said_to_be() -> None:
    """Five standard errors of a binomial around the stated share."""
    pack = load_pack()
    languages = sorted({base_language(tag) for tag in pack.locales})
    cells = Counter(cell_split(emoji.hexcode, tag) for emoji in pack.emoji for tag in languages)
    n = cells.total()
    shares: dict[Split, float] = {"test": 0.10, "validation": 0.05, "train": 0.85}
    for split, share in shares.items():
        assert abs(cells[split] / n - share) < 5 * (share * (1 - share) / n) ** 0.5
    unseen = sum(is_unseen_emoji(emoji.hexcode) for emoji in pack.emoji)
    assert abs(unseen / len(pack.emoji) - 0.05) < 5 * (0.05 * 0.95 / len(pack.emoji)) ** 0.5


def test_splits_never_move() -> None:
    """Counts of the shipped splits; another count would mean that published figures no longer compare."""
    pack = load_pack()
    unseen = sum(is_unseen_emoji(emoji.hexcode) for emoji in pack.emoji)
    named = Counter(
        cell_split(emoji.hexcode, tag)
        for tag in pack.locales
        for emoji, name in zip(pack.emoji, pack.names(tag), strict=True)
        if name is not None and not is_unseen_emoji(emoji.hexcode)
    )
    assert unseen == 98
    assert named == {"train": 154_373, "validation": 8_963, "test": 18_040}


def test_training_texts_come_from_training_cells_of_seen_emoji_only(texts: tuple[Text, ...]) -> None:
    pack = load_pack()
    for emoji, locale in {(text.emoji, text.locale) for text in texts}:
        assert not is_unseen_emoji(pack.emoji[emoji].hexcode)
        assert cell_split(pack.emoji[emoji].hexcode, locale) == "train"


def test_strings_and_numbers_are_those_of_the_training_texts(texts: tuple[Text, ...]) -> None:
    assert training_strings(load_pack()) == {text.text for text in texts}
    assert count_training_texts(load_pack()) == Counter(text.locale for text in texts)


def test_training_texts_are_complete(texts: tuple[Text, ...]) -> None:
    pack = load_pack()
    in_german = {(text.emoji, text.text) for text in texts if text.locale == "de" and text.is_name}
    expected = {
        (i, name)
        for i, (emoji, name) in enumerate(zip(pack.emoji, pack.names("de"), strict=True))
        if name is not None and not is_unseen_emoji(emoji.hexcode) and cell_split(emoji.hexcode, "de") == "train"
    }
    assert in_german == expected


def test_locales_and_languages_are_counted_apart() -> None:
    assert count_languages(load_pack().locales) == "100 locales (96 languages)"
    assert count_languages(["de", "fr", "de"]) == "2 languages"
    assert count_languages(["de", "de"]) == "1 language"
    assert count_languages(["pt", "pt-BR"]) == "2 locales (1 language)"
