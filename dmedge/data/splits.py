"""Which emoji and which texts are held out: by hash, so that no file and no seed is needed."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from dmedge.data.emoji import EmojiPack
from dmedge.data.languages import base_language

Split = Literal["train", "validation", "test"]

UNSEEN_SHARE = 0.05  # of emoji: no picture and no text of these is trained on
TEST_SHARE = 0.10  # of (emoji, language) cells
VALIDATION_SHARE = 0.05  # of (emoji, language) cells


class Text(NamedTuple):
    """One string of a cell: the name of an emoji in one locale, or one of its keywords."""

    emoji: int
    locale: str
    text: str
    is_name: bool


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


@lru_cache(maxsize=4096)
def is_unseen_emoji(hexcode: str) -> bool:
    """Whether an emoji is held out completely, for zero-shot evaluation."""
    return _fraction(f"emoji:{hexcode}") < UNSEEN_SHARE


def cell_split(hexcode: str, locale: str) -> Split:
    """Split of all strings of one emoji in one language; sibling locales (sr, sr-Latn) always agree."""
    return _language_split(hexcode, base_language(locale))


@lru_cache(maxsize=1 << 18)  # every cell of the pack
def _language_split(hexcode: str, language: str) -> Split:
    fraction = _fraction(f"cell:{hexcode}:{language}")
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


@lru_cache(maxsize=1)
def training_texts(pack: EmojiPack) -> tuple[Text, ...]:
    """Names and keywords of the training cells of seen emoji: all the text that may be trained on."""
    texts = []
    for emoji, locale, name, keywords in _training_cells(pack):
        if name is not None:
            texts.append(Text(emoji, locale, name, True))
        texts.extend(Text(emoji, locale, word, False) for word in keywords)
    return tuple(texts)


def training_strings(pack: EmojiPack) -> set[str]:
    """The distinct strings of `training_texts`, without the seconds that so many texts take to make."""
    strings: set[str] = set()
    for _, _, name, keywords in _training_cells(pack):
        if name is not None:
            strings.add(name)
        strings.update(keywords)
    return strings


def count_training_texts(pack: EmojiPack) -> Counter[str]:
    """Number of `training_texts` of each locale."""
    counts: Counter[str] = Counter()
    for _, locale, name, keywords in _training_cells(pack):
        counts[locale] += (name is not None) + len(keywords)
    return counts


def _training_cells(pack: EmojiPack) -> Iterator[tuple[int, str, str | None, Sequence[str]]]:
    """Emoji, locale, name and keywords of the training cells of seen emoji."""
    seen = [(i, emoji.hexcode) for i, emoji in enumerate(pack.emoji) if not is_unseen_emoji(emoji.hexcode)]
    for locale in pack.locales:
        names, keywords = pack.names(locale), pack.keywords(locale)
        for i, hexcode in seen:
            if cell_split(hexcode, locale) == "train":
                yield i, locale, names[i], keywords[i]
