"""Counts of the embedded data: what a person wants to know before trusting a figure measured on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmedge.data.emoji import PACK, TEST_STYLE, TRAIN_STYLES, VALIDATION_STYLE, EmojiPack
from dmedge.data.evalset import emoji_evalset
from dmedge.data.languages import base_language, language_name, script_of
from dmedge.data.splits import is_unseen_emoji, training_texts


@dataclass(frozen=True, slots=True)
class StyleFacts:
    """One art style: `role` is what it may be used for."""

    role: str
    emoji: int
    size_bytes: int
    licence: str
    package: str


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Counts of emoji and of CLDR names; "cells" are names of seen emoji in one locale."""

    seen_emoji: int
    unseen_emoji: int
    train_cells: int
    validation_cells: int
    test_cells: int
    test_cells_novel: int  # their string occurs nowhere in the training text
    unseen_emoji_names: int
    training_texts: int  # names and keywords
    training_images: int


@dataclass(frozen=True, slots=True)
class PackFacts:
    """The whole pack."""

    emoji: int
    groups: int
    subgroups: int
    styles: Mapping[str, StyleFacts]
    locales: Mapping[str, Mapping[str, Any]]  # tag -> name, script, share of the emoji that it names
    languages: int
    scripts: int
    names: int
    keywords: int
    splits: SplitFacts
    sources: tuple[Mapping[str, str], ...]
    size_bytes: int


def style_role(style: str) -> str:
    """What a style may be used for: train, validation or test."""
    if style in TRAIN_STYLES:
        return "train"
    return {VALIDATION_STYLE: "validation", TEST_STYLE: "test"}[style]


def summarise(pack: EmojiPack) -> PackFacts:
    """Count everything; takes seconds, for it reads all texts."""
    names = {locale: pack.names(locale) for locale in pack.locales}
    coverage = {locale: sum(name is not None for name in row) / len(pack.emoji) for locale, row in names.items()}
    return PackFacts(
        emoji=len(pack.emoji),
        groups=len(pack.groups),
        subgroups=len(pack.subgroups),
        styles={name: _style_facts(pack, name) for name in pack.styles},
        locales={
            tag: {"name": language_name(tag), "script": script_of(tag), "coverage": round(share, 4)}
            for tag, share in coverage.items()
        },
        languages=len({base_language(tag) for tag in pack.locales}),
        scripts=len({script_of(tag) for tag in pack.locales}),
        names=sum(name is not None for row in names.values() for name in row),
        keywords=sum(len(words) for locale in pack.locales for words in pack.keywords(locale)),
        splits=_split_facts(pack),
        sources=pack.sources,
        size_bytes=sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file()),
    )


def _style_facts(pack: EmojiPack, name: str) -> StyleFacts:
    style = pack.style_table[name]
    count, size = int(style.present.sum()), style.atlas.stat().st_size
    return StyleFacts(style_role(name), count, size, style.licence, style.package)


def _split_facts(pack: EmojiPack) -> SplitFacts:
    test = {tag: int(rows.sum()) for tag, rows in emoji_evalset(TEST_STYLE).tags.items()}
    validation = emoji_evalset(TEST_STYLE, split="held_out", part="validation")  # the test style shows every emoji
    seen = [not is_unseen_emoji(emoji.hexcode) for emoji in pack.emoji]
    return SplitFacts(
        seen_emoji=sum(seen),
        unseen_emoji=len(seen) - sum(seen),
        train_cells=test["known"],
        validation_cells=len(validation.texts),
        test_cells=test["held_out"],
        test_cells_novel=test["novel"],
        unseen_emoji_names=test["unseen_emoji"],
        training_texts=len(training_texts(pack)),
        training_images=sum(int(pack.style_table[style].present[seen].sum()) for style in TRAIN_STYLES),
    )
