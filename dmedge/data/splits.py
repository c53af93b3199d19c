"""Which emoji and which texts are held out: by hash, so that no file and no seed is needed."""

import hashlib
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


def is_unseen_emoji(hexcode: str) -> bool:
    """Whether an emoji is held out completely, for zero-shot evaluation."""
    return _fraction(f"emoji:{hexcode}") < UNSEEN_SHARE


def cell_split(hexcode: str, locale: str) -> Split:
    """Split of all strings of one emoji in one language; sibling locales (sr, sr-Latn) always agree."""
    fraction = _fraction(f"cell:{hexcode}:{base_language(locale)}")
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


@lru_cache(maxsize=1)
def training_texts(pack: EmojiPack) -> tuple[Text, ...]:
    """Names and keywords of the training cells of seen emoji: all the text that may be trained on."""
    texts = []
    seen = [(i, emoji.hexcode) for i, emoji in enumerate(pack.emoji) if not is_unseen_emoji(emoji.hexcode)]
    for locale in pack.locales:
        names, keywords = pack.names(locale), pack.keywords(locale)
        for i, hexcode in seen:
            if cell_split(hexcode, locale) != "train":
                continue
            name = names[i]
            if name is not None:
                texts.append(Text(i, locale, name, True))
            texts.extend(Text(i, locale, word, False) for word in keywords[i])
    return tuple(texts)
